"""Scores of held-out prompts against scikit-learn, intervals against scipy, and splits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import ttest_ind
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, log_loss, roc_auc_score

from interp.analyses.probe_gain import best_baseline, difference_of, gain
from interp.analyses.probe_metrics import Estimate, auroc_estimate, estimates, mean_estimate
from interp.analyses.probe_splits import (
    Splits,
    check_splits,
    cluster_splits,
    fold_splits,
    index_splits,
)
from interp.analyses.probes import probe

ONE = Splits(fitted=np.zeros((1, 40), dtype=bool), held_out=np.ones((1, 40), dtype=bool))


def drawn(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties, of 40 prompts, and their labels."""
    rng = np.random.default_rng(seed)
    target = rng.permutation(np.arange(40) < 15)
    return (rng.integers(0, 9, (1, 40)) - 4) / 2 + 0.5 * target, target


def test_numbers_of_one_split_are_those_of_scikit_learn() -> None:
    score, target = drawn()
    found = estimates(score, target=target, splits=ONE, cluster=np.arange(40))
    weight = np.where(target, 0.5 / 15, 0.5 / 25)
    chance = expit(score[0])
    called = np.where(score[0] == 0, np.arange(40) % 2 == 0, score[0] > 0)
    assert found["auroc"].value == pytest.approx(roc_auc_score(target, score[0]))
    assert found["brier"].value == pytest.approx(
        brier_score_loss(target, chance, sample_weight=weight)
    )
    assert found["bits"].value == pytest.approx(
        log_loss(target, chance, sample_weight=weight) / np.log(2)
    )
    away = score[0] != 0
    sure = Splits(fitted=ONE.fitted, held_out=away[None, :])
    found = estimates(score, target=target, splits=sure, cluster=np.arange(40))
    assert found["accuracy"].value == pytest.approx(
        balanced_accuracy_score(target[away], called[away])
    )


def test_auroc_is_the_mean_over_splits_whatever_their_zeros() -> None:
    rng = np.random.default_rng(1)
    target, splits = rng.random(60) < 0.5, fold_splits(rng.integers(0, 3, 60))
    score = rng.normal(size=(3, 60))
    expected = np.mean(
        [roc_auc_score(target[held], score[k, held]) for k, held in enumerate(splits.held_out)]
    )
    common = {"target": target, "splits": splits, "cluster": np.arange(60)}
    assert auroc_estimate(score, **common).value == pytest.approx(expected)
    shifted = score + 100.0 * np.arange(3)[:, None]
    assert auroc_estimate(shifted, **common).value == pytest.approx(expected)


def test_auroc_of_a_case_by_hand() -> None:
    # Split 0: 3 > 1 and 2 > 1 are right. Split 1: 0 > 5 is wrong. Mean of 1 and 0.
    score = np.tile([3.0, 2.0, 1.0, 0.0, 5.0], (2, 1))
    splits = index_splits(
        [(np.array([3, 4]), np.array([0, 1, 2])), (np.array([0, 2]), np.array([3, 4]))], n_prompts=5
    )
    found = auroc_estimate(
        score,
        target=np.array([True, True, False, True, False]),
        splits=splits,
        cluster=np.arange(5),
    )
    assert found.value == 0.5
    # Without prompt 0, half of split 0's pairs are left, so it counts half: (1 * 0.5) / 1.5.
    assert found.without[0] == pytest.approx(1 / 3)


