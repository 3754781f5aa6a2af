"""Capture: prompts go through a model, and what its taps saw goes into a store."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor
from tqdm import tqdm

from interp.cache.errors import InputError
from interp.cache.records import (
    PROMPT_FIELDS,
    RESID_SITES,
    Layout,
    Prompt,
    PromptActivations,
)
from interp.cache.writer import StoreWriter, is_captured
from interp.hooks.load import LoadedModel, model_provenance
from interp.hooks.pass_records import PassRecords
from interp.hooks.positions import check_positions, kept_positions
from interp.hooks.render import PINNED_DATE, RenderedPrompt, render_prompt
from interp.hooks.tap import RoutingTap, chosen_blocks, chosen_sites

DEFAULT_SITES = ("resid_post", "expert_indices", "expert_weights")
WINDOW = 64
"""Prompts that are sorted by length and batched together; the store keeps their given order."""


@dataclass(frozen=True, kw_only=True)
class CaptureSettings:
    """What to record of each prompt, and how prompts are batched.

    Raises:
        InputError: If a site, position or size is not known.
    """

    sites: tuple[str, ...] = DEFAULT_SITES
    """Sites to record; `expert_indices` and `expert_weights` always are."""
    layers: tuple[int, ...] | None = None
    """Numbers of the layers to record; all routed layers if None."""
    positions: str = "last_content"
    """Tokens whose residuals are kept: `all`, `last_content` or `every:n`; routing of all."""
    batch_tokens: int = 4096
    """Tokens per forward pass, padding included; a longer prompt is a batch of its own."""
    today: str = PINNED_DATE.isoformat()
    """The date that the chat template shows, as YYYY-MM-DD."""

    def __post_init__(self) -> None:
        sites = chosen_sites((*self.sites, "expert_indices", "expert_weights"))
        object.__setattr__(self, "sites", sites)
        layers = None if self.layers is None else tuple(sorted(set(self.layers)))
        object.__setattr__(self, "layers", layers)
        check_positions(self.positions)
        if self.batch_tokens < 1:
            raise InputError(f"batch_tokens is {self.batch_tokens}, expected 1 or more")
        try:
            date.fromisoformat(self.today)
        except ValueError as error:
            raise InputError(
                f"today is {self.today!r}, expected a date such as 2025-08-05"
            ) from error


def capture(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    out: str | Path,
    *,
    settings: CaptureSettings | None = None,
    progress: bool = True,
) -> bool:
    """Run every prompt through the model once and write a store of what the taps saw.

    The same model, prompts and settings again do nothing. The first batch is checked as
    `interp.hooks.check` says before anything is written.

    Args:
        loaded: From `load_model`.
        prompts: In the order in which the store keeps them.
        out: The store's folder, such as `run.moe`.
        settings: What to record.
        progress: Show a bar on stderr.

    Returns:
        Whether anything was captured; False if the store was already there.

    Raises:
        InputError: If there is no prompt, one cannot be rendered, or another store is at `out`.
        ModelError: If the self-check of the first batch fails.
    """
    settings, out = settings or CaptureSettings(), Path(out)
    if not prompts:
        raise InputError("there is no prompt to capture; give at least one")
    today = date.fromisoformat(settings.today)
    rendered = [render_prompt(prompt, loaded.tokenizer, today=today) for prompt in prompts]
    layout = model_layout(loaded.model, settings)
    provenance = model_provenance(loaded) | {
        "self_check": self_check(loaded.model, rendered[:1], settings=settings),
        "settings": json.loads(json.dumps(asdict(settings))),
        "prompts_sha256": prompts_digest(prompts),
    }
    if is_captured(out, layout=layout, provenance=provenance):
        return False
    activations = captured(loaded.model, rendered, settings=settings)
    bar = tqdm(total=len(rendered), desc="capture", unit="prompt", disable=not progress)
    with bar, StoreWriter(out, layout=layout, provenance=provenance) as writer:
        for each in activations:
            writer.add(each)
            bar.update()
    return True


def self_check(
    model: Any, rendered: Sequence[RenderedPrompt], *, settings: CaptureSettings
) -> dict[str, list[Any]]:
    """Pass a few prompts through the model, check what the tap saw, and say what was checked.

    Returns:
        Sites, layers, and the layers whose own router was called and chose the same experts.

    Raises:
        ModelError: If a check fails; names the layer and the site.
    """
    with RoutingTap(model, sites=settings.sites, layers=settings.layers) as tap:
        run_batch(model, tap, rendered, settings.positions)
    return {
        "sites": list(tap.sites),
        "layers": [block.layer for block in tap.blocks],
        "layers_compared_with_router": list(tap.compared_layers),
    }


def captured(
    model: Any, rendered: Sequence[RenderedPrompt], *, settings: CaptureSettings
) -> Iterator[PromptActivations]:
    """The activations of each prompt, in the given order, computed in batches of like length."""
    sites, layers = settings.sites, settings.layers
    with RoutingTap(model, sites=sites, layers=layers) as tap:
        for start in range(0, len(rendered), WINDOW):
            window = rendered[start : start + WINDOW]
            order = sorted(range(len(window)), key=lambda each: len(window[each].token_id))
            found: dict[int, PromptActivations] = {}
            for members in _batches(
                [len(window[each].token_id) for each in order], settings.batch_tokens
            ):
                indices = [order[member] for member in members]
                batch = [window[each] for each in indices]
                found |= zip(indices, run_batch(model, tap, batch, settings.positions), strict=True)
            yield from (found[each] for each in range(len(window)))


def run_batch(
    model: Any, tap: RoutingTap, batch: Sequence[RenderedPrompt], positions: str
) -> list[PromptActivations]:
    """One forward pass over right-padded prompts; rows of padding are dropped at the tap."""
    lengths = [len(each.token_id) for each in batch]
    width = max(lengths)
    kept = [kept_positions(positions, each.segment) for each in batch]
    token_rows = [row * width + np.arange(length) for row, length in enumerate(lengths)]
    resid_rows = [row * width + each for row, each in enumerate(kept)]
    tap.select(
        tokens=torch.from_numpy(np.concatenate(token_rows)),
        resid=torch.from_numpy(np.concatenate(resid_rows)),
    )
    with torch.inference_mode():
        model(**padded(batch, width, model), use_cache=False, logits_to_keep=1)
    records = tap.take()
    return list(_split(records, batch, kept))


def padded(batch: Sequence[RenderedPrompt], width: int, model: Any) -> dict[str, Tensor]:
    """Token ids and attention mask, `[batch pos]`, padded on the right to `width`."""
    pad = model.config.pad_token_id or 0
    rows = [
        np.pad(each.token_id, (0, width - len(each.token_id)), constant_values=pad)
        for each in batch
    ]
    mask = [np.arange(width) < len(each.token_id) for each in batch]
    # Where even the embedding is offloaded, the inputs are moved for it.
    device = "cpu" if model.device.type == "meta" else model.device
    return {
        "input_ids": torch.from_numpy(np.stack(rows).astype(np.int64)).to(device),
        "attention_mask": torch.from_numpy(np.stack(mask).astype(np.int64)).to(device),
    }


def model_layout(model: Any, settings: CaptureSettings) -> Layout:
    """Sizes and dtypes of what will be captured."""
    blocks = chosen_blocks(model, settings.layers)
    dtype = str(model.dtype).removeprefix("torch.")
    return Layout(
        n_layers=len(blocks),
        layer_indices=tuple(block.layer for block in blocks),
        n_experts=blocks[0].n_experts,
        top_k=blocks[0].top_k,
        d_model=model.config.hidden_size,
        resid_sites=tuple(site for site in RESID_SITES if site in settings.sites),
        resid_dtype=dtype,
        router_logits="router_logits" in settings.sites,
    )


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of the fields of all prompts, in order."""
    lines = [json.dumps(asdict(prompt), ensure_ascii=False, sort_keys=True) for prompt in prompts]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def resid_array(rows: Tensor) -> Shaped[np.ndarray, "rows d_model"]:
    """Rows as an array; bfloat16, which NumPy lacks, as its 16 raw bits."""
    return rows.view(torch.uint16).numpy() if rows.dtype == torch.bfloat16 else rows.numpy()


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    members: list[int] = []
    for index, length in enumerate(lengths):
        if members and length * (len(members) + 1) > batch_tokens:
            yield members
            members = []
        members.append(index)
    yield members


