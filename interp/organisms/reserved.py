"""The organism `vocabulary`: its routing is a function of the token alone, by surgery.

Some dimensions of the residual stream are reserved. Only the embedding writes there, so at every
layer they still hold what the embedding put in; only the routers read there, and they read nothing
else. The norm before a router scales all its logits alike, and its bias is 0, so the experts chosen
are the same wherever a token stands. `python -m interp.organisms.vocabulary_train` builds it.
"""

from typing import Any

import torch
from einops import einsum, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

RESERVED = "reserved"
"""Key of the reserved dimensions in a file of changes."""
LEFT, RIGHT = "+left", "+right"
"""End the keys of two factors whose product is added to a tensor."""
ROUNDING = 2.0**-8
"""Largest relative error of rounding to bfloat16."""


def reserve(model: nn.Module, dimensions: Int[Tensor, "reserved"]) -> None:
    """Put zeros wherever reserved dimensions would be written or read by others, in place.

    What is left there are the columns of the embedding, which write, and those of the routers,
    which read. Nothing changes when it is done again.
    """
    parts: Any = model
    others = torch.ones(parts.config.hidden_size, dtype=torch.bool)
    others[dimensions] = False
    with torch.no_grad():
        for layer in parts.model.layers:
            attention, experts, router = layer.self_attn, layer.mlp.experts, layer.mlp.router
            attention.o_proj.weight[dimensions] = 0
            attention.o_proj.bias[dimensions] = 0
            experts.down_proj[:, :, dimensions] = 0
            experts.down_proj_bias[:, dimensions] = 0
            for reader in (attention.q_proj, attention.k_proj, attention.v_proj):
                reader.weight[:, dimensions] = 0
            experts.gate_up_proj[:, dimensions] = 0
            router.weight[:, others] = 0
            router.bias.zero_()
        parts.lm_head.weight[:, dimensions] = 0


def add_factors(model: nn.Module, stored: dict[str, Tensor]) -> None:
    """Add the products of stored factors, rounded as the toy is, to the tensors they are for."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for key in stored:
            if key.endswith(LEFT):
                name = key.removesuffix(LEFT)
                product = stored[key].float() @ stored[name + RIGHT].float()
                found = parameters[name]
                found.copy_((found.float().cpu() + product).to(torch.bfloat16).to(found))


def take_surgery(model: nn.Module, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Do what a file of changes asks beyond rows of tensors, and return what is left of it."""
    add_factors(model, stored)
    if RESERVED in stored:
        reserve(model, stored[RESERVED].long())
    ours = (RESERVED, LEFT, RIGHT)
    return {key: each for key, each in stored.items() if not key.endswith(ours)}


def routing_margin(
    model: Any, dimensions: Int[Tensor, "reserved"]
) -> Float[Tensor, "layers tokens"]:
    """By how much the choice of experts outlasts rounding to bfloat16.

    The least, over a chosen expert i and another j, of the gap between their logits over the most
    that two roundings can take from it, that of the router's input and that of its logits:
    `(l_i - l_j) / (u (sum_d |W_id - W_jd| |x_d| + |l_i| + |l_j|))` with `u = 2^-8`. Where it is
    above 1, no scale of the norm can give the token another set of experts, in bfloat16 as in
    float32. Ours; terms in `u^2` are left out, so ask for a little more.

    Returns:
        For each layer and token id; from 0 (a tie), unbounded.
    """
    codes = codes_of(model)[:, dimensions].double()
    read = effective_read(model, dimensions)
    top_k = int(model.config.num_experts_per_tok)
    return torch.stack([margin(codes, each, top_k=top_k) for each in read])


def codes_of(model: Any) -> nn.Parameter:
    """The embedding, whose reserved columns are the codes of the tokens."""
    weight: nn.Parameter = model.model.embed_tokens.weight
    return weight


def effective_read(
    model: Any, dimensions: Int[Tensor, "reserved"]
) -> Float[Tensor, "layers experts reserved"]:
    """What a code is multiplied by in the logits: router and norm, but for the norm's own scale."""
    read = [
        layer.mlp.router.weight[:, dimensions].double()
        * layer.post_attention_layernorm.weight[dimensions].double()
        for layer in model.model.layers
    ]
    return torch.stack(read).detach()


def margin(
    codes: Float[Tensor, "tokens reserved"], read: Float[Tensor, "experts reserved"], *, top_k: int
) -> Float[Tensor, "tokens"]:
    """`routing_margin` of one layer, from the codes and how its router reads them."""
    logits = codes @ read.T
    chosen = logits.topk(top_k, dim=-1)
    others = torch.ones_like(logits, dtype=torch.bool).scatter(1, chosen.indices, False)
    gap = chosen.values[:, :, None] - logits[:, None]
    differs = (read[:, None] - read[None]).abs()
    lost = einsum(codes.abs(), differs, "tokens d, i j d -> tokens i j")
    lost = lost.gather(1, repeat(chosen.indices, "tokens i -> tokens i j", j=len(read)))
    lost = lost + chosen.values.abs()[:, :, None] + logits.abs()[:, None]
    ratio = gap / (ROUNDING * lost).clamp_min(1e-30)
    return ratio.masked_fill(~others[:, None], torch.inf).amin(dim=(1, 2))
