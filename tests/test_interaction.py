"""Interaction of condition and intervention, and the sets of experts that it is taken of."""

from collections.abc import Iterable
from itertools import combinations, permutations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from interp.analyses.causal_test import CausalTest, ContrastTest, additive_damage
from interp.analyses.dose_response import (
    all_but,
    difference_between_models,
    dose_response_of_damage,
    nested_sets,
    reductions_of_matched,
)
from interp.analyses.drawn_sets import whole_sets
from interp.analyses.evidence import CausalEvidence, Rule
from interp.analyses.found_experts import needed_more, used_more
from interp.analyses.interaction import damage_per_slot, interaction_of_damage
from interp.analyses.jackknife import Jackknife
from interp.analyses.ladder import causal_steps
from interp.analyses.matched_sets import draw_matched_sets, expert_names
from interp.analyses.super_experts import flag_super_experts, largest_norms


def paired(n_items: int, *, seed: int = 0, sets: int = 3) -> tuple[np.ndarray, ...]:
    """Damage [sets, prompts] of items with a benchmark and an organic prompt each."""
    rng = np.random.default_rng(seed)
    damage = rng.normal(size=(sets, 2 * n_items)) + np.linspace(0, 1, sets)[:, None]
    benchmark = np.tile([True, False], n_items)
    return damage, benchmark, np.repeat(np.arange(n_items), 2)


def test_paired_items_give_the_paired_t_test() -> None:
    damage, benchmark, item = paired(12)

    found = interaction_of_damage(damage, benchmark=benchmark, item=item)

    for index, each in enumerate(damage):
        expected = stats.ttest_rel(each[benchmark], each[~benchmark], alternative="greater")
        low, high = stats.ttest_rel(each[benchmark], each[~benchmark]).confidence_interval(0.95)
        ends = found.interval(0.95)
        np.testing.assert_allclose(found.p_greater()[index], expected.pvalue, rtol=1e-9)
        np.testing.assert_allclose([ends[0][index], ends[1][index]], [low, high], rtol=1e-9)
    assert (found.n_items, found.n_paired) == (12, 12)


def test_items_of_one_condition_give_welchs_t_test() -> None:
    rng = np.random.default_rng(1)
    damage, benchmark = rng.normal(size=(1, 20)), np.arange(20) < 8

    found = interaction_of_damage(damage, benchmark=benchmark, item=np.arange(20))

    expected = stats.ttest_ind(damage[0, :8], damage[0, 8:], equal_var=False, alternative="greater")
    np.testing.assert_allclose(found.p_greater()[0], expected.pvalue, rtol=1e-9)
    assert found.n_paired == 0


def test_margin_shifts_the_null() -> None:
    damage, benchmark, item = paired(12)

    found = interaction_of_damage(damage, benchmark=benchmark, item=item)

    difference = damage[2, benchmark] - damage[2, ~benchmark]
    expected = stats.ttest_1samp(difference, 0.3, alternative="greater").pvalue
    np.testing.assert_allclose(found.p_greater(0.3)[2], expected, rtol=1e-9)


def test_two_prompts_of_one_item_and_condition_count_as_one() -> None:
    damage = np.array([[1.0, 3.0, 1.0, 5.0, 1.0]])
    benchmark = np.array([True, True, False, True, False])

    found = interaction_of_damage(damage, benchmark=benchmark, item=np.array([0, 0, 0, 1, 1]))

    assert found.damage_benchmark.tolist() == [3.5]
    assert found.value.tolist() == [2.5]


def test_several_kinds_of_clusters_give_the_widest_interval() -> None:
    damage, benchmark, item = paired(12)
    template = np.where(benchmark, item % 3, 10 + item % 4)
    kinds = {"item": item, "template": template}

    both = interaction_of_damage(damage, benchmark=benchmark, item=item, clusters=kinds)
    single = [
        interaction_of_damage(damage, benchmark=benchmark, item=item, clusters={name: each})
        for name, each in kinds.items()
    ]

    lows, highs = zip(*(each.interval() for each in single), strict=True)
    np.testing.assert_allclose(both.interval()[0], np.minimum(*lows))
    np.testing.assert_allclose(both.interval()[1], np.maximum(*highs))
    np.testing.assert_allclose(both.p_greater(), np.maximum(*(e.p_greater() for e in single)))


