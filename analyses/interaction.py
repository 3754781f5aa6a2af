"""Does taking experts out hurt one condition more than the other? The estimand of every experiment.

All experiments here, of knockouts, patches and steering alike, end in one table: the damage to each
prompt under each intervention. What differs is only which interventions there are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Integer, Shaped
from scipy import stats

from interp.analyses.cells import mean_difference_sums
from interp.analyses.jackknife import Jackknife, cluster_jackknife

LEVEL = 0.95
"""Level of the intervals in tables."""
ROUNDING = 1e-12
"""An effect this near to a margin is the margin; so near do clusters that are alike come."""


@dataclass(frozen=True, kw_only=True)
class Interaction:
    """Damage under benchmark less damage under organic, of every intervention. docs/experiments.md.

    Units are those of the damage: nats per token, or a share of right answers.
    """

    damage_benchmark: Float[np.ndarray, "sets"]
    """Mean damage of benchmark prompts, every item weighing alike; above 0 is worse."""
    damage_organic: Float[np.ndarray, "sets"]
    """Likewise of organic prompts."""
    by_cluster: Mapping[str, Jackknife]
    """For each kind of cluster (item, template, source) the interaction with its standard error."""
    least_p: Mapping[str, float]
    """For each kind, the p of an exact test where every cluster says the same: `least_p_value`."""
    n_items: int
    """Items that have prompts."""
    n_paired: int
    """Of them, those with prompts of both conditions."""

    @property
    def value(self) -> Float[np.ndarray, "sets"]:
        """`damage_benchmark - damage_organic`."""
        return np.asarray(self.damage_benchmark - self.damage_organic)

    def interval(
        self, level: float = LEVEL
    ) -> tuple[Float[np.ndarray, "sets"], Float[np.ndarray, "sets"]]:
        """Lowest lower and highest upper end over the kinds of clusters; NaN where none has one."""
        ends = [each.interval(level) for each in self.by_cluster.values()]
        lowest, highest = [low for low, _ in ends], [high for _, high in ends]
        return np.asarray(np.fmin.reduce(lowest)), np.asarray(np.fmax.reduce(highest))

    def p_greater(self, margin: float = 0.0) -> Float[np.ndarray, "sets"]:
        """One-sided p-value against interactions of at most `margin`; the largest over clusters.

        Where no cluster differs from another there is no t. An interaction above the margin then
        has the p of an exact test (`least_p_value`), as where every answer is lost on one side and
        none on the other; one at the margin, as of an expert that is never used, has 0.5.
        """
        found = []
        for name, each in self.by_cluster.items():
            error, beyond = each.standard_error, each.effect - margin
            p = stats.t.sf(beyond / np.where(error > 0, error, np.nan), each.df)
            exact = np.where(beyond > 0, self.least_p[name], 1.0)
            exact[np.abs(beyond) <= ROUNDING * (1 + abs(margin))] = 0.5
            found.append(np.where(error == 0, exact, p))
        return np.asarray(np.fmax.reduce(found))

    def to_frame(self) -> pd.DataFrame:
        """One row per intervention, in the order of the damages."""
        low, high = self.interval()
        return pd.DataFrame(
            {
                "damage_benchmark": self.damage_benchmark,
                "damage_organic": self.damage_organic,
                "interaction": self.value,
                "interaction_low": low,
                "interaction_high": high,
                "p_greater": self.p_greater(),
                "n_items": self.n_items,
                "n_paired": self.n_paired,
            }
        )


def interaction_of_damage(
    damage: Float[np.ndarray, "sets prompts"],
    *,
    benchmark: Bool[np.ndarray, "prompts"],
    item: Shaped[np.ndarray, "prompts"],
    clusters: Mapping[str, Shaped[np.ndarray, "prompts"]] | None = None,
) -> Interaction:
    """Interaction of condition and intervention, per item where items are paired.

    With `d_ic` the mean damage of item i's prompts of condition c, `mean_i d_iB - mean_i d_iO`
    (ours; the difference in differences of an experiment with a within-item factor). Where every
    item has both conditions, this is the mean over items of `d_iB - d_iO`, and its jackknife over
    items is the paired t test; where none has, Welch's. Prompts of one item and condition count
    as one.

    The intervention is randomised to nothing: each prompt is run with and without it, so a damage
    has no sampling error of its own. What is uncertain is which items there are.

    Args:
        damage: Outcome without the intervention less outcome with it.
        benchmark: Condition of each prompt.
        item: The unit; variants of one item share it.
        clusters: Kinds of clusters by name; intervals are the widest and p-values the largest of
            them. Items alone if None.

    Raises:
        ValueError: If a condition has no prompt, or a damage is not finite.

    Example:
        >>> found = interaction_of_damage(
        ...     np.array([[3.0, 1.0, 4.0, 0.0, 5.0, 2.0]]),
        ...     benchmark=np.array([True, False] * 3), item=np.array([1, 1, 2, 2, 3, 3]),
        ... )
        >>> found.value, found.n_paired, found.p_greater().round(4)
        (array([3.]), 3, array([0.0175]))
    """
    _check(damage, benchmark)
    kinds = {"item": item} if clusters is None else dict(clusters)
    number, n_items, n_paired = _items(benchmark, item)
    by_cluster, least_p = {}, {}
    for name, cluster in kinds.items():
        rows, first = _rows(damage, benchmark, number, cluster)
        sums = mean_difference_sums(rows, benchmark=benchmark[first], cluster=cluster[first])
        by_cluster[name] = cluster_jackknife(sums)
        least_p[name] = least_p_value(benchmark, cluster)
    rows, first = _rows(damage, benchmark, number, number)
    return Interaction(
        damage_benchmark=rows[benchmark[first]].mean(axis=0),
        damage_organic=rows[~benchmark[first]].mean(axis=0),
        by_cluster=by_cluster,
        least_p=least_p,
        n_items=n_items,
        n_paired=n_paired,
    )


def least_p_value(
    benchmark: Bool[np.ndarray, "prompts"], cluster: Shaped[np.ndarray, "prompts"]
) -> float:
    """The least p that an exact test of whole clusters can give: one labelling of all there are.

    Fisher 1935: if conditions do not matter, each cluster with both could as well have them
    swapped, and those of one condition alone could have been dealt out otherwise. Of these
    `2^both * C(alone, benchmark alone)` labellings only the one there was reaches an effect that
    all clusters agree on. Where all have both, this is the sign test.

    Example:
        >>> least_p_value(np.tile([True, False], 5), np.repeat(np.arange(5), 2))
        0.03125
    """
    _, number = np.unique(cluster, return_inverse=True)
    has = [
        np.bincount(number[side], minlength=number.max() + 1) > 0
        for side in (benchmark, ~benchmark)
    ]
    n_both = int((has[0] & has[1]).sum())
    n_benchmark, n_organic = (int(each.sum()) - n_both for each in has)
    return float(1 / (2**n_both * comb(n_benchmark + n_organic, n_benchmark)))


def _items(
    benchmark: Bool[np.ndarray, "prompts"], item: Shaped[np.ndarray, "prompts"]
) -> tuple[Integer[np.ndarray, "prompts"], int, int]:
    """Number of each prompt's item, how many items there are, how many have both conditions."""
    names, number = np.unique(item, return_inverse=True)
    has = [np.bincount(number[side], minlength=len(names)) > 0 for side in (benchmark, ~benchmark)]
    return number, len(names), int((has[0] & has[1]).sum())


