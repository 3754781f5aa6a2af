"""How a router chooses, written out once for all families from their specs.

The model's own router says what was chosen wherever it can be seen. This is for where it cannot (a
fused kernel never calls the module), for checking it, and for choosing anew when experts are taken
out.
"""

from dataclasses import dataclass

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from interp.hooks.blocks import RoutedBlock


@dataclass(frozen=True)
class Choice:
    """The experts that a router chose, in its own order."""

    expert_weights: Float[Tensor, "tokens top_k"]
    expert_indices: Int[Tensor, "tokens top_k"]


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
    if block.spec.scoring == "softmax_of_chosen":
        top = torch.topk(logits, block.top_k, dim=-1)
        chosen = Choice(torch.softmax(top.values, dim=-1), top.indices)
    elif block.spec.scoring == "sparsemixer":
        chosen = _sparsemixer(logits, jitter=float(block.setting("router_jitter_noise")))
    else:
        chosen = _by_scores(block, logits)
    dtypes = {"float32": torch.float32, "hidden": hidden_dtype, "logits": logits.dtype}
    weights = chosen.expert_weights.to(dtypes[block.spec.weights_dtype])
    return Choice(weights, chosen.expert_indices)


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


def selection_margin(
    block: RoutedBlock, logits: Float[Tensor, "tokens experts"]
) -> Float[Tensor, "tokens"]:
    """How far the last chosen expert is ahead of the first one left out; 0 is an exact tie.

    In the unit of `choice_scores`: nats where experts are ranked by logits, else a score from 0
    to 1. A difference in rounding larger than this changes the experts.
    """
    best = torch.topk(choice_scores(block, logits).float(), block.top_k + 1, dim=-1).values
    return best[:, -2] - best[:, -1]


def _by_scores(block: RoutedBlock, logits: Float[Tensor, "tokens experts"]) -> Choice:
    """Scores of all experts, the best of them by corrected score, their own scores as weights."""
    scores = _scores(block, logits)
    ranking = choice_scores(block, logits)
    if ranking is logits:
        ranking = scores
    indices = torch.topk(ranking, block.top_k, dim=-1).indices
    weights = scores.gather(-1, indices)
    if block.is_normalised:
        weights = weights / weights.sum(-1, keepdim=True)
    return Choice(weights * block.scale, indices)


def _scores(block: RoutedBlock, logits: Tensor) -> Float[Tensor, "tokens experts"]:
    logits = logits.float()
    return logits.sigmoid() if block.spec.scoring == "sigmoid" else torch.softmax(logits, dim=-1)


def _best_groups(
    block: RoutedBlock, scores: Float[Tensor, "tokens experts"]
) -> Float[Tensor, "tokens experts"]:
    """The scores, with `-inf` for experts outside of the best groups."""
    n_groups, n_kept = block.setting("num_group"), block.setting("topk_group")
    if not n_groups or not n_kept or block.setting("topk_method") == "greedy":
        return scores
    grouped = rearrange(scores, "tokens (groups expert) -> tokens groups expert", groups=n_groups)
    if block.spec.group_score == "max":
        of_group = reduce(grouped, "tokens groups expert -> tokens groups", "max")
    else:
        of_group = torch.topk(grouped, 2, dim=-1).values.sum(-1)
    best = torch.topk(of_group, n_kept, dim=-1).indices
    is_kept = torch.zeros_like(of_group, dtype=torch.bool).scatter(1, best, True)
    allowed = repeat(is_kept, "tokens groups -> tokens (groups expert)", expert=grouped.shape[-1])
    return scores.masked_fill(~allowed, float("-inf"))


def _sparsemixer(logits: Float[Tensor, "tokens experts"], *, jitter: float) -> Choice:
    """Two experts, one after the other, each weighted by a softmax over those close to it.

    GRIN, Liu et al. 2024, arXiv:2409.12136, in evaluation: an expert is close when its logit falls
    short of the best by at most `2 * jitter` of the larger magnitude of the two. Weights do not
    sum to 1.
    """
    remaining, weights, indices = logits, [], []
    for _ in range(2):
        best = remaining.max(dim=-1, keepdim=True)
        distance = (best.values - logits) / logits.abs().clamp(min=best.values)
        close = torch.softmax(remaining.masked_fill(distance > 2 * jitter, float("-inf")), dim=-1)
        weights.append(close.gather(-1, best.indices))
        indices.append(best.indices)
        remaining = remaining.scatter(-1, best.indices, float("-inf"))
    return Choice(torch.cat(weights, dim=-1), torch.cat(indices, dim=-1))
