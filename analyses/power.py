"""Power: the smallest effect that a study of this size could have shown."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped
from scipy import special, stats

from interp.analyses.usage import check_layers


@dataclass(frozen=True, kw_only=True)
class Power:
    """What a study could have shown, expert by expert. See docs/calibration.md."""

    layer_indices: tuple[int, ...]
    """Numbers of the layers in the model."""
    n_tests: int
    """Effects that were tested together; 1 for an expert named before the data were seen."""
    alpha: float
    """Level of the whole family of tests, two-sided."""
    power: float
    """Power for which `smallest_effect` is stated."""
    margin: float
    """Effect for which `power_at_margin` is stated, in usage share."""
    critical_value: Float[np.ndarray, "layers experts"]
    """Effect over standard error that has to be passed."""
    smallest_effect: Float[np.ndarray, "layers experts"]
    """Smallest effect found with `power`, in usage share; NaN where no standard error is."""
    power_at_margin: Float[np.ndarray, "layers experts"]
    """Probability that an effect of `margin` is found, with the right sign."""

    @property
    def enough(self) -> bool:
        """At least half of all experts have `power` at the margin (ours)."""
        return bool(np.median(np.nan_to_num(self.power_at_margin)) >= self.power)

    def to_frame(self) -> pd.DataFrame:
        """One row per layer and expert."""
        n_layers, n_experts = self.smallest_effect.shape
        return pd.DataFrame(
            {
                "layer": np.repeat(self.layer_indices, n_experts),
                "expert": np.tile(np.arange(n_experts), n_layers),
                "smallest_effect": self.smallest_effect.ravel(),
                "power": self.power,
                "margin": self.margin,
                "power_at_margin": self.power_at_margin.ravel(),
                "critical_value": self.critical_value.ravel(),
            }
        )


def detectable_effects(
    standard_error: Float[np.ndarray, "layers experts"],
    degrees_of_freedom: Float[np.ndarray, "layers experts"],
    *,
    margin: float,
    layer_indices: Sequence[int],
    usage: Float[np.ndarray, "layers experts"] | None = None,
    n_tests: int | None = None,
    critical_value: float | None = None,
    alpha: float = 0.05,
    power: float = 0.8,
) -> Power:
    """Smallest effect that would be found with `power`, from the standard errors of the study.

    An effect d is found where `T = estimate / standard_error` passes c with the right sign. T has a
    non-central t distribution with noncentrality `d / standard_error` (Lehmann and Romano 2005,
    Testing Statistical Hypotheses, section 5.2), so `smallest_effect = lambda * standard_error`
    with `P(T > c; df, lambda) = power`. For one expert c is `t(1 - alpha / 2; df)`. For max-T it is
    the `1 - alpha` quantile of the permuted `max |T|` if `critical_value` gives it, else that of
    Bonferroni, `t(1 - alpha / (2 * n_tests); df)`, which asks for more where experts correlate.

    An effect d on an expert that had usage u brings noise of its own: shares vary about in
    proportion to their mean (the quasi-Poisson variance of McCullagh and Nelder 1989, Generalized
    Linear Models, section 6.2). With `usage` the standard error is that of an effect d in one of
    two equal conditions, `standard_error * sqrt(1 + d / (2 u))`; without it, that of no effect, and
    the stated size is too small by about a tenth where it is a third of u.

    Limits: the standard errors are estimates and so is the answer (with 8 degrees of freedom, in
    95 % of studies between 0.5 and 1.5 times the right one); it is what *this design* could show,
    and says nothing about whether an effect is there. It never looks at the effect that was found
    ("observed power" is the p-value in other words; Hoenig and Heisey 2001,
    doi:10.1198/000313001300339897).

    Args:
        standard_error: Of each effect, with whole clusters as the unit; from a jackknife, or
            planned with `Variances.standard_error`.
        degrees_of_freedom: Of each standard error, by Satterthwaite.
        margin: Effect for which power is stated; by DESIGN.md `0.5 / n_experts`.
        layer_indices: Number in the model of each layer.
        usage: Of each expert without the effect, above 0, such as that of organic prompts.
        n_tests: Effects tested together; all that are given where None, 1 for a single expert.
        critical_value: Quantile of `max |T|` on the scale of `effect / standard_error`.
        alpha: Level of the family.
        power: Asked power.

    Returns:
        Effects in usage share; power from `alpha / (2 * n_tests)` to 1.

    Raises:
        ValueError: If `margin` is not above 0, a probability is not between 0 and 1, or layer
            numbers are missing.

    Example:
        >>> found = detectable_effects(
        ...     np.array([[0.01]]), np.array([[18.0]]), margin=0.03, layer_indices=[0]
        ... )
        >>> found.smallest_effect.round(4), found.power_at_margin.round(2)
        (array([[0.0296]]), array([[0.81]]))
    """
    check_layers(layer_indices, len(standard_error))
    _check(margin, alpha, power, usage)
    tests = standard_error.size if n_tests is None else n_tests
    if critical_value is None:
        critical = stats.t.isf(alpha / (2 * tests), degrees_of_freedom)
    else:
        critical = np.full(standard_error.shape, critical_value)
    per_effect = np.zeros_like(standard_error) if usage is None else 1 / (2 * usage)
    times = special.nctdtrinc(degrees_of_freedom, 1 - power, critical)
    with np.errstate(divide="ignore", invalid="ignore"):
        noncentrality = margin / (standard_error * np.sqrt(1 + margin * per_effect))
        # Beyond 1e6 power is 1 to the last digit, and scipy gives NaN.
        at_margin = stats.nct.sf(critical, degrees_of_freedom, np.minimum(noncentrality, 1e6))
    return Power(
        layer_indices=tuple(int(layer) for layer in layer_indices),
        n_tests=tests,
        alpha=alpha,
        power=power,
        margin=margin,
        critical_value=np.asarray(critical),
        smallest_effect=_with_own_noise(np.asarray(times * standard_error), per_effect),
        power_at_margin=np.asarray(at_margin),
    )


def _with_own_noise(
    size: Float[np.ndarray, "layers experts"], per_effect: Float[np.ndarray, "layers experts"]
) -> Float[np.ndarray, "layers experts"]:
    """The d that solves `d = size * sqrt(1 + d * per_effect)`: a quadratic equation."""
    half = size**2 * per_effect / 2
    return np.asarray(half + np.sqrt(half**2 + size**2))


@dataclass(frozen=True, kw_only=True)
class Variances:
    """Variance of usage between the clusters of a condition, and between prompts of a cluster."""

    between: Float[np.ndarray, "conditions layers experts"]
    """Between clusters (sources), organic first; 0 where the estimate is below 0."""
    within: Float[np.ndarray, "conditions layers experts"]
    """Between prompts of one cluster."""

    def standard_error(
        self, *, n_clusters: int, prompts_per_cluster: int
    ) -> Float[np.ndarray, "layers experts"]:
        """Standard error of benchmark minus organic in a study of this size in each condition.

        `sqrt(sum_c between_c / n_clusters + within_c / (n_clusters * prompts_per_cluster))`; it has
        about `2 * (n_clusters - 1)` degrees of freedom. More prompts of the same sources cannot
        bring it below the first term.
        """
        each = self.between + self.within / prompts_per_cluster
        return np.asarray(np.sqrt(each.sum(axis=0) / n_clusters))


def variances(
    usage: Float[np.ndarray, "prompts layers experts"],
    *,
    benchmark: Bool[np.ndarray, "prompts"],
    cluster: Shaped[np.ndarray, "prompts"],
) -> Variances:
    """Between- and within-cluster variance of each condition, by one-way analysis of variance.

    `within = MSW`, `between = (MSB - MSW) / n0` with `n0 = (N - sum n_g^2 / N) / (G - 1)` for
    clusters of unequal size (Searle, Casella and McCulloch 1992, Variance Components, chapter 3).

    Limits: with 5 clusters, `between` is in 95 % of studies 0.1 to 2.8 times the right one, if
    clusters are large; 0 says "not seen", not "not there".

    Args:
        usage: Any quantity of each prompt whose mean is compared: usage, or mean residual share.
        benchmark: Condition of each prompt.
        cluster: Cluster of each prompt: its source, or item.

    Returns:
        Variances in squared usage share, at least 0.

    Raises:
        ValueError: If a condition has fewer than 2 clusters, or no cluster with 2 prompts.
    """
    parts = [_of_condition(usage[side], cluster[side]) for side in (~benchmark, benchmark)]
    return Variances(
        between=np.stack([between for between, _ in parts]),
        within=np.stack([within for _, within in parts]),
    )


def _of_condition(
    usage: Float[np.ndarray, "prompts layers experts"], cluster: Shaped[np.ndarray, "prompts"]
) -> tuple[Float[np.ndarray, "layers experts"], Float[np.ndarray, "layers experts"]]:
    """Between and within variance of one condition."""
    _, row, size = np.unique(cluster, return_inverse=True, return_counts=True)
    n, n_clusters = len(usage), len(size)
    if n_clusters < 2 or n == n_clusters:
        raise ValueError(
            f"cluster names {n_clusters} cluster(s) for {n} prompts of a condition; variance "
            "between and within needs 2 clusters and a cluster of 2 prompts"
        )
    mean = np.zeros((n_clusters, *usage.shape[1:]))
    np.add.at(mean, row, usage)
    mean /= size[:, None, None]
    within = ((usage - mean[row]) ** 2).sum(axis=0) / (n - n_clusters)
    spread = (size[:, None, None] * (mean - usage.mean(axis=0)) ** 2).sum(axis=0)
    evened = (n - (size**2).sum() / n) / (n_clusters - 1)
    between = (spread / (n_clusters - 1) - within) / evened
    return np.asarray(np.maximum(between, 0.0)), np.asarray(within)


def _check(
    margin: float,
    alpha: float,
    power: float,
    usage: Float[np.ndarray, "layers experts"] | None,
) -> None:
    if usage is not None and not (usage > 0).all():
        raise ValueError(
            f"usage is {np.min(usage)} for an expert, but must be above 0; leave usage out, or "
            "add half a slot to every expert"
        )
    if not margin > 0:
        raise ValueError(f"margin is {margin}, but must be above 0; give 0.5 / n_experts")
    if not (0 < alpha < 1 and 0 < power < 1):
        raise ValueError(
            f"alpha is {alpha} and power {power}, but both must lie between 0 and 1; "
            "give 0.05 and 0.8"
        )
