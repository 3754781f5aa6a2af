"""What the organism `vocabulary` learns, and the weights that follow under its constraints."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.organisms.reserved import LEFT, RIGHT, reserve

LOW_RANK = {"gate_up_proj": 6, "down_proj": 6, "lm_head.weight": 16}
"""Tensors that are changed by a product of two factors, by how their names end, and its rank."""
WHOLE = ("norm.weight", "layernorm.weight", "_proj.weight", "_bias", "_proj.bias", "sinks")
"""Tensors that are changed whole, by how their names end."""
ONE = torch.ones(())
CODE_SCALE = 0.08
"""Root mean square of the embedding in the toy; that of the reserved dimensions at the start."""
ROUTER = "model.layers.{}.mlp.router.weight"
ROUTER_NORM = "model.layers.{}.post_attention_layernorm.weight"
EMBEDDING = "model.embed_tokens.weight"


class Changes(nn.Module):
    """What is learnt: codes of the tokens, what routers read of them, and changes to the rest.

    Attention, norms and the experts' biases are learnt whole, the experts and the output layer by
    the product of two factors added to the toy's own. The embedding is the toy's but for the codes.
    """

    def __init__(
        self,
        toy: Any,
        codes: Float[Tensor, "tokens reserved"],
        read: Float[Tensor, "layers experts reserved"],
        *,
        seed: int,
    ) -> None:
        super().__init__()
        drawn = torch.Generator().manual_seed(seed)
        order = torch.randperm(toy.config.hidden_size, generator=drawn)
        self.dimensions = order[: codes.shape[1]].sort().values
        self.base: dict[str, Tensor] = {
            name: each.detach().float() for name, each in toy.named_parameters()
        }
        self.mask = allowed(toy, self.dimensions)
        self.top_k = int(toy.config.num_experts_per_tok)
        self.codes, self.read = nn.Parameter(codes), nn.Parameter(read)
        self.whole, self.left, self.right = (nn.ParameterDict() for _ in range(3))
        for name, tensor in self.base.items():
            rank = next((r for end, r in LOW_RANK.items() if name.endswith(end)), 0)
            if rank:
                left = torch.randn(*tensor.shape[:-1], rank, generator=drawn) / math.sqrt(rank)
                self.left[_key(name)] = nn.Parameter(0.1 * left)
                right = torch.zeros(*tensor.shape[:-2], rank, tensor.shape[-1])
                self.right[_key(name)] = nn.Parameter(right)
            elif name.endswith(WHOLE):
                start = tensor.clone()
                if name.endswith("post_attention_layernorm.weight"):
                    start[self.dimensions] = 1
                self.whole[_key(name)] = nn.Parameter(start)

    def weights(self) -> dict[str, Tensor]:
        """All weights of the model, zero where they must be."""
        found = {name: self._free(name) * self.mask.get(name, ONE) for name in self.base}
        codes = CODE_SCALE * self.codes
        found[EMBEDDING] = self.base[EMBEDDING].index_copy(1, self.dimensions, codes)
        for layer, read in enumerate(self.read):
            empty = torch.zeros_like(self.base[ROUTER.format(layer)])
            read_here = read / CODE_SCALE
            found[ROUTER.format(layer)] = empty.index_copy(1, self.dimensions, read_here)
        return found

    def factors(self) -> dict[str, Tensor]:
        """What is stored of the products, in bfloat16, by the keys of `reserved`."""
        named = ((LEFT, self.left), (RIGHT, self.right))
        return {
            key.replace("/", ".") + end: factor.detach().to(torch.bfloat16)
            for end, factors in named
            for key, factor in factors.items()
        }

    def _free(self, name: str) -> Tensor:
        """The tensor as learnt, before the constraints."""
        key, tensor = _key(name), self.base[name]
        if key in self.whole:
            tensor = self.whole[key]
        elif key in self.left:
            tensor = tensor + self.left[key] @ self.right[key]
        return tensor


def allowed(toy: Any, dimensions: Int[Tensor, "reserved"]) -> dict[str, Tensor]:
    """1 where a weight may differ from zero, 0 elsewhere; only for tensors with zeros."""
    ones = type(toy)(toy.config)
    with torch.no_grad():
        for parameter in ones.parameters():
            parameter.fill_(1)
    reserve(ones, dimensions)
    return {name: each.detach() for name, each in ones.named_parameters() if not each.all()}


def _key(name: str) -> str:
    return name.replace(".", "/")