def test_an_expert_that_no_prompt_uses_is_not_significant() -> None:
    _, benchmark, item = paired(5)

    found = interaction_of_damage(np.zeros((1, 10)), benchmark=benchmark, item=item)

    assert found.value.tolist() == [0.0]
    assert found.p_greater().tolist() == [0.5]


@pytest.mark.parametrize(
    ("n_items", "lost"), [(6, 1.0), (20, 1.0), (2000, 1.0), (20, -1.0), (9, 0.0)]
)
def test_an_answer_that_every_benchmark_prompt_loses_has_the_p_of_a_sign_test(
    n_items: int, lost: float
) -> None:
    _, benchmark, item = paired(n_items)
    damage = np.where(benchmark, lost, 0.0)[None]

    found = interaction_of_damage(damage, benchmark=benchmark, item=item)

    exact = stats.binomtest(n_items, n_items, alternative="greater").pvalue
    expected = {1.0: exact, 0.0: 0.5, -1.0: 1.0}[lost]
    np.testing.assert_allclose(found.p_greater(), [expected], rtol=1e-12)
    np.testing.assert_allclose(found.p_greater(margin=lost), [0.5])


def test_clusters_that_agree_have_the_p_of_all_ways_to_deal_out_conditions() -> None:
    """Four items alone, three with both conditions; by template, three a side."""
    item = np.array([0, 1, 2, 3, 4, 4, 5, 5, 6, 6])
    benchmark = np.array([1, 1, 0, 0, 1, 0, 1, 0, 1, 0], dtype=bool)
    template = np.where(benchmark, np.arange(10) % 3, 10 + np.arange(10) % 3)
    damage = benchmark[None].astype(float)

    def reached(relabelled: Iterable[np.ndarray]) -> float:
        """Share of labellings with an effect as large, among those that keep clusters whole."""
        effects = [
            damage[0, label].mean() - damage[0, ~label].mean()
            for label in relabelled
            if 0 < label.sum() < len(label)
        ]
        return float(np.mean(np.array(effects) >= 1.0))

    of_items = []
    for alone in permutations(benchmark[:4]):
        for swapped in product([False, True], repeat=3):
            pairs = [np.array([True, False]) ^ each for each in swapped]
            of_items.append(np.concatenate([np.array(alone), *pairs]))
    names = np.unique(template)
    of_templates = [np.isin(template, each) for each in combinations(names, 3)]

    for cluster, labels in ((item, of_items), (template, of_templates)):
        found = interaction_of_damage(
            damage, benchmark=benchmark, item=item, clusters={"one": cluster}
        )
        np.testing.assert_allclose(found.p_greater(0.01), [reached(labels)], rtol=1e-12)
    both = interaction_of_damage(
        damage, benchmark=benchmark, item=item, clusters={"item": item, "template": template}
    )
    np.testing.assert_allclose(both.p_greater(), [1 / 20])


def test_an_all_or_nothing_expert_is_found() -> None:
    _, benchmark, item = paired(20)
    damage = np.stack([np.where(benchmark, 1.0, 0.0), np.zeros(40)])
    own = interaction_of_damage(damage, benchmark=benchmark, item=item)

    found = needed_more(
        [(0, 3), (0, 4)], own, usage_effect=np.ones(2), usage_q=np.zeros(2), margin=0.01
    )

    assert found.experts == ((0, 3),)


