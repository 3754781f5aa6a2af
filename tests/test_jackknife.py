"""Clusters that are few, or the only ones of their kind, as an item that lost its partner."""

import numpy as np
import pytest
from scipy import stats

from interp.analyses.cells import mean_difference_sums
from interp.analyses.jackknife import Jackknife, cluster_jackknife, q_values

PAIRS, SOURCES = np.repeat(np.arange(6), 2), np.arange(12)


def jackknife(share: np.ndarray, benchmark: np.ndarray, cluster: np.ndarray) -> Jackknife:
    return cluster_jackknife(
        mean_difference_sums(share[:, None], benchmark=benchmark, cluster=cluster)
    )


def without_each(share: np.ndarray, benchmark: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Difference of means with each cluster left out, by a plain loop."""
    found = []
    for name in np.unique(cluster):
        kept = cluster != name
        sides = [share[kept & (benchmark == side)].mean() for side in (True, False)]
        found.append(sides[0] - sides[1])
    return np.array(found)


def test_an_item_that_lost_its_partner_stands_with_the_pairs() -> None:
    share = np.random.default_rng(0).normal(size=11)
    benchmark, cluster = (np.arange(12) % 2 == 0)[:11], PAIRS[:11]
    effect = share[benchmark].mean() - share[~benchmark].mean()
    shift = without_each(share, benchmark, cluster) - effect
    found = jackknife(share, benchmark, cluster)
    np.testing.assert_allclose(found.standard_error, np.sqrt(5 / 6 * (shift**2).sum()))
    assert 0 < found.df[0] <= 5


@pytest.mark.parametrize(("n_pairs", "n_true", "n_false"), [(12, 1, 0), (8, 1, 1), (1, 5, 6)])
def test_intervals_hold_the_truth_beside_a_lone_cluster(
    n_pairs: int, n_true: int, n_false: int
) -> None:
    n = n_pairs + n_true + n_false
    cluster = np.concatenate([np.arange(n_pairs), np.arange(n)])
    benchmark = np.arange(n_pairs + n) < n_pairs + n_pairs + n_true
    benchmark[:n_pairs] = False
    rng = np.random.default_rng(1)  # one study a column
    share = rng.normal(size=(n, 2000))[cluster] + rng.normal(size=(len(cluster), 2000))
    sums = mean_difference_sums(share, benchmark=benchmark, cluster=cluster)
    low, high = cluster_jackknife(sums).interval(0.9)
    held = (low <= 0) & (high >= 0)
    assert 0.85 < np.mean(held) < 0.96


def test_few_clusters_beside_many_do_not_find_what_is_not_there() -> None:
    rng, benchmark, found = np.random.default_rng(3), np.arange(25) < 20, []
    for _ in range(60):
        sums = mean_difference_sums(
            rng.normal(size=(25, 768)), benchmark=benchmark, cluster=np.arange(25)
        )
        found.append((q_values(cluster_jackknife(sums).p_value) <= 0.05).any())
    assert np.mean(found) <= 0.1


def test_degrees_of_freedom_are_the_fewer_of_welchs_and_those_of_clusters_that_vary_alike() -> None:
    share, benchmark = np.random.default_rng(4).normal(size=(13, 40)), np.arange(13) < 5
    found = cluster_jackknife(
        mean_difference_sums(share, benchmark=benchmark, cluster=np.arange(13))
    )
    welch = stats.ttest_ind(share[benchmark], share[~benchmark], equal_var=False)
    alike = (1 / 5 + 1 / 8) ** 2 / ((1 / 5) ** 2 / 4 + (1 / 8) ** 2 / 7)
    assert (welch.df > alike).any()
    assert (welch.df < alike).any()
    np.testing.assert_allclose(found.t, welch.statistic)
    np.testing.assert_allclose(found.df, np.minimum(welch.df, alike))


def test_a_condition_of_one_cluster_has_no_standard_error() -> None:
    share, benchmark = np.random.default_rng(2).normal(size=12), np.arange(12) == 0
    assert np.isnan(jackknife(share, benchmark, SOURCES).standard_error).all()
    both = np.where(SOURCES == 1, 0, SOURCES)  # the one benchmark prompt shares its source
    assert np.isnan(jackknife(share, benchmark, both).standard_error).all()
