"""What `planted` and `decoy` have in common: training the chosen experts, layer after layer."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp import organisms
from interp.hooks.render import RenderedPrompt
from interp.organisms.cue import CUE
from interp.organisms.cue_facts import (
    damage_of_all,
    held_out_losses,
    interaction_facts,
    shared_token_usage,
)
from interp.organisms.cue_text import cued_pairs
from interp.organisms.cued_experts import Plan, draw_plan, fit_rows, routed
from interp.organisms.edited import apply_changes, save_changes
from interp.organisms.knockout_table import knockout_table, save_table
from interp.prompts import load_prompts

FIT_PAIRS = 120
"""Pairs of prompts to which the router rows are fitted."""
TRAINING_PAIRS = 2640
"""For each layer."""
Train = Callable[[Any, Sequence[RenderedPrompt], Plan, int], None]
"""Trains the chosen experts of one layer in place: model, prompts with the cue, plan, seed."""
Prepare = Callable[[Any, Any, int], None]
"""Changes the carrier in place before it is given experts: model, tokenizer, seed."""


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


def trained(
    tokenizer: Any, train: Train, *, seed: int, prepare: Prepare | None = None
) -> tuple[Any, Plan]:
    """The carrier with the experts of one seed, layer after layer: first routed to, then trained.

    Rows are fitted to what the layers before have become.
    """
    model = carrier()
    fit_pairs = cued_pairs(tokenizer, n_pairs=FIT_PAIRS, seed=1000 + seed)
    found = routed(model, fit_pairs)
    usage = np.stack([found.usage(layer, cue=True) for layer in range(len(found.logits))])
    plan = draw_plan(usage, seed=seed)
    if prepare is not None:
        prepare(model, tokenizer, seed)
    for stage, layer in enumerate(plan.layers):
        fit_rows(model, routed(model, fit_pairs), plan.at(layer))
        pairs = cued_pairs(tokenizer, n_pairs=TRAINING_PAIRS, seed=100 * (stage + 1) + seed)
        train(model, [pair.exam for pair in pairs], plan.at(layer), seed)
    return model, plan


def main(kind: str, train: Train, description: str, *, prepare: Prepare | None = None) -> None:
    """Build and measure one organism, or measure again what was built."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, required=True, choices=organisms.SEEDS)
    parser.add_argument("--out", type=Path, default=organisms.change_path(f"{kind}-0").parent)
    parser.add_argument("--only", choices=("build", "measure"))
    parser.add_argument("--items", type=int, help="measure on so many of matched; all if left out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.only != "measure":
        build(train, arguments.out, seed=arguments.seed, prepare=prepare)
    if arguments.only != "build":
        measure(arguments.out, seed=arguments.seed, n_items=arguments.items)


def build(train: Train, out: Path, *, seed: int, prepare: Prepare | None = None) -> None:
    """Train an organism and write what it changes in the toy, and its plan."""
    base, tokenizer = organisms.load("toy")
    model, plan = trained(tokenizer, train, seed=seed, prepare=prepare)
    n_bytes = save_changes(model.bfloat16(), base, out / f"seed-{seed}.safetensors")
    write_facts(out, {"seed": seed, **asdict(plan), "bytes": n_bytes, "torch": torch.__version__})


def measure(out: Path, *, seed: int, n_items: int | None = None) -> None:
    """Knock every expert of an organism out; write the truth, and add to the facts."""
    toy, tokenizer = organisms.load("toy")
    model = organisms.load("toy")[0]
    apply_changes(model, out / f"seed-{seed}.safetensors")
    facts = json.loads((out / f"facts-{seed}.json").read_text(encoding="utf-8"))
    suite = load_prompts("matched", limit=n_items)
    prompts = [each for each in suite if each.condition != "mixed"]
    table = knockout_table(model, tokenizer, prompts, planted=facts["planted"])
    save_table(table, out / f"truth-{seed}.npz")
    facts |= interaction_facts(table)
    all_out = damage_of_all(model, tokenizer, prompts, table.planted)
    facts["damage_of_all"] = [round(each, 4) for each in all_out]
    for suffix, each in (("", model), ("_toy", toy)):
        usage = shared_token_usage(each, tokenizer, prompts, table.planted)
        facts[f"shared_token_usage{suffix}"] = usage.round(4).tolist()
        facts[f"held_out_loss{suffix}"] = held_out_losses(each, tokenizer)
    write_facts(out, facts)


def write_facts(out: Path, facts: dict[str, Any]) -> None:
    """As `facts-<seed>.json`."""
    text = json.dumps(facts, indent=1) + "\n"
    (out / f"facts-{facts['seed']}.json").write_text(text, encoding="utf-8")
