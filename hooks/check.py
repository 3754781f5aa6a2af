"""The self-check of the first pass: a capture that is silently wrong is worse than none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.cache.errors import ModelError
from interp.cache.records import RESID_SITES
from interp.hooks.spec import RoutedBlock

WEIGHT_SUM_TOLERANCE = 4e-3
"""bfloat16 weights of four experts sum to 1 within this."""


@dataclass(frozen=True)
class ModelChoice:
    """What the model's own router returned in one layer."""

    expert_weights: Float[Tensor, "tokens top_k"]
    expert_indices: Int[Tensor, "tokens top_k"]


def check_fired(
    blocks: Sequence[RoutedBlock],
    sites: Sequence[str],
    logits: Mapping[int, Tensor],
    resid: Mapping[tuple[str, int], Tensor],
) -> None:
    """Every site of every layer was seen in a pass.

    Raises:
        ModelError: At the first that was not, with its layer and site.
    """
    for block in blocks:
        for site in sites:
            fired = (site, block.layer) in resid if site in RESID_SITES else block.layer in logits
            if not fired:
                raise ModelError(
                    f"{site} of layer {block.layer} was not seen in this pass; either no pass was "
                    "made, or this model's forward goes around the module that the tap sits on, "
                    "so that it cannot be captured"
                )


def check_values(
    blocks: Sequence[RoutedBlock],
    logits: Mapping[int, Tensor],
    resid: Mapping[tuple[str, int], Tensor],
    choices: Mapping[int, ModelChoice],
) -> tuple[int, ...]:
    """Check one pass: shapes as foreseen, no NaN, and routing is what the model itself did.

    Returns:
        Layers whose own router was called, so that its choices could be compared; a fused kernel
        goes around it.

    Raises:
        ModelError: At the first fault, with its layer and site.
    """
    for block in blocks:
        if block.layer in logits:
            check_logits(block, logits[block.layer])
        if block.layer in choices:
            check_choice(block, logits[block.layer], choices[block.layer])
        for (site, layer), rows in resid.items():
            if layer == block.layer:
                check_resid(block, site, rows)
    _check_not_constant(blocks, logits)
    return tuple(sorted(choices))


def check_resid(block: RoutedBlock, site: str, rows: Tensor) -> None:
    """Width and finiteness of the residual stream at one site of one layer."""
    d_model = block.router.get_parameter("weight").shape[1]
    if rows.shape[-1] != d_model:
        raise ModelError(
            f"{site} of layer {block.layer} is {rows.shape[-1]} wide, but the router reads "
            f"{d_model}; this model's layers are not built as expected"
        )
    _check_finite(block, site, rows)


def check_logits(block: RoutedBlock, logits: Tensor) -> None:
    """Shape and finiteness of the recomputed logits of one layer."""
    if logits.shape[-1] != block.n_experts:
        raise ModelError(
            f"router_logits of layer {block.layer} have {logits.shape[-1]} columns, "
            f"but the layer has {block.n_experts} experts"
        )
    _check_finite(block, "router_logits", logits)


def check_choice(block: RoutedBlock, logits: Tensor, choice: ModelChoice) -> None:
    """Recomputed logits choose the experts that the model's router chose, with the same weights."""
    top = torch.topk(logits, block.top_k, dim=-1)
    if choice.expert_indices.shape != top.indices.shape:
        raise ModelError(
            f"the router of layer {block.layer} returned indices of shape "
            f"{tuple(choice.expert_indices.shape)}, expected {tuple(top.indices.shape)}"
        )
    differing = (top.indices.sort(-1).values != choice.expert_indices.sort(-1).values).any(-1)
    if differing.any():
        raise ModelError(
            f"expert_indices of layer {block.layer}: recomputed logits choose other experts than "
            f"the model's router for {int(differing.sum())} of {len(differing)} tokens"
        )
    sums = choice.expert_weights.float().sum(-1)
    if (sums - 1).abs().max() > WEIGHT_SUM_TOLERANCE:
        raise ModelError(
            f"expert_weights of layer {block.layer} sum to {sums.min():.3f} to {sums.max():.3f}, "
            "expected 1; this router does not take its softmax over the chosen experts"
        )
    recomputed = torch.softmax(top.values, dim=-1)
    if (recomputed.float() - choice.expert_weights.float()).abs().max() > WEIGHT_SUM_TOLERANCE:
        raise ModelError(
            f"expert_weights of layer {block.layer} differ from the softmax over the chosen logits"
        )


def _check_finite(block: RoutedBlock, site: str, values: Tensor) -> None:
    if not torch.isfinite(values).all():
        verb = "hold" if site.endswith("s") else "holds"
        raise ModelError(
            f"{site} of layer {block.layer} {verb} NaN or infinity; "
            "check the weights and the dtype that the model was loaded in"
        )


def _check_not_constant(blocks: Sequence[RoutedBlock], logits: Mapping[int, Tensor]) -> None:
    for block in blocks:
        rows = logits.get(block.layer)
        if rows is not None and len(rows) > 1 and (rows == rows[0]).all():
            raise ModelError(
                f"router_logits of layer {block.layer} are the same for all {len(rows)} tokens; "
                "the router does not see its input"
            )