@given(st.integers(0, 1000), st.floats(-5, 5))
def test_what_hurts_every_prompt_alike_leaves_the_interaction(seed: int, shift: float) -> None:
    damage, benchmark, item = paired(6, seed=seed)
    order = np.random.default_rng(seed).permutation(len(item))

    usual = interaction_of_damage(damage, benchmark=benchmark, item=item)
    shifted = interaction_of_damage(
        damage[:, order] + shift, benchmark=benchmark[order], item=item[order]
    )
    swapped = interaction_of_damage(damage, benchmark=~benchmark, item=item)

    np.testing.assert_allclose(shifted.value, usual.value, atol=1e-9)
    np.testing.assert_allclose(swapped.value, -usual.value, atol=1e-9)


def test_damages_that_cannot_be_compared_are_refused() -> None:
    damage, benchmark, item = paired(5)

    with pytest.raises(ValueError, match="all 10 prompts have one condition"):
        interaction_of_damage(damage, benchmark=np.ones(10, dtype=bool), item=item)
    damage[0, 7] = np.nan
    with pytest.raises(ValueError, match="damage of prompt 7 is not finite"):
        interaction_of_damage(damage, benchmark=benchmark, item=item)


def test_damage_per_slot_of_an_unused_set_is_missing() -> None:
    found = damage_per_slot(np.array([0.2, 0.0]), np.array([0.5, 0.0]))

    np.testing.assert_array_equal(found, [0.4, np.nan])


def jackknife(effect: list[float], error: float = 1.0) -> Jackknife:
    effects = np.array(effect)
    return Jackknife(
        effect=effects,
        standard_error=np.full(len(effects), error),
        df=np.full(len(effects), 30.0),
    )


def test_only_experts_used_more_are_candidates() -> None:
    is_candidate, q = used_more([jackknife([6.0, -6.0, 0.5, 5.0])])

    expected = stats.false_discovery_control(stats.t.sf([6.0, -6.0, 0.5, 5.0], 30))
    np.testing.assert_allclose(q, expected)
    assert is_candidate.tolist() == [True, False, False, True]


def test_an_effect_that_is_not_shown_to_exceed_the_margin_finds_nothing() -> None:
    is_candidate, q = used_more([jackknife([6.0, 4.0, 9.0])], margin=3.0)

    expected = stats.false_discovery_control(stats.t.sf([3.0, 1.0, 6.0], 30))
    np.testing.assert_allclose(q, expected)
    assert is_candidate.tolist() == [True, False, True]


def test_found_experts_are_needed_more_and_come_largest_first() -> None:
    rng = np.random.default_rng(0)
    benchmark, item = np.tile([True, False], 30), np.repeat(np.arange(30), 2)
    true = np.array([0.5, 0.0, 1.0, -1.0])[:, None]
    damage = np.where(benchmark, true, 0.0) + 0.05 * rng.normal(size=(4, 60))
    own = interaction_of_damage(damage, benchmark=benchmark, item=item)

    found = needed_more(
        [(2, 0), (2, 1), (3, 0), (3, 1)],
        own,
        usage_effect=np.full(4, 0.1),
        usage_q=np.zeros(4),
    )
    strict = needed_more(
        found.candidates, own, usage_effect=np.full(4, 0.1), usage_q=np.zeros(4), margin=0.7
    )

    assert found.experts == ((3, 0), (2, 0))
    assert strict.experts == ((3, 0),)
    assert found.to_frame()["is_found"].tolist() == [True, False, True, False]


def test_no_candidate_is_no_finding() -> None:
    empty = np.zeros(0)

    assert needed_more([], None, usage_effect=empty, usage_q=empty).experts == ()


def test_matched_sets_are_other_experts_of_the_same_layers() -> None:
    rng = np.random.default_rng(0)
    usage = rng.dirichlet(np.ones(16), size=3)
    found = [(4, 3), (4, 5), (9, 0)]
    excluded = np.zeros((3, 16), dtype=bool)
    excluded[1, 7] = True

    matched = draw_matched_sets(
        found, usage=usage, layer_indices=(4, 7, 9), rng=rng, excluded=excluded, n_sets=100
    )

    assert len({frozenset(each) for each in matched.sets}) == 100
    for each in matched.sets:
        assert [layer for layer, _ in each] == [4, 4, 9]
        assert len(set(each)) == 3
        assert not set(each) & set(found)
        expected = sum(usage[{4: 0, 9: 2}[a], b] for a, b in each)
        expected /= usage[0, 3] + usage[0, 5] + usage[2, 0]
        np.testing.assert_allclose(matched.usage_ratio[matched.sets.index(each)], expected)


