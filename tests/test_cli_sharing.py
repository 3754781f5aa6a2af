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
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    interp: Command, store: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    assert sentence in refusal(interp, *arguments)


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
