"""The self-check of the first pass: a capture that is silently wrong is worse than none."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from interp.cache.errors import ModelError
from interp.hooks.blocks import RoutedBlock
from interp.hooks.pass_records import Observed
from interp.hooks.routing import Choice, choice_scores, selection_margin

WEIGHT_TOLERANCE = 4e-3
"""bfloat16 weights of four experts sum to 1 within this; relative to the scale of the weights."""
LOGIT_TOLERANCE = 1e-3
"""Recomputed logits may differ by this share of the largest; kernels sum in different orders."""


def check_fired(
    blocks: Sequence[RoutedBlock], sites: Sequence[str], fired: Mapping[tuple[str, int], int]
) -> None:
    """Every site of every layer was seen exactly once in a pass.

    Raises:
        ModelError: At the first that was not, with its layer and site.
    """
    for block in blocks:
        for site in sites:
            times = fired.get((site, block.layer), 0)
            if times > 1:
                raise ModelError(
                    f"{site} of layer {block.layer} was seen {times} times, expected once; call "
                    "take() after each pass, and pass inputs to the whole model"
                )
            if not times:
                why = (
                    "a fused kernel ran the experts, so that their outputs cannot be told apart"
                    if site == "expert_output_norms"
                    else "this model's forward goes around the module that the tap sits on, so "
                    "that it cannot be captured"
                )
                raise ModelError(
                    f"{site} of layer {block.layer} was not seen in this pass; either no pass was "
                    f"made, or {why}"
                )


def check_values(
    blocks: Sequence[RoutedBlock],
    observed: Mapping[int, Observed],
    resid: Mapping[tuple[str, int], Tensor],
) -> tuple[int, ...]:
    """Check one pass: shapes as foreseen, no NaN, and routing is what the model itself did.

    Returns:
        Layers whose own router was called, so that its choices could be compared; a fused kernel
        goes around it, and an intervention replaces what it returned.

    Raises:
        ModelError: At the first fault, with its layer and site.
    """
    for block in blocks:
        seen = observed[block.layer]
        if seen.logits is not None:
            check_logits(block, seen.logits, is_input_varied=seen.is_input_varied)
        if _is_compared(seen):
            check_recomputed(block, seen)
        elif seen.asked is not None:
            check_asked(block, seen)
        for (site, layer), rows in resid.items():
            if layer == block.layer:
                check_resid(block, site, rows)
    check_stream(resid)
    return tuple(block.layer for block in blocks if _is_compared(observed[block.layer]))


def is_unchecked(seen: Observed) -> bool:
    """Whether an intervention on the router kept its rule from being compared in this pass."""
    return seen.is_router_called and seen.recomputed is None


def _is_compared(seen: Observed) -> bool:
    return seen.is_router_called and seen.recomputed is not None


def check_resid(block: RoutedBlock, site: str, rows: Tensor) -> None:
    """Width and finiteness of the residual stream at one site of one layer."""
    if rows.shape[-1] != block.d_model:
        raise ModelError(
            f"{site} of layer {block.layer} is {rows.shape[-1]} wide, but the router reads "
            f"{block.d_model}; this model's layers are not built as expected"
        )
    if not torch.isfinite(rows).all():
        raise ModelError(_not_finite(f"{site} of layer {block.layer} holds"))


def check_stream(resid: Mapping[tuple[str, int], Tensor]) -> None:
    """What one layer hands on is what the next one receives, bit for bit."""
    for (site, layer), rows in resid.items():
        received = resid.get(("resid_pre", layer + 1))
        if site == "resid_post" and received is not None and not torch.equal(rows, received):
            raise ModelError(
                f"resid_post of layer {layer} is not resid_pre of layer {layer + 1}; something "
                "changes the residual stream between the layers"
            )


def check_logits(block: RoutedBlock, logits: Tensor, *, is_input_varied: bool = True) -> None:
    """Shape of the logits of one layer, no NaN, and not the same for tokens that differ.

    `-inf` is an expert that was taken out, and must then be so for all tokens.
    """
    if logits.shape[-1] != block.n_experts:
        raise ModelError(
            f"router_logits of layer {block.layer} have {logits.shape[-1]} columns, "
            f"but the layer has {block.n_experts} experts"
        )
    out = logits.isneginf()
    if not (torch.isfinite(logits) | (out & out.all(dim=0))).all():
        raise ModelError(_not_finite(f"router_logits of layer {block.layer} hold"))
    if is_input_varied and len(logits) > 1 and (logits == logits[0]).all():
        raise ModelError(
            f"router_logits of layer {block.layer} are the same for all {len(logits)} tokens; "
            "the router does not see its input"
        )


def check_recomputed(block: RoutedBlock, seen: Observed) -> None:
    """The family's rule, from the input of the block, gives what the model's router returned."""
    if seen.logits is None or seen.choice is None or seen.recomputed is None:
        return
    _check_same_logits(block, seen.logits, seen.recomputed_logits)
    _check_same_experts(block, seen.choice, seen.recomputed, seen.logits)
    _check_same_weights(block, seen.choice, seen.recomputed)


def check_asked(block: RoutedBlock, seen: Observed) -> None:
    """A router that a fused kernel went around gives what was recomputed in its stead.

    So does what its experts were given, where the kernel called them; without the choices that
    hang on how the kernel rounds.
    """
    if seen.asked is None or seen.choice is None or seen.recomputed is None:
        return
    logits, choice = seen.asked
    check_recomputed(block, replace(seen, logits=logits, choice=choice))
    rounding = 2 * torch.finfo(block.weight.dtype).eps * _largest(choice_scores(block, logits))
    _check_same_experts(block, seen.choice, seen.recomputed, logits, rounding=rounding)
    _check_same_weights(block, seen.choice, seen.recomputed)


def _check_same_logits(block: RoutedBlock, logits: Tensor, recomputed: Tensor | None) -> None:
    if recomputed is None or recomputed.shape != logits.shape:
        return
    is_in = ~(logits.isneginf() & recomputed.isneginf())
    difference = (recomputed.float() - logits.float()).abs()[is_in].max()
    if not difference <= LOGIT_TOLERANCE * max(1.0, _largest(logits)):
        raise ModelError(
            f"router_logits of layer {block.layer}: the router returned values up to "
            f"{difference:.3g} away from its weight times its input plus its bias; they are no "
            f"logits, or the family is not {block.spec.family}"
        )


def _largest(scores: Tensor) -> float:
    """Of the logits or scores of experts that can be chosen."""
    return float(scores.float().abs()[~scores.isneginf()].max())


def _check_same_experts(
    block: RoutedBlock,
    choice: Choice,
    recomputed: Choice,
    logits: Tensor,
    *,
    rounding: float = 0.0,
) -> None:
    if choice.expert_indices.shape != recomputed.expert_indices.shape:
        raise ModelError(
            f"the router of layer {block.layer} returned indices of shape "
            f"{tuple(choice.expert_indices.shape)}, "
            f"expected {tuple(recomputed.expert_indices.shape)}"
        )
    ours, models = (each.expert_indices.sort(-1).values for each in (recomputed, choice))
    is_tie = selection_margin(block, logits) <= rounding
    differing = (ours != models).any(-1) & ~is_tie
    if differing.any():
        raise ModelError(
            f"expert_indices of layer {block.layer}: recomputed logits choose other experts than "
            f"the model for {int(differing.sum())} of {len(differing)} tokens; if a hook of yours "
            "changes the routing on purpose, let the tap see one pass without it first"
        )


def _check_same_weights(block: RoutedBlock, choice: Choice, recomputed: Choice) -> None:
    sums = choice.expert_weights.float().sum(-1)
    if block.weights_sum_to_one and not (sums - 1).abs().max() <= WEIGHT_TOLERANCE:
        raise ModelError(
            f"expert_weights of layer {block.layer} sum to {sums.min():.3f} to {sums.max():.3f}, "
            f"expected 1 as in the family {block.spec.family}"
        )
    ours, models = (_by_expert(each) for each in (recomputed, choice))
    is_same = recomputed.expert_indices.sort(-1).values == choice.expert_indices.sort(-1).values
    difference = (ours - models).abs()[is_same.all(-1)]
    if difference.numel() and not difference.max() <= WEIGHT_TOLERANCE * max(1.0, block.scale):
        raise ModelError(
            f"expert_weights of layer {block.layer} differ by up to {difference.max():.3g} from "
            f"those that the family {block.spec.family} gives to the same logits"
        )


def _by_expert(choice: Choice) -> Tensor:
    """Weights in the order of the experts' numbers."""
    return choice.expert_weights.float().gather(-1, choice.expert_indices.argsort(-1))


def _not_finite(what: str) -> str:
    return f"{what} NaN or infinity; check the weights and the dtype that the model was loaded in"