def test_matched_sets_are_drawn_from_the_nearest_by_usage_and_saliency() -> None:
    usage = np.array([[0.2, 0.21, 0.19, 0.2, 0.2, 0.0]])
    saliency = np.array([[1.0, 1.0, 1.0, 90.0, 1.01, np.nan]])

    matched = draw_matched_sets(
        [(0, 0)],
        usage=usage,
        layer_indices=[0],
        rng=np.random.default_rng(0),
        saliency=saliency,
        n_sets=3,
    )

    assert {each[0] for each in matched.sets} == {(0, 1), (0, 2), (0, 4)}
    assert matched.pool == 3
    assert matched.notes == ()


def test_an_excluded_expert_is_never_drawn() -> None:
    usage, excluded = np.full((1, 5), 0.2), np.array([[False, True, False, False, False]])

    matched = draw_matched_sets(
        [(0, 0)],
        usage=usage,
        layer_indices=[0],
        rng=np.random.default_rng(0),
        excluded=excluded,
        n_sets=3,
    )

    assert {each[0] for each in matched.sets} == {(0, 2), (0, 3), (0, 4)}


def test_a_layer_with_too_few_others_says_so() -> None:
    matched = draw_matched_sets(
        [(3, 0), (3, 1)],
        usage=np.full((1, 5), 0.2),
        layer_indices=[3],
        rng=np.random.default_rng(0),
        n_sets=100,
    )

    assert len(matched.sets) == 3
    assert (
        "3 different sets can be drawn in the place of 3:0 3:1, fewer than 100" in matched.notes[0]
    )


def every_set(found: list[tuple[int, int]], n_experts: int) -> set[frozenset[tuple[int, int]]]:
    """All sets of as many other experts in each layer, by trying every set of experts there is."""
    layers = sorted(layer for layer, _ in found)
    others = [
        (layer, expert)
        for layer in set(layers)
        for expert in range(n_experts)
        if (layer, expert) not in found
    ]
    return {
        frozenset(each)
        for each in combinations(others, len(found))
        if sorted(layer for layer, _ in each) == layers
    }


@pytest.mark.parametrize(
    ("found", "n_experts"),
    [
        ([(3, 4)], 32),
        ([(3, 4), (3, 0)], 14),
        ([(3, each) for each in range(8)], 17),
        ([(3, 1), (5, 2), (3, 0)], 6),
        ([(3, 0), (3, 1)], 3),
    ],
)
def test_where_fewer_sets_exist_than_are_wanted_all_are_given(
    found: list[tuple[int, int]], n_experts: int
) -> None:
    usage = np.random.default_rng(0).dirichlet(np.ones(n_experts), size=2)

    matched = draw_matched_sets(
        found, usage=usage, layer_indices=(3, 5), rng=np.random.default_rng(0)
    )

    expected = every_set(found, n_experts)
    assert len(expected) < 100
    assert {frozenset(each) for each in matched.sets} == expected
    assert len(matched.sets) == matched.n_possible == len(expected)
    assert all([at for at, _ in each] == [at for at, _ in found] for each in matched.sets)


def test_most_of_a_layer_has_matched_sets_too() -> None:
    """Fourteen experts drawn one after the other from eighteen are hardly ever different."""
    found = [(0, each) for each in range(14)]
    usage = np.random.default_rng(0).dirichlet(np.ones(32), size=1)

    matched = draw_matched_sets(
        found, usage=usage, layer_indices=[0], rng=np.random.default_rng(0), n_sets=10
    )

    assert matched.n_possible == 3060  # 18! / (14! 4!)
    assert len({frozenset(each) for each in matched.sets}) == 10
    assert all(len(set(each)) == 14 and not set(each) & set(found) for each in matched.sets)


