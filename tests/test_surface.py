"""The surface-adjusted effect against regressions by least squares, and its size."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from interp.analyses.cells import token_adjusted_sums
from interp.analyses.relabelling import max_t_test
from interp.analyses.surface import surface_adjusted_sums, surface_features


def small_study(rng: np.random.Generator, n: int = 150) -> dict[str, Any]:
    cluster = np.append(np.arange(10), rng.integers(0, 10, n - 10))
    logprob = -rng.exponential(size=n)
    logprob[::7] = np.nan
    return {
        "expert_indices": np.argsort(rng.random((n, 2, 3)), axis=-1)[..., :1],
        "benchmark": cluster < 2,
        "cluster": cluster,
        "token_id": rng.integers(0, 8, n),
        "previous_token_id": rng.integers(-1, 6, n),
        "position": rng.integers(0, 40, n),
        "logprob": logprob,
        "n_experts": 3,
    }


def hats(values: np.ndarray) -> np.ndarray:
    """Piecewise linear functions with 8 knots at quantiles, value by value."""
    knots = np.quantile(values, np.arange(8) / 7)
    columns = np.zeros((len(values), 8))
    for row, value in enumerate(values):
        right = min(max(int(np.searchsorted(knots, value)), 1), 7)
        share = (value - knots[right - 1]) / (knots[right] - knots[right - 1])
        columns[row, right - 1], columns[row, right] = 1 - share, share
    return columns


def features_by_hand(study: dict[str, Any]) -> np.ndarray:
    missing = np.isnan(study["logprob"])
    curve = np.zeros((len(missing), 8))
    curve[~missing] = hats(study["logprob"][~missing])
    previous = study["previous_token_id"][:, None] == np.unique(study["previous_token_id"])
    return np.column_stack([previous, hats(np.log1p(study["position"])), curve, missing])


def residual_by_least_squares(study: dict[str, Any], values: np.ndarray) -> np.ndarray:
    """Values less features times coefficients that were fitted without the token's cluster."""
    features = features_by_hand(study)
    n_features = features.shape[1]
    constants = (study["token_id"][:, None] == np.unique(study["token_id"])).astype(float)
    rest = np.empty_like(values)
    for g in range(10):
        inside = study["cluster"] == g
        design = np.column_stack([constants, features])[~inside]
        penalty = np.column_stack([np.zeros((n_features, constants.shape[1])), np.eye(n_features)])
        target = np.vstack([values[~inside], np.zeros((n_features, values.shape[1]))])
        fit = np.linalg.lstsq(np.vstack([design, penalty]), target, rcond=None)[0]
        rest[inside] = values[inside] - features[inside] @ fit[constants.shape[1] :]
    return rest


