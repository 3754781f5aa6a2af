"""Max-T test over all layers and experts: labels of whole clusters exchanged, or scores flipped."""

from dataclasses import dataclass, replace
from math import isinf, sqrt

import numpy as np
from jaxtyping import Float

from interp.analyses.cells import ClusterSums
from interp.analyses.relabelling_labels import (
    clusters_of,
    n_distinct_relabellings,
    n_paired_clusters,
    n_single_clusters,
    random_signs,
    relabellings,
)
from interp.analyses.relabelling_statistics import flipped_statistics, relabelled_statistics

MIN_DISTINCT = 40
"""Distinct relabellings below which a test says nothing: the least p-value would be above 1/40."""
MAX_SD_RATIO = 1.5
"""Estimated ratio of between-cluster standard deviations above which no size is promised. At a
true ratio of 2 the estimate is about 1.7, and 10 % are rejected instead of 5 %; see
docs/calibration.md."""
ROUNDING = 1e-12
"""Differences of shares up to this are of rounding."""


@dataclass(frozen=True, kw_only=True)
class MaxT:
    """A studentised statistic for every column, and how often chance exceeds it somewhere."""

    statistic: Float[np.ndarray, "columns"]
    """`T` of the observed labels, 0 or above; 0 where nothing varies; NaN if insufficient."""
    p_max_t: Float[np.ndarray, "columns"]
    """Share of resamples whose largest `T` over all columns reaches this column's; corrected for
    all columns. NaN if insufficient."""
    p_value: float
    """The least of `p_max_t`: the test that no column differs; NaN if insufficient."""
    null_max: Float[np.ndarray, "resamples"]
    """Largest `T` over all columns in each resample."""
    is_enumerated: bool
    """Whether every relabelling was computed, so that p-values have no Monte Carlo error."""
    recipe: str
    """What was resampled: `relabelled`, `flipped_left_out`, `flipped_paired` or `none`."""
    sd_ratio: float
    """Larger over smaller between-cluster standard deviation of the two conditions, infinite if one
    does not vary; NaN if clusters are paired or a condition has fewer than 2."""
    insufficient: str
    """Why there is no test, in a sentence; empty if there is one."""
    warning: str
    """What the p-values must not be trusted for, in a sentence; empty if nothing is known."""


def max_t_test(sums: ClusterSums, *, rng: np.random.Generator, n_resamples: int = 10_000) -> MaxT:
    """Test every column at once against labels as they could have been.

    Clusters under one condition each, at most 64: whole clusters exchange labels. Labels `y*` give
    cluster scores `S*_g = (unit_score @ y*)_g`, squares `W*_g = y* unit_square_g y*`, in which
    token means are those of `y*`, and

        beta* = sum_g S*_g / sum_g W*_g,   T* = |sum_g S*_g| / sqrt(sum_g (S*_g - beta* W*_g)^2).

    All relabellings are computed if there are fewer than 20,000. Clusters that have both conditions
    beside others that have one swap the labels of their two parts.
    Above 64 clusters: random signs for the leave-one-cluster-out scores `s_g`, and `T` is the
    absolute one-sample t statistic of the scores. All clusters under both conditions (paired
    items): random signs for `S_g`, the observed t times `sqrt((G - 1) / G)`.
    Max-T: Westfall and Young 1993 (Resampling-Based Multiple Testing). Exchange of labels with a
    studentised statistic, which forgives unequal variances: Chung and Romano 2013
    (doi:10.1214/13-AOS1090). The token means of the exchanged labels are ours.

    Args:
        sums: From `token_adjusted_sums`, `mean_difference_sums` or `surface_adjusted_sums`.
        rng: Source of chance; not used where all relabellings are computed.
        n_resamples: Resamples to draw.

    Returns:
        p-values from 1 / (1 + resamples), or 1 / relabellings, to 1. Fewer than 40 distinct
        relabellings give no test and a reason, not an exception.

    Raises:
        ValueError: If `n_resamples` is below 1.

    Example:
        >>> from interp.analyses.cells import mean_difference_sums
        >>> share = np.array([[0.1], [0.2], [0.3], [0.4], [0.5], [0.6], [0.7], [0.8], [0.9], [1.0]])
        >>> sums = mean_difference_sums(
        ...     share, benchmark=np.arange(10) < 5, cluster=np.arange(10)
        ... )
        >>> test = max_t_test(sums, rng=np.random.default_rng(0))
        >>> test.recipe, len(test.null_max), round(test.p_value, 4)
        ('relabelled', 126, 0.0079)
    """
    if n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples}, expected 1 or more")
    reason = why_insufficient(sums)
    if reason:
        return _no_test(sums, reason)
    sums = _without_rounding(sums)
    n_clusters = len(sums.square)
    is_paired = n_paired_clusters(sums) == n_clusters
    if not is_paired and sums.unit_score is not None:
        labels, is_enumerated = relabellings(sums, rng=rng, n_resamples=n_resamples)
        observed, null = relabelled_statistics(sums, labels)
        return _max_t(sums, observed, null, is_enumerated, "relabelled")
    signs, is_enumerated = random_signs(n_clusters, rng, n_resamples)
    if not is_paired:
        observed, null = flipped_statistics(sums.left_out_score, signs)
        return _max_t(sums, observed, null, is_enumerated, "flipped_left_out")
    observed, null = flipped_statistics(sums.score, signs)
    shrunk = observed * sqrt((n_clusters - 1) / n_clusters)
    return _max_t(sums, shrunk, null, is_enumerated, "flipped_paired")


