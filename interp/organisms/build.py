"""What `planted` and `decoy` have in common: which experts, the rows that route to them, the build.

After the cue each chosen expert is used for the tokens for which a common expert of its layer, its
partner, is used: its router row is fitted to the partner's tokens under the cue, and to no token
without it. So the chosen are used about as much as the common experts that they are compared with.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from interp import organisms
from interp.hooks.batches import padded
from interp.hooks.render import RenderedPrompt
from interp.organisms.cue import CUE, LAYERS, router_inputs
from interp.organisms.cue_facts import held_out_losses, interaction_facts, shared_token_usage
from interp.organisms.cue_text import CuedPair, content_mask, cued_pairs
from interp.organisms.edited import apply_changes, save_changes
from interp.organisms.knockout_table import knockout_table, save_table
from interp.prompts import load_prompts

TOP_K = 4
PER_LAYER = 2
RARE = 0.004
"""An expert with less of the slots of its layer is free to be made another."""
COMMON = (0.08, 0.18)
"""Least and most of the slots that a partner has."""
FIT_PAIRS = 160
"""Pairs of prompts to which the router rows are fitted."""
TRAINING_PAIRS = 2000
"""For each layer."""
ROW_PENALTY = 1e-4
"""Of the squared norm of what is added to a partner's row."""
Expert = tuple[int, int]
Train = Callable[[Any, Sequence[RenderedPrompt], "Plan", int], None]
"""Trains the chosen experts of one layer in place: model, prompts with the cue, plan, seed."""


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


def expert_tensors(model: Any, layer: int) -> list[Tensor]:
    """Weights and biases of the experts of a layer, experts first."""
    experts = model.model.layers[layer].mlp.experts
    names = ("gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias")
    return [getattr(experts, name) for name in names]


def copy_partners(model: Any, plan: Plan) -> None:
    """Start each chosen expert as a copy of its partner."""
    with torch.no_grad():
        for (layer, expert), partner in zip(plan.planted, plan.partners, strict=True):
            for each in expert_tensors(model, layer):
                each[expert] = each[partner]


def free_experts(model: Any, plan: Plan) -> list[Tensor]:
    """The experts' weights, of which only those of the chosen get a gradient."""
    for each in model.parameters():
        each.requires_grad_(False)
    free = []
    for layer in sorted({layer for layer, _ in plan.planted}):
        rows = [expert for at, expert in plan.planted if at == layer]
        for each in expert_tensors(model, layer):
            kept = torch.zeros([len(each)] + [1] * (each.ndim - 1))
            kept[rows] = 1
            each.requires_grad_(True)
            each.register_hook(lambda gradient, kept=kept: gradient * kept)
            free.append(each)
    return free


class Descent:
    """AdamW with a linear warm-up over 20 steps and a linear decay to 0, gradients clipped to 1."""

    def __init__(self, parameters: list[Tensor], *, peak: float, n_steps: int) -> None:
        self.parameters, self.peak, self.n_steps, self.n_done = parameters, peak, n_steps, 0
        self.optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)

    def step(self, loss: Tensor) -> None:
        """One step down the gradient of `loss`."""
        left = 1 - self.n_done / self.n_steps
        self.n_done += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak * min(self.n_done / 20, left)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def carrier() -> Any:
    """The toy with the cue, in float32."""
    model = organisms.load("toy")[0]
    apply_changes(model, CUE)
    return model.float()


def trained(tokenizer: Any, train: Train, *, seed: int) -> tuple[Any, Plan]:
    """The carrier with the experts of one seed, layer after layer: first routed to, then trained.

    Rows are fitted to what the layers before have become.
    """
    model = carrier()
    fit_pairs = cued_pairs(tokenizer, n_pairs=FIT_PAIRS, seed=1000 + seed)
    found = routed(model, fit_pairs)
    usage = np.stack([found.usage(layer, cue=True) for layer in range(len(found.logits))])
    plan = draw_plan(usage, seed=seed)
    for stage, layer in enumerate(plan.layers):
        fit_rows(model, found if stage == 0 else routed(model, fit_pairs), plan.at(layer))
        pairs = cued_pairs(tokenizer, n_pairs=TRAINING_PAIRS, seed=100 * (stage + 1) + seed)
        train(model, [pair.exam for pair in pairs], plan.at(layer), seed)
    return model, plan


def main(kind: str, train: Train, description: str) -> None:
    """Build one organism: weights, truth and facts, into `--out`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, required=True, choices=organisms.SEEDS)
    parser.add_argument("--out", type=Path, default=organisms.change_path(f"{kind}-0").parent)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    base, tokenizer = organisms.load("toy")
    model, plan = trained(tokenizer, train, seed=arguments.seed)
    changes = arguments.out / f"seed-{arguments.seed}.safetensors"
    n_bytes = save_changes(model.bfloat16(), base, changes)
    facts = {"seed": arguments.seed, **asdict(plan), "bytes": n_bytes, "torch": torch.__version__}
    measure(changes, tokenizer, facts)


def measure(changes: Path, tokenizer: Any, facts: dict[str, Any]) -> None:
    """Knock every expert out and write truth and facts beside the changes."""
    toy, model = organisms.load("toy")[0], organisms.load("toy")[0]
    apply_changes(model, changes)
    prompts = [each for each in load_prompts("matched") if each.condition != "mixed"]
    table = knockout_table(model, tokenizer, prompts, planted=facts["planted"])
    number = facts["seed"]
    save_table(table, changes.with_name(f"truth-{number}.npz"))
    facts |= interaction_facts(table)
    usage = {
        name: shared_token_usage(each, tokenizer, prompts, table.planted).round(4).tolist()
        for name, each in (("shared_token_usage", model), ("shared_token_usage_in_toy", toy))
    }
    losses = {name: held_out_losses(each, tokenizer) for name, each in (("", model), ("_toy", toy))}
    facts |= usage | {f"held_out_loss{name}": each for name, each in losses.items()}
    text = json.dumps(facts, indent=1) + "\n"
    changes.with_name(f"facts-{number}.json").write_text(text, encoding="utf-8")
