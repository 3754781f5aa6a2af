"""Scores of held-out prompts, with intervals from leaving out one cluster at a time."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.special import expit, log_expit, logit, stdtrit

from interp.analyses.probe_splits import Splits


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number, and what it would be without each cluster. Differences are paired."""

    value: float
    """With all clusters."""
    without: Float[np.ndarray, "clusters"]
    """Without each; NaN where nothing would be left to score."""
    stratum: Int[np.ndarray, "clusters"]
    """0 for clusters of False prompts alone, 1 for True alone, 2 for both."""

    def __sub__(self, other: "Estimate") -> "Estimate":
        return Estimate(
            value=self.value - other.value,
            without=self.without - other.without,
            stratum=self.stratum,
        )

    def interval(self, *, level: float = 0.95, share: bool = False) -> tuple[float, float]:
        """Delete-one-cluster jackknife: `value +- t * standard error`.

        Clusters of one class are their own stratum, as in a two-sample test: the variance is
        `sum_h (G_h - 1) / G_h sum_g (without_g - mean_h)^2` over the G_h clusters of stratum h
        (Efron and Stein 1981, doi:10.1214/aos/1176345462, for each stratum), and t has
        Satterthwaite's degrees of freedom. A stratum of one cluster shows no variance of its own,
        so then all clusters make one stratum. With `share`, the value lies between 0 and 1, and
        the interval is laid about its log-odds, `value (1 - value)` being the slope: over few
        sources this held the truth of an AUROC in 95 to 97 %, the plain one in 91 to 93 %.

        Returns:
            Lower and upper end; NaN with fewer than two clusters.
        """
        known = ~np.isnan(self.without)
        without, stratum = self.without[known], self.stratum[known]
        if len(without) < 2:
            return float("nan"), float("nan")
        _, place, size = np.unique(stratum, return_inverse=True, return_counts=True)
        if size.min() < 2:
            place, size = np.zeros(len(without), dtype=np.int64), np.array([len(without)])
        mean = np.bincount(place, without) / size
        part = np.bincount(place, np.square(without - mean[place])) * (size - 1) / size
        variance = float(part.sum())
        if variance < 1e-24:
            return self.value, self.value
        freedom = variance**2 / float((part**2 / (size - 1)).sum())
        reach = float(stdtrit(freedom, 0.5 + level / 2) * np.sqrt(variance))
        if not share or not 0 < self.value < 1:
            return self.value - reach, self.value + reach
        middle, slope = logit(self.value), self.value * (1 - self.value)
        return float(expit(middle - reach / slope)), float(expit(middle + reach / slope))


def auroc_estimate(
    score: Float[np.ndarray, "splits prompts"],
    *,
    target: Bool[np.ndarray, "prompts"],
    splits: Splits,
    cluster: Shaped[np.ndarray, "prompts"],
) -> Estimate:
    """Mean over splits of the AUROC within the split; ties count half.

    Never pooled over splits, whose probes have different zeros. Without a cluster, a split counts
    as much as it has pairs left; splits that hold out one class only drop out.
    """
    of, n_clusters = _numbered(cluster)
    right, pairs = np.zeros(len(splits)), np.zeros(len(splits))
    right_with = np.zeros((len(splits), n_clusters))
    pairs_with = np.zeros((len(splits), n_clusters))
    for number, (_, held_out) in enumerate(splits):
        above, below = np.flatnonzero(held_out & target), np.flatnonzero(held_out & ~target)
        if len(above) and len(below):
            order = score[number, above][:, None] - score[number, below][None, :]
            order = np.sign(order) / 2 + 0.5
            right[number], right_with[number] = _sums(order, of[above], of[below], n_clusters)
            pairs[number], pairs_with[number] = _sums(
                np.ones_like(order), of[above], of[below], n_clusters
            )
    share = 1.0 / np.where(pairs > 0, pairs, np.inf)
    left = share @ (pairs[:, None] - pairs_with)
    without = share @ (right[:, None] - right_with) / np.where(left > 1e-12, left, np.nan)
    value = float(share @ right / max(int((pairs > 0).sum()), 1)) if pairs.any() else float("nan")
    return Estimate(value=value, without=without, stratum=_stratum(of, target, n_clusters))


