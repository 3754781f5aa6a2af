"""Permuted labels keep items whole, and the null they give is calibrated where tokens are not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, permutation_test, ttest_1samp, ttest_ind

from interp.analyses.divergence import usage_divergence
from interp.analyses.permutation import (
    delete_groups,
    flipped_signs,
    permutation_p_value,
    permuted_labels,
)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_prompts=st.integers(4, 30), n_items=st.integers(2, 8))
def test_an_item_keeps_its_labels_or_swaps_all_of_them(
    seed: int, n_prompts: int, n_items: int
) -> None:
    rng = np.random.default_rng(seed)
    item = np.concatenate([np.arange(2), rng.integers(0, n_items, n_prompts - 2)])
    label = np.concatenate([[True, False], rng.random(n_prompts - 2) < 0.5])
    for drawn in permuted_labels(label, item, rng=rng, n_permutations=20):
        for name in np.unique(item):
            of_item = item == name
            changed = drawn[of_item] != label[of_item]
            assert changed.all() or not changed.any()


def test_flips_keep_the_balance_of_every_balanced_item() -> None:
    item = np.repeat(np.arange(10), 2)
    label = np.tile([True, False], 10)
    drawn = permuted_labels(label, item, rng=np.random.default_rng(0), n_permutations=500)
    np.testing.assert_array_equal(drawn.reshape(500, 10, 2).sum(axis=2), 1)
    share_flipped = (drawn != label).mean(axis=0)
    assert np.all(np.abs(share_flipped - 0.5) < 4 * np.sqrt(0.25 / 500))


def test_items_with_one_label_exchange_it_and_keep_its_count() -> None:
    item = np.repeat(["a", "b", "c", "d", "e"], 3)
    label = np.repeat([True, True, False, False, False], 3)
    drawn = permuted_labels(label, item, rng=np.random.default_rng(0), n_permutations=2000)
    np.testing.assert_array_equal(drawn.sum(axis=1), 6)
    share = drawn.mean(axis=0)  # each item holds one of 2 True labels in 5
    assert np.all(np.abs(share - 0.4) < 4 * np.sqrt(0.24 / 2000))


def test_paired_and_single_items_do_not_mix() -> None:
    item = np.array(["pair", "pair", "one", "two", "three"])
    label = np.array([True, False, True, False, False])
    drawn = permuted_labels(label, item, rng=np.random.default_rng(0), n_permutations=200)
    np.testing.assert_array_equal(drawn[:, :2].sum(axis=1), 1)
    np.testing.assert_array_equal(drawn[:, 2:].sum(axis=1), 1)


def test_same_seed_gives_the_same_permutations() -> None:
    item, label = np.arange(8), np.arange(8) < 4
    first, second = (
        permuted_labels(label, item, rng=np.random.default_rng(3), n_permutations=50)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


def test_p_value_agrees_with_scipy_on_a_difference_of_means() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.8, 1, 8), rng.normal(0, 1, 9)
    values, label = np.concatenate([a, b]), np.arange(17) < 8
    drawn = permuted_labels(label, np.arange(17), rng=rng, n_permutations=20000)
    null = np.array([values[row].mean() - values[~row].mean() for row in drawn])
    ours = permutation_p_value(np.asarray(a.mean() - b.mean()), null)
    exact = permutation_test(
        (a, b), lambda x, y: x.mean() - y.mean(), alternative="greater", n_resamples=np.inf
    )
    assert abs(float(ours) - exact.pvalue) < 4 * np.sqrt(exact.pvalue / 20000)


def test_p_value_counts_ties_and_never_reaches_zero() -> None:
    observed = np.array([0.3, 0.3])
    null = np.array([[0.1, 0.3], [0.2, 0.1 + 0.2]])  # 0.1 + 0.2 is 0.30000000000000004
    np.testing.assert_allclose(permutation_p_value(observed, null), [1 / 3, 1.0])


def test_single_item_is_refused() -> None:
    with pytest.raises(ValueError, match="give at least 2"):
        permuted_labels(
            np.array([True, False]),
            np.array(["a", "a"]),
            rng=np.random.default_rng(0),
            n_permutations=1,
        )


def test_prompts_of_one_label_are_refused() -> None:
    with pytest.raises(ValueError, match="all 2 prompts have the same label"):
        permuted_labels(
            np.array([True, True]),
            np.array(["a", "b"]),
            rng=np.random.default_rng(0),
            n_permutations=1,
        )


def test_p_value_of_what_is_undefined_is_undefined() -> None:
    assert np.isnan(permutation_p_value(np.array([np.nan]), np.ones((3, 1)))).all()


def test_signs_are_even_and_nothing_else() -> None:
    signs = flipped_signs(50, rng=np.random.default_rng(0), n_flips=400)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(signs.mean()) < 4 / np.sqrt(signs.size)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(*[st.integers(0, 30)] * 3),
    n_replicates=st.integers(6, 40),
)
def test_each_cluster_is_left_out_once_and_both_conditions_stay(
    seed: int, sizes: tuple[int, int, int], n_replicates: int
) -> None:
    kind = np.repeat([0, 1, 2], sizes)
    benchmark, organic = (kind != 2).astype(int), (kind != 1).astype(int)
    if not benchmark.any() or not organic.any():
        return
    rng = np.random.default_rng(seed)
    left_out = delete_groups(benchmark, organic, rng=rng, n_replicates=n_replicates)
    if left_out is None:
        # A condition hangs on one cluster alone.
        assert min(benchmark.sum(), organic.sum()) == 1
        return
    n = len(left_out.stratum)
    assert sorted(set(left_out.replicate)) == list(range(n))
    assert n <= n_replicates + 3
    for replicate in range(n):
        kept = left_out.replicate != replicate
        assert benchmark[kept].any()
        assert organic[kept].any()


def test_jackknife_of_a_mean_is_the_standard_error_with_students_t() -> None:
    values = np.random.default_rng(0).normal(size=12)
    left_out = delete_groups(
        np.ones(12), np.ones(12), rng=np.random.default_rng(0), n_replicates=12
    )
    assert left_out is not None
    means = np.array([[values[left_out.replicate != r].mean()] for r in range(12)])
    corrected, low, high = left_out.corrected(np.array([values.mean()]), means)
    expected = ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert corrected[0] == pytest.approx(values.mean())  # a mean has no bias to take away
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high))


def test_jackknife_of_a_difference_is_welchs_interval() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 7), rng.normal(1, 3, 9)
    left_out = delete_groups(
        np.repeat([1, 0], [7, 9]), np.repeat([0, 1], [7, 9]), rng=rng, n_replicates=16
    )
    assert left_out is not None
    both, is_a = np.concatenate([a, b]), np.arange(16) < 7
    kept = [left_out.replicate != r for r in range(16)]
    without = np.array([[both[k & is_a].mean() - both[k & ~is_a].mean()] for k in kept])
    _, low, high = left_out.corrected(np.array([a.mean() - b.mean()]), without)
    expected = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high))


def test_jackknife_takes_the_bias_of_the_plug_in_variance_away() -> None:
    values = np.random.default_rng(0).normal(size=10)
    left_out = delete_groups(
        np.ones(10), np.ones(10), rng=np.random.default_rng(0), n_replicates=10
    )
    assert left_out is not None
    without = np.array([[values[left_out.replicate != r].var()] for r in range(10)])
    corrected, _, _ = left_out.corrected(np.array([values.var()]), without)
    assert corrected[0] == pytest.approx(values.var(ddof=1))  # Quenouille 1956


def no_effect(rng: np.random.Generator, item: np.ndarray) -> np.ndarray:
    """Experts of 30 tokens a prompt: every item has its favourites, conditions have none."""
    taste = rng.normal(size=(item.max() + 1, 8))[item] + 0.3 * rng.normal(size=(len(item), 8))
    gumbel = rng.gumbel(size=(len(item), 30, 8))
    chosen = np.argsort(-(taste[:, None] + gumbel), axis=-1)[..., :2]
    return chosen.reshape(-1, 1, 2)


def p_of_no_effect(seed: int, *, paired: bool, by_token: bool) -> float:
    rng = np.random.default_rng(seed)
    item = np.repeat(np.arange(8), 2)
    benchmark = np.tile([True, False], 8) if paired else np.repeat(np.arange(8) < 4, 2)
    chosen = no_effect(rng, item)
    prompt = np.repeat(np.arange(16), 30)
    divergence = usage_divergence(
        chosen,
        benchmark=benchmark[prompt] if by_token else benchmark,
        token_id=np.zeros(len(chosen), dtype=int),
        prompt_index=np.arange(len(chosen)) if by_token else prompt,
        cluster=np.arange(len(chosen)) if by_token else item,
        n_experts=8,
        layer_indices=[0],
        rng=rng,
        n_permutations=59,
    )
    return float(divergence.p_value[0])


@pytest.mark.slow
@pytest.mark.parametrize("paired", [True, False])
def test_p_value_is_uniform_where_there_is_no_effect(paired: bool) -> None:
    p = np.array([p_of_no_effect(seed, paired=paired, by_token=False) for seed in range(200)])
    for level in (0.05, 0.25, 0.5, 0.75):
        low, high = binom.ppf([0.001, 0.999], len(p), level)
        assert low <= (p <= level).sum() <= high


def test_tokens_as_units_find_effects_that_are_not_there() -> None:
    p = np.array([p_of_no_effect(seed, paired=False, by_token=True) for seed in range(30)])
    assert (p <= 0.05).mean() > 0.5
