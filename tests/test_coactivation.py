"""Co-activation against loops over tokens and over sets, cases by hand, and its properties."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.analyses.coactivation import (
    coactivation_counts,
    expected_together,
    expert_coactivation,
)
from tests.measure_samples import renamed, routed_tokens


def test_counts_are_those_of_a_loop_over_all_pairs() -> None:
    tokens = routed_tokens(np.random.default_rng(0), top_k=4)
    expected = np.zeros((3, 6, 6), dtype=int)
    for token in tokens.expert_indices:
        for layer, chosen in enumerate(token):
            for one in chosen:
                for other in chosen:
                    expected[layer, one, other] += 1
    counts = coactivation_counts(tokens.expert_indices, n_experts=6)
    np.testing.assert_array_equal(counts, expected)


def test_counts_of_parts_add_up_to_one_pass() -> None:
    chosen = routed_tokens(np.random.default_rng(1), top_k=3).expert_indices
    parts = [coactivation_counts(part, n_experts=6) for part in (chosen[:17], chosen[17:])]
    np.testing.assert_array_equal(sum(parts), coactivation_counts(chosen, n_experts=6))


def sets_with(odds: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of one and of two experts, by a loop over all sets of a size."""
    alone, joint, total = np.zeros(len(odds)), np.zeros((len(odds), len(odds))), 0.0
    for chosen in combinations(range(len(odds)), size):
        weight = float(np.prod(odds[list(chosen)]))
        total += weight
        for one in chosen:
            alone[one] += weight
            for other in chosen:
                joint[one, other] += weight
    return alone / total, joint / total


@pytest.mark.parametrize(("n_experts", "top_k"), [(5, 2), (7, 4), (4, 3), (6, 1), (8, 5)])
def test_expected_is_that_of_a_loop_over_sets(n_experts: int, top_k: int) -> None:
    odds = np.random.default_rng(n_experts).lognormal(sigma=1.5, size=n_experts)
    alone, joint = sets_with(odds, top_k)
    np.testing.assert_allclose(expected_together(alone, top_k=top_k), joint, atol=1e-9)


def test_expected_of_even_experts_is_below_the_product_of_their_usage() -> None:
    expected = expected_together(np.full(32, 4 / 32), top_k=4)[0, 1]
    np.testing.assert_allclose(expected, 4 * 3 / (32 * 31))
    np.testing.assert_allclose(expected / (4 / 32) ** 2, 0.7742, atol=1e-4)


def test_certain_and_unused_experts_are_left_out_of_the_choice() -> None:
    share = np.array([1.0, 0.5, 0.5, 0.0])  # expert 0 always, then one of two
    expected = expected_together(share, top_k=2)
    by_hand = [[1, 0.5, 0.5, 0], [0.5, 0.5, 0, 0], [0.5, 0, 0.5, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(expected, by_hand, atol=1e-12)


def test_pairs_drawn_without_preference_have_no_association() -> None:
    rng = np.random.default_rng(2)
    # Independent coins, kept where three came up: no preference for any pair.
    wanted = rng.random((40_000, 8)) < 1 / (1 + np.exp(-np.linspace(-2, 1, 8)))
    chosen = np.stack([np.flatnonzero(row) for row in wanted if row.sum() == 3])[:, None]
    found = expert_coactivation(
        coactivation_counts(chosen, n_experts=8), n_tokens=len(chosen), layer_indices=[0]
    )
    off = ~np.eye(8, dtype=bool)
    assert np.abs(found.association[0][off]).max() < 0.1
    product = np.outer(*[np.diagonal(found.together[0]) / len(chosen)] * 2)
    ratio = found.together[0] / len(chosen) / product
    assert ratio[off].mean() < 0.85  # against p_i p_j, pairs would seem to avoid each other


def test_pairs_that_always_and_never_meet_reach_the_ends() -> None:
    chosen = np.array([[0, 1], [0, 1], [2, 3], [2, 3]])[:, None]
    found = expert_coactivation(
        coactivation_counts(chosen, n_experts=5), n_tokens=4, layer_indices=[6]
    )
    frame = found.to_frame().set_index(["expert", "other_expert"])
    assert frame.loc[(0, 1), "association"] == 1.0
    assert frame.loc[(0, 2), "association"] == -1.0
    assert np.isnan(frame.loc[(0, 4), "association"])
    assert frame.loc[(0, 1), "share_of_expert"] == 1.0
    assert frame.loc[(0, 1), "tokens_together"] == 2
    np.testing.assert_allclose(frame.loc[(0, 1), "expected_tokens"], 4 / 6)
    assert np.isnan(frame.loc[(0, 4), "share_of_other"])
    assert len(frame) == 10


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), top_k=st.integers(2, 5))
def test_association_is_bounded_and_follows_renamed_experts(seed: int, top_k: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = routed_tokens(rng, top_k=top_k, n_layers=2)
    other, names, _ = renamed(tokens, rng)
    before, after = (
        expert_coactivation(
            coactivation_counts(each.expert_indices, n_experts=6),
            n_tokens=60,
            layer_indices=each.layer_indices,
        )
        for each in (tokens, other)
    )
    for layer in range(2):
        name = names[layer]
        np.testing.assert_allclose(
            after.association[layer][np.ix_(name, name)], before.association[layer], atol=1e-6
        )
    finite = before.association[np.isfinite(before.association)]
    assert ((finite >= -1) & (finite <= 1)).all()
    np.testing.assert_allclose(before.expected.sum(axis=(1, 2)), top_k**2)


def test_one_expert_a_token_has_no_pairs() -> None:
    counts = coactivation_counts(np.array([[[0]], [[1]]]), n_experts=2)
    with pytest.raises(ValueError, match="a token has one expert"):
        expert_coactivation(counts, n_tokens=2, layer_indices=[0])


def test_wrong_number_of_tokens_is_refused() -> None:
    counts = coactivation_counts(np.array([[[0, 1]], [[1, 2]]]), n_experts=3)
    with pytest.raises(ValueError, match="n_tokens is 3, but the layers have \\[4\\] routed slots"):
        expert_coactivation(counts, n_tokens=3, layer_indices=[0])


def test_shares_that_are_no_shares_of_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="share sums to 1, expected top_k, which is 2"):
        expected_together(np.full(4, 0.25), top_k=2)


@pytest.mark.parametrize("seldom", [0.4, 1e-2, 1e-4])
def test_one_slot_for_two_experts_beside_one_that_serves_every_token(seldom: float) -> None:
    expected = expected_together(np.array([1.0, 1 - seldom, seldom, 0.0]), top_k=2)
    by_hand = np.diag([1.0, 1 - seldom, seldom, 0.0])
    by_hand[0, 1] = by_hand[1, 0] = 1 - seldom
    by_hand[0, 2] = by_hand[2, 0] = seldom
    np.testing.assert_allclose(expected, by_hand, atol=1e-9)


def test_nearly_fixed_experts_have_odds() -> None:
    share = np.array([0.9995] * 3 + [0.0005] * 3)
    expected = expected_together(share, top_k=3)
    np.testing.assert_allclose(expected.sum(axis=1) - share, 2 * share, atol=1e-9)
