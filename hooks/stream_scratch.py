"""What a streamed capture keeps on disk between two layers, so that it can go on after a stop."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import torch
from filelock import FileLock, Timeout
from jaxtyping import Shaped
from torch import Tensor

from interp.cache.durable import told_when_full, write_whole
from interp.cache.errors import InputError
from interp.cache.manifest import canonical_json

PROGRESS, LOCK = "progress.json", ".lock"


class Scratch:
    """The residual stream between two stages, and the records of every stage that is done.

    Stages are counted from 0. Of each, the residual stream goes to one of two files in turn, and
    every field of its records to one of its own. A stage counts once all of it is on disk; one that
    was stopped is done again from the stream before it.

    Args:
        folder: Made if it is not there.
        facts: What the records depend on.

    Raises:
        InputError: If the folder holds those of another capture, or another process is using it.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.folder = folder
        self._facts = json.loads(canonical_json(facts))
        self._lock = FileLock(folder / LOCK, timeout=0)
        self.n_done = 0
        self.notes: list[dict[str, Any]] = []
        self._fields: dict[str, tuple[str, list[int]]] = {}
        self._open: dict[str, BinaryIO] = {}

    def __enter__(self) -> "Scratch":
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise InputError(
                f"another process is using {self.folder}; wait for it, or choose another path"
            ) from error
        try:
            self._recover()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()
        self._lock.release()

    def remove(self) -> None:
        """Delete everything, once the store is whole."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def stage(self) -> Iterator["Stage"]:
        """The next stage; it counts when the body ends without an error.

        Raises:
            StorageError: If there is no space left; the stages before are kept.
        """
        number = self.n_done
        with told_when_full(f"{self.folder} has no space for stage {number}"), ExitStack() as files:
            stage = Stage(self.folder, number, files)
            yield stage
            stage.sync()
        self._fields |= stage.fields
        self.notes.append(stage.note)
        self.n_done = number + 1
        progress = {"facts": self._facts, "notes": self.notes, "fields": self._fields}
        write_whole(self.folder / PROGRESS, canonical_json(progress).encode())

    def rows(self, stage: int, field: str, span: slice) -> Shaped[np.ndarray, "rows ..."]:
        """Some rows of a field of a stage that is done."""
        name = _field_file(stage, field)
        dtype, shape = self._fields[name]
        row_bytes = np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
        file = self._open.get(name)
        if file is None:
            file = self._open[name] = (self.folder / name).open("rb")
        n_bytes = (span.stop - span.start) * row_bytes
        content = os.pread(file.fileno(), n_bytes, span.start * row_bytes)
        return np.frombuffer(content, dtype=dtype).reshape(-1, *shape)

    def has(self, stage: int, field: str) -> bool:
        """Whether a stage has such a field."""
        return _field_file(stage, field) in self._fields

    def _recover(self) -> None:
        path = self.folder / PROGRESS
        if not path.is_file():
            return
        progress = json.loads(path.read_text(encoding="utf-8"))
        if progress["facts"] != self._facts:
            raise InputError(
                f"{self.folder} holds the layers of another capture, begun with other prompts, "
                "weights, versions or settings; delete it, or finish that capture first"
            )
        self.notes, self._fields = progress["notes"], progress["fields"]
        self.n_done = len(self.notes)


class Stage:
    """Files of one stage, written and read from the first batch to the last."""

    def __init__(self, folder: Path, number: int, files: ExitStack) -> None:
        self.number = number
        self.fields: dict[str, tuple[str, list[int]]] = {}
        self.note: dict[str, Any] = {}
        """Goes to the progress with the stage."""
        self._folder, self._files = folder, files
        self._written: dict[str, BinaryIO] = {}
        before = folder / _stream_file(number - 1)
        self._before = files.enter_context(before.open("rb")) if number else None

    def read_stream(self, shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
        """The residual stream of the next batch, as the stage before wrote it."""
        assert self._before is not None
        stream = torch.empty(shape, dtype=dtype)
        content = stream.view(torch.uint8).numpy()
        if self._before.readinto(content.data) != content.nbytes:
            raise InputError(
                f"{self._before.name} is shorter than was written; delete {self._folder} and run "
                "the same again"
            )
        return stream

    def write_stream(self, stream: Tensor) -> None:
        """The residual stream of the next batch, for the stage that follows."""
        self._write(_stream_file(self.number), stream.contiguous().view(torch.uint8).numpy())

    def keep(self, field: str, rows: Shaped[np.ndarray, "rows ..."]) -> None:
        """Records of the next batch."""
        name = _field_file(self.number, field)
        self.fields[name] = rows.dtype.str, list(rows.shape[1:])
        self._write(name, rows)

    def sync(self) -> None:
        """Have the system write what was written."""
        for file in self._written.values():
            file.flush()
            os.fsync(file.fileno())

    def _write(self, name: str, content: np.ndarray) -> None:
        if name not in self._written:
            file = (self._folder / name).open("wb")
            self._written[name] = self._files.enter_context(file)
        self._written[name].write(np.ascontiguousarray(content).data)


def _stream_file(stage: int) -> str:
    return f"stream-{stage % 2}"


def _field_file(stage: int, field: str) -> str:
    return f"stage-{stage:03}.{field}"
