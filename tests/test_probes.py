"""Probes against scikit-learn and scipy, and against features that must not tell anything."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.analyses.features import (
    length_features,
    mean_by_prompt,
    routing_features,
)
from interp.analyses.probe_choice import log_odds
from interp.analyses.probe_splits import fold_splits, grouped_folds
from interp.analyses.probe_surface import bag_of_tokens
from interp.analyses.probes import probe, shuffled_probe


def paired(n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Target and cluster of items that have one prompt of either class."""
    return np.tile([True, False], n_items), np.repeat(np.arange(n_items), 2)


def test_separable_classes_reach_one() -> None:
    target, cluster = paired(20)
    features = np.random.default_rng(0).normal(size=(40, 4)) + 20.0 * target[:, None]
    result = probe(features, target=target, cluster=cluster, rng=np.random.default_rng(0))
    assert (result.auroc, result.auroc_low, result.auroc_high) == (1.0, 1.0, 1.0)
    assert (result.n_prompts, result.n_clusters) == (40, 20)


def leaky_variants(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """40 items of 4 near-identical variants; the label belongs to the item and to nothing else."""
    cluster = np.repeat(np.arange(40), 4)
    target = rng.permutation(np.arange(40) < 20)[cluster]
    features = rng.normal(size=(40, 12))[cluster] + 0.05 * rng.normal(size=(160, 12))
    return features, target, cluster


def test_features_that_name_the_item_tell_nothing_once_items_stay_whole() -> None:
    grouped, ungrouped = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        features, target, cluster = leaky_variants(rng)
        for cluster_used, found in ((cluster, grouped), (np.arange(160), ungrouped)):
            result = probe(features, target=target, cluster=cluster_used, rng=rng, strengths=[10.0])
            found.append(result.auroc)
    assert abs(np.mean(grouped) - 0.5) < 0.1  # standard error about 0.03
    assert np.mean(ungrouped) > 0.7


def test_features_of_the_item_alone_order_pairs_at_chance() -> None:
    target, cluster = paired(30)
    features = np.random.default_rng(0).normal(size=(30, 40))[cluster]
    result = probe(features, target=target, cluster=cluster, rng=np.random.default_rng(0))
    assert result.auroc == pytest.approx(0.5)


@pytest.mark.slow
def test_shuffled_labels_of_a_strong_effect_average_to_chance() -> None:
    target, cluster = paired(30)
    rng = np.random.default_rng(5)
    features = rng.normal(size=(60, 10)) + target[:, None]
    found = [
        shuffled_probe(features, target=target, cluster=cluster, rng=rng, strengths=[10.0]).auroc
        for _ in range(20)
    ]
    assert abs(np.mean(found) - 0.5) < 4 * np.std(found) / np.sqrt(20)
    assert probe(features, target=target, cluster=cluster, rng=rng).auroc > 0.85


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_clusters=st.integers(8, 20))
def test_no_group_straddles_a_split_and_every_fold_has_both_classes(
    seed: int, n_clusters: int
) -> None:
    rng = np.random.default_rng(seed)
    cluster = rng.permutation(np.repeat(np.arange(n_clusters), 3))
    target = (cluster % 2 == 0) ^ (rng.random(len(cluster)) < 0.1)
    fold = grouped_folds(target, cluster, rng=rng, n_folds=3)
    assert all(len(np.unique(fold[cluster == group])) == 1 for group in range(n_clusters))
    assert all(0 < target[fold == number].mean() < 1 for number in range(3))


def test_copies_of_a_prompt_in_its_group_do_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(6)
    target, cluster = np.arange(60) % 2 == 0, np.arange(60)
    features = rng.normal(size=(60, 3)) + 0.7 * target[:, None]
    fold = grouped_folds(target, cluster, rng=rng)
    copies = np.repeat(np.arange(60), 6)

    def width(cluster: np.ndarray) -> float:
        result = probe(
            features[copies],
            target=target[copies],
            cluster=cluster,
            rng=np.random.default_rng(0),
            splits=fold_splits(fold[copies]),
        )
        return result.auroc_high - result.auroc_low

    single = probe(
        features,
        target=target,
        cluster=cluster,
        rng=np.random.default_rng(0),
        splits=fold_splits(fold),
    )
    assert width(copies) == pytest.approx(single.auroc_high - single.auroc_low, abs=0.01)
    assert width(np.arange(360)) < 0.6 * width(copies)


@pytest.mark.slow
def test_interval_holds_the_auroc_of_fresh_prompts() -> None:
    """One feature, so the probe itself hardly varies and the truth is Phi(1 / sqrt 2)."""
    target, cluster = paired(40)
    held = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        features = rng.normal(size=(80, 1)) + target[:, None]
        result = probe(features, target=target, cluster=cluster, rng=rng, strengths=[10.0])
        held += result.auroc_low <= 0.7602 <= result.auroc_high
    assert 51 <= held <= 60  # 95 % of 60 is 57, less three standard errors


def test_same_seed_gives_the_same_score() -> None:
    target, cluster = paired(12)
    features = np.random.default_rng(0).normal(size=(24, 5))
    first, second = (
        probe(features, target=target, cluster=cluster, rng=np.random.default_rng(9)).to_frame(
            site="routing", layer=3
        )
        for _ in range(2)
    )
    pd.testing.assert_frame_equal(first, second)


