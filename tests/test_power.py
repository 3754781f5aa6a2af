"""Power: against statsmodels, scipy's analysis of variance, and studies drawn one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestPower

from interp.analyses.power import Power, detectable_effects, variances


def one(error: float, df: float, **settings: float | int) -> Power:
    return detectable_effects(
        np.array([[error]]), np.array([[df]]), layer_indices=[0], **{"margin": 0.03, **settings}
    )


@pytest.mark.parametrize("df", [4, 8, 18, 98])
@pytest.mark.parametrize(("n_tests", "alpha"), [(1, 0.05), (64, 0.05), (768, 0.01)])
def test_smallest_effect_and_power_are_those_of_statsmodels(
    df: int, n_tests: int, alpha: float
) -> None:
    found = one(0.01, float(df), n_tests=n_tests, alpha=alpha, margin=0.04)
    n = df + 1  # statsmodels states effects in standard deviations of one observation
    oracle = TTestPower()
    asked = {"nobs": n, "alpha": alpha / (2 * n_tests), "alternative": "larger"}
    size = found.smallest_effect[0, 0] / 0.01 / n**0.5
    assert oracle.power(size, **asked) == pytest.approx(0.8, abs=1e-4)
    expected = oracle.power(0.04 / 0.01 / n**0.5, **asked)
    assert found.power_at_margin[0, 0] == pytest.approx(expected, abs=1e-6)


def test_studies_of_the_stated_size_find_the_effect_in_80_percent() -> None:
    rng = np.random.default_rng(0)
    true_error = (0.03**2 / 10 * 2) ** 0.5
    effect = one(true_error, 18.0, n_tests=64).smallest_effect[0, 0]
    a, b = rng.normal(effect, 0.03, size=(20_000, 10)), rng.normal(0, 0.03, size=(20_000, 10))
    found = stats.ttest_ind(a, b, axis=1, alternative="greater").pvalue < 0.05 / 128
    low, high = stats.binom.ppf([0.001, 0.999], 20_000, 0.8)
    assert low <= found.sum() <= high


def test_a_critical_value_from_permutations_takes_the_place_of_bonferroni() -> None:
    strict, given_one = one(0.01, 18.0, n_tests=64), one(0.01, 18.0, critical_value=3.0)
    assert strict.critical_value[0, 0] == pytest.approx(stats.t.isf(0.05 / 128, 18))
    assert given_one.critical_value[0, 0] == 3.0
    assert given_one.smallest_effect[0, 0] < strict.smallest_effect[0, 0]


@pytest.mark.parametrize("usage", [0.03, 0.06, 0.2])
def test_with_usage_the_stated_size_holds_where_variance_grows_with_the_mean(usage: float) -> None:
    """Prompts' usages from gamma distributions, whose variance is 0.01 times their mean."""
    rng, n, noise = np.random.default_rng(1), 20, 0.01
    error, df = (2 * noise * usage / n) ** 0.5, 2.0 * (n - 1)
    plain = one(error, df, n_tests=64).smallest_effect[0, 0]
    found = detectable_effects(
        np.array([[error]]),
        np.array([[df]]),
        margin=0.03,
        layer_indices=[0],
        n_tests=64,
        usage=np.array([[usage]]),
    )
    size = found.smallest_effect[0, 0]
    assert size == pytest.approx(plain * (1 + size / (2 * usage)) ** 0.5)
    a, b = (noise * rng.gamma(m / noise, size=(20_000, n)) for m in (usage + size, usage))
    t = stats.ttest_ind(a, b, axis=1).statistic
    # Skewed and of unequal variance, so not quite a t: 3 points are allowed for that.
    assert (t > stats.t.isf(0.05 / 128, df)).mean() == pytest.approx(0.8, abs=0.03)


@settings(max_examples=30, deadline=None)
@given(error=st.floats(1e-4, 0.1), df=st.floats(2.0, 200.0), tests=st.integers(1, 1000))
def test_power_at_the_smallest_effect_is_the_asked_one(error: float, df: float, tests: int) -> None:
    smallest = float(one(error, df, n_tests=tests).smallest_effect[0, 0])
    again = one(error, df, n_tests=tests, margin=smallest)
    assert again.power_at_margin[0, 0] == pytest.approx(0.8, abs=1e-4)
    assert one(2 * error, df, n_tests=tests).smallest_effect[0, 0] == pytest.approx(2 * smallest)
    assert one(error, df, n_tests=tests + 1).smallest_effect[0, 0] > smallest


def test_half_of_the_experts_must_have_power_for_enough() -> None:
    errors = np.array([[0.001, 0.001, 0.1, np.nan]])
    found = detectable_effects(errors, np.full((1, 4), 18.0), margin=0.03, layer_indices=[7])
    assert not found.enough
    assert np.isnan(found.smallest_effect[0, 3])
    good = detectable_effects(errors[:, :3], np.full((1, 3), 18.0), margin=0.03, layer_indices=[7])
    assert good.enough
    frame = found.to_frame()
    assert frame["layer"].tolist() == [7] * 4
    assert frame["expert"].tolist() == [0, 1, 2, 3]
    assert frame["smallest_effect"].tolist()[:3] == found.smallest_effect[0, :3].tolist()


