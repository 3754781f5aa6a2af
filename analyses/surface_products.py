"""Products of the surface with itself: all that a regression on it needs to know of the tokens."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array, hstack

from interp.analyses.surface_basis import SurfaceBasis
from interp.analyses.token_stream import CellIndex, TokenPart, TokenStream

ENTRIES_HELD = 2**21
"""Tokens whose previous ones wait to be counted; bounds the memory, has no effect on the result."""


@dataclass(frozen=True, kw_only=True)
class SurfaceProducts:
    """Sums over tokens of the surface, by cell, and of its products, by group of cells."""

    by_cell: csr_array
    """[cells, surface]: sum of the surface over the tokens of a cell."""
    previous: Float[np.ndarray, "groups previous"]
    """Tokens of a group after each previous token."""
    crossed: Float[np.ndarray, "groups previous curves"]
    """Sum of the curves over these."""
    curves: Float[np.ndarray, "groups curves curves"]
    """Sum of products of curves over the tokens of a group."""

    def squares(self, groups: Int[np.ndarray, "_"]) -> Float[np.ndarray, "surface surface"]:
        """`sum x x'` over the tokens of these groups, `x` the surface of a token."""
        crossed = self.crossed[groups].sum(axis=0)
        diagonal = np.diag(self.previous[groups].sum(axis=0))
        return np.block([[diagonal, crossed], [crossed.T, self.curves[groups].sum(axis=0)]])

    def times(
        self, group: int, columns: Float[np.ndarray, "surface columns"]
    ) -> Float[np.ndarray, "surface columns"]:
        """`sum x x'` of one group times columns."""
        n = self.previous.shape[1]
        crossed, above, below = self.crossed[group], columns[:n], columns[n:]
        first = self.previous[group][:, None] * above + crossed @ below
        return np.concatenate([first, crossed.T @ above + self.curves[group] @ below])


def surface_products(
    stream: TokenStream,
    basis: SurfaceBasis,
    cells: CellIndex,
    *,
    group: Int[np.ndarray, "cells"],
    n_groups: int,
) -> SurfaceProducts:
    """Sums of all tokens, in one pass; rows are units."""
    n_cells, n_curve = len(cells.unit), basis.n_curve
    of_cell = np.zeros((n_cells, n_curve))
    crossed = np.zeros((n_groups * basis.n_previous, n_curve))
    curves = np.zeros((n_groups, n_curve, n_curve))
    neighbours = _Neighbours(n_cells=n_cells, n_previous=basis.n_previous)
    find = cells.finder()
    for part in stream.parts(slice(0, 0)):
        cell, previous = find(part), basis.previous_of(part)
        columns = basis.curve_columns(basis.placed(part))
        neighbours.count(cell, previous)
        _add_rows(of_cell, cell, columns)
        _add_rows(crossed, group[cell] * basis.n_previous + previous, columns)
        for each in np.unique(group[cell]):
            of_group = columns[group[cell] == each]
            curves[each] += of_group.T @ of_group
    counts = neighbours.total()
    by_group = csr_array((np.ones(n_cells), (group, np.arange(n_cells))), (n_groups, n_cells))
    return SurfaceProducts(
        by_cell=csr_array(hstack([counts, csr_array(of_cell)], format="csr")),
        previous=(by_group @ counts).toarray(),
        crossed=crossed.reshape(n_groups, basis.n_previous, n_curve),
        curves=curves,
    )


@dataclass(kw_only=True)
class _Neighbours:
    """Tokens by cell and previous token."""

    n_cells: int
    n_previous: int

    def __post_init__(self) -> None:
        self.counted = csr_array((self.n_cells, self.n_previous))
        self.waiting: list[np.ndarray] = []

    def count(self, cell: Int[np.ndarray, "tokens"], previous: Int[np.ndarray, "tokens"]) -> None:
        self.waiting.append(cell * self.n_previous + previous)
        if sum(map(len, self.waiting)) >= ENTRIES_HELD:
            self.total()

    def total(self) -> csr_array:
        """All that was counted."""
        if self.waiting:
            key, n = np.unique(np.concatenate(self.waiting), return_counts=True)
            place = np.divmod(key, self.n_previous)
            shape = (self.n_cells, self.n_previous)
            self.counted = csr_array(self.counted + csr_array((n.astype(float), place), shape))
            self.waiting = []
        return self.counted


def _add_rows(
    out: Float[np.ndarray, "rows columns"],
    row: Int[np.ndarray, "tokens"],
    columns: Float[np.ndarray, "tokens columns"],
) -> None:
    """Add each token's columns to its row, in place."""
    rows, place = np.unique(row, return_inverse=True)
    shape = (len(rows), len(row))
    out[rows] += csr_array((np.ones(len(row)), (place, np.arange(len(row)))), shape) @ columns


def weighted_surface(
    stream: TokenStream,
    basis: SurfaceBasis,
    weight: Callable[[TokenPart], Float[np.ndarray, "tokens"]],
    *,
    cluster: Int[np.ndarray, "units"],
    n_clusters: int,
) -> Float[np.ndarray, "clusters surface"]:
    """Sum over a cluster's tokens of weight times surface, in one pass; rows are units."""
    n = basis.n_previous
    previous = np.zeros(n_clusters * n)
    curves = np.zeros((n_clusters, basis.n_curve))
    for part in stream.parts(slice(0, 0)):
        of, value = cluster[part.row], weight(part)
        np.add.at(previous, of * n + basis.previous_of(part), value)
        _add_rows(curves, of, value[:, None] * basis.curve_columns(basis.placed(part)))
    return np.hstack([previous.reshape(n_clusters, n), curves])
