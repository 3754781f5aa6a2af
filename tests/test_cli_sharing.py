"""The commands that verify, share, fetch, compare and import stores, as a person types them."""

import json
from pathlib import Path

import numpy as np
import pytest

from interp.cache.errors import StorageError
from interp.cache.reader import open_store
from tests.store_samples import RESID_LAYOUT, sample, write
from tests.test_cli import Command, interp, refusal

__all__ = ["interp"]


@pytest.fixture
def store(interp: Command) -> Path:
    """In the working directory."""
    prompts = [sample(RESID_LAYOUT, seed=seed, n_tokens=20) for seed in range(6)]
    return write(Path("a.moe"), prompts, RESID_LAYOUT)


def test_a_sound_store_is_said_to_be_sound(interp: Command, store: Path) -> None:
    said = interp("verify", store, "--json")
    found = json.loads(said.out)
    size = (store / "part-00000.h5").stat().st_size
    assert found == {
        "store": "a.moe",
        "n_parts": 1,
        "n_prompts": 6,
        "n_tokens": 120,
        "n_bytes": size,
        "result": "sound",
    }


def test_a_flipped_bit_has_its_exit_code_and_place(interp: Command, store: Path) -> None:
    part = store / "part-00000.h5"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    assert "part-00000.h5 has the SHA-256" in refusal(interp, "verify", store, code=3)


def test_a_store_goes_to_a_folder_and_comes_back(interp: Command, store: Path) -> None:
    sent = json.loads(interp("push", store, "./shared", "--json").out)
    assert (sent["tier"], sent["files_kept"]) == ("full", 0)
    assert "everything" in sent["this_tier_still_leaks"]
    assert json.loads(interp("pull", "./shared", "b.moe", "--json").out) == {"store": "b.moe"}
    assert interp("diff", store, "b.moe").out == "The stores hold the same: 6 prompts.\n"
    again = json.loads(interp("push", store, "./shared", "--json").out)
    assert again["files_sent"] < sent["files_sent"]


def test_without_text_there_is_no_text_in_what_is_shared(interp: Command, store: Path) -> None:
    assert interp("push", store, "./shared", "--tier", "no_text").code == 0
    shared = open_store("shared")
    assert shared.text(0) == ""
    assert not shared.token_id.any()
    assert shared.manifest["tier"] == "no_text"
    found = json.loads(interp("diff", store, "shared", "--json").out)
    assert found["is_same"] is False


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("push", "a.moe", "./b", "--tier", "most"), "tier"),
        (("push", "a.moe", "ftp://b/c"), "ftp"),
        (("push", "a.moe", "./b", "--minimum-count", "1"), "minimum_count is 1, expected 2"),
        (("push", "none.moe", "./b"), "none.moe does not exist"),
        (("pull", "./none", "b.moe"), "none"),
        (("diff", "a.moe", "none.moe"), "none.moe does not exist"),
        (("verify", "none.moe"), "none.moe does not exist"),
        (("verify", "https://127.0.0.1:1/x"), "https://127.0.0.1:1/x lies elsewhere"),
        (("verify", "https://127.0.0.1:1/x"), "pull it first with interp pull"),
        (("diff", "a.moe", "gs://127.0.0.1/x"), "'gs://127.0.0.1/x' is no address of a store"),
        (("push", "a.moe", "https://127.0.0.1/x"), "can only be pulled from"),
        (("push", "a.moe", "./b", "--source-license", "mit"), "expected SOURCE=LICENCE"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    interp: Command, store: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    assert sentence in refusal(interp, *arguments)


def test_counts_of_usage_are_verified_shown_and_compared(interp: Command, store: Path) -> None:
    assert interp("push", store, "./agg", "--tier", "aggregate").code == 0
    found = json.loads(interp("verify", "agg", "--json").out)
    size = Path("agg/usage.csv").stat().st_size
    assert found == {
        "store": "agg",
        "n_parts": 0,
        "n_prompts": 6,
        "n_bytes": size,
        "result": "sound",
    }
    shown = json.loads(interp("info", "agg", "--json").out)
    assert (shown["tier"], shown["prompts"], shown["smallest_count"]) == ("aggregate", 6, 5)
    assert sum(shown["prompts_by_condition_and_source"].values()) == 6
    assert (shown["model"], shown["n_experts"]) == ("toy", 8)
    assert interp("diff", "agg", "agg").out == "The stores hold the same: 6 prompts.\n"
    assert "tier: full | aggregate" in interp("diff", store, "agg").out
    with Path("agg/usage.csv").open("a") as file:
        file.write("prompt-000000,item-000000,organic,,3,0,9\n")
    assert "usage.csv is not what the manifest says" in refusal(interp, "verify", "agg", code=3)


def test_a_part_is_verified_by_itself(interp: Command, store: Path) -> None:
    part = store / "part-00000.h5"
    assert json.loads(interp("verify", part, "--json").out)["n_tokens"] == 120
    Path("alone").mkdir()
    (Path("alone") / part.name).write_bytes(part.read_bytes())
    assert json.loads(interp("verify", Path("alone") / part.name, "--json").out)["n_prompts"] == 6
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    assert "part-00000.h5 has the SHA-256" in refusal(interp, "verify", part, code=3)


def test_another_capture_is_replaced_only_when_told(interp: Command, store: Path) -> None:
    assert interp("push", store, "./shared").code == 0
    write(Path("b.moe"), [sample()], provenance={"model": "another"})
    assert "model is toy there and another here" in refusal(interp, "push", "b.moe", "./shared")
    sent = json.loads(interp("push", "b.moe", "./shared", "--replace", "--json").out)
    assert sent["replaced_another_capture"].startswith("provenance.model is toy there and another")
    assert open_store("shared").provenance["model"] == "another"
    assert "replaced_another_capture" not in interp("push", "b.moe", "./shared", "--json").out


def test_licences_of_sources_stand_on_the_card(interp: Command, store: Path) -> None:
    given = ("--source-license", "source 0=MIT", "a=b=CC0", "--scratch", ".")
    assert interp("push", store, "./shared", *given).code == 0
    assert "| source 0 | 1 | 20 | MIT |" in Path("shared/README.md").read_text(encoding="utf-8")


def test_a_full_disk_has_its_own_exit_code(
    interp: Command, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("b.moe needs 9 bytes and there is no space for it")

    monkeypatch.setattr("interp.cache.sharing.pull", full)
    assert "no space" in refusal(interp, "pull", "./shared", "b.moe", code=5)


def test_an_archive_is_imported(interp: Command) -> None:
    indices = np.array([[[0, 1]], [[1, 2]], [[2, 0]], [[3, 1]]])
    np.savez("trace.npz", token_id=np.arange(4), expert_indices=indices)
    made = ("--out", "t.moe", "--model", "mine", "--n-experts", "4", "--condition", "organic")
    said = interp("import", "npz", "trace.npz", *made, "--json")
    assert json.loads(said.out) == {"store": "t.moe", "prompts": 1, "tokens": 4}
    assert open_store("t.moe").router().expert_indices.tolist() == indices.tolist()
    assert "cannot be read" in refusal(interp, "import", "vllm", "none.jsonl", *made)
