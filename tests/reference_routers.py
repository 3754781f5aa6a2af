"""Routers, experts and residual sums of each family by hand: the oracle of `test_families`.

Plain loops in double precision, from what the modelling code and the papers of each family say. It
shares no code with `interp.hooks` and calls no router and no experts of transformers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Row = list[float]


@dataclass(frozen=True)
class ByHand:
    """Routing of one layer; first axis is the token, experts by descending weight."""

    router_logits: Tensor
    expert_indices: Tensor
    expert_weights: Tensor
    expert_output_norms: Tensor
    routed: Tensor
    """Weighted sum of the experts' outputs."""
    margin: float
    """How little would have to change for another choice or another order."""


def route_by_hand(family: str, moe: Any, config: Any, rows: Tensor) -> ByHand:
    """What a routed block does with `rows`, `[tokens, d_model]` in double precision."""
    router = moe.router if hasattr(moe, "router") else moe.gate
    weight = (router.wg if family == "hunyuan_v1_moe" else router).weight.detach().double()
    bias = router.bias.detach().double().tolist() if family == "gpt_oss" else [0.0] * len(weight)
    logits, chosen, shares, norms, routed, margins = [], [], [], [], [], []
    for row in rows.double():
        scalars = [sum(map(float, row * w)) + b for w, b in zip(weight, bias, strict=True)]
        choice, margin = ROUTERS[family](scalars, config, router)
        best = sorted(choice, key=lambda expert: -choice[expert])
        outputs = [_expert(family, moe.experts, row, expert) for expert in best]
        logits.append(scalars)
        chosen.append(best)
        shares.append([choice[expert] for expert in best])
        norms.append([math.sqrt(sum(float(x) ** 2 for x in output)) for output in outputs])
        routed.append(sum(choice[e] * output for e, output in zip(best, outputs, strict=True)))
        gaps = [a - b for a, b in zip(shares[-1], shares[-1][1:], strict=False)]
        margins.append(min([margin, *filter(None, gaps)]))  # equal weights keep their order
    tables = (torch.tensor(each, dtype=torch.double) for each in (logits, shares, norms))
    router_logits, expert_weights, expert_output_norms = tables
    return ByHand(
        router_logits,
        torch.tensor(chosen),
        expert_weights,
        expert_output_norms,
        torch.stack(routed),
        min(margins),
    )


def handed_on(
    family: str, decoder: Any, moe: Any, *, resid_mid: Tensor, moe_input: Tensor, routed: Tensor
) -> Tensor:
    """What the decoder layer hands on, from its routed experts' sum and its unrouted ones."""
    if family == "flex_olmo":
        return resid_mid + decoder.post_feedforward_layernorm(routed.float()).double()
    if family == "minimax":
        return moe_input * decoder.mlp_alpha_factor + routed * decoder.mlp_beta_factor
    if family == "granitemoe":
        return resid_mid + routed * decoder.residual_multiplier
    if family == "qwen2_moe":
        opened = torch.sigmoid(moe_input @ moe.shared_expert_gate.weight.double().T)
        return resid_mid + routed + opened * _gated(moe.shared_expert, moe_input)
    shared = getattr(moe, "shared_experts", None) or getattr(moe, "shared_mlp", None)
    return resid_mid + routed + (_gated(shared, moe_input) if shared is not None else 0.0)


def _gated(mlp: Any, rows: Tensor) -> Tensor:
    gate = rows @ mlp.gate_proj.weight.double().T
    up = rows @ mlp.up_proj.weight.double().T
    return (gate * torch.sigmoid(gate) * up) @ mlp.down_proj.weight.double().T


def _expert(family: str, experts: Any, row: Tensor, expert: int) -> Tensor:
    into, out = experts.gate_up_proj[expert].double(), experts.down_proj[expert].double()
    if family == "gpt_oss":
        both = row @ into + experts.gate_up_proj_bias[expert].double()
        gate, up = both[0::2].clamp(max=7.0), both[1::2].clamp(min=-7.0, max=7.0)
        hidden = (up + 1) * gate * torch.sigmoid(1.702 * gate)
        return hidden @ out + experts.down_proj_bias[expert].double()
    both = into @ row
    half = len(both) // 2
    return out @ (both[:half] * torch.sigmoid(both[:half]) * both[half:])


def _softmax(row: Row) -> Row:
    largest = max(row)
    powers = [math.exp(each - largest) for each in row]
    return [each / sum(powers) for each in powers]


def _sigmoid(row: Row) -> Row:
    return [1 / (1 + math.exp(-each)) for each in row]


def _best(row: Row, count: int) -> tuple[list[int], float]:
    """Positions of the largest, best first, and the distance to the first one left out."""
    order = sorted(range(len(row)), key=lambda position: -row[position])
    return order[:count], row[order[count - 1]] - row[order[count]]


Found = tuple[dict[int, float], float]
"""Weight by expert chosen, and how clear the choice was."""


