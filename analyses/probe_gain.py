"""What one probe reaches beyond another on the same splits, paired."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from interp.analyses.probe_metrics import METRICS, Estimate, estimates
from interp.analyses.probes import ProbeScore


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A number of one probe minus that of another."""

    value: float
    """Difference, above 0 where the first is larger."""
    low: float
    """Lower end of the 95 % interval, from leaving out one cluster at a time of both."""
    high: float
    """Upper end."""

    def to_frame(self) -> pd.DataFrame:
        """One row."""
        return pd.DataFrame([{"gain": self.value, "gain_low": self.low, "gain_high": self.high}])


def gain(one: ProbeScore, other: ProbeScore, *, metric: str = "auroc") -> Gain:
    """`one` minus `other` on the same prompts, splits and clusters, with a paired interval.

    What both probes find easy or hard in a cluster cancels, so the interval is narrower than the
    two intervals side by side suggest. Interval as in `Estimate.interval`, cut off where no
    difference can be.

    Args:
        one: From `probe`.
        other: From `probe` with the same target, clusters and splits.
        metric: One of `METRICS`; of `brier` and `bits` less is better.

    Returns:
        For `auroc`, `accuracy` and `brier` from -1 to 1.

    Raises:
        ValueError: If the two were not scored alike, or `metric` is unknown.

    Example:
        >>> from interp.analyses.probes import probe
        >>> target, cluster = np.arange(40) % 2 == 0, np.arange(40)
        >>> features = np.random.default_rng(0).normal(size=(40, 3))
        >>> one = probe(features, target=target, cluster=cluster, rng=np.random.default_rng(0))
        >>> gain(one, one)
        Gain(value=0.0, low=0.0, high=0.0)
    """
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}, which is none of {', '.join(METRICS)}; give one")
    same = (
        np.array_equal(one.target, other.target)
        and np.array_equal(one.cluster, other.cluster)
        and np.array_equal(one.splits.held_out, other.splits.held_out)
    )
    if not same:
        raise ValueError(
            "the two probes have other targets, clusters or splits, so their difference is not "
            "paired; give probe the same splits for both"
        )
    found, against = (
        estimates(each.score, target=each.target, splits=each.splits, cluster=each.cluster)[metric]
        for each in (one, other)
    )
    return difference_of(found, against, is_share=METRICS[metric])


def difference_of(one: Estimate, other: Estimate, *, is_share: bool) -> Gain:
    """`one` minus `other` with its interval, cut off at -1 and 1 where both are shares."""
    difference = one - other
    low, high = difference.interval()
    reach = 1.0 if is_share else np.inf
    return Gain(
        value=difference.value,
        low=float(np.clip(low, -reach, reach)),
        high=float(np.clip(high, -reach, reach)),
    )


def best_baseline(baselines: Mapping[str, ProbeScore]) -> str:
    """Name of the baseline with the highest AUROC.

    Chosen on the prompts that it is then compared on, so a gain over it is, if anything, too small.

    Raises:
        ValueError: If there is none.
    """
    if not baselines:
        raise ValueError("baselines is empty; give at least one probe of the surface")
    return max(baselines, key=lambda name: baselines[name].auroc)
