"""The descriptive tables of a study, each against a plain loop over the tokens of a small store."""

import math
from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import entropy

from interp.analyses.divergence import usage_divergence
from interp.cache.reader import Store, open_store
from interp.cache.records import SEGMENTS
from interp.cache.writer import StoreWriter
from interp.compared import COMPARED, compared
from interp.study_described import Described, best_rows
from interp.study_measures import MEASURES, margin_table, measure_tables
from interp.study_usage import matched_table, usage_table
from interp.token_kinds import KINDS, token_kind, token_kinds
from tests.study_samples import LAYOUT, N_EXPERTS, N_TOKENS, prompt

LAYERS, TOP_K = (1, 3), 2
SOURCES = {"benchmark": ("quiz", "exam"), "organic": ("mail", "forum")}
TEXT = "The cat 42 " + "= ab" * 5  # 31 letters, and one token each but for the last two


def recorded(rng: np.random.Generator, item: int, condition: str) -> Any:
    """A prompt with logits, norms, uneven weights, two sources and two segments."""
    made = prompt(rng, item, condition, text=TEXT[:N_TOKENS])
    weights = rng.uniform(0.5, 1.0, (N_TOKENS, 2)).astype(np.float32)
    logits = rng.normal(size=(N_TOKENS, 2, N_EXPERTS)).astype(np.float32)
    np.put_along_axis(logits, made.expert_indices, 9.0 + rng.random((N_TOKENS, 2, 2)), axis=2)
    segment = made.segment.copy()
    segment[20:] = SEGMENTS.index("wrapper")
    return replace(
        made,
        prompt={**made.prompt, "source": SOURCES[condition][item % 2]},
        segment=segment,
        expert_weights=np.stack([weights, 1 - weights], axis=-1),
        router_logits=logits,
        expert_output_norms=rng.exponential(size=(N_TOKENS, 2, 2)).astype(np.float32),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path, rng = tmp_path_factory.mktemp("measures") / "a.moe", np.random.default_rng(5)
    layout = replace(LAYOUT, router_logits=True, expert_output_norms=True)
    with StoreWriter(path, layout=layout, provenance={"model": "simulated"}) as writer:
        for item in range(12):
            for condition in COMPARED:
                writer.add(recorded(rng, item, condition))
    return open_store(path)


@pytest.fixture(scope="module")
def described(store: Store) -> Described:
    return Described(of=compared(store, COMPARED), seed=0, n_permutations=20)


@pytest.fixture(scope="module")
def tables(described: Described) -> dict[str, pd.DataFrame]:
    started: list[str] = []
    found, absent = measure_tables(described, started.append)
    assert started == list(MEASURES)
    assert absent == {}
    return found


@pytest.fixture(scope="module")
def slots(store: Store) -> list[dict[str, Any]]:
    """One entry per token outside the template and layer: what a loop needs, and no arrays."""
    routing, prompts = store.router(), store.prompts[["condition", "source"]].to_dict("records")
    return [
        {
            "token": token,
            "prompt": int(store.prompt_index[token]),
            "layer": layer,
            "experts": routing.expert_indices[token, column].tolist(),
            "weights": routing.expert_weights[token, column].tolist(),
            "norms": routing.expert_output_norms[token, column].tolist(),  # type: ignore[index]
            "logits": routing.router_logits[token, column].tolist(),  # type: ignore[index]
            "id": int(store.token_id[token]),
            "segment": SEGMENTS[store.segment[token]],
            **prompts[store.prompt_index[token]],
        }
        for token in range(store.n_tokens)
        for column, layer in enumerate(LAYERS)
        if SEGMENTS[store.segment[token]] != "template"
    ]


def means(rows: list[dict[str, Any]], expert: int, counts: str) -> tuple[float, float]:
    """Token mean and prompt mean of one expert's share, of slots or of weights."""
    own: dict[int, float] = defaultdict(float)
    total: dict[int, float] = defaultdict(float)
    for row in rows:
        for chosen, weight in zip(row["experts"], row["weights"], strict=True):
            counted = 1.0 if counts == "slots" else weight
            total[row["prompt"]] += counted
            own[row["prompt"]] += counted * (chosen == expert)
    shares = [own[name] / total[name] for name in total]
    return sum(own.values()) / sum(total.values()), sum(shares) / len(shares)


def test_usage_has_both_means_of_slots_and_of_weights(
    slots: list[dict[str, Any]], described: Described
) -> None:
    table = usage_table(described).set_index(["condition", "layer", "expert"])
    rows = [row for row in slots if row["condition"] == "organic" and row["layer"] == 3]
    for expert in range(N_EXPERTS):
        found = table.loc[("organic", 3, expert)]
        by_slots, weights = (means(rows, expert, counts) for counts in ("slots", "weights"))
        assert (found["usage"], found["usage_prompt_mean"]) == pytest.approx(by_slots)
        assert (
            found["usage_weights"],
            found["usage_weights_prompt_mean"],
        ) == pytest.approx(weights)


@pytest.mark.parametrize(("by", "group"), [("source", "quiz"), ("segment", "wrapper")])
def test_usage_by_holds_the_experts_with_the_largest_prompt_mean(
    slots: list[dict[str, Any]], tables: dict[str, pd.DataFrame], by: str, group: str
) -> None:
    chosen = [
        row
        for row in slots
        if row[by] == group and row["layer"] == 1 and row["condition"] == "benchmark"
    ]
    expected = sorted(means(chosen, expert, "slots")[1] for expert in range(N_EXPERTS))[::-1][:5]
    table = tables["usage_by"].query("by == @by and group == @group and condition == 'benchmark'")
    found = table.query("layer == 1")
    assert found["usage_prompt_mean"].tolist() == pytest.approx(expected)
    first = found.iloc[0]
    assert first["usage"] == pytest.approx(means(chosen, int(first["expert"]), "slots")[0])
    assert first["n_tokens"] == len(chosen)


def test_load_is_the_entropy_of_slots(
    slots: list[dict[str, Any]], tables: dict[str, pd.DataFrame]
) -> None:
    load = tables["load"].set_index(["condition", "layer"])
    for condition in COMPARED:
        counted = Counter(
            expert
            for row in slots
            if row["condition"] == condition and row["layer"] == 3
            for expert in row["experts"]
        )
        found = load.loc[(condition, 3)]
        assert found["entropy_bits"] == pytest.approx(entropy(list(counted.values()), base=2))
        assert found["n_slots"] == sum(counted.values())


def test_the_committee_is_over_sources_where_there_are_no_domains(
    slots: list[dict[str, Any]], tables: dict[str, pd.DataFrame]
) -> None:
    """Experts 0 and 1 serve half of the benchmark tokens of layer 3, in either source."""
    found = tables["load"].set_index(["condition", "layer"]).loc[("benchmark", 3)]
    assert (found["committee_over"], found["committee_groups"]) == ("source", 2)
    shares = []
    for source in SOURCES["benchmark"]:
        rows = [row for row in slots if row["source"] == source and row["layer"] == 3]
        ranked = sorted((means(rows, expert, "slots")[0] for expert in (0, 1)), reverse=True)
        shares.append(ranked)
    members = int(found["committee_members"])
    assert 1 <= members <= 2
    if members == 2:
        assert found["committee_share"] == pytest.approx(np.mean([sum(each) for each in shares]))
    assert found["committee_even_share"] == members / N_EXPERTS


def test_pairs_are_counted_over_tokens_and_those_above_expectation_come_first(
    slots: list[dict[str, Any]], tables: dict[str, pd.DataFrame]
) -> None:
    table = tables["coactivation"].query("condition == 'benchmark' and layer == 3")
    together = Counter(
        tuple(sorted(row["experts"]))
        for row in slots
        if row["condition"] == "benchmark" and row["layer"] == 3
    )
    for pair in table.itertuples():
        assert pair.tokens_together == together[(pair.expert, pair.other_expert)]
        assert pair.expected_tokens >= 20
    first = table.iloc[0]
    assert (first["expert"], first["other_expert"]) == (0, 1)
    assert table["association"].is_monotonic_decreasing
    assert (table["association"] > 0).sum() <= 3
    assert (table["association"] <= 0).sum() <= 3


def test_the_most_frequent_path_has_the_mean_share_over_prompts(
    slots: list[dict[str, Any]], tables: dict[str, pd.DataFrame]
) -> None:
    taken: dict[int, Counter[str]] = defaultdict(Counter)
    rows = slots
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert first["token"] == second["token"]
        for a in first["experts"]:
            for b in second["experts"]:
                taken[first["prompt"]][f"1:{a} > 3:{b}"] += 1
    shares = {
        path: np.mean([each[path] / each.total() for each in taken.values()])
        for path in set().union(*taken.values())
    }
    table = tables["paths"].query("ranked_by == 'share'")
    assert table["share"].iloc[0] == pytest.approx(max(shares.values()))
    for row in table.itertuples():
        assert row.share == pytest.approx(shares[row.path])
    assert len(table) == 20
    assert set(tables["paths"]["cluster"]) == {"item"}
    specific = tables["paths"].query("ranked_by == 'specific'")["standardised_difference"].abs()
    assert specific.is_monotonic_decreasing


def test_specialisation_stands_beside_the_tokens_of_the_other_groups(
    slots: list[dict[str, Any]], tables: dict[str, pd.DataFrame]
) -> None:
    rows = [row for row in slots if row["layer"] == 3]
    table = tables["specialisation"].query("layer == 3")
    assert len(table) == 4 * 3
    for each in table.itertuples():
        sides = [[r for r in rows if (r["source"] == each.group) == own] for own in (True, False)]
        inside, elsewhere = (
            sum(each.expert in row["experts"] for row in side) / len(side) for side in sides
        )
        assert (each.share, each.share_elsewhere) == pytest.approx((inside, elsewhere))


def test_relevance_lists_the_fewest_experts_that_reach_the_share(
    slots: list[dict[str, Any]], tables: dict[str, pd.DataFrame]
) -> None:
    rows = [row for row in slots if row["condition"] == "organic" and row["layer"] == 1]
    scores = {expert: means(rows, expert, "weights")[1] for expert in range(N_EXPERTS)}
    order = sorted(scores, key=lambda expert: -scores[expert])
    fewest = next(n for n in range(1, 9) if sum(scores[each] for each in order[:n]) >= 0.1)
    table = tables["relevance"].query("condition == 'organic' and layer == 1")
    chosen = table[table["by_gate_score"]]
    assert sorted(chosen["expert"]) == sorted(order[:fewest])
    for each in table.itertuples():
        assert each.gate_score == pytest.approx(scores[each.expert])


def test_saliency_is_weight_times_norm_over_the_experts_own_tokens(
    slots: list[dict[str, Any]], tables: dict[str, pd.DataFrame]
) -> None:
    products: dict[int, list[float]] = defaultdict(list)
    for row in slots:
        if row["condition"] == "benchmark" and row["layer"] == 3:
            for expert, weight, norm in zip(
                *(row[n] for n in ("experts", "weights", "norms")), strict=True
            ):
                products[expert].append(weight * norm)
    expected = sorted((float(np.mean(each)) for each in products.values()), reverse=True)[:5]
    table = tables["saliency"].query("condition == 'benchmark' and layer == 3")
    assert table["saliency"].tolist() == pytest.approx(expected, rel=1e-5)


def test_token_classes_hold_the_information_of_class_and_expert(
    slots: list[dict[str, Any]], tables: dict[str, pd.DataFrame]
) -> None:
    rows = [row for row in slots if row["layer"] == 3]
    table = tables["token_classes"].query("by == 'segment' and layer == 3")
    assert set(table["token_class"]) == {"user", "wrapper"}
    for each in table.itertuples():
        of_class = [row for row in rows if row["segment"] == each.token_class]
        both = sum(each.expert in row["experts"] for row in of_class) / len(rows)
        alone = sum(each.expert in row["experts"] for row in rows) / len(rows)
        expected = math.log(both / (alone * len(of_class) / len(rows))) / -math.log(both)
        assert each.npmi == pytest.approx(expected)
        assert each.n_tokens == len(of_class)


def test_margins_are_between_the_second_and_the_third_logit(
    slots: list[dict[str, Any]], tables: dict[str, pd.DataFrame]
) -> None:
    margins = []
    for row in slots:
        if row["layer"] == 1:
            ranked = sorted(row["logits"], reverse=True)
            margins.append(ranked[TOP_K - 1] - ranked[TOP_K])
    found = tables["margins"].set_index("layer").loc[1]
    assert found["margin_median"] == pytest.approx(sorted(margins)[(len(margins) - 1) // 2])
    assert found["n_tokens"] == len(margins)


def test_a_router_that_does_not_rank_by_logits_has_no_margin(described: Described) -> None:
    other = replace(described)
    routing = described.routing
    vars(other)["routing"] = replace(routing, router_logits=-routing.router_logits)  # type: ignore[operator]
    with pytest.raises(ValueError, match="for 0 % of tokens only, as where it ranks by corrected"):
        margin_table(other)


def test_vocabulary_and_depth_have_a_row_for_each_layer(tables: dict[str, pd.DataFrame]) -> None:
    assert tables["vocabulary"]["layer"].tolist() == list(LAYERS)
    assert tables["saturation"]["saturation"].iloc[-1] == pytest.approx(1.0)
    assert (tables["saturation"]["reference_layer"] == 3).all()


def test_other_keys_are_matched_as_if_they_were_the_token(described: Described) -> None:
    advanced: list[int] = []
    table, absent = matched_table(described, advanced.append)
    assert (absent, sum(advanced)) == ({}, 3 * 20)
    pair = described.of
    bins = np.floor(np.log2(pair.store.position[pair.token] + 1)).astype(int)
    expected = usage_divergence(
        pair.expert_indices,
        benchmark=pair.benchmark,
        token_id=bins,
        prompt_index=pair.prompt_index,
        cluster=pair.item,
        n_experts=N_EXPERTS,
        layer_indices=LAYERS,
        rng=np.random.default_rng(1),
        n_permutations=1,
    )
    found = table[table["matched_on"] == "position_bin"]
    np.testing.assert_allclose(found["matched_bits"], expected.token_matched_bits)
    np.testing.assert_allclose(found["overlap"], expected.overlap)
    assert set(table["matched_on"]) == {
        "previous_and_token",
        "position_bin",
        "position_bin_and_token",
    }


def test_kinds_of_tokens_are_those_of_their_texts(store: Store, described: Described) -> None:
    found = token_kinds(store, described.of.token)
    for place in range(0, len(found), 7):
        token = int(described.of.token[place])
        row = int(store.prompt_index[token])
        text = store.token_texts(row)[store.position[token]]
        assert KINDS[found[place]] == token_kind(text)
    assert len(set(found.tolist())) >= 3


def test_best_rows_are_the_largest_of_each_group_with_the_first_of_equals() -> None:
    table = pd.DataFrame(
        {
            "group": ["b", "a", "a", "a", "b"],
            "value": [1.0, 2.0, -3.0, 2.0, np.nan],
            "row": range(5),
        }
    )
    assert best_rows(table, "value", by=["group"], n=1)["row"].tolist() == [1, 0]
    by_size = best_rows(table, "value", by=["group"], n=2, absolute=True)
    assert by_size["row"].tolist() == [2, 1, 0]
