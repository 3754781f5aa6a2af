"""What is written in a thread is what is written in the open, and its errors come back."""

import threading
from pathlib import Path

import pytest

from interp.cache.background import Adds, BackgroundWriter
from interp.cache.errors import StorageError
from interp.cache.records import PromptActivations
from interp.cache.writer import StoreWriter
from tests.store_samples import PROVENANCE, RESID_LAYOUT, sample


def prompts(n: int = 12) -> list[PromptActivations]:
    return [sample(RESID_LAYOUT, seed=seed, n_tokens=40 + seed) for seed in range(n)]


def opened(path: Path) -> StoreWriter:
    return StoreWriter(path, layout=RESID_LAYOUT, provenance=PROVENANCE, part_mb=0.03)


def parts(path: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in path.glob("part-*")}


@pytest.mark.parametrize("most_bytes", [1, 10_000, 2**28])
def test_the_store_is_the_same(tmp_path: Path, most_bytes: int) -> None:
    with opened(tmp_path / "a.moe") as writer:
        for each in prompts():
            writer.add(each)
    with (
        opened(tmp_path / "b.moe") as writer,
        BackgroundWriter(writer, most_bytes=most_bytes) as background,
    ):
        for each in prompts():
            background.add(each)

    assert len(parts(tmp_path / "a.moe")) > 4
    assert parts(tmp_path / "b.moe") == parts(tmp_path / "a.moe")


class Slow:
    """A writer that waits until it is let go."""

    def __init__(self) -> None:
        self.go, self.added = threading.Event(), 0

    def add(self, activations: PromptActivations) -> None:
        self.go.wait()
        self.added += 1


def test_whoever_adds_waits_only_when_much_is_waiting() -> None:
    slow, few = Slow(), prompts(3)
    with BackgroundWriter(slow, most_bytes=2**28) as background:
        for each in few:
            background.add(each)
        assert slow.added == 0
        slow.go.set()
    assert slow.added == 3


def test_no_more_waits_than_was_allowed() -> None:
    slow = Slow()
    with BackgroundWriter(slow, most_bytes=1) as background:
        background.add(prompts(1)[0])
        timer = threading.Timer(0.2, slow.go.set)
        timer.start()
        background.add(prompts(1)[0])
        assert slow.added >= 1
        assert background.waited_s > 0.1


class Full:
    """A disk without space."""

    def add(self, activations: PromptActivations) -> None:
        raise StorageError("no space")


def add_all(writer: Adds, n: int = 3, *, then: str = "") -> None:
    with BackgroundWriter(writer, most_bytes=1) as background:
        for each in prompts(n):
            background.add(each)
        if then:
            raise RuntimeError(then)


def test_an_error_of_the_disk_comes_back() -> None:
    with pytest.raises(StorageError, match="no space"):
        add_all(Full())


def test_an_error_at_the_last_prompt_comes_back() -> None:
    with pytest.raises(StorageError, match="no space"):
        add_all(Full(), 1)


def test_an_error_of_the_model_ends_it(tmp_path: Path) -> None:
    with opened(tmp_path / "a.moe") as writer:
        with pytest.raises(RuntimeError, match="the model failed"):
            add_all(writer, then="the model failed")
        writer.add(prompts(1)[0])
    assert all(each.name != "store writer" for each in threading.enumerate())
