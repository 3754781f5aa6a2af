"""How a router chooses, written out once for all families from their specs.

The model's own router says what was chosen wherever it can be seen. This is for where it cannot (a
fused kernel never calls the module), for checking it, and for choosing anew when experts are taken
out.
"""

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from interp.cache.errors import ModelError
from interp.hooks.blocks import RoutedBlock


@dataclass(frozen=True)
class Choice:
    """The experts that a router chose, in its own order."""

    expert_weights: Float[Tensor, "tokens top_k"]
    expert_indices: Int[Tensor, "tokens top_k"]


def router_output(layer: int, output: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, expert weights and expert indices, of what the router of a layer returned."""
    if isinstance(output, tuple) and len(output) == 3:
        is_float = [isinstance(each, Tensor) and each.is_floating_point() for each in output]
        if is_float == [True, True, False]:
            return output
    parts = output if isinstance(output, tuple) else (output,)
    found = ", ".join(str(each.dtype) if isinstance(each, Tensor) else repr(each) for each in parts)
    raise ModelError(
        f"the router of layer {layer} returned {found}, expected logits, weights and integer "
        "indices; this version of transformers is not supported for this family (docs/models.md)"
    )


def router_logits(
    block: RoutedBlock, hidden: Float[Tensor, "tokens d_model"]
) -> Float[Tensor, "tokens experts"]:
    """Gate output with bias, before any softmax, from what the routed block receives."""
    weight, bias = block.weight.to(hidden.device), block.bias
    dtype = torch.float32 if block.spec.float32_logits else weight.dtype
    bias = None if bias is None else bias.to(hidden.device, dtype)
    return functional.linear(hidden.to(dtype), weight.to(dtype), bias)


def choose(
    block: RoutedBlock, logits: Float[Tensor, "tokens experts"], *, hidden_dtype: torch.dtype
) -> Choice:
    """The experts that the family's rule chooses for these logits.

    An expert whose logit is `-inf` is never chosen, whatever is added to its score.

    Args:
        block: The layer; its spec and the settings of its router make the rule.
        logits: From `router_logits`.
        hidden_dtype: Dtype of what the routed block receives, to which most round their weights.
    """
    if block.spec.scoring == "sparsemixer":
        indices = _one_after_the_other(logits)
    else:
        # Models with groups leave their experts unsorted; in another order, sums round otherwise.
        is_sorted = not block.spec.group_score
        ranking = _ranking(block, logits)
        indices = torch.topk(ranking, block.top_k, dim=-1, sorted=is_sorted).indices
    return Choice(weights_at(block, logits, indices, hidden_dtype=hidden_dtype), indices)


def weights_at(
    block: RoutedBlock,
    logits: Float[Tensor, "tokens experts"],
    expert_indices: Int[Tensor, "tokens top_k"],
    *,
    hidden_dtype: torch.dtype,
) -> Float[Tensor, "tokens top_k"]:
    """The weights that the family's rule gives to these experts, whether or not it chooses them."""
    if block.spec.scoring == "softmax_of_chosen":
        weights = torch.softmax(logits.gather(-1, expert_indices), dim=-1)
    elif block.spec.scoring == "sparsemixer":
        jitter = float(block.setting("router_jitter_noise"))
        weights = _sparsemixer(logits, expert_indices, jitter=jitter)
    else:
        weights = _scores(block, logits).gather(-1, expert_indices)
        if block.is_normalised:
            weights = weights / weights.sum(-1, keepdim=True)
        weights = weights * block.scale
    dtypes = {"float32": torch.float32, "hidden": hidden_dtype, "logits": logits.dtype}
    return weights.to(dtypes[block.spec.weights_dtype])


def choice_scores(
    block: RoutedBlock, logits: Float[Tensor, "tokens experts"]
) -> Float[Tensor, "tokens experts"]:
    """What the experts are ranked by: logits, or scores with the correction that decide the choice.

    Where ranks are those of the logits, it is the logits. `-inf` where an expert cannot be chosen.
    """
    spec = block.spec
    if not spec.correction_bias and not spec.group_score:
        return logits
    scores = _scores(block, logits)
    correction = block.correction_bias
    if correction is not None:
        scores = scores + correction.to(scores.device)
    scores = scores.masked_fill(logits.isneginf(), float("-inf"))
    return _best_groups(block, scores) if spec.group_score else scores


def group_limits(block: RoutedBlock) -> tuple[int, int] | None:
    """Number of groups of experts, and how many of them a token may choose from; None if all."""
    n_groups, n_kept = block.setting("num_group"), block.setting("topk_group")
    is_greedy = block.setting("topk_method") == "greedy"
    if not block.spec.group_score or not n_groups or not n_kept or is_greedy:
        return None
    return int(n_groups), int(n_kept)


def selection_margin(
    block: RoutedBlock, logits: Float[Tensor, "tokens experts"]
) -> Float[Tensor, "tokens"]:
    """How far the last chosen expert is ahead of the first one left out; 0 is an exact tie.

    In the unit of `choice_scores`: nats where experts are ranked by logits, else a score from 0
    to 1. A difference in rounding larger than this changes the experts. Infinite where none is
    left out.
    """
    if block.top_k == block.n_experts:
        return torch.full(logits.shape[:1], torch.inf, device=logits.device)
    best = torch.topk(choice_scores(block, logits).float(), block.top_k + 1, dim=-1).values
    return best[:, -2] - best[:, -1]


def _ranking(
    block: RoutedBlock, logits: Float[Tensor, "tokens experts"]
) -> Float[Tensor, "tokens experts"]:
    """What the model ranks by, with the rounding of scores where it ranks by those."""
    ranking = choice_scores(block, logits)
    if ranking is logits and block.spec.scoring in ("softmax", "sigmoid"):
        # Scores too small for their dtype are 0 as well, and must stay ahead of what is out.
        ranking = _scores(block, logits).masked_fill(logits.isneginf(), float("-inf"))
    return ranking


def _scores(block: RoutedBlock, logits: Tensor) -> Float[Tensor, "tokens experts"]:
    logits = logits.float()
    return logits.sigmoid() if block.spec.scoring == "sigmoid" else torch.softmax(logits, dim=-1)


def _best_groups(
    block: RoutedBlock, scores: Float[Tensor, "tokens experts"]
) -> Float[Tensor, "tokens experts"]:
    """The scores, with `-inf` for experts outside of the best groups."""
    limits = group_limits(block)
    if limits is None:
        return scores
    n_groups, n_kept = limits
    grouped = rearrange(scores, "tokens (groups expert) -> tokens groups expert", groups=n_groups)
    if block.spec.group_score == "max":
        of_group = reduce(grouped, "tokens groups expert -> tokens groups", "max")
    else:
        of_group = torch.topk(grouped, 2, dim=-1).values.sum(-1)
    best = torch.topk(of_group, n_kept, dim=-1).indices
    is_kept = torch.zeros_like(of_group, dtype=torch.bool).scatter(1, best, True)
    allowed = repeat(is_kept, "tokens groups -> tokens (groups expert)", expert=grouped.shape[-1])
    return scores.masked_fill(~allowed, float("-inf"))


def _one_after_the_other(logits: Float[Tensor, "tokens experts"]) -> Int[Tensor, "tokens 2"]:
    first = logits.max(dim=-1, keepdim=True).indices
    second = logits.scatter(-1, first, float("-inf")).max(dim=-1, keepdim=True).indices
    return torch.cat([first, second], dim=-1)


def _sparsemixer(
    logits: Float[Tensor, "tokens experts"],
    expert_indices: Int[Tensor, "tokens 2"],
    *,
    jitter: float,
) -> Float[Tensor, "tokens 2"]:
    """Weights of two experts, one after the other: a softmax over those close to the best left.

    GRIN, Liu et al. 2024, arXiv:2409.12136, in evaluation: an expert is close when its logit falls
    short of the best by at most `2 * jitter` of the larger magnitude of the two. Weights do not
    sum to 1. An expert that is not close, which the rule itself never chooses, has weight 0.
    """
    # The rule takes the one with the greater logit first, in whichever order they are given.
    order = logits.gather(-1, expert_indices).sort(dim=-1, descending=True, stable=True).indices
    remaining, weights = logits, []
    for index in expert_indices.gather(-1, order).split(1, dim=-1):
        best = remaining.max(dim=-1, keepdim=True).values
        distance = (best - logits) / logits.abs().clamp(min=best)
        close = torch.softmax(remaining.masked_fill(distance > 2 * jitter, float("-inf")), dim=-1)
        weights.append(close.gather(-1, index))
        remaining = remaining.scatter(-1, index, float("-inf"))
    return torch.cat(weights, dim=-1).gather(-1, order.argsort(-1))
