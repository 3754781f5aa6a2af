"""Ridge regression on the surface within token ids, fitted for each fold on all others.

From sums alone: of the surface and of what is regressed, by cell of tokens and by group of cells.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csc_array, csr_array

from interp.analyses.surface_products import SurfaceProducts
from interp.analyses.token_stream import CellIndex

DENSE_FROM = 24
"""Columns of the surface from which an id is multiplied as a full row: quicker, and the same."""
DENSE_AT_ONCE = 2048
"""Full rows held at once."""
MOST_DENSE = 8192
"""Full rows kept from one regression to the next; the other ids are multiplied as sparse rows."""

Factor = tuple[Float[np.ndarray, "surface surface"], bool]


@dataclass(frozen=True, kw_only=True)
class FoldRegressions:
    """Everything of the regressions that does not depend on what is regressed."""

    cells: CellIndex
    products: SurfaceProducts
    fold_of_cell: Int[np.ndarray, "cells"]
    fold_of_group: Int[np.ndarray, "groups"]
    n_folds: int
    ridge: float

    @cached_property
    def members(self) -> list[Int[np.ndarray, "_"]]:
        """Cells of each fold."""
        return [np.flatnonzero(self.fold_of_cell == fold) for fold in range(self.n_folds)]

    def by_id(self, of: Int[np.ndarray, "_"]) -> csr_array:
        """[ids, some cells]: ones."""
        shape = (len(self.cells.ids), len(of))
        return csr_array((np.ones(len(of)), (self.cells.token[of], np.arange(len(of)))), shape)

    @cached_property
    def surface_of_id(self) -> csr_array:
        """[ids, surface]: sum over all tokens of an id."""
        return csr_array(self.by_id(np.arange(len(self.cells.unit))) @ self.products.by_cell)

    @cached_property
    def n_outside(self) -> Float[np.ndarray, "folds ids"]:
        """Tokens of each id outside each fold, at least 1."""
        n_ids, n = len(self.cells.ids), self.cells.n_tokens
        inside = np.stack([np.bincount(self.cells.token[of], n[of], n_ids) for of in self.members])
        return np.asarray(np.maximum(inside.sum(axis=0) - inside, 1.0))

    @cached_property
    def n_columns(self) -> Int[np.ndarray, "ids"]:
        """Columns of the surface that an id has anything in."""
        return np.diff(self.surface_of_id.indptr)

    @cached_property
    def frequent(self) -> Int[np.ndarray, "_"]:
        """Ids whose rows are kept full."""
        by_columns = np.argsort(-self.n_columns, kind="stable")[:MOST_DENSE]
        return np.sort(by_columns[self.n_columns[by_columns] >= DENSE_FROM])

    @cached_property
    def full_rows(self) -> Float[np.ndarray, "frequent surface"]:
        """Surface of the frequent ids."""
        return self.surface_of_id[self.frequent].toarray()

    @cached_property
    def sparse_rows(self) -> tuple[Int[np.ndarray, "_"], csc_array]:
        """The other ids, and their surface, `[surface, ids]`."""
        rest = np.setdiff1d(np.arange(len(self.cells.ids)), self.frequent)
        return rest, csc_array(self.surface_of_id[rest].T)

    @cached_property
    def factors(self) -> list[Factor]:
        """Cholesky factor of each fold's training tokens: squares within ids, plus ridge."""
        n_groups = np.arange(len(self.fold_of_group))
        every = [
            self.products.squares(n_groups[self.fold_of_group == f]) for f in range(self.n_folds)
        ]
        total = np.sum(every, axis=0)
        return [
            cho_factor(total - own - self._squares_of_means(fold) + self.ridge * np.eye(len(own)))
            for fold, own in enumerate(every)
        ]

    def _squares_of_means(self, fold: int) -> Float[np.ndarray, "surface surface"]:
        """`sum over ids of (sum x)(sum x)' / n`, sums over the tokens outside the fold."""
        of = self.members[fold]
        outside = csr_array(self.surface_of_id - self.by_id(of) @ self.products.by_cell[of])
        scale = 1.0 / np.sqrt(self.n_outside[fold])
        is_full = self.n_columns >= DENSE_FROM
        sparse = np.flatnonzero(~is_full)
        few = csr_array(outside[sparse].multiply(scale[sparse, None]))
        total = np.asarray((few.T @ few).toarray())
        full = np.flatnonzero(is_full)
        for start in range(0, len(full), DENSE_AT_ONCE):
            at = full[start : start + DENSE_AT_ONCE]
            rows = outside[at].toarray() * scale[at, None]
            total += rows.T @ rows
        return total

    def coefficients(
        self,
        crossed: Float[np.ndarray, "folds surface columns"],
        of_cell: Float[np.ndarray, "cells columns"],
    ) -> Float[np.ndarray, "folds surface columns"]:
        """Coefficients of each fold, fitted on the others.

        Args:
            crossed: `sum x y` over the tokens of each fold.
            of_cell: `sum y` over the tokens of each cell.
        """
        own = [self.by_id(of) @ of_cell[of] for of in self.members]
        total, all_crossed = np.sum(own, axis=0), crossed.sum(axis=0)
        mean = [(total - own[f]) / self.n_outside[f][:, None] for f in range(self.n_folds)]
        explained = np.split(self._times_surface(np.hstack(mean)), self.n_folds, axis=1)
        found = []
        for fold, of in enumerate(self.members):
            inside = self.products.by_cell[of].T @ mean[fold][self.cells.token[of]]
            right = all_crossed - crossed[fold] - explained[fold] + inside
            found.append(cho_solve(self.factors[fold], right, check_finite=False))
        return np.stack(found)

    def _times_surface(
        self, mean: Float[np.ndarray, "ids columns"]
    ) -> Float[np.ndarray, "surface columns"]:
        """`sum over ids of surface times mean`."""
        rest, sparse = self.sparse_rows
        return np.asarray(self.full_rows.T @ mean[self.frequent] + sparse @ mean[rest])
