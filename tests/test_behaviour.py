"""Does a shift of routing predict what the model then does?"""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from interp.analyses.behaviour import rank_correlation, shift_bits, shift_towards


def test_rho_is_spearmans_and_shuffles_agree_with_its_p_value() -> None:
    rng = np.random.default_rng(0)
    shift = rng.normal(size=40)
    change = 0.4 * shift + rng.normal(size=40)

    found = rank_correlation(shift, change, rng=rng, n_permutations=4000)

    expected = stats.spearmanr(shift, change)
    np.testing.assert_allclose(found.rho, expected.statistic, rtol=1e-12)
    np.testing.assert_allclose(found.p_value, expected.pvalue, atol=0.02)
    assert found.low < found.rho < found.high


def test_ties_share_their_ranks() -> None:
    shift, change = np.array([1.0, 1, 2, 3, 3, 4]), np.array([0.0, 1, 1, 2, 2, 2])

    found = rank_correlation(shift, change, rng=np.random.default_rng(0), n_permutations=10)

    np.testing.assert_allclose(found.rho, stats.spearmanr(shift, change).statistic, rtol=1e-12)


def test_intervals_hold_the_true_value_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    true = 6 / np.pi * np.arcsin(0.5 / 2)  # Spearman's rho of a normal pair with Pearson's 0.5
    held = 0
    for _ in range(200):
        pairs = rng.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], size=60)
        found = rank_correlation(pairs[:, 0], pairs[:, 1], rng=rng, n_permutations=1)
        held += found.low <= true <= found.high

    assert 180 <= held <= 200


def test_what_differs_between_clusters_alone_predicts_nothing() -> None:
    rng = np.random.default_rng(2)
    cluster = np.repeat(np.arange(5), 20)
    shift, change = cluster + 0.1 * rng.normal(size=100), cluster + 0.1 * rng.normal(size=100)

    alone = rank_correlation(shift, change, rng=rng, n_permutations=500)
    within = rank_correlation(shift, change, rng=rng, cluster=cluster, n_permutations=500)

    assert alone.rho > 0.9
    assert alone.p_value < 0.01
    assert within.p_value > 0.05
    assert abs(within.rho) < 0.25
    assert within.low < 0 < within.high
    assert within.n_clusters == 5


@pytest.mark.parametrize("slope", [-1.0, 1.0])
def test_rho_within_clusters_is_the_correlation_of_ranks_given_the_cluster(slope: float) -> None:
    """Of what is left of either rank once a regression on the clusters has had its say."""
    rng = np.random.default_rng(3)
    cluster = rng.choice(["a", "b", "c", "d"], size=60)
    level = np.select([cluster == each for each in "abc"], [0.0, 2.0, 5.0], 9.0)
    shift = level + rng.normal(size=60).round(1)
    change = level + slope * (shift - level) + rng.normal(size=60)

    found = rank_correlation(shift, change, rng=rng, cluster=cluster, n_permutations=2000)

    dummies = (cluster[:, None] == np.unique(cluster)).astype(float)
    left = [
        ranks - dummies @ np.linalg.lstsq(dummies, ranks, rcond=None)[0]
        for ranks in (stats.rankdata(shift), stats.rankdata(change))
    ]
    np.testing.assert_allclose(found.rho, stats.pearsonr(*left).statistic, rtol=1e-9)
    assert np.sign(found.rho) == slope
    assert found.low < found.rho < found.high
    null = []
    for _ in range(2000):
        shuffled = left[1].copy()
        for name in "abcd":
            shuffled[cluster == name] = rng.permutation(shuffled[cluster == name])
        null.append(abs(stats.pearsonr(left[0], shuffled).statistic))
    share = np.mean(np.array(null) >= abs(found.rho))
    np.testing.assert_allclose(found.p_value, share, atol=0.02)


def test_clusters_of_one_item_have_nothing_within() -> None:
    found = rank_correlation(
        np.arange(6.0),
        np.arange(6.0),
        rng=np.random.default_rng(0),
        cluster=np.arange(6),
        n_permutations=10,
    )

    assert np.isnan(found.rho)


def test_an_outcome_that_does_not_change_has_no_correlation() -> None:
    found = rank_correlation(
        np.arange(6.0), np.zeros(6), rng=np.random.default_rng(0), n_permutations=10
    )

    assert np.isnan(found.rho)
    assert np.isnan(found.p_value)


def test_too_few_items_are_refused() -> None:
    with pytest.raises(ValueError, match="there are 3 items"):
        rank_correlation(np.arange(3.0), np.arange(3.0), rng=np.random.default_rng(0))


def test_shifts_agree_with_a_loop() -> None:
    usage = np.random.default_rng(0).dirichlet(np.ones(6), size=(4, 3))
    first, second = np.array([0, 2]), np.array([1, 3])
    experts = np.zeros((3, 6), dtype=bool)
    experts[1, 2] = experts[2, 0] = True

    bits = shift_bits(usage, first=first, second=second)
    towards = shift_towards(usage, first=first, second=second, experts=experts)

    for item, (a, b) in enumerate(zip(first, second, strict=True)):
        by_layer = [jensenshannon(usage[a, at], usage[b, at], base=2) ** 2 for at in range(3)]
        np.testing.assert_allclose(bits[item], np.mean(by_layer))
        share = [usage[of, 1, 2] + usage[of, 2, 0] for of in (a, b)]
        np.testing.assert_allclose(towards[item], share[0] - share[1])
