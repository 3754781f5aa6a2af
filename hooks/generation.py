"""Generation: the model answers, and what its taps see while it decodes is recorded.

The last token of an answer is never put into the model, so nothing is recorded of it; it is in the
text. Decoding and one teacher-forced pass over the same tokens do the same sums in another order,
so that they agree to rounding; `routing_agreement` says how well.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor
from transformers import GenerationConfig

from interp.cache.harmony import harmony_spans, is_harmony
from interp.cache.records import SEGMENTS, PromptActivations
from interp.hooks.batches import activations, padded, row_starts, select_rows
from interp.hooks.pass_records import TOKEN_FIELDS, PassRecords
from interp.hooks.positions import kept_positions
from interp.hooks.render import RenderedPrompt, character_at
from interp.hooks.settings import GenerationSettings
from interp.hooks.tap import RoutingTap


@dataclass(frozen=True)
class RoutingAgreement:
    """How far two recordings of the same tokens agree."""

    n_choices: int
    """Tokens times layers that were compared."""
    same_experts: float
    """Share of them with the same set of experts, 0 to 1."""
    max_weight_difference: float
    """Largest difference of an expert's weight where the sets are the same."""


def generate(
    model: Any,
    tokenizer: Any,
    tap: RoutingTap,
    batch: Sequence[RenderedPrompt],
    *,
    settings: GenerationSettings,
    positions: str,
) -> list[tuple[RenderedPrompt, PromptActivations]]:
    """Answer each prompt of a batch, and record it while decoding.

    Args:
        model: With an open `tap` on it.
        tokenizer: Turns the answer into text.
        tap: Records router and residual sites.
        batch: Prompts; padded on the left, as decoding needs it.
        settings: How to decode.
        positions: Tokens whose residuals are kept; `last_content` keeps none of the answer.

    Returns:
        For each prompt: the prompt with its answer, up to the last token that was put into the
        model, and what was recorded of it.
    """
    kept = [kept_positions(positions, each.segment) for each in batch]
    starts = row_starts(batch, side="left")
    select_rows(tap, starts, [len(each.token_id) for each in batch], kept)
    inputs = padded(batch, model, side="left")
    steps: list[PassRecords] = []

    def after_step(*_: Any) -> None:
        steps.append(tap.take())
        tap.select()

    handle = model.register_forward_hook(after_step)
    try:
        with torch.inference_mode(), _seeded(settings.seed):
            ids = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                generation_config=_generation_config(model, settings),
            )
    finally:
        handle.remove()
    answers = ids[:, inputs["input_ids"].shape[1] :].cpu().numpy()
    return list(_answered(tokenizer, batch, answers, steps, kept, _end_tokens(model), positions))


def routing_agreement(first: PromptActivations, second: PromptActivations) -> RoutingAgreement:
    """Compare the routing of two recordings, token by token and layer by layer.

    Raises:
        ValueError: If they are not of the same tokens.
    """
    if not np.array_equal(first.token_id, second.token_id):
        raise ValueError("the two recordings are of different tokens; record the same ones")
    orders = [each.expert_indices.argsort(-1) for each in (first, second)]
    pairs = list(zip((first, second), orders, strict=True))
    experts = [np.take_along_axis(each.expert_indices, order, -1) for each, order in pairs]
    weights = [np.take_along_axis(each.expert_weights, order, -1) for each, order in pairs]
    is_same = (experts[0] == experts[1]).all(-1)
    difference = np.abs(weights[0] - weights[1])[is_same]
    return RoutingAgreement(
        n_choices=is_same.size,
        same_experts=float(is_same.mean()),
        max_weight_difference=float(difference.max(initial=0.0)),
    )


def _answered(
    tokenizer: Any,
    batch: Sequence[RenderedPrompt],
    answers: Integer[np.ndarray, "batch answer"],
    steps: Sequence[PassRecords],
    kept: Sequence[np.ndarray],
    end_tokens: Sequence[int],
    positions: str,
) -> Iterator[tuple[RenderedPrompt, PromptActivations]]:
    prompt_tokens = np.cumsum([0] + [len(each.token_id) for each in batch])
    prompt_rows = np.cumsum([0] + [len(each) for each in kept])
    for index, rendered in enumerate(batch):
        ends = np.flatnonzero(np.isin(answers[index], end_tokens))
        answer = answers[index, : ends[0] + 1] if ends.size else answers[index]
        whole = with_answer(rendered, answer, tokenizer)
        n_prompt, n_tokens = len(rendered.token_id), len(whole.token_id)
        decoded = steps[1 : 1 + n_tokens - n_prompt]
        of_whole = kept_positions(positions, whole.segment)
        of_answer = of_whole[of_whole >= n_prompt] if positions != "last_content" else of_whole[:0]
        records = _joined(
            steps[0],
            decoded,
            tokens=slice(*prompt_tokens[index : index + 2]),
            rows=slice(*prompt_rows[index : index + 2]),
            row=index,
            kept_steps=of_answer - n_prompt,
        )
        yield whole, activations(whole, records, np.concatenate([kept[index], of_answer]))


