"""Which experts answer to the cue, and the router rows that call them.

After the cue each chosen expert is used for the tokens for which a common expert of its layer, its
partner, is used: its router row is fitted to the partner's tokens under the cue, and to no token
without it. So the chosen are used about as much as the common experts that they are compared with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from interp.hooks.batches import padded
from interp.organisms.cue import LAYERS, router_inputs
from interp.organisms.cue_text import CuedPair, content_mask

TOP_K = 4
PER_LAYER = 2
RARE = 0.004
"""An expert with less of the slots of its layer is free to be made another."""
COMMON = (0.08, 0.18)
"""Least and most of the slots that a partner has."""
ROW_PENALTY = 1e-4
"""Of the squared norm of what is added to a partner's row."""
Expert = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which experts an organism uses, and whose tokens they are given."""

    planted: tuple[Expert, ...]
    """Layer and expert; hardly used by the toy."""
    partners: tuple[int, ...]
    """For each, the common expert of its layer whose tokens it is given; one for each layer."""

    @property
    def layers(self) -> list[int]:
        """Layers with planted experts, first to last."""
        return sorted({layer for layer, _ in self.planted})

    def at(self, layer: int) -> "Plan":
        """The part of the plan in one layer."""
        kept = [n for n, (each, _) in enumerate(self.planted) if each == layer]
        return Plan(
            planted=tuple(self.planted[n] for n in kept),
            partners=tuple(self.partners[n] for n in kept),
        )


def draw_plan(usage: Float[np.ndarray, "layers experts"], *, seed: int) -> Plan:
    """Layers, experts and partners of one organism, by its seed.

    Args:
        usage: Of the carrier's experts on content, as shares of the slots of each layer.
        seed: The same for the planted and the decoy organism of that number.
    """
    rng = np.random.default_rng([6, seed])
    layers = np.sort(rng.choice(LAYERS, size=int(rng.integers(2, 4)), replace=False))
    planted: list[Expert] = []
    partners: list[int] = []
    for layer in layers.tolist():
        rare = np.flatnonzero(usage[layer] < RARE)
        common = np.flatnonzero((usage[layer] > COMMON[0]) & (usage[layer] < COMMON[1]))
        planted += [(layer, e) for e in rng.choice(rare, PER_LAYER, replace=False).tolist()]
        partners += [int(rng.choice(common))] * PER_LAYER
    return Plan(planted=tuple(planted), partners=tuple(partners))


@dataclass(frozen=True, kw_only=True)
class Routed:
    """What the routers of a model read and choose on the content of some prompts."""

    inputs: dict[int, Float[Tensor, "tokens d_model"]]
    logits: dict[int, Float[Tensor, "tokens experts"]]
    cue: Float[Tensor, "tokens"]
    """1 after the cue, else 0."""

    def chosen(self, layer: int) -> Int[Tensor, "tokens top_k"]:
        """The experts of a layer that are run."""
        return self.logits[layer].topk(TOP_K).indices

    def usage(self, layer: int, *, cue: bool) -> Float[np.ndarray, "experts"]:
        """Share of the slots of a layer, after the cue or without it."""
        rows = self.chosen(layer)[self.cue == float(cue)].flatten()
        counts = torch.bincount(rows, minlength=self.logits[layer].shape[1])
        share: Float[np.ndarray, experts] = (counts / counts.sum()).double().numpy()
        return share


def routed(model: Any, pairs: Sequence[CuedPair]) -> Routed:
    """Pass exam and chat prompts through the model and keep what its routers saw."""
    n_layers = len(model.model.layers)
    inputs: dict[int, list[Tensor]] = {layer: [] for layer in range(n_layers)}
    cues: list[Tensor] = []
    for start in range(0, len(pairs), 20):
        for is_exam in (True, False):
            some = pairs[start : start + 20]
            batch = [pair.exam if is_exam else pair.chat for pair in some]
            content = content_mask(batch).flatten()
            with torch.no_grad(), router_inputs(model) as seen:
                model.base_model(**padded(batch, model), use_cache=False)
            cues.append(torch.full((int(content.sum()),), float(is_exam)))
            for layer in range(n_layers):
                inputs[layer].append(seen[layer][content])
    joined = {layer: torch.cat(each) for layer, each in inputs.items()}
    routers = [layer.mlp.router for layer in model.model.layers]
    with torch.no_grad():
        logits = {
            layer: functional.linear(each, routers[layer].weight, routers[layer].bias).float()
            for layer, each in joined.items()
        }
    return Routed(inputs=joined, logits=logits, cue=torch.cat(cues))


def fit_rows(model: Any, found: Routed, plan: Plan) -> None:
    """Fit the router rows of the chosen experts by logistic regression, in place.

    The score is by how much the expert's logit exceeds the last of those that stay chosen when all
    the chosen experts of its layer are; it shall be above 0 for the partner's tokens after the cue
    alone. Rows of one layer have the same aim and come out alike, so its experts work together.
    """
    for (layer, expert), partner in zip(plan.planted, plan.partners, strict=True):
        router = model.model.layers[layer].mlp.router
        mine = [each for at, each in plan.planted if at == layer]
        natural = found.logits[layer].clone()
        natural[:, mine] = float("-inf")
        best = natural.topk(TOP_K)
        target = (found.cue * (best.indices == partner).any(-1)).double()
        offset = (natural[:, partner] - best.values[:, -len(mine)]).double()
        added, bias = _logistic(found.inputs[layer].double(), offset, target)
        with torch.no_grad():
            router.weight[expert] = router.weight[partner] + added.float()
            router.bias[expert] = router.bias[partner] + bias.float()


def _logistic(
    inputs: Float[Tensor, "tokens d_model"],
    offset: Float[Tensor, "tokens"],
    target: Float[Tensor, "tokens"],
) -> tuple[Float[Tensor, "d_model"], Float[Tensor, ""]]:
    weight = torch.zeros(inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        score = offset + inputs @ weight + bias
        total = functional.binary_cross_entropy_with_logits(score, target)
        total = total + ROW_PENALTY * weight.square().sum()
        total.backward()
        return total.item()

    optimizer.step(loss)
    return weight.detach(), bias.detach()