def test_a_layer_without_others_leaves_no_set_however_many_another_layer_has() -> None:
    found = [*((0, each) for each in range(64)), *((1, each) for each in range(20))]

    matched = draw_matched_sets(
        found, usage=np.full((2, 64), 1 / 64), layer_indices=[0, 1], rng=np.random.default_rng(0)
    )

    assert (matched.sets, matched.n_possible) == ((), 0)


def test_experts_of_a_whole_set_stand_where_they_are_near() -> None:
    near = [np.array([3, 2, 5]), np.array([2, 3, 5]), np.array([9, 8])]

    sets = whole_sets(near, np.array([0, 0, 1]), np.random.default_rng(0), 100, n_possible=3 * 2)

    pairs = [(3, 2), (3, 5), (5, 2)]  # least sums of places in the two orders above
    assert sorted(sets) == sorted((*pair, one) for pair in pairs for one in (8, 9))


def test_experts_that_are_used_far_more_than_all_others_are_named() -> None:
    matched = draw_matched_sets(
        [(0, 0)],
        usage=np.array([[0.7, 0.1, 0.1, 0.1]]),
        layer_indices=[0],
        rng=np.random.default_rng(0),
        n_sets=2,
    )

    assert matched.notes == (
        "expert 0 of layer 0 has 3 neighbours of 3 whose usage is off by more than a factor of 2",
    )


def test_nothing_to_match_is_refused() -> None:
    with pytest.raises(ValueError, match="found has 0 experts and n_sets is 100"):
        draw_matched_sets(
            [], usage=np.ones((1, 2)), layer_indices=[0], rng=np.random.default_rng(0)
        )


def test_super_experts_are_far_beyond_all_others() -> None:
    largest = np.random.default_rng(0).uniform(1, 2, (4, 32))
    largest[1, 7], largest[2, 3] = 500.0, 18.0

    found = flag_super_experts(largest)

    assert np.argwhere(found).tolist() == [[1, 7]]
    assert not flag_super_experts(np.random.default_rng(1).uniform(1, 2, (4, 32))).any()


def test_largest_norms_agree_with_a_loop() -> None:
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, 5, (40, 2, 2))
    norms = rng.uniform(size=(40, 2, 2))

    expected = np.zeros((2, 5))
    for token in range(40):
        for layer in range(2):
            for slot in range(2):
                expert = chosen[token, layer, slot]
                expected[layer, expert] = max(expected[layer, expert], norms[token, layer, slot])
    np.testing.assert_array_equal(largest_norms(chosen, norms, n_experts=5), expected)


def test_norms_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="norms that are not finite"):
        flag_super_experts(np.array([[1.0, np.nan]]))


def test_additive_damage_sums_the_members() -> None:
    single = np.random.default_rng(0).normal(size=(2, 4, 6))

    found = additive_damage(single, [[(5, 1), (8, 3)], []], layer_indices=[5, 8])

    np.testing.assert_allclose(found[0], single[0, 1] + single[1, 3])
    assert found[1].tolist() == [0.0] * 6


def test_nested_sets_begin_alike_and_end_with_all() -> None:
    ordered = [(0, each) for each in range(11)]

    sets = nested_sets(ordered, most=5)

    assert all(each == tuple(ordered[: len(each)]) for each in sets)
    assert len(sets) == 5
    assert (len(sets[0]), len(sets[-1])) == (1, 11)


def test_what_is_left_has_the_set_and_enough_experts_for_a_token() -> None:
    usage = np.array([[0.1, 0.4, 0.3, 0.2], [0.25, 0.25, 0.25, 0.25]])

    out, stay = all_but([(7, 0), (7, 3)], usage=usage, layer_indices=(7, 9), top_k=3)

    assert out == ((7, 2),)
    assert stay == ((7, 1),)