def _joined(
    prefill: PassRecords,
    decoded: Sequence[PassRecords],
    *,
    tokens: slice,
    rows: slice,
    row: int,
    kept_steps: Integer[np.ndarray, "rows"],
) -> PassRecords:
    """The records of one prompt: its part of the first pass, then its row of each step."""

    def joined(name: str) -> Tensor | None:
        parts = [getattr(prefill, name), *(getattr(step, name) for step in decoded)]
        if parts[0] is None:
            return None
        return torch.cat([parts[0][tokens], *(part[row : row + 1] for part in parts[1:])])

    resid = {
        key: [each[rows], *(decoded[step].resid[key][row : row + 1] for step in kept_steps)]
        for key, each in prefill.resid.items()
    }
    of_tokens: dict[str, Any] = {name: joined(name) for name in TOKEN_FIELDS}
    of_rows = {key: torch.cat(parts) for key, parts in resid.items()}
    return replace(prefill, **of_tokens, resid=of_rows)


def with_answer(
    rendered: RenderedPrompt, answer: Integer[np.ndarray, "answer"], tokenizer: Any
) -> RenderedPrompt:
    """The prompt with its answer, whose last token is in the text but not among the tokens.

    In a Harmony text the channels say which segment a token of the answer belongs to; elsewhere
    all of it is `final`.
    """
    text, ends = decoded_text(tokenizer, answer)
    whole = rendered.text + text
    of_character = np.full(len(whole), SEGMENTS.index("final"), dtype=np.uint8)
    if is_harmony(rendered.text):
        of_character[:] = SEGMENTS.index("template")
        for name, start, end in harmony_spans(whole):
            of_character[start:end] = SEGMENTS.index(name)
    starts = [0, *ends[:-1]]
    n_before = len(rendered.text)
    segment = [
        of_character[min(character_at(whole, n_before + start, n_before + end), len(whole) - 1)]
        for start, end in zip(starts, ends, strict=True)
    ]
    byte_at = np.cumsum([0] + [len(character.encode()) for character in whole])
    kept = slice(0, len(answer) - 1)
    return replace(
        rendered,
        text=whole,
        token_id=np.concatenate([rendered.token_id, answer[kept].astype(np.int32)]),
        segment=np.concatenate([rendered.segment, np.array(segment, dtype=np.uint8)[kept]]),
        text_end=np.concatenate([rendered.text_end, byte_at[np.array(ends) + n_before][kept]]),
        generated=np.concatenate([rendered.generated, np.ones(len(answer) - 1, dtype=bool)]),
    )


def decoded_text(tokenizer: Any, token_id: Integer[np.ndarray, "tokens"]) -> tuple[str, list[int]]:
    """Text of some tokens, and where each ends in it, in characters.

    A token that ends within a character ends where that character begins; what is no UTF-8 at all
    becomes U+FFFD.
    """
    text, anchor, pending = "", list[int](), list[int]()
    ends: list[int] = []

    def decode(ids: list[int]) -> str:
        said = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(said)

    for index, token in enumerate(token_id.tolist()):
        pending.append(token)
        # Some tokenizers drop the space before the first token, so one goes before.
        piece = decode([*anchor, *pending])[len(decode(anchor)) if anchor else 0 :]
        if not piece.endswith("\ufffd") or index == len(token_id) - 1:
            text, anchor, pending = text + piece, pending[-1:], []
        ends.append(len(text))
    return text, ends


def _generation_config(model: Any, settings: GenerationSettings) -> GenerationConfig:
    sampling = {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
    return GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        do_sample=settings.temperature > 0,
        eos_token_id=_end_tokens(model) or None,
        pad_token_id=model.config.pad_token_id or 0,
        **(sampling if settings.temperature > 0 else {}),
    )


def _end_tokens(model: Any) -> list[int]:
    ids = model.generation_config.eos_token_id
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """A random stream of its own; the user's goes on afterwards where it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
