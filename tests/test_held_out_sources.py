"""Held-out pairs of sources against loops and scikit-learn; refusals; the interval."""

import numpy as np
import pytest
from scipy.stats import t

from interp.analyses.held_out_sources import (
    SourcePair,
    SourcePairAuroc,
    auroc_gain_interval,
    auroc_over_source_pairs,
    held_out_source_pairs,
    over_source_pairs,
    source_pair_splits,
    why_no_source_pairs,
)
from interp.analyses.paired_auroc import auroc, mean_interval
from interp.analyses.routed_tokens import Prompts
from tests.measure_samples import nested_prompts


def with_item(prompts: Prompts, item: np.ndarray) -> Prompts:
    return Prompts(
        benchmark=prompts.benchmark, source=prompts.source, item=item, template=prompts.template
    )


def test_pairs_are_those_of_a_loop_and_no_source_straddles_a_split() -> None:
    prompts = nested_prompts(3, 2)
    pairs = list(held_out_source_pairs(prompts))
    expected = [(f"source-0{a}", f"source-0{b}") for a in range(3) for b in range(3, 6)]
    assert [(each.benchmark_source, each.organic_source) for each in pairs] == expected
    for pair in pairs:
        out = [
            i
            for i, s in enumerate(prompts.source)
            if s in (pair.benchmark_source, pair.organic_source)
        ]
        assert pair.held_out.tolist() == out
        assert pair.fitted.tolist() == sorted(set(range(12)) - set(out))
        assert prompts.benchmark[pair.held_out].any()
        assert not prompts.benchmark[pair.held_out].all()


def test_splits_are_the_pairs_as_masks() -> None:
    prompts = with_item(nested_prompts(2, 2), np.array([0, 1, 0, 3, 4, 5, 6, 7]))
    splits = source_pair_splits(prompts)
    pairs = list(held_out_source_pairs(prompts))
    assert len(splits) == len(pairs) == 4
    for (fitted, held_out), pair in zip(splits, pairs, strict=True):
        assert np.flatnonzero(fitted).tolist() == pair.fitted.tolist()
        assert np.flatnonzero(held_out).tolist() == pair.held_out.tolist()
    assert splits.usable(prompts.benchmark).all()


def test_one_auroc_too_few_is_refused() -> None:
    with pytest.raises(ValueError, match="auroc_of_pair has 3 entries, but there are 2 x 2 pairs"):
        over_source_pairs(np.ones(3), prompts=nested_prompts(2, 2))


def test_prompts_that_share_an_item_with_a_held_out_one_are_not_fitted_on() -> None:
    prompts = nested_prompts(3, 2)
    item = np.array([0, 1, 0, 3, 4, 5, 6, 7, 8, 9, 10, 11])  # sources 0 and 1 share item 0
    pair = next(held_out_source_pairs(with_item(prompts, item)))
    assert 2 not in pair.fitted
    assert 3 in pair.fitted


def test_auroc_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    for _ in range(10):
        target = rng.random(20) < 0.4
        target[:2] = [True, False]
        score = rng.integers(0, 6, 20).astype(float)  # with ties
        np.testing.assert_allclose(auroc(score, target=target), roc_auc_score(target, score))
    assert np.isnan(auroc(np.ones(2), target=np.ones(2, dtype=bool)))


def test_mean_over_pairs_is_that_of_a_loop_and_is_not_pooled() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(1)
    prompts = nested_prompts(3, 4)
    score = rng.normal(size=24) + prompts.benchmark
    shift = {}

    def score_held_out(pair: SourcePair) -> np.ndarray:
        shift[pair.benchmark_source, pair.organic_source] = 100 * rng.normal()
        zero = shift[pair.benchmark_source, pair.organic_source]  # every probe has its own zero
        return np.asarray(score[pair.held_out] + zero)

    found = auroc_over_source_pairs(score_held_out, prompts=prompts)
    expected = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            rows = np.isin(prompts.source, [f"source-0{i}", f"source-0{3 + j}"])
            expected[i, j] = roc_auc_score(prompts.benchmark[rows], score[rows])
    np.testing.assert_allclose(found.auroc_of_pair, expected)
    np.testing.assert_allclose(found.auroc, expected.mean())
    frame = found.to_frame().set_index(["benchmark_source", "organic_source"])
    assert frame.loc[("source-01", "source-05"), "auroc_of_pair"] == expected[1, 2]
    assert 0 <= found.auroc_low < found.auroc < found.auroc_high <= 1


def test_probe_fits_on_other_sources_only() -> None:
    prompts = nested_prompts(2, 3)
    seen: list[set[str]] = []

    def score_held_out(pair: SourcePair) -> np.ndarray:
        assert not set(prompts.source[pair.fitted]) & set(prompts.source[pair.held_out])
        seen.append(set(prompts.source[pair.fitted]))
        return np.arange(len(pair.held_out), dtype=float)

    auroc_over_source_pairs(score_held_out, prompts=prompts)
    assert len(seen) == 4
    assert all(len(each) == 2 for each in seen)