def test_split_of_one_class_drops_out() -> None:
    score, target = drawn()
    two = Splits(
        fitted=np.zeros((2, 40), dtype=bool), held_out=np.stack([np.ones(40, dtype=bool), target])
    )
    found = auroc_estimate(np.tile(score, (2, 1)), target=target, splits=two, cluster=np.arange(40))
    assert found.value == pytest.approx(roc_auc_score(target, score[0]))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_without_a_cluster_is_the_number_computed_anew(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, target = drawn(seed)
    cluster = rng.integers(0, 9, 40)
    found = estimates(score, target=target, splits=ONE, cluster=cluster)
    for place, left_out in enumerate(np.unique(cluster)):
        left = cluster != left_out
        if not 0 < target[left].sum() < left.sum():
            continue
        assert found["auroc"].without[place] == pytest.approx(
            roc_auc_score(target[left], score[0, left])
        )
        weight = np.where(target[left], 0.5 / target[left].sum(), 0.5 / (~target[left]).sum())
        assert found["brier"].without[place] == pytest.approx(
            brier_score_loss(target[left], expit(score[0, left]), sample_weight=weight)
        )


def test_interval_of_a_mean_is_that_of_welch() -> None:
    rng = np.random.default_rng(3)
    value, target = rng.normal(size=(1, 40)), np.arange(40) < 12
    estimate = mean_estimate(value, target=target, splits=ONE, cluster=np.arange(40))
    welch = ttest_ind(value[0, target], -value[0, ~target], equal_var=False)
    expected = welch.confidence_interval(0.95)
    assert estimate.interval() == pytest.approx((expected.low / 2, expected.high / 2))


def test_interval_of_a_share_is_symmetric_in_log_odds_and_stays_inside() -> None:
    score, target = drawn()
    found = auroc_estimate(score, target=target, splits=ONE, cluster=np.arange(40) // 10)
    low, high = found.interval(share=True)
    assert 0 < low < found.value < high < 1
    assert logit(low) + logit(high) == pytest.approx(2 * logit(found.value))
    plain = found.interval()
    slope = found.value * (1 - found.value)
    assert logit(high) - logit(low) == pytest.approx((plain[1] - plain[0]) / slope)


def test_interval_is_unknown_for_one_cluster_and_without_width_where_none_differ() -> None:
    score, target = drawn()
    alone = auroc_estimate(score, target=target, splits=ONE, cluster=np.zeros(40))
    assert np.isnan(alone.interval()).all()
    sure = auroc_estimate(
        np.where(target, 1.0, 0.0)[None, :], target=target, splits=ONE, cluster=np.arange(40)
    )
    assert sure.interval(share=True) == (1.0, 1.0)


def test_gain_is_the_difference_and_its_interval_is_paired() -> None:
    rng = np.random.default_rng(0)
    target, cluster = np.arange(120) % 2 == 0, np.arange(120) // 2
    shared = rng.normal(size=(120, 2)) + target[:, None]
    nearly = shared + 0.05 * rng.normal(size=(120, 2))
    splits = cluster_splits(target, cluster, rng=rng)
    one, other = (
        probe(rows, target=target, cluster=cluster, rng=rng, splits=splits, strengths=[1.0])
        for rows in (shared, nearly)
    )
    found = gain(one, other)
    assert found.value == pytest.approx(one.auroc - other.auroc)
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.5 * (one.auroc_high - one.auroc_low)
    assert gain(one, one).low == gain(one, one).high == 0.0


def test_no_difference_of_shares_lies_beyond_1_and_bits_may() -> None:
    cluster = np.array([0, 0, 0])
    one, other = (
        Estimate(value=value, without=np.array(without), stratum=cluster)
        for value, without in ((0.9, [0.2, 0.9, 0.9]), (0.3, [0.9, 0.2, 0.3]))
    )
    low, high = (one - other).interval()
    assert low < -1
    assert high > 1
    found = difference_of(one, other, is_share=True)
    assert (found.value, found.low, found.high) == (pytest.approx(0.6), -1.0, 1.0)
    of_bits = difference_of(one, other, is_share=False)
    assert (of_bits.low, of_bits.high) == (low, high)


def test_gain_refuses_other_splits_and_unknown_metrics() -> None:
    rng = np.random.default_rng(0)
    target, rows = np.arange(40) % 2 == 0, rng.normal(size=(40, 2))
    one, other = (
        probe(rows, target=target, cluster=np.arange(40), rng=rng, strengths=[1.0])
        for _ in range(2)
    )
    with pytest.raises(ValueError, match="other targets, clusters or splits"):
        gain(one, other)
    with pytest.raises(ValueError, match="metric is 'f1', which is none of auroc, accuracy"):
        gain(one, one, metric="f1")
    assert best_baseline({"a": one, "b": other}) == ("a" if one.auroc >= other.auroc else "b")
    with pytest.raises(ValueError, match="baselines is empty"):
        best_baseline({})


def test_splits_refuse_a_prompt_on_both_sides() -> None:
    with pytest.raises(ValueError, match="prompt 2 is fitted and held out in split 0"):
        index_splits([(np.array([1, 2]), np.array([2]))], n_prompts=3)
    with pytest.raises(ValueError, match="fitted holds no split"):
        index_splits([], n_prompts=3)


def test_cluster_astride_a_split_is_refused() -> None:
    target = np.array([True, False] * 4)
    with pytest.raises(ValueError, match="cluster a is on both sides of split 0"):
        check_splits(
            fold_splits(np.arange(8) // 4), target=target, cluster=np.array(list("abcdabcd"))
        )


def test_splits_that_never_hold_out_both_classes_are_refused() -> None:
    target = np.array([True, False, True, False])
    splits = index_splits([(np.array([0, 1]), np.array([2]))], n_prompts=4)
    assert splits.usable(target).tolist() == [False]
    with pytest.raises(ValueError, match="no split holds out prompts of both classes"):
        check_splits(splits, target=target)


def test_splits_for_other_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="splits cover 3 prompts, but target has 4"):
        check_splits(fold_splits(np.array([0, 0, 1])), target=np.array([True, False, True, False]))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_fold_holds_out_both_classes_where_each_has_clusters_enough(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, 14, 60)
    target = rng.random(14)[cluster] < rng.random(60)
    if min(len(np.unique(cluster[target])), len(np.unique(cluster[~target]))) < 3:
        return
    splits = cluster_splits(target, cluster, rng=rng, n_folds=3)
    assert splits.usable(target).all()
    check_splits(splits, target=target, cluster=cluster)
    assert splits.held_out.sum(axis=0).tolist() == [1] * 60