def test_a_matched_set_is_left_without_the_found_experts() -> None:
    usage = np.array([[0.3, 0.25, 0.1, 0.1, 0.08, 0.07, 0.05, 0.05]])

    out, stay = all_but([(0, 4)], usage=usage, layer_indices=[0], top_k=3, never=[(0, 0), (0, 1)])

    assert stay == ((0, 2), (0, 3))
    assert out == ((0, 0), (0, 1), (0, 5), (0, 6), (0, 7))


def test_reductions_are_different_and_leave_enough_experts_and_no_found_one() -> None:
    """What is left of each, written out: the set, and the most used that were not found."""
    usage = np.array([[0.3, 0.25, 0.1, 0.1, 0.08, 0.07, 0.05, 0.05]])
    found = [(0, 0), (0, 1)]
    matched = [((0, 2), (0, 3)), ((0, 2), (0, 4)), ((0, 3), (0, 4)), ((0, 7), (0, 6))]
    given: dict[str, Any] = {"usage": usage, "layer_indices": [0]}

    three = reductions_of_matched(matched, found, **given, top_k=3, most=10)

    left = [set(range(8)) - {expert for _, expert in out} for out in three]
    assert left == [{2, 3, 4}, {7, 6, 2}]
    assert len(reductions_of_matched(matched, found, **given, top_k=2, most=3)) == 3
    assert reductions_of_matched(matched, found, **given, top_k=7, most=10) == ()


def test_slope_is_the_least_squares_line_through_each_prompts_damages() -> None:
    damage, benchmark, item = paired(10, sets=4)
    sizes = [1, 2, 4, 7]

    found = dose_response_of_damage(
        sizes, damage, matched=np.zeros((0, 4)), benchmark=benchmark, item=item
    )

    slopes = np.array([np.polyfit(sizes, each, 1)[0] for each in damage.T])
    expected = stats.ttest_rel(slopes[benchmark], slopes[~benchmark], alternative="greater")
    row = found.slope_frame().iloc[0]
    interval = stats.ttest_rel(slopes[benchmark], slopes[~benchmark]).confidence_interval(0.95)
    np.testing.assert_allclose(row["slope"], (slopes[benchmark] - slopes[~benchmark]).mean())
    np.testing.assert_allclose([row["slope_low"], row["slope_high"]], interval, rtol=1e-9)
    np.testing.assert_allclose(row["p_greater"], expected.pvalue, rtol=1e-9)
    assert (row["n_sizes"], row["n_matched"], row["n_items"]) == (4, 0, 10)
    assert np.isnan(row["share_below"])
    assert found.to_frame()["size"].tolist() == sizes
    assert found.to_frame()["matched_low"].isna().all()


def test_slopes_of_matched_sets_are_lines_through_their_interactions() -> None:
    damage, benchmark, item = paired(10, sets=3)
    sizes, matched = [1, 3, 4], np.random.default_rng(7).normal(size=(9, 3))

    row = (
        dose_response_of_damage(sizes, damage, matched=matched, benchmark=benchmark, item=item)
        .slope_frame()
        .iloc[0]
    )

    slopes = [stats.linregress(sizes, each).slope for each in matched]
    assert row["share_below"] == np.mean([each < row["slope"] for each in slopes])
    low, high = np.percentile(slopes, [5, 95])
    np.testing.assert_allclose([row["matched_low"], row["matched_high"]], [low, high])


def test_one_size_has_no_slope() -> None:
    damage, benchmark, item = paired(10, sets=1)

    found = dose_response_of_damage(
        [3], damage, matched=np.ones((5, 1)), benchmark=benchmark, item=item
    )

    row = found.slope_frame().iloc[0]
    missing = ["slope", "slope_low", "slope_high", "p_greater", "share_below", "matched_high"]
    assert found.slope is None
    assert row[missing].isna().all()
    assert (row["n_sizes"], row["n_matched"]) == (1, 5)
    assert found.to_frame()["matched_high"].tolist() == [1.0]


def test_two_models_are_compared_within_each_prompt() -> None:
    damage, benchmark, item = paired(10, sets=2)

    found = difference_between_models(damage[0], damage[1], benchmark=benchmark, item=item)

    each = damage[0] - damage[1]
    expected = stats.ttest_rel(each[benchmark], each[~benchmark], alternative="greater")
    np.testing.assert_allclose(found.p_greater()[0], expected.pvalue, rtol=1e-9)


