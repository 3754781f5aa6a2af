"""Usage against loops over tokens, cases by hand, and what must not change it."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.analyses.usage import expert_usage, slots_by_prompt


def chosen_experts(
    rng: np.random.Generator, n_tokens: int, n_layers: int, n_experts: int, top_k: int
) -> np.ndarray:
    scores = rng.random((n_tokens, n_layers, n_experts))
    return np.argsort(scores, axis=-1)[..., :top_k].astype(np.uint8)


def test_slots_by_prompt_is_the_count_of_a_loop_over_tokens() -> None:
    rng = np.random.default_rng(0)
    chosen = chosen_experts(rng, 50, 3, 6, 2)
    prompt_index = rng.integers(0, 4, 50)
    expected = np.zeros((5, 3, 6), dtype=int)
    for token in range(50):
        for layer in range(3):
            for expert in chosen[token, layer]:
                expected[prompt_index[token], layer, expert] += 1
    counts = slots_by_prompt(chosen, prompt_index=prompt_index, n_prompts=5, n_experts=6)
    np.testing.assert_array_equal(counts, expected)


def test_long_prompts_weigh_more_in_usage_but_not_in_the_prompt_mean() -> None:
    chosen = np.array([0, 0, 0, 1])[:, None, None]  # prompt 0: three tokens, prompt 1: one
    usage = expert_usage(
        chosen,
        condition=np.array(["benchmark", "benchmark"]),
        prompt_index=np.array([0, 0, 0, 1]),
        n_experts=2,
        layer_indices=[7],
    )
    np.testing.assert_allclose(usage.usage, [[[0.75, 0.25]]])
    np.testing.assert_allclose(usage.usage_prompt_mean, [[[0.5, 0.5]]])


def test_frame_has_the_row_of_each_condition_layer_and_expert() -> None:
    chosen = np.array([[[0], [2]], [[1], [2]], [[1], [0]]])
    usage = expert_usage(
        chosen,
        condition=np.array(["organic", "benchmark"], dtype=object),
        prompt_index=np.array([0, 1, 1]),
        n_experts=3,
        layer_indices=(5, 9),
    )
    frame = usage.to_frame().set_index(["condition", "layer", "expert"])
    assert len(frame) == 2 * 2 * 3
    assert frame.loc[("organic", 5, 0), "usage"] == 1.0
    assert frame.loc[("benchmark", 5, 1), "usage"] == 1.0
    assert frame.loc[("benchmark", 9, 2), "usage"] == 0.5
    assert frame.loc[("benchmark", 9, 0), ["n_tokens", "n_prompts"]].tolist() == [2, 1]


def test_prompts_without_tokens_play_no_part() -> None:
    chosen = np.array([[[0]], [[1]]])
    usage = expert_usage(
        chosen,
        condition=np.array(["benchmark", "mixed", "organic", "organic"]),
        prompt_index=np.array([0, 3]),
        n_experts=2,
        layer_indices=[0],
    )
    assert usage.conditions == ("benchmark", "organic")
    assert usage.n_prompts.tolist() == [1, 1]
    np.testing.assert_array_equal(usage.usage_prompt_mean, [[[1.0, 0.0]], [[0.0, 1.0]]])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_tokens=st.integers(1, 40), top_k=st.integers(1, 5))
def test_usage_sums_to_one_and_follows_renamed_experts(
    seed: int, n_tokens: int, top_k: int
) -> None:
    rng = np.random.default_rng(seed)
    chosen = chosen_experts(rng, n_tokens, 2, 5, top_k)
    condition = rng.choice(["benchmark", "organic"], 3)
    prompt_index = rng.integers(0, 3, n_tokens)
    name, order = rng.permutation(5), rng.permutation(n_tokens)

    usage = expert_usage(
        chosen, condition=condition, prompt_index=prompt_index, n_experts=5, layer_indices=[0, 1]
    )
    renamed = expert_usage(
        name[chosen][order],
        condition=condition,
        prompt_index=prompt_index[order],
        n_experts=5,
        layer_indices=[0, 1],
    )
    for before, after in (
        (usage.usage, renamed.usage),
        (usage.usage_prompt_mean, renamed.usage_prompt_mean),
    ):
        np.testing.assert_allclose(before.sum(axis=-1), 1.0)
        np.testing.assert_allclose(after[..., name], before)
        assert before.max() <= 1 / top_k + 1e-12  # an expert takes one slot of a token at most


def test_expert_beyond_the_layer_is_named() -> None:
    with pytest.raises(ValueError, match=r"holds expert 32, but the experts are only 32 \(0 to 31"):
        slots_by_prompt(np.array([[[32]]]), prompt_index=np.array([0]), n_prompts=1, n_experts=32)


def test_prompt_beyond_the_prompts_is_named() -> None:
    with pytest.raises(ValueError, match="holds prompt 1, but the prompts are only 1"):
        slots_by_prompt(np.array([[[0]]]), prompt_index=np.array([1]), n_prompts=1, n_experts=2)


def test_no_token_is_refused() -> None:
    with pytest.raises(ValueError, match="holds no token"):
        slots_by_prompt(
            np.empty((0, 1, 1), dtype=int),
            prompt_index=np.empty(0, dtype=int),
            n_prompts=1,
            n_experts=2,
        )


def test_missing_layer_number_is_refused() -> None:
    with pytest.raises(ValueError, match="layer_indices has 1 entries, but expert_indices has 2"):
        expert_usage(
            np.zeros((1, 2, 1), dtype=int),
            condition=np.array(["benchmark"]),
            prompt_index=np.array([0]),
            n_experts=2,
            layer_indices=[0],
        )


@pytest.mark.slow
def test_import_of_every_analysis_loads_no_torch_plotly_h5py_or_sklearn() -> None:
    code = (
        "import sys; from interp import analyses; [getattr(analyses, n) for n in dir(analyses)];"
        "print(sorted({'torch', 'plotly', 'h5py', 'sklearn'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert said.stdout.strip() == "[]"