def mean_estimate(
    loss: Float[np.ndarray, "splits prompts"],
    *,
    target: Bool[np.ndarray, "prompts"],
    splits: Splits,
    cluster: Shaped[np.ndarray, "prompts"],
) -> Estimate:
    """Mean of a number of each held-out prompt, the classes that are held out counting alike."""
    of, n_clusters = _numbered(cluster)
    sides = [label for label in (True, False) if (splits.held_out & (target == label)).any()]
    value, without = 0.0, np.zeros(n_clusters)
    for label in sides:
        scored = splits.held_out & (target == label)
        total = np.where(scored, loss, 0.0).sum(axis=0)
        times = scored.sum(axis=0)
        total_of = np.bincount(of, total, minlength=n_clusters)
        left = times.sum() - np.bincount(of, times, minlength=n_clusters)
        value += float(total.sum()) / float(times.sum()) / len(sides)
        without += (total.sum() - total_of) / np.where(left > 0, left, np.nan) / len(sides)
    value = value if sides else float("nan")
    return Estimate(value=value, without=without, stratum=_stratum(of, target, n_clusters))


def prompt_losses(
    score: Float[np.ndarray, "splits prompts"], target: Bool[np.ndarray, "prompts"]
) -> dict[str, Float[np.ndarray, "splits prompts"]]:
    """`accuracy` (log-odds above 0), `brier` (squared error of the probability) and `bits`."""
    sign = np.where(target, 1.0, -1.0)
    return {
        "accuracy": (np.sign(score) * sign) / 2 + 0.5,
        "brier": np.square(expit(score) - target),
        "bits": -log_expit(sign * score) / np.log(2),
    }


METRICS = {"auroc": True, "accuracy": True, "brier": True, "bits": False}
"""Name, and whether it lies between 0 and 1."""


def estimates(
    score: Float[np.ndarray, "splits prompts"],
    *,
    target: Bool[np.ndarray, "prompts"],
    splits: Splits,
    cluster: Shaped[np.ndarray, "prompts"],
) -> dict[str, Estimate]:
    """Every one of `METRICS`."""
    found = {"auroc": auroc_estimate(score, target=target, splits=splits, cluster=cluster)}
    for name, loss in prompt_losses(score, target).items():
        found[name] = mean_estimate(loss, target=target, splits=splits, cluster=cluster)
    return found


def _numbered(cluster: Shaped[np.ndarray, "prompts"]) -> tuple[Int[np.ndarray, "prompts"], int]:
    _, of = np.unique(cluster, return_inverse=True)
    return of.astype(np.int64), int(of.max(initial=-1)) + 1


def _stratum(
    of: Int[np.ndarray, "prompts"], target: Bool[np.ndarray, "prompts"], n_clusters: int
) -> Int[np.ndarray, "clusters"]:
    has_true = np.bincount(of[target], minlength=n_clusters) > 0
    has_false = np.bincount(of[~target], minlength=n_clusters) > 0
    return np.where(has_true & has_false, 2, has_true.astype(np.int64))


def _sums(
    order: Float[np.ndarray, "above below"],
    of_above: Int[np.ndarray, "above"],
    of_below: Int[np.ndarray, "below"],
    n_clusters: int,
) -> tuple[float, Float[np.ndarray, "clusters"]]:
    """Sum over pairs, and over the pairs in which each cluster takes part."""
    with_cluster = np.bincount(of_above, order.sum(axis=1), minlength=n_clusters)
    with_cluster += np.bincount(of_below, order.sum(axis=0), minlength=n_clusters)
    for shared in np.intersect1d(of_above, of_below):  # counted twice above
        with_cluster[shared] -= order[np.ix_(of_above == shared, of_below == shared)].sum()
    return float(order.sum()), with_cluster
