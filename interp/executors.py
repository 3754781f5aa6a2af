"""Blocks of work on workers: in this process, in others on this machine, or on a Ray cluster.

A worker is made once in its process, as by loading a model, and then does block after block. A
block whose worker is lost is done again by another. Nothing outside of this module knows where the
workers are.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, TypeVar

from interp.cache.errors import InputError, InterpError, ModelError

Block = TypeVar("Block")
Found = TypeVar("Found")
Worker = Callable[[Any], Any]
ENGINES = ("serial", "processes", "ray")
TRIES = 3
"""Of a block whose worker is lost each time; the block itself may be what kills it."""
_worker: Worker | None = None


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Where blocks are worked on."""

    engine: str = "serial"
    """One of `ENGINES`."""
    n_workers: int = 1
    """Workers at once; 1 where the engine is `serial`."""
    gpus_per_worker: float = 0.0
    """Accelerators that Ray sets aside for each worker."""
    cpus_per_worker: float = 1.0
    """Cores that Ray sets aside for each worker."""

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise InputError(f"engine is {self.engine!r}, expected one of {', '.join(ENGINES)}")
        if self.n_workers < 1:
            raise InputError(f"workers is {self.n_workers}, expected 1 or more")
        if not 0 <= self.gpus_per_worker < float("inf"):
            raise InputError(f"gpus_per_worker is {self.gpus_per_worker}, expected 0 or more")


def done_blocks(
    make_worker: Callable[[], Callable[[Block], Found]],
    blocks: Sequence[Block],
    *,
    workers: Workers,
) -> Iterator[tuple[int, Found]]:
    """Do every block once, in any order, and give the number of each with what was found.

    Args:
        make_worker: Called once in each worker's process; it and what blocks and results hold must
            be picklable where the engine is not `serial`.
        blocks: What is handed out.
        workers: Where.

    Raises:
        InputError: If the engine is `ray` and that is not installed.
        ModelError: If the worker of one block is lost again and again.
        Exception: What a block itself raises, at once.
    """
    if workers.engine == "serial":
        worker = make_worker()
        yield from ((number, worker(block)) for number, block in enumerate(blocks))
    elif workers.engine == "processes":
        yield from _in_processes(make_worker, blocks, workers)
    else:
        yield from _on_ray(make_worker, blocks, workers)


def _in_processes(
    make_worker: Callable[[], Worker], blocks: Sequence[Any], workers: Workers
) -> Iterator[tuple[int, Any]]:
    left, tries = set(range(len(blocks))), 0
    while left:
        context = get_context("spawn")  # a fork of a process with threads may hang
        with ProcessPoolExecutor(
            workers.n_workers, mp_context=context, initializer=_begin, initargs=(make_worker,)
        ) as pool:
            running = {pool.submit(_do, blocks[number]): number for number in sorted(left)}
            n_before = len(left)
            try:
                for future, number in _as_done(running):
                    found = future.result()
                    left.discard(number)
                    yield number, found
            except BrokenProcessPool as error:
                tries = tries + 1 if len(left) == n_before else 1
                if tries >= TRIES:
                    raise _lost(min(left)) from error
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _as_done(running: dict[Future[Any], int]) -> Iterator[tuple[Future[Any], int]]:
    waiting = set(running)
    while waiting:
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        # Those that were done before the pool broke count.
        for future in sorted(done, key=lambda each: each.exception() is not None):
            yield future, running[future]


def _begin(make_worker: Callable[[], Worker]) -> None:
    global _worker
    _worker = make_worker()


def _do(block: Any) -> Any:
    assert _worker is not None
    return _worker(block)


class Actor:
    """A worker on a Ray cluster."""

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        self._make_worker = make_worker
        self._worker: Worker | None = None

    def do(self, block: Any) -> tuple[Any, InterpError | None]:
        """What a block gives, or what is wrong with it; the class of errors survives the way."""
        try:
            self._worker = self._worker or self._make_worker()
            return self._worker(block), None
        except InterpError as error:
            return None, error


def _on_ray(
    make_worker: Callable[[], Worker], blocks: Sequence[Any], workers: Workers
) -> Iterator[tuple[int, Any]]:
    ray = _ray()
    if not ray.is_initialized():
        # An address in RAY_ADDRESS is that of a cluster; without one, workers are started here.
        ray.init(log_to_driver=False, include_dashboard=False)

    actor_class: Any = ray.remote(
        num_cpus=workers.cpus_per_worker, num_gpus=workers.gpus_per_worker
    )(Actor)
    queue = deque((number, 0) for number in range(len(blocks)))
    n_actors = min(workers.n_workers, len(blocks))
    running: dict[Any, tuple[int, int, Any]] = {}

    def hand_out(actor: Any) -> None:
        if queue:
            number, tries = queue.popleft()
            running[actor.do.remote(blocks[number])] = number, tries, actor

    try:
        for _ in range(n_actors):
            hand_out(actor_class.remote(make_worker))
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            number, tries, actor = running.pop(done)
            try:
                found, error = ray.get(done)
            except ray.exceptions.RayActorError as lost:
                if tries + 1 >= TRIES:
                    raise _lost(number) from lost
                queue.appendleft((number, tries + 1))
                hand_out(actor_class.remote(make_worker))
                continue
            if error is not None:
                raise error
            yield number, found
            hand_out(actor)
    finally:
        for _, _, actor in running.values():
            ray.kill(actor)


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise InputError(
            "the engine ray needs the package ray; install it with: pip install 'moe-interp[ray]', "
            "or use the engine processes on one machine"
        ) from error
    return ray


def _lost(number: int) -> ModelError:
    return ModelError(
        f"the worker of block {number} was lost {TRIES} times; it may have too little memory: give "
        "fewer workers, or smaller batches"
    )
