"""Tiers of sharing: nothing of the text is left, and what is left is what was recorded."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from interp.cache.errors import InputError, StoreError
from interp.cache.reader import open_store
from interp.cache.records import PROMPT_FIELDS, Layout
from interp.cache.share_files import TIERS
from interp.cache.sharing import pull, push
from interp.cache.tiers import LEAKS
from interp.cache.traces import NO_WEIGHTS_CAVEAT
from interp.cache.usage_table import read_usage
from tests.store_samples import LAYOUT, RESID_LAYOUT, expect_valid, sample, write

WORD = "SESAME"
EVERYTHING = replace(
    RESID_LAYOUT, router_logits=True, expert_output_norms=True, resid_dtype="bfloat16"
)
FACTS = {
    "model": "/home/somebody/checkpoints/toy-moe",
    "revision": "r1",
    "prompts_sha256": f"digest {WORD}",
    "files": [{"name": f"{WORD}.json.gz", "row_index": 12}],
    "self_check": {"text": WORD},
    "chat_template": WORD,
    "license": "MIT",
    "config": {"_name_or_path": f"/{WORD}", "d_model": 4, "inner": {"file": f"/{WORD}/x"}},
    "settings": {"sites": ["expert_indices"], "prompts_file": WORD},
    "caveats": [f"The prompt {WORD} was cut.", NO_WEIGHTS_CAVEAT],
    "source_licenses": {"common": "CC0-1.0"} | {f"{WORD} source {n}": "MIT" for n in range(11)},
}


def secretive(path: Path, *, layout: Layout = EVERYTHING, n_prompts: int = 11) -> Path:
    """A store whose every text and label of a single prompt holds one word."""
    prompts = []
    for seed in range(n_prompts):
        fields = {
            "prompt_id": f"{WORD} {seed}",
            "condition": "organic",
            "source": "common" if seed < 6 else f"{WORD} source {seed}",
            "domain": f"{WORD} {seed}",
            "item_id": f"{WORD} item {seed // 2}",
            "variant": "plain",
            "template": "",
        }
        assert set(fields) == set(PROMPT_FIELDS)
        text = f"{WORD} {seed} " * 20
        prompts.append(sample(layout, seed=seed, n_tokens=40, text=text, prompt=fields))
    return write(path, prompts, layout, provenance=FACTS, part_mb=512.0)


def everything_in(folder: Path) -> bytes:
    """All bytes of all files, and all that the parts hold once unpacked."""
    content = b"".join(each.read_bytes() for each in folder.rglob("*") if each.is_file())
    for part in folder.glob("part-*.h5"):
        with h5py.File(part) as file:
            for value in file.attrs.values():
                content += np.asarray(value).tobytes()
            datasets: list[h5py.Dataset] = []
            file.visititems(lambda _, item, found=datasets: found.append(item))
            content += b"".join(
                each[()].tobytes() for each in datasets if isinstance(each, h5py.Dataset)
            )
    return content


def test_full_store_holds_the_secret_that_the_search_looks_for(tmp_path: Path) -> None:
    ours = secretive(tmp_path / "a.moe")
    assert everything_in(ours).count(WORD.encode()) > 11 * 20


@pytest.mark.parametrize("tier", ["no_text", "aggregate"])
def test_nothing_of_the_text_is_left(tmp_path: Path, tier: str) -> None:
    push(secretive(tmp_path / "a.moe"), str(tmp_path / "shelf"), tier=tier)
    content = everything_in(tmp_path / "shelf")
    assert len(content) > 1000
    assert WORD.encode() not in content
    assert b"somebody" not in content
    assert b"toy-moe" in content


@pytest.mark.parametrize("tier", ["no_text", "aggregate"])
def test_provenance_keeps_what_names_no_prompt_and_no_folder(tmp_path: Path, tier: str) -> None:
    push(secretive(tmp_path / "a.moe"), str(tmp_path / "shelf"), tier=tier)
    manifest = json.loads((tmp_path / "shelf" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["provenance"] == {
        "model": "toy-moe",
        "revision": "r1",
        "license": "MIT",
        "config": {"d_model": 4, "inner": {}},
        "settings": {"sites": ["expert_indices"]},
        "caveats": [NO_WEIGHTS_CAVEAT],
        "source_licenses": {"common": "CC0-1.0"},
    }


@pytest.mark.parametrize("tier", ["no_text", "aggregate"])
def test_card_shows_no_small_cell_of_prompts(tmp_path: Path, tier: str) -> None:
    push(secretive(tmp_path / "a.moe"), str(tmp_path / "shelf"), tier=tier)
    card = (tmp_path / "shelf" / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in card.splitlines() if line.startswith("| organic |")]
    found = [(row[2].strip(), int(row[3]), row[-2].strip()) for row in rows]
    assert found == [("-", 5, "not stated"), ("common", 6, "CC0-1.0")]


@pytest.mark.parametrize("tier", TIERS)
def test_card_of_a_folder_has_an_example_that_runs_within_it(
    tmp_path: Path, tier: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    push(secretive(tmp_path / "a.moe"), str(tmp_path / "shelf"), tier=tier)
    card = (tmp_path / "shelf" / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path / "shelf")
    exec(card.partition("```python\n")[2].partition("```")[0], {})  # noqa: S102
    assert "organic" in capsys.readouterr().out
    described = json.loads((tmp_path / "shelf" / "croissant.json").read_text(encoding="utf-8"))
    assert "url" not in described


def test_no_text_keeps_the_routing_and_drops_what_names_tokens(tmp_path: Path) -> None:
    ours = open_store(secretive(tmp_path / "a.moe"))
    pushed = push(ours.path, str(tmp_path / "shelf"), tier="no_text")
    theirs = open_store(tmp_path / "shelf", trusted=True)
    for name in ("expert_indices", "expert_weights", "router_logits", "expert_output_norms"):
        kept, recorded = getattr(theirs.router(), name), getattr(ours.router(), name)
        np.testing.assert_array_equal(kept, recorded)
    for name in ("position", "segment", "generated"):
        np.testing.assert_array_equal(getattr(theirs, name), getattr(ours, name))
    assert not theirs.token_id.any()
    assert np.isnan(theirs.logprob).all()
    assert theirs.layout.resid_sites == ()
    assert [theirs.text(number) for number in range(11)] == [""] * 11
    with pytest.raises(StoreError, match="does not say where tokens end"):
        theirs.token_texts(0)
    assert pushed.tier == theirs.manifest["tier"] == "no_text"


def test_no_text_numbers_prompts_and_keeps_labels_that_many_share(tmp_path: Path) -> None:
    push(secretive(tmp_path / "a.moe"), str(tmp_path / "shelf"), tier="no_text")
    prompts = open_store(tmp_path / "shelf", trusted=True).prompts
    assert list(prompts["prompt_id"]) == [f"prompt-{number:06d}" for number in range(11)]
    assert list(prompts["item_id"]) == [f"item-{number // 2:06d}" for number in range(11)]
    assert list(prompts["source"]) == ["common"] * 6 + [""] * 5
    assert list(prompts["variant"]) == ["plain"] * 11
    assert list(prompts["domain"]) == [""] * 11


def test_no_text_drops_a_vocabulary(tmp_path: Path) -> None:
    local = replace(LAYOUT, vocab_local=True)
    prompts = [sample(local, seed=seed, token_id=np.arange(5)) for seed in range(3)]
    ours = write(tmp_path / "a.moe", prompts, local, vocab=[f"{WORD}{n}" for n in range(5)])
    push(ours, str(tmp_path / "shelf"), tier="no_text")
    assert WORD.encode() not in everything_in(tmp_path / "shelf")
    assert not open_store(tmp_path / "shelf", trusted=True).layout.vocab_local


def test_no_text_copy_passes_the_independent_check(tmp_path: Path) -> None:
    push(secretive(tmp_path / "a.moe"), str(tmp_path / "shelf"), tier="no_text")
    expect_valid(tmp_path / "shelf")


@pytest.mark.parametrize("tier", ["no_text", "aggregate"])
def test_second_push_of_a_copy_moves_nothing(tmp_path: Path, tier: str) -> None:
    ours = secretive(tmp_path / "a.moe")
    push(ours, str(tmp_path / "shelf"), tier=tier)
    again = push(ours, str(tmp_path / "shelf"), tier=tier)
    assert (again.moved, again.bytes_moved) == ((), 0)


def test_counts_are_those_of_a_loop_over_tokens(tmp_path: Path) -> None:
    ours = open_store(secretive(tmp_path / "a.moe", layout=LAYOUT))
    push(ours.path, str(tmp_path / "shelf"), tier="aggregate")
    table = read_usage(pull(str(tmp_path / "shelf"), tmp_path / "b.moe"))
    indices, owners = ours.router().expert_indices, ours.prompt_index
    counted: Counter[tuple[str, int, int]] = Counter()
    for token, owner in enumerate(owners):
        for column, layer in enumerate((3, 7)):
            for expert in indices[token, column]:
                counted[f"prompt-{owner:06d}", layer, int(expert)] += 1
    shown = {
        (row["prompt"], row["layer"], row["expert"]): row["count"] for _, row in table.iterrows()
    }
    assert all(counted[key] == count for key, count in shown.items())
    hidden = set(counted) - set(shown)
    small = {key for key, count in counted.items() if count < 5}
    assert small <= hidden


def test_short_prompts_give_an_empty_table(tmp_path: Path) -> None:
    ours = write(tmp_path / "a.moe", [sample(seed=1, n_tokens=2)])
    push(ours, str(tmp_path / "shelf"), tier="aggregate", minimum_count=100)
    table = read_usage(tmp_path / "shelf")
    assert isinstance(table, pd.DataFrame)
    assert (len(table), list(table.columns)[-1]) == (0, "count")


def test_damaged_table_is_refused(tmp_path: Path) -> None:
    push(secretive(tmp_path / "a.moe"), str(tmp_path / "shelf"), tier="aggregate")
    with (tmp_path / "shelf" / "usage.csv").open("a") as file:
        file.write("x")
    with pytest.raises(StoreError, match=r"usage\.csv is not what the manifest says"):
        read_usage(tmp_path / "shelf")
    with pytest.raises(StoreError, match="is no table of usage"):
        read_usage(secretive(tmp_path / "b.moe"))


@pytest.mark.parametrize("tier", TIERS)
def test_push_and_card_say_what_the_tier_leaks(tmp_path: Path, tier: str) -> None:
    pushed = push(secretive(tmp_path / "a.moe"), str(tmp_path / "shelf"), tier=tier)
    card = (tmp_path / "shelf" / "README.md").read_text(encoding="utf-8")
    assert pushed.leaks == LEAKS[tier]
    assert pushed.leaks in card
    assert f"tier-{tier}" in card
    assert pushed.leaks.count(". ") == 0
    described = json.loads((tmp_path / "shelf" / "croissant.json").read_text(encoding="utf-8"))
    assert LEAKS[tier] in described["description"]


def test_tier_cannot_give_back_what_was_left_out(tmp_path: Path) -> None:
    ours = secretive(tmp_path / "a.moe")
    push(ours, str(tmp_path / "shelf"), tier="no_text")
    with pytest.raises(InputError, match="has the tier no_text and cannot be shared as full"):
        push(tmp_path / "shelf", str(tmp_path / "other"), tier="full")
    further = push(tmp_path / "shelf", str(tmp_path / "third"), tier="aggregate")
    direct = push(ours, str(tmp_path / "fourth"), tier="aggregate")
    assert further.tier == direct.tier == "aggregate"
    tables = [(tmp_path / name / "usage.csv").read_bytes() for name in ("third", "fourth")]
    assert tables[0] == tables[1]


def test_copy_of_a_copy_is_as_it_was(tmp_path: Path) -> None:
    push(secretive(tmp_path / "a.moe"), str(tmp_path / "shelf"), tier="aggregate")
    again = push(tmp_path / "shelf", str(tmp_path / "other"))
    assert again.tier == "aggregate"
    pd.testing.assert_frame_equal(read_usage(tmp_path / "shelf"), read_usage(tmp_path / "other"))


def test_unknown_tier_and_count_are_refused(tmp_path: Path) -> None:
    ours = secretive(tmp_path / "a.moe")
    with pytest.raises(InputError, match="tier is 'half', expected one of full, no_text, aggreg"):
        push(ours, str(tmp_path / "shelf"), tier="half")
    with pytest.raises(InputError, match="minimum_count is 1, expected 2 or more"):
        push(ours, str(tmp_path / "shelf"), tier="aggregate", minimum_count=1)
    assert not (tmp_path / "shelf").exists()
