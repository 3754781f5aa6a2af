"""Routed slots by cell, prompt and surface, counted part by part for some columns at a time.

A table is as large as the pairs of unit and token id that occur, whatever the tokens: layers, and
within a layer experts, go in as many passes over the tokens as keep it under `table_bytes`.
Counts are integers, so that counts of parts add up to the same in any order; sums of shares
between knots are float64.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, Shaped

from interp.analyses.streaming import CellCounts, added_up
from interp.analyses.surface_basis import SurfaceBasis
from interp.analyses.token_stream import CellIndex, TokenPart, TokenStream

TABLE_BYTES = 2**29
"""Memory for the counts of one pass; no effect on the result."""
BLOCK = 4_000_000
"""Shares held at once, cells times columns; likewise."""


def cell_index(stream: TokenStream) -> CellIndex:
    """Which units have which token ids, and how often; rows are units. One pass."""
    parts = stream.parts(slice(0, 0))
    counts = added_up(CellCounts.of(part.row, part.token_id) for part in parts)
    ids, token = np.unique(counts.row, return_inverse=True)
    return CellIndex(ids=ids, unit=counts.key, token=token, n_tokens=counts.n_tokens)


@dataclass(frozen=True, kw_only=True)
class SurfaceSlots:
    """What is counted for the surface: by group of tokens, and whatever the expert."""

    basis: SurfaceBasis
    """Its columns."""
    group: Int[np.ndarray, "cells"]
    """Group of each cell's tokens: cluster or fold."""
    n_groups: int
    """Groups."""
    score: Callable[[TokenPart], Float[np.ndarray, "tokens"]] | None = None
    """Gives a weight for each token, whose slots are summed with it; None for none."""
    scored: Int[np.ndarray, "units"] | None = None
    """Row of these sums for each unit; the unit if None."""
    n_scored: int = 0
    """Rows of these sums."""


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Experts of each slot of one layer; those outside a table are left out."""

    expert: Int[np.ndarray, "tokens top_k"]
    """Less the first expert of the table."""
    inside: Bool[np.ndarray, "tokens top_k"] | None
    """Which slots count; None for all."""

    def of_tokens(self, start: Int[np.ndarray, "tokens"]) -> Int[np.ndarray, "_"]:
        """`start` of each slot's token plus its expert."""
        index = self.expert + start[:, None]
        return np.asarray(index.ravel() if self.inside is None else index[self.inside])

    def repeated(self, value: Float[np.ndarray, "tokens"]) -> Float[np.ndarray, "_"]:
        """The value of each slot's token."""
        if self.inside is None:
            return np.repeat(value, self.expert.shape[1])
        return np.repeat(value, self.inside.sum(axis=1))


