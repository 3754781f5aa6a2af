"""Labels as they could have been: which clusters may exchange theirs, and how often."""

from itertools import combinations, product
from math import comb

import numpy as np
from jaxtyping import Float, Integer

from interp.analyses.cells import ClusterSums

MAX_ENUMERATED = 20_000
"""Relabellings below which all are computed and none is drawn."""


def n_distinct_relabellings(sums: ClusterSums) -> int:
    """Relabellings that can give another statistic: one and its complement give the same."""
    n_true, n_false, n_paired = (
        n_single_clusters(sums, True),
        n_single_clusters(sums, False),
        n_paired_clusters(sums),
    )
    n: int = comb(n_true + n_false, n_true) * 2**n_paired
    return n // 2 if n_true == n_false else n


def relabellings(
    sums: ClusterSums, *, rng: np.random.Generator, n_resamples: int
) -> tuple[Float[np.ndarray, "resamples units"], bool]:
    """Labels of the units as they could have been, and whether these are all.

    Clusters of one condition exchange labels among themselves; a cluster of both keeps or swaps.
    Where all are listed, of a labelling and its complement only one is (they have one statistic).
    """
    n_of = np.bincount(sums.cluster_of_unit)
    paired = n_of[sums.cluster_of_unit] == 2
    single, n_true = np.flatnonzero(~paired), int(sums.label[~paired].sum())
    n_pairs = int(paired.sum()) // 2
    if comb(len(single), n_true) * 2**n_pairs >= MAX_ENUMERATED:
        labels = np.tile(sums.label.astype(float), (n_resamples, 1))
        labels[:, single] = rng.permuted(labels[:, single], axis=1)
        swapped = np.repeat(rng.random((n_resamples, n_pairs)) < 0.5, 2, axis=1)
        labels[:, paired] = np.where(swapped, 1 - labels[:, paired], labels[:, paired])
        return labels, False
    chosen = np.array(list(combinations(range(len(single)), n_true)), dtype=int)
    of_single = np.zeros((len(chosen), len(single)))
    np.put_along_axis(of_single, chosen, 1.0, axis=1)
    swaps = np.array(list(product((False, True), repeat=n_pairs)), dtype=bool)
    labels = np.tile(sums.label.astype(float), (len(chosen) * len(swaps), 1))
    labels[:, single] = np.repeat(of_single, len(swaps), axis=0)
    swapped = np.repeat(np.tile(swaps, (len(chosen), 1)), 2, axis=1)
    labels[:, paired] = np.where(swapped, 1 - labels[:, paired], labels[:, paired])
    if 2 * n_true == len(single):
        labels = labels[labels[:, 0] == 1]
    return labels, True


def clusters_of(sums: ClusterSums, side: bool) -> Integer[np.ndarray, "_"]:
    """Clusters that have a unit of this side: True is benchmark."""
    return np.unique(sums.cluster_of_unit[sums.label == side])


def n_paired_clusters(sums: ClusterSums) -> int:
    """Clusters that have prompts of both conditions."""
    return len(np.intersect1d(clusters_of(sums, True), clusters_of(sums, False)))


def n_single_clusters(sums: ClusterSums, side: bool) -> int:
    """Clusters that have prompts of this side alone."""
    return len(np.setdiff1d(clusters_of(sums, side), clusters_of(sums, not side)))


def random_signs(
    n_clusters: int, rng: np.random.Generator, n_resamples: int
) -> tuple[Float[np.ndarray, "resamples clusters"], bool]:
    """Signs of the clusters; all of them, the first kept at +1, where they are few."""
    if 2**n_clusters < MAX_ENUMERATED:
        rest = np.array(list(product((1.0, -1.0), repeat=n_clusters - 1)))
        return np.hstack([np.ones((len(rest), 1)), rest]), True
    return rng.choice(np.array([-1.0, 1.0]), (n_resamples, n_clusters)), False
