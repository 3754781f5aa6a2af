"""Specialisation, saturation and token classes against loops over tokens and cases by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.analyses.routed_tokens import RoutedTokens
from interp.analyses.saturation import router_saturation, saturation_over_depth
from interp.analyses.specialisation import domain_specialisation, vocabulary_specialisation
from interp.analyses.token_classes import class_npmi, normalised_pmi
from tests.measure_samples import renamed, routed_tokens


def test_domain_specialisation_is_that_of_a_loop() -> None:
    tokens = routed_tokens(np.random.default_rng(0))
    domain = np.array(["law", "code", "law", "mail", "code"])
    found = domain_specialisation(tokens, domain=domain)
    assert found.domains == ("code", "law", "mail")
    for place, name in enumerate(found.domains):
        of_domain = [t for t, p in enumerate(tokens.prompt_index) if domain[p] == name]
        assert found.n_tokens[place] == len(of_domain)
        for layer in range(3):
            for expert in range(6):
                served = sum(expert in tokens.expert_indices[t, layer] for t in of_domain)
                np.testing.assert_allclose(
                    found.share[place, layer, expert], served / len(of_domain)
                )
    np.testing.assert_allclose(found.share.sum(axis=-1), 2.0)
    np.testing.assert_allclose(found.even_share, 2 / 6)
    frame = found.to_frame().set_index(["domain", "layer", "expert"])
    assert frame.loc[("law", 11, 4), "share"] == found.share[1, 1, 4]


def test_vocabulary_specialisation_is_that_of_a_loop() -> None:
    tokens = routed_tokens(np.random.default_rng(1), n_tokens=150)
    found = vocabulary_specialisation(tokens, rng=np.random.default_rng(0), min_tokens=20)
    for layer in range(3):
        best: list[tuple[float, int]] = []
        for token_id in range(7):
            rows = np.flatnonzero(tokens.token_id == token_id)
            if len(rows) < 20:
                continue
            served = [
                sum(expert in tokens.expert_indices[t, layer] for t in rows) for expert in range(6)
            ]
            best.append((max(served) / len(rows), int(np.argmax(served))))
        assert found.n_ids == len(best)
        np.testing.assert_allclose(found.share[layer], np.mean([share for share, _ in best]))
        for expert in range(6):
            of_expert = [share for share, favourite in best if favourite == expert]
            expected = np.mean(of_expert) if of_expert else np.nan
            np.testing.assert_allclose(found.share_of_expert[layer, expert], expected)


def test_ids_that_decide_the_expert_are_fully_specialised_and_shuffled_ones_are_not() -> None:
    rng = np.random.default_rng(2)
    token_id = rng.integers(0, 8, 400)
    tokens = RoutedTokens(
        expert_indices=token_id[:, None, None],
        token_id=token_id + 1000,
        previous_token_id=token_id,
        position=token_id,
        logprob=np.full(400, np.nan),
        prompt_index=np.zeros(400, dtype=int),
        n_experts=8,
        layer_indices=(3,),
    )
    found = vocabulary_specialisation(tokens, rng=rng)
    assert found.share[0] == 1.0
    assert found.shuffled_share[0] < 0.35
    assert found.to_frame()["n_ids"].tolist() == [8]


def test_ids_too_rare_to_count_are_refused() -> None:
    tokens = routed_tokens(np.random.default_rng(3), n_tokens=20)
    with pytest.raises(ValueError, match="no token id occurs 100 times"):
        vocabulary_specialisation(tokens, rng=np.random.default_rng(0), min_tokens=100)


def test_saturation_between_checkpoints_is_that_of_a_loop() -> None:
    early, late = (
        routed_tokens(np.random.default_rng(seed), top_k=3).expert_indices for seed in (4, 5)
    )
    expected = [
        np.mean([len(set(early[t, layer]) & set(late[t, layer])) / 3 for t in range(60)])
        for layer in range(3)
    ]
    np.testing.assert_allclose(router_saturation(early, late), expected)
    np.testing.assert_allclose(router_saturation(late, late), 1.0)


def test_other_tokens_have_no_saturation() -> None:
    with pytest.raises(ValueError, match=r"has shape \(1, 1, 1\), but final_indices has"):
        router_saturation(np.zeros((1, 1, 1), dtype=int), np.zeros((2, 1, 1), dtype=int))


def test_saturation_over_depth_is_the_kernel_alignment_of_gram_matrices() -> None:
    chosen = routed_tokens(np.random.default_rng(6)).expert_indices
    grams = []
    for layer in range(3):
        indicator = np.zeros((60, 6))
        for token in range(60):
            indicator[token, chosen[token, layer]] = 1
        gram = indicator @ indicator.T
        centre = np.eye(60) - 1 / 60
        grams.append(centre @ gram @ centre)
    expected = [
        np.sum(gram * grams[2]) / np.sqrt(np.sum(gram * gram) * np.sum(grams[2] * grams[2]))
        for gram in grams
    ]
    np.testing.assert_allclose(saturation_over_depth(chosen, n_experts=6), expected)


def test_saturation_of_unrelated_layers_is_near_chance() -> None:
    chosen = np.random.default_rng(7).integers(0, 8, (4000, 2, 1))
    found = saturation_over_depth(chosen, n_experts=8)
    assert found[0] < 4 * 8 / 4000
    np.testing.assert_allclose(found[1], 1.0)


def test_layer_that_always_chooses_the_same_has_no_saturation_over_depth() -> None:
    chosen = np.zeros((5, 2, 1), dtype=int)
    chosen[:, 1, 0] = [0, 1, 0, 1, 1]
    assert np.isnan(saturation_over_depth(chosen, n_experts=2)[0])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), top_k=st.integers(1, 4))
def test_measures_follow_renamed_experts_and_forget_the_order_of_tokens(
    seed: int, top_k: int
) -> None:
    rng = np.random.default_rng(seed)
    tokens = routed_tokens(rng, top_k=top_k, n_tokens=80)
    other, names, order = renamed(tokens, rng)
    layers = np.arange(3)[:, None]
    np.testing.assert_allclose(
        saturation_over_depth(other.expert_indices, n_experts=6),
        saturation_over_depth(tokens.expert_indices, n_experts=6),
    )
    domain = np.array(list("abbca"))
    before, after = (domain_specialisation(each, domain=domain).share for each in (tokens, other))
    np.testing.assert_allclose(after[:, layers, names], before)
    vocabulary = [
        vocabulary_specialisation(each, rng=np.random.default_rng(0), min_tokens=5)
        for each in (tokens, other)
    ]
    np.testing.assert_allclose(vocabulary[0].share, vocabulary[1].share)
    assert (vocabulary[0].share >= top_k / 6 - 1e-12).all()
    assert (vocabulary[0].share <= 1).all()
    kinds = rng.integers(0, 3, 80)
    rows = [
        class_npmi(each, token_class=of, class_names=["a", "b", "c"])["npmi"].to_numpy()
        for each, of in ((tokens, kinds), (other, kinds[order]))
    ]
    before, after = (each.reshape(3, 3, 6) for each in rows)
    np.testing.assert_allclose(after[:, layers, names], before)


def test_npmi_by_hand() -> None:
    together = np.array([2, 1, 0, 4])
    alone, other = np.array([2, 2, 2, 4]), np.array([2, 4, 2, 8])
    found = normalised_pmi(together, alone=alone, other=other, n_tokens=8)
    np.testing.assert_allclose(found, [1.0, 0.0, -1.0, 0.0], atol=1e-12)
    always = normalised_pmi(np.array([8]), alone=np.array([8]), other=np.array([8]), n_tokens=8)
    np.testing.assert_allclose(always, [1.0])
    never = normalised_pmi(np.array([0]), alone=np.array([0]), other=np.array([3]), n_tokens=8)
    assert np.isnan(never).all()


def test_npmi_of_classes_is_that_of_a_loop() -> None:
    rng = np.random.default_rng(8)
    tokens = routed_tokens(rng)
    kinds = rng.integers(0, 2, 60)
    frame = class_npmi(tokens, token_class=kinds, class_names=["digit", "word"])
    frame = frame.set_index(["layer", "expert", "token_class"])
    for expert in range(6):
        has = np.array([expert in tokens.expert_indices[t, 1] for t in range(60)])
        both = np.mean(has & (kinds == 0))
        expected = np.log2(both / (has.mean() * np.mean(kinds == 0))) / -np.log2(both)
        np.testing.assert_allclose(frame.loc[(11, expert, "digit"), "npmi"], expected)