def nested(rng: np.random.Generator, sizes: list[int]) -> tuple[np.ndarray, ...]:
    """Usage of prompts in clusters of both conditions, 2 layers and 3 experts."""
    cluster = np.repeat(np.arange(2 * len(sizes)), sizes * 2)
    of_cluster = rng.normal(0, 0.3, size=(2 * len(sizes), 2, 3))
    usage = of_cluster[cluster] + rng.normal(0, 0.5, size=(len(cluster), 2, 3))
    return usage, cluster >= len(sizes), cluster


def test_variances_of_equal_clusters_are_those_of_scipy() -> None:
    usage, benchmark, cluster = nested(np.random.default_rng(1), [6] * 8)
    found = variances(usage, benchmark=benchmark, cluster=cluster)
    for condition, first in ((0, 0), (1, 8)):
        of_clusters = [usage[cluster == first + g, 1, 2] for g in range(8)]
        within = np.mean([values.var(ddof=1) for values in of_clusters])
        ratio = stats.f_oneway(*of_clusters).statistic
        assert found.within[condition, 1, 2] == pytest.approx(within)
        assert found.between[condition, 1, 2] == pytest.approx(max(0, within * (ratio - 1) / 6))


def test_variances_of_unequal_clusters_are_right_on_average() -> None:
    rng = np.random.default_rng(2)
    drawn = [nested(rng, [2, 3, 5, 9, 14]) for _ in range(400)]
    found = [variances(usage, benchmark=side, cluster=of) for usage, side, of in drawn]
    within = np.mean([one.within for one in found])
    assert within == pytest.approx(0.25, rel=0.02)
    # Cutting at 0 adds a little to the mean of `between`; its spread of 4,800 values is 0.001.
    assert np.mean([one.between for one in found]) == pytest.approx(0.09, abs=0.01)


def test_standard_error_of_a_plan_is_that_of_drawn_studies() -> None:
    rng = np.random.default_rng(3)
    usage, benchmark, cluster = nested(rng, [200] * 400)
    plan = variances(usage, benchmark=benchmark, cluster=cluster)
    stated = plan.standard_error(n_clusters=5, prompts_per_cluster=4).mean()
    drawn = [nested(rng, [4] * 5) for _ in range(1000)]
    differences = [u[side].mean(axis=0) - u[~side].mean(axis=0) for u, side, _ in drawn]
    assert np.std(differences) == pytest.approx(stated, rel=0.05)


def test_more_prompts_of_the_same_sources_do_not_help_past_the_sources() -> None:
    usage, benchmark, cluster = nested(np.random.default_rng(4), [6] * 8)
    plan = variances(usage, benchmark=benchmark, cluster=cluster)
    floor = np.sqrt(plan.between.sum(axis=0) / 5)
    assert (plan.standard_error(n_clusters=5, prompts_per_cluster=10**9) >= floor).all()


def test_identical_prompts_have_no_variance() -> None:
    cluster = np.repeat(np.arange(4), 3)
    found = variances(np.full((12, 1, 2), 0.5), benchmark=cluster > 1, cluster=cluster)
    assert not found.between.any()
    assert not found.within.any()


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"margin": 0.0}, "margin is 0.0, but must be above 0"),
        ({"alpha": 1.0}, "alpha is 1.0 and power 0.8"),
        ({"power": 1.0}, "alpha is 0.05 and power 1.0"),
    ],
)
def test_power_of_nonsense_is_refused(asked: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        one(0.01, 8.0, **asked)


def test_usage_of_nothing_is_refused() -> None:
    one_by_one = np.ones((1, 1))
    with pytest.raises(ValueError, match=r"usage is 0\.0 for an expert"):
        detectable_effects(
            one_by_one, one_by_one, margin=0.1, layer_indices=[0], usage=np.zeros((1, 1))
        )


def test_one_cluster_of_a_condition_has_no_variance_between() -> None:
    with pytest.raises(ValueError, match="cluster names 1 cluster"):
        variances(np.ones((4, 1, 1)), benchmark=np.arange(4) > 1, cluster=np.arange(4) > 1)


def test_an_effect_without_any_error_is_always_found() -> None:
    standard_error = np.array([[0.0, 1e-17, 1e-3, np.nan]])
    found = detectable_effects(
        standard_error, np.full((1, 4), 150.0), margin=0.0156, layer_indices=[0]
    )
    np.testing.assert_allclose(found.power_at_margin[0, :3], 1.0)
    assert np.isnan(found.power_at_margin[0, 3])
    np.testing.assert_allclose(found.smallest_effect[0, :2], 0.0, atol=1e-15)