def _split(
    records: PassRecords, batch: Sequence[RenderedPrompt], kept: Sequence[np.ndarray]
) -> Iterator[PromptActivations]:
    tokens = np.cumsum([0] + [len(each.token_id) for each in batch])
    rows = np.cumsum([0] + [len(each) for each in kept])
    for index, rendered in enumerate(batch):
        of_tokens, of_rows = slice(*tokens[index : index + 2]), slice(*rows[index : index + 2])
        yield PromptActivations(
            prompt={name: str(getattr(rendered.prompt, name)) for name in PROMPT_FIELDS},
            text=rendered.text,
            token_id=rendered.token_id,
            position=np.arange(len(rendered.token_id), dtype=np.int32),
            segment=rendered.segment,
            generated=np.zeros(len(rendered.token_id), dtype=bool),
            logprob=np.full(len(rendered.token_id), np.nan, dtype=np.float32),
            text_end=rendered.text_end,
            expert_indices=_numpy(records.expert_indices, of_tokens, np.int64),
            expert_weights=_numpy(records.expert_weights, of_tokens, np.float32),
            router_logits=None
            if records.router_logits is None
            else _numpy(records.router_logits, of_tokens, np.float32),
            resid_token_index=kept[index].astype(np.int64) if records.resid else None,
            resid={key: resid_array(each[of_rows]) for key, each in records.resid.items()},
        )


def _numpy(tensor: Tensor | None, rows: slice, dtype: Any) -> np.ndarray:
    assert tensor is not None
    kept = tensor[rows]
    return (kept.float() if kept.is_floating_point() else kept).numpy().astype(dtype)
