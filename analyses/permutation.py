"""Resampling of whole clusters: permuted labels, flipped signs, clusters left out."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.stats import t as student_t


def permuted_labels(
    label: Bool[np.ndarray, "prompts"],
    cluster: Shaped[np.ndarray, "prompts"],
    *,
    rng: np.random.Generator,
    n_permutations: int,
) -> Bool[np.ndarray, "permutations prompts"]:
    """Labels as they could have been, had the label nothing to do with the prompt.

    All prompts that share an entry of `cluster` go together. A cluster that has both labels keeps
    its prompts and swaps all their labels, with probability 1/2 (exchange within the cluster).
    Clusters that have one label only exchange these labels among themselves, whole clusters at a
    time. So the number of prompts with a label can vary where clusters differ in size; the number
    of one-label clusters with that label does not.

    Args:
        label: Label of each prompt.
        cluster: Item, source or template of each prompt, of any type that sorts.
        rng: Source of chance; the same generator state gives the same permutations.
        n_permutations: Rows to draw, independently; the observed labels can come up again.

    Returns:
        One row per permutation.

    Raises:
        ValueError: If there are fewer than two clusters, or all prompts have one label.
    """
    _, number = np.unique(cluster, return_inverse=True)
    n_clusters = int(number.max(initial=-1)) + 1
    _check(label, n_clusters)
    has_true = np.bincount(number[label], minlength=n_clusters) > 0
    has_false = np.bincount(number[~label], minlength=n_clusters) > 0
    both = has_true & has_false
    of_cluster = np.empty((n_permutations, n_clusters), dtype=bool)
    of_cluster[:, both] = rng.random((n_permutations, int(both.sum()))) < 0.5
    single = np.tile(has_true[~both], (n_permutations, 1))
    of_cluster[:, ~both] = rng.permuted(single, axis=1)
    drawn = of_cluster[:, number]  # swap or stay for clusters with both labels, else the label
    return np.where(both[number], drawn ^ label, drawn)


def flipped_signs(
    n_clusters: int, *, rng: np.random.Generator, n_flips: int
) -> Float[np.ndarray, "flips clusters"]:
    """Signs of 1 or -1, each with probability 1/2: one row per draw."""
    return rng.integers(0, 2, (n_flips, n_clusters)) * 2.0 - 1.0


def permutation_p_value(
    observed: Float[np.ndarray, "*of"], null: Float[np.ndarray, "permutations *of"]
) -> Float[np.ndarray, "*of"]:
    """One-sided p-value `(1 + #{null >= observed}) / (1 + permutations)`.

    Never 0: the observed labelling counts as one of its own null (Phipson and Smyth 2010,
    arXiv:1603.05766, eq. 2). Differences below 1e-12 count as ties.

    Returns:
        From `1 / (1 + permutations)` to 1; NaN where `observed` is.

    Example:
        >>> permutation_p_value(np.array([3.0]), np.array([[1.0], [2.0], [3.0]]))
        array([0.5])
    """
    reached = (null >= observed - 1e-12).sum(axis=0)
    return np.asarray(np.where(np.isnan(observed), np.nan, (1.0 + reached) / (1.0 + len(null))))


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Which clusters are left out together, replicate by replicate. See `delete_groups`."""

    replicate: Int[np.ndarray, "clusters"]
    """The replicate that leaves each cluster out."""
    stratum: Int[np.ndarray, "replicates"]
    """Stratum whose clusters each replicate leaves out."""

    def corrected(
        self, value: Float[np.ndarray, "*of"], replicates: Float[np.ndarray, "replicates *of"]
    ) -> tuple[Float[np.ndarray, "*of"], Float[np.ndarray, "*of"], Float[np.ndarray, "*of"]]:
        """Bias-corrected value and 95 % interval: the stratified jackknife.

        With `v_h` the mean over the `R_h` replicates of stratum h (Shao and Tu 1995, The Jackknife
        and Bootstrap, doi:10.1007/978-1-4612-0795-5, section 6.2):

            corrected = value + sum_h (R_h - 1) (value - v_h)
            variance  = sum_h (R_h - 1) / R_h * sum_r (v_hr - v_h)^2

        The interval is `corrected -+ t * sqrt(variance)`, with Satterthwaite's degrees of freedom.

        Args:
            value: From all clusters.
            replicates: The same with the clusters of each replicate left out.

        Returns:
            Corrected value, lower and upper end.
        """
        corrected, variance = value.copy(), np.zeros_like(value)
        fourth = np.zeros_like(value)
        for name in np.unique(self.stratum):
            of = replicates[self.stratum == name]
            spread = (len(of) - 1) / len(of) * ((of - of.mean(axis=0)) ** 2).sum(axis=0)
            corrected += (len(of) - 1) * (value - of.mean(axis=0))
            variance += spread
            fourth += spread**2 / (len(of) - 1)
        dof = np.divide(variance**2, fourth, out=np.full_like(value, np.inf), where=fourth > 0)
        reach = student_t.ppf(0.975, dof) * np.sqrt(variance)
        return corrected, corrected - reach, corrected + reach