def _softmax_of_chosen(row: Row, config: Any, router: Any) -> Found:
    best, margin = _best(row, config.num_experts_per_tok)
    return dict(zip(best, _softmax([row[expert] for expert in best]), strict=True)), margin


def _softmax_then_best(row: Row, config: Any, router: Any) -> Found:
    """Weights are parts of the softmax over all experts, as they are."""
    scores = _softmax(row)
    best, margin = _best(scores, config.num_experts_per_tok)
    return {expert: scores[expert] for expert in best}, margin


def _softmax_then_best_to_one(row: Row, config: Any, router: Any) -> Found:
    chosen, margin = _softmax_then_best(row, config, router)
    total = sum(chosen.values())
    return {expert: score / total for expert, score in chosen.items()}, margin


def _as_the_config_says(row: Row, config: Any, router: Any) -> Found:
    rule = _softmax_then_best_to_one if config.norm_topk_prob else _softmax_then_best
    return rule(row, config, router)


def _corrected_sigmoid(row: Row, config: Any, router: Any) -> Found:
    """DeepSeek-V3, arXiv:2412.19437, eq. 13 to 16, and its choice of groups."""
    scores, size = _sigmoid(row), len(row) // config.n_group
    corrected = [s + float(b) for s, b in zip(scores, router.e_score_correction_bias, strict=True)]
    of_groups = [
        sum(sorted(corrected[group * size : (group + 1) * size])[-2:])
        for group in range(config.n_group)
    ]
    groups, group_margin = _best(of_groups, config.topk_group)
    open_to = [x if e // size in groups else -math.inf for e, x in enumerate(corrected)]
    best, margin = _best(open_to, config.num_experts_per_tok)
    total = sum(scores[expert] for expert in best) if config.norm_topk_prob else 1.0
    factor = config.routed_scaling_factor / total
    return {expert: scores[expert] * factor for expert in best}, min(margin, group_margin)


def _softmax_in_groups(row: Row, config: Any, router: Any) -> Found:
    """DeepSeek-V2, arXiv:2405.04434, section 2.2.2: a group counts by its best expert."""
    scores, size = _softmax(row), len(row) // config.n_group
    of_groups = [max(scores[group * size : (group + 1) * size]) for group in range(config.n_group)]
    groups, group_margin = _best(of_groups, config.topk_group)
    open_to = [x if e // size in groups else 0.0 for e, x in enumerate(scores)]
    best, margin = _best(open_to, config.num_experts_per_tok)
    chosen = {expert: scores[expert] * config.routed_scaling_factor for expert in best}
    return chosen, min(margin, group_margin)


def _corrected_softmax(row: Row, config: Any, router: Any) -> Found:
    scores = _softmax(row)
    correction = router.moe_statics.e_score_correction_bias[0].tolist()
    corrected = [score + each for score, each in zip(scores, correction, strict=True)]
    best, margin = _best(corrected, config.moe_k)
    total = sum(scores[expert] for expert in best)
    return {expert: scores[expert] / total for expert in best}, margin


def _hunyuan(row: Row, config: Any, router: Any) -> Found:
    scores = _softmax(row)
    best, margin = _best(scores, config.moe_topk)
    total = sum(scores[expert] for expert in best)
    return {expert: scores[expert] / total for expert in best}, margin


def _sparsemixer(row: Row, config: Any, router: Any) -> Found:
    """Two experts in turn; each one's weight is its softmax over those that come close to it."""
    chosen: dict[int, float] = {}
    margins = []
    for _ in range(2):
        left = {expert: logit for expert, logit in enumerate(row) if expert not in chosen}
        first = max(left, key=lambda expert: left[expert])
        top = left[first]
        far = {e: (top - logit) / max(abs(logit), top) for e, logit in left.items()}
        bound = 2 * config.router_jitter_noise
        close = [logit for e, logit in left.items() if far[e] <= bound]
        chosen[first] = 1 / sum(math.exp(logit - top) for logit in close)
        margins += [abs(each - bound) for each in far.values()]
        margins += [top - logit for e, logit in left.items() if e != first]
    return chosen, min(margins)


ROUTERS: dict[str, Callable[[Row, Any, Any], Found]] = {
    "gpt_oss": _softmax_of_chosen,
    "mixtral": _softmax_then_best_to_one,
    "olmoe": _as_the_config_says,
    "qwen3_moe": _as_the_config_says,
    "deepseek_v3": _corrected_sigmoid,
    "qwen2_moe": _as_the_config_says,
    "granitemoe": _softmax_of_chosen,
    "phimoe": _sparsemixer,
    "deepseek_v2": _softmax_in_groups,
    "glm4_moe": _corrected_sigmoid,
    "ernie4_5_moe": _corrected_softmax,
    "minimax": _softmax_then_best_to_one,
    "hunyuan_v1_moe": _hunyuan,
    "flex_olmo": _as_the_config_says,
}
"""The rule of each family: logits of one token, config, and the router for its correction."""