def _rows(
    damage: Float[np.ndarray, "sets prompts"],
    benchmark: Bool[np.ndarray, "prompts"],
    item: Integer[np.ndarray, "prompts"],
    cluster: Shaped[np.ndarray, "prompts"],
) -> tuple[Float[np.ndarray, "rows sets"], Integer[np.ndarray, "rows"]]:
    """Mean damage of each item, condition and cluster, and one prompt of each."""
    _, of_cluster = np.unique(cluster, return_inverse=True)
    key = (of_cluster * (item.max() + 1) + item) * 2 + benchmark
    _, first, row, count = np.unique(
        key, return_index=True, return_inverse=True, return_counts=True
    )
    summed = np.zeros((len(first), len(damage)))
    np.add.at(summed, row, damage.T)
    return summed / count[:, None], first


def _check(
    damage: Float[np.ndarray, "sets prompts"], benchmark: Bool[np.ndarray, "prompts"]
) -> None:
    if benchmark.all() or not benchmark.any():
        raise ValueError(
            f"all {len(benchmark)} prompts have one condition, so there is no interaction; give "
            "prompts of both"
        )
    if not np.isfinite(damage).all():
        wrong = int(np.flatnonzero(~np.isfinite(damage).all(axis=0))[0])
        raise ValueError(f"damage of prompt {wrong} is not finite; leave the prompt out")


def damage_per_slot(
    damage: Float[np.ndarray, "sets"], slots: Float[np.ndarray, "sets"]
) -> Float[np.ndarray, "sets"]:
    """Damage over the routed slots that the set got: nats per token, for one slot per token.

    A set that is used more can do more; this is what one use of it is worth (ours). `slots` is the
    number of slots per token that went to the set, from 0 to layers times `top_k`.

    Returns:
        NaN where the set got no slot.
    """
    return damage / np.where(slots > 0, slots, np.nan)