def delete_groups(
    benchmark_tokens: Shaped[np.ndarray, "clusters"],
    organic_tokens: Shaped[np.ndarray, "clusters"],
    *,
    rng: np.random.Generator,
    n_replicates: int,
) -> LeftOut | None:
    """Clusters to leave out together: each cluster once, at most `n_replicates` times in all.

    Strata are the clusters that have both conditions, benchmark only, and organic only. Where there
    is a cluster that has both, a stratum of one cluster joins another. Where there are more
    clusters than replicates, those left out together are drawn at random within a stratum
    (delete-a-group jackknife, Kott 2001, Journal of Official Statistics 17(4)).

    Args:
        benchmark_tokens: Benchmark tokens of each cluster.
        organic_tokens: Likewise; no cluster has 0 of both.
        rng: Source of chance.
        n_replicates: At least 2 for each stratum are made, however few are asked for.

    Returns:
        None where a condition has one cluster only: without it, there is nothing to compare.
    """
    if min((benchmark_tokens > 0).sum(), (organic_tokens > 0).sum()) < 2:
        return None
    stratum = np.where(organic_tokens == 0, 1, np.where(benchmark_tokens == 0, 2, 0))
    stratum = joined_strata(stratum)
    sizes = np.bincount(stratum, minlength=3)
    replicate = np.empty(len(stratum), dtype=np.int64)
    of_replicate: list[int] = []
    for name in np.flatnonzero(sizes):
        n = min(int(sizes[name]), max(2, round(n_replicates * sizes[name] / len(stratum))))
        replicate[stratum == name] = len(of_replicate) + rng.permutation(sizes[name]) % n
        of_replicate += [int(name)] * n
    return LeftOut(replicate=replicate, stratum=np.array(of_replicate))


def joined_strata(stratum: Int[np.ndarray, "clusters"]) -> Int[np.ndarray, "clusters"]:
    """A lone cluster of one condition joins those of both (0); a lone one of both, the larger."""
    sizes = np.bincount(stratum, minlength=3)
    if sizes[0]:
        stratum = np.where((sizes[stratum] == 1) & (stratum > 0), 0, stratum)
        sizes = np.bincount(stratum, minlength=3)
        if sizes[0] == 1:
            stratum = np.where(stratum == 0, 1 + int(sizes[2] > sizes[1]), stratum)
    return stratum


def _check(label: Bool[np.ndarray, "prompts"], n_clusters: int) -> None:
    if n_clusters < 2:
        raise ValueError(
            f"cluster names {n_clusters} cluster(s); labels are permuted by cluster, "
            "so give at least 2"
        )
    if label.all() or not label.any():
        raise ValueError(f"all {len(label)} prompts have the same label; give prompts of both")
