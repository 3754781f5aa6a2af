"""Effects, intervals and tables against statsmodels, scipy, loops over tokens and hand cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from interp.analyses.cells import mean_difference_sums, token_adjusted_sums
from interp.analyses.effects import ExpertEffects, expert_effects
from interp.analyses.jackknife import (
    _df_of_form,
    _form_of_stratum,
    cluster_jackknife,
    q_values,
)
from interp.analyses.routed_tokens import Prompts, RoutedTokens

COLUMNS = [
    "layer", "expert", "effect", "effect_low", "effect_high", "raw_p_max_t", "raw_q_bh",
    "effect_prompt_mean", "effect_low_prompt_mean", "effect_high_prompt_mean",
    "raw_p_max_t_prompt_mean", "adjusted_effect", "adjusted_low", "adjusted_high", "p_max_t",
    "q_bh", "surface_adjusted_effect", "surface_adjusted_low", "surface_adjusted_high",
    "surface_adjusted_p_max_t", "surface_adjusted_q_bh", "log_odds_ratio", "risk_difference",
    "is_confirmed",
]  # fmt: skip


def made_up(
    rng: np.random.Generator, *, n_sources: int = 10, per_source: int = 3, effect: float = 0.0
) -> tuple[RoutedTokens, Prompts]:
    """Sources nested in conditions, prompts of 5 to 30 tokens, one layer with an effect."""
    n_prompts = n_sources * per_source
    prompt_index = np.repeat(np.arange(n_prompts), rng.integers(5, 31, n_prompts))
    source = np.arange(n_prompts) // per_source
    benchmark = source < n_sources // 2
    token_id = rng.integers(100, 120, len(prompt_index))
    scores = rng.gumbel(size=(len(token_id), 2, 5))
    scores[:, 1, 3] += effect * benchmark[prompt_index]
    start = np.flatnonzero(np.diff(prompt_index, prepend=-1))
    position = np.arange(len(token_id)) - start[prompt_index]
    tokens = RoutedTokens(
        expert_indices=np.argsort(-scores, axis=-1)[..., :2],
        token_id=token_id,
        previous_token_id=np.where(position == 0, -1, np.roll(token_id, 1)),
        position=position,
        logprob=np.where(position == 0, np.nan, -rng.exponential(size=len(token_id))),
        prompt_index=prompt_index,
        n_experts=5,
        layer_indices=(4, 9),
    )
    prompts = Prompts(
        benchmark=benchmark,
        source=source,
        item=np.arange(n_prompts),
        template=np.full(n_prompts, ""),
    )
    return tokens, prompts


def share_of(tokens: RoutedTokens, layer: int, expert: int) -> np.ndarray:
    """Share of each token's slots that went to the expert."""
    return (tokens.expert_indices[:, layer] == expert).mean(axis=1)


@pytest.fixture(scope="module")
def study() -> tuple[RoutedTokens, Prompts, ExpertEffects]:
    tokens, prompts = made_up(np.random.default_rng(0), effect=1.5)
    rng = np.random.default_rng(1)
    return tokens, prompts, expert_effects(tokens, prompts, cluster="source", rng=rng)


def test_token_adjusted_effect_is_the_coefficient_of_a_regression_with_token_constants(
    study: tuple[RoutedTokens, Prompts, ExpertEffects],
) -> None:
    from statsmodels.api import OLS

    tokens, prompts, effects = study
    ids = np.unique(tokens.token_id)
    constants = (tokens.token_id[:, None] == ids).astype(float)
    y = prompts.benchmark[tokens.prompt_index].astype(float)
    table = effects.to_frame().set_index(["layer", "expert"])
    for layer, number in enumerate((4, 9)):
        for expert in range(5):
            fit = OLS(share_of(tokens, layer, expert), np.column_stack([y, constants])).fit()
            np.testing.assert_allclose(table.adjusted_effect[number, expert], fit.params[0])


