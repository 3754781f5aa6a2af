"""Intervals and p-values of single experts, from effects with one cluster left out at a time."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from scipy import stats

from interp.analyses.cells import ClusterSums
from interp.analyses.permutation import joined_strata


@dataclass(frozen=True, kw_only=True)
class Jackknife:
    """Effect of every column with its standard error over clusters. See docs/effects.md."""

    effect: Float[np.ndarray, "columns"]
    """Difference in the share of routed slots, -1 to 1; NaN where nothing can be compared."""
    standard_error: Float[np.ndarray, "columns"]
    """Root of the jackknife variance over clusters; NaN where a condition has one cluster."""
    df: Float[np.ndarray, "columns"]
    """Satterthwaite's degrees of freedom, no more than if all clusters varied alike."""

    @property
    def t(self) -> Float[np.ndarray, "columns"]:
        """`effect / standard_error`; 0 where the standard error is 0."""
        varies = self.standard_error > 0
        se = np.where(varies | np.isnan(self.standard_error), self.standard_error, 1.0)
        return np.where(self.standard_error == 0, 0.0, self.effect / se)

    @property
    def p_value(self) -> Float[np.ndarray, "columns"]:
        """Two-sided p-value of the t statistic, for one column at a time."""
        return np.asarray(2.0 * stats.t.sf(np.abs(self.t), self.df))

    def one_sided_p_value(self, sign: Float[np.ndarray, "columns"]) -> Float[np.ndarray, "columns"]:
        """p-value against effects of the named sign only (1 or -1)."""
        return np.asarray(stats.t.sf(self.t * sign, self.df))

    def interval(
        self, level: float
    ) -> tuple[Float[np.ndarray, "columns"], Float[np.ndarray, "columns"]]:
        """Lower and upper end of the interval of this level, 0 to 1, for one column at a time."""
        half = stats.t.ppf(0.5 + level / 2, self.df) * self.standard_error
        return self.effect - half, self.effect + half


def cluster_jackknife(sums: ClusterSums) -> Jackknife:
    """Standard error over clusters, with token means taken anew without each of them.

    With `b_g` the effect without cluster g, `b` the effect and `G_c` the clusters of stratum c
    (those of benchmark alone, of organic alone, of both; a stratum of one cluster joins another
    where a cluster has both, as in `joined_strata`):

        variance = sum_c (G_c - 1) / G_c * sum_{g in c} (b_g - b)^2

    the CV3 of MacKinnon, Nielsen and Webb 2023 (doi:10.1016/j.jeconom.2022.04.001), by stratum.
    Degrees of freedom are Satterthwaite's 1946 (doi:10.2307/3002019): `(sum_c v_c)^2 /
    sum_c v_c^2 / f_c`, where `f_c = tr(B)^2 / tr(B B)` of the quadratic form that gives `v_c` if
    clusters vary alike and weigh as their `sum w^2` does (Bell and McCaffrey 2002). Clusters of
    one size with no token in common give Welch's t test, paired ones the paired t test.

    Where no cluster has both conditions, `df` is at most that of the `v_c` which clusters that vary
    alike would have (ours). Else 5 clusters that by chance vary little beside 20 would pass for
    many, and too much would be found: docs/effects.md.

    Args:
        sums: From `token_adjusted_sums`, `mean_difference_sums` or `surface_adjusted_sums`.

    Returns:
        Standard errors as a share of routed slots; NaN where a condition has one cluster.

    Example:
        >>> from interp.analyses.cells import mean_difference_sums
        >>> sums = mean_difference_sums(
        ...     np.array([[0.0], [1.0], [3.0], [5.0]]),
        ...     benchmark=np.array([True, True, False, False]), cluster=np.arange(4),
        ... )
        >>> jackknife = cluster_jackknife(sums)
        >>> jackknife.effect.item(), round(jackknife.standard_error.item(), 4)
        (-3.5, 1.118)
    """
    total, square = sums.score.sum(axis=0), float(sums.square.sum())
    left = square - sums.left_out_square
    enough = left > 1e-9 * max(square, 1e-300)
    without = (total - sums.left_out_score) / np.where(enough, left, np.nan)[:, None]
    shift_squared = (without - sums.effect) ** 2
    # A shift that is rounding only is none: the effect is the same whichever cluster is left out.
    size = np.abs(total) / square if square > 0 else np.abs(total)
    shift_squared[shift_squared <= (1e-12 * (1.0 + size)) ** 2] = 0.0
    kind = stratum_of_cluster(sums)
    strata = joined_strata(np.where(kind == 3, 0, kind))
    parts, dfs, alike = [], [], []
    for stratum in np.unique(strata):
        member = strata == stratum
        n = int(member.sum())
        parts.append((n - 1) / n * shift_squared[member].sum(axis=0) if n > 1 else np.nan)
        form = _form_of_stratum(sums.square[member])
        dfs.append(_df_of_form(form))
        alike.append((n - 1) / n * np.trace(form))
    variance = np.array([np.broadcast_to(part, total.shape) for part in parts])
    df = _satterthwaite(variance, np.array(dfs))
    if (strata > 0).all():  # clusters of both vary in another way
        df = np.minimum(df, _satterthwaite(np.array(alike)[:, None], np.array(dfs)))
    return Jackknife(effect=sums.effect, standard_error=np.sqrt(variance.sum(axis=0)), df=df)


def stratum_of_cluster(sums: ClusterSums) -> Integer[np.ndarray, "clusters"]:
    """1 for clusters of organic alone, 2 for benchmark alone, 3 for both."""
    side = 1 + sums.label.astype(int)
    of_cluster = np.bincount(sums.cluster_of_unit, side, len(sums.square))
    return np.asarray(of_cluster.astype(int))


def _form_of_stratum(
    square: Float[np.ndarray, "clusters"],
) -> Float[np.ndarray, "clusters clusters"]:
    """`B` of `u' B u = sum_g (a_g / (1 - a_g))^2 (u_g - mean u)^2`, weights `a` sum to 1."""
    share = square / square.sum() if square.sum() > 0 else np.full(len(square), 1 / len(square))
    if len(square) < 2 or share.max() >= 1:
        return np.eye(len(square), 1) @ np.eye(1, len(square))  # one cluster is all there is
    centre = np.eye(len(square)) - share
    return np.asarray(centre.T @ ((share / (1 - share)) ** 2 * centre.T).T)


def _df_of_form(form: Float[np.ndarray, "clusters clusters"]) -> float:
    """`tr(B)^2 / tr(B B)`."""
    return float(np.trace(form) ** 2 / np.sum(form**2))


def _satterthwaite(
    variance: Float[np.ndarray, "strata columns"], df: Float[np.ndarray, "strata"]
) -> Float[np.ndarray, "columns"]:
    total = variance.sum(axis=0)
    below = (variance**2 / df[:, None]).sum(axis=0)
    df_of_total = total**2 / np.where(below > 0, below, 1.0)
    return np.asarray(np.where(below > 0, df_of_total, df.sum()))


def q_values(p_value: Float[np.ndarray, "columns"]) -> Float[np.ndarray, "columns"]:
    """Benjamini and Hochberg's q (1995, doi:10.1111/j.2517-6161.1995.tb02031.x); NaN stays NaN."""
    q = np.full(len(p_value), np.nan)
    known = ~np.isnan(p_value)
    if known.any():
        q[known] = stats.false_discovery_control(p_value[known])
    return q
