"""What one forward pass leaves behind, whichever way it was observed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from interp.hooks.blocks import RoutedBlock
from interp.hooks.routing import (
    Choice,
    choose,
    router_logits,
    router_output,
    selection_margin,
)


@dataclass(frozen=True, kw_only=True)
class PassRecords:
    """What one forward pass left in a tap, on the CPU; rows are those that `select` named."""

    layer_indices: tuple[int, ...]
    expert_indices: Int[Tensor, "tokens layers top_k"] | None = None
    """By descending weight."""
    expert_weights: Float[Tensor, "tokens layers top_k"] | None = None
    router_logits: Float[Tensor, "tokens layers experts"] | None = None
    selection_margin: Float[Tensor, "tokens layers"] | None = None
    """How far the last chosen expert is ahead of the first left out; with router_logits."""
    expert_output_norms: Float[Tensor, "tokens layers top_k"] | None = None
    """Euclidean norm of each chosen expert's output, before its weight."""
    resid: dict[tuple[str, int], Shaped[Tensor, "rows d_model"]] = field(default_factory=dict)
    """By site and layer number in the model, in the model's dtype."""


TOKEN_FIELDS = (
    "expert_indices",
    "expert_weights",
    "router_logits",
    "selection_margin",
    "expert_output_norms",
)
"""The fields of `PassRecords` with one row per token."""


VARIED = 1e-2
"""Tokens differ if their states do by this share of the largest; bfloat16 rounds to 4e-3."""


@dataclass(kw_only=True)
class Observed:
    """What was seen of one routed layer while a pass was running; rows are all of `(batch pos)`."""

    hidden: Float[Tensor, "tokens d_model"] | None = None
    """What the routed block received; kept only until the block is done."""
    logits: Float[Tensor, "tokens experts"] | None = None
    """What the router returned, or else what was recomputed."""
    choice: Choice | None = None
    """What the experts were given, or else what was recomputed; in the router's own order."""
    is_router_called: bool = False
    """Whether the model called its router at all; a fused kernel goes around it."""
    recomputed_logits: Float[Tensor, "tokens experts"] | None = None
    """From the input of the routed block; only until the first pass is checked."""
    recomputed: Choice | None = None
    asked: tuple[Float[Tensor, "tokens experts"], Choice] | None = None
    """What a router that the model did not call says of the same input when it is asked."""
    is_input_varied: bool = True
    """Whether what the routed block received differs between tokens."""
    norms: Float[Tensor, "tokens top_k"] | None = None
    """Norms of the experts' outputs, in the order of `choice`."""


def is_varied(hidden: Float[Tensor, "tokens d_model"]) -> bool:
    """Whether the tokens of a pass differ by more than rounding, so that logits must as well."""
    distance = (hidden - hidden[:1]).abs().max()
    return bool(distance > VARIED * hidden.abs().max())


def recompute(
    block: RoutedBlock,
    seen: Observed,
    hidden: Float[Tensor, "tokens d_model"],
    *,
    is_first: bool = True,
) -> None:
    """Logits and choice from what the routed block received: to compare, or where none was seen.

    In the first pass, a router that the model did not call is asked as well, past its hooks:
    families that are built alike may choose by different rules, and under a fused kernel nothing
    else tells them apart.
    """
    with torch.no_grad():
        logits = router_logits(block, hidden)
        chosen = choose(block, logits, hidden_dtype=hidden.dtype)
        if is_first and not seen.is_router_called:
            said, weights, indices = router_output(block.layer, block.router.forward(hidden))
            seen.asked = said, Choice(weights, indices)
    seen.recomputed_logits, seen.recomputed = logits, chosen
    seen.logits = logits if seen.logits is None else seen.logits
    seen.choice = seen.choice or chosen


def pass_records(
    blocks: Sequence[RoutedBlock],
    sites: Sequence[str],
    *,
    observed: Mapping[int, Observed],
    resid: Mapping[tuple[str, int], Tensor],
    rows: Int[Tensor, "tokens"] | None = None,
) -> PassRecords:
    """Put what was seen in each layer together: layers stacked, rows chosen, experts by weight.

    Args:
        blocks: The recorded layers, in order.
        sites: What was asked for, of `interp.cache.records.SITES`.
        observed: By layer number.
        resid: By site and layer number; rows are chosen already.
        rows: Rows of the router sites to keep, as positions in `(batch pos)` flattened.
    """
    layers = tuple(block.layer for block in blocks)

    def stacked(name: str) -> Tensor | None:
        of_layers = [getattr(observed[layer], name) for layer in layers]
        return None if any(each is None for each in of_layers) else _stacked(of_layers, rows)

    kept = {"expert_output_norms": stacked("norms")}
    choices = [each.choice for layer in layers if (each := observed[layer]).choice is not None]
    if choices:
        kept["expert_indices"] = _stacked([each.expert_indices for each in choices], rows)
        kept["expert_weights"] = _stacked([each.expert_weights for each in choices], rows)
        kept = _by_descending_weight(kept)
    kept["router_logits"] = stacked("logits")
    kept = {site: each for site, each in kept.items() if site in sites}
    if "router_logits" in sites:
        margins = [
            selection_margin(block, logits)
            for block in blocks
            if (logits := observed[block.layer].logits) is not None
        ]
        kept["selection_margin"] = _stacked(margins, rows)
    return PassRecords(layer_indices=layers, resid=dict(resid), **kept)


def _by_descending_weight(of_slots: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    """Some routers return their experts unsorted; those of equal weight keep their order."""
    weights = of_slots["expert_weights"]
    if weights is None or (weights[..., 1:] <= weights[..., :-1]).all():
        return of_slots
    order = weights.sort(dim=-1, descending=True, stable=True).indices
    return {
        site: None if each is None else each.gather(-1, order) for site, each in of_slots.items()
    }


def _stacked(of_layers: Sequence[Tensor], rows: Tensor | None) -> Tensor:
    """One tensor on the CPU, layers along its second axis."""
    kept = [each if rows is None else each[rows.to(each.device)] for each in of_layers]
    device = kept[0].device
    return torch.stack([each.to(device) for each in kept], dim=1).to("cpu")