def test_raw_effect_pools_tokens_and_the_prompt_mean_does_not(
    study: tuple[RoutedTokens, Prompts, ExpertEffects],
) -> None:
    tokens, prompts, effects = study
    table = effects.to_frame().set_index(["layer", "expert"])
    y = prompts.benchmark[tokens.prompt_index]
    share = share_of(tokens, 1, 3)
    np.testing.assert_allclose(table.effect[9, 3], share[y].mean() - share[~y].mean())
    mean = np.array([share[tokens.prompt_index == p].mean() for p in range(len(prompts.item))])
    expected = mean[prompts.benchmark].mean() - mean[~prompts.benchmark].mean()
    np.testing.assert_allclose(table.effect_prompt_mean[9, 3], expected)


def test_risk_difference_and_log_odds_ratio_count_activations(
    study: tuple[RoutedTokens, Prompts, ExpertEffects],
) -> None:
    from statsmodels.stats.contingency_tables import Table2x2

    tokens, prompts, effects = study
    y = prompts.benchmark[tokens.prompt_index]
    active = (tokens.expert_indices[:, 1] == 3).any(axis=1)
    cells = np.array(
        [[np.sum(active & y), np.sum(~active & y)], [np.sum(active & ~y), np.sum(~active & ~y)]]
    )
    row = effects.to_frame().set_index(["layer", "expert"]).loc[(9, 3)]
    np.testing.assert_allclose(row.risk_difference, active[y].mean() - active[~y].mean())
    np.testing.assert_allclose(row.risk_difference, 2 * row.effect)  # top_k is 2
    np.testing.assert_allclose(row.log_odds_ratio, Table2x2(cells + 0.5).log_oddsratio)


def test_planted_expert_alone_is_found(study: tuple[RoutedTokens, Prompts, ExpertEffects]) -> None:
    table = study[2].to_frame().set_index(["layer", "expert"])
    for column in ("raw_p_max_t", "raw_p_max_t_prompt_mean", "p_max_t", "surface_adjusted_p_max_t"):
        assert table[column].idxmin() == (9, 3)
        assert table[column][9, 3] <= 0.05
        assert (table[column].loc[4] > 0.05).all()
    assert table.surface_adjusted_low[9, 3] > 0


def test_table_has_its_columns_in_order(
    study: tuple[RoutedTokens, Prompts, ExpertEffects],
) -> None:
    _, _, effects = study
    table = effects.to_frame()
    assert list(table.columns) == COLUMNS
    assert table.layer.tolist() == [4] * 5 + [9] * 5
    assert table.expert.tolist() == [0, 1, 2, 3, 4] * 2
    assert effects.adjusted_for == ("token", "previous_token", "position", "logprob")
    assert effects.notes == ()
    assert effects.n_clusters == 10


def test_jackknife_of_single_prompts_is_welchs_t_test() -> None:
    rng = np.random.default_rng(2)
    share, benchmark = rng.normal(size=(14, 3)), np.arange(14) < 7
    jackknife = cluster_jackknife(
        mean_difference_sums(share, benchmark=benchmark, cluster=np.arange(14))
    )
    welch = stats.ttest_ind(share[benchmark], share[~benchmark], equal_var=False)
    np.testing.assert_allclose(jackknife.t, welch.statistic)
    np.testing.assert_allclose(jackknife.df, welch.df)
    np.testing.assert_allclose(jackknife.p_value, welch.pvalue)
    for level in (0.9, 0.95):
        expected = welch.confidence_interval(level)
        low, high = jackknife.interval(level)
        np.testing.assert_allclose(low, expected.low)
        np.testing.assert_allclose(high, expected.high)


def test_jackknife_of_pairs_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(3)
    share, benchmark = rng.normal(size=(18, 3)), np.arange(18) < 9
    jackknife = cluster_jackknife(
        mean_difference_sums(share, benchmark=benchmark, cluster=np.arange(18) % 9)
    )
    paired = stats.ttest_rel(share[benchmark], share[~benchmark])
    np.testing.assert_allclose(jackknife.p_value, paired.pvalue)
    np.testing.assert_allclose(jackknife.df, paired.df)
    one_sided = stats.ttest_rel(share[benchmark], share[~benchmark], alternative="less")
    np.testing.assert_allclose(jackknife.one_sided_p_value(np.full(3, -1.0)), one_sided.pvalue)


