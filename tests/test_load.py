"""Load of experts against scipy, double loops, cases by hand, and what must not change it."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.analyses.load import expert_load, load_entropy_bits, load_gini, standing_committee
from interp.analyses.routed_tokens import RoutedTokens
from tests.measure_samples import renamed, routed_tokens


def test_even_load_has_log2_n_experts_bits_and_no_inequality() -> None:
    slots = np.full((1, 8), 3)
    np.testing.assert_allclose(load_entropy_bits(slots), [3.0])
    np.testing.assert_allclose(load_gini(slots), [0.0], atol=1e-15)


def test_collapsed_load_has_log2_top_k_bits_and_the_largest_gini() -> None:
    slots = np.array([[7, 7, 0, 0, 0, 0, 0, 0]])  # top_k 2 of 8
    np.testing.assert_allclose(load_entropy_bits(slots), [1.0])
    np.testing.assert_allclose(load_gini(slots), [1 - 2 / 8])


def test_entropy_is_that_of_scipy() -> None:
    slots = np.random.default_rng(0).integers(0, 9, (4, 3, 10))
    expected = scipy.stats.entropy(slots, base=2, axis=-1)
    np.testing.assert_allclose(load_entropy_bits(slots), expected)


def test_gini_is_half_the_relative_mean_absolute_difference() -> None:
    slots = np.random.default_rng(1).integers(0, 9, 10)
    gaps = [abs(float(a) - float(b)) for a in slots for b in slots]
    expected = np.mean(gaps) / (2 * slots.mean())
    np.testing.assert_allclose(load_gini(slots), expected)


def test_nothing_routed_gives_nan() -> None:
    assert np.isnan(load_entropy_bits(np.zeros((1, 4), dtype=int))).all()
    assert np.isnan(load_gini(np.zeros((1, 4), dtype=int))).all()


def test_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="slots holds -1, expected counts or shares from 0"):
        load_gini(np.array([1, -1]))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_experts=st.integers(2, 12), top_k=st.integers(1, 4))
def test_load_stays_in_its_bounds_and_forgets_names(seed: int, n_experts: int, top_k: int) -> None:
    top_k = min(top_k, n_experts)
    rng = np.random.default_rng(seed)
    tokens = routed_tokens(rng, n_experts=n_experts, top_k=top_k, n_layers=1)
    slots = np.bincount(tokens.expert_indices.ravel(), minlength=n_experts)[None]
    load = expert_load(slots, layer_indices=[4])
    assert np.log2(top_k) - 1e-9 <= load.entropy_bits[0] <= np.log2(n_experts) + 1e-9
    assert -1e-12 <= load.gini[0] <= 1 - top_k / n_experts + 1e-12
    other = expert_load(slots[:, rng.permutation(n_experts)], layer_indices=[4])
    np.testing.assert_allclose(other.entropy_bits, load.entropy_bits)
    np.testing.assert_allclose(other.gini, load.gini)
    assert load.to_frame()["n_slots"].tolist() == [len(tokens.token_id) * top_k]


def by_hand() -> RoutedTokens:
    """Three domains of one prompt each, one layer, 4 experts, one expert a token."""
    uses = [[5, 3, 1, 0], [6, 1, 2, 0], [4, 0, 3, 2]]  # expert 0 leads everywhere
    chosen = np.concatenate([np.repeat(np.arange(4), each) for each in uses])
    prompt = np.repeat(np.arange(3), [sum(each) for each in uses])
    rng = np.random.default_rng(0)
    blank = routed_tokens(rng, n_tokens=len(chosen), n_layers=1, n_experts=4, top_k=1)
    return RoutedTokens(
        expert_indices=chosen[:, None, None],
        token_id=blank.token_id,
        previous_token_id=blank.previous_token_id,
        position=blank.position,
        logprob=blank.logprob,
        prompt_index=prompt,
        n_experts=4,
        layer_indices=(9,),
    )


def test_committee_of_a_case_by_hand() -> None:
    found = standing_committee(by_hand(), domain=np.array(["a", "b", "c"]), n_top=2)
    # Ranks among the top 2: expert 0: 1 1 1; expert 1: 2 3 3; expert 2: 3 2 2; expert 3: 3 3 3.
    np.testing.assert_allclose(found.mean_rank, [[1, 8 / 3, 7 / 3, 3]])
    np.testing.assert_allclose(found.rank_variance, [[0, 2 / 9, 2 / 9, 0]])
    assert found.member.tolist() == [[True, False, False, False]]
    np.testing.assert_allclose(found.share, [[5 / 9, 6 / 9, 4 / 9]])
    np.testing.assert_allclose(found.even_share, [0.25])
    np.testing.assert_allclose(found.jaccard, [(1 / 3 + 1 / 3 + 1) / 3])
    frame = found.to_frame().set_index("domain")
    assert frame.loc["b", "n_members"] == 1
    assert frame.loc["b", "layer"] == 9


def committee_of_a_loop(usage: np.ndarray, n_top: int, presence: float) -> list[int]:
    """As the published script says it: present, then not dominated in (mean, variance) of rank."""
    n_domains, n_experts = usage.shape
    ranks: dict[int, list[int]] = {expert: [] for expert in range(n_experts)}
    for of_domain in usage:
        order = sorted(range(n_experts), key=lambda expert: (-of_domain[expert], expert))
        for expert in range(n_experts):
            place = order.index(expert) + 1
            ranks[expert].append(place if place <= n_top else n_top + 1)
    candidates = {
        expert: (np.mean(of), np.var(of))
        for expert, of in ranks.items()
        if sum(place <= n_top for place in of) / n_domains >= presence
    }
    members = []
    for expert, (mean, variance) in candidates.items():
        beaten = any(
            other_mean <= mean
            and other_variance <= variance
            and (other_mean < mean or other_variance < variance)
            for rival, (other_mean, other_variance) in candidates.items()
            if rival != expert
        )
        if not beaten:
            members.append(expert)
    return members


@pytest.mark.parametrize("seed", range(5))
def test_committee_is_that_of_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = routed_tokens(rng, n_tokens=200, n_prompts=4, n_experts=8)
    domain = np.array(["x", "y", "z", "z"])
    found = standing_committee(tokens, domain=domain, n_top=4, presence=0.6)
    for layer in range(3):
        usage = np.zeros((3, 8))
        for token, prompt in enumerate(tokens.prompt_index):
            for expert in tokens.expert_indices[token, layer]:
                usage["xyz".index(domain[prompt]), expert] += 1
        members = committee_of_a_loop(usage / usage.sum(axis=1, keepdims=True), 4, 0.6)
        assert np.flatnonzero(found.member[layer]).tolist() == members
        shares = (usage / usage.sum(axis=1, keepdims=True))[:, members].sum(axis=1)
        np.testing.assert_allclose(found.share[layer], shares)


def test_committee_follows_renamed_experts_where_no_usage_is_equal() -> None:
    tokens = routed_tokens(np.random.default_rng(3), n_tokens=997, n_experts=5, n_prompts=3)
    domain = np.array(["a", "b", "c"])
    other, names, _ = renamed(tokens, np.random.default_rng(4))
    before, after = (standing_committee(each, domain=domain) for each in (tokens, other))
    for layer in range(3):
        np.testing.assert_array_equal(after.member[layer][names[layer]], before.member[layer])
    np.testing.assert_allclose(after.share, before.share)


def test_one_domain_has_no_committee() -> None:
    with pytest.raises(ValueError, match=r"domain names 1 domain\(s\) that have tokens"):
        standing_committee(by_hand(), domain=np.array(["a", "a", "a"]))


def test_more_top_experts_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="n_top is 5, expected 1 to 4, the experts"):
        standing_committee(by_hand(), domain=np.array(["a", "b", "c"]), n_top=5)
