"""Equivalence: against statsmodels' two one-sided tests, and its error rate at the margin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, t, ttest_ind
from statsmodels.stats.weightstats import DescrStatsW

from interp.analyses.cells import mean_difference_sums
from interp.analyses.equivalence import Equivalence, two_one_sided_tests
from interp.analyses.jackknife import cluster_jackknife
from interp.analyses.power import detectable_effects


def of_samples(samples: np.ndarray, margin: float) -> Equivalence:
    """Equivalence of the mean of each column with 0."""
    n = len(samples)
    return two_one_sided_tests(
        samples.mean(axis=0)[None],
        samples.std(axis=0, ddof=1)[None] / n**0.5,
        np.full((1, samples.shape[1]), float(n - 1)),
        margin=margin,
        layer_indices=[0],
    )


@pytest.mark.parametrize("seed", range(5))
def test_p_values_and_intervals_are_those_of_statsmodels(seed: int) -> None:
    samples = np.random.default_rng(seed).normal(0.1, 1.0, size=(12, 6))
    found = of_samples(samples, margin=0.5)
    for column in range(6):
        oracle = DescrStatsW(samples[:, column])
        p = oracle.ttost_mean(-0.5, 0.5)[0]
        assert found.p_value[0, column] == pytest.approx(p)
        low, high = oracle.tconfint_mean(alpha=0.1)
        assert found.low[0, column] == pytest.approx(low)
        assert found.high[0, column] == pytest.approx(high)
        assert found.inside[0, column] == (p < 0.05)


def test_an_effect_at_the_margin_is_called_none_in_5_percent() -> None:
    samples = np.random.default_rng(0).normal(0.5, 1.0, size=(40, 4000))
    found = of_samples(samples, margin=0.5)
    low, high = binom.ppf([0.001, 0.999], 4000, 0.05)
    assert low <= found.inside.sum() <= high


def test_all_inside_needs_every_expert() -> None:
    error, df = np.full((2, 2), 0.001), np.full((2, 2), 10.0)
    near = two_one_sided_tests(np.zeros((2, 2)), error, df, margin=0.01, layer_indices=[0, 1])
    assert near.all_inside
    effect = np.array([[0.0, 0.0], [0.0, 0.009]])
    assert not two_one_sided_tests(effect, error, df, margin=0.01, layer_indices=[0, 1]).all_inside


def test_an_effect_without_error_is_inside_or_not() -> None:
    effect = np.array([[0.0, 0.009, 0.02, 0.01]])
    zero, df = np.zeros((1, 4)), np.full((1, 4), 5.0)
    found = two_one_sided_tests(effect, zero, df, margin=0.01, layer_indices=[0])
    assert found.inside.tolist() == [[True, True, False, False]]
    assert found.p_value.tolist() == [[0.0, 0.0, 1.0, 0.5]]


def test_an_unknown_error_is_never_inside() -> None:
    unknown, df = np.array([[np.nan, 0.001]]), np.full((1, 2), 5.0)
    found = two_one_sided_tests(np.zeros((1, 2)), unknown, df, margin=0.01, layer_indices=[3])
    assert found.inside.tolist() == [[False, True]]
    assert not found.all_inside
    frame = found.to_frame()
    assert frame["layer"].tolist() == [3, 3]
    assert frame["inside"].tolist() == [False, True]
    assert (frame["margin"] == 0.01).all()


@settings(max_examples=50, deadline=None)
@given(
    effect=st.floats(-0.1, 0.1),
    error=st.floats(1e-5, 0.1),
    df=st.floats(1.0, 500.0),
    margin=st.floats(1e-3, 0.2),
)
def test_sign_does_not_matter_and_a_wider_margin_never_hurts(
    effect: float, error: float, df: float, margin: float
) -> None:
    arrays = np.array([[error]]), np.array([[df]])
    up = two_one_sided_tests(np.array([[effect]]), *arrays, margin=margin, layer_indices=[0])
    down = two_one_sided_tests(np.array([[-effect]]), *arrays, margin=margin, layer_indices=[0])
    wide = two_one_sided_tests(np.array([[effect]]), *arrays, margin=2 * margin, layer_indices=[0])
    assert up.p_value == pytest.approx(down.p_value)
    assert up.low == pytest.approx(-down.high)
    assert wide.p_value <= up.p_value
    assert up.all_inside <= wide.all_inside


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"margin": 0.0}, "margin is 0.0, but must be above 0"),
        ({"margin": 0.1, "alpha": 0.5}, "alpha is 0.5, but must lie between 0 and 0.5"),
    ],
)
def test_a_margin_of_nothing_is_refused(asked: dict[str, float], match: str) -> None:
    one = np.ones((1, 1))
    with pytest.raises(ValueError, match=match):
        two_one_sided_tests(one, one, one, layer_indices=[0], **asked)


def test_with_4_and_2_clusters_an_effect_of_the_margin_is_called_inside_in_5_percent() -> None:
    """Degrees of freedom near 1 make intervals wide, not wrong, where power is next to nothing."""
    rng, margin, n = np.random.default_rng(0), 0.1, 20_000
    shares = rng.normal(0.0, 0.03, size=(6, n)) + np.array([margin] * 4 + [0.0] * 2)[:, None]
    found = cluster_jackknife(
        mean_difference_sums(shares, benchmark=np.arange(6) < 4, cluster=np.arange(6))
    )
    welch = ttest_ind(shares[:4], shares[4:], equal_var=False)
    alike = (1 / 4 + 1 / 2) ** 2 / ((1 / 4) ** 2 / 3 + (1 / 2) ** 2)  # all vary alike
    df = np.minimum(welch.df, alike)
    np.testing.assert_allclose(found.df, df)
    values = (each[None] for each in (found.effect, found.standard_error, found.df))
    result = two_one_sided_tests(*values, margin=margin, layer_indices=[0])
    effect = shares[:4].mean(axis=0) - shares[4:].mean(axis=0)
    reach = t.ppf(0.95, df) * effect / welch.statistic  # effect over t is the standard error
    inside = (effect - reach > -margin) & (effect + reach < margin)
    np.testing.assert_array_equal(result.inside[0], inside)
    assert found.df.min() < 1.01
    assert 0.02 <= inside.mean() <= binom.ppf(0.999, n, 0.05) / n
    power = detectable_effects(
        found.standard_error[None], found.df[None], margin=margin, layer_indices=[0], n_tests=768
    )
    assert np.median(power.power_at_margin) < 0.01
