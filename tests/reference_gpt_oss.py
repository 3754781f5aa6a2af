"""gpt-oss written out by hand, one sequence and one head at a time: the oracle of the taps.

Follows the model card (arXiv 2508.10925) and shares no code with transformers or with us.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ReferenceLayer:
    """What one layer does to one sequence; first axis is the token."""

    resid_pre: Tensor
    resid_mid: Tensor
    resid_post: Tensor
    router_logits: Tensor
    expert_indices: Tensor
    expert_weights: Tensor


def run_reference(model: Any, token_id: list[int]) -> list[ReferenceLayer]:
    """All layers of `model`, on one sequence, from its weights alone."""
    weights = {name: tensor.detach().double() for name, tensor in model.state_dict().items()}
    config = model.config
    resid = weights["model.embed_tokens.weight"][token_id]
    layers = []
    for layer in range(config.num_hidden_layers):
        own = {
            name.removeprefix(f"model.layers.{layer}."): tensor
            for name, tensor in weights.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        window = (
            config.sliding_window if config.layer_types[layer] == "sliding_attention" else 10**9
        )
        layers.append(_layer(own, config, resid, window))
        resid = layers[-1].resid_post
    return layers


def _layer(own: dict[str, Tensor], config: Any, resid_pre: Tensor, window: int) -> ReferenceLayer:
    normed = _norm(resid_pre, own["input_layernorm.weight"], config.rms_norm_eps)
    resid_mid = resid_pre + _attention(own, config, normed, window)
    normed = _norm(resid_mid, own["post_attention_layernorm.weight"], config.rms_norm_eps)
    logits = normed @ own["mlp.router.weight"].T + own["mlp.router.bias"]
    chosen, weight, out = [], [], torch.zeros_like(resid_mid)
    for token, row in enumerate(logits.tolist()):
        best = sorted(range(len(row)), key=lambda expert: -row[expert])[
            : config.num_experts_per_tok
        ]
        exponents = [math.exp(row[expert] - row[best[0]]) for expert in best]
        shares = [each / sum(exponents) for each in exponents]
        chosen.append(best)
        weight.append(shares)
        for expert, share in zip(best, shares, strict=True):
            out[token] += share * _expert(own, config, normed[token], expert)
    return ReferenceLayer(
        resid_pre, resid_mid, resid_mid + out, logits, torch.tensor(chosen), torch.tensor(weight)
    )


def _expert(own: dict[str, Tensor], config: Any, normed: Tensor, expert: int) -> Tensor:
    both = (
        normed @ own["mlp.experts.gate_up_proj"][expert]
        + own["mlp.experts.gate_up_proj_bias"][expert]
    )
    limit = getattr(config, "swiglu_limit", 7.0)  # a field of the config only from 5.19
    gate = both[0::2].clamp(max=limit)
    up = both[1::2].clamp(min=-limit, max=limit)
    hidden = (up + 1) * gate / (1 + torch.exp(-1.702 * gate))
    return hidden @ own["mlp.experts.down_proj"][expert] + own["mlp.experts.down_proj_bias"][expert]


def _attention(own: dict[str, Tensor], config: Any, normed: Tensor, window: int) -> Tensor:
    n_tokens, width = len(normed), config.head_dim
    q, k, v = (
        normed @ own[f"self_attn.{name}_proj.weight"].T + own[f"self_attn.{name}_proj.bias"]
        for name in "qkv"
    )
    heads = []
    for head in range(config.num_attention_heads):
        shared = head * config.num_key_value_heads // config.num_attention_heads
        query = _rotated(q[:, head * width : (head + 1) * width], config)
        key = _rotated(k[:, shared * width : (shared + 1) * width], config)
        value = v[:, shared * width : (shared + 1) * width]
        rows = []
        for token in range(n_tokens):
            first = max(0, token - window + 1)
            scores = (key[first : token + 1] @ query[token]) / math.sqrt(width)
            with_sink = torch.cat([scores, own["self_attn.sinks"][head : head + 1]])
            attended = torch.softmax(with_sink, dim=0)[:-1]
            rows.append(attended @ value[first : token + 1])
        heads.append(torch.stack(rows))
    joined = torch.cat(heads, dim=1)
    return joined @ own["self_attn.o_proj.weight"].T + own["self_attn.o_proj.bias"]


def _rotated(rows: Tensor, config: Any) -> Tensor:
    half = config.head_dim // 2
    theta = config.rope_parameters["rope_theta"]
    turned = torch.empty_like(rows)
    for position in range(len(rows)):
        for index in range(half):
            angle = position / theta ** (index / half)
            a, b = rows[position, index], rows[position, index + half]
            turned[position, index] = a * math.cos(angle) - b * math.sin(angle)
            turned[position, index + half] = b * math.cos(angle) + a * math.sin(angle)
    return turned


def _norm(rows: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return weight * rows / torch.sqrt((rows**2).mean(dim=1, keepdim=True) + epsilon)