def test_frame_names_the_columns_of_the_design() -> None:
    target, cluster = paired(12)
    features = np.random.default_rng(0).normal(size=(24, 5))
    result = probe(features, target=target, cluster=cluster, rng=np.random.default_rng(0))
    row = result.to_frame(site="length", baseline="length").iloc[0].to_dict()
    assert np.isnan(row.pop("layer"))
    assert row == {
        "site": "length",
        "readout": "",
        "target": "condition",
        "split": "item",
        "auroc": result.auroc,
        "auroc_low": result.auroc_low,
        "auroc_high": result.auroc_high,
        "accuracy": result.accuracy,
        "accuracy_low": result.accuracy_low,
        "accuracy_high": result.accuracy_high,
        "brier": result.brier,
        "brier_low": result.brier_low,
        "brier_high": result.brier_high,
        "bits": result.bits,
        "bits_low": result.bits_low,
        "bits_high": result.bits_high,
        "baseline": "length",
        "n_prompts": 24,
        "n_clusters": 12,
    }


def test_constant_features_give_chance_without_a_warning() -> None:
    target, cluster = paired(12)
    features = np.full((24, 3), 7.0, dtype=np.float32)
    result = probe(features, target=target, cluster=cluster, rng=np.random.default_rng(0))
    assert result.auroc == 0.5


def test_one_group_of_a_class_is_refused() -> None:
    target = np.array([True, False, False, False])
    with pytest.raises(ValueError, match=r"True in 1 cluster\(s\) and False in 3.* at least 2 of"):
        probe(np.eye(4), target=target, cluster=np.arange(4), rng=np.random.default_rng(0))


def test_features_that_are_not_finite_are_refused() -> None:
    target, cluster = paired(4)
    features = np.ones((8, 2))
    features[5, 1] = np.nan
    with pytest.raises(ValueError, match="features of prompt 5 are not finite"):
        probe(features, target=target, cluster=cluster, rng=np.random.default_rng(0))


def test_fold_that_leaves_one_class_is_refused() -> None:
    target, cluster = paired(4)
    with pytest.raises(ValueError, match="fold 0 leaves prompts of one class only"):
        probe(
            np.ones((8, 2)),
            target=target,
            cluster=cluster,
            rng=np.random.default_rng(0),
            splits=fold_splits(target.astype(int)),
        )


def test_routing_features_are_the_shares_of_a_loop_over_tokens() -> None:
    rng = np.random.default_rng(0)
    chosen = np.argsort(rng.random((30, 2, 5)), axis=-1)[..., :2].astype(np.uint8)
    weights = rng.dirichlet([1, 1], (30, 2)).astype(np.float16)
    prompt_index = np.repeat([0, 2, 3], 10)
    slots, weighted = np.zeros((4, 2, 5)), np.zeros((4, 2, 5))
    for token in range(30):
        for layer in range(2):
            for rank in range(2):
                cell = prompt_index[token], layer, chosen[token, layer, rank]
                slots[cell] += 1
                weighted[cell] += float(weights[token, layer, rank])
    sizes = {"prompt_index": prompt_index, "n_prompts": 4, "n_experts": 5}
    present = [0, 2, 3]
    np.testing.assert_allclose(routing_features(chosen, **sizes)[present], slots[present] / 20)
    np.testing.assert_allclose(
        routing_features(chosen, **sizes, expert_weights=weights)[present],
        weighted[present] / weighted[present].sum(axis=-1, keepdims=True),
    )
    assert np.isnan(routing_features(chosen, **sizes)[1]).all()


def test_bag_of_tokens_is_the_logarithm_of_counts() -> None:
    token_id = np.array([9, 9, 4, 9, 7])
    alone = np.full(5, -1)  # no token before, so no pairs
    bag = bag_of_tokens(token_id, alone, prompt_index=np.array([0, 0, 0, 2, 2]), n_prompts=3)
    counts = np.sort(abs(bag).toarray(), axis=1)[:, -2:]
    np.testing.assert_allclose(counts, np.log1p([[1, 2], [0, 0], [1, 1]]))


def test_ids_of_held_out_prompts_alone_do_not_change_their_scores() -> None:
    rng = np.random.default_rng(0)
    target, fold = np.arange(40) % 2 == 0, np.arange(40) // 20
    token_id = rng.integers(0, 20, 400) + 20 * (np.arange(400) // 200) * (rng.random(400) < 0.5)
    alone = np.full(400, -1)
    bag = bag_of_tokens(token_id, alone, prompt_index=np.arange(400) // 10, n_prompts=40)
    bag = bag[:, np.unique(bag.indices)]
    seen = np.flatnonzero(abs(bag[fold == 0]).sum(axis=0) > 0)
    assert len(seen) < bag.shape[1]
    whole, cut = (
        log_odds(of, target=target, fitted=fold == 0, scored=fold == 1, strengths=[10.0])
        for of in (bag, bag[:, seen])
    )
    np.testing.assert_allclose(whole, cut, atol=5e-3)


def test_length_features_are_logarithms_of_token_counts() -> None:
    features = length_features(np.array([0, 0, 0, 2]), n_prompts=3)
    np.testing.assert_allclose(features, [[np.log(3)], [np.nan], [0.0]])


def test_mean_by_prompt_is_the_mean_of_a_pandas_groupby() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(1000, 1, (50, 4)).astype(np.float32)
    prompt_of_row = rng.choice([0, 1, 3], 50)
    expected = pd.DataFrame(values.astype(float)).groupby(prompt_of_row).mean().to_numpy()
    means = mean_by_prompt(values, prompt_of_row=prompt_of_row, n_prompts=4)
    assert means.dtype == np.float32
    np.testing.assert_allclose(means[[0, 1, 3]], expected, rtol=1e-7)
    assert np.isnan(means[2]).all()
