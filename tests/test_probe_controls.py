"""Controls of probes: what is memorised, what is saved, and what a choice may not look at."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from interp.analyses.probe_controls import description_length, selectivity
from interp.analyses.probe_splits import cluster_splits, index_splits
from interp.analyses.probe_study import controlled_probe
from interp.analyses.probes import probe, shuffled_probe


def variants(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """24 items of 5 variants; features name the item, and the label shifts one more column."""
    rng = np.random.default_rng(seed)
    item = np.repeat(np.arange(24), 5)
    target = item % 2 == 0
    names = rng.normal(size=(24, 60))[item] + 0.1 * rng.normal(size=(120, 60))
    return names, target, item


def test_probe_of_the_item_alone_has_no_selectivity() -> None:
    names, target, item = variants()
    found = selectivity(
        names, target=target, kind=item, rng=np.random.default_rng(0), strengths=[100.0]
    )
    assert found.accuracy > 0.95  # by remembering items, which is why it is no evidence
    assert found.control_accuracy > 0.95
    assert abs(found.selectivity) < 0.05
    assert found.n_kinds == 24


def test_probe_of_the_label_alone_is_selective() -> None:
    _, target, item = variants()
    rng = np.random.default_rng(0)
    features = rng.normal(size=(120, 2)) + 4.0 * target[:, None]
    found = selectivity(features, target=target, kind=item, rng=rng, strengths=[1.0])
    assert found.accuracy > 0.95
    assert found.control_accuracy < 0.75
    assert found.selectivity_low > 0.2
    assert found.selectivity == pytest.approx(found.accuracy - found.control_accuracy)


def test_control_task_without_repeated_kinds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kind has 1 value\(s\) that two prompts share"):
        selectivity(
            np.ones((5, 1)),
            target=np.array([True, False, True, False, True]),
            kind=np.array([0, 1, 2, 3, 3]),
            rng=np.random.default_rng(0),
        )


def test_control_task_whose_kinds_leave_one_class_to_fit_on_is_refused() -> None:
    # Kinds of two prompts, all of them of one class; the other class has kinds of one.
    kind = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7])
    with pytest.raises(ValueError, match="one class of the target in a part to be fitted on"):
        selectivity(
            np.ones((12, 1)), target=np.arange(12) < 8, kind=kind, rng=np.random.default_rng(0)
        )


def test_description_length_is_that_of_a_loop_over_blocks() -> None:
    rng = np.random.default_rng(0)
    target = np.arange(64) % 2 == 0
    features = rng.normal(size=(64, 3)) + target[:, None]
    found = description_length(
        features,
        target=target,
        cluster=np.arange(64),
        rng=np.random.default_rng(7),
        strengths=[3.0],
        blocks=[0.25, 0.5, 1.0],
    )
    order = np.argsort(np.random.default_rng(7).permutation(64))
    bits = 16.0
    for start, end in ((16, 32), (32, 64)):
        sent, sending = order[:start], order[start:end]
        scaler = StandardScaler().fit(features[sent])
        model = LogisticRegression(C=3.0 / 3, tol=1e-9, max_iter=1000)
        model.fit(scaler.transform(features[sent]), target[sent])
        chance = model.predict_proba(scaler.transform(features[sending]))
        bits -= np.log2(chance[np.arange(len(sending)), target[sending].astype(int)]).sum()
    assert found.block_ends.tolist() == [16, 32, 64]
    assert found.bits == pytest.approx(bits, rel=1e-3)
    assert found.compression == pytest.approx(64 / bits, rel=1e-3)


def test_noise_compresses_nothing_and_a_clear_label_a_lot() -> None:
    rng = np.random.default_rng(1)
    target = np.arange(200) % 2 == 0
    noise = rng.normal(size=(200, 4))
    common = {"target": target, "cluster": np.arange(200), "rng": rng}
    assert description_length(noise, **common).compression < 1.05
    clear = description_length(noise + 5.0 * target[:, None], **common)
    assert clear.compression > 5
    assert clear.bits == pytest.approx(clear.bits_by_strength.min() + np.log2(6))


def test_blocks_keep_clusters_whole_and_start_with_two_of_each_class() -> None:
    target, cluster = np.repeat(np.arange(20) % 2 == 0, 3), np.repeat(np.arange(20), 3)
    found = description_length(
        np.random.default_rng(0).normal(size=(60, 2)),
        target=target,
        cluster=cluster,
        rng=np.random.default_rng(0),
        strengths=[1.0],
    )
    assert (found.block_ends % 3 == 0).all()
    assert found.block_ends[-1] == 60
    with pytest.raises(ValueError, match="True for 1 of 8 prompts, too few of a class"):
        description_length(
            np.eye(8),
            target=np.arange(8) == 0,
            cluster=np.arange(8),
            rng=np.random.default_rng(0),
        )


def test_penalty_is_chosen_without_the_held_out_prompts() -> None:
    """What is held out can turn into anything: the choice for its split stays the same."""
    rng = np.random.default_rng(2)
    target = np.arange(80) % 2 == 0
    features = rng.normal(size=(80, 30)) + 0.3 * target[:, None]
    splits = index_splits([(np.arange(60), np.arange(60, 80))], n_prompts=80)
    other = features.copy()
    other[60:] = 1e3 * rng.normal(size=(20, 30))
    chosen = [
        probe(
            rows,
            target=target,
            cluster=np.arange(80),
            rng=np.random.default_rng(0),
            splits=splits,
        ).strength[0]
        for rows in (features, other)
    ]
    assert chosen[0] == chosen[1]


def test_layer_with_the_signal_is_chosen_within_the_fitted_prompts() -> None:
    rng = np.random.default_rng(3)
    target = np.arange(90) % 2 == 0
    layers = {str(layer): rng.normal(size=(90, 5)) for layer in range(3)}
    layers["1"] = layers["1"] + target[:, None]
    found = probe(
        layers, target=target, cluster=np.arange(90), rng=rng, strengths=[0.1, 10.0], n_folds=3
    )
    assert found.candidate.tolist() == ["1", "1", "1"]
    assert found.auroc > 0.9


def test_more_noise_is_met_with_a_stronger_penalty() -> None:
    rng = np.random.default_rng(4)
    target = np.arange(100) % 2 == 0
    clear = np.column_stack([4.0 * target + rng.normal(size=100)] * 2)
    weak = rng.normal(size=(100, 80)) + 0.1 * target[:, None]
    strengths = [
        probe(rows, target=target, cluster=np.arange(100), rng=np.random.default_rng(0)).strength
        for rows in (clear, weak)
    ]
    assert np.median(strengths[0]) > np.median(strengths[1])


def test_choice_with_too_few_clusters_says_what_to_give_instead() -> None:
    target = np.array([True, False] * 4)
    with pytest.raises(ValueError, match=r"cannot be chosen within .* the item as inner_cluster"):
        probe(
            np.random.default_rng(0).normal(size=(8, 2)),
            target=target,
            cluster=np.array(list("abcdabcd")),
            rng=np.random.default_rng(0),
            splits=cluster_splits(
                target, np.array(list("abcdabcd")), rng=np.random.default_rng(0), n_folds=2
            ),
        )


def test_shuffled_labels_leave_out_splits_without_both_classes() -> None:
    rng = np.random.default_rng(5)
    source = np.repeat(np.arange(6), 10)
    target = source < 3
    pairs = [
        (
            np.flatnonzero((source != one) & (source != other)),
            np.flatnonzero((source == one) | (source == other)),
        )
        for one in range(3)
        for other in range(3, 6)
    ]
    splits = index_splits(pairs, n_prompts=60)
    found = shuffled_probe(
        rng.normal(size=(60, 3)),
        target=target,
        cluster=source,
        rng=rng,
        splits=splits,
        inner_cluster=np.arange(60),
        strengths=[1.0],
    )
    assert 1 <= len(found.splits) < 9
    assert found.splits.usable(found.target).all()


def test_every_control_stands_beside_a_probe() -> None:
    names, target, item = variants()
    rng = np.random.default_rng(6)
    features = np.column_stack([names[:, :3], 3.0 * target + rng.normal(size=120)])
    splits = cluster_splits(target, item, rng=rng)
    common = {"target": target, "cluster": item, "splits": splits, "strengths": [0.1, 1.0]}
    length = rng.normal(size=(120, 1)) + target[:, None]
    baselines = {
        "length": probe(length, rng=rng, **common),
        "position": probe(rng.normal(size=(120, 1)), rng=rng, **common),
    }
    found = controlled_probe(
        features,
        baselines=baselines,
        untrained=rng.normal(size=(120, 4)),
        kind=item,
        rng=rng,
        **common,
    )
    assert found.best_baseline == "length"
    assert found.gain.value == pytest.approx(found.probe.auroc - baselines["length"].auroc)
    assert found.gain_over_untrained is not None
    assert found.gain_over_untrained.low > 0.1
    assert found.selectivity is not None
    assert found.description_length.bits < found.shuffled_description_length.bits
    frame = found.to_frame(site="resid_post", layer=3, split="item")
    assert frame["baseline"].tolist() == ["", "shuffled", "untrained", "length", "position"]
    real = frame.iloc[0]
    assert real["gain"] == found.gain.value
    assert real["selectivity"] == found.selectivity.selectivity
    assert real["compression"] == found.description_length.compression
    assert frame["gain"].isna().tolist() == [False, True, True, True, True]


def test_controls_without_repeated_kinds_or_untrained_model_are_left_out() -> None:
    rng = np.random.default_rng(7)
    target = np.arange(60) % 2 == 0
    splits = cluster_splits(target, np.arange(60), rng=rng)
    common = {
        "target": target,
        "cluster": np.arange(60),
        "splits": splits,
        "strengths": [1.0],
        "rng": rng,
    }
    found = controlled_probe(
        rng.normal(size=(60, 2)),
        baselines={"length": probe(rng.normal(size=(60, 1)), **common)},
        **common,
    )
    assert found.selectivity is None
    assert found.gain_over_untrained is None
    frame = found.to_frame(site="routing")
    assert frame["baseline"].tolist() == ["", "shuffled", "length"]
    assert np.isnan(frame["selectivity"][0])
