"""A dry run: how large the store of a capture will be, from the tokenizer and the config alone."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from interp.cache.checks import RESID_DTYPES, index_dtype
from interp.cache.errors import InputError
from interp.cache.plan import StorePlan, planned, shape_only
from interp.cache.records import PROMPT_FIELDS, Layout, Prompt
from interp.cache.stored import Stored
from interp.hooks.capture import model_layout
from interp.hooks.load import check_names
from interp.hooks.positions import kept_positions
from interp.hooks.render import RenderedPrompt, render_prompt
from interp.hooks.settings import CaptureSettings
from interp.hooks.tap import chosen_blocks

REST_OF_PROVENANCE = 2_000
"""Bytes of what provenance holds beside config and chat template, about."""


@dataclass(frozen=True, kw_only=True)
class CapturePlan:
    """What a capture will write, and what there is room for."""

    store: StorePlan
    bytes_per_token: dict[str, float]
    """By group of datasets, on disk."""
    free_bytes: int
    """On the disk that the store goes to."""


def capture_plan(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    out: Path,
    *,
    settings: CaptureSettings,
    part_mb: float = 512.0,
) -> CapturePlan:
    """Render the prompts and add up what will be stored of them; nothing is run or written.

    Args:
        model: Its modules, on the meta device or any other.
        tokenizer: Of the model.
        prompts: All that are to be captured.
        out: Where the store is to be; its folder says how much is free.
        settings: What to record. Answers count with all their `max_new_tokens`.
        part_mb: As in `StoreWriter`.

    Raises:
        InputError: If there is no prompt, or one cannot be rendered.
    """
    if not prompts:
        raise InputError("there is no prompt to capture; give at least one")
    layout = model_layout(model, settings)
    layers = [block.layer for block in chosen_blocks(model, settings.layers)]
    rendered = (render_prompt(prompt, tokenizer) for prompt in prompts)
    store = planned(
        (_stored(each, layout, layers, settings) for each in rendered),
        layout=layout,
        provenance=" " * (_described_bytes(model, tokenizer) + REST_OF_PROVENANCE),
        part_bytes=int(part_mb * 10**6),
    )
    per_token = {name: n / store.n_tokens for name, n in store.bytes_by_dataset.items()}
    free = shutil.disk_usage(out.absolute().parent).free
    return CapturePlan(store=store, bytes_per_token=per_token, free_bytes=free)


def skeleton(name_or_path: str | Path, *, dtype: str) -> tuple[Any, Any]:
    """The modules of a model without its weights, and its tokenizer.

    Raises:
        InputError: If there is no such model or dtype.
    """
    check_names(str(name_or_path), dtype)
    try:
        config = AutoConfig.from_pretrained(name_or_path)
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name_or_path} cannot be loaded as a model ({error}); give toy, a hub name or a "
            "directory"
        ) from error
    is_packed = getattr(config, "quantization_config", None) is not None
    own = config.dtype or (torch.bfloat16 if is_packed else torch.float32)
    wanted = own if dtype == "auto" else getattr(torch, dtype)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=wanted), tokenizer


def _stored(
    rendered: RenderedPrompt, layout: Layout, layers: Sequence[int], settings: CaptureSettings
) -> Stored:
    """The texts and tokens of a prompt, and the shapes of all else."""
    n_answer = settings.generation.max_new_tokens if settings.generation else 0
    n_tokens = len(rendered.token_id) + n_answer
    kept = kept_positions(settings.positions, rendered.segment)
    n_rows = len(kept) + (0 if settings.positions == "last_content" else n_answer)
    sized = (n_tokens, layout.n_layers)
    router = {
        "expert_indices": shape_only((*sized, layout.top_k), index_dtype(layout.n_experts)),
        "expert_weights": shape_only((*sized, layout.top_k), layout.weights_dtype),
    }
    if layout.router_logits:
        router["router_logits"] = shape_only((*sized, layout.n_experts), layout.weights_dtype)
    norms = {"expert_output_norms": shape_only((*sized, layout.top_k), "<f4")}
    resid_dtype = RESID_DTYPES[layout.resid_dtype]
    return Stored(
        fields={name: str(getattr(rendered.prompt, name)).encode() for name in PROMPT_FIELDS},
        text=rendered.text.encode(),
        tokens=_tokens(rendered, n_answer),
        router=router,
        experts=norms if layout.expert_output_norms else {},
        resid_token_index=shape_only((n_rows,), "<i8") if layout.resid_sites else None,
        resid={
            (site, layer): shape_only((n_rows, layout.d_model), resid_dtype)
            for site in layout.resid_sites
            for layer in layers
        },
    )


def _described_bytes(model: Any, tokenizer: Any) -> int:
    template = getattr(tokenizer, "chat_template", None) or ""
    return len(template) + len(model.config.to_json_string(use_diff=False))


def _tokens(rendered: RenderedPrompt, n_answer: int) -> dict[str, np.ndarray]:
    given = {
        "token_id": rendered.token_id.astype("<i4"),
        "position": np.arange(len(rendered.token_id), dtype="<i4"),
        "segment": rendered.segment.astype("<u1"),
        "generated": rendered.generated,
        "logprob": np.full(len(rendered.token_id), np.nan, dtype="<f4"),
        "text_end": rendered.text_end.astype("<i4"),
    }
    return {name: np.pad(each, (0, n_answer), mode="edge") for name, each in given.items()}
