"""Generation: what is recorded while decoding is what one pass over the same tokens gives."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from interp.cache.errors import InputError, ModelError
from interp.cache.reader import open_store
from interp.cache.records import SEGMENTS, SITES, Message, Prompt, PromptActivations
from interp.hooks import agreement, generation
from interp.hooks.agreement import compare_decoding, routing_agreement
from interp.hooks.answers import decoded_text, with_answer
from interp.hooks.batches import run_batch
from interp.hooks.capture import capture
from interp.hooks.generation import generate
from interp.hooks.load import LoadedModel, load_model
from interp.hooks.render import RenderedPrompt, render_prompt
from interp.hooks.self_check import self_check
from interp.hooks.settings import CaptureSettings, GenerationSettings
from interp.hooks.tap import RoutingTap
from tests.tiny_families import tiny_family
from tests.tiny_model import save_tiny

WORDS = ("two plus two", "What is the capital of Peru, and how far is it from the sea?", "a")


def prompt(words: str) -> Prompt:
    return Prompt(messages=(Message(role="user", content=words),), condition="organic")


def rendered(tiny: LoadedModel) -> list[RenderedPrompt]:
    return [render_prompt(prompt(words), tiny.tokenizer) for words in WORDS]


def answered(
    tiny: LoadedModel,
    *,
    sites: tuple[str, ...] = SITES,
    positions: str = "all",
    batch: list[RenderedPrompt] | None = None,
    **settings: Any,
) -> list[tuple[RenderedPrompt, PromptActivations]]:
    with RoutingTap(tiny.model, sites=sites) as tap:
        return generate(
            tiny.model,
            tiny.tokenizer,
            tap,
            batch or rendered(tiny),
            settings=GenerationSettings(**{"max_new_tokens": 7} | settings),
            positions=positions,
        )


def greedy_by_hand(model: Any, token_id: np.ndarray, n: int) -> list[int]:
    """One whole pass per token, without cache, padding or `generate`."""
    ids = token_id.astype(np.int64).tolist()
    for _ in range(n):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(token_id) :]


def without_end(tiny: LoadedModel) -> LoadedModel:
    """Random weights choose an end token now and then; here none ends the answer."""
    tiny.model.generation_config.eos_token_id = None
    return tiny


def test_greedy_answers_are_those_of_one_pass_per_token(tiny: LoadedModel) -> None:
    for (whole, _), before in zip(answered(without_end(tiny)), rendered(tiny), strict=True):
        n_prompt = len(before.token_id)
        by_hand = greedy_by_hand(tiny.model, before.token_id, 7)
        # The last token of an answer is never put into the model.
        assert whole.token_id[n_prompt:].tolist() == by_hand[:-1]
        assert whole.text == before.text + tiny.tokenizer.decode(by_hand)
        assert whole.generated.tolist() == [False] * n_prompt + [True] * 6


def test_decoding_and_one_pass_agree_to_1e_5_in_float32(tiny: LoadedModel) -> None:
    both = answered(without_end(tiny))
    with RoutingTap(tiny.model) as tap:
        forced = run_batch(tiny.model, tap, [whole for whole, _ in both], "all")
    for (_, decoded), again in zip(both, forced, strict=True):
        np.testing.assert_array_equal(decoded.token_id, again.token_id)
        np.testing.assert_array_equal(decoded.expert_indices, again.expert_indices)
        np.testing.assert_allclose(decoded.expert_weights, again.expert_weights, atol=1e-5)
        assert decoded.router_logits is not None
        np.testing.assert_allclose(decoded.router_logits, again.router_logits, atol=1e-4)
        assert decoded.expert_output_norms is not None
        np.testing.assert_allclose(
            decoded.expert_output_norms, again.expert_output_norms, rtol=1e-4
        )
        for key, rows in decoded.resid.items():
            largest = np.abs(again.resid[key]).max()
            assert np.abs(rows - again.resid[key]).max() <= 1e-5 * largest
        agreed = routing_agreement(decoded, again)
        assert agreed.same_experts == 1
        assert agreed.max_weight_difference <= 1e-5


def test_decoding_and_one_pass_agree_in_most_sets_in_bfloat16(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny", dtype=torch.bfloat16)
    tiny = without_end(load_model(str(folder), device_map="cpu"))
    both = answered(tiny)
    with RoutingTap(tiny.model) as tap:
        forced = run_batch(tiny.model, tap, [whole for whole, _ in both], "all")
    shares = [
        routing_agreement(decoded, again).same_experts
        for (_, decoded), again in zip(both, forced, strict=True)
    ]
    assert min(shares) >= 0.9


def test_an_answer_ends_at_an_end_token_also_beside_longer_ones(tiny: LoadedModel) -> None:
    whole = [each for each, _ in answered(without_end(tiny), temperature=2.0)]
    answers = [each.token_id[each.generated].tolist() for each in whole]
    end = next(token for token in answers[0] if token not in answers[1])
    tiny.model.generation_config.eos_token_id = [end]
    first, second, _ = (each for each, _ in answered(tiny, temperature=2.0))
    assert first.token_id[first.generated].tolist() == answers[0][: answers[0].index(end)]
    assert first.text.endswith(tiny.tokenizer.decode([end]))
    assert second.token_id[second.generated].tolist() == answers[1]


def test_residuals_of_the_answer_follow_the_positions(tiny: LoadedModel) -> None:
    without_end(tiny)
    everything = [each for _, each in answered(tiny)]
    for positions in ("every:5", "last_content"):
        for some, whole in zip(answered(tiny, positions=positions), everything, strict=True):
            _, part = some
            assert part.resid_token_index is not None
            kept = part.resid_token_index
            if positions == "every:5":
                np.testing.assert_array_equal(kept, np.arange(0, len(part.token_id), 5))
            else:
                assert not part.generated[kept].any()
            for key, rows in part.resid.items():
                np.testing.assert_array_equal(rows, whole.resid[key][kept])


def test_harmony_channels_become_segments(tiny: LoadedModel) -> None:
    before = rendered(tiny)[0]
    said = (
        "<|channel|>analysis<|message|>two plus two<|end|>"
        "<|start|>assistant<|channel|>final<|message|>4<|return|>"
    )
    whole = with_answer(before, np.array(tiny.tokenizer(said)["input_ids"]), tiny.tokenizer)
    assert whole.text == before.text + said
    of_answer = whole.segment[len(before.token_id) :]
    names = [SEGMENTS[each] for each in of_answer]
    ends = whole.text_end[len(before.token_id) - 1 :]
    texts = [whole.text.encode()[start:end].decode() for start, end in pairwise(ends)]
    spoken = {
        name: "".join(text for text, each in zip(texts, names, strict=True) if each == name)
        for name in set(names)
    }
    assert spoken["analysis"] == "two plus two"
    assert spoken["final"] == "4"
    assert spoken["template"].startswith("<|channel|>analysis<|message|>")
    np.testing.assert_array_equal(whole.segment[: len(before.token_id)], before.segment)


def test_text_without_harmony_is_final(tiny: LoadedModel) -> None:
    plain = render_prompt(Prompt(text="two plus", condition="organic"), tiny.tokenizer)
    whole = with_answer(plain, np.array(tiny.tokenizer(" two is")["input_ids"]), tiny.tokenizer)
    of_answer = whole.segment[len(plain.token_id) :]
    assert {SEGMENTS[each] for each in of_answer} == {"final"}


@pytest.mark.parametrize("text", ["two 🐈 plus", "Grüße, 世界", "🐈🐈", " a  b"])
def test_ends_of_decoded_tokens_never_split_a_character(tiny: LoadedModel, text: str) -> None:
    ids = np.array(tiny.tokenizer(text)["input_ids"])
    decoded, ends = decoded_text(tiny.tokenizer, ids)
    assert decoded == text
    assert ends == sorted(ends)
    assert ends[-1] == len(text)
    # A token whose bytes are whole characters ends exactly behind them.
    for index in range(len(ids)):
        said = tiny.tokenizer.decode(ids[: index + 1])
        if "\ufffd" not in said:
            assert ends[index] == len(said)


def test_bytes_that_are_no_text_become_replacement_characters(tiny: LoadedModel) -> None:
    half = np.array(tiny.tokenizer("🐈")["input_ids"])[:-1]
    decoded, ends = decoded_text(tiny.tokenizer, half)
    assert set(decoded) == {"\ufffd"}
    assert ends[-1] == len(decoded)


def test_the_same_seed_samples_the_same_answers(tiny: LoadedModel) -> None:
    without_end(tiny)

    def sampled(seed: int) -> list[list[int]]:
        both = answered(tiny, temperature=2.0, top_p=0.9, seed=seed)
        return [whole.token_id.tolist() for whole, _ in both]

    assert sampled(0) == sampled(0)
    assert sampled(0) != sampled(1)


def test_sampling_leaves_the_users_random_stream_alone(tiny: LoadedModel) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    answered(tiny, temperature=1.0)
    assert torch.equal(torch.rand(3), expected)


def test_a_store_of_answers_says_which_tokens_the_model_wrote(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    settings = CaptureSettings(
        sites=SITES, positions="all", generation=GenerationSettings(max_new_tokens=5)
    )
    without_end(tiny)
    prompts = [prompt(words) for words in WORDS]
    capture(tiny, prompts, tmp_path / "a.moe", settings=settings, progress=False)
    store = open_store(tmp_path / "a.moe")
    for number, before in enumerate(rendered(tiny)):
        ours = store.prompt_index == number
        assert store.generated[ours].sum() == 4
        by_hand = greedy_by_hand(tiny.model, before.token_id, 5)
        np.testing.assert_array_equal(store.token_id[ours & store.generated], by_hand[:4])
        assert store.text(number) == before.text + tiny.tokenizer.decode(by_hand)
    decoding = store.manifest["self_check"]["decoding"]  # of the prompt that agrees least
    assert decoding["prompt"]["same_experts"] == decoding["answer"]["same_experts"] == 1
    assert decoding["prompt"]["n_choices"] in {2 * len(each.token_id) for each in rendered(tiny)}
    assert decoding["answer"]["n_choices"] == 2 * 4
    assert store.provenance["settings"]["generation"]["max_new_tokens"] == 5


def with_answers_shifted(*args: Any, **kwargs: Any) -> Any:
    """What the taps saw while decoding, one token late; prompts as they are."""
    both = generate(*args, **kwargs)
    for _, each in both:
        rows = each.generated
        each.expert_indices[rows] = np.roll(each.expert_indices[rows], 1, axis=0)
    return both


def in_dtype(tmp_path: Path, dtype: torch.dtype) -> LoadedModel:
    folder = save_tiny(tmp_path / "tiny", dtype=dtype)
    return without_end(load_model(str(folder), device_map="cpu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_answers_shifted_by_one_token_are_refused_though_the_long_prompts_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    tiny = in_dtype(tmp_path, dtype)
    settings = CaptureSettings(generation=GenerationSettings(max_new_tokens=9, temperature=1.0))
    found = compare_decoding(tiny.model, tiny.tokenizer, rendered(tiny), settings=settings)
    assert found["prompt"]["same_experts"] >= 0.9
    assert found["answer"]["same_experts"] >= 0.9
    monkeypatch.setattr(agreement, "generate", with_answers_shifted)
    with pytest.raises(ModelError, match="the same tokens, while decoding, and in one pass, have"):
        compare_decoding(tiny.model, tiny.tokenizer, rendered(tiny), settings=settings)


def test_an_answer_of_few_tokens_is_said_not_to_be_compared(tiny: LoadedModel) -> None:
    settings = CaptureSettings(generation=GenerationSettings(max_new_tokens=4))
    batch = rendered(without_end(tiny))
    found = compare_decoding(tiny.model, tiny.tokenizer, batch, settings=settings)
    assert found["answer"] == "not compared: none has 4 tokens that were put into the model"
    assert found["prompt"]["same_experts"] == 1


OF_A_CHECKPOINT: dict[str, dict[str, Any]] = {
    "penalty": {"repetition_penalty": 5.0},
    "beams": {"num_beams": 3, "length_penalty": -3.0},
    "suppressed": {"suppress_tokens": list(range(5, 300))},
    "guided": {"guidance_scale": 3.0},
    "stopped": {"max_time": 1e-9},
    "in chunks": {"prefill_chunk_size": 4},
    "several": {"num_return_sequences": 2, "do_sample": True},
}


@pytest.mark.parametrize("fields", OF_A_CHECKPOINT.values(), ids=OF_A_CHECKPOINT)
def test_of_the_checkpoints_generation_config_only_end_tokens_are_used(
    tiny: LoadedModel, fields: dict[str, Any]
) -> None:
    usual = answered(without_end(tiny))
    of_checkpoint = GenerationConfig(**fields)
    tiny.model.generation_config = of_checkpoint
    for (whole, found), (expected, records) in zip(answered(tiny), usual, strict=True):
        np.testing.assert_array_equal(whole.token_id, expected.token_id)
        np.testing.assert_array_equal(found.expert_indices, records.expert_indices)
    assert tiny.model.generation_config is of_checkpoint


def test_the_generation_config_comes_back_when_decoding_fails(tiny: LoadedModel) -> None:
    of_checkpoint = tiny.model.generation_config
    tiny.model.lm_head.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        answered(tiny)
    assert tiny.model.generation_config is of_checkpoint


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"num_beams": 2}, r"pass 0 was of token ids of shape \(6, \d+\), expected \(3, \d+\)"),
        ({"prefill_chunk_size": 4}, r"pass 0 was of token ids of shape \(3, 4\), expected \(3, "),
        ({"use_cache": False}, r"pass 1 was of token ids of shape \(3, \d+\), expected \(3, 1\)"),
    ],
)
def test_decoding_in_other_passes_than_one_row_a_prompt_is_refused(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], sentence: str
) -> None:
    """As a model with a `generate` of its own might."""
    usual = tiny.model.generate
    monkeypatch.setattr(
        tiny.model, "generate", lambda **inputs: usual(**inputs, **given), raising=False
    )
    with pytest.raises(ModelError, match=f"while decoding, {sentence}"):
        answered(tiny)


def with_tiny_family(family: str, tiny: LoadedModel) -> LoadedModel:
    """A tiny model of another family, with the vocabulary of the tokenizer."""
    model = tiny_family(family, vocab_size=len(tiny.tokenizer))
    return without_end(replace(tiny, model=model))


@pytest.mark.parametrize("family", ["minimax", "gpt_oss"])
def test_answers_in_a_batch_are_those_of_each_prompt_alone(family: str, tiny: LoadedModel) -> None:
    """Linear attention of minimax decodes otherwise after padding on the left."""
    other = with_tiny_family(family, tiny)
    batch = [*rendered(tiny), rendered(tiny)[0]]
    for (whole, _), before in zip(answered(other, batch=batch), batch, strict=True):
        by_hand = greedy_by_hand(other.model, before.token_id, 7)
        assert whole.token_id[len(before.token_id) :].tolist() == by_hand[:-1]


@pytest.mark.slow
def test_decoding_that_padding_changes_is_found_by_the_self_check(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = with_tiny_family("minimax", tiny)
    settings = CaptureSettings(generation=GenerationSettings(max_new_tokens=9))
    found = self_check(other.model, other.tokenizer, rendered(tiny), settings=settings)
    assert found["batched"]["same_experts"] == 1
    assert found["decoding"]["answer"]["same_experts"] == 1
    monkeypatch.setattr(generation, "MASKABLE_LAYERS", {"linear_attention", "full_attention"})
    with pytest.raises(ModelError, match="the same tokens, while decoding, and in one pass, have"):
        self_check(other.model, other.tokenizer, rendered(tiny), settings=settings)


def test_recordings_of_different_tokens_are_not_compared(tiny: LoadedModel) -> None:
    first, second, _ = (each for _, each in answered(tiny))
    with pytest.raises(ValueError, match="of different tokens"):
        routing_agreement(first, second)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0, expected 1 or more"),
        ({"temperature": -1.0}, r"temperature is -1.0, expected 0 \(greedy\) or more"),
        ({"top_p": 0.0}, "top_p is 0.0, expected more than 0"),
        ({"seed": -1}, r"seed is -1, expected 0 to 2\*\*63 - 1"),
        ({"seed": 2**63}, r"seed is 9223372036854775808, expected 0 to 2\*\*63 - 1"),
    ],
)
def test_settings_outside_of_their_range_are_refused(
    settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        GenerationSettings(**{"max_new_tokens": 3} | settings)


def test_a_tap_over_several_passes_asks_to_be_read_after_each(tiny: LoadedModel) -> None:
    ids = torch.from_numpy(rendered(tiny)[0].token_id.astype(np.int64))[None]
    with RoutingTap(tiny.model, sites=("expert_indices",)) as tap:
        tiny.model.generate(ids, max_new_tokens=3, do_sample=False)
        with pytest.raises(ModelError, match=r"passes were made .* call take\(\) after each"):
            tap.take()
