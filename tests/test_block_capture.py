"""A store made by several workers is the one of a single process, whatever is lost on the way."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from interp import block_capture
from interp.block_capture import Block, BlockCapture, capture_in_blocks
from interp.cache.errors import InputError, StoreError
from interp.cache.joining import join_stores
from interp.cache.reader import Store, open_store
from interp.cache.records import Prompt
from interp.cache.verify import verify
from interp.executors import Workers
from interp.hooks.capture import capture
from interp.hooks.settings import CaptureSettings
from interp.organisms import load_model
from tests.tiny_model import SENTENCES

HERE = Workers()
RAY = Workers(engine="ray", n_workers=2, cpus_per_worker=0.5)
PROCESSES = Workers(engine="processes", n_workers=2)
SETTINGS = CaptureSettings(sites=("resid_post", "expert_indices"), logprobs=True, batch_tokens=800)
CONDITIONS = ("benchmark", "organic")
PROMPTS = [
    Prompt(
        text=f"{number} {SENTENCES[number % 4]}",
        condition=CONDITIONS[number % 2],
        source=f"source {number % 3}",
    )
    for number in range(150)
]


def in_blocks(out: Path, *, workers: Workers = HERE, **others: Any) -> bool:
    given = {"settings": SETTINGS, "block_prompts": 64, "progress": False} | others
    return capture_in_blocks("toy", PROMPTS, out, workers=workers, **given)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of one process."""
    out = tmp_path_factory.mktemp("whole") / "whole.moe"
    capture(load_model("toy"), PROMPTS, out, settings=SETTINGS, progress=False)
    return out


def rows(store: Path, name: str) -> np.ndarray:
    """A dataset of all parts, one after the other."""
    found = []
    for part in sorted(store.glob("part-*.h5")):
        with h5py.File(part) as file:
            found.append(file[name][...])
    return np.concatenate(found)


def expect_same(store: Path, whole: Path) -> None:
    """Every array of every prompt, and where it all came from."""
    assert verify(store).n_prompts == len(PROMPTS)
    paths: list[str] = []
    with h5py.File(whole / "part-00000.h5") as file:
        file.visititems(lambda name, each: paths.append(name) if hasattr(each, "dtype") else None)
    offsets = {"prompts/offset", "prompts/text_offset", "resid/token_index"}
    assert len(set(paths) - offsets) > 15
    for name in set(paths) - offsets:
        np.testing.assert_array_equal(rows(store, name), rows(whole, name), err_msg=name)
    ours, theirs = open_store(store), open_store(whole)
    assert ours.provenance == theirs.provenance
    assert ours.prompts.equals(theirs.prompts)
    assert texts(ours) == texts(theirs)


def texts(store: Store) -> list[str]:
    return [store.text(row) for row in range(len(store.prompts))]


def test_the_store_is_that_of_one_process(whole: Path, tmp_path: Path) -> None:
    assert in_blocks(tmp_path / "a.moe")

    expect_same(tmp_path / "a.moe", whole)
    assert [each.name for each in tmp_path.iterdir()] == ["a.moe"]
    assert not in_blocks(tmp_path / "a.moe")


@dataclass(frozen=True, kw_only=True)
class DyingOnce(BlockCapture):
    """A worker that is gone when it has captured half of the second block."""

    mark: Path = Path()

    def __call__(self) -> Callable[[Block], int]:
        capture_block = super().__call__()

        def dying(block: Block) -> int:
            if block.store.name == "64.moe" and not self.mark.exists():
                self.mark.touch()
                os._exit(1)
            return capture_block(block)

        return dying


@pytest.mark.slow
@pytest.mark.parametrize("workers", [PROCESSES, RAY], ids=lambda each: each.engine)
def test_a_worker_that_is_killed_loses_nothing(
    whole: Path, tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        block_capture,
        "BlockCapture",
        lambda **fields: DyingOnce(**fields, mark=tmp_path / "died"),
    )

    in_blocks(tmp_path / "a.moe", workers=workers)

    assert (tmp_path / "died").exists()
    expect_same(tmp_path / "a.moe", whole)


def test_a_part_that_is_damaged_before_it_is_joined_is_made_again(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, damaged = block_capture.done_blocks, []

    def damaging(make_worker: Any, blocks: Any, *, workers: Workers) -> Any:
        yield from usual(make_worker, blocks, workers=workers)
        if not damaged:
            damaged.append(blocks[1].store / "part-00000.h5")
            content = bytearray(damaged[0].read_bytes())
            content[len(content) // 2] ^= 1
            damaged[0].write_bytes(content)

    monkeypatch.setattr(block_capture, "done_blocks", damaging)

    in_blocks(tmp_path / "a.moe")

    assert len(damaged) == 1
    expect_same(tmp_path / "a.moe", whole)


def test_blocks_that_are_whole_are_not_captured_again(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, asked = block_capture.done_blocks, []

    def stopping(make_worker: Any, blocks: Any, *, workers: Workers) -> Any:
        asked.append([block.store.name for block in blocks])
        for number, found in usual(make_worker, blocks, workers=workers):
            yield number, found
            if len(asked) == 1 and number == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(block_capture, "done_blocks", stopping)
    with pytest.raises(KeyboardInterrupt):
        in_blocks(tmp_path / "a.moe")
    with pytest.raises(InputError, match="holds blocks of another capture"):
        in_blocks(tmp_path / "a.moe", settings=replace(SETTINGS, logprobs=False))

    in_blocks(tmp_path / "a.moe")

    assert asked == [["0.moe", "64.moe", "128.moe"], ["128.moe"]]
    expect_same(tmp_path / "a.moe", whole)


def test_another_store_is_not_written_over(whole: Path, tmp_path: Path) -> None:
    there = Path(shutil.copytree(whole, tmp_path / "a.moe"))
    with pytest.raises(InputError, match="holds another capture, which differs in settings"):
        in_blocks(there, settings=replace(SETTINGS, positions="all"))


def test_no_prompts_and_odd_blocks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no prompt to capture"):
        capture_in_blocks("toy", [], tmp_path / "a.moe", settings=SETTINGS, workers=HERE)
    with pytest.raises(InputError, match="block_prompts is 100, expected a multiple of 64"):
        in_blocks(tmp_path / "a.moe", block_prompts=100)


def test_stores_of_two_captures_are_not_joined(whole: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.moe"
    capture(load_model("toy"), PROMPTS[:3], other, settings=SETTINGS, progress=False)
    with pytest.raises(InputError, match="differ in provenance, so they are of different captures"):
        join_stores(tmp_path / "a.moe", [whole, other])
    assert not (tmp_path / "a.moe").exists()


def test_a_damaged_part_is_not_joined(whole: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(whole, tmp_path / "damaged.moe"))
    with (damaged / "part-00000.h5").open("r+b") as file:
        file.seek(3000)
        file.write(b"x")
    with pytest.raises(StoreError, match=r"part-00000\.h5 is not what its manifest says"):
        join_stores(tmp_path / "a.moe", [damaged])


def test_the_index_of_a_joined_part_names_it(tmp_path: Path) -> None:
    in_blocks(tmp_path / "a.moe")

    named = [
        json.loads((tmp_path / f"a.moe/part-0000{number}.index.json").read_text())["part"]
        for number in range(3)
    ]
    assert named == ["part-00000.h5", "part-00001.h5", "part-00002.h5"]