def statistic_by_loop(
    study: dict[str, Any], share: np.ndarray, condition: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """T and effect from residuals, over tokens whose id occurs under both observed conditions."""
    token, cluster = study["token_id"], study["cluster"]
    both = [t for t in np.unique(token) if 0 < study["benchmark"][token == t].mean() < 1]
    r, w = share.copy(), condition.copy()
    for t in both:
        r[token == t] -= share[token == t].mean(axis=0)
        w[token == t] -= condition[token == t].mean()
    counts = np.isin(token, both)
    score = np.array([(r * w[:, None])[counts & (cluster == g)].sum(axis=0) for g in range(10)])
    square = np.array([(w**2)[counts & (cluster == g)].sum() for g in range(10)])
    effect = score.sum(axis=0) / square.sum()
    spread = ((score - effect * square[:, None]) ** 2).sum(axis=0)
    return np.abs(score.sum(axis=0)) / np.sqrt(spread), effect


def test_effect_and_every_relabelling_are_those_of_regressions_by_least_squares() -> None:
    rng = np.random.default_rng(0)
    study = small_study(rng)
    adjustment = surface_adjusted_sums(**study, rng=rng)
    test = max_t_test(adjustment.sums, rng=rng)
    chosen = study["expert_indices"]
    share = np.hstack([(chosen[:, layer] == np.arange(3)).astype(float) for layer in range(2)])
    share = residual_by_least_squares(study, share)

    def by_loop(benchmark: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        condition = residual_by_least_squares(study, benchmark.astype(float)[:, None])[:, 0]
        return statistic_by_loop(study, share, condition)

    statistic, effect = by_loop(study["benchmark"])
    np.testing.assert_allclose(adjustment.sums.effect, effect, rtol=1e-6)
    np.testing.assert_allclose(test.statistic, statistic, rtol=1e-6)
    null = [
        by_loop(np.isin(study["cluster"], true))[0].max() for true in combinations(range(10), 2)
    ]
    np.testing.assert_allclose(np.sort(test.null_max), np.sort(null), rtol=1e-6)
    ids = [study["token_id"][study["benchmark"] == side] for side in (True, False)]
    assert adjustment.n_tokens == np.isin(study["token_id"], np.intersect1d(*ids)).sum() < 150
    assert adjustment.left_out == ()


def test_logprob_that_is_missing_everywhere_is_left_out_and_named() -> None:
    rng = np.random.default_rng(1)
    study = small_study(rng) | {"logprob": np.full(150, np.nan)}
    adjustment = surface_adjusted_sums(**study, rng=rng)
    assert adjustment.adjusted_for == ("token", "previous_token", "position")
    assert adjustment.left_out == (
        "logprob is NaN for every token, so the effect is not adjusted for it.",
    )
    assert not np.isnan(adjustment.sums.effect).any()


def test_features_of_a_token_are_constants_and_curves_that_sum_to_1() -> None:
    logprob = np.array([np.nan, -1.0, -2.0, -3.0, -4.0])
    features, _, _ = surface_features(np.array([-1, 3, 3, 4, 3]), np.arange(5), logprob)
    np.testing.assert_allclose(features.sum(axis=1), 3.0)  # previous, position, logprob or none
    np.testing.assert_array_equal(features.toarray()[:, 0], [0, 1, 1, 0, 1])  # 3 is most frequent


def test_rare_previous_tokens_share_a_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.analyses.surface.MAX_PREVIOUS", 1)
    features, _, _ = surface_features(
        np.array([7, 7, 1, 2]), np.array([0, 0, 0, 0]), np.full(4, np.nan)
    )
    np.testing.assert_array_equal(features.toarray()[:, :2], [[1, 0], [1, 0], [0, 1], [0, 1]])


def test_order_of_tokens_and_names_change_nothing() -> None:
    rng = np.random.default_rng(2)
    study = small_study(rng)
    before = surface_adjusted_sums(**study, rng=rng).sums
    order, name = rng.permutation(150), rng.permutation(3)
    shuffled = {k: v[order] if isinstance(v, np.ndarray) else v for k, v in study.items()}
    shuffled["expert_indices"] = name[shuffled["expert_indices"]]
    shuffled["token_id"] = rng.permutation(8)[shuffled["token_id"]]
    after = surface_adjusted_sums(**shuffled, rng=rng).sums
    np.testing.assert_allclose(
        after.effect.reshape(2, 3)[:, name], before.effect.reshape(2, 3), atol=1e-10
    )


@pytest.mark.parametrize("is_paired", [False, True])
def test_an_expert_of_every_token_has_no_say_in_the_largest_statistic(is_paired: bool) -> None:
    study = small_study(np.random.default_rng(5))
    if is_paired:
        study["benchmark"] = np.arange(150) % 2 == 0
    always = np.full((150, 2, 1), 3)
    study |= {"expert_indices": np.dstack([study["expert_indices"], always]), "n_experts": 4}
    sums = surface_adjusted_sums(**study, rng=np.random.default_rng(0)).sums
    assert 0 < np.abs(sums.score[:, [3, 7]]).max() < 1e-12  # rounding of a share that is 1 / 2
    test = max_t_test(sums, rng=np.random.default_rng(0), n_resamples=200)
    assert test.statistic[[3, 7]].tolist() == [0.0, 0.0]
    assert test.p_max_t[[3, 7]].tolist() == [1.0, 1.0]
    others = np.setdiff1d(np.arange(8), [3, 7])
    study |= {"expert_indices": study["expert_indices"][..., :1], "n_experts": 3}
    alone = surface_adjusted_sums(**study, rng=np.random.default_rng(0)).sums
    expected = max_t_test(alone, rng=np.random.default_rng(0), n_resamples=200)
    np.testing.assert_allclose(test.p_max_t[others], expected.p_max_t)


def test_no_common_token_id_leaves_nothing_to_compare() -> None:
    rng = np.random.default_rng(3)
    study = small_study(rng)
    study["token_id"] = study["benchmark"].astype(int)
    adjustment = surface_adjusted_sums(**study, rng=rng)
    assert adjustment.n_tokens == 0
    assert np.isnan(adjustment.sums.effect).all()
    assert "No token id" in max_t_test(adjustment.sums, rng=rng).insufficient


def study_without_effect(rng: np.random.Generator, *, of_previous: bool) -> dict[str, Any]:
    """5 + 5 sources; routing reads the previous token and text differs, or position and length."""
    liked, after, drift = rng.normal(size=(40, 8)), rng.normal(size=(40, 8)), rng.normal(size=8)
    of_source, taste, common = (
        0.3 * rng.normal(size=(10, 8)),
        rng.normal(size=40),
        rng.normal(size=40),
    )
    columns: dict[str, list[np.ndarray]] = {
        k: [] for k in ("token_id", "previous_token_id", "position", "cluster")
    }
    for prompt in range(80):
        benchmark = prompt < 40
        length = int(rng.integers(30, 50)) * (1 if of_previous else 1 + benchmark)
        weight = np.exp(common + (1.5 * taste if of_previous and benchmark else 0))
        token = rng.choice(40, length, p=weight / weight.sum())
        columns["token_id"].append(token)
        columns["previous_token_id"].append(np.append(-1, token[:-1]))
        columns["position"].append(np.arange(length))
        columns["cluster"].append(np.full(length, prompt // 8))
    study: dict[str, Any] = {k: np.concatenate(v) for k, v in columns.items()}
    read = (
        after[study["previous_token_id"]] * (study["position"] > 0)[:, None]
        if of_previous
        else 0.7 * drift * np.log1p(study["position"])[:, None]
    )
    scores = liked[study["token_id"]] + of_source[study["cluster"]] + read
    scores += rng.gumbel(size=scores.shape)
    study["expert_indices"] = np.argsort(-scores, axis=-1)[:, None, :2]
    study["logprob"] = np.full(len(scores), np.nan)
    return study | {"benchmark": study["cluster"] < 5, "n_experts": 8}


@pytest.mark.slow
@pytest.mark.parametrize("of_previous", [True, False])
def test_size_holds_where_the_token_adjusted_test_fails(of_previous: bool) -> None:
    rng = np.random.default_rng(4)
    surface = token = 0
    for _ in range(120):
        study = study_without_effect(rng, of_previous=of_previous)
        adjusted = surface_adjusted_sums(**study, rng=rng).sums
        surface += max_t_test(adjusted, rng=rng).p_value <= 0.05
        names = ("expert_indices", "benchmark", "cluster", "token_id", "n_experts")
        plain = token_adjusted_sums(**{name: study[name] for name in names})
        token += max_t_test(plain, rng=rng).p_value <= 0.05
    assert surface / 120 < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 120)
    assert token / 120 > 0.2
