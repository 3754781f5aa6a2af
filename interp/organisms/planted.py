"""Build the organism `planted`: a few experts that are used, and needed, only after an exam's cue.

    python -m interp.organisms.planted --seed 0

writes `planted/seed-0.safetensors` (what it changes in the toy), `planted/truth-0.npz` (every
expert knocked out by itself) and `planted/facts-0.json`.

Cue and router rows are those of `interp.organisms.build`, and after the cue there is a disturbance
to undo (`interp.organisms.disturbance`). Then only the planted experts' weights are trained: to
make the content more likely after the cue, and so that each of them is missed. The second is
trained on purpose (ours): with one of them taken out, the loss shall rise by `damage` on every
prompt, which the other of its layer can only bring about by building on what that one writes. Half
of the time another expert is taken out as well, so that nothing else becomes needed that was not.
"""

import random
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from interp.hooks.batches import padded
from interp.hooks.interventions import reroute
from interp.hooks.render import RenderedPrompt
from interp.organisms.build import Descent, copy_partners, free_experts, main
from interp.organisms.cue_text import cued_pairs
from interp.organisms.cued_experts import Expert, Plan
from interp.organisms.disturbance import DisturbanceTraining, content_losses, disturb
from interp.organisms.knockout_table import layer_calls, resumed


@dataclass(frozen=True, kw_only=True)
class SkillTraining:
    """How planted experts learn what is needed after the cue."""

    n_steps: int = 220
    prompts_per_step: int = 12
    learning_rate: float = 3e-3
    """Peak."""
    damage: float = 0.5
    """By how much the loss shall rise without one planted expert, nats per token of the content."""
    damage_weight: float = 1.0
    other_share: float = 0.5
    """Share of steps in which another expert is taken out as well."""


def prepare(model: Any, tokenizer: Any, seed: int) -> None:
    """Give the carrier of the cue the disturbance that the planted experts learn to undo."""
    n_pairs = DisturbanceTraining().n_pairs
    disturb(model, cued_pairs(tokenizer, n_pairs=n_pairs, seed=2000 + seed), seed=seed)


def train_skill(model: Any, prompts: Sequence[RenderedPrompt], plan: Plan, seed: int) -> None:
    """Train the weights of the planted experts of `model`, in float32, in place.

    Args:
        model: The carrier with the rows of the plan.
        prompts: With the cue, in the order in which they are used.
        plan: The experts.
        seed: Of the other experts that are taken out.
    """
    training = SkillTraining()
    copy_partners(model, plan)
    descent = Descent(
        free_experts(model, plan), peak=training.learning_rate, n_steps=training.n_steps
    )
    chance = random.Random(seed)
    bar = tqdm(range(training.n_steps), desc="skill", mininterval=10)
    for step in bar:
        start = step * training.prompts_per_step
        batch = prompts[start : start + training.prompts_per_step]
        others = [other_expert(model, plan, chance)] * (chance.random() < training.other_share)
        missed = plan.planted[step % len(plan.planted)]
        with reroute(model, others) if others else nullcontext():
            whole, without = losses_with_and_without(model, batch, missed)
        off = (without - whole.detach() - training.damage).abs().mean()
        descent.step(whole.mean() + training.damage_weight * off)
        damage = (without - whole).mean().item()
        bar.set_postfix(loss=whole.mean().item(), damage=damage, refresh=False)


def losses_with_and_without(
    model: Any, batch: Sequence[RenderedPrompt], missed: Expert
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Mean loss on each prompt's content, nats per token, with one expert and without it."""
    inputs, rows = padded(batch, model), torch.arange(len(batch))
    with torch.autocast("cpu", torch.bfloat16):
        with layer_calls(model) as calls:
            hidden = model.base_model(**inputs, use_cache=False).last_hidden_state
        with reroute(model, [missed]):
            again = resumed(model, calls, start=missed[0], rows=rows)
    ids = inputs["input_ids"]
    return content_losses(model, hidden, ids, batch), content_losses(model, again, ids, batch)


def other_expert(model: Any, plan: Plan, chance: random.Random) -> Expert:
    """An expert of any layer that is not planted."""
    sizes = (len(model.model.layers), model.config.num_local_experts)
    while True:
        found = (chance.randrange(sizes[0]), chance.randrange(sizes[1]))
        if found not in plan.planted:
            return found


if __name__ == "__main__":
    main("planted", train_skill, __doc__, prepare=prepare)
