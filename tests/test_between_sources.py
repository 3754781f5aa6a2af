"""Nested analysis of variance of usage against statsmodels, loops, and simulated sources."""

import gzip
import json
from collections import Counter
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import jensenshannon

from interp.analyses.between_sources import (
    BetweenSources,
    between_source_variation,
    source_variation_of_slots,
)
from interp.analyses.nested_variance import (
    centroid_distances,
    nested_squares,
    nested_test,
    pseudo_f,
)
from interp.analyses.routed_tokens import Prompts, RoutedTokens
from interp.analyses.usage import slots_by_prompt
from interp.analyses.usage_distances import Metric, distance_sums, jensen_shannon_pairs
from tests.measure_samples import nested_prompts, nested_tokens, renamed

RECORDED = Path(__file__).resolve().parents[2] / "shared" / "data" / "gpt-oss-20b-routing"


def sums_of_numbers(values: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Squared differences of numbers, added up by source: the univariate case."""
    n_sources = source.max() + 1
    sums = np.zeros((1, n_sources, n_sources))
    for one, of_one in zip(values, source, strict=True):
        for other, of_other in zip(values, source, strict=True):
            sums[0, of_one, of_other] += (one - other) ** 2
    return sums


def test_pseudo_f_of_numbers_is_the_nested_anova_of_statsmodels() -> None:
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    rng = np.random.default_rng(0)
    source = np.repeat(np.arange(8), 5)
    values = rng.normal(size=8)[source] + rng.normal(size=40) + 0.7 * (source < 4)
    frame = pd.DataFrame({"value": values, "condition": source < 4, "source": source % 4})
    table = anova_lm(ols("value ~ C(condition) + C(condition):C(source)", frame).fit(), typ=1)
    squares = nested_squares(
        sums_of_numbers(values, source), np.full(8, 5), (np.arange(8) < 4)[None]
    )[:, 0, 0]
    np.testing.assert_allclose(squares, table["sum_sq"])
    mean_squares = table["mean_sq"]
    expected = mean_squares["C(condition)"] / mean_squares["C(condition):C(source)"]
    found = pseudo_f(squares[:, None, None], 8)
    np.testing.assert_allclose(found, [[expected]])


def test_squares_of_unequal_sources_are_those_of_group_means() -> None:
    rng = np.random.default_rng(1)
    sizes = np.array([2, 5, 3, 7, 4])
    source = np.repeat(np.arange(5), sizes)
    values = rng.normal(size=21)
    label = np.array([True, False, True, False, False])
    found = nested_squares(sums_of_numbers(values, source), sizes, label[None])[:, 0, 0]
    of_condition = np.array([values[label[source] == label[s]].mean() for s in source])
    of_source = np.array([values[source == s].mean() for s in source])
    expected = [
        np.sum((of_condition - values.mean()) ** 2),
        np.sum((of_source - of_condition) ** 2),
        np.sum((values - of_source) ** 2),
    ]
    np.testing.assert_allclose(found, expected)


def test_centroid_distance_is_free_of_the_noise_of_prompts() -> None:
    rng = np.random.default_rng(2)
    found = []
    for _ in range(400):
        values = np.concatenate([rng.normal(0.0, 2.0, 4), rng.normal(1.0, 2.0, 6)])
        source = np.repeat([0, 1], [4, 6])
        found.append(centroid_distances(sums_of_numbers(values, source), np.array([4, 6]))[0, 0, 1])
    # The plug-in distance of means would be 1 + 4/4 + 4/6.
    assert abs(np.mean(found) - 1.0) < 4 * np.std(found) / 20


def loop(tokens: RoutedTokens, prompts: Prompts) -> pd.DataFrame:
    """Pseudo-F and p-values of each layer by loops over prompts, pairs and labellings."""
    counts = slots_by_prompt(
        tokens.expert_indices,
        prompt_index=tokens.prompt_index,
        n_prompts=len(prompts.source),
        n_experts=tokens.n_experts,
    )
    names = sorted(set(prompts.source))
    benchmark = {name for name in names if prompts.benchmark[prompts.source == name].all()}
    n = len(prompts.source)
    squared = np.zeros((counts.shape[1], n, n))
    for layer in range(counts.shape[1]):
        for i, j in combinations(range(n), 2):
            squared[layer, i, j] = jensenshannon(counts[i, layer], counts[j, layer], base=2) ** 2
    squared = np.concatenate([squared, squared.mean(axis=0, keepdims=True)])

    def squares(of: np.ndarray, members: np.ndarray) -> float:
        return float(sum(of[i, j] for i, j in combinations(members, 2)) / len(members))

    rows = []
    for of in squared:
        ratios = {}
        for chosen in combinations(names, len(benchmark)):
            side = np.isin(prompts.source, chosen)
            total = squares(of, np.arange(n))
            inside = squares(of, np.flatnonzero(side)) + squares(of, np.flatnonzero(~side))
            within = sum(squares(of, np.flatnonzero(prompts.source == name)) for name in names)
            ratios[chosen] = (total - inside) / ((inside - within) / (len(names) - 2))
        observed = ratios[tuple(sorted(benchmark))]
        reached = [ratio >= observed - 1e-9 for ratio in ratios.values()]
        rows.append({"pseudo_f": observed, "p_value": np.mean(reached), "ratios": ratios})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def sampled() -> tuple[RoutedTokens, Prompts]:
    prompts = nested_prompts(3, 3)
    kept = np.delete(np.arange(18), [4, 16])  # sources of unequal size
    prompts = Prompts(
        benchmark=prompts.benchmark[kept],
        source=prompts.source[kept],
        item=prompts.item[kept],
        template=prompts.template[kept],
    )
    rng = np.random.default_rng(3)
    return nested_tokens(rng, prompts=prompts, source_spread=0.7, condition_effect=1.0), prompts


@pytest.fixture(scope="module")
def found(sampled: tuple[RoutedTokens, Prompts]) -> BetweenSources:
    tokens, prompts = sampled
    return between_source_variation(tokens, prompts, rng=np.random.default_rng(0))


def test_whole_result_is_that_of_loops_over_prompts_and_labellings(
    sampled: tuple[RoutedTokens, Prompts], found: BetweenSources
) -> None:
    expected = loop(*sampled)
    np.testing.assert_allclose(found.pseudo_f, expected["pseudo_f"])
    np.testing.assert_allclose(found.p_value, expected["p_value"])
    per_layer = expected["ratios"].iloc[:-1]
    largest = [max(of[chosen] for of in per_layer) for chosen in per_layer.iloc[0]]
    for layer in range(2):
        p_max = np.mean([top >= expected["pseudo_f"][layer] - 1e-9 for top in largest])
        np.testing.assert_allclose(found.p_max[layer], p_max)
    assert found.n_labellings == found.n_tried == 20
    assert found.smallest_p == 2 / 20  # swapped labels give the same pseudo-F
    assert (found.p_value >= found.smallest_p).all()
    assert np.isnan(found.layer[-1])


def test_frames_put_conditions_beside_pairs_of_sources(found: BetweenSources) -> None:
    pairs = found.pairs_frame()
    assert len(pairs) == 3 * 15
    of_all = pairs[pairs["layer"].isna()]
    row = found.to_frame().iloc[-1]
    same = of_all[of_all["same_condition"]]
    np.testing.assert_allclose(
        row["across_conditions"], of_all.loc[~of_all["same_condition"], "distance"].mean()
    )
    benchmark = same[same["source"] < "source-03"]["distance"].mean()
    organic = same[same["source"] >= "source-03"]["distance"].mean()
    np.testing.assert_allclose(row["within_benchmark"], benchmark)
    np.testing.assert_allclose(row["within_organic"], organic)
    np.testing.assert_allclose(row["excess"], row["across_conditions"] - (benchmark + organic) / 2)
    shares = ["share_of_condition", "share_of_source", "share_of_prompt"]
    np.testing.assert_allclose(found.to_frame()[shares].sum(axis=1), 1.0)
    assert (found.to_frame()["smallest_p"] == 0.1).all()
    assert found.median_tokens.tolist() == [12.0] * 6


def test_renamed_experts_and_reordered_tokens_change_nothing(
    sampled: tuple[RoutedTokens, Prompts], found: BetweenSources
) -> None:
    tokens, prompts = sampled
    other, _, _ = renamed(tokens, np.random.default_rng(4))
    again = between_source_variation(other, prompts, rng=np.random.default_rng(5))
    np.testing.assert_allclose(again.pseudo_f, found.pseudo_f)
    np.testing.assert_allclose(again.source_distance, found.source_distance)
    np.testing.assert_array_equal(again.p_value, found.p_value)


def test_slots_of_parts_give_the_same_as_tokens(
    sampled: tuple[RoutedTokens, Prompts], found: BetweenSources
) -> None:
    tokens, prompts = sampled
    parts = [
        slots_by_prompt(
            tokens.expert_indices[of],
            prompt_index=tokens.prompt_index[of],
            n_prompts=16,
            n_experts=6,
        )
        for of in (slice(0, 70), slice(70, None))  # cut within a prompt
    ]
    again = source_variation_of_slots(
        sum(parts), prompts, top_k=2, layer_indices=(0, 1), rng=np.random.default_rng(0)
    )
    np.testing.assert_array_equal(again.pseudo_f, found.pseudo_f)
    np.testing.assert_array_equal(again.median_tokens, found.median_tokens)


@pytest.mark.parametrize("metric", ["jensen_shannon", "hellinger", "euclidean"])
def test_identical_prompts_have_pseudo_f_0(metric: Metric) -> None:
    prompts = nested_prompts(2, 2)
    tokens = nested_tokens(np.random.default_rng(6), prompts=prompts, n_tokens=1)
    same = RoutedTokens(
        expert_indices=np.tile(tokens.expert_indices[:1], (8, 1, 1)),
        token_id=tokens.token_id,
        previous_token_id=tokens.previous_token_id,
        position=tokens.position,
        logprob=tokens.logprob,
        prompt_index=tokens.prompt_index,
        n_experts=6,
        layer_indices=(0, 1),
    )
    found = between_source_variation(same, prompts, rng=np.random.default_rng(0), metric=metric)
    np.testing.assert_array_equal(found.pseudo_f, 0.0)
    np.testing.assert_array_equal(found.p_value, 1.0)
    np.testing.assert_allclose(found.source_distance, 0.0, atol=1e-12)


def test_blocks_of_prompts_give_the_sums_of_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = np.random.default_rng(7).dirichlet(np.ones(5), size=(11, 2))
    source = np.repeat([0, 1, 2], [4, 4, 3])
    whole = distance_sums(usage, source_index=source, n_sources=3, metric="jensen_shannon")
    monkeypatch.setattr("interp.analyses.usage_distances.BLOCK", 3 * 11 * 5)
    parts = distance_sums(usage, source_index=source, n_sources=3, metric="jensen_shannon")
    np.testing.assert_allclose(parts, whole)


@pytest.mark.parametrize("metric", ["jensen_shannon", "hellinger", "euclidean"])
def test_distance_sums_are_those_of_a_loop_over_pairs(metric: Metric) -> None:
    usage = np.random.default_rng(8).dirichlet(np.ones(4) / 3, size=(7, 2))
    source = np.array([0, 1, 0, 2, 2, 1, 0])
    expected = np.zeros((2, 3, 3))
    for layer in range(2):
        for i in range(7):
            for j in range(7):
                p, q = usage[i, layer], usage[j, layer]
                squared = {
                    "jensen_shannon": np.nan_to_num(jensenshannon(p, q, base=2)) ** 2,
                    "hellinger": 1 - np.sum(np.sqrt(p * q)),
                    "euclidean": np.sum((p - q) ** 2) / 2,
                }
                expected[layer, source[i], source[j]] += squared[metric]
    found = distance_sums(usage, source_index=source, n_sources=3, metric=metric)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_divergences_are_those_of_scipy() -> None:
    usage = np.random.default_rng(16).dirichlet(np.ones(4) / 3, size=6)
    found = jensen_shannon_pairs(usage, usage[:3])
    expected = [[jensenshannon(p, q, base=2) ** 2 for q in usage[:3]] for p in usage]
    np.testing.assert_allclose(found, np.nan_to_num(expected), atol=1e-12)


def test_length_alone_sets_sources_apart_but_not_in_euclidean_distance() -> None:
    rng = np.random.default_rng(15)
    usage = np.concatenate([rng.multinomial(n, np.full(20, 0.05), size=60) / n for n in (30, 900)])[
        :, None
    ]
    source = np.repeat([0, 1], 60)
    found = {
        metric: centroid_distances(
            distance_sums(usage, source_index=source, n_sources=2, metric=metric),
            np.array([60, 60]),
        )[0, 0, 1]
        for metric in ("jensen_shannon", "euclidean")
    }
    assert found["jensen_shannon"] > 0.01
    assert abs(found["euclidean"]) < 0.001


def test_many_sources_are_relabelled_at_random_and_the_smallest_p_says_so() -> None:
    rng = np.random.default_rng(9)
    source = np.repeat(np.arange(20), 2)
    values = rng.normal(size=40) + 9.0 * (source < 10)
    found = nested_test(
        np.tile(sums_of_numbers(values, source), (2, 1, 1)),
        np.full(20, 2),
        is_benchmark=np.arange(20) < 10,
        rng=rng,
        n_permutations=199,
    )
    assert found.n_labellings == 184_756
    assert found.n_tried == 199
    assert found.smallest_p == 1 / 200
    np.testing.assert_array_equal(found.p_value, 1 / 200)


def test_one_source_a_condition_has_no_pseudo_f_and_says_why() -> None:
    prompts = nested_prompts(1, 4)
    tokens = nested_tokens(np.random.default_rng(10), prompts=prompts)
    found = between_source_variation(tokens, prompts, rng=np.random.default_rng(0))
    assert np.isnan(found.pseudo_f).all()
    assert "benchmark has 1 source" in found.reason
    assert np.isfinite(found.to_frame()["across_conditions"]).all()


def test_source_of_both_conditions_is_refused() -> None:
    prompts = nested_prompts(1, 4)
    tokens = nested_tokens(np.random.default_rng(11), prompts=prompts)
    shared = Prompts(
        benchmark=prompts.benchmark,
        source=np.full(8, "matched"),
        item=prompts.item,
        template=prompts.template,
    )
    with pytest.raises(ValueError, match="source 'matched' has prompts of both conditions"):
        between_source_variation(tokens, shared, rng=np.random.default_rng(0))


def test_one_condition_is_refused() -> None:
    prompts = nested_prompts(1, 2)
    tokens = nested_tokens(np.random.default_rng(12), prompts=prompts)
    alike = Prompts(
        benchmark=np.ones(4, dtype=bool),
        source=prompts.source,
        item=prompts.item,
        template=prompts.template,
    )
    with pytest.raises(ValueError, match="all 4 prompts have the same condition"):
        between_source_variation(tokens, alike, rng=np.random.default_rng(0))


def rejections(n_runs: int, *, condition_effect: float, seed: int) -> tuple[float, float]:
    """Share of runs with p <= 0.05 over all layers: whole sources relabelled, and prompts."""
    rng = np.random.default_rng(seed)
    prompts = nested_prompts(5, 5)
    by_prompt = Prompts(  # every prompt its own source: what a test of prompts would do
        benchmark=prompts.benchmark,
        source=prompts.item,
        item=prompts.item,
        template=prompts.template,
    )
    rejected = np.zeros(2)
    for _ in range(n_runs):
        tokens = nested_tokens(
            rng, prompts=prompts, source_spread=0.5, condition_effect=condition_effect
        )
        for place, of in enumerate((prompts, by_prompt)):
            found = between_source_variation(
                tokens, of, rng=rng, n_permutations=199, metric="hellinger"
            )
            rejected[place] += found.p_value[-1] <= 0.05
    return tuple(rejected / n_runs)  # type: ignore[return-value]


@pytest.mark.slow
def test_sources_alone_are_no_condition_unless_prompts_are_relabelled() -> None:
    of_sources, of_prompts = rejections(200, condition_effect=0.0, seed=13)
    assert of_sources <= 0.09  # 5 % nominal; more than 18 of 200 in 1 % of the cases
    assert of_prompts > 0.5


@pytest.mark.slow
def test_condition_is_found_beyond_sources() -> None:
    of_sources, _ = rejections(50, condition_effect=3.0, seed=14)
    assert of_sources > 0.8


def recorded() -> tuple[RoutedTokens, np.ndarray]:
    """The recorded routing of gpt-oss-20b, and the dataset of each record."""
    if not RECORDED.exists():
        pytest.skip("the recorded routing lies beside the repository, and is not there")
    chosen, prompt_index, source = [], [], []
    for number, path in enumerate(sorted(RECORDED.glob("*.json.gz"))):
        record = json.loads(gzip.decompress(path.read_bytes()))
        source.append(record["dataset"])
        for entry in record["router_data"]:
            (layers,) = entry.values()
            chosen.append([layers[f"layer_{n}"]["selected_experts"] for n in range(24)])
            prompt_index.append(number)
    n_tokens = len(chosen)
    tokens = RoutedTokens(
        expert_indices=np.array(chosen, dtype=np.uint8),
        token_id=np.zeros(n_tokens, dtype=int),
        previous_token_id=np.full(n_tokens, -1),
        position=np.arange(n_tokens),
        logprob=np.full(n_tokens, np.nan),
        prompt_index=np.array(prompt_index),
        n_experts=32,
        layer_indices=tuple(range(24)),
    )
    return tokens, np.array(source)


@pytest.mark.slow
def test_recorded_sources_are_apart_as_the_docs_say() -> None:
    tokens, source = recorded()
    prompts = Prompts(
        benchmark=~np.isin(source, ["sorry_bench_base", "tulu3_persona_if"]),
        source=source,
        item=np.arange(len(source)),
        template=np.full(len(source), ""),
    )
    found = between_source_variation(tokens, prompts, rng=np.random.default_rng(0))
    of_all = found.to_frame().iloc[-1]
    np.testing.assert_allclose(of_all["pseudo_f"], 3.519, atol=1e-3)
    np.testing.assert_allclose([of_all["p_value"], of_all["smallest_p"]], [2 / 15, 1 / 15])
    kinds = ["across_conditions", "within_benchmark", "within_organic", "excess"]
    np.testing.assert_allclose(of_all[kinds].astype(float), [0.114, 0.082, 0.052, 0.047], atol=6e-4)
    mmlu, gpqa, sorry = (
        found.sources.index(name)
        for name in ("mmlu_validation", "gpqa_extended", "sorry_bench_base")
    )
    np.testing.assert_allclose(found.source_distance[-1, mmlu, sorry], 0.060, atol=6e-4)
    np.testing.assert_allclose(found.source_distance[-1, mmlu, gpqa], 0.088, atol=6e-4)
    usage = [Counter[int]() for _ in source]
    for token, prompt in zip(tokens.expert_indices[:, 12], tokens.prompt_index, strict=True):
        usage[prompt].update(token.tolist())
    rows = {
        name: [[usage[i][e] for e in range(32)] for i in np.flatnonzero(source == name)]
        for name in ("mmlu_validation", "gpqa_extended")
    }

    def mean_squared(one: list[list[int]], other: list[list[int]], *, same: bool) -> float:
        pairs = product(range(len(one)), range(len(other)))
        kept = [(i, j) for i, j in pairs if not (same and i == j)]
        return float(np.mean([jensenshannon(one[i], other[j], base=2) ** 2 for i, j in kept]))

    of_mmlu, of_gpqa = rows.values()
    expected = (
        mean_squared(of_mmlu, of_gpqa, same=False)
        - (mean_squared(of_mmlu, of_mmlu, same=True) + mean_squared(of_gpqa, of_gpqa, same=True))
        / 2
    )
    np.testing.assert_allclose(found.source_distance[12, mmlu, gpqa], expected)
