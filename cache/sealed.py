"""A part on this machine, read through HDF5; every fault in it is told with its name."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from interp.cache.bfloat16 import is_bfloat16, read_bits
from interp.cache.chunk_table import ChunkedDataset, parse_index
from interp.cache.direct import is_direct, read_direct
from interp.cache.errors import StoreError
from interp.cache.manifest import PartEntry, check_version
from interp.cache.part import FORMAT, attribute_text, read_layout
from interp.cache.part_index import index_name
from interp.cache.records import Layout

DENSE = 4
"""Rows are read with those between them where at least every fourth is wanted."""


class SealedPart:
    """One part of a store on this machine. It is opened for each read, and must stay the same.

    Args:
        path: Of the part.
        entry: What the manifest says of it, where its index is to be used; then whole datasets of
            residuals are read without HDF5, which is faster.

    Raises:
        StoreError: If it is no part, damaged, or of another format.
    """

    def __init__(self, path: Path, entry: PartEntry | None = None) -> None:
        self.path, self.name, self._entry = path, path.name, entry
        self._identity = _identity(path)
        with self._opened() as file:
            if attribute_text(file, "format") != FORMAT:
                raise StoreError(f"{path} is no part of a store; copy the store again")
            check_version(str(path), attribute_text(file, "format_version"))
            self.layout: Layout = read_layout(file)
            self.provenance: dict[str, Any] = json.loads(attribute_text(file, "provenance"))

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every dataset, by its path."""
        return self._shapes

    def read(
        self,
        path: str,
        *,
        rows: Sequence[slice] | None = None,
        columns: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Some rows of a dataset; as `PartSource` has it."""
        if rows is None and columns is None and path in self._direct:
            self._expect_same_file()
            return read_direct(self.path, self._direct[path])
        with self._opened() as file:
            dataset = file[path]
            if rows is None:
                return _block(dataset, slice(0, len(dataset)), columns)
            if not rows:
                return _block(dataset, slice(0, 0), columns)
            first, last = rows[0].start, rows[-1].stop
            if DENSE * sum(each.stop - each.start for each in rows) < last - first:
                return np.concatenate([_block(dataset, each, columns) for each in rows])
            block = _block(dataset, slice(first, last), columns)
            if len(rows) == 1:
                return block
            return np.concatenate([block[each.start - first : each.stop - first] for each in rows])

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}

        def keep(path: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                found[path] = item.shape

        with self._opened() as file:
            file.visititems(keep)
        return found

    @cached_property
    def _direct(self) -> dict[str, ChunkedDataset]:
        """What can be read by the index; nothing without one."""
        if self._entry is None or self._entry.index_sha256 is None:
            return {}
        path = self.path.with_name(index_name(self.name))
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StoreError(
                f"{path} cannot be read ({error.strerror}); copy the store again, whole"
            ) from error
        if hashlib.sha256(content).hexdigest() != self._entry.index_sha256:
            raise StoreError(f"{path} is not what the manifest says; copy the store again")
        indexed = parse_index(content, entry=self._entry, where=str(path))
        return {name: each for name, each in indexed.items() if is_direct(each)}

    @contextmanager
    def _opened(self) -> Iterator[h5py.File]:
        with opened_part(self.path) as file:
            self._expect_same_file()
            yield file

    def _expect_same_file(self) -> None:
        """Parts never change; one that did belongs to another store that was put in its place."""
        if _identity(self.path) != self._identity:
            raise StoreError(f"{self.path} was replaced while it was read; open the store again")


@contextmanager
def opened_part(path: Path) -> Iterator[h5py.File]:
    """Open a part for reading, and name it in whatever fails in it.

    Parts never change and locks fail on some network disks, so there is no lock.

    Raises:
        StoreError: If the part, or what the body reads of it, cannot be read.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise StoreError(
            f"{path} cannot be read ({type(error).__name__}: {error}); it is damaged or no part "
            "of a store, so copy the store again"
        ) from error


def _identity(path: Path) -> tuple[int, ...]:
    try:
        stat = path.stat()
    except OSError as error:
        raise StoreError(
            f"{path} cannot be read ({error.strerror}); open the store again"
        ) from error
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _block(dataset: h5py.Dataset, rows: slice, columns: Sequence[int] | None) -> np.ndarray:
    if columns is not None:
        picked = [dataset[rows, column] for column in columns]
        empty = (rows.stop - rows.start, 0, *dataset.shape[2:])
        return np.stack(picked, axis=1) if picked else np.empty(empty, dtype=dataset.dtype)
    if is_bfloat16(dataset):
        return read_bits(dataset, rows)
    return np.asarray(dataset[rows])
