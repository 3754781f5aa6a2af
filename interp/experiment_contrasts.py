"""Which prompts an experiment compares: benchmark against organic, and contrasts of no interest."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, permutations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Shaped

from interp.analyses.confirmation import MIN_CLUSTERS, discovery_half
from interp.prompts.matched import CELLS

MAIN = "benchmark - organic"
LEAST_ITEMS = 4
"""Items that a side of a contrast must have in either half."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Two groups of prompts, in the places of benchmark and organic."""

    name: str
    """Such as `domain: code - advice`: the first less the second."""
    first: Bool[np.ndarray, "prompts"]
    """Prompts in the place of benchmark."""
    second: Bool[np.ndarray, "prompts"]
    """Prompts in the place of organic."""

    @property
    def used(self) -> Bool[np.ndarray, "prompts"]:
        """Prompts of either side."""
        return np.asarray(self.first | self.second)


@dataclass(frozen=True, kw_only=True)
class Halves:
    """Which prompts may be looked at to find experts, and which say what they do."""

    discovery: Bool[np.ndarray, "prompts"]
    """Prompts of the contrast in which experts are searched."""
    test: Bool[np.ndarray, "prompts"]
    """The others of the contrast."""
    split_by: str
    """`template`, `source` or `item`: what is whole in one half."""
    note: str
    """What a split by items alone cannot exclude; empty for the others."""


def main_contrast(prompts: pd.DataFrame) -> Contrast:
    """Benchmark against organic."""
    condition = prompts["condition"].to_numpy(dtype=str)
    return Contrast(name=MAIN, first=condition == "benchmark", second=condition == "organic")


def placebo_contrasts(prompts: pd.DataFrame) -> list[Contrast]:
    """Contrasts that the condition has no part in, each in both directions.

    - neighbouring domains of the sorted list, in pairs: 1 and 2, 3 and 4, ...
    - neighbouring sources of one condition, likewise,
    - each wording against its sham (`VARIANT` against `VARIANT-sham`).

    Pairs, not all against all, so that a suite with many domains has no more placebos than it has
    domains; which they are follows from the names alone, and so is fixed before anything is run.
    """
    found = [*_pairs(prompts, "domain", "domain")]
    for condition in ("benchmark", "organic"):
        of_condition = prompts["condition"].to_numpy(dtype=str) == condition
        found += _pairs(prompts, "source", f"{condition} source", among=of_condition)
    variant = prompts["variant"].to_numpy(dtype=str)
    for name in (each for each in CELLS if f"{each}-sham" in CELLS):
        sides = {name: variant == name, f"{name}-sham": variant == f"{name}-sham"}
        if all(side.any() for side in sides.values()):
            found += _both_ways("wording", sides)
    return found


def _pairs(
    prompts: pd.DataFrame,
    field: str,
    title: str,
    among: Bool[np.ndarray, "prompts"] | None = None,
) -> Iterator[Contrast]:
    values = prompts[field].to_numpy(dtype=str)
    kept = np.ones(len(values), dtype=bool) if among is None else among
    names = sorted(set(values[kept]) - {""})
    for first, second in list(pairwise(names))[::2]:
        sides = {name: kept & (values == name) for name in (first, second)}
        yield from _both_ways(title, sides)


def _both_ways(title: str, sides: dict[str, Bool[np.ndarray, "prompts"]]) -> Iterator[Contrast]:
    for first, second in permutations(sides, 2):
        name = f"{title}: {first} - {second}"
        yield Contrast(name=name, first=sides[first], second=sides[second])


def halves_of(
    contrast: Contrast, prompts: pd.DataFrame, *, rng: np.random.Generator
) -> Halves | str:
    """Split a contrast by template, by source where there are too few, or else by item.

    Returns:
        The halves, or a sentence that says why there are none.
    """
    used = np.flatnonzero(contrast.used)
    first = contrast.first[used]
    note = ""
    for field in ("template", "source", "item_id"):
        cluster = prompts[field].to_numpy(dtype=str)[used]
        half, reason = discovery_half(first, cluster, rng=rng)
        if not reason:
            break
        note = (
            f"{contrast.name}: fewer than {MIN_CLUSTERS} templates and sources a side, so halves "
            "are split by item: what is true of these sources alone may look like found."
        )
    if reason:
        return f"{contrast.name}: {reason}"
    item = prompts["item_id"].to_numpy(dtype=str)[used]
    cells = (half & first, half & ~first, ~half & first, ~half & ~first)
    fewest = min(len(set(item[cell])) for cell in cells)
    if fewest < LEAST_ITEMS:
        return (
            f"{contrast.name}: a side has {fewest} items in one half, fewer than {LEAST_ITEMS}, so "
            "nothing can be found and tested on others; add items."
        )
    discovery, test = (np.zeros(len(prompts), dtype=bool) for _ in range(2))
    discovery[used[half]], test[used[~half]] = True, True
    return Halves(
        discovery=discovery,
        test=test,
        split_by=field.removesuffix("_id"),
        note=note if field == "item_id" else "",
    )


def clusters_of(
    contrast: Contrast, prompts: pd.DataFrame, among: Bool[np.ndarray, "prompts"]
) -> dict[str, Shaped[np.ndarray, "_"]]:
    """What intervals of these prompts are clustered by: items, and templates or sources beside.

    Templates and sources count where both sides have two of them, so that one can be left out.
    """
    found = {"item": prompts["item_id"].to_numpy(dtype=str)[among]}
    first = contrast.first[among]
    for field in ("template", "source"):
        cluster = prompts[field].to_numpy(dtype=str)[among]
        if min(len(set(cluster[first])), len(set(cluster[~first]))) >= 2:
            found[field] = cluster
    return found
