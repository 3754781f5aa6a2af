"""Boost: experts are made the first choice of every token, the way SteerMoE steers."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.cache.errors import InputError
from interp.hooks.attach import refuse_compiled
from interp.hooks.bias_edits import REMOVED
from interp.hooks.blocks import RoutedBlock
from interp.hooks.intervention_checks import experts_by_block
from interp.hooks.router_edits import refuse_edited
from interp.hooks.router_hook import Edit, among, router_hook
from interp.hooks.routing import Choice, choose, group_limits
from interp.hooks.weight_edits import of_all_open

EPSILON = 0.01
"""By how many nats a boosted logit is above the largest, as in the code published with SteerMoE."""


@contextmanager
def boost(model: nn.Module, experts: Collection[tuple[int, int]]) -> Iterator[None]:
    """Bring experts in: for every token, their logits are put just above the largest.

        logit'[e] = max over all logits + 0.01 if e in S, else logit[e]

    as in SteerMoE (Fayyaz et al. 2025, arXiv:2509.09660), whose set to activate is `S`; choice and
    weights follow by the family's rule. They take log-softmaxed logits, which is the same wherever
    the rule is a softmax of them; in phimoe it is not, and the logits are used here. Where the
    logits' dtype cannot hold a step of 0.01, the step is `eps` times the largest logit. Their
    other half, logits just below the smallest, is a weaker `reroute`.

    Args:
        model: A transformers model of one of the families in `interp.hooks.spec.SPECS` that rank
            experts by nothing but their logits.
        experts: Pairs of a layer, by its number in the model, and an expert; of a layer at most as
            many as a token chooses.

    Raises:
        InputError: If there is no such layer or expert, a layer has more than `top_k` of them or
            more groups of them than a token chooses from, the family corrects scores before the
            choice, an expert is rerouted, a layer is being replayed or boosted already, or the
            model was compiled.
        ModelError: In a pass, if the model does not call its router or its experts, or one of the
            experts is not chosen all the same.

    Example:
        >>> from interp import organisms
        >>> from interp.hooks import RoutingTap
        >>> model, tokenizer = organisms.load("toy")
        >>> with boost(model, [(2, 5)]), RoutingTap(model, sites=("expert_indices",)) as tap:
        ...     _ = model(**tokenizer("two plus two", return_tensors="pt"))
        >>> bool((tap.take().expert_indices[:, 2, 0] == 5).all())
        True
    """
    boosted = experts_by_block(model, experts)
    refuse_compiled(model)
    for block, chosen in boosted:
        refuse_edited(block, "boost")
        _refuse_impossible(block, chosen)
    with ExitStack() as stack:
        for block, chosen in boosted:
            stack.enter_context(_boosted(block, chosen))
        yield


@contextmanager
def _boosted(block: RoutedBlock, experts: frozenset[int]) -> Iterator[None]:
    def change(logits: Tensor, own: Choice) -> tuple[Tensor, Choice]:
        raised = _raised(logits, experts)
        return raised, choose(block, raised, hidden_dtype=own.expert_weights.dtype)

    def holds(given: Choice) -> bool:
        return bool((among(given.expert_indices, experts).sum(-1) == len(experts)).all())

    with router_hook(block, Edit(name="boost", experts=experts), change, holds=holds):
        yield


def _raised(
    logits: Float[Tensor, "tokens experts"], experts: frozenset[int]
) -> Float[Tensor, "tokens experts"]:
    largest = logits.max(-1, keepdim=True).values
    least_step = largest.abs() * torch.finfo(logits.dtype).eps
    level = largest + least_step.clamp(min=EPSILON)
    is_boosted = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    is_boosted[list(experts)] = True
    return torch.where(is_boosted, level, logits)


def _refuse_impossible(block: RoutedBlock, experts: frozenset[int]) -> None:
    if block.spec.correction_bias:
        raise InputError(
            f"layer {block.layer} adds {block.spec.correction_bias} to its scores before the "
            "choice, so that the largest logit need not be chosen; boost cannot be done in the "
            f"family {block.spec.family}, use replay_routing"
        )
    if len(experts) > block.top_k:
        raise InputError(
            f"experts holds {len(experts)} experts of layer {block.layer}, but each token chooses "
            f"{block.top_k}; boost fewer"
        )
    limits = group_limits(block)
    if limits is not None:
        n_groups, n_kept = limits
        n_held = len({expert * n_groups // block.n_experts for expert in experts})
        if n_held > n_kept:
            raise InputError(
                f"experts holds experts from {n_held} groups of layer {block.layer}, but each "
                f"token chooses from {n_kept} groups; boost fewer"
            )
    out = experts & (REMOVED.get(block.router, {}).keys() | of_all_open(block, "reroute"))
    if out:
        raise InputError(
            f"expert {min(out)} of layer {block.layer} is taken out by reroute; close that first, "
            "or leave the expert out"
        )
