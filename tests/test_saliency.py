"""Published scores of experts against loops over tokens and cases by hand."""

import numpy as np
import pytest

from interp.analyses.saliency import expert_relevance, reap_sums, relevant_experts
from interp.analyses.usage import expert_usage
from tests.measure_samples import renamed, routed_tokens


def weights_of(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.dirichlet(np.ones(shape[-1]), size=shape[:-1])


def test_relevance_is_that_of_a_loop_over_prompts() -> None:
    rng = np.random.default_rng(0)
    tokens = routed_tokens(rng)
    weights = weights_of(rng, tokens.expert_indices.shape)
    found = expert_relevance(
        tokens.expert_indices,
        weights,
        prompt_index=tokens.prompt_index,
        n_prompts=6,  # the last has no token
        n_experts=6,
        layer_indices=tokens.layer_indices,
    )
    gate, ratio = np.zeros((3, 6)), np.zeros((3, 6))
    for prompt in range(5):
        rows = np.flatnonzero(tokens.prompt_index == prompt)
        for token in rows:
            for layer in range(3):
                for slot in range(2):
                    expert = tokens.expert_indices[token, layer, slot]
                    gate[layer, expert] += weights[token, layer, slot] / len(rows) / 5
                    ratio[layer, expert] += 1 / 2 / len(rows) / 5
    np.testing.assert_allclose(found.gate_score, gate)
    np.testing.assert_allclose(found.selection_ratio, ratio)
    np.testing.assert_allclose(found.gate_score.sum(axis=1), 1.0)
    assert found.n_prompts == 5
    assert len(found.to_frame()) == 18


def test_selection_ratio_is_the_prompt_mean_of_usage() -> None:
    rng = np.random.default_rng(1)
    tokens = routed_tokens(rng)
    found = expert_relevance(
        tokens.expert_indices,
        weights_of(rng, tokens.expert_indices.shape),
        prompt_index=tokens.prompt_index,
        n_prompts=5,
        n_experts=6,
        layer_indices=tokens.layer_indices,
    )
    usage = expert_usage(
        tokens.expert_indices,
        condition=np.full(5, "task"),
        prompt_index=tokens.prompt_index,
        n_experts=6,
        layer_indices=tokens.layer_indices,
    )
    np.testing.assert_allclose(found.selection_ratio, usage.usage_prompt_mean[0])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_relevant_experts_are_those_of_the_published_loop(share: float) -> None:
    score = np.random.default_rng(2).dirichlet(np.ones(9), size=4)
    for of_layer, chosen in zip(score, relevant_experts(score, share=share), strict=True):
        expected, total = [], 0.0
        for expert, value in sorted(enumerate(of_layer), key=lambda each: -each[1]):
            if total >= share - 1e-12:
                break
            expected.append(expert)
            total += value
        assert np.flatnonzero(chosen).tolist() == sorted(expected)


def test_share_above_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"share is 1.5, expected 0 to 1"):
        relevant_experts(np.ones((1, 2)), share=1.5)


def test_reap_saliency_is_that_of_a_loop_and_parts_merge() -> None:
    rng = np.random.default_rng(3)
    tokens = routed_tokens(rng, n_experts=7)
    chosen = tokens.expert_indices % 6  # expert 6 is never chosen, so it has no saliency
    chosen[..., 1] = (chosen[..., 0] + 1) % 6
    weights = weights_of(rng, chosen.shape).astype(np.float16)
    norms = rng.lognormal(size=chosen.shape).astype(np.float32)
    total, count = np.zeros((3, 7)), np.zeros((3, 7), dtype=int)
    for token in range(60):
        for layer in range(3):
            for slot in range(2):
                expert = chosen[token, layer, slot]
                total[layer, expert] += float(weights[token, layer, slot]) * float(
                    norms[token, layer, slot]
                )
                count[layer, expert] += 1
    found = reap_sums(chosen, weights, norms, n_experts=7)
    np.testing.assert_array_equal(found.n_tokens, count)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(found.saliency(), total / count)
    assert np.isnan(found.saliency()[:, 6]).all()
    merged = reap_sums(chosen[:20], weights[:20], norms[:20], n_experts=7) + reap_sums(
        chosen[20:], weights[20:], norms[20:], n_experts=7
    )
    np.testing.assert_array_equal(merged.n_tokens, found.n_tokens)
    np.testing.assert_allclose(merged.weighted_norm, found.weighted_norm)


def test_saliency_follows_renamed_experts() -> None:
    rng = np.random.default_rng(4)
    tokens = routed_tokens(rng)
    other, names, order = renamed(tokens, rng)
    weights = weights_of(rng, tokens.expert_indices.shape)
    norms = rng.lognormal(size=weights.shape)
    before = reap_sums(tokens.expert_indices, weights, norms, n_experts=6).saliency()
    after = reap_sums(other.expert_indices, weights[order], norms[order], n_experts=6).saliency()
    np.testing.assert_allclose(after[np.arange(3)[:, None], names], before)


def test_norm_that_is_not_finite_is_refused() -> None:
    norms = np.ones((3, 1, 1))
    norms[2] = np.nan
    with pytest.raises(ValueError, match="expert_output_norms of token 2 are not finite"):
        reap_sums(np.zeros((3, 1, 1), dtype=int), np.ones((3, 1, 1)), norms, n_experts=1)
