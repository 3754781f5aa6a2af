"""A dataset of a part that grows by rows; whole chunks are written as soon as they are full."""

from typing import Any

import h5py
import numpy as np

from interp.cache.bfloat16 import bfloat16_type

GZIP_LEVEL = 4


class GrowingDataset:
    """Gathers rows until a chunk is full and hands it to HDF5, so that no row is held twice.

    Where the part ends before the first chunk is full, the chunk is as long as the dataset.

    Args:
        group: Where the dataset goes.
        name: Its name in the group.
        dtype: Of the rows that are added; raw bits where `bfloat16`.
        row_shape: Shape of one row.
        chunk_rows: Rows of a chunk.
        per_column: Whether each column, the first axis of a row, has chunks of its own.
        gzip: Whether to shuffle and gzip; every chunk has a checksum in any case.
        bfloat16: Whether the rows are bfloat16.
    """

    def __init__(
        self,
        group: h5py.Group,
        name: str,
        *,
        dtype: np.dtype,
        row_shape: tuple[int, ...] = (),
        chunk_rows: int,
        per_column: bool = False,
        gzip: bool = False,
        bfloat16: bool = False,
    ) -> None:
        self._group, self._name = group, name
        self._gzip, self._bfloat16 = gzip, bfloat16
        self._chunk_of_row = (1, *row_shape[1:]) if per_column else row_shape
        self._chunk_rows = chunk_rows
        self._staged = np.empty((chunk_rows, *row_shape), dtype=dtype)
        self._n_staged = 0
        self._dataset: Any = None
        self._n_rows = 0

    def append(self, rows: np.ndarray) -> None:
        """Add rows at the end; whole chunks of them go to HDF5 as they are."""
        start = 0
        if not self._n_staged:
            start = len(rows) - len(rows) % self._chunk_rows
            self._write(rows[:start])
        while start < len(rows):
            n_taken = min(len(rows) - start, self._chunk_rows - self._n_staged)
            self._staged[self._n_staged : self._n_staged + n_taken] = rows[start : start + n_taken]
            self._n_staged += n_taken
            start += n_taken
            if self._n_staged == self._chunk_rows:
                self._write_staged()

    def finish(self) -> None:
        """Write what is left; the dataset is there afterwards also if nothing was added."""
        self._write_staged()
        if self._dataset is None:
            self._dataset = self._created(n_rows=0)

    def _write_staged(self) -> None:
        self._write(self._staged[: self._n_staged])
        self._n_staged = 0

    def _write(self, rows: np.ndarray) -> None:
        if not len(rows):
            return
        if self._dataset is None:
            self._dataset = self._created(n_rows=len(rows))
        self._dataset.set_extent((self._n_rows + len(rows), *rows.shape[1:]))
        space = self._dataset.get_space()
        space.select_hyperslab((self._n_rows, *[0] * (rows.ndim - 1)), rows.shape)
        memory = h5py.h5s.create_simple(rows.shape)
        mtype = self._file_type() if self._bfloat16 else None
        self._dataset.write(memory, space, np.ascontiguousarray(rows), mtype=mtype)
        self._n_rows += len(rows)

    def _created(self, *, n_rows: int) -> Any:
        """One that cannot grow where all its rows are known, as at the end of a small part."""
        is_whole = n_rows < self._chunk_rows
        rest = self._staged.shape[1:]
        space = h5py.h5s.create_simple(
            (n_rows, *rest), (n_rows if is_whole else h5py.h5s.UNLIMITED, *rest)
        )
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_obj_track_times(False)
        if n_rows and np.prod(rest, dtype=int):
            settings.set_chunk((min(n_rows, self._chunk_rows), *self._chunk_of_row))
            if self._gzip:
                settings.set_shuffle()
                settings.set_deflate(GZIP_LEVEL)
            settings.set_fletcher32()
        # Chunks come whole and are not read again; HDF5 would keep megabytes of them per dataset.
        access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
        access.set_chunk_cache(1, 0, 1.0)
        name, group = self._name.encode(), self._group.id
        return h5py.h5d.create(group, name, self._file_type(), space, settings, dapl=access)

    def _file_type(self) -> Any:
        if self._bfloat16:
            return bfloat16_type()
        return h5py.h5t.py_create(self._staged.dtype, logical=True)
