"""Experts found in one half of the sources or templates, and confirmed in the other half."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped

from interp.analyses.cells import ClusterSums
from interp.analyses.jackknife import cluster_jackknife, q_values

MIN_CLUSTERS = 5
"""Sources or templates a condition must have before a half of them can confirm anything."""
ALPHA = 0.05
"""Level of the search and of the confirmation."""


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """Which columns were found in the discovery half and held in the other."""

    is_found: Bool[np.ndarray, "columns"]
    """q at most 0.05 in the discovery half."""
    is_confirmed: Bool[np.ndarray, "columns"]
    """Found, and the other half says so too."""
    discovery_effect: Float[np.ndarray, "columns"]
    """Effect in the discovery half; its sign names the side."""
    confirmation_effect: Float[np.ndarray, "columns"]
    """Effect in the other half: unlike the first, free of the winner's curse."""
    confirmation_p: Float[np.ndarray, "columns"]
    """One-sided p-value of the found columns in the other half, not corrected; else NaN."""
    insufficient: str
    """Why nothing could be confirmed, in a sentence; empty if it could."""


def discovery_half(
    benchmark: Bool[np.ndarray, "rows"],
    cluster: Shaped[np.ndarray, "rows"],
    *,
    rng: np.random.Generator,
) -> tuple[Bool[np.ndarray, "rows"], str]:
    """Which rows belong to the half in which experts are searched, whole clusters at a time.

    Of the clusters of benchmark alone, of organic alone and of both, each half gets as many, the
    discovery half one more of an odd number. Never split items within a source: where only sources
    differ, such a split "confirmed" 68 % of what it found.

    Args:
        benchmark: Condition of each row (token or prompt).
        cluster: Source or template of each row.
        rng: Source of chance.

    Returns:
        The half, and a sentence that says why there is none (then all are False), else "".
    """
    names, number = np.unique(cluster, return_inverse=True)
    has = [np.bincount(number[benchmark == side], minlength=len(names)) > 0 for side in (1, 0)]
    if min(int(side.sum()) for side in has) < MIN_CLUSTERS:
        return np.zeros(len(benchmark), dtype=bool), (
            f"benchmark has {int(has[0].sum())} and organic {int(has[1].sum())} sources or "
            f"templates to split by, fewer than {MIN_CLUSTERS}: nothing can be confirmed on unseen "
            "ones, so add some."
        )
    half = np.zeros(len(names), dtype=bool)
    for stratum in (has[0] & ~has[1], has[1] & ~has[0], has[0] & has[1]):
        members = rng.permutation(np.flatnonzero(stratum))
        half[members[: (len(members) + 1) // 2]] = True
    return half[number], ""


def confirm(discovery: ClusterSums, confirmation: ClusterSums) -> Confirmation:
    """Find columns in one half of the clusters and test them, with their side named, in the other.

    Found: q at most 0.05 (Benjamini and Hochberg) of the two-sided jackknife t test. Confirmed: in
    the other half the effect has the same sign, and its one-sided p is at most 0.05 after Benjamini
    and Hochberg over those found. Not Holm: the search already limits the share of false ones, and
    with 2 clusters a condition in the second half Holm over 20 found ones confirms nothing. If no
    expert differs, anything is confirmed in about 0.05 x 0.05 of studies (ours).

    Args:
        discovery: Sums of the half that is searched.
        confirmation: Sums of the other half, estimated without a look at the first.

    Returns:
        One entry for each column.
    """
    first, second = cluster_jackknife(discovery), cluster_jackknife(confirmation)
    found = q_values(first.p_value) <= ALPHA
    sign = np.sign(first.effect)
    one_sided = np.where(found, second.one_sided_p_value(sign), np.nan)
    held = q_values(one_sided) <= ALPHA
    return Confirmation(
        is_found=found,
        is_confirmed=held & (np.sign(second.effect) == sign),
        discovery_effect=first.effect,
        confirmation_effect=second.effect,
        confirmation_p=one_sided,
        insufficient="",
    )


def nothing_confirmed(n_columns: int, reason: str) -> Confirmation:
    """The result where there is no split."""
    missing, none = np.full(n_columns, np.nan), np.zeros(n_columns, dtype=bool)
    return Confirmation(
        is_found=none,
        is_confirmed=none,
        discovery_effect=missing,
        confirmation_effect=missing,
        confirmation_p=missing,
        insufficient=reason,
    )
