"""The logistic path against scikit-learn in every regime, and a sweep against the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from interp.analyses.probe_solver import logistic_path
from interp.analyses.probe_splits import fold_splits
from interp.analyses.probe_sweep import sweep_probes

PENALTIES = (0.1, 1e-4, 1e-2)


def drawn(n: int, d: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features with a mean far from 0, and a label that shifts them."""
    rng = np.random.default_rng(seed)
    target = rng.random(n) < 0.4
    latent = rng.normal(size=(n, 8)) + 0.5 * target[:, None]
    return latent @ rng.normal(size=(8, d)) + rng.normal(size=(n, d)) + 5.0, target


def by_scikit_learn(
    rows: np.ndarray, target: np.ndarray, penalty: float, weight: np.ndarray | None = None
) -> LogisticRegression:
    model = LogisticRegression(C=penalty, tol=1e-9, max_iter=20_000)
    return model.fit(rows, target, sample_weight=weight)


@pytest.mark.parametrize(
    ("n", "d"),
    [
        pytest.param(60, 5, id="fewer columns"),
        pytest.param(60, 90, id="few rows, rotated"),
        pytest.param(430, 500, id="rows, conjugate gradients"),
        pytest.param(500, 420, id="columns, conjugate gradients"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_log_odds_are_those_of_scikit_learn(n: int, d: int, dtype: type) -> None:
    features, target = drawn(n, d)
    weight = np.random.default_rng(1).random(n) + 0.5
    path = logistic_path(
        features.astype(dtype),
        target=target,
        inverse_penalties=PENALTIES,
        prompt_weight=weight,
        tolerance=1e-3,
    )
    fresh, _ = drawn(40, d, seed=2)
    found = path.log_odds(fresh.astype(dtype))
    scaler = StandardScaler().fit(features)
    for penalty, ours in zip(PENALTIES, found, strict=True):
        model = by_scikit_learn(scaler.transform(features), target, penalty, weight)
        expected = model.decision_function(scaler.transform(fresh))
        assert np.abs(ours - expected).max() < 0.01 * expected.std()


@pytest.mark.parametrize(("n", "d"), [(60, 200), (410, 900), (300, 40)])
def test_sparse_log_odds_are_those_of_scikit_learn(n: int, d: int) -> None:
    rng = np.random.default_rng(0)
    target = rng.random(n) < 0.5
    dense = np.where(rng.random((n, d)) < 0.1 + 0.1 * target[:, None], rng.random((n, d)), 0.0)
    path = logistic_path(csr_array(dense), target=target, inverse_penalties=[1.0])
    expected = by_scikit_learn(dense, target, 1.0).decision_function(dense)
    found = path.log_odds(csr_array(dense))[0]
    assert np.abs(found - expected).max() < 0.01 * expected.std()


def test_weights_solve_the_penalised_likelihood() -> None:
    features, target = drawn(40, 3)
    rows = (features - features.mean(axis=0)) / features.std(axis=0)
    sign = np.where(target, 1.0, -1.0)

    def loss(solution: np.ndarray) -> float:
        margin = sign * (rows @ solution[:3] + solution[3])
        return 0.5 * solution[:3] @ solution[:3] + 0.2 * np.logaddexp(0, -margin).sum()

    best = minimize(loss, np.zeros(4), tol=1e-10).x
    path = logistic_path(features, target=target, inverse_penalties=[0.2])
    np.testing.assert_allclose(np.append(path.weights[0], path.bias[0]), best, atol=1e-4)


def test_column_weight_is_a_column_that_much_larger_after_standardisation() -> None:
    features, target = drawn(80, 4)
    weight = np.array([1.0, 3.0, 0.1, 0.5])
    path = logistic_path(features, target=target, inverse_penalties=[0.1], column_weight=weight)
    rows = StandardScaler().fit_transform(features) * weight
    expected = by_scikit_learn(rows, target, 0.1)
    np.testing.assert_allclose(path.weights[0], expected.coef_[0], atol=1e-3)


def test_columns_far_from_zero_lose_nothing_in_single_precision() -> None:
    features, target = drawn(450, 600)
    features[:, 0] += 3e3  # as the few huge columns of a residual stream
    double, single = (
        logistic_path(features.astype(dtype), target=target, inverse_penalties=[0.01]).log_odds(
            features.astype(dtype)
        )
        for dtype in (np.float64, np.float32)
    )
    np.testing.assert_allclose(single, double, atol=0.01)


def test_constant_columns_have_no_weight() -> None:
    features, target = drawn(50, 3)
    features[:, 1] = 1 / 3
    path = logistic_path(features, target=target, inverse_penalties=[1.0])
    assert path.scale[1] == 1.0
    assert path.weights[0, 1] == pytest.approx(0.0, abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_rows_and_penalties_changes_nothing(seed: int) -> None:
    features, target = drawn(40, 6, seed=seed % 1000)
    order = np.random.default_rng(seed).permutation(40)
    path = logistic_path(features, target=target, inverse_penalties=[0.01, 1.0])
    other = logistic_path(features[order], target=target[order], inverse_penalties=[1.0, 0.01])
    np.testing.assert_allclose(path.weights, other.weights[::-1], atol=1e-3)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_other_names_for_the_classes_turn_the_log_odds(seed: int) -> None:
    features, target = drawn(30, 50, seed=seed % 1000)
    path = logistic_path(features, target=target, inverse_penalties=[0.1])
    turned = logistic_path(features, target=~target, inverse_penalties=[0.1])
    np.testing.assert_allclose(path.log_odds(features), -turned.log_odds(features), atol=0.02)


def test_one_label_is_refused() -> None:
    with pytest.raises(ValueError, match="all 3 prompts have the same label; give prompts of both"):
        logistic_path(np.eye(3), target=np.ones(3, dtype=bool), inverse_penalties=[1.0])


def test_a_penalty_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match=r"inverse penalty 0.0 is not above 0; give larger"):
        logistic_path(np.eye(2), target=np.array([True, False]), inverse_penalties=[1.0, 0.0])


@pytest.mark.slow
def test_sweep_has_the_aurocs_of_scikit_learn() -> None:
    layers = [drawn(120, 200, seed=seed) for seed in (3, 4)]
    target = layers[0][1]
    features = [rows + 0.3 * target[:, None] for rows, _ in layers]
    splits = fold_splits(np.arange(120) % 3)
    sweep = sweep_probes(
        features, layer_indices=[5, 9], target=target, splits=splits, inverse_penalties=PENALTIES
    )
    expected = np.empty((2, 3, 3))
    for layer, rows in enumerate(features):
        for number, (fitted, held_out) in enumerate(splits):
            scaler = StandardScaler().fit(rows[fitted])
            for place, penalty in enumerate(PENALTIES):
                model = by_scikit_learn(scaler.transform(rows[fitted]), target[fitted], penalty)
                score = model.decision_function(scaler.transform(rows[held_out]))
                expected[layer, number, place] = roc_auc_score(target[held_out], score)
    np.testing.assert_allclose(sweep.auroc, expected, atol=0.003)
    frame = sweep.to_frame()
    assert frame["layer"].tolist() == [5, 5, 5, 9, 9, 9]
    np.testing.assert_allclose(frame["auroc"], expected.mean(axis=1).ravel(), atol=0.003)


def test_sweep_refuses_a_residual_that_is_nan() -> None:
    rows = np.ones((4, 2))
    rows[1, 1] = np.nan
    with pytest.raises(ValueError, match="features of layer 7 are not finite"):
        sweep_probes(
            [rows],
            layer_indices=[7],
            target=np.array([True, False, True, False]),
            splits=fold_splits(np.array([0, 0, 1, 1])),
            inverse_penalties=[1.0],
        )
