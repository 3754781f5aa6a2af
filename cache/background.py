"""A store is written in a thread of its own, while the model runs on."""

import threading
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, runtime_checkable

import numpy as np

from interp.cache.records import PromptActivations

MOST_BYTES = 2**28
"""Activations that may wait to be written; one prompt alone may have more."""


@runtime_checkable
class Adds(Protocol):
    """What prompts are added to, such as a `StoreWriter`."""

    def add(self, activations: PromptActivations) -> None:
        """Check and keep one prompt."""


class BackgroundWriter:
    """Adds prompts to a store in another thread, in their order.

    Whoever adds a prompt waits only while `most_bytes` wait already. An error of the writer comes
    back from the next `add`, or from the end of the context.

    Args:
        writer: Open; nobody else may add to it meanwhile.
        most_bytes: Bytes that may wait.

    Raises:
        Exception: What the writer's `add` raises.
    """

    def __init__(self, writer: Adds, *, most_bytes: int = MOST_BYTES) -> None:
        self.waited_s = 0.0
        """Seconds that `add` waited for the disk."""
        self._writer, self._most = writer, most_bytes
        self._queue: deque[tuple[PromptActivations, int]] = deque()
        self._bytes = 0
        self._is_ending = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._write, name="store writer", daemon=True)

    def __enter__(self) -> "BackgroundWriter":
        self._thread.start()
        return self

    def add(self, activations: PromptActivations) -> None:
        """Have a prompt written after those before it."""
        size, begin = _n_bytes(activations), time.perf_counter()
        with self._changed:
            while self._bytes and self._bytes + size > self._most and self._error is None:
                self._changed.wait()
            self._raise_error()
            self._queue.append((activations, size))
            self._bytes += size
            self._changed.notify_all()
        self.waited_s += time.perf_counter() - begin

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._is_ending = True
            if kind is not None:
                self._queue.clear()
            self._changed.notify_all()
        self._thread.join()
        if kind is None:
            self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _write(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._is_ending:
                    self._changed.wait()
                if not self._queue:
                    return
                activations, size = self._queue.popleft()
            try:
                self._writer.add(activations)
            except BaseException as error:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._bytes -= size
                self._changed.notify_all()


def _n_bytes(activations: PromptActivations) -> int:
    """Of all arrays of a prompt."""
    found = 0
    for each in vars(activations).values():
        arrays = each.values() if isinstance(each, Mapping) else [each]
        found += sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))
    return found
