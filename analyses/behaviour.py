"""Does a shift of routing between two wordings of an item predict what the model then does?"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from einops import reduce
from jaxtyping import Bool, Float, Integer, Shaped
from scipy import stats

from interp.analyses.estimates import jensen_shannon_bits
from interp.analyses.interaction import LEVEL


@dataclass(frozen=True, kw_only=True)
class RankCorrelation:
    """Spearman's correlation over items. See docs/experiments.md."""

    rho: float
    """-1 to 1; NaN where one of the two does not vary. Within clusters where these were given."""
    low: float
    """Lower end of the 95 % interval, by the jackknife over clusters of Fisher's z."""
    high: float
    """Upper end."""
    p_value: float
    """Two-sided: share of shuffles of whole items that reach it."""
    n_items: int
    """Items."""
    n_clusters: int
    """What was left out one at a time; items where no other clusters were given."""

    def to_frame(self) -> pd.DataFrame:
        """One row."""
        return pd.DataFrame([vars(self)])


def rank_correlation(
    shift: Float[np.ndarray, "items"],
    change: Float[np.ndarray, "items"],
    *,
    rng: np.random.Generator,
    cluster: Shaped[np.ndarray, "items"] | None = None,
    n_permutations: int = 10_000,
) -> RankCorrelation:
    """Spearman's rho of the shift of routing with the change of the outcome, item by item.

    Spearman 1904 (doi:10.2307/1412159): the correlation of ranks, ties sharing theirs. Interval:
    Fisher's `z = atanh(rho)` with each cluster left out, `(G - 1) / G sum_g (z_g - mean z)^2`, t
    with G - 1 degrees of freedom. p: changes are shuffled over items.

    Where clusters are given, rho is the partial correlation of the ranks given the cluster: each
    rank less the mean of its cluster; and changes are shuffled within clusters. So what differs
    between clusters alone predicts nothing.

    How it fools you: a long or rare wording shifts routing and lowers log-probabilities alike.
    That is prediction, no cause; routing patches ask for the cause.

    Args:
        shift: One number for each item, such as from `shift_towards` or `shift_bits`.
        change: Outcome under benchmark wording less outcome under organic wording.
        rng: Source of chance.
        cluster: Such as the template or the domain of each item.
        n_permutations: Shuffles.

    Raises:
        ValueError: If there are fewer than 4 items, or one is not finite.
    """
    if len(shift) < 4 or not np.isfinite(shift + change).all():
        raise ValueError(
            f"there are {len(shift)} items with {int((~np.isfinite(shift + change)).sum())} not "
            "finite, expected 4 or more, all finite"
        )
    pairs, group = np.stack([shift, change]), np.arange(len(shift))
    blocks = np.zeros_like(group)
    if cluster is not None:
        blocks = group = np.unique(cluster, return_inverse=True)[1]
    ranks = _ranks(pairs, blocks)
    rho = _correlation(ranks)
    low, high = _interval(pairs, group, blocks)
    null = _null(ranks, blocks, rng, n_permutations)
    reached = int((np.abs(null) >= abs(rho) - 1e-12).sum())
    return RankCorrelation(
        rho=rho,
        low=low,
        high=high,
        p_value=float("nan") if np.isnan(rho) else (1 + reached) / (1 + n_permutations),
        n_items=len(shift),
        n_clusters=len(np.unique(group)),
    )


def shift_bits(
    usage: Float[np.ndarray, "prompts layers experts"],
    *,
    first: Shaped[np.ndarray, "items"],
    second: Shaped[np.ndarray, "items"],
) -> Float[np.ndarray, "items"]:
    """Mean over layers of the Jensen-Shannon divergence of an item's two prompts, 0 to 1 bit.

    Without direction, and biased upward for short prompts.
    """
    bits = jensen_shannon_bits(usage[first], usage[second])
    return np.asarray(reduce(bits, "items layers -> items", "mean"))


def shift_towards(
    usage: Float[np.ndarray, "prompts layers experts"],
    *,
    first: Shaped[np.ndarray, "items"],
    second: Shaped[np.ndarray, "items"],
    experts: Bool[np.ndarray, "layers experts"],
) -> Float[np.ndarray, "items"]:
    """Share of slots that go to a set of experts, first prompt less second, summed over layers."""
    of_set = np.where(experts, usage, 0.0).sum(axis=(1, 2))
    return np.asarray(of_set[first] - of_set[second])


def _ranks(
    pairs: Float[np.ndarray, "two items"], blocks: Integer[np.ndarray, "items"]
) -> Float[np.ndarray, "two items"]:
    """Ranks of each row over all items, less the mean of their block."""
    ranks = stats.rankdata(pairs, axis=1)
    _, block = np.unique(blocks, return_inverse=True)
    sums = np.stack([np.bincount(block, each) for each in ranks])
    # Twice a rank is a whole number, so that items alone in their block come to exactly 0.
    return np.asarray(ranks - (sums / np.bincount(block))[:, block])


def _correlation(ranks: Float[np.ndarray, "two items"]) -> float:
    scale = float(np.sqrt((ranks**2).sum(axis=1).prod()))
    return float(ranks[0] @ ranks[1]) / scale if scale > 0 else float("nan")


def _interval(
    pairs: Float[np.ndarray, "two items"],
    group: Integer[np.ndarray, "items"],
    blocks: Integer[np.ndarray, "items"],
) -> tuple[float, float]:
    names = np.unique(group)
    if len(names) < 3:
        return float("nan"), float("nan")
    z = []
    for name in names:
        kept = group != name
        rho = _correlation(_ranks(pairs[:, kept], blocks[kept]))
        z.append(np.arctanh(np.clip(rho, -1 + 1e-9, 1 - 1e-9)))
    rho = _correlation(_ranks(pairs, blocks))
    centre = np.arctanh(np.clip(rho, -1 + 1e-9, 1 - 1e-9))
    n = len(names)
    error = np.sqrt((n - 1) / n * np.sum((np.array(z) - np.mean(z)) ** 2))
    half = stats.t.ppf(0.5 + LEVEL / 2, n - 1) * error
    return float(np.tanh(centre - half)), float(np.tanh(centre + half))


def _null(
    ranks: Float[np.ndarray, "two items"],
    blocks: Integer[np.ndarray, "items"],
    rng: np.random.Generator,
    n_permutations: int,
) -> Float[np.ndarray, "permutations"]:
    """Correlation with the second ranks shuffled within blocks, whose means are 0."""
    scale = float(np.sqrt((ranks**2).sum(axis=1).prod()))
    null = np.zeros(n_permutations)
    for name in np.unique(blocks):
        member = np.flatnonzero(blocks == name)
        shuffled = rng.permuted(np.tile(ranks[1, member], (n_permutations, 1)), axis=1)
        null += shuffled @ ranks[0, member]
    return null / (scale or np.nan)
