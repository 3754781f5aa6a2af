"""Capture of a model that does not fit in memory: all prompts through one layer, then the next.

Each layer's weights are read once, whatever the number of prompts, and forgotten before the next
ones. A store that was made so is the one that `interp.hooks.capture` makes, but for what it says of
the way that it was made.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interp.cache.errors import InputError
from interp.cache.records import Prompt
from interp.cache.writer import StoreWriter
from interp.hooks.capture import (
    capture_provenance,
    model_layout,
    rendered_prompts,
)
from interp.hooks.layer_weights import LayerWeights
from interp.hooks.self_check import experts_path
from interp.hooks.settings import CaptureSettings
from interp.hooks.stream_batches import StreamBatches
from interp.hooks.stream_scratch import Scratch
from interp.hooks.streamed_passes import StreamedPasses
from interp.hooks.tap import chosen_blocks


def capture_streamed(
    name_or_path: str | Path,
    prompts: Sequence[Prompt],
    out: str | Path,
    *,
    settings: CaptureSettings | None = None,
    dtype: str = "auto",
    part_mb: float = 512.0,
    registered: Mapping[str, Any] | None = None,
    scratch: Path | None = None,
    progress: bool = True,
) -> bool:
    """Run every prompt through a model layer by layer and write a store of what the taps saw.

    In memory there is one layer at a time, what is stored of the next one, and a batch; on disk,
    until the store is whole, the residual stream twice and all records. The same call again goes
    on behind the last whole layer of one that was stopped.

    Args:
        name_or_path: A hub name or a directory with safetensors files; MXFP4 is unpacked.
        prompts: In the order in which the store keeps them.
        out: The store's folder, such as `run.moe`.
        settings: What to record, without answers.
        dtype: `auto` for the checkpoint's own, or a name such as `float32`.
        part_mb: As in `capture`.
        registered: As in `capture`.
        scratch: Folder for what is needed until the store is whole; beside the store if None.
        progress: Show a bar on stderr.

    Returns:
        Whether anything was captured; False if the store was already there.

    Raises:
        InputError: If there is no prompt, answers are asked for, the model cannot be streamed, or
            another capture is in the way.
        ModelError: If a layer fails the checks of its first batch.
        StorageError: If there is no space left; the layers before are kept.
    """
    settings, out = settings or CaptureSettings(), Path(out)
    if settings.generation is not None:
        raise InputError(
            "a streamed capture has no model to answer with; leave out max_new_tokens, or capture "
            "with the engine memory"
        )
    with LayerWeights(name_or_path, dtype=dtype) as weights:
        rendered = rendered_prompts(prompts, weights.loaded.tokenizer, settings)
        blocks = chosen_blocks(weights.model, settings.layers)
        provenance = capture_provenance(
            weights.loaded,
            prompts,
            settings=settings,
            registered=registered,
            path=experts_path(blocks, [block.layer for block in blocks]),
        ) | {"engine": "stream", "device": "cpu"}
        layout = model_layout(weights.model, settings)
        folder = out.parent / f".{out.name}.layers" if scratch is None else scratch
        with StoreWriter(out, layout=layout, provenance=provenance, part_mb=part_mb) as writer:
            if writer.is_complete:
                return False
            with Scratch(folder, provenance) as kept:
                batches = StreamBatches.of(rendered, settings)
                passes = StreamedPasses(weights, batches, settings, kept)
                passes.run(progress=progress)
                writer.note_self_check(passes.self_check())
                for index in range(writer.n_prompts, len(rendered)):
                    writer.add(passes.activations(index))
        kept.remove()
    return True
