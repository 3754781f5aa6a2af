"""Generation: what is recorded while decoding is what one pass over the same tokens gives."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp.cache.errors import InputError, ModelError
from interp.cache.reader import open_store
from interp.cache.records import SEGMENTS, SITES, Message, Prompt, PromptActivations
from interp.hooks import self_check
from interp.hooks.batches import run_batch
from interp.hooks.capture import capture
from interp.hooks.generation import decoded_text, generate, routing_agreement, with_answer
from interp.hooks.load import LoadedModel, load_model
from interp.hooks.render import RenderedPrompt, render_prompt
from interp.hooks.settings import CaptureSettings, GenerationSettings
from interp.hooks.tap import RoutingTap
from tests.tiny_model import save_tiny

WORDS = ("two plus two", "What is the capital of Peru, and how far is it from the sea?", "a")


def prompt(words: str) -> Prompt:
    return Prompt(messages=(Message(role="user", content=words),), condition="organic")


def rendered(tiny: LoadedModel) -> list[RenderedPrompt]:
    return [render_prompt(prompt(words), tiny.tokenizer) for words in WORDS]


def answered(
    tiny: LoadedModel, *, sites: tuple[str, ...] = SITES, positions: str = "all", **settings: Any
) -> list[tuple[RenderedPrompt, PromptActivations]]:
    with RoutingTap(tiny.model, sites=sites) as tap:
        return generate(
            tiny.model,
            tiny.tokenizer,
            tap,
            rendered(tiny),
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
        agreement = routing_agreement(decoded, again)
        assert agreement.same_experts == 1
        assert agreement.max_weight_difference <= 1e-5


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
    decoding = store.provenance["self_check"]["decoding"]
    assert decoding["same_experts"] == 1
    assert decoding["n_choices"] == 2 * (store.prompt_index == 0).sum()
    assert store.provenance["settings"]["generation"]["max_new_tokens"] == 5


def test_decoding_that_does_not_agree_is_refused(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def shifted(*args: Any, **kwargs: Any) -> list[PromptActivations]:
        again = run_batch(*args, **kwargs)
        for each in again:
            each.expert_indices[:] = np.roll(each.expert_indices, 1, axis=0)
        return again

    monkeypatch.setattr(self_check, "run_batch", shifted)
    settings = CaptureSettings(generation=GenerationSettings(max_new_tokens=5))
    with pytest.raises(ModelError, match="decoding and one pass over the same tokens choose"):
        capture(
            without_end(tiny), [prompt("a")], tmp_path / "a.moe", settings=settings, progress=False
        )


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
