"""Whether a knockout does what it says to this model: asked before compute is spent."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.cache.errors import ModelError
from interp.hooks.attach import after
from interp.hooks.batches import padded, row_starts, select_rows
from interp.hooks.blocks import RoutedBlock
from interp.hooks.outcomes import ScoredText
from interp.hooks.tap import RoutingTap, chosen_blocks

Knockout = Callable[[Any, Collection[tuple[int, int]]], AbstractContextManager[Any]]
TRIES = 3
"""Experts of a layer that are taken out one after the other before it is said to ignore that: one
alone may put out nothing, or the same as the one that stands in for it."""


def refuse_ignored(model: Any, text: ScoredText, knockout: Knockout, *, name: str) -> None:
    """Take the busiest expert of every layer out, and see that no token still runs it.

    What the experts are given is looked at with all layers edited at once. What they make of it is
    looked at a layer at a time, since experts may choose by themselves and what comes out of a
    layer also changes with the layers before it: two passes, and one for each layer.

    Args:
        model: In evaluation mode.
        text: Any text; a short one is as good.
        knockout: Such as `interp.hooks.reroute`.
        name: Of the knockout, for sentences.

    Raises:
        ModelError: Naming the layer whose expert was still given tokens, or whose output is the
            same without its busiest experts as with them.
    """
    usual = _records(model, text)
    busiest = _by_use(usual)
    with knockout(model, [(layer, each[0]) for layer, each in busiest.items()]):
        records = _records(model, text)
    is_run = records.expert_weights.float().numpy() != 0
    for place, (layer, (expert, *_)) in enumerate(busiest.items()):
        is_there = (records.expert_indices[:, place].numpy() == expert) & is_run[:, place]
        if is_there.any():
            n_given = int(is_there.any(-1).sum())
            raise ModelError(
                f"{name} took expert {expert} of layer {layer} out, but {n_given} tokens are still "
                "given to it: this experts implementation ignores the edit; load "
                "the model with another one, such as experts_implementation='eager'"
            )
    _refuse_unmoved(model, text, knockout, busiest, name=name)


def _refuse_unmoved(
    model: Any, text: ScoredText, knockout: Knockout, busiest: dict[int, list[int]], *, name: str
) -> None:
    blocks = chosen_blocks(model, list(busiest))
    usual, again = (_outputs(model, text, blocks) for _ in range(2))
    for block in blocks:
        layer, tried = block.layer, busiest[block.layer]
        noise = _change(usual[layer], again[layer])

        def moved(expert: int, block: RoutedBlock = block) -> float:
            with knockout(model, [(block.layer, expert)]):
                return _change(usual[block.layer], _outputs(model, text, [block])[block.layer])

        if not any(moved(expert) > noise for expert in tried):
            experts = ", then ".join(str(each) for each in tried)
            raise ModelError(
                f"{name} took expert {experts} of layer {layer} out, and what the layer puts out "
                "stayed the same: it does not run the experts that its router chooses, or these do "
                "nothing; load the model with another experts implementation, such as "
                "experts_implementation='eager'"
            )


def _by_use(records: Any) -> dict[int, list[int]]:
    """The experts of each layer that were given most tokens, the busiest first."""
    found = {}
    for place, layer in enumerate(records.layer_indices):
        count = np.bincount(records.expert_indices[:, place].numpy().ravel())
        order = np.argsort(-count, kind="stable")[:TRIES]
        found[layer] = [int(expert) for expert in order if count[expert]]
    return found


def _change(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


def _records(model: Any, text: ScoredText) -> Any:
    with RoutingTap(model, sites=("expert_indices", "expert_weights")) as tap:
        select_rows(tap, row_starts([text]), [len(text.token_id)], [np.arange(0)])
        _run(model, text)
        return tap.take()


def _outputs(model: Any, text: ScoredText, blocks: Sequence[RoutedBlock]) -> dict[int, Tensor]:
    """What some routed layers add to the residual stream in one pass."""
    found: dict[int, Tensor] = {}
    with _kept(blocks, found):
        _run(model, text)
    return found


@contextmanager
def _kept(blocks: Sequence[RoutedBlock], found: dict[int, Tensor]) -> Iterator[None]:
    def keep(layer: int, output: Any) -> None:
        found[layer] = (output if isinstance(output, Tensor) else output[0]).detach().float().cpu()

    hooks = [after(block.moe, partial(keep, block.layer)) for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _run(model: Any, text: ScoredText) -> None:
    with torch.inference_mode():
        model(**padded([text], model), use_cache=False, logits_to_keep=1)
