"""How the weights of chosen experts are changed in one layer, after the choice was made."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.cache.errors import InputError
from interp.hooks.blocks import RoutedBlock
from interp.hooks.router_hook import Change, Edit, among, router_hook
from interp.hooks.routing import Choice


@contextmanager
def zeroed(block: RoutedBlock, experts: frozenset[int]) -> Iterator[None]:
    """The weights of these experts at 0, all others as they are."""

    def change(logits: Tensor, own: Choice) -> tuple[Tensor, Choice]:
        out = among(own.expert_indices, experts)
        return logits, Choice(own.expert_weights.masked_fill(out, 0.0), own.expert_indices)

    with _weights_hook(block, Edit(name="zero", experts=experts), change):
        yield


@contextmanager
def renormalised(block: RoutedBlock, experts: frozenset[int]) -> Iterator[None]:
    """The weights of these experts at 0, and those of the other chosen ones in their stead.

    Whichever of several hooks runs first does the work of all, so that their order and number do
    not show in the rounding.
    """

    def change(logits: Tensor, own: Choice) -> tuple[Tensor, Choice]:
        out = among(own.expert_indices, of_all_open(block, "renormalise"))
        return logits, Choice(shared_out(own.expert_weights, out), own.expert_indices)

    with _weights_hook(block, Edit(name="renormalise", experts=experts), change):
        yield


def shared_out(
    weights: Float[Tensor, "tokens top_k"], out: Bool[Tensor, "tokens top_k"]
) -> Float[Tensor, "tokens top_k"]:
    """Weights with those that are `out` at 0 and the others scaled to the sum there was before.

    Computed in float32. A token that loses nothing keeps its bits; one that has no weight left to
    scale gets 0 for all.
    """
    before = weights.float()
    left = before.masked_fill(out, 0.0)
    total, rest = before.sum(-1, keepdim=True), left.sum(-1, keepdim=True)
    # Divided first, so that a small rest does not make the factor infinite.
    scaled = left / rest.masked_fill(rest == 0, 1.0) * total
    is_changed = (out & (before != 0)).any(-1, keepdim=True)
    return torch.where(is_changed, scaled.to(weights.dtype), weights)


def refuse_none_left(block: RoutedBlock, experts: frozenset[int]) -> None:
    """There must be an expert that can take over the weights of those taken out."""
    n_left = block.n_experts - len(experts | of_all_open(block, "renormalise"))
    if not n_left:
        raise InputError(
            f"experts leaves 0 of {block.n_experts} experts in layer {block.layer}, so that none "
            "could take over their weights; take fewer out, or use zero"
        )


def of_all_open(block: RoutedBlock, name: str) -> frozenset[int]:
    """The experts of all interventions of one kind that are open on a layer."""
    return frozenset[int]().union(*(each.experts for each in block.edits if each.name == name))


def _weights_hook(block: RoutedBlock, mark: Edit, change: Change) -> AbstractContextManager[None]:
    def holds(given: Choice) -> bool:
        return not bool(given.expert_weights[among(given.expert_indices, mark.experts)].any())

    return router_hook(block, mark, change, holds=holds)
