"""Blocks are done once each wherever the workers are, and again where a worker is lost."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from interp.cache.errors import InputError, ModelError
from interp.executors import Workers, done_blocks

HERE = Workers()
PROCESSES = Workers(engine="processes", n_workers=2)
RAY = Workers(engine="ray", n_workers=2, cpus_per_worker=0.5)
EVERYWHERE = [HERE, PROCESSES, pytest.param(RAY, marks=pytest.mark.slow)]
ELSEWHERE = EVERYWHERE[1:]


def squares() -> Callable[[int], int]:
    return lambda block: block * block


class DyingOnce:
    """A worker whose process is gone in the middle of block 3, unless it was before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> Callable[[int], int]:
        return self.do

    def do(self, block: int) -> int:
        mark = self.folder / "was-here"
        if block == 3 and not mark.exists():
            mark.touch()
            os._exit(1)
        (self.folder / f"done-{block}-{os.getpid()}").touch()
        return block * block


def always_dying() -> Callable[[int], int]:
    return lambda block: os._exit(1)


def refusing() -> Callable[[int], int]:
    def refuse(block: int) -> int:
        raise InputError(f"block {block} cannot be used")

    return refuse


@pytest.mark.parametrize("workers", EVERYWHERE, ids=lambda each: each.engine)
def test_every_block_is_done_once(workers: Workers) -> None:
    found = list(done_blocks(squares, range(7), workers=workers))

    assert sorted(found) == [(number, number**2) for number in range(7)]


@pytest.mark.parametrize("workers", ELSEWHERE, ids=lambda each: each.engine)
def test_the_block_of_a_lost_worker_is_done_again(workers: Workers, tmp_path: Path) -> None:
    found = list(done_blocks(DyingOnce(tmp_path), range(7), workers=workers))

    assert sorted(found) == [(number, number**2) for number in range(7)]
    assert (tmp_path / "was-here").exists()


@pytest.mark.parametrize("workers", ELSEWHERE, ids=lambda each: each.engine)
def test_a_block_that_kills_its_workers_ends_the_run(workers: Workers) -> None:
    with pytest.raises(ModelError, match="was lost 3 times; it may have too little memory"):
        list(done_blocks(always_dying, range(2), workers=workers))


@pytest.mark.parametrize("workers", EVERYWHERE, ids=lambda each: each.engine)
def test_an_error_of_a_block_comes_back_as_it_is(workers: Workers) -> None:
    with pytest.raises(InputError, match=r"block \d cannot be used"):
        list(done_blocks(refusing, range(3), workers=workers))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"engine": "threads"}, "engine is 'threads', expected one of serial, processes, ray"),
        ({"engine": "ray", "n_workers": 0}, "workers is 0, expected 1 or more"),
        ({"gpus_per_worker": -1.0}, "gpus_per_worker is -1.0, expected 0 or more"),
    ],
)
def test_workers_that_there_cannot_be(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Workers(**fields)  # type: ignore[arg-type]


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'moe-interp\[ray\]'"):
        list(done_blocks(squares, range(2), workers=RAY))