@dataclass(kw_only=True)
class SlotTable:
    """Slots of some experts of one layer. `add` counts a part; `a += b` adds another table."""

    layer: int
    """Position of the layer."""
    first: int
    """First expert that is counted."""
    top_k: int
    """Slots of a token."""
    cells: Int[np.ndarray, "cells experts"]
    """Slots of the tokens of a cell."""
    rows: Int[np.ndarray, "rows experts"]
    """Slots of the tokens of a row (prompt)."""
    previous: Int[np.ndarray, "groups previous experts"]
    """Slots of the tokens of a group after a previous token."""
    intervals: list[Int[np.ndarray, "groups _ experts"]]
    """Slots of the tokens of a group between two knots, for each curve."""
    fractions: list[Float[np.ndarray, "groups _ experts"]]
    """Sum over these slots of how far their token lies between the knots."""
    scores: Float[np.ndarray, "scored experts"]
    """Weighted slots."""

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All counts and sums."""
        few = (self.cells, self.rows, self.previous, self.scores)
        return (*few, *self.intervals, *self.fractions)

    def __iadd__(self, other: "SlotTable") -> "SlotTable":
        for mine, others in zip(self.arrays, other.arrays, strict=True):
            mine += others
        return self

    def slots(self, chosen: Integer[np.ndarray, "tokens top_k"]) -> Slots:
        """The slots of a layer as this table counts them."""
        expert = chosen.astype(np.int64) - self.first
        is_all = self.first == 0 and int(expert.max(initial=0)) < self.cells.shape[1]
        inside = None if is_all else (expert >= 0) & (expert < self.cells.shape[1])
        return Slots(expert=expert, inside=inside)

    def blocks(self) -> Iterator[slice]:
        """Columns, so many at a time that the shares of all cells fit into `BLOCK`."""
        n_cells, n_experts = self.cells.shape
        step = max(1, BLOCK // max(1, n_cells))
        for start in range(0, n_experts, step):
            yield slice(start, min(start + step, n_experts))

    def shares(self, columns: slice) -> Float[np.ndarray, "cells _"]:
        """Share of each expert, summed over the tokens of a cell."""
        return np.asarray(self.cells[:, columns] / self.top_k)

    def surface(self, basis: SurfaceBasis, columns: slice) -> Float[np.ndarray, "groups _ _"]:
        """`sum over a group's tokens of surface times share`, `[groups, surface, columns]`."""
        parts = [self.previous[..., columns].astype(np.float64)]
        for curve, count, share in zip(basis.curves, self.intervals, self.fractions, strict=True):
            of_count = np.einsum("ki,gie->gke", curve.from_counts, count[..., columns])
            parts.append(
                of_count + np.einsum("ki,gie->gke", curve.from_shares, share[..., columns])
            )
        return np.asarray(np.concatenate(parts, axis=1) / self.top_k)


def slot_tables(
    stream: TokenStream,
    cells: CellIndex,
    *,
    unit_of_row: Int[np.ndarray, "rows"] | None = None,
    count_rows: bool = False,
    surface: SurfaceSlots | None = None,
    table_bytes: int = TABLE_BYTES,
) -> Iterator[SlotTable]:
    """Tables of all layers and experts in order, each from one pass that it shares with others.

    Args:
        stream: The tokens.
        cells: Of the units; tokens of no unit are counted by row alone.
        unit_of_row: Unit of each row of the stream, -1 for none; None where rows are units.
        count_rows: Whether slots are counted by row, too.
        surface: What is counted for the surface.
        table_bytes: Memory for the tables of one pass.
    """
    counting = Counting(
        cells=cells,
        unit_of_row=unit_of_row,
        n_rows=len(unit_of_row) if count_rows and unit_of_row is not None else 0,
        surface=surface,
    )
    per_expert = max(1, sum(each.nbytes for each in counting.empty(0, 0, 1, 1).arrays))
    width = max(1, min(stream.n_experts, table_bytes // per_expert))
    n_layers = max(1, table_bytes // (per_expert * stream.n_experts))
    for start in range(0, len(stream.layer_indices), n_layers):
        layers = range(start, min(start + n_layers, len(stream.layer_indices)))
        for first in range(0, stream.n_experts, width):
            stop = min(first + width, stream.n_experts)
            tables = [counting.empty(layer, first, stop, stream.top_k) for layer in layers]
            for part in stream.parts(slice(layers.start, layers.stop)):
                counting.count(part, tables)
            while tables:
                yield tables.pop(0)


@dataclass(frozen=True, kw_only=True)
class Counting:
    """Which cell, group and place on the surface each token counts to."""

    cells: CellIndex
    unit_of_row: Int[np.ndarray, "rows"] | None
    n_rows: int
    surface: SurfaceSlots | None

    @cached_property
    def find(self) -> Callable[[TokenPart], Int[np.ndarray, "tokens"]]:
        """Gives the cell of each token of a part whose rows are units."""
        return self.cells.finder()

    def empty(self, layer: int, first: int, stop: int, top_k: int) -> SlotTable:
        """A table of the experts from `first` to before `stop` in which nothing is counted yet."""
        of, n = self.surface, stop - first
        groups, previous = (of.n_groups, of.basis.n_previous) if of else (0, 0)
        curves = of.basis.curves if of else ()
        return SlotTable(
            layer=layer,
            first=first,
            top_k=top_k,
            cells=np.zeros((len(self.cells.unit), n), dtype=np.int32),
            rows=np.zeros((self.n_rows, n), dtype=np.int64),
            previous=np.zeros((groups, previous, n), dtype=np.int32),
            intervals=[np.zeros((groups, c.n_intervals, n), dtype=np.int64) for c in curves],
            fractions=[np.zeros((groups, c.n_intervals, n)) for c in curves],
            scores=np.zeros((of.n_scored if of else 0, n)),
        )

    def count(self, part: TokenPart, tables: Sequence[SlotTable]) -> None:
        """Add the tokens of a part, whose layers are those of the tables, in place."""
        if self.n_rows:
            for place, table in enumerate(tables):
                _add(table.rows, part.row, table.slots(part.expert_indices[:, place]))
        if self.unit_of_row is not None:
            part = part.rows(self.unit_of_row)
        if not len(part.row):
            return
        cell, of = self.find(part), self.surface
        group = of.group[cell] if of else cell
        previous = of.basis.previous_of(part) if of else cell
        placed = of.basis.placed(part) if of else ()
        weight = of.score(part) if of and of.score else None
        for place, table in enumerate(tables):
            slots = table.slots(part.expert_indices[:, place])
            _add(table.cells, cell, slots)
            if of is None:
                continue
            _add(_flat(table.previous), group * of.basis.n_previous + previous, slots)
            for n, each in enumerate(placed):
                row = group * of.basis.curves[n].n_intervals + each.interval
                _add(_flat(table.intervals[n]), row, slots)
                _add(_flat(table.fractions[n]), row, slots, each.share)
            if weight is not None:
                _add(
                    table.scores,
                    part.row if of.scored is None else of.scored[part.row],
                    slots,
                    weight,
                )


def _flat(table: Shaped[np.ndarray, "groups rows experts"]) -> Shaped[np.ndarray, "_ experts"]:
    """The same memory, groups and rows as one."""
    return table.reshape(-1, table.shape[2])


def _add(
    out: Shaped[np.ndarray, "rows experts"],
    row: Integer[np.ndarray, "tokens"],
    slots: Slots,
    weight: Float[np.ndarray, "tokens"] | None = None,
) -> None:
    """Add each token's slots, or so much for each, to its row, in place."""
    n_experts = out.shape[1]
    low, high = int(row.min()), int(row.max()) + 1
    index = slots.of_tokens((row - low) * n_experts)
    values = None if weight is None else slots.repeated(weight)
    if (high - low) * n_experts <= 2 * len(index):
        counted = np.bincount(index, values, minlength=(high - low) * n_experts)
        out[low:high] += counted.reshape(-1, n_experts).astype(out.dtype, copy=False)
        return
    if values is None:
        values = np.ones(len(index), dtype=out.dtype)  # of one type, or `at` is slow
    np.add.at(out[low:high].reshape(-1), index, values)
