"""The surface-adjusted estimator prepared: all of it that does not depend on the experts.

With `x` the surface of a token, `h` the indicator of a unit and `y` a share, the residuals are
`h - x gamma` and `y - x beta`, coefficients of the token's fold. Sums of their products within ids
split into a part between cells, which is that of the token-adjusted estimator on the cells' means,
and a part within cells, `gamma' sum (x - mean x of the cell)(y - x beta)`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from interp.analyses.cells import ClusterSums, ColumnSums, column_sums, joined
from interp.analyses.cells_contrast import Contrast, Units, UnitWeights, contrast_cells
from interp.analyses.slot_tables import SlotTable, SurfaceSlots
from interp.analyses.surface_basis import SurfaceBasis
from interp.analyses.surface_products import surface_products, weighted_surface
from interp.analyses.surface_regression import FoldRegressions
from interp.analyses.token_stream import CellIndex, TokenPart, TokenStream, in_both

UNITS_AT_ONCE = 16
"""Units residualised at once; bounds the memory, has no effect on the result."""


@dataclass(frozen=True, kw_only=True)
class SurfaceDesign:
    """Groups, regressions and weights of some tokens; rows of the stream are units."""

    stream: TokenStream
    basis: SurfaceBasis
    cells: CellIndex
    units: Units
    fold_of_cluster: Int[np.ndarray, "clusters"]
    ridge: float

    @cached_property
    def counts(self) -> Bool[np.ndarray, "cells"]:
        """Cells of the ids that occur under both conditions."""
        return in_both(self.units.label, self.cells)

    @cached_property
    def kept(self) -> Int[np.ndarray, "_"]:
        """The same by their numbers."""
        return np.flatnonzero(self.counts)

    @cached_property
    def cluster(self) -> Int[np.ndarray, "cells"]:
        """Cluster of each cell."""
        return np.asarray(self.units.cluster_of_unit[self.cells.unit])

    @cached_property
    def group(self) -> Int[np.ndarray, "cells"]:
        """Cluster of the cells that count and, behind these, fold of the others.

        Where labels stay, no cluster needs products of its own, and groups are folds.
        """
        fold = self.fold_of_cluster[self.cluster]
        if not self.units.are_relabelled:
            return np.asarray(fold)
        return np.where(self.counts, self.cluster, self.units.n_clusters + fold)

    @cached_property
    def regressions(self) -> FoldRegressions:
        """Regressions on the surface."""
        n_folds = int(self.fold_of_cluster.max()) + 1
        fold_of_group = np.arange(n_folds)
        if self.units.are_relabelled:
            fold_of_group = np.concatenate([self.fold_of_cluster, fold_of_group])
        products = surface_products(
            self.stream,
            self.basis,
            self.cells,
            group=self.group,
            n_groups=len(fold_of_group),
        )
        return FoldRegressions(
            cells=self.cells,
            products=products,
            fold_of_cell=self.fold_of_cluster[self.cluster],
            fold_of_group=fold_of_group,
            n_folds=n_folds,
            ridge=self.ridge,
        )

    @cached_property
    def runs(self) -> list[tuple[int, slice]]:
        """Fold of each cluster, and its cells among those that count."""
        edges = np.searchsorted(self.cluster[self.kept], np.arange(self.units.n_clusters + 1))
        return [
            (int(fold), slice(a, b))
            for fold, (a, b) in zip(self.fold_of_cluster, pairwise(edges.tolist()), strict=True)
        ]

    @property
    def label(self) -> Float[np.ndarray, "of"]:
        """Label of each unit, or 1 where all units stand together as the condition."""
        return self.units.label.astype(float) if self.units.are_relabelled else np.ones(1)

    def _indicator(self, columns: slice) -> Float[np.ndarray, "cells _"]:
        """Which unit a cell is of, or its label."""
        if not self.units.are_relabelled:
            return np.asarray(self.units.label[self.cells.unit, None].astype(float))
        numbers = np.arange(len(self.units.label))[columns]
        return np.asarray((self.cells.unit[:, None] == numbers).astype(float))

    @cached_property
    def gamma(self) -> Float[np.ndarray, "folds surface of"]:
        """Coefficients of the indicators."""
        regressions, found = self.regressions, []
        for start in range(0, len(self.label), UNITS_AT_ONCE):
            each = self._indicator(slice(start, start + UNITS_AT_ONCE))
            by_cell = regressions.products.by_cell
            crossed = np.stack([by_cell[of].T @ each[of] for of in regressions.members])
            of_cell = each * self.cells.n_tokens[:, None]
            found.append(regressions.coefficients(crossed, of_cell))
        return np.concatenate(found, axis=2)

    @cached_property
    def surface_of_kept(self) -> list[tuple[int, csr_array]]:
        """Fold of each cluster, and the surface of its cells that count."""
        by_cell = self.regressions.products.by_cell[self.kept]
        return [(fold, by_cell[of]) for fold, of in self.runs]

    def fitted_sums(
        self, coefficients: Float[np.ndarray, "folds surface columns"]
    ) -> Float[np.ndarray, "_ columns"]:
        """Sum over the tokens of each cell that counts of what the surface tells."""
        return np.concatenate([of @ coefficients[fold] for fold, of in self.surface_of_kept])

    @cached_property
    def fitted(self) -> Float[np.ndarray, "_ of"]:
        """What the surface tells of the indicators, mean of each cell that counts."""
        return np.asarray(self.fitted_sums(self.gamma) / self.cells.n_tokens[self.kept, None])

    @cached_property
    def contrast(self) -> Contrast:
        """Weights of the cells that count."""
        unit, units = self.cells.unit[self.kept], self.units
        n_tokens = self.cells.n_tokens[self.kept].astype(float)
        _, token = np.unique(self.cells.token[self.kept], return_inverse=True)
        weights = None
        if units.are_relabelled:
            weights = UnitWeights.of(
                unit, token, n_tokens, n_units=len(units.label), fitted=self.fitted
            )
        return contrast_cells(
            units.label[unit] - self.fitted @ self.label,
            cluster=self.cluster[self.kept],
            token=token,
            n_tokens=n_tokens,
            unit_weight=weights,
            label=units.label,
            cluster_of_unit=units.cluster_of_unit,
        )

    @cached_property
    def within(self) -> Float[np.ndarray, "clusters surface of"]:
        """`sum (x - mean x of the cell) x gamma` over the tokens of a cluster that count."""
        if self.units.are_relabelled:
            products = self.regressions.products
            total = np.stack(
                [products.times(g, self.gamma[fold]) for g, (fold, _) in enumerate(self.runs)]
            )
        else:
            total = weighted_surface(
                self.stream,
                self.basis,
                self.score,
                cluster=self.units.cluster_of_unit,
                n_clusters=self.units.n_clusters,
            )[..., None]
        between = [
            of.T @ self.fitted[run]
            for (_, of), (_, run) in zip(self.surface_of_kept, self.runs, strict=True)
        ]
        return np.asarray(total - np.stack(between))

    @cached_property
    def _find(self) -> Callable[[TokenPart], Int[np.ndarray, "tokens"]]:
        return self.cells.finder()

    def score(self, part: TokenPart) -> Float[np.ndarray, "tokens"]:
        """What the surface tells of the condition of each token; 0 if it does not count."""
        fold = self.fold_of_cluster[self.units.cluster_of_unit[part.row]]
        gamma, n = self.gamma[:, :, 0], self.basis.n_previous
        curves = self.basis.curve_columns(self.basis.placed(part))
        found = gamma[fold, self.basis.previous_of(part)]
        found = found + np.einsum("ik,ik->i", curves, gamma[fold, n:])
        return np.where(self.counts[self._find(part)], found, 0.0)

    @property
    def slots(self) -> SurfaceSlots:
        """What is to be counted of the experts."""
        few = len(self.regressions.fold_of_group)
        if self.units.are_relabelled:
            return SurfaceSlots(basis=self.basis, group=self.group, n_groups=few)
        return SurfaceSlots(
            basis=self.basis,
            group=self.group,
            n_groups=few,
            score=self.score,
            scored=self.units.cluster_of_unit,
            n_scored=self.units.n_clusters,
        )

    def columns(self, table: SlotTable) -> Iterator[ColumnSums]:
        """Sums of the experts of a table, a block at a time."""
        for block in table.blocks():
            yield self._columns(table, block)

    def _columns(self, table: SlotTable, block: slice) -> ColumnSums:
        share, crossed = table.shares(block), table.surface(self.basis, block)
        fold_of_group = self.regressions.fold_of_group
        by_fold = np.zeros((self.regressions.n_folds, *crossed.shape[1:]))
        np.add.at(by_fold, fold_of_group, crossed)
        beta = self.regressions.coefficients(by_fold, share)
        share = share[self.kept]
        if self.units.are_relabelled:
            scored = [self.gamma[fold].T @ crossed[g] for g, (fold, _) in enumerate(self.runs)]
        else:
            scored = list(table.scores[:, None, block] / table.top_k)
        within = [
            self.fitted[run].T @ share[run] + self.within[g].T @ beta[fold] - scored[g]
            for g, (fold, run) in enumerate(self.runs)
        ]
        between = column_sums(share - self.fitted_sums(beta), self.contrast)
        return between.and_within(np.stack(within), self.label)

    def joined(self, columns: list[ColumnSums]) -> ClusterSums:
        """Sums of all columns, with what is within cells in the squares."""
        sums = joined(columns, self.contrast)
        extra = np.stack(
            [self.gamma[fold].T @ self.within[g] for g, (fold, _) in enumerate(self.runs)]
        )
        of_label = np.einsum("gij,i,j->g", extra, self.label, self.label)
        return replace(
            sums,
            square=sums.square + of_label,
            left_out_square=sums.left_out_square + of_label,
            unit_square=None if sums.unit_square is None else sums.unit_square + extra,
        )
