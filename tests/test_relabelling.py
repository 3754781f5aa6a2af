"""The max-T test against every relabelling computed by a loop, and what must not change it."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from interp.analyses.cells import ClusterSums, mean_difference_sums, token_adjusted_sums
from interp.analyses.relabelling import max_t_test


def routing(rng: np.random.Generator, n_tokens: int, n_experts: int = 4) -> np.ndarray:
    return np.argsort(rng.random((n_tokens, 2, n_experts)), axis=-1)[..., :2]


def shares(chosen: np.ndarray, n_experts: int) -> np.ndarray:
    """Share of each token's slots that each expert of each layer got, by a loop."""
    n_tokens, n_layers, top_k = chosen.shape
    share = np.zeros((n_tokens, n_layers * n_experts))
    for token in range(n_tokens):
        for layer in range(n_layers):
            for expert in chosen[token, layer]:
                share[token, layer * n_experts + expert] += 1 / top_k
    return share


def statistic_by_loop(
    share: np.ndarray, y: np.ndarray, cluster: np.ndarray, token: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """T of the issue's recipe and the effect, from tokens: y is each token's label."""
    residual, weight = share.copy(), y.astype(float)
    for t in np.unique(token):
        same = token == t
        residual[same] -= share[same].mean(axis=0)
        weight[same] -= y[same].mean()
    names = np.unique(cluster)
    score = np.array([(residual * weight[:, None])[cluster == g].sum(axis=0) for g in names])
    square = np.array([(weight[cluster == g] ** 2).sum() for g in names])
    effect = score.sum(axis=0) / square.sum()
    spread = ((score - effect * square[:, None]) ** 2).sum(axis=0)
    return np.abs(score.sum(axis=0)) / np.sqrt(spread), effect


def p_values(statistic: np.ndarray, null_max: np.ndarray) -> list[float]:
    return [float(np.mean(null_max >= t - 1e-9)) for t in statistic]


def test_relabelled_clusters_give_the_p_values_of_a_loop_over_all_relabellings() -> None:
    rng = np.random.default_rng(0)
    cluster, token = rng.integers(0, 9, 150), rng.integers(0, 10, 150)
    chosen, label = routing(rng, 150), np.arange(9) < 4
    sums = token_adjusted_sums(
        chosen, benchmark=label[cluster], cluster=cluster, token_id=token, n_experts=4
    )
    test = max_t_test(sums, rng=rng)
    share = shares(chosen, 4)
    statistic, effect = statistic_by_loop(share, label[cluster], cluster, token)
    null = [
        statistic_by_loop(share, np.isin(cluster, true), cluster, token)[0].max()
        for true in combinations(range(9), 4)
    ]
    np.testing.assert_allclose(sums.effect, effect, atol=1e-12)
    np.testing.assert_allclose(test.statistic, statistic)
    np.testing.assert_allclose(np.sort(test.null_max), np.sort(null))
    np.testing.assert_allclose(test.p_max_t, p_values(statistic, np.array(null)))
    assert test.is_enumerated
    assert test.recipe == "relabelled"


def test_clusters_of_both_conditions_beside_others_swap_their_parts() -> None:
    rng = np.random.default_rng(1)
    cluster, token = rng.integers(0, 7, 140), rng.integers(0, 8, 140)
    benchmark = np.where(cluster < 2, rng.random(140) < 0.5, cluster < 5)  # 0, 1: both; 2-4; 5, 6
    chosen = routing(rng, 140)
    sums = token_adjusted_sums(
        chosen, benchmark=benchmark, cluster=cluster, token_id=token, n_experts=4
    )
    test = max_t_test(sums, rng=rng)
    null = []
    for true, swaps in product(combinations(range(2, 7), 3), product((False, True), repeat=2)):
        y = np.where(
            cluster < 2,
            benchmark ^ np.append(swaps, [0] * 5)[cluster].astype(bool),
            np.isin(cluster, true),
        )
        null.append(statistic_by_loop(shares(chosen, 4), y, cluster, token)[0].max())
    np.testing.assert_allclose(np.sort(test.null_max), np.sort(null))
    np.testing.assert_allclose(test.p_value, np.mean(np.array(null) >= test.statistic.max() - 1e-9))


def test_paired_items_flip_scores_and_shrink_the_observed_t() -> None:
    rng = np.random.default_rng(2)
    item, token = np.repeat(np.arange(8), 20), rng.integers(0, 9, 160)
    benchmark = np.tile([True, False], 80)
    chosen = routing(rng, 160)
    sums = token_adjusted_sums(
        chosen, benchmark=benchmark, cluster=item, token_id=token, n_experts=4
    )
    test = max_t_test(sums, rng=rng)
    residual, weight = shares(chosen, 4), benchmark.astype(float)
    for t in np.unique(token):
        same = token == t
        residual[same] -= residual[same].mean(axis=0)
        weight[same] -= weight[same].mean()
    score = np.array([(residual * weight[:, None])[item == i].sum(axis=0) for i in range(8)])
    np.testing.assert_allclose(sums.score, score, atol=1e-12)
    t_of = lambda s: np.abs(stats.ttest_1samp(s, 0.0).statistic)  # noqa: E731
    observed = t_of(score) * np.sqrt(7 / 8)
    null = np.array([t_of(score * np.array(s)[:, None]).max() for s in product((1, -1), repeat=8)])
    assert test.recipe == "flipped_paired"
    np.testing.assert_allclose(test.statistic, observed)
    np.testing.assert_allclose(test.p_max_t, p_values(observed, null))


def test_more_than_64_clusters_flip_scores_with_the_cluster_left_out() -> None:
    rng = np.random.default_rng(3)
    cluster, token = np.repeat(np.arange(66), 4), rng.integers(0, 6, 264)
    label, chosen = np.arange(66) % 2 == 0, routing(rng, 264)
    sums = token_adjusted_sums(
        chosen, benchmark=label[cluster], cluster=cluster, token_id=token, n_experts=4
    )
    test = max_t_test(sums, rng=rng, n_resamples=400)
    share, y = shares(chosen, 4), label[cluster].astype(float)
    score = np.zeros((66, 8))
    for i in range(264):  # share less its mean over all, condition less its mean over the others
        same, others = token == token[i], (token == token[i]) & (cluster != cluster[i])
        score[cluster[i]] += (share[i] - share[same].mean(axis=0)) * (y[i] - y[others].mean())
    assert test.recipe == "flipped_left_out"
    np.testing.assert_allclose(test.statistic, np.abs(stats.ttest_1samp(score, 0.0).statistic))
    signs = np.random.default_rng(4).choice([-1, 1], (400, 66))
    null = [np.abs(stats.ttest_1samp(score * s[:, None], 0.0).statistic).max() for s in signs]
    expected = (1 + np.sum(null >= test.statistic.max())) / 401
    assert abs(test.p_value - expected) < 4 * np.sqrt(2 * 0.25 / 400)  # two Monte Carlo estimates


def test_drawn_relabellings_agree_with_all_of_them() -> None:
    rng = np.random.default_rng(5)
    share = rng.normal(size=(16, 3))
    label = np.arange(16) < 8
    sums = mean_difference_sums(share, benchmark=label, cluster=np.arange(16))  # 12,870: all
    everything = max_t_test(sums, rng=rng)
    more = mean_difference_sums(
        np.vstack([share, share[:2]]),
        benchmark=np.append(label, [True, False]),
        cluster=np.arange(18),
    )
    drawn = max_t_test(more, rng=rng, n_resamples=500)  # 48,620: drawn
    assert everything.is_enumerated
    assert len(everything.null_max) == 12_870 // 2
    assert not drawn.is_enumerated
    assert len(drawn.null_max) == 500
    assert drawn.p_value >= 1 / 501


@pytest.mark.parametrize(
    ("n_benchmark", "n_organic", "n_distinct"), [(4, 4, 35), (3, 4, 35), (1, 9, 10)]
)
def test_fewer_than_40_distinct_relabellings_are_insufficient(
    n_benchmark: int, n_organic: int, n_distinct: int
) -> None:
    n = n_benchmark + n_organic
    sums = mean_difference_sums(
        np.random.default_rng(0).normal(size=(n, 2)),
        benchmark=np.arange(n) < n_benchmark,
        cluster=np.arange(n),
    )
    test = max_t_test(sums, rng=np.random.default_rng(0))
    assert f"allows {n_distinct} distinct relabelling(s), fewer than 40" in test.insufficient
    assert np.isnan(test.p_value)
    assert np.isnan(test.p_max_t).all()
    assert test.recipe == "none"


def test_six_paired_items_are_insufficient_and_seven_are_not() -> None:
    for n_items, says in ((6, True), (7, False)):
        sums = mean_difference_sums(
            np.random.default_rng(0).normal(size=(2 * n_items, 2)),
            benchmark=np.arange(2 * n_items) % 2 == 0,
            cluster=np.arange(2 * n_items) // 2,
        )
        assert bool(max_t_test(sums, rng=np.random.default_rng(0)).insufficient) == says


def test_one_condition_alone_is_insufficient() -> None:
    sums = mean_difference_sums(
        np.ones((6, 1)), benchmark=np.ones(6, dtype=bool), cluster=np.arange(6)
    )
    test = max_t_test(sums, rng=np.random.default_rng(0))
    assert test.insufficient == (
        "benchmark has 6 cluster(s) and organic 0: a test needs both conditions."
    )


def test_no_common_token_id_is_insufficient() -> None:
    benchmark = np.repeat([True, False], 30)
    sums = token_adjusted_sums(
        np.zeros((60, 1, 1), dtype=int),
        benchmark=benchmark,
        cluster=np.arange(60) // 6,
        token_id=benchmark.astype(int),
        n_experts=2,
    )
    test = max_t_test(sums, rng=np.random.default_rng(0))
    assert test.insufficient == (
        "No token id occurs under both conditions, so nothing can be compared."
    )
    assert np.isnan(sums.effect).all()


def test_what_never_varies_has_a_statistic_of_0() -> None:
    label = np.arange(16) < 8
    share = np.column_stack([np.zeros(16), np.full(16, 0.3), label])
    for cluster in (np.arange(16), np.arange(16) % 8):  # relabelled and paired
        sums = mean_difference_sums(share, benchmark=label, cluster=cluster)
        test = max_t_test(sums, rng=np.random.default_rng(0))
        assert test.statistic.tolist() == [0.0, 0.0, 0.0]
        assert test.p_max_t.tolist() == [1.0, 1.0, 1.0]


def test_unequal_spread_of_the_conditions_is_said() -> None:
    rng = np.random.default_rng(6)
    spread = np.repeat([5.0, 1.0], 20)[:, None]
    sums = mean_difference_sums(
        spread * rng.normal(size=(40, 8)), benchmark=np.arange(40) < 20, cluster=np.arange(40)
    )
    test = max_t_test(sums, rng=rng, n_resamples=50)
    residual = sums.mean_residual
    expected = np.sqrt(
        residual[:20].var(axis=0, ddof=1).mean() / residual[20:].var(axis=0, ddof=1).mean()
    )
    np.testing.assert_allclose(test.sd_ratio, expected)
    assert "no recipe is known to hold its size here" in test.warning
    even = mean_difference_sums(
        rng.normal(size=(40, 8)), benchmark=np.arange(40) < 20, cluster=np.arange(40)
    )
    assert max_t_test(even, rng=rng, n_resamples=50).warning == ""


@pytest.mark.parametrize(("first", "second", "ratio"), [(1.0, 0.0, np.inf), (0.0, 0.0, np.nan)])
def test_a_condition_that_does_not_vary_is_the_most_unequal(
    first: float, second: float, ratio: float
) -> None:
    spread = np.repeat([first, second], 8)[:, None]
    share = 0.3 + spread * np.random.default_rng(7).normal(size=(16, 3))
    sums = mean_difference_sums(share, benchmark=np.arange(16) < 8, cluster=np.arange(16))
    test = max_t_test(sums, rng=np.random.default_rng(0), n_resamples=50)
    np.testing.assert_equal(test.sd_ratio, ratio)
    assert ("those of the other do not" in test.warning) == np.isinf(ratio)


def test_no_resample_is_refused() -> None:
    sums = mean_difference_sums(
        np.zeros((10, 1)), benchmark=np.arange(10) < 5, cluster=np.arange(10)
    )
    with pytest.raises(ValueError, match="n_resamples is 0, expected 1 or more"):
        max_t_test(sums, rng=np.random.default_rng(0), n_resamples=0)


def of_tokens(chosen: np.ndarray, y: np.ndarray, c: np.ndarray, t: np.ndarray) -> ClusterSums:
    return token_adjusted_sums(chosen, benchmark=y, cluster=c, token_id=t, n_experts=4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_tokens_and_names_change_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cluster = np.append(np.arange(10), rng.integers(0, 10, 50))
    token, label, chosen = rng.integers(0, 5, 60), np.arange(10) < 5, routing(rng, 60)
    before = max_t_test(of_tokens(chosen, label[cluster], cluster, token), rng=rng)
    order, name, token_name = rng.permutation(60), rng.permutation(4), rng.permutation(5)
    cluster_name = rng.permutation(10)
    after = max_t_test(
        of_tokens(
            name[chosen][order],
            label[cluster][order],
            cluster_name[cluster][order],
            token_name[token][order],
        ),
        rng=rng,
    )
    np.testing.assert_allclose(
        after.statistic.reshape(2, 4)[:, name], before.statistic.reshape(2, 4), atol=1e-9
    )
    np.testing.assert_allclose(after.p_value, before.p_value)
    assert 1 / 126 <= before.p_value <= 1
    assert before.p_max_t.max() <= 1


@pytest.mark.slow
def test_sizes_hold_where_sources_and_vocabulary_differ() -> None:
    """5 + 5 sources, 300 studies: within four standard errors of 5 %; tokens as units are not."""
    rng = np.random.default_rng(7)
    clustered = tokenwise = 0
    for _ in range(300):
        chosen, benchmark, source, token = study_without_effect(rng)
        sums = of_tokens(chosen, benchmark, source, token)
        clustered += max_t_test(sums, rng=rng).p_value <= 0.05
        alone = of_tokens(chosen, benchmark, np.arange(len(token)), token)
        tokenwise += max_t_test(alone, rng=rng, n_resamples=199).p_value <= 0.05
    assert abs(clustered / 300 - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 300)
    assert tokenwise / 300 > 0.5


def study_without_effect(
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    source = np.repeat(np.arange(10), 60)
    common, other = rng.dirichlet(np.ones(30), size=2)
    token = np.where(source < 5, rng.choice(30, 600, p=common), rng.choice(30, 600, p=other))
    liked, of_source = rng.normal(size=(30, 2, 4)), 0.7 * rng.normal(size=(10, 2, 4))
    scores = liked[token] + of_source[source] + rng.gumbel(size=(600, 2, 4))
    return np.argsort(-scores, axis=-1)[..., :2], source < 5, source, token
