"""Batches of rendered prompts: by like length, padded, passed through a model, and taken apart."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor

from interp.cache.records import PROMPT_FIELDS, PromptActivations
from interp.hooks.logprobs import last_hidden_state, token_logprobs
from interp.hooks.pass_records import TOKEN_FIELDS, PassRecords
from interp.hooks.positions import kept_positions
from interp.hooks.render import RenderedPrompt
from interp.hooks.tap import RoutingTap

WINDOW = 64
"""Prompts that are sorted by length and batched together; a store keeps their given order."""
PaddingSide = Literal["left", "right"]


@runtime_checkable
class Tokens(Protocol):
    """What can be put into a batch: a rendered prompt, or any other tokens."""

    @property
    def token_id(self) -> Integer[np.ndarray, "tokens"]:
        """Ids of one sequence, without padding."""


def by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Batches of indices, shortest first, each of at most `batch_tokens` with its padding.

    One that is longer than that is a batch of its own.
    """
    members: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda each: lengths[each]):
        if members and lengths[index] * (len(members) + 1) > batch_tokens:
            yield members
            members = []
        members.append(index)
    yield members


def windows(
    lengths: Sequence[int], batch_tokens: int, *, start: int = 0
) -> Iterator[tuple[range, list[list[int]]]]:
    """Spans of prompts in their given order, each with its batches of indices.

    The batches are those that there are from the first prompt on, wherever the start is, since in
    bfloat16 another batch gives other bits.

    Args:
        lengths: Tokens of each prompt.
        batch_tokens: Tokens of a batch, padding included.
        start: The first prompt that is wanted; spans before it are left out.
    """
    for first in range(start - start % WINDOW, len(lengths), WINDOW):
        span = range(first, min(first + WINDOW, len(lengths)))
        of_span = by_length([lengths[each] for each in span], batch_tokens)
        yield span, [[first + each for each in members] for members in of_span]


def padded(
    batch: Sequence[Tokens], model: Any, *, side: PaddingSide = "right"
) -> dict[str, Tensor]:
    """Token ids, attention mask and position ids, `[batch pos]`; a token's position is its own
    place in its prompt, wherever the padding is.
    """
    width = max(len(each.token_id) for each in batch)
    missing = [width - len(each.token_id) for each in batch]
    spans = [(0, n) if side == "right" else (n, 0) for n in missing]
    pad = model.config.pad_token_id or 0
    ids = [
        np.pad(each.token_id, n, constant_values=pad) for each, n in zip(batch, spans, strict=True)
    ]
    mask = [np.pad(np.ones_like(each.token_id), n) for each, n in zip(batch, spans, strict=True)]
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    # Where even the embedding is offloaded, the inputs are moved for it.
    device = "cpu" if model.device.type == "meta" else model.device
    arrays = {"input_ids": np.stack(ids), "attention_mask": np.stack(mask)}
    arrays["position_ids"] = positions
    return {
        name: torch.from_numpy(each.astype(np.int64)).to(device) for name, each in arrays.items()
    }


def row_starts(
    batch: Sequence[Tokens], *, side: PaddingSide = "right"
) -> Integer[np.ndarray, "batch"]:
    """Row of each prompt's first token when `(batch pos)` is flattened."""
    lengths = np.array([len(each.token_id) for each in batch])
    width = lengths.max()
    starts: Integer[np.ndarray, batch] = np.arange(len(batch)) * width
    return starts if side == "right" else starts + width - lengths


def run_batch(
    model: Any,
    tap: RoutingTap,
    batch: Sequence[RenderedPrompt],
    positions: str,
    *,
    side: PaddingSide = "right",
    logprobs: bool = False,
) -> list[PromptActivations]:
    """One forward pass; rows of padding are dropped at the tap."""
    kept = [kept_positions(positions, each.segment) for each in batch]
    starts = row_starts(batch, side=side)
    lengths = [len(each.token_id) for each in batch]
    select_rows(tap, starts, lengths, kept)
    inputs = padded(batch, model, side=side)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        hidden = stack.enter_context(last_hidden_state(model)) if logprobs else []
        output = model(**inputs, use_cache=False, logits_to_keep=1)
        known = [np.full(n, np.nan, dtype=np.float32) for n in lengths]
        if logprobs:
            known = token_logprobs(
                model,
                hidden[0],
                inputs["input_ids"],
                starts=starts,
                lengths=lengths,
                last_logits=output.logits,
            )
    records = tap.take()
    tokens = np.cumsum([0, *lengths])
    rows = np.cumsum([0] + [len(each) for each in kept])
    return [
        activations(
            rendered,
            part_of(
                records,
                tokens=slice(*tokens[index : index + 2]),
                rows=slice(*rows[index : index + 2]),
            ),
            kept[index],
            known[index],
        )
        for index, rendered in enumerate(batch)
    ]


def select_rows(
    tap: RoutingTap,
    starts: Integer[np.ndarray, "batch"],
    lengths: Sequence[int],
    kept: Sequence[Integer[np.ndarray, "_"]],
) -> None:
    """Have the tap keep all tokens of each prompt, and residuals of the `kept` ones; no padding."""
    tokens = [start + np.arange(length) for start, length in zip(starts, lengths, strict=True)]
    rows = [start + each for start, each in zip(starts, kept, strict=True)]
    tap.select(
        tokens=torch.from_numpy(np.concatenate(tokens)),
        resid=torch.from_numpy(np.concatenate(rows)),
    )


def part_of(records: PassRecords, *, tokens: slice, rows: slice) -> PassRecords:
    """The records of some tokens, and of some rows of the residual streams."""
    of_tokens = {name: getattr(records, name) for name in TOKEN_FIELDS}
    return replace(
        records,
        **{name: each[tokens] for name, each in of_tokens.items() if each is not None},
        resid={key: each[rows] for key, each in records.resid.items()},
    )


def activations(
    rendered: RenderedPrompt,
    records: PassRecords,
    kept: Integer[np.ndarray, "rows"],
    logprob: Float[np.ndarray, "tokens"],
) -> PromptActivations:
    """What is stored of one prompt, from the records of exactly its tokens."""
    assert records.expert_indices is not None
    assert records.expert_weights is not None
    logits, norms = records.router_logits, records.expert_output_norms
    return PromptActivations(
        prompt={name: str(getattr(rendered.prompt, name)) for name in PROMPT_FIELDS},
        text=rendered.text,
        token_id=rendered.token_id,
        position=np.arange(len(rendered.token_id), dtype=np.int32),
        segment=rendered.segment,
        generated=rendered.generated,
        logprob=logprob,
        text_end=rendered.text_end,
        expert_indices=records.expert_indices.numpy(),
        expert_weights=records.expert_weights.float().numpy(),
        router_logits=None if logits is None else logits.float().numpy(),
        expert_output_norms=None if norms is None else norms.numpy(),
        resid_token_index=kept.astype(np.int64) if records.resid else None,
        resid={key: resid_array(each) for key, each in records.resid.items()},
    )


def resid_array(rows: Tensor) -> Shaped[np.ndarray, "rows d_model"]:
    """Rows as an array; bfloat16, which NumPy lacks, as its 16 raw bits."""
    return rows.view(torch.uint16).numpy() if rows.dtype == torch.bfloat16 else rows.numpy()
