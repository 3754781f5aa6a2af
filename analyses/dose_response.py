"""Sets of experts of growing size, sets that are all that is left, and what either does."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from interp.analyses.interaction import Interaction, interaction_of_damage

Expert = tuple[int, int]
Experts = tuple[Expert, ...]
OF_MATCHED = ("share_below", "matched_low", "matched_high")
"""Columns of the slope that compare it with matched sets."""


def nested_sets(ordered: Sequence[Expert], *, most: int = 8) -> tuple[Experts, ...]:
    """The first 1, 2, ... experts; where there are more than `most` sizes, evenly spaced ones.

    Example:
        >>> [len(each) for each in nested_sets([(0, e) for e in range(20)], most=4)]
        [1, 7, 14, 20]
    """
    n = len(ordered)
    sizes = np.unique(np.linspace(1, n, min(n, most)).round().astype(int))
    return tuple(tuple(ordered[:size]) for size in sizes.tolist())


def all_but(
    kept: Sequence[Expert],
    *,
    usage: Float[np.ndarray, "layers experts"],
    layer_indices: Sequence[int],
    top_k: int,
    never: Collection[Expert] = (),
) -> tuple[Experts, Experts]:
    """What to take out so that only `kept` is left in its layers, and what had to stay besides.

    A token needs `top_k` experts. A layer with fewer kept ones keeps the most used others too
    (ours); so the sufficiency of a small set is that of the set with these. A matched set is left
    with others than the found experts, or it would not say what is left without them.

    Args:
        kept: The set that is to suffice.
        usage: Of every expert, over all prompts.
        layer_indices: Number in the model of each layer.
        top_k: Experts that a token needs.
        never: Experts that do not stay besides, such as the found ones for a matched set.

    Returns:
        Experts to take out, and those that stay though they are not in `kept`. A layer with too few
        others is left with fewer than `top_k`, and no model can be run so.
    """
    out: list[Expert] = []
    stay: list[Expert] = []
    for layer in sorted({layer for layer, _ in kept}):
        mine = {expert for at, expert in kept if at == layer}
        by_usage = np.argsort(-usage[list(layer_indices).index(layer)], kind="stable").tolist()
        others = [expert for expert in by_usage if expert not in mine]
        may = [expert for expert in others if (layer, expert) not in never]
        more = may[: max(top_k - len(mine), 0)]
        stay += [(layer, expert) for expert in more]
        out += [(layer, expert) for expert in sorted(set(others) - set(more))]
    return tuple(out), tuple(stay)


def reductions_of_matched(
    matched: Sequence[Sequence[Expert]],
    found: Sequence[Expert],
    *,
    usage: Float[np.ndarray, "layers experts"],
    layer_indices: Sequence[int],
    top_k: int,
    most: int,
) -> tuple[Experts, ...]:
    """What to take out so that a matched set is left without any of the found experts.

    As `all_but`, for the first matched sets; those that leave the same experts as an earlier one
    count once, and those whose layers have too few others to be run are left out.

    Args:
        matched: Matched sets.
        found: The found set, in the same layers.
        usage: As in `all_but`.
        layer_indices: Likewise.
        top_k: Likewise.
        most: Different reductions, at most.
    """
    n_experts, reductions = usage.shape[1], dict[Experts, None]()
    for kept in matched:
        out, _ = all_but(kept, usage=usage, layer_indices=layer_indices, top_k=top_k, never=found)
        n_left = [n_experts - sum(at == layer for at, _ in out) for layer, _ in kept]
        if len(reductions) < most and min(n_left) >= top_k:
            reductions[out] = None
    return tuple(reductions)


@dataclass(frozen=True, kw_only=True)
class DoseResponse:
    """What taking out more and more of the found experts does."""

    sizes: tuple[int, ...]
    """Experts that were taken out."""
    interaction: Interaction
    """Of each size."""
    matched: Float[np.ndarray, "matched sizes"]
    """Interactions of as many experts of each matched set."""
    slope: Interaction | None
    """Least-squares slope over sizes, in the unit of the damage for each further expert; None where
    there is one size."""

    def slope_frame(self) -> pd.DataFrame:
        """One row: slope of the interaction with its interval, and the slopes of matched sets.

        The 5 % and 95 % quantiles of theirs, and `share_below`, the share with a smaller one. All
        are missing where there is one size.
        """
        names = ("slope", "slope_low", "slope_high", "p_greater")
        row: dict[str, float] = dict.fromkeys((*names, *OF_MATCHED), np.nan)
        if self.slope is not None:
            found = (self.slope.value, *self.slope.interval(), self.slope.p_greater())
            row |= {name: float(each[0]) for name, each in zip(names, found, strict=True)}
            matched = self.matched @ slope_weights(self.sizes)
            if len(matched):
                share = (matched < row["slope"]).mean()
                found = (share, *np.quantile(matched, [0.05, 0.95]))
                row |= {name: float(each) for name, each in zip(OF_MATCHED, found, strict=True)}
        counts = {"n_matched": len(self.matched), "n_items": self.interaction.n_items}
        return pd.DataFrame([{"n_sizes": len(self.sizes)} | row | counts])

    def to_frame(self) -> pd.DataFrame:
        """One row per size, with the 5 % and 95 % quantiles of the matched sets."""
        quantiles = np.full((2, len(self.sizes)), np.nan)
        if len(self.matched):
            quantiles = np.quantile(self.matched, [0.05, 0.95], axis=0)
        frame = self.interaction.to_frame()
        frame.insert(0, "size", self.sizes)
        return frame.assign(matched_low=quantiles[0], matched_high=quantiles[1])


def dose_response_of_damage(
    sizes: Sequence[int],
    damage: Float[np.ndarray, "sizes prompts"],
    *,
    matched: Float[np.ndarray, "matched sizes"],
    benchmark: Bool[np.ndarray, "prompts"],
    item: Shaped[np.ndarray, "prompts"],
    clusters: Mapping[str, Shaped[np.ndarray, "prompts"]] | None = None,
) -> DoseResponse:
    """Interaction over set size, and its slope with an interval clustered as everything else.

    The slope is linear in the damages, `sum_s (s - mean s) damage_s / sum_s (s - mean s)^2`, so it
    is taken within each prompt first, and its interval counts what the sizes share.

    How it fools you: sets are nested, so that one harmful expert among the first bends the whole
    curve; and reroute gives the tokens of each further expert to worse and worse stand-ins, so that
    damage grows for any set. Read it beside `matched`.

    Args:
        sizes: Rising, from `nested_sets`.
        damage: Of each size.
        matched: Interactions of matched sets of the same sizes.
        benchmark: Condition of each prompt.
        item: The unit.
        clusters: As in `interaction_of_damage`.
    """
    rows = [damage, (slope_weights(sizes) @ damage)[None]] if len(sizes) > 1 else [damage]
    found, *slope = (
        interaction_of_damage(each, benchmark=benchmark, item=item, clusters=clusters)
        for each in rows
    )
    return DoseResponse(
        sizes=tuple(sizes), interaction=found, matched=matched, slope=slope[0] if slope else None
    )


def slope_weights(sizes: Sequence[int]) -> Float[np.ndarray, "sizes"]:
    """Weights of the values at each size that add up to the least-squares slope over sizes."""
    from_mean = np.array(sizes, dtype=float) - np.mean(sizes)
    return np.asarray(from_mean / (from_mean**2).sum())


@dataclass(frozen=True, kw_only=True)
class Sufficiency:
    """What is left when only a set of experts is left in its layers."""

    interaction: Interaction
    """Of taking out all the others: below 0 where the set serves benchmark prompts better."""
    matched_damage: Float[np.ndarray, "matched"]
    """Damage to benchmark prompts where a matched set is what is left."""
    matched: Float[np.ndarray, "matched"]
    """Their interactions."""
    stay: Experts
    """Experts that had to stay besides, since a token needs `top_k`."""

    @property
    def share_worse(self) -> float:
        """Share of matched sets that, alone, leave benchmark prompts worse off; NaN without one."""
        if not len(self.matched_damage):
            return float("nan")
        return float((self.matched_damage > self.interaction.damage_benchmark[0]).mean())

    def to_frame(self) -> pd.DataFrame:
        """One row: the found set beside its matched ones."""
        frame = self.interaction.to_frame()
        return frame.assign(
            share_worse=self.share_worse, n_matched=len(self.matched), n_stay=len(self.stay)
        )


def difference_between_models(
    first: Float[np.ndarray, "prompts"],
    second: Float[np.ndarray, "prompts"],
    *,
    benchmark: Bool[np.ndarray, "prompts"],
    item: Shaped[np.ndarray, "prompts"],
    clusters: Mapping[str, Shaped[np.ndarray, "prompts"]] | None = None,
) -> Interaction:
    """Interaction in the first model less that in the second, on the same prompts, with interval.

    Each model has its own found set; both are run on the same items, so the difference is taken
    within each prompt (ours). Nats per token of two models with different tokenizers are different
    units: compare damages over the usual outcome, or models that share a tokenizer.

    Args:
        first: Damage of the first model's found set.
        second: Likewise of the second's, in the same order of prompts.
        benchmark: Condition of each prompt.
        item: The unit.
        clusters: As in `interaction_of_damage`.
    """
    return interaction_of_damage(
        (first - second)[None], benchmark=benchmark, item=item, clusters=clusters
    )