def test_interval_by_hand() -> None:
    table = np.array([[0.9, 0.7], [0.6, 0.8], [0.6, 0.6]])
    rows, columns = [0.8, 0.7, 0.6], [0.7, 0.7]
    parts = [np.var(rows, ddof=1) / 3, np.var(columns, ddof=1) / 2]
    half = t.ppf(0.975, 2) * np.sqrt(sum(parts))  # only rows vary, so 3 - 1 degrees of freedom
    low, high, freedom = mean_interval(table)
    np.testing.assert_allclose([low, high, freedom], [0.7 - half, 0.7 + half, 2.0])


def test_table_without_variation_has_no_width() -> None:
    assert mean_interval(np.ones((3, 4))) == (1.0, 1.0, 5.0)


def coverage(n_rows: int, n_columns: int, *, n_runs: int, seed: int) -> float:
    """Share of runs whose interval holds the mean of a table with random rows and columns."""
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(n_runs):
        table = rng.normal(size=(n_rows, 1)) + rng.normal(size=(1, n_columns))
        table = table + rng.normal(size=(n_rows, n_columns))
        low, high, _ = mean_interval(table)
        held += low <= 0 <= high
    return held / n_runs


@pytest.mark.parametrize(("n_rows", "n_columns"), [(2, 2), (3, 5), (8, 8)])
def test_interval_holds_the_mean_at_least_as_often_as_it_says(n_rows: int, n_columns: int) -> None:
    assert coverage(n_rows, n_columns, n_runs=1000, seed=n_rows) > 0.93


def test_interval_of_independent_cells_would_hold_it_too_seldom() -> None:
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(500):
        table = rng.normal(size=(5, 1)) + rng.normal(size=(1, 5)) + rng.normal(size=(5, 5))
        half = t.ppf(0.975, 24) * table.std(ddof=1) / 5
        held += abs(table.mean()) <= half
    assert held / 500 < 0.75  # the warning: pairs are no sample of 25


def test_gain_is_taken_pair_by_pair() -> None:
    rng = np.random.default_rng(3)
    prompts = nested_prompts(4, 10)
    ease = rng.normal(size=8)  # what makes a source easy for both probes
    noise = rng.normal(size=80)

    def scores(strength: float) -> np.ndarray:
        _, source = np.unique(prompts.source, return_inverse=True)
        return np.asarray(strength * prompts.benchmark + ease[source] + noise)

    def found(strength: float) -> SourcePairAuroc:
        score = scores(strength)
        return auroc_over_source_pairs(lambda pair: score[pair.held_out], prompts=prompts)

    good, poor = found(1.5), found(1.0)
    gain, low, high = auroc_gain_interval(good, poor)
    np.testing.assert_allclose(gain, good.auroc - poor.auroc)
    by_hand = mean_interval(good.auroc_of_pair - poor.auroc_of_pair)
    np.testing.assert_allclose([low, high], by_hand[:2])
    widths = [each.auroc_high - each.auroc_low for each in (good, poor)]
    assert high - low < min(widths)  # what makes a source easy for both cancels
    same = auroc_gain_interval(good, good)
    assert same == (0.0, 0.0, 0.0)


def test_gain_over_other_sources_is_refused() -> None:
    few, many = (
        auroc_over_source_pairs(
            lambda pair: np.zeros(len(pair.held_out)), prompts=nested_prompts(n, 2)
        )
        for n in (2, 3)
    )
    with pytest.raises(ValueError, match="give two AUROCs of the same prompts"):
        auroc_gain_interval(few, many)


def test_source_that_is_all_of_a_condition_is_named() -> None:
    prompts = nested_prompts(2, 2)
    lone = Prompts(
        benchmark=prompts.benchmark,
        source=np.where(prompts.benchmark, "mmlu", prompts.source),
        item=prompts.item,
        template=prompts.template,
    )
    reason = "source 'mmlu' is all of condition benchmark, so none is left to learn from"
    assert why_no_source_pairs(lone).startswith(reason)
    with pytest.raises(ValueError, match=reason):
        held_out_source_pairs(lone)
    found = auroc_over_source_pairs(lambda pair: np.zeros(1), prompts=lone)
    assert np.isnan([found.auroc, found.auroc_low, found.auroc_high]).all()
    assert found.reason.startswith(reason)


def test_missing_condition_is_named() -> None:
    prompts = nested_prompts(2, 2)
    alike = Prompts(
        benchmark=np.ones(8, dtype=bool),
        source=prompts.source,
        item=prompts.item,
        template=prompts.template,
    )
    assert why_no_source_pairs(alike).startswith("no source is of condition organic")


def test_source_of_both_conditions_is_named() -> None:
    prompts = nested_prompts(2, 2)
    shared = Prompts(
        benchmark=prompts.benchmark,
        source=np.array(["matched", "a", "b", "c", "matched", "d", "e", "f"]),
        item=prompts.item,
        template=prompts.template,
    )
    assert why_no_source_pairs(shared).startswith("source 'matched' has prompts of both conditions")


def test_items_in_every_source_leave_none_to_learn_from() -> None:
    prompts = nested_prompts(2, 2)
    everywhere = with_item(prompts, np.tile([0, 1], 4))
    assert "all prompts that share an item with them held out" in why_no_source_pairs(everywhere)


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match=r"4 of them not finite, for 4 held-out prompts"):
        auroc_over_source_pairs(lambda pair: np.full(4, np.nan), prompts=nested_prompts(2, 2))
