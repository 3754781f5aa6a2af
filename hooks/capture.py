"""Capture: prompts go through a model, and what its taps saw goes into a store."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from interp.cache.background import BackgroundWriter
from interp.cache.errors import InputError
from interp.cache.records import RESID_SITES, Layout, Prompt, PromptActivations
from interp.cache.writer import StoreWriter
from interp.hooks.batches import run_batch, windows
from interp.hooks.blocks import routed_blocks
from interp.hooks.generation import generate
from interp.hooks.load import LoadedModel, model_provenance
from interp.hooks.render import RenderedPrompt, render_prompt
from interp.hooks.residual_edits import residual_edits
from interp.hooks.self_check import self_check
from interp.hooks.settings import CaptureSettings
from interp.hooks.tap import RoutingTap, chosen_blocks

SLOW_DISK = 0.2
"""Share of the time; where more is spent waiting for the disk, the bar says so."""
CHECKED_TOKENS = 1024
"""A prompt that is longer than this is not passed through the model again and again to check it."""


def capture(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    out: str | Path,
    *,
    settings: CaptureSettings | None = None,
    part_mb: float = 512.0,
    registered: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> bool:
    """Run every prompt through the model once and write a store of what the taps saw.

    With `settings.generation` the model also answers, and what its taps saw while it decoded is
    stored with the prompt. The same model, prompts and settings again go on where an earlier run
    was stopped, to the same bytes as without the stop, and do nothing where it was not. Before
    anything is written, the shortest prompt and a long one are checked as `interp.hooks.self_check`
    says.

    Args:
        loaded: From `load_model`.
        prompts: In the order in which the store keeps them.
        out: The store's folder, such as `run.moe`.
        settings: What to record.
        part_mb: A part of the store has at most so many MB, and what is not yet in a part is lost
            when the process is stopped.
        registered: What was decided before the data were seen, such as the rule of a study; goes to
            the provenance, and so into every part.
        progress: Show a bar on stderr.

    Returns:
        Whether anything was captured; False if the store was already there.

    Raises:
        InputError: If there is no prompt, one cannot be rendered, another store is at `out`, or
            another process is writing to it.
        ModelError: If the self-check of the first batch fails.
        StorageError: If there is no space left; what was sealed is kept.
    """
    settings, out = settings or CaptureSettings(), Path(out)
    _refuse_edited(loaded.model)
    rendered = rendered_prompts(prompts, loaded.tokenizer, settings)
    pair = shortest_and_long(rendered)
    checked = self_check(loaded.model, loaded.tokenizer, pair, settings=settings)
    provenance = capture_provenance(
        loaded, prompts, settings=settings, registered=registered, path=checked["experts_path"]
    )
    return write_captured(
        loaded,
        rendered,
        out,
        settings=settings,
        provenance=provenance,
        checked=checked,
        part_mb=part_mb,
        progress=progress,
    )


def write_captured(
    loaded: LoadedModel,
    rendered: Sequence[RenderedPrompt],
    out: Path,
    *,
    settings: CaptureSettings,
    provenance: Mapping[str, Any],
    checked: Mapping[str, Any],
    part_mb: float = 512.0,
    progress: bool = True,
) -> bool:
    """Run rendered prompts through a model that was checked, and write their store.

    Args:
        loaded: The model.
        rendered: All prompts of the store.
        out: The store's folder.
        settings: What to record.
        provenance: From `capture_provenance`.
        checked: From the self-check.
        part_mb: As in `capture`.
        progress: Show a bar on stderr.

    Returns:
        Whether anything was captured; False if the store was already there.
    """
    layout = model_layout(loaded.model, settings)
    with StoreWriter(
        out, layout=layout, provenance=provenance, part_mb=part_mb, self_check=checked
    ) as writer:
        if writer.is_complete:
            return False
        rest = captured(loaded, rendered, settings=settings, start=writer.n_prompts)
        with (
            tqdm(
                total=len(rendered),
                initial=writer.n_prompts,
                desc="capture",
                unit="prompt",
                disable=not progress,
            ) as bar,
            BackgroundWriter(writer) as background,
        ):
            begin = time.perf_counter()
            for each in rest:
                background.add(each)
                if background.waited_s > SLOW_DISK * (time.perf_counter() - begin):
                    bar.set_postfix_str("waiting for the disk", refresh=False)
                bar.update()
    return True


def rendered_prompts(
    prompts: Sequence[Prompt], tokenizer: Any, settings: CaptureSettings
) -> list[RenderedPrompt]:
    """The tokens of every prompt.

    Raises:
        InputError: If there is no prompt, or one cannot be rendered.
    """
    if not prompts:
        raise InputError("there is no prompt to capture; give at least one")
    today = date.fromisoformat(settings.today)
    return [render_prompt(prompt, tokenizer, today=today) for prompt in prompts]


def capture_provenance(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    *,
    settings: CaptureSettings,
    registered: Mapping[str, Any] | None,
    path: Sequence[str],
) -> dict[str, Any]:
    """What a store says of its capture: model, path of the experts, settings, prompts, licences."""
    provenance = model_provenance(loaded) | {
        "experts_path": list(path),
        "settings": json.loads(json.dumps(asdict(settings))),
        "prompts_sha256": prompts_digest(prompts),
    }
    licenses = source_licenses(prompts)
    return (
        provenance
        | ({"registered": dict(registered)} if registered else {})
        | ({"source_licenses": licenses} if licenses else {})
    )


def shortest_and_long(rendered: Sequence[RenderedPrompt]) -> list[RenderedPrompt]:
    """The shortest prompt and a long one: together in a batch, one of them is padded much."""
    by_size = sorted(rendered, key=lambda each: len(each.token_id))
    longer = [each for each in by_size[1:] if len(each.token_id) <= CHECKED_TOKENS]
    return [by_size[0], *longer[-1:]]


def _refuse_edited(model: Any) -> None:
    """A store names the model, and would pass for a recording of it as it is."""
    edited = [
        block.layer
        for block in routed_blocks(model)
        if block.is_edited or (block.bias is not None and block.bias.isneginf().any())
    ]
    if edited:
        raise InputError(
            f"experts of layers {edited} are taken out or routed by an intervention, which the "
            "store would not say; close it first, or record with a RoutingTap"
        )
    if places := [f"{each.site} of layer {each.layer}" for each in residual_edits(model)]:
        raise InputError(
            f"{places[0]} is changed by an intervention, which the store would not say; close it "
            "first, or record with a RoutingTap"
        )


def captured(
    loaded: LoadedModel,
    rendered: Sequence[RenderedPrompt],
    *,
    settings: CaptureSettings,
    start: int = 0,
) -> Iterator[PromptActivations]:
    """The activations of each prompt, in the given order, computed in batches of like length.

    Args:
        loaded: The model.
        rendered: All prompts.
        settings: What to record.
        start: The first prompt that is wanted.
    """
    longer = settings.generation.max_new_tokens if settings.generation else 0
    lengths = [len(each.token_id) + longer for each in rendered]
    with RoutingTap(loaded.model, sites=settings.sites, layers=settings.layers) as tap:
        for span, batches in windows(lengths, settings.batch_tokens, start=start):
            found: dict[int, PromptActivations] = {}
            for members in batches:
                if max(members) < start:
                    continue
                batch = [rendered[each] for each in members]
                found |= zip(members, halving(loaded, tap, batch, settings), strict=True)
            yield from (found[each] for each in span if each >= start)


def halving(
    loaded: LoadedModel,
    tap: RoutingTap,
    batch: Sequence[RenderedPrompt],
    settings: CaptureSettings,
) -> list[PromptActivations]:
    """The activations of a batch; in two halves, and these likewise, where memory is too small.

    Raises:
        InputError: If even one prompt alone does not fit.
    """
    try:
        return _run(loaded, tap, batch, settings)
    except torch.OutOfMemoryError as error:
        if len(batch) == 1:
            raise InputError(
                f"a prompt of {len(batch[0].token_id)} tokens does not fit into the memory of the "
                "device with what is recorded of it; record fewer sites or positions, or leave "
                "such prompts out"
            ) from error
    tap.discard()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(batch) // 2
    halves = batch[:middle], batch[middle:]
    return [each for half in halves for each in halving(loaded, tap, half, settings)]


def _run(
    loaded: LoadedModel,
    tap: RoutingTap,
    batch: Sequence[RenderedPrompt],
    settings: CaptureSettings,
) -> list[PromptActivations]:
    if settings.generation is None:
        logprobs = settings.logprobs
        return run_batch(loaded.model, tap, batch, settings.positions, logprobs=logprobs)
    answered = generate(
        loaded.model,
        loaded.tokenizer,
        tap,
        batch,
        settings=settings.generation,
        positions=settings.positions,
    )
    return [each for _, each in answered]


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
        weights_sum="one" if blocks[0].weights_sum_to_one else "family",
        resid_sites=tuple(site for site in RESID_SITES if site in settings.sites),
        resid_dtype=dtype,
        router_logits="router_logits" in settings.sites,
        expert_output_norms="expert_output_norms" in settings.sites,
    )


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of the fields of all prompts, in order."""
    lines = [json.dumps(asdict(prompt), ensure_ascii=False, sort_keys=True) for prompt in prompts]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def source_licenses(prompts: Sequence[Prompt]) -> dict[str, str]:
    """Licence of each source, of those whose prompts all state one in `meta["license"]`."""
    stated: dict[str, set[str]] = {}
    for prompt in prompts:
        stated.setdefault(prompt.source, set()).add(str(prompt.meta.get("license") or ""))
    return {
        source: " and ".join(sorted(licenses))
        for source, licenses in sorted(stated.items())
        if source and "" not in licenses
    }
