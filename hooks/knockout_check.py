"""Whether a knockout does what it says to this model: asked before compute is spent."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from interp.cache.errors import ModelError
from interp.hooks.batches import padded, row_starts, select_rows
from interp.hooks.outcomes import ScoredText
from interp.hooks.tap import RoutingTap

Knockout = Callable[[Any, Collection[tuple[int, int]]], AbstractContextManager[Any]]


def refuse_ignored(model: Any, text: ScoredText, knockout: Knockout, *, name: str) -> None:
    """Take the busiest expert of every layer out, and see that no token still runs it.

    Args:
        model: In evaluation mode.
        text: Any text; a short one is as good.
        knockout: Such as `interp.hooks.reroute`.
        name: Of the knockout, for sentences.

    Raises:
        ModelError: Naming the layer whose expert was still given tokens, or a model whose output
            does not move.
    """
    usual, logits = _records(model, text)
    layers, indices = usual.layer_indices, usual.expert_indices.numpy()
    busiest = [int(np.bincount(indices[:, place].ravel()).argmax()) for place in range(len(layers))]
    out = list(zip(layers, busiest, strict=True))
    with knockout(model, out):
        records, moved = _records(model, text)
    is_run = records.expert_weights.float().numpy() != 0
    for place, (layer, expert) in enumerate(out):
        is_there = (records.expert_indices[:, place].numpy() == expert) & is_run[:, place]
        if is_there.any():
            n_given = int(is_there.any(-1).sum())
            raise ModelError(
                f"{name} took expert {expert} of layer {layer} out, but {n_given} tokens are still "
                "given to it: this experts implementation ignores the edit; load "
                "the model with another one, such as experts_implementation='eager'"
            )
    if torch.equal(logits, moved):
        raise ModelError(
            f"{name} took the busiest expert of every layer out, and not one logit moved: the "
            "model does not run the experts that its router chooses; load it with another experts "
            "implementation, such as experts_implementation='eager'"
        )


def _records(model: Any, text: ScoredText) -> tuple[Any, torch.Tensor]:
    batch: Sequence[ScoredText] = [text]
    with (
        torch.inference_mode(),
        RoutingTap(model, sites=("expert_indices", "expert_weights")) as tap,
    ):
        select_rows(tap, row_starts(batch), [len(text.token_id)], [np.arange(0)])
        output = model(**padded(batch, model), use_cache=False, logits_to_keep=1)
        return tap.take(), output.logits.float().cpu()
