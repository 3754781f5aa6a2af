"""How the choice of one layer is changed by a hook: experts out, or those of a record in place."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from interp.cache.errors import InputError, ModelError
from interp.hooks.bias_edits import REMOVED
from interp.hooks.blocks import RoutedBlock
from interp.hooks.router_hook import EXCLUDED, Edit, among, router_hook
from interp.hooks.routing import Choice, choose, weights_at


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The routing of one layer that is to be run again."""

    expert_indices: Int[Tensor, "tokens top_k"]
    expert_weights: Float[Tensor, "tokens top_k"] | None
    rows: Int[Tensor, "tokens"] | None


@contextmanager
def removed_by_hook(block: RoutedBlock, experts: frozenset[int]) -> Iterator[None]:
    """The logits of the experts at `-inf`, and the choice made anew.

    Logits are handed on as they were changed, so that hooks of this kind add up in any order.
    """

    def edit(logits: Tensor, own: Choice) -> tuple[Tensor, Choice]:
        out = torch.zeros(block.n_experts, dtype=torch.bool, device=logits.device)
        out[list(experts)] = True
        left = logits.masked_fill(out, float("-inf"))
        return left, choose(block, left, hidden_dtype=own.expert_weights.dtype)

    def holds(given: Choice) -> bool:
        return not bool(among(given.expert_indices, experts).any())

    with router_hook(block, Edit(name="reroute", experts=experts), edit, holds=holds):
        yield


@contextmanager
def replayed(block: RoutedBlock, recorded: Recorded) -> Iterator[None]:
    """The recorded experts in the place of the router's choice."""

    def edit(logits: Tensor, own: Choice) -> tuple[Tensor, Choice]:
        rows = _rows_in_pass(block, recorded, n_tokens=len(logits)).to(logits.device)
        indices = recorded.expert_indices.to(own.expert_indices)
        order = _order(block, indices, own=own.expert_indices[rows])
        indices = indices.gather(-1, order)
        if recorded.expert_weights is None:
            weights = _weights_now(block, logits[rows], indices, own.expert_weights.dtype)
        else:
            weights = recorded.expert_weights.to(own.expert_weights).gather(-1, order)
        return logits, Choice(
            own.expert_weights.index_copy(0, rows, weights),
            own.expert_indices.index_copy(0, rows, indices),
        )

    def holds(given: Choice) -> bool:
        rows = _rows_in_pass(block, recorded, n_tokens=len(given.expert_indices))
        run = given.expert_indices.cpu()[rows].sort(-1).values
        return torch.equal(run, recorded.expert_indices.cpu().to(run).sort(-1).values)

    with router_hook(block, Edit(name="replay_routing"), edit, holds=holds):
        yield


def _weights_now(
    block: RoutedBlock,
    logits: Float[Tensor, "tokens experts"],
    indices: Int[Tensor, "tokens top_k"],
    dtype: torch.dtype,
) -> Float[Tensor, "tokens top_k"]:
    if logits.gather(-1, indices).isneginf().any():
        raise ModelError(
            f"expert_indices of layer {block.layer} holds an expert whose logit is -inf, so that "
            "the model gives it no weight; give expert_weights"
        )
    return weights_at(block, logits, indices, hidden_dtype=dtype)


def _order(
    block: RoutedBlock, indices: Int[Tensor, "tokens top_k"], *, own: Int[Tensor, "tokens top_k"]
) -> Int[Tensor, "tokens top_k"]:
    """Which slot to run when: as recorded, which is by weight, as most routers have it.

    Those that do not rank by weight have an order of their own. It decides how sums are rounded, so
    it is followed where the router chose the same experts.
    """
    as_recorded = torch.arange(own.shape[-1], device=own.device).expand_as(own)
    spec = block.spec
    if not (spec.correction_bias or spec.group_score or spec.scoring == "sparsemixer"):
        return as_recorded
    as_own = indices.argsort(-1).gather(-1, own.argsort(-1).argsort(-1))
    is_same = (indices.gather(-1, as_own) == own).all(-1)
    return torch.where(rearrange(is_same, "tokens -> tokens 1"), as_own, as_recorded)


def _rows_in_pass(block: RoutedBlock, recorded: Recorded, *, n_tokens: int) -> Int[Tensor, "rows"]:
    n_recorded, rows = len(recorded.expert_indices), recorded.rows
    if rows is None and n_tokens != n_recorded:
        raise ModelError(
            f"layer {block.layer} routes {n_tokens} tokens in this pass, padding included, but "
            f"expert_indices holds {n_recorded}; pass the tokens that were recorded, or give rows"
        )
    if rows is not None and rows.max() >= n_tokens:
        raise ModelError(
            f"rows holds {int(rows.max())}, but layer {block.layer} routes only {n_tokens} tokens "
            f"in this pass (0 to {n_tokens - 1})"
        )
    return torch.arange(n_tokens) if rows is None else rows


def refuse_edited(block: RoutedBlock, name: str) -> None:
    """A layer under an intervention that does not go together with this one is refused."""
    found = {edit.name for edit in block.edits}
    if REMOVED.get(block.router):
        found.add("reroute")
    if both := sorted(found & EXCLUDED[name]):
        raise InputError(
            f"layer {block.layer} is under {both[0]} already, which would decide its routing as "
            "well; close that first, or leave the layer out"
        )
