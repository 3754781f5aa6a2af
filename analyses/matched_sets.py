"""Random sets of experts that are like a given set in all but what was found about it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Integer

from interp.analyses.drawn_sets import drawn_sets_and_pool, number_of_sets

Expert = tuple[int, int]
LEAST_USAGE = 1e-6
"""Usages below it count as this, so that their logarithm is finite."""
FACTOR = 2.0
"""Usage further off than by this factor is called unmatched."""


@dataclass(frozen=True, kw_only=True)
class MatchedSets:
    """Sets of experts in place of the found one. See docs/experiments.md."""

    sets: tuple[tuple[Expert, ...], ...]
    """Each expert stands where the found one is that it was matched to; no two sets are alike."""
    n_possible: int
    """Different sets that there are, of all other experts of these layers that may be drawn."""
    pool: int
    """Nearest neighbours that each expert was drawn from."""
    usage_ratio: Float[np.ndarray, "sets"]
    """Usage of the set over that of the found set."""
    notes: tuple[str, ...]
    """What could not be matched, one sentence each."""

    def to_frame(self) -> pd.DataFrame:
        """One row per set."""
        return pd.DataFrame(
            {
                "experts": [expert_names(each) for each in self.sets],
                "usage_ratio": self.usage_ratio,
            }
        )


def expert_names(experts: Sequence[Expert]) -> str:
    """Such as `3:17 3:5`: layer, by its number in the model, and expert."""
    return " ".join(f"{layer}:{expert}" for layer, expert in experts)


def draw_matched_sets(
    found: Sequence[Expert],
    *,
    usage: Float[np.ndarray, "layers experts"],
    layer_indices: Sequence[int],
    rng: np.random.Generator,
    saliency: Float[np.ndarray, "layers experts"] | None = None,
    excluded: Bool[np.ndarray, "layers experts"] | None = None,
    n_sets: int = 100,
) -> MatchedSets:
    """Random sets with as many experts in each layer, each like one that was found.

    Like means near in the logarithm of the usage and, where given, of the saliency, each over its
    standard deviation within the layer (Euclidean; ours). Each found expert is replaced by one of
    its nearest `pool` neighbours in its layer, none twice; `pool` starts at 3 and grows until there
    are `n_sets` different sets; where fewer exist, as in the place of a single expert of 32, all of
    them are given, near or not. Nearest neighbours, because an expert that is used more can hurt
    more whatever it does: the usage to give is that *under benchmark*, since a random expert with
    that usage over all prompts may not be used under benchmark at all.

    Args:
        found: Layer, by its number in the model, and expert.
        usage: Of every expert under benchmark.
        layer_indices: Number in the model of each layer.
        rng: Source of chance.
        saliency: Such as REAP's, where norms are stored; experts without one are left out.
        excluded: Experts that are not drawn, such as super experts; the found are never drawn.
        n_sets: Sets that are wanted.

    Returns:
        All sets that there are, with a note, where the layers have too few other experts.

    Raises:
        ValueError: If nothing was found, or `n_sets` is below 1.

    Example:
        >>> usage = np.array([[0.3, 0.29, 0.01, 0.4]])
        >>> rng = np.random.default_rng(0)
        >>> draw_matched_sets([(7, 0)], usage=usage, layer_indices=[7], rng=rng, n_sets=3).notes
        ('expert 0 of layer 7 has 1 neighbours of 3 whose usage is off by more than a factor of 2',)
    """
    if not found or n_sets < 1:
        raise ValueError(f"found has {len(found)} experts and n_sets is {n_sets}; give 1 or more")
    ordered = [
        _neighbours(each, found, usage, saliency, excluded, tuple(layer_indices)) for each in found
    ]
    layers = np.array([layer for layer, _ in found])
    n_possible = number_of_sets(ordered, layers)
    sets, pool = drawn_sets_and_pool(ordered, layers, rng, n_sets, n_possible=n_possible)
    taken = tuple(
        tuple((layer, expert) for (layer, _), expert in zip(found, each, strict=True))
        for each in sets
    )
    place = {layer: index for index, layer in enumerate(layer_indices)}
    whole = sum(usage[place[layer], expert] for layer, expert in found)
    ratio = [sum(usage[place[layer], expert] for layer, expert in each) / whole for each in taken]
    notes = _notes(found, ordered, usage, place, pool)
    if len(sets) < n_sets:
        notes.append(
            f"{len(sets)} different sets can be drawn in the place of {expert_names(found)}, fewer "
            f"than {n_sets}: the layers have too few other experts"
        )
    return MatchedSets(
        sets=taken,
        n_possible=n_possible,
        pool=pool,
        usage_ratio=np.array(ratio, dtype=float),
        notes=tuple(notes),
    )


def _neighbours(
    expert: Expert,
    found: Sequence[Expert],
    usage: Float[np.ndarray, "layers experts"],
    saliency: Float[np.ndarray, "layers experts"] | None,
    excluded: Bool[np.ndarray, "layers experts"] | None,
    layer_indices: tuple[int, ...],
) -> Integer[np.ndarray, "others"]:
    """Experts of the layer that may be drawn, nearest first."""
    layer, index = expert
    place = layer_indices.index(layer)
    mine = [each for at, each in found if at == layer]
    may = np.ones(usage.shape[1], dtype=bool)
    may[mine] = False
    if excluded is not None:
        may &= ~excluded[place]
    features = [usage[place]]
    if saliency is not None and np.isfinite(saliency[place, mine]).all():
        may &= np.isfinite(saliency[place])
        features.append(saliency[place])
    distance = np.zeros(usage.shape[1])
    for each in features:
        logged = np.log2(np.maximum(np.nan_to_num(each), LEAST_USAGE))
        spread = float(logged[may].std()) if may.any() else 0.0
        distance += ((logged - logged[index]) / (spread or 1.0)) ** 2
    others = np.flatnonzero(may)
    return others[np.argsort(distance[others], kind="stable")]


def _notes(
    found: Sequence[Expert],
    ordered: Sequence[Integer[np.ndarray, "_"]],
    usage: Float[np.ndarray, "layers experts"],
    place: dict[int, int],
    pool: int,
) -> list[str]:
    notes = []
    for (layer, expert), others in zip(found, ordered, strict=True):
        own = max(float(usage[place[layer], expert]), LEAST_USAGE)
        ratio = np.maximum(usage[place[layer], others[:pool]], LEAST_USAGE) / own
        n_off = int((np.abs(np.log2(ratio)) > np.log2(FACTOR)).sum())
        if n_off:
            notes.append(
                f"expert {expert} of layer {layer} has {n_off} neighbours of {len(ratio)} whose "
                f"usage is off by more than a factor of {FACTOR:g}"
            )
    return notes
