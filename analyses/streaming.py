"""Integer statistics of a part of a store that add up: memory does not grow with the tokens."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Integer

from interp.analyses.slots import summed_slots


@dataclass(frozen=True, kw_only=True)
class RoutedPart:
    """Some tokens, each with the row it counts to and the key it is matched by."""

    expert_indices: Integer[np.ndarray, "tokens layers top_k"]
    """Experts chosen."""
    row: Int[np.ndarray, "tokens"]
    """`2 * cluster + 1` for a benchmark token of a cluster, `2 * cluster` for an organic one."""
    key: Int[np.ndarray, "tokens"]
    """What tokens are matched by, such as the token id."""


Parts = Callable[[], Iterable[RoutedPart]]
"""Goes over all parts from the start, each time it is called."""


@dataclass(frozen=True, kw_only=True)
class CellCounts:
    """Tokens by key and row. `a + b` are the counts of both; `CellCounts()` has counted nothing.

    Its size is the number of pairs of key and row that occur: at most vocabulary times rows.
    """

    key: Int[np.ndarray, "cells"]
    """Rising."""
    row: Int[np.ndarray, "cells"]
    """Rising within a key."""
    n_tokens: Int[np.ndarray, "cells"]
    """At least 1."""

    @classmethod
    def of(
        cls, key: Integer[np.ndarray, "tokens"], row: Integer[np.ndarray, "tokens"]
    ) -> "CellCounts":
        """Count the tokens of one part."""
        return cls._added(key, row, np.ones(len(key), dtype=np.int64))

    def __add__(self, other: "CellCounts") -> "CellCounts":
        pairs = ((getattr(of, name) for of in (self, other)) for name in ("key", "row", "n_tokens"))
        return self._added(*(np.concatenate(list(pair)) for pair in pairs))

    @classmethod
    def _added(
        cls,
        key: Integer[np.ndarray, "entries"],
        row: Integer[np.ndarray, "entries"],
        n_tokens: Integer[np.ndarray, "entries"],
    ) -> "CellCounts":
        order = np.lexsort((row, key))
        key, row = key[order].astype(np.int64), row[order].astype(np.int64)
        is_first = np.ones(len(key), dtype=bool)
        is_first[1:] = (key[1:] != key[:-1]) | (row[1:] != row[:-1])
        first = np.flatnonzero(is_first)
        total = np.add.reduceat(n_tokens[order], first) if len(first) else n_tokens
        return cls(key=key[first], row=row[first], n_tokens=total.astype(np.int64))


@dataclass(frozen=True, kw_only=True)
class SlotCounts:
    """Routed slots by row, and by condition and key for the keys of interest. `a + b` adds them.

    Its size is fixed before the first token is seen.
    """

    keys: Int[np.ndarray, "keys"]
    """The keys that are counted, rising."""
    by_row: Int[np.ndarray, "rows layers experts"]
    """Slots of all tokens of a row."""
    by_key: Int[np.ndarray, "keys 2 layers experts"]
    """Slots of the organic and of the benchmark tokens with a key; others are left out."""

    @classmethod
    def none(
        cls, keys: Int[np.ndarray, "keys"], *, n_rows: int, n_layers: int, n_experts: int
    ) -> "SlotCounts":
        """Nothing counted yet. 32 bits by key: 2 billion tokens with one key are too many."""
        return cls(
            keys=keys,
            by_row=np.zeros((n_rows, n_layers, n_experts), dtype=np.int64),
            by_key=np.zeros((len(keys), 2, n_layers, n_experts), dtype=np.int32),
        )

    def count(self, part: RoutedPart) -> None:
        """Add the tokens of one part, in place."""
        n_rows, n_layers, n_experts = self.by_row.shape
        summed_slots(
            part.expert_indices, row=part.row, n_rows=n_rows, n_experts=n_experts, out=self.by_row
        )
        place, kept = places(self.keys, part.key)
        summed_slots(
            part.expert_indices[kept],
            row=2 * place[kept] + part.row[kept] % 2,
            n_rows=2 * len(self.keys),
            n_experts=n_experts,
            out=self.by_key.reshape(-1, n_layers, n_experts),
        )

    def __add__(self, other: "SlotCounts") -> "SlotCounts":
        """Raises ValueError if the two count other keys."""
        if not np.array_equal(self.keys, other.keys):
            raise ValueError(
                f"two SlotCounts of {len(self.keys)} and {len(other.keys)} keys cannot be added, "
                "because their keys differ; make both with the same keys"
            )
        return SlotCounts(
            keys=self.keys,
            by_row=self.by_row + other.by_row,
            by_key=self.by_key + other.by_key,
        )


def places(
    keys: Int[np.ndarray, "keys"], key: Integer[np.ndarray, "tokens"]
) -> tuple[Int[np.ndarray, "tokens"], Bool[np.ndarray, "tokens"]]:
    """Where each key stands among the rising `keys`, and whether it does."""
    if not len(keys):
        return np.zeros(len(key), dtype=np.int64), np.zeros(len(key), dtype=bool)
    place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
    return place, keys[place] == key


def count_cells(parts: Parts) -> CellCounts:
    """Tokens by key and row, over all parts."""
    return added_up(CellCounts.of(part.key, part.row) for part in parts())


def added_up(counts: Iterable[CellCounts]) -> CellCounts:
    """The sum of many counts; no large one is copied for each small one."""
    nothing = np.zeros(0, dtype=np.int64)
    counted = [CellCounts.of(nothing, nothing)]
    for count in counts:
        counted.append(count)
        while len(counted) > 1 and len(counted[-2].key) <= 2 * len(counted[-1].key):
            counted[-2:] = [counted[-2] + counted[-1]]
    while len(counted) > 1:
        counted[-2:] = [counted[-2] + counted[-1]]
    return counted[0]


def count_slots(
    parts: Parts, keys: Int[np.ndarray, "keys"], *, n_rows: int, n_layers: int, n_experts: int
) -> SlotCounts:
    """Slots by row and by key, over all parts."""
    total = SlotCounts.none(keys, n_rows=n_rows, n_layers=n_layers, n_experts=n_experts)
    for part in parts():
        total.count(part)
    return total