def test_effects_with_a_cluster_left_out_are_those_of_the_other_tokens() -> None:
    rng = np.random.default_rng(4)
    cluster, token = rng.integers(0, 6, 90), rng.integers(0, 7, 90)
    benchmark = np.where(cluster == 5, rng.random(90) < 0.5, cluster < 2)  # 5 has both
    chosen = np.argsort(rng.random((90, 2, 3)), axis=-1)[..., :1]

    def sums(among: np.ndarray) -> np.ndarray:
        return token_adjusted_sums(
            chosen[among], benchmark=benchmark[among], cluster=cluster[among],
            token_id=token[among], n_experts=3,
        ).effect  # fmt: skip

    everything = token_adjusted_sums(
        chosen, benchmark=benchmark, cluster=cluster, token_id=token, n_experts=3
    )
    left = everything.square.sum() - everything.left_out_square
    without = (everything.score.sum(axis=0) - everything.left_out_score) / left[:, None]
    expected = np.array([sums(cluster != g) for g in range(6)])
    np.testing.assert_allclose(without, expected, atol=1e-12)
    # The one cluster with both conditions has no other of its kind: it joins the larger stratum.
    shift = (expected - everything.effect) ** 2
    variance = shift[:2].sum(axis=0) / 2 + 3 / 4 * shift[2:].sum(axis=0)
    np.testing.assert_allclose(cluster_jackknife(everything).standard_error, np.sqrt(variance))
    only = cluster < 5
    nested = token_adjusted_sums(
        chosen[only], benchmark=benchmark[only], cluster=cluster[only], token_id=token[only],
        n_experts=3,
    )  # fmt: skip
    shift = np.array([(sums(only & (cluster != g)) - nested.effect) ** 2 for g in range(5)])
    variance = shift[:2].sum(axis=0) / 2 + 2 / 3 * shift[2:].sum(axis=0)
    np.testing.assert_allclose(cluster_jackknife(nested).standard_error, np.sqrt(variance))


def test_unequal_clusters_have_fewer_degrees_of_freedom() -> None:
    """Bell and McCaffrey's degrees of freedom by simulation of the variance's own moments."""
    rng = np.random.default_rng(5)
    size = np.array([1, 1, 2, 8, 3, 3, 3, 3])
    cluster, benchmark = np.repeat(np.arange(8), size), np.repeat(np.arange(8), size) < 4
    of_cluster = rng.normal(size=(8, 20_000))
    sums = mean_difference_sums(of_cluster[cluster], benchmark=benchmark, cluster=cluster)
    variance = []
    for g in range(4):  # leave-one-out means of the first condition, by hand
        kept = np.setdiff1d(np.arange(4), [g])
        mean = (size[:4, None] * of_cluster[:4]).sum(axis=0) / size[:4].sum()
        without = (size[kept, None] * of_cluster[kept]).sum(axis=0) / size[kept].sum()
        variance.append((without - mean) ** 2)
    v = 0.75 * np.sum(variance, axis=0)
    df = 2 * v.mean() ** 2 / v.var()
    assert abs(_df_of_form(_form_of_stratum(sums.square[:4])) - df) < 0.1
    np.testing.assert_allclose(_df_of_form(_form_of_stratum(sums.square[4:])), 3)


def test_q_values_are_those_of_statsmodels_and_keep_what_is_missing() -> None:
    from statsmodels.stats.multitest import multipletests

    p = np.random.default_rng(6).random(20) ** 3
    q = q_values(np.append(p, np.nan))
    np.testing.assert_allclose(q[:-1], multipletests(p, method="fdr_bh")[1])
    assert np.isnan(q[-1])
    assert np.isnan(q_values(np.full(3, np.nan))).all()


def test_equal_conditions_have_no_effect() -> None:
    rng = np.random.default_rng(7)
    chosen, token = np.argsort(rng.random((40, 2, 4)), axis=-1)[..., :2], rng.integers(0, 9, 40)
    sums = token_adjusted_sums(
        np.concatenate([chosen, chosen]),
        benchmark=np.repeat([True, False], 40),
        cluster=np.tile(np.arange(8), 10),
        token_id=np.tile(token, 2),
        n_experts=4,
    )
    np.testing.assert_allclose(sums.effect, 0.0, atol=1e-15)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), top_k=st.integers(1, 4))
