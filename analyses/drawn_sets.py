"""Different sets of one expert for each that was found, from pools of neighbours in its layer."""

from collections.abc import Iterable, Sequence
from itertools import combinations, product
from math import comb, prod
from typing import Any

import numpy as np
from jaxtyping import Integer
from scipy.optimize import linear_sum_assignment

LEAST_POOL = 3
"""Nearest neighbours to draw from for each expert, at least."""
TRIES = 40
"""Draws for each set that is wanted, before the pools are made larger."""


def number_of_sets(
    ordered: Sequence[Integer[np.ndarray, "_"]], layers: Integer[np.ndarray, "found"]
) -> int:
    """In each layer any of the others may stand for any of the found; the layers multiply."""
    first, n_found = np.unique(layers, return_index=True, return_counts=True)[1:]
    sizes = [len(ordered[each]) for each in first.tolist()]
    return prod(comb(size, n) for size, n in zip(sizes, n_found.tolist(), strict=True))


def drawn_sets_and_pool(
    ordered: Sequence[Integer[np.ndarray, "_"]],
    layers: Integer[np.ndarray, "found"],
    rng: np.random.Generator,
    n_sets: int,
    *,
    n_possible: int,
) -> tuple[list[tuple[int, ...]], int]:
    """Different sets from the nearest neighbours, or all that there are, and the size of the pools.

    Args:
        ordered: For each found expert the others of its layer, nearest first.
        layers: Layer of each found expert.
        rng: Source of chance.
        n_sets: Sets that are wanted.
        n_possible: Sets that there are, from `number_of_sets`.
    """
    if n_possible > n_sets:
        sets, pool = _nearest_sets(ordered, layers, rng, n_sets)
        if len(sets) == n_sets:
            return sets, pool
    sets = whole_sets(ordered, layers, rng, n_sets, n_possible=n_possible)
    return sets, max(len(each) for each in ordered)


def _nearest_sets(
    ordered: Sequence[Integer[np.ndarray, "_"]],
    layers: Integer[np.ndarray, "found"],
    rng: np.random.Generator,
    n_sets: int,
) -> tuple[list[tuple[int, ...]], int]:
    """Sets from the smallest pools that give enough of them, and the size of the pools."""
    largest = max(len(each) for each in ordered)
    pool = min(LEAST_POOL, max(largest, 1))
    while True:
        sets = _drawn([each[:pool] for each in ordered], layers, rng, n_sets)
        if len(sets) >= n_sets or pool >= largest:
            return sets, pool
        pool += 1


def _drawn(
    pools: Sequence[Integer[np.ndarray, "_"]],
    layers: Integer[np.ndarray, "found"],
    rng: np.random.Generator,
    n_sets: int,
) -> list[tuple[int, ...]]:
    """Different sets of one expert from each pool, no expert of a layer twice."""
    seen: dict[frozenset[tuple[int, int]], tuple[int, ...]] = {}
    if any(not len(pool) for pool in pools):
        return []
    for _ in range(TRIES * n_sets):
        drawn = [int(rng.choice(pool)) for pool in pools]
        members = frozenset(zip(layers.tolist(), drawn, strict=True))
        if len(members) == len(drawn):
            seen.setdefault(members, tuple(drawn))
        if len(seen) == n_sets:
            break
    return list(seen.values())


def whole_sets(
    ordered: Sequence[Integer[np.ndarray, "_"]],
    layers: Integer[np.ndarray, "found"],
    rng: np.random.Generator,
    n_sets: int,
    *,
    n_possible: int,
) -> list[tuple[int, ...]]:
    """All sets where no more are there than are wanted, else some, a layer at a time; shuffled.

    One expert after the other, as `_drawn` has it, seldom ends where most of a layer was found: the
    later ones are nearly always taken.
    """
    if not n_possible:  # a layer has too few others, however many sets the other layers have
        return []
    places = [np.flatnonzero(layers == layer).tolist() for layer in np.unique(layers)]
    others = [np.sort(ordered[each[0]]) for each in places]
    sizes = [len(each) for each in places]
    members: Iterable[Sequence[Any]]
    if n_possible <= n_sets:
        of_layers = zip(others, sizes, strict=True)
        members = product(*(combinations(each.tolist(), size) for each, size in of_layers))
    else:
        members = (
            [np.sort(rng.permutation(each)[:n]) for each, n in zip(others, sizes, strict=True)]
            for _ in range(TRIES * n_sets)
        )
    sets: dict[tuple[int, ...], None] = {}
    for of_layer in members:
        chosen = np.zeros(len(layers), dtype=int)
        for place, each in zip(places, of_layer, strict=True):
            chosen[place] = _placed(each, [ordered[at] for at in place])
        sets[tuple(chosen.tolist())] = None
        if len(sets) == n_sets:
            break
    drawn = list(sets)
    return [drawn[each] for each in rng.permutation(len(drawn)).tolist()]


def _placed(
    members: Sequence[int] | Integer[np.ndarray, "found"],
    ordered: Sequence[Integer[np.ndarray, "others"]],
) -> Integer[np.ndarray, "found"]:
    """The members, each in the place of the found expert that it is near to; least sum of ranks."""
    rank = np.array([[int(np.flatnonzero(each == one)[0]) for one in members] for each in ordered])
    return np.asarray(members)[linear_sum_assignment(rank)[1]]
