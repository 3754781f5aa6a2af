"""The surface of a token as few numbers: its previous token, position and log-probability."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from interp.analyses.streamed_quantiles import quantiles_of_counts, streamed_quantiles
from interp.analyses.streaming import CellCounts, added_up, places
from interp.analyses.token_stream import TokenPart, TokenStream

N_KNOTS = 8
"""Knots of position and of log-probability, at their quantiles."""
MAX_PREVIOUS = 1024
"""Previous tokens with a constant of their own; the rarer ones share one."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Where values lie between knots: `1 - share` of the knot before, `share` of the one after."""

    interval: Int[np.ndarray, "tokens"]
    """Number of the knot before; as many as there are intervals for a value that is missing."""
    share: Float[np.ndarray, "tokens"]
    """From 0 to 1; 0 for a value that is missing."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Hat functions at knots: a fit that is linear between them and constant outside."""

    knots: Float[np.ndarray, "knots"]
    """Rising, distinct."""
    has_missing: bool
    """Whether a column of its own stands for values that are missing (NaN)."""

    @property
    def n_intervals(self) -> int:
        """Intervals between knots, at least 1, and one for missing values."""
        return max(1, len(self.knots) - 1) + self.has_missing

    @property
    def n_columns(self) -> int:
        """Knots, and one for missing values."""
        return len(self.knots) + self.has_missing

    def place(self, values: Float[np.ndarray, "tokens"]) -> Placed:
        """Interval of each value, and how far in it lies."""
        last = max(1, len(self.knots) - 1) - 1
        interval = np.clip(np.searchsorted(self.knots, values, side="right") - 1, 0, last)
        share = np.zeros(len(values))
        if len(self.knots) > 1:
            width = np.diff(self.knots)
            share = np.clip((values - self.knots[interval]) / width[interval], 0.0, 1.0)
        missing = np.isnan(values)
        return Placed(
            interval=np.where(missing, self.n_intervals - 1, interval),
            share=np.where(missing, 0.0, share),
        )

    @cached_property
    def from_counts(self) -> Float[np.ndarray, "columns intervals"]:
        """What a token counts in each column if its share is 0."""
        return np.eye(self.n_columns)[:, self._knot_before]

    @cached_property
    def from_shares(self) -> Float[np.ndarray, "columns intervals"]:
        """What each column gains, by the unit of share."""
        after = np.minimum(np.arange(self.n_intervals) + 1, len(self.knots) - 1)
        gain = np.eye(self.n_columns)[:, after] - self.from_counts
        if self.has_missing:
            gain[:, -1] = 0.0
        return np.asarray(gain)

    @property
    def _knot_before(self) -> Int[np.ndarray, "intervals"]:
        before = np.arange(self.n_intervals)
        if self.has_missing:
            before[-1] = self.n_columns - 1
        return before

    def columns(self, placed: Placed) -> Float[np.ndarray, "tokens columns"]:
        """The hat functions of each token; each row sums to 1."""
        share = placed.share[:, None]
        before = self.from_counts.T[placed.interval]
        return np.asarray(before + share * self.from_shares.T[placed.interval])


@dataclass(frozen=True, kw_only=True)
class SurfaceBasis:
    """Which columns the surface has: one for each frequent previous token, then the curves."""

    previous: Int[np.ndarray, "previous"]
    """Previous token ids that have a column, rising."""
    column: Int[np.ndarray, "previous"]
    """Column of each, by falling frequency."""
    n_previous: int
    """Columns of previous tokens; where there are rarer ones, the last is theirs."""
    curves: tuple[Curve, ...]
    """Of `log(1 + position)` and, where it is known of any token, of the log-probability."""

    @property
    def n_curve(self) -> int:
        """Columns of all curves."""
        return sum(curve.n_columns for curve in self.curves)

    @property
    def n_columns(self) -> int:
        """Columns of the surface."""
        return self.n_previous + self.n_curve

    def previous_of(self, part: TokenPart) -> Int[np.ndarray, "tokens"]:
        """Column of each token's previous token."""
        place, has_own = places(self.previous, part.previous_token_id)
        return np.where(has_own, self.column[place], self.n_previous - 1)

    def placed(self, part: TokenPart) -> tuple[Placed, ...]:
        """Where each token lies on each curve."""
        values = (np.log1p(part.position), part.logprob.astype(np.float64))
        return tuple(c.place(v) for c, v in zip(self.curves, values, strict=False))

    def curve_columns(self, placed: tuple[Placed, ...]) -> Float[np.ndarray, "tokens columns"]:
        """All curves beside each other."""
        pairs = zip(self.curves, placed, strict=True)
        return np.hstack([curve.columns(each) for curve, each in pairs])

    def features(self, part: TokenPart) -> csr_array:
        """All columns of each token, `[tokens, columns]`."""
        from scipy.sparse import hstack

        n = len(part.row)
        entries = (np.ones(n), (np.arange(n), self.previous_of(part)))
        previous = csr_array(entries, shape=(n, self.n_previous))
        curves = csr_array(self.curve_columns(self.placed(part)))
        return csr_array(hstack([previous, curves], format="csr"))


def surface_basis(stream: TokenStream, *, max_previous: int = MAX_PREVIOUS) -> SurfaceBasis:
    """The basis of these tokens, from exact counts and quantiles: 3 to 5 passes over them."""
    none = slice(0, 0)

    def logprobs() -> Iterable[Float[np.ndarray, "tokens"]]:
        return (part.logprob for part in stream.parts(none))

    both = added_up(_tallies(part) for part in stream.parts(none))
    previous, position = (both.key[both.row == kind] for kind in (0, 1))
    n_previous, n_position = (both.n_tokens[both.row == kind] for kind in (0, 1))
    shares = np.linspace(0.0, 1.0, N_KNOTS)
    knots = [
        np.unique(quantiles_of_counts(np.log1p(position), n_position, shares)),
        np.unique(streamed_quantiles(logprobs, shares)),
    ]
    rank = np.empty(len(previous), dtype=np.int64)
    rank[np.argsort(-n_previous, kind="stable")] = np.arange(len(rank))
    own = rank < max_previous
    curves = [Curve(knots=knots[0], has_missing=False)]
    if len(knots[1]):
        curves.append(Curve(knots=knots[1], has_missing=True))
    return SurfaceBasis(
        previous=previous[own],
        column=rank[own],
        n_previous=min(len(rank), max_previous + 1),
        curves=tuple(curves),
    )


def _tallies(part: TokenPart) -> CellCounts:
    """How often each previous token (row 0) and each position (row 1) occurs."""
    found = [np.unique(i, return_counts=True) for i in (part.previous_token_id, part.position)]
    sizes = [len(key) for key, _ in found]
    counts = CellCounts(
        key=np.concatenate([key for key, _ in found]).astype(np.int64),
        row=np.repeat([0, 1], sizes),
        n_tokens=np.concatenate([count for _, count in found]).astype(np.int64),
    )
    return counts + CellCounts.of(counts.key[:0], counts.row[:0])  # in the order of its kind