def test_effects_are_bounded_and_sum_to_0_over_experts(seed: int, top_k: int) -> None:
    rng = np.random.default_rng(seed)
    chosen = np.argsort(rng.random((40, 2, 4)), axis=-1)[..., :top_k]
    cluster, token = rng.integers(0, 6, 40), rng.integers(0, 4, 40)
    sums = token_adjusted_sums(
        chosen, benchmark=cluster < 3, cluster=cluster, token_id=token, n_experts=4
    )
    effect = sums.effect.reshape(2, 4)
    if not np.isnan(effect).any():
        assert np.abs(effect).max() <= 1 / top_k + 1e-12
        np.testing.assert_allclose(effect.sum(axis=1), 0.0, atol=1e-12)


def test_tokens_with_an_id_of_one_condition_change_nothing() -> None:
    rng = np.random.default_rng(8)
    cluster = np.append(rng.integers(0, 6, 60), [0, 1, 2, 0])
    token = np.append(rng.integers(0, 4, 60), [50, 50, 50, 51])  # 0, 1, 2: benchmark alone
    chosen = np.argsort(rng.random((64, 1, 3)), axis=-1)[..., :1]
    effects = [
        token_adjusted_sums(
            chosen[:n], benchmark=cluster[:n] < 3, cluster=cluster[:n], token_id=token[:n],
            n_experts=3,
        ).effect
        for n in (60, 64)
    ]  # fmt: skip
    np.testing.assert_allclose(effects[0], effects[1])


def test_too_few_sources_give_a_table_and_sentences_but_no_exception() -> None:
    tokens, prompts = made_up(np.random.default_rng(9), n_sources=2)
    effects = expert_effects(tokens, prompts, cluster="source", rng=np.random.default_rng(0))
    table = effects.to_frame()
    assert table.effect.notna().all()
    assert table.adjusted_effect.notna().all()
    assert (
        table[["adjusted_low", "p_max_t", "q_bh", "surface_adjusted_p_max_t"]].isna().all(axis=None)
    )
    assert not table.is_confirmed.any()
    assert len(effects.notes) == 2  # one of all four tests, and the confirmation
    assert effects.notes[0].startswith("raw, prompt mean, token-adjusted, surface-adjusted: ")
    assert "allows 1 distinct relabelling(s)" in effects.notes[0]
    assert "nothing can be confirmed" in effects.notes[-1]


def test_one_condition_gives_a_table_of_nothing_and_sentences() -> None:
    tokens, prompts = made_up(np.random.default_rng(10))
    only = Prompts(
        benchmark=np.ones(30, dtype=bool), source=prompts.source, item=prompts.item,
        template=prompts.template,
    )  # fmt: skip
    effects = expert_effects(tokens, only, cluster="source", rng=np.random.default_rng(0))
    assert effects.to_frame()[["effect", "adjusted_effect", "log_odds_ratio"]].isna().all(axis=None)
    assert "a test needs both conditions" in effects.notes[0]


def test_word_that_is_no_cluster_is_refused() -> None:
    tokens, prompts = made_up(np.random.default_rng(11))
    with pytest.raises(Exception, match="cluster"):
        expert_effects(tokens, prompts, cluster="token", rng=np.random.default_rng(0))  # type: ignore[arg-type]


def test_token_of_no_prompt_is_refused() -> None:
    tokens, prompts = made_up(np.random.default_rng(12))
    fewer = Prompts(
        benchmark=prompts.benchmark[:-1], source=prompts.source[:-1], item=prompts.item[:-1],
        template=prompts.template[:-1],
    )  # fmt: skip
    with pytest.raises(ValueError, match="holds prompt 29, but the prompts are only 29"):
        expert_effects(tokens, fewer, cluster="source", rng=np.random.default_rng(0))


def test_same_generator_gives_the_same_table() -> None:
    tokens, prompts = made_up(np.random.default_rng(13), n_sources=20, per_source=1)
    tables = [
        expert_effects(
            tokens, prompts, cluster="source", rng=np.random.default_rng(5), n_resamples=200
        ).to_frame()
        for _ in range(2)
    ]
    assert tables[0].equals(tables[1])
