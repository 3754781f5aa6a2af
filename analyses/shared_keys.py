"""Keys that occur under both conditions, and what a token with one weighs when matched."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int

from interp.analyses.permutation import LeftOut
from interp.analyses.streaming import CellCounts


@dataclass(frozen=True, kw_only=True)
class SharedKeys:
    """The keys that occur under both conditions, and which clusters have them how often."""

    cells: CellCounts
    """Cells of shared keys only."""
    row_tokens: Int[np.ndarray, "rows"]
    """All tokens of each row, those that cannot be matched included."""

    @classmethod
    def of(cls, cells: CellCounts, *, n_rows: int) -> "SharedKeys":
        """Keep the cells of the keys that both conditions have."""
        keys, place = np.unique(cells.key, return_inverse=True)
        seen = np.zeros((len(keys), 2), dtype=bool)
        seen[place, cells.row % 2] = True
        kept = (seen[:, 0] & seen[:, 1])[place]
        return cls(
            cells=CellCounts(
                key=cells.key[kept], row=cells.row[kept], n_tokens=cells.n_tokens[kept]
            ),
            row_tokens=np.bincount(cells.row, cells.n_tokens, minlength=n_rows).astype(np.int64),
        )

    @cached_property
    def keys(self) -> Int[np.ndarray, "keys"]:
        """Rising."""
        return np.unique(self.cells.key)

    @cached_property
    def place(self) -> Int[np.ndarray, "cells"]:
        """Key of each cell, as its place in `keys`."""
        return np.searchsorted(self.keys, self.cells.key)

    @cached_property
    def n_tokens(self) -> Float[np.ndarray, "keys 2"]:
        """Organic and benchmark tokens with each key."""
        return self._by_key(self.cells.n_tokens.astype(float), self.cells.row % 2, 2)

    @cached_property
    def total(self) -> Float[np.ndarray, "2"]:
        """All organic and all benchmark tokens."""
        by_side = rearrange(self.row_tokens, "(clusters side) -> clusters side", side=2)
        return np.asarray(by_side.sum(axis=0, dtype=float))

    def _by_key(
        self, values: Float[np.ndarray, "cells"], column: Int[np.ndarray, "cells"], n_columns: int
    ) -> Float[np.ndarray, "keys columns"]:
        flat = np.bincount(
            self.place * n_columns + column, values, minlength=len(self.keys) * n_columns
        )
        split = "(keys columns) -> keys columns"
        return rearrange(flat.astype(np.float64), split, columns=n_columns)

    def without(
        self, left_out: LeftOut, replicates: Int[np.ndarray, "replicates"]
    ) -> tuple[Float[np.ndarray, "keys 2 replicates"], Float[np.ndarray, "2 replicates"]]:
        """`n_tokens` and `total` with the clusters of each of these rising replicates left out."""
        of_row = np.repeat(left_out.replicate, 2)
        n, start = len(replicates), int(replicates[0])
        place = of_row[self.cells.row] - start
        own = (place >= 0) & (place < n)
        taken = np.zeros((len(self.keys), 2, n))
        np.add.at(
            taken,
            (self.place[own], self.cells.row[own] % 2, place[own]),
            self.cells.n_tokens[own],
        )
        gone = np.zeros((2, len(left_out.stratum)))
        np.add.at(gone, (np.arange(len(of_row)) % 2, of_row), self.row_tokens)
        return self.n_tokens[..., None] - taken, self.total[:, None] - gone[:, start : start + n]


def token_weights(
    n_tokens: Float[np.ndarray, "keys 2 *of"], total: Float[np.ndarray, "2 *of"]
) -> tuple[Float[np.ndarray, "keys 2 *of"], Float[np.ndarray, "*of"]]:
    """What one token of either condition weighs in its matched usage, and the overlap.

    With `a_t`, `b_t` the shares of key t among the tokens of either condition,
    `overlap = sum_t min(a_t, b_t)`, and a token weighs `min(a_t, b_t) / overlap` divided by the
    tokens of its condition with that key. So the weights of a condition's tokens sum to 1.

    Args:
        n_tokens: Organic and benchmark tokens with each key.
        total: All tokens of either condition, those with other keys included.

    Returns:
        Weights (0 everywhere where the overlap is 0), and the overlap, 0 to 1.
    """
    common = (n_tokens / np.maximum(total, 1)).min(axis=1)
    overlap = common.sum(axis=0)
    share = np.divide(common, overlap, out=np.zeros_like(common), where=overlap > 0)
    each = np.divide(
        share[:, None], n_tokens, out=np.zeros_like(n_tokens), where=(share > 0)[:, None]
    )
    return each, np.asarray(overlap)
