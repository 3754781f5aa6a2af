"""How far routing depends on rounding: on how prompts are batched, and on ties at the last rank."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from interp.hooks.batches import padded, row_starts, select_rows
from interp.hooks.render import RenderedPrompt
from interp.hooks.tap import RoutingTap


@dataclass(frozen=True)
class RoutingStability:
    """Of some prompts, passed through a model alone and in one batch."""

    dtype: str
    """Of the model."""
    n_tokens: int
    layer_indices: tuple[int, ...]
    flip_rate: tuple[float, ...]
    """By layer: share of tokens whose set of experts is another one in the batch, 0 to 1."""
    tie_rate: tuple[float, ...]
    """By layer: share of tokens whose last expert is level with the first left out, 0 to 1."""


def routing_stability(model: Any, batch: Sequence[RenderedPrompt]) -> RoutingStability:
    """Pass each prompt alone, and all in one batch padded on either side, and compare the experts.

    In float32 a token has the same experts whatever its batch, but for near ties; in bfloat16 the
    sums of another shape of batch round differently, and what differs in one layer differs more in
    the next. A difference in usage below the flip rate is not one of the inputs.
    """
    with RoutingTap(model, sites=("expert_indices", "router_logits")) as tap:
        alone = [_records(model, tap, [each]) for each in batch]
        together = [_records(model, tap, batch, side=side) for side in ("right", "left")]
    indices = np.concatenate([each[0] for each in alone])
    flips = np.max([(indices != each[0]).any(-1).mean(axis=0) for each in together], axis=0)
    margins = np.concatenate([each[1] for each in alone])
    return RoutingStability(
        dtype=str(model.dtype).removeprefix("torch."),
        n_tokens=len(indices),
        layer_indices=tuple(block.layer for block in tap.blocks),
        flip_rate=tuple(float(each) for each in flips),
        tie_rate=tuple(float(each) for each in (margins == 0).mean(axis=0)),
    )


def _records(
    model: Any, tap: RoutingTap, batch: Sequence[RenderedPrompt], *, side: Any = "right"
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted expert indices, `[tokens layers top_k]`, and margins, `[tokens layers]`."""
    lengths = [len(each.token_id) for each in batch]
    select_rows(tap, row_starts(batch, side=side), lengths, [np.arange(0)] * len(batch))
    with torch.inference_mode():
        model(**padded(batch, model, side=side), use_cache=False, logits_to_keep=1)
    records = tap.take()
    assert records.expert_indices is not None
    assert records.selection_margin is not None
    return records.expert_indices.sort(-1).values.numpy(), records.selection_margin.numpy()
