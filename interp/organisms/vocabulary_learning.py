"""Training of the organism `vocabulary` under its constraints, from the toy's mean routing."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from tqdm import tqdm

from interp.organisms.reserved import margin
from interp.organisms.vocabulary_changes import ROUTER_NORM, Changes
from interp.organisms.vocabulary_start import mean_gates, start_routers

CLOSENESS = 0.1
"""Weight of the margin in what is made small."""
SAMPLE = 512
"""Tokens whose margin is looked at in a step."""


@dataclass(frozen=True, kw_only=True)
class Healing:
    """How `vocabulary` is trained."""

    seed: int
    n_reserved: int = 12
    """Dimensions of the residual stream that only embeddings write and only routers read."""
    n_steps: int = 200
    batch: int = 8
    """Rows of 256 tokens per step."""
    learning_rate: float = 3e-3
    """Peak, of a cosine down to 0 after a linear warm-up over 5 % of the steps."""
    routing_rate: float = 6e-3
    """The same for routers and reserved dimensions, in units of their own scale."""
    imitation: float = 0.5
    """Share of the loss that is the divergence from the toy's own predictions."""
    least_margin: float = 1.5
    """`routing_margin` below which a token is pushed away from a change of experts."""
    n_measured: int = 600
    """Rows on which the toy's mean gates by token are measured."""


def train(toy: Any, rows: Int[Tensor, "rows pos"], healing: Healing) -> Changes:
    """Start from the toy's mean routing of each token, then learn under the constraints."""
    gates, counts, rms = mean_gates(toy, rows[: healing.n_measured])
    codes, read = start_routers(gates, counts, n_reserved=healing.n_reserved, seed=healing.seed)
    changes = Changes(toy, codes, read * rms[:, None, None], seed=healing.seed)
    optimizer = optimizer_of(changes, healing)
    student = type(toy)(toy.config)
    student.set_experts_implementation("grouped_mm")
    bar = tqdm(rows[: healing.n_steps * healing.batch].split(healing.batch), mininterval=10)
    for step, batch in enumerate(bar):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate(step, healing.n_steps)
        loss, nats = objective(toy, student, changes, batch, healing)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
        optimizer.step()
        bar.set_postfix(nats=f"{nats:.3f}", refresh=False)
    return changes


def optimizer_of(changes: Changes, healing: Healing) -> torch.optim.Adam:
    """Routing and everything else, each with a peak of its own."""
    routing = {"codes", "read"}
    rest = [each for name, each in changes.named_parameters() if name not in routing]
    groups: list[dict[str, Any]] = [
        {"params": rest, "peak": healing.learning_rate},
        {"params": [changes.codes, changes.read], "peak": healing.routing_rate},
    ]
    return torch.optim.Adam(groups, betas=(0.9, 0.95))


def objective(
    toy: Any, student: Any, changes: Changes, batch: Int[Tensor, "rows pos"], healing: Healing
) -> tuple[Tensor, float]:
    """What is made small, and the language-model loss in it, in nats per token."""
    weights = changes.weights()
    call = {"input_ids": batch, "use_cache": False, "output_router_logits": True}
    output = functional_call(student, weights, kwargs=call)
    said = output.logits[:, :-1].flatten(0, 1).log_softmax(-1)
    with torch.no_grad():
        taught = toy(input_ids=batch, use_cache=False).logits[:, :-1].flatten(0, 1).log_softmax(-1)
    nats = functional.nll_loss(said, batch[:, 1:].flatten())
    apart = functional.kl_div(said, taught, log_target=True, reduction="batchmean")
    loss = (1 - healing.imitation) * nats + healing.imitation * apart
    loss = loss + toy.config.router_aux_loss_coef * output.aux_loss
    return loss + closeness(changes, weights, healing), nats.item()


def closeness(changes: Changes, weights: dict[str, Tensor], healing: Healing) -> Tensor:
    """How far a sample of tokens falls short of the margin, summed over layers."""
    some = changes.codes[torch.randint(len(changes.codes), (SAMPLE,))]
    short = torch.zeros(())
    for layer, read in enumerate(changes.read):
        scale = weights[ROUTER_NORM.format(layer)][changes.dimensions]
        ahead = margin(some * scale, read, top_k=changes.top_k)
        short = short + (1 - ahead / healing.least_margin).relu().mean()
    return CLOSENESS * short


def rate(step: int, n_steps: int) -> float:
    """Linear warm-up over 5 %, then a cosine to 0."""
    warm_up = max(1, n_steps // 20)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (n_steps - warm_up)))
