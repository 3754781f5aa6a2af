"""The 2 x 2, features side by side, the router's row space, and directions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.analyses.directions import probe_directions, source_cosines
from interp.analyses.probe_blocks import added_by, router_split, side_by_side
from interp.analyses.probe_grid import CELLS, grid_probe
from interp.analyses.probe_splits import fold_splits
from interp.analyses.probes import probe

ITEM = np.repeat(np.arange(30), 4)
WORDING = np.tile([False, False, True, True], 30)
WRAPPER = np.tile([False, True, False, True], 30)


@pytest.mark.parametrize(
    ("reads", "called"),
    [
        pytest.param(WORDING, [0, 0, 1, 1], id="wording"),
        pytest.param(WRAPPER, [0, 1, 0, 1], id="wrapper"),
    ],
)
def test_off_diagonal_cells_say_what_the_probe_reads(reads: np.ndarray, called: list[int]) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(120, 3)) + 6.0 * reads[:, None]
    found = grid_probe(
        features,
        benchmark_wording=WORDING,
        exam_wrapper=WRAPPER,
        cluster=ITEM,
        rng=rng,
        strengths=[1.0],
    )
    np.testing.assert_allclose(found.called_benchmark, called, atol=0.05)
    assert found.diagonal.auroc > 0.99  # the diagonal cannot tell the two probes apart
    assert found.diagonal.n_prompts == 60
    assert (found.wording.auroc > 0.99) == (reads is WORDING)
    assert (found.wrapper.auroc > 0.99) == (reads is WRAPPER)
    assert found.to_frame()["cell"].tolist() == list(CELLS)


def test_shares_called_benchmark_are_those_of_a_loop_over_folds() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(120, 3)) + WORDING[:, None] + 0.7 * WRAPPER[:, None]
    found = grid_probe(
        features,
        benchmark_wording=WORDING,
        exam_wrapper=WRAPPER,
        cluster=ITEM,
        rng=np.random.default_rng(2),
        strengths=[1.0],
    )
    score = np.nansum(found.diagonal.score, axis=0)
    for cell, on in (("organic-chat", ~WORDING & ~WRAPPER), ("benchmark-exam", WORDING & WRAPPER)):
        assert found.called_benchmark[CELLS.index(cell)] == pytest.approx((score[on] > 0).mean())
    assert (found.called_benchmark_low <= found.called_benchmark).all()
    assert (found.called_benchmark <= found.called_benchmark_high).all()


def test_empty_cell_is_refused() -> None:
    kept = ~(WORDING & ~WRAPPER)
    with pytest.raises(ValueError, match="cell benchmark-chat of the 2 x 2 has no prompt"):
        grid_probe(
            np.ones((kept.sum(), 1)),
            benchmark_wording=WORDING[kept],
            exam_wrapper=WRAPPER[kept],
            cluster=ITEM[kept],
            rng=np.random.default_rng(0),
        )


def test_features_with_a_signal_of_their_own_add_and_noise_does_not() -> None:
    rng = np.random.default_rng(3)
    target = np.arange(200) % 2 == 0
    base = rng.normal(size=(200, 20)) + 0.2 * target[:, None]
    common = {
        "to": base,
        "target": target,
        "cluster": np.arange(200),
        "rng": rng,
        "strengths": [1.0],
        "splits": fold_splits(np.arange(200) // 2 % 3),
    }
    useful = added_by(rng.normal(size=(200, 2)) + target[:, None], **common)
    assert useful.auroc_gain.low > 0
    assert useful.bits_saved.low > 0
    assert useful.auroc_gain.value == pytest.approx(useful.joint.auroc - useful.base.auroc)
    assert useful.bits_saved.value == pytest.approx(useful.base.bits - useful.joint.bits)
    noise = added_by(rng.normal(size=(200, 2)), **common)
    assert noise.bits_saved.low < 0.02
    assert set(noise.joint.candidate) <= {"0.5", "0.1", "0.01"}
    assert noise.to_frame()["joint_auroc"][0] == noise.joint.auroc


def test_side_by_side_shares_out_the_squared_norm() -> None:
    both = side_by_side(np.ones((4, 10)), np.ones((4, 2)), share=0.1)
    assert both.values.shape == (4, 12)
    assert np.square(both.column_weight[10:]).sum() == pytest.approx(0.1)
    assert np.square(both.column_weight).sum() == pytest.approx(1.0)


def test_weighted_features_of_one_weight_are_plain_features() -> None:
    rng = np.random.default_rng(4)
    target = np.arange(60) % 2 == 0
    base = rng.normal(size=(60, 8)) + 0.4 * target[:, None]
    weighted = side_by_side(base[:, :6], base[:, 6:], share=0.25)
    scores = [
        probe(
            each,
            target=target,
            cluster=np.arange(60),
            rng=np.random.default_rng(0),
            strengths=[3.0],
        ).score
        for each in (base, weighted)
    ]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-2)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_experts=st.integers(1, 6))
def test_only_the_row_space_moves_the_logits(seed: int, n_experts: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(n_experts, 9))
    weight = np.concatenate([weight, weight[:1] * 2])  # one row twice, so the rank is lower
    rows = rng.normal(size=(15, 9))
    split = router_split(rows, router_weight=weight, rng=rng)
    assert split.row_space.shape == split.random_space.shape == (15, n_experts)
    np.testing.assert_allclose(split.row_space @ split.basis + split.complement, rows, atol=1e-9)
    np.testing.assert_allclose(split.complement @ weight.T, 0, atol=1e-9)
    np.testing.assert_allclose(split.row_space @ split.basis @ weight.T, rows @ weight.T, atol=1e-9)


def test_router_of_zeros_is_refused() -> None:
    with pytest.raises(ValueError, match="router_weight is 0 everywhere"):
        router_split(np.ones((2, 3)), router_weight=np.zeros((2, 3)), rng=np.random.default_rng(0))


def test_directions_find_what_was_planted() -> None:
    rng = np.random.default_rng(5)
    target = np.arange(400) % 2 == 0
    planted = [np.eye(6)[0], np.eye(6)[0], np.eye(6)[3]]
    features = [
        rng.normal(size=(400, 6)) * np.array([1, 5, 1, 1, 1, 1]) + 2.0 * np.outer(target, along)
        for along in planted
    ]
    found = probe_directions(features, site="resid_post", layer_indices=[1, 4, 8], target=target)
    for method in range(2):
        for layer in range(3):
            assert found.vector[method, layer] @ planted[layer] > 0.9 - 0.2 * (method == 0)
            assert np.linalg.norm(found.vector[method, layer]) == pytest.approx(1.0)
    above = features[2][target].mean(axis=0) - features[2][~target].mean(axis=0)
    np.testing.assert_allclose(found.vector[0, 2] * found.length[2], above)
    assert found.cosine[1, 0, 1] > 0.9
    assert abs(found.cosine[1, 0, 2]) < 0.3
    assert found.cosine[0, 0, 1] == pytest.approx(found.vector[0, 0] @ found.vector[0, 1])
    assert found.cosine_of_methods[2] == pytest.approx(found.vector[0, 2] @ found.vector[1, 2])
    spread = [features[2][side] @ found.vector[0, 2] for side in (target, ~target)]
    within = np.sqrt((spread[0].var() + spread[1].var()) / 2)
    assert found.spread[0, 2] == pytest.approx(within)
    assert found.to_frame()["layer"].tolist() == [1, 4, 8]


def test_directions_are_learnt_from_the_fitted_prompts_alone() -> None:
    rng = np.random.default_rng(6)
    target, fitted = np.arange(40) % 2 == 0, np.arange(40) < 30
    rows = rng.normal(size=(40, 4)) + target[:, None]
    other = np.where(fitted[:, None], rows, 1e6)
    one, two = (
        probe_directions([each], site="resid_mid", layer_indices=[0], target=target, fitted=fitted)
        for each in (rows, other)
    )
    np.testing.assert_allclose(one.vector, two.vector)


def test_directions_refuse_nan_and_missing_layers() -> None:
    target = np.array([True, False])
    with pytest.raises(ValueError, match="features of layer 3 are not finite"):
        probe_directions([np.full((2, 2), np.nan)], site="a", layer_indices=[3], target=target)
    with pytest.raises(ValueError, match="features has 1 layers, but layer_indices has 2"):
        probe_directions([np.ones((2, 2))], site="a", layer_indices=[3, 4], target=target)


def test_source_cosines_of_a_case_by_hand() -> None:
    source = np.array(["a", "b", "c", "d"])
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, -1.0]])
    found = source_cosines(
        [rows], layer_indices=[2], target=np.array([True, True, False, False]), source=source
    )
    assert list(zip(found.true_sources, found.false_sources, strict=True)) == [
        ("a", "c"),
        ("a", "d"),
        ("b", "c"),
        ("b", "d"),
    ]
    # Differences: a-c (1, 0), a-d (1, 1), b-c (0, 1), b-d (0, 2).
    assert found.cosine[0, 0, 3] == pytest.approx(0.0)
    assert found.cosine[0, 1, 2] == pytest.approx(1 / np.sqrt(2))
    assert found.shares_no_source.sum() == 4  # two pairs of pairs, each twice
    row = found.to_frame().iloc[0]
    assert (row["layer"], row["n_pairs"]) == (2, 2)
    assert row["cosine_mean"] == pytest.approx((0 + 1 / np.sqrt(2)) / 2)
    assert row["cosine_least"] == pytest.approx(0.0)
