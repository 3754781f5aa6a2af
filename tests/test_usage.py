"""Usage against loops over tokens, cases by hand, and what must not change it."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.analyses.slots import CHUNK_SLOTS, summed_slots
from interp.analyses.usage import expert_usage, received_by_prompt, slots_by_prompt, usage_by


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
    assert usage.names == (("benchmark",), ("organic",))
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


def small_grouped(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = rng.random((40, 2, 2))
    return {
        "expert_indices": chosen_experts(rng, 40, 2, 5, 2),
        "prompt_index": rng.integers(0, 4, 40),
        "segment": rng.choice(["user", "final"], 40),
        "source": np.array(["mmlu", "gpqa", "chat", "mmlu"]),
        "weights": weights / weights.sum(axis=-1, keepdims=True),
    }


@pytest.mark.parametrize("by_weights", [False, True])
def test_usage_of_any_groups_is_that_of_a_loop(by_weights: bool) -> None:
    arrays = small_grouped(3)
    chosen, prompt = arrays["expert_indices"], arrays["prompt_index"]
    usage = usage_by(
        chosen,
        by={"source": arrays["source"][prompt], "segment": arrays["segment"]},
        prompt_index=prompt,
        n_experts=5,
        layer_indices=[0, 1],
        expert_weights=arrays["weights"] if by_weights else None,
    )
    groups: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    for token in range(40):
        name = (str(arrays["source"][prompt[token]]), str(arrays["segment"][token]))
        received = groups.setdefault(name, {}).setdefault(int(prompt[token]), np.zeros((2, 5)))
        for layer in range(2):
            for slot in range(2):
                amount = arrays["weights"][token, layer, slot] if by_weights else 1.0
                received[layer, chosen[token, layer, slot]] += amount
    assert usage.by == ("source", "segment")
    assert usage.names == tuple(sorted(groups))
    for row, name in enumerate(sorted(groups)):
        each = list(groups[name].values())
        pooled = sum(each)
        shares = [of / of.sum(axis=1, keepdims=True) for of in each]
        np.testing.assert_allclose(usage.usage[row], pooled / pooled.sum(axis=1, keepdims=True))
        np.testing.assert_allclose(usage.usage_prompt_mean[row], sum(shares) / len(shares))
        assert usage.n_prompts[row] == len(each)
    assert usage.n_tokens.sum() == 40
    assert usage.to_frame().columns.tolist()[:4] == ["source", "segment", "layer", "expert"]


def test_the_prompt_mean_is_the_one_to_show_unless_tokens_are_asked_for() -> None:
    usage = expert_usage(
        np.array([0, 0, 0, 1])[:, None, None],
        condition=np.array(["benchmark", "benchmark"]),
        prompt_index=np.array([0, 0, 0, 1]),
        n_experts=2,
        layer_indices=[7],
    )
    np.testing.assert_allclose(usage.mean(), [[[0.5, 0.5]]])
    np.testing.assert_allclose(usage.mean("tokens"), [[[0.75, 0.25]]])


def test_a_group_whose_weights_are_all_zero_has_no_usage() -> None:
    usage = usage_by(
        np.array([[[0]], [[1]]]),
        by={"segment": np.array(["user", "final"])},
        prompt_index=np.array([0, 0]),
        n_experts=2,
        layer_indices=[0],
        expert_weights=np.array([[[0.0]], [[1.0]]]),
    )
    np.testing.assert_array_equal(usage.usage, [[[0.0, 1.0]], [[np.nan, np.nan]]])


def test_grouping_of_another_length_or_none_is_refused() -> None:
    given = {"prompt_index": np.array([0]), "n_experts": 2, "layer_indices": [0]}
    with pytest.raises(ValueError, match=r"by\['segment'\] has 2 entries, but .* 1 tokens"):
        usage_by(np.array([[[0]]]), by={"segment": np.array(["a", "b"])}, **given)
    with pytest.raises(ValueError, match="by names no grouping; give at least one"):
        usage_by(np.array([[[0]]]), by={}, **given)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_rows=st.integers(1, 4 * CHUNK_SLOTS // 10),
    weighted=st.sampled_from(["no", "by token", "by slot"]),
)
def test_summed_slots_is_the_plain_sum_for_any_order_of_rows(
    seed: int, n_rows: int, weighted: str
) -> None:
    rng = np.random.default_rng(seed)
    chosen, row = chosen_experts(rng, 30, 2, 5, 2), rng.integers(0, n_rows, 30)
    weight = {"no": None, "by token": rng.random(30), "by slot": rng.random((30, 2, 2))}[weighted]
    expected = np.zeros((n_rows, 2, 5))
    each = (
        np.ones((30, 2, 2)) if weight is None else weight.reshape(30, *weight.shape[1:] or (1, 1))
    )
    np.add.at(expected, (row[:, None, None], np.arange(2)[None, :, None], chosen), each)
    found = summed_slots(chosen, row=row, n_rows=n_rows, n_experts=5, weight=weight)
    np.testing.assert_allclose(found, expected)
    assert found.dtype == (np.int64 if weight is None else np.float64)


def test_what_is_received_by_weight_is_a_float_and_by_slot_the_count() -> None:
    arrays = small_grouped(1)
    given = {"prompt_index": arrays["prompt_index"], "n_prompts": 4, "n_experts": 5}
    by_slot = received_by_prompt(arrays["expert_indices"], **given)
    np.testing.assert_array_equal(by_slot, slots_by_prompt(arrays["expert_indices"], **given))
    by_weight = received_by_prompt(arrays["expert_indices"], arrays["weights"], **given)
    n_tokens = np.bincount(arrays["prompt_index"], minlength=4)
    np.testing.assert_allclose(by_weight.sum(axis=-1), np.tile(n_tokens[:, None], 2))


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