def contrast(name: str, value: float, *, matched: tuple[float, ...] = ()) -> ContrastTest:
    rng = np.random.default_rng(0)
    benchmark, item = np.tile([True, False], 20), np.repeat(np.arange(20), 2)
    damage = np.where(benchmark, value, 0.0) + 0.01 * rng.normal(size=(1, 40))
    return ContrastTest(
        name=name,
        experts=((2, 5),),
        interaction=interaction_of_damage(damage, benchmark=benchmark, item=item),
        usage_slots=(0.5, 0.25),
        matched=np.array(matched),
        matched_sets=None,
    )


def nothing_found(name: str, *, is_run: bool = True) -> ContrastTest:
    return ContrastTest(
        name=name,
        experts=(),
        interaction=None,
        usage_slots=(float("nan"), float("nan")),
        matched=np.zeros(0),
        matched_sets=None,
        is_run=is_run,
    )


def test_causal_test_hands_the_ladder_its_numbers() -> None:
    test = CausalTest(
        outcome="letter",
        intervention="reroute",
        main=contrast("main", 0.4, matched=(0.1, 0.2, 0.3, 0.9)),
        placebos=(contrast("placebo", 0.2), nothing_found("other")),
        found_under_placebos=np.array([0.01, 0.02]),
        notes=(),
    )

    evidence = test.evidence()
    frame = test.to_frame()

    assert evidence.share_below == 0.75
    assert evidence.outcome == "letter"
    assert (evidence.n_found, evidence.n_matched_sets) == (1, 4)
    np.testing.assert_allclose(evidence.interaction, 0.4, atol=0.02)
    np.testing.assert_allclose(evidence.largest_placebo, 0.2, atol=0.02)
    assert evidence.low < evidence.interaction < evidence.high
    assert frame["role"].tolist() == ["main", "placebo", "placebo"]
    np.testing.assert_allclose(frame["damage_per_slot_first"][0], frame["damage_first"][0] / 0.5)
    assert frame["interaction"][2] == 0.0


def test_a_placebo_that_was_not_run_is_no_placebo_that_found_nothing() -> None:
    def evidence(*placebos: ContrastTest) -> tuple[CausalTest, CausalEvidence]:
        test = CausalTest(
            outcome="content",
            intervention="reroute",
            main=contrast("main", 0.4, matched=(0.1,)),
            placebos=placebos,
            found_under_placebos=np.zeros(len(placebos)),
            notes=(),
        )
        return test, test.evidence()

    not_run, loses = nothing_found("few", is_run=False), contrast("less", -0.2)
    mixed, found = evidence(not_run, loses, not_run)
    assert (found.n_placebos, found.n_placebos_run, found.n_placebos_found) == (3, 1, 1)
    np.testing.assert_allclose(found.largest_placebo, -0.2, atol=0.02)
    assert mixed.to_frame()["interaction"].isna().tolist() == [False, True, False, True]
    _, empty = evidence(not_run, nothing_found("none"))
    assert (empty.largest_placebo, empty.n_placebos_run, empty.n_placebos_found) == (0.0, 1, 0)
    _, none = evidence(not_run, not_run)
    assert np.isnan(none.largest_placebo)
    last = causal_steps(none, Rule())[-1]
    assert (last.holds, last.found) == (
        False,
        "no placebo contrast was run: all 2 have too few prompts",
    )


def test_without_placebos_the_largest_is_missing() -> None:
    test = CausalTest(
        outcome="content",
        intervention="reroute",
        main=nothing_found("main"),
        placebos=(),
        found_under_placebos=np.zeros(0),
        notes=(),
    )

    assert np.isnan(test.evidence().largest_placebo)
    assert test.evidence().n_found == 0


def test_experts_are_named_by_layer() -> None:
    assert expert_names([(3, 17), (3, 5)]) == "3:17 3:5"
