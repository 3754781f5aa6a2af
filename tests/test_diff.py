"""In what stores differ: whatever is changed in one of them is seen, and nothing else is."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.cache.diff import StoreDiff, diff
from interp.cache.errors import InputError, StoreError
from interp.cache.reader import open_store
from interp.cache.records import Layout, PromptActivations
from interp.cache.tiers import write_no_text
from interp.cache.usage_table import write_usage
from tests.faulty_server import faulty_server
from tests.store_samples import LAYOUT, RESID_LAYOUT, sample, write

RICH = replace(RESID_LAYOUT, router_logits=True, expert_output_norms=True)
TOLD = {
    "labels": "labels",
    "texts": "texts",
    "tokens": "tokens",
    "token_facts": "segments, who wrote a token, log-probabilities, ends in the text",
    "routing": "routing",
    "router_logits": "router logits",
    "expert_output_norms": "norms of expert outputs",
    "residuals": "residuals",
}


def store(path: Path, *, seeds: Sequence[int] = range(4), **options: Any) -> Path:
    return write(path, [sample(RICH, seed=n, n_tokens=9) for n in seeds], RICH, **options)


def of_one_changed(tmp_path: Path, **changed: Any) -> StoreDiff:
    """The diff of a store and one in which these fields of prompt 2 are others."""
    prompts = [sample(RICH, seed=n, n_tokens=9) for n in range(4)]
    others = [*prompts[:2], replace(prompts[2], **changed), prompts[3]]
    return diff(write(tmp_path / "a.moe", prompts, RICH), write(tmp_path / "b.moe", others, RICH))


def usage_store(
    path: Path, *, seeds: Sequence[int] = range(6), minimum_count: int = 2, **options: Any
) -> Path:
    prompts = [sample(LAYOUT, seed=n, n_tokens=60) for n in seeds]
    full = write(path.with_suffix(".moe"), prompts, **options)
    return write_usage(open_store(full), path, minimum_count=minimum_count)


def test_store_and_another_capture_of_it_are_the_same(tmp_path: Path) -> None:
    found = diff(store(tmp_path / "a.moe"), store(tmp_path / "b.moe"))
    assert found.is_same
    assert list(found.lines()) == ["The stores hold the same: 4 prompts."]


def test_other_division_into_parts_is_no_difference_of_prompts(tmp_path: Path) -> None:
    found = diff(store(tmp_path / "a.moe"), store(tmp_path / "b.moe", part_mb=0.001))
    assert found.is_same
    assert (found.parts_shared, len(found.parts_only_in_a), len(found.parts_only_in_b)) == (0, 1, 4)
    assert vars(found.differing) == dict.fromkeys(TOLD, 0)


@pytest.mark.slow
def test_every_field_that_can_be_recorded_is_compared(tmp_path: Path) -> None:
    """One field of one prompt is another; exactly one prompt differs, in exactly that."""
    ours = sample(RICH, seed=2, n_tokens=9)
    weights, logits = np.array(ours.expert_weights), np.array(ours.router_logits)
    norms, logprob = np.array(ours.expert_output_norms), np.array(ours.logprob)
    weights[7, 1] = weights[7, 1].mean()
    logits[3, 0, 5] += 1
    norms[0, 1, 1] += 1
    logprob[4] -= 1
    resid = {key: np.array(values) for key, values in ours.resid.items()}
    resid["resid_mid", 12][3, 1] = 0.25
    ends = np.array(ours.text_end)
    ends[0] -= 2
    changes: list[tuple[str, dict[str, Any]]] = [
        *(
            ("labels", {"prompt": {**ours.prompt, name: "mixed"}})
            for name in ("condition", "source", "domain", "item_id", "variant", "template")
        ),
        ("texts", {"text": "à" * 9}),
        ("tokens", {"token_id": np.asarray(ours.token_id) + 1}),
        ("token_facts", {"segment": (np.asarray(ours.segment) + 1) % 9}),
        ("token_facts", {"generated": ~np.asarray(ours.generated)}),
        ("token_facts", {"logprob": logprob}),
        ("token_facts", {"text_end": ends}),
        ("routing", {"expert_weights": weights}),
        ("router_logits", {"router_logits": logits}),
        ("expert_output_norms", {"expert_output_norms": norms}),
        ("residuals", {"resid": resid}),
    ]
    for number, (kind, change) in enumerate(changes):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = of_one_changed(folder, **change)
        assert not found.is_same, change
        assert vars(found.differing) == dict.fromkeys(TOLD, 0) | {kind: 1}, change
        assert f"{TOLD[kind]}: 1 prompts differ" in list(found.lines())


def test_other_positions_are_other_tokens(tmp_path: Path) -> None:
    found = of_one_changed(tmp_path, position=np.arange(1, 10))
    assert (found.differing.tokens, found.differing.token_facts) == (1, 1)


def test_other_self_check_is_a_difference(tmp_path: Path) -> None:
    ours = store(tmp_path / "a.moe", self_check={"layers": [3, 7], "error": 1})
    found = diff(ours, store(tmp_path / "b.moe", self_check={"layers": [3, 7], "error": True}))
    assert [(each.name, each.a, each.b) for each in found.self_check] == [
        ("self_check.error", 1, True)
    ]
    assert "self_check self_check.error: 1 | True" in list(found.lines())


def test_layers_of_residuals_are_compared(tmp_path: Path) -> None:
    prompts = [sample(RICH, seed=n, n_tokens=9) for n in range(2)]
    fewer = [
        replace(each, resid={key: v for key, v in each.resid.items() if key[1] == 3})
        for each in prompts
    ]
    found = diff(write(tmp_path / "a.moe", prompts, RICH), write(tmp_path / "b.moe", fewer, RICH))
    assert not found.is_same
    assert [each.name for each in found.layout] == [
        "resid_layers.resid_mid",
        "resid_layers.resid_post",
    ]
    assert found.differing.residuals == 0


def test_order_of_the_prompts_is_compared(tmp_path: Path) -> None:
    found = diff(store(tmp_path / "a.moe"), store(tmp_path / "b.moe", seeds=(0, 2, 1, 3)))
    assert not found.is_same
    assert vars(found.differing) == dict.fromkeys(TOLD, 0)
    assert "prompts: those in both stand in another order" in list(found.lines())


def test_settings_and_provenance_are_named(tmp_path: Path) -> None:
    ours = {"settings": {"sites": ["resid_mid"], "today": "2025-08-05"}, "model": "toy"}
    other = {"settings": {"sites": ["resid_mid"], "today": "2025-08-06"}, "model": "toy2"}
    found = diff(
        store(tmp_path / "a.moe", provenance=ours),
        store(tmp_path / "b.moe", seeds=(0, 1, 2), provenance=other),
    )
    assert [(each.name, each.a, each.b) for each in found.settings] == [
        ("today", "2025-08-05", "2025-08-06")
    ]
    assert [each.name for each in found.provenance] == ["model"]
    assert (found.prompts_only_in_a, found.prompts_only_in_b) == (("prompt_id 3",), ())
    assert "settings today: 2025-08-05 | 2025-08-06" in list(found.lines())


def test_settings_that_are_no_object_are_compared_too(tmp_path: Path) -> None:
    ours = store(tmp_path / "a.moe", provenance={"settings": "these"})
    found = diff(ours, store(tmp_path / "b.moe", provenance={"settings": "those"}))
    assert [(each.name, each.a, each.b) for each in found.provenance] == [
        ("settings", "these", "those")
    ]


def vocab_store(path: Path, ids: Sequence[int], vocab: Sequence[str]) -> Path:
    layout: Layout = replace(LAYOUT, vocab_local=True)
    one: PromptActivations = sample(layout, n_tokens=3, token_id=np.array(ids), text="abc")
    return write(path, [one], layout, vocab=vocab)


def test_local_ids_are_compared_by_their_texts(tmp_path: Path) -> None:
    ours = vocab_store(tmp_path / "a.moe", [0, 1, 2], ["a", "b", "c"])
    same_words = diff(ours, vocab_store(tmp_path / "b.moe", [2, 1, 0], ["c", "b", "a"]))
    other_words = diff(ours, vocab_store(tmp_path / "c.moe", [0, 1, 2], ["a", "b", "d"]))
    assert (same_words.differing.tokens, other_words.differing.tokens) == (0, 1)
    assert same_words.vocabulary_differs
    assert not same_words.is_same
    assert "vocabulary: ids have other texts" in list(other_words.lines())


@pytest.mark.slow
def test_store_on_a_web_server_is_compared(tmp_path: Path) -> None:
    ours = store(tmp_path / "a.moe")
    other = store(tmp_path / "b.moe", seeds=(0, 1, 2, 5), part_mb=0.001)
    served = {f"/run/{each.name}": each.read_bytes() for each in other.iterdir()}
    with faulty_server(served) as server:
        found = diff(ours, f"{server.url}/run")
    assert (found.prompts_only_in_a, found.prompts_only_in_b) == (
        ("prompt_id 3",),
        ("prompt_id 5",),
    )
    assert vars(found.differing) == dict.fromkeys(TOLD, 0)


# --- without text


def without_text(path: Path, seeds: Sequence[int]) -> Path:
    full = store(path.with_suffix(".full"), seeds=seeds)
    return write_no_text(open_store(full), path)


def test_prompts_without_text_are_not_matched_by_their_numbers(tmp_path: Path) -> None:
    ours = without_text(tmp_path / "a.moe", range(5))
    found = diff(ours, without_text(tmp_path / "b.moe", range(5, 10)))
    assert (found.prompts_shared, len(found.prompts_only_in_a)) == (0, 5)
    assert found.prompts_only_in_b == tuple(f"prompt-{n:06d}" for n in range(5))
    assert not found.is_same


def test_prompts_without_text_are_matched_by_their_routing(tmp_path: Path) -> None:
    ours = without_text(tmp_path / "a.moe", (0, 1, 2, 3))
    found = diff(ours, without_text(tmp_path / "b.moe", (9, 3, 2, 1)))
    assert (found.prompts_shared, found.prompts_order_differs) == (3, True)
    assert (found.prompts_only_in_a, found.prompts_only_in_b) == (
        ("prompt-000000",),
        ("prompt-000000",),
    )
    assert (found.differing.tokens, found.differing.routing) == (None, None)
    assert (found.differing.token_facts, found.differing.router_logits) == (0, 0)
    assert "prompts are matched by equal routing: their ids are numbers" in list(found.lines())


def test_copy_without_text_has_the_routing_of_its_store(tmp_path: Path) -> None:
    copy = without_text(tmp_path / "a.moe", range(3))
    found = diff(tmp_path / "a.full", copy)
    assert found.tiers == ("full", "no_text")
    assert (found.prompts_shared, found.prompts_only_in_a) == (3, ())
    assert vars(found.differing) == dict.fromkeys(TOLD) | {
        "token_facts": 0,
        "router_logits": 0,
        "expert_output_norms": 0,
    }
    assert not found.is_same


def test_prompts_without_text_and_common_layer_cannot_be_matched(tmp_path: Path) -> None:
    layouts = LAYOUT, replace(LAYOUT, layer_indices=(4, 8))
    stores = [
        write_no_text(
            open_store(write(tmp_path / f"{n}.full", [sample(layout)], layout)),
            tmp_path / f"{n}.moe",
        )
        for n, layout in enumerate(layouts)
    ]
    found = diff(*stores)
    assert found.prompts_matched_by == "nothing"
    assert "prompts: 1 | 1, which cannot be matched" in "\n".join(found.lines())


# --- tables of usage


def test_table_of_usage_and_its_copy_are_the_same(tmp_path: Path) -> None:
    found = diff(usage_store(tmp_path / "a"), usage_store(tmp_path / "b"))
    assert found.is_same
    assert list(found.lines()) == ["The stores hold the same: 6 prompts."]


def test_tables_of_usage_are_matched_by_their_counts(tmp_path: Path) -> None:
    found = diff(usage_store(tmp_path / "a"), usage_store(tmp_path / "b", seeds=(3, 4, 5, 6, 7)))
    assert found.prompts_matched_by == "counts"
    assert found.prompts_only_in_a == ("prompt-000000", "prompt-000001", "prompt-000002")
    assert found.prompts_only_in_b == ("prompt-000003", "prompt-000004")
    assert not found.is_same


def test_other_minimum_count_of_a_table_is_named(tmp_path: Path) -> None:
    found = diff(usage_store(tmp_path / "a"), usage_store(tmp_path / "b", minimum_count=3))
    assert [(each.name, each.a, each.b) for each in found.layout] == [("minimum_count", 2, 3)]
    assert not found.is_same


def test_table_of_usage_and_its_store_share_no_prompts(tmp_path: Path) -> None:
    found = diff(usage_store(tmp_path / "a"), tmp_path / "a.moe")
    assert (found.tiers, found.n_prompts) == (("aggregate", "full"), (6, 6))
    assert found.prompts_matched_by == "nothing"
    assert not found.is_same


def test_damaged_table_of_usage_is_refused(tmp_path: Path) -> None:
    ours = usage_store(tmp_path / "a")
    document = json.loads((ours / "manifest.json").read_text(encoding="utf-8"))
    (ours / "manifest.json").write_text(json.dumps({**document, "n_prompts": 7}))
    with pytest.raises(StoreError, match="contradicts itself"):
        diff(ours, ours)
    (ours / "manifest.json").write_text(json.dumps({**document, "layout": {}}))
    with pytest.raises(StoreError, match="lacks what it must say"):
        diff(ours, ours)


def test_missing_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.moe does not exist"):
        diff(tmp_path / "none.moe", tmp_path / "none.moe")
