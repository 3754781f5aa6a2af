"""Generation: the model answers, and what its taps see while it decodes is recorded.

The last token of an answer is never put into the model, so nothing is recorded of it; it is in the
text.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor
from transformers import GenerationConfig

from interp.cache.errors import ModelError
from interp.cache.records import PromptActivations
from interp.hooks.answers import with_answer
from interp.hooks.batches import activations, padded, row_starts, select_rows
from interp.hooks.pass_records import TOKEN_FIELDS, PassRecords
from interp.hooks.positions import kept_positions
from interp.hooks.render import RenderedPrompt
from interp.hooks.settings import GenerationSettings
from interp.hooks.tap import RoutingTap

MASKABLE_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of layers that read earlier tokens themselves, so that padding can be masked out."""


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

    Raises:
        ModelError: If the model decodes in passes of other rows than one for each prompt.
    """
    found: dict[int, tuple[RenderedPrompt, PromptActivations]] = {}
    with torch.inference_mode(), _seeded(settings.seed), _own_config(model, settings) as ends:
        for members in decodable_together(model, [len(each.token_id) for each in batch]):
            part = [batch[each] for each in members]
            kept = [kept_positions(positions, each.segment) for each in part]
            answers, steps = _decoded(model, tap, part, kept)
            answered = _answered(tokenizer, part, answers, steps, kept, ends, positions)
            found |= zip(members, answered, strict=True)
    return [found[each] for each in range(len(batch))]


def decodable_together(model: Any, lengths: Sequence[int]) -> list[list[int]]:
    """Indices of the prompts that may be decoded in one batch, padded on the left.

    A layer that carries a state from token to token, such as linear attention, carries it through
    the padding too: after it, minimax of transformers 5.23 decodes other answers than alone. A
    model with such layers decodes prompts of one length at a time.
    """
    kinds = set(getattr(model.config, "layer_types", None) or ())
    if kinds <= MASKABLE_LAYERS:
        return [list(range(len(lengths)))]
    return [[i for i, each in enumerate(lengths) if each == n] for n in sorted(set(lengths))]


def _decoded(
    model: Any, tap: RoutingTap, batch: Sequence[RenderedPrompt], kept: Sequence[np.ndarray]
) -> tuple[Integer[np.ndarray, "batch answer"], list[PassRecords]]:
    """Tokens of the answers, padded after their ends, and the records of each pass."""
    starts = row_starts(batch, side="left")
    select_rows(tap, starts, [len(each.token_id) for each in batch], kept)
    inputs = padded(batch, model, side="left")
    prompts = inputs["input_ids"]
    steps: list[PassRecords] = []

    def check_step(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        _check_step(len(steps), kwargs.get("input_ids"), prompts)

    def take_step(*_: Any) -> None:
        steps.append(tap.take())
        tap.select()

    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(check_step, with_kwargs=True).remove)
        stack.callback(model.register_forward_hook(take_step).remove)
        ids = model.generate(input_ids=prompts, attention_mask=inputs["attention_mask"])
    return ids[:, prompts.shape[1] :].cpu().numpy(), steps


def _check_step(step: int, ids: Tensor | None, prompts: Tensor) -> None:
    """The first pass is of the prompts, and each later one of a token for each of them."""
    expected = tuple(prompts.shape) if step == 0 else (len(prompts), 1)
    found = None if ids is None else tuple(ids.shape)
    if found != expected:
        raise ModelError(
            f"while decoding, pass {step} was of token ids of shape {found}, expected {expected}: "
            "one row for each prompt, whole at first and then a token at a time; this model's "
            "generate() decodes otherwise, so that its answers cannot be recorded"
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
        unknown = np.full(n_tokens, np.nan, dtype=np.float32)
        yield whole, activations(whole, records, np.concatenate([kept[index], of_answer]), unknown)


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


@contextmanager
def _own_config(model: Any, settings: GenerationSettings) -> Iterator[list[int]]:
    """Nothing of the checkpoint's generation config but its end tokens, which are given.

    transformers fills in from there what a config of ours leaves unset, so ours takes its place.
    """
    usual, ends = model.generation_config, _end_tokens(model)
    sampling = {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
    model.generation_config = GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        do_sample=settings.temperature > 0,
        eos_token_id=ends or None,
        pad_token_id=model.config.pad_token_id or 0,
        **(sampling if settings.temperature > 0 else {}),
    )
    try:
        yield ends
    finally:
        model.generation_config = usual


def _end_tokens(model: Any) -> list[int]:
    ids = model.generation_config.eos_token_id
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """A random stream of its own; the user's goes on afterwards where it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