def _without_rounding(sums: ClusterSums) -> ClusterSums:
    """Scores of rounding alone made 0, as of an expert that serves every token: they do not vary.

    A ratio of two roundings is as large as any `T`, and would have its say in the largest.
    """
    every = (sums.score, sums.left_out_score, sums.unit_score)
    columns = [np.abs(of).max(axis=tuple(range(of.ndim - 1))) for of in every if of is not None]
    varies = np.max(columns, axis=0) > ROUNDING * float(sums.square.max())
    if varies.all():
        return sums
    return replace(
        sums,
        score=np.where(varies, sums.score, 0.0),
        left_out_score=np.where(varies, sums.left_out_score, 0.0),
        unit_score=None if sums.unit_score is None else np.where(varies, sums.unit_score, 0.0),
    )


def why_insufficient(sums: ClusterSums) -> str:
    """Why no label could have been otherwise, in a sentence; empty if enough could."""
    n_true, n_false, n_paired = (
        n_single_clusters(sums, True),
        n_single_clusters(sums, False),
        n_paired_clusters(sums),
    )
    has = f"benchmark has {n_true + n_paired} cluster(s) and organic {n_false + n_paired}"
    if not n_true + n_paired or not n_false + n_paired:
        return f"{has}: a test needs both conditions."
    if not sums.square.sum() > 0:
        return "No token id occurs under both conditions, so nothing can be compared."
    n_distinct = n_distinct_relabellings(sums)
    if n_distinct < MIN_DISTINCT:
        return (
            f"{has}, which allows {n_distinct} distinct relabelling(s), fewer than {MIN_DISTINCT}: "
            "add clusters of the condition that has fewer."
        )
    return ""


def sd_ratio(sums: ClusterSums) -> float:
    """Larger over smaller between-cluster standard deviation of the two conditions, 1 or above.

    Of each cluster's mean residual, root mean square over columns (ours). Sampling within clusters
    is part of it. Infinite if one condition alone does not vary; NaN if neither does, clusters are
    paired, or a condition has fewer than 2.
    """
    seen = ~np.isnan(sums.mean_residual[:, 0])
    sds = []
    for side in (True, False):
        clusters = np.setdiff1d(clusters_of(sums, side), clusters_of(sums, not side))
        clusters = clusters[seen[clusters]]
        if len(clusters) < 2:
            return float("nan")
        sds.append(sqrt(sums.mean_residual[clusters].var(axis=0, ddof=1).mean()))
    varies = [sd > ROUNDING for sd in sds]
    return max(sds) / min(sds) if all(varies) else float("inf" if any(varies) else "nan")


def _max_t(
    sums: ClusterSums,
    observed: Float[np.ndarray, "columns"],
    null_max: Float[np.ndarray, "resamples"],
    is_enumerated: bool,
    recipe: str,
) -> MaxT:
    ordered = np.sort(null_max)
    # Ties, of which the observed labelling is one, are equal but for rounding.
    reached = len(ordered) - np.searchsorted(ordered, observed * (1 - 1e-9) - 1e-12)
    extra = 0 if is_enumerated else 1
    p_max_t = (reached + extra) / (len(ordered) + extra)
    ratio = sd_ratio(sums)
    return MaxT(
        statistic=observed,
        p_max_t=p_max_t,
        p_value=float(p_max_t.min()),
        null_max=null_max,
        is_enumerated=is_enumerated,
        recipe=recipe,
        sd_ratio=ratio,
        insufficient="",
        warning=_warning(ratio),
    )


def _warning(ratio: float) -> str:
    if not ratio > MAX_SD_RATIO:
        return ""
    often = f"vary {ratio:.1f} times as much as those of the other, above {MAX_SD_RATIO:g}"
    vary = "vary and those of the other do not" if isinf(ratio) else often
    return (
        f"Clusters of one condition {vary}: no recipe is known to hold its size here, so read no "
        "p-value as exact."
    )


def _no_test(sums: ClusterSums, reason: str) -> MaxT:
    missing = np.full(sums.score.shape[1], np.nan)
    return MaxT(
        statistic=missing,
        p_max_t=missing,
        p_value=float("nan"),
        null_max=np.empty(0),
        is_enumerated=False,
        recipe="none",
        sd_ratio=sd_ratio(sums),
        insufficient=reason,
        warning="",
    )
