"""Which chunks of a dataset a read wants, in which ranges they are fetched, and where they go."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from interp.cache.chunk_table import ChunkedDataset

GAP_BYTES = 2**16
"""Chunks no farther apart than this are fetched in one range."""
GAP_SHARE = 0.25
"""Bytes between wanted chunks that a read may move, as a share of the bytes wanted."""
RANGE_BYTES = 2**23
"""A range of several chunks is no longer than this."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """One range that is fetched, and the chunks in it."""

    start: int
    stop: int
    chunks: tuple[int, ...]
    """Positions in C order over the grid, by rising offset."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which rows and columns of a dataset are wanted, and where they go."""

    start: np.ndarray
    """First row of each slice."""
    stop: np.ndarray
    """Behind the last row of each slice."""
    target: np.ndarray
    """Row of the result that the first row of each slice becomes."""
    columns: np.ndarray | None
    """Positions along axis 1, in the order asked; None for all."""

    @property
    def n_rows(self) -> int:
        """Rows of the result."""
        return int((self.stop - self.start).sum())

    def shape_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the result, from that of the dataset."""
        if self.columns is None:
            return (self.n_rows, *shape[1:])
        return (self.n_rows, len(self.columns), *shape[2:])


def select(
    shape: Sequence[int], *, rows: Sequence[slice] | None, columns: Sequence[int] | None
) -> Selection:
    """Rows and columns, checked against the shape of a dataset.

    Raises:
        ValueError: If they do not fit it.
    """
    slices = [slice(0, shape[0])] if rows is None else list(rows)
    for each in slices:
        whole = all(isinstance(end, int | np.integer) for end in (each.start, each.stop))
        if not whole or each.step not in (None, 1) or not 0 <= each.start <= each.stop <= shape[0]:
            raise ValueError(f"rows holds {each}, expected slice(start, stop) within {shape[0]}")
    if any(one.stop > other.start for one, other in pairwise(slices)):
        raise ValueError("rows must be rising, disjoint slices; sort and merge them")
    start = np.array([each.start for each in slices], dtype=np.int64)
    stop = np.array([each.stop for each in slices], dtype=np.int64)
    filled = start < stop
    start, stop = start[filled], stop[filled]
    target = np.concatenate([[0], np.cumsum(stop - start)])[: len(start)].astype(np.int64)
    return Selection(start=start, stop=stop, target=target, columns=_columns(shape, columns))


def touched_chunks(dataset: ChunkedDataset, selection: Selection) -> np.ndarray:
    """Positions of the chunks that hold something that is wanted, in C order over the grid."""
    axes = [np.arange(n) for n in dataset.grid]
    step = dataset.chunks[0]
    ranges = [
        np.arange(start // step, (stop - 1) // step + 1)
        for start, stop in zip(selection.start, selection.stop, strict=True)
    ]
    axes[0] = np.unique(np.concatenate(ranges))
    if selection.columns is not None:
        axes[1] = np.unique(selection.columns // dataset.chunks[1])
    chunks: np.ndarray = np.ravel_multi_index(np.ix_(*axes), dataset.grid).ravel()
    return chunks


def plan(dataset: ChunkedDataset, chunks: np.ndarray) -> list[Span]:
    """Ranges that hold these chunks, joined across small gaps, smallest first.

    All gaps together are at most `GAP_SHARE` of the bytes wanted.
    """
    chunks = chunks[np.argsort(dataset.offset[chunks])]
    start = dataset.offset[chunks]
    stop = start + dataset.length[chunks]
    gaps = start[1:] - stop[:-1]
    order = np.argsort(gaps, kind="stable")
    affordable = np.cumsum(gaps[order]) <= GAP_SHARE * (stop - start).sum()
    joined = np.zeros(len(gaps), dtype=bool)
    joined[order] = affordable & (gaps[order] <= GAP_BYTES)
    return list(_spans(chunks, start, stop, joined))


def place(
    values: np.ndarray, corner: Sequence[int], *, selection: Selection, into: np.ndarray
) -> None:
    """Copy what is wanted of one decoded chunk into the result.

    Args:
        values: The chunk at its full size.
        corner: Where it starts in the dataset.
        selection: What is wanted.
        into: The result.
    """
    others = zip(corner[2:], values.shape[2:], into.shape[2:], strict=True)
    rest = [(at, min(at + length, n)) for at, length, n in others]
    target: list[Any] = [slice(None), *(slice(at, end) for at, end in rest)]
    source: list[Any] = [slice(None), *(slice(0, end - at) for at, end in rest)]
    if values.ndim > 1:
        from_columns, to_columns = _columns_within(
            selection.columns, corner[1], corner[1] + values.shape[1], into.shape[1]
        )
        target.insert(1, to_columns)
        source.insert(1, from_columns)
    for from_rows, to_rows in _rows_within(selection, corner[0], corner[0] + len(values)):
        into[(to_rows, *target[1:])] = values[(from_rows, *source[1:])]


def _columns(shape: Sequence[int], columns: Sequence[int] | None) -> np.ndarray | None:
    if columns is None:
        return None
    if len(shape) < 2:
        raise ValueError("columns cannot be chosen in a dataset of one axis; leave them out")
    positions = np.array(columns, dtype=np.int64)
    if positions.ndim != 1 or np.any(positions < 0) or np.any(positions >= shape[1]):
        raise ValueError(f"columns is {columns}, expected positions from 0 to {shape[1] - 1}")
    return positions


def _spans(
    chunks: np.ndarray, start: np.ndarray, stop: np.ndarray, joined: np.ndarray
) -> Iterator[Span]:
    first = 0
    for last in range(len(chunks)):
        ends = last + 1 == len(chunks) or not joined[last]
        if ends or stop[last + 1] - start[first] > RANGE_BYTES:
            yield Span(
                start=int(start[first]),
                stop=int(stop[last]),
                chunks=tuple(chunks[first : last + 1].tolist()),
            )
            first = last + 1


def _rows_within(selection: Selection, start: int, stop: int) -> Iterable[tuple[slice, slice]]:
    """For each wanted slice that meets these rows: where it lies in them, and in the result."""
    first = int(np.searchsorted(selection.stop, start, side="right"))
    last = int(np.searchsorted(selection.start, stop, side="left"))
    for each in range(first, last):
        low = max(int(selection.start[each]), start)
        high = min(int(selection.stop[each]), stop)
        to = int(selection.target[each]) + low - int(selection.start[each])
        yield slice(low - start, high - start), slice(to, to + high - low)


def _columns_within(
    columns: np.ndarray | None, start: int, stop: int, n_columns: int
) -> tuple[Any, Any]:
    """Which of these columns are wanted, and where they are in the result."""
    if columns is None:
        stop = min(stop, n_columns)
        return slice(0, stop - start), slice(start, stop)
    target = np.flatnonzero((columns >= start) & (columns < stop))
    return columns[target] - start, target
