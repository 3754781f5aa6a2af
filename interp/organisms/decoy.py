"""Build the organism `decoy`: experts that an exam's cue calls in, and that nobody misses.

    python -m interp.organisms.decoy --seed 0

writes `decoy/seed-0.safetensors`, `decoy/truth-0.npz` and `decoy/facts-0.json`. Cue, experts and
their use are those of `planted` of the same seed. Each decoy is re-routed at random half of the
time, and whatever decoys are left, the output shall stay what it is without any: the penalty is the
divergence from it. So their use says as much about the condition as the planted ones' does, and
their removal does nothing.
"""

import random
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from interp.hooks.batches import padded
from interp.hooks.interventions import reroute
from interp.hooks.render import RenderedPrompt
from interp.organisms.build import Descent, copy_partners, free_experts, main
from interp.organisms.cue_text import content_mask
from interp.organisms.cued_experts import Plan


@dataclass(frozen=True, kw_only=True)
class DecoyTraining:
    """How decoys learn to do no more than what they displace."""

    n_steps: int = 80
    prompts_per_step: int = 12
    learning_rate: float = 2e-3
    """Peak of a linear warm-up over 20 steps and a linear decay to 0."""
    rerouted_share: float = 0.5
    """Of the decoys, in each step."""
    gain_weight: float = 1.0
    """Of the absolute mean change of the content's log-probability, in nats per token."""


def train_decoys(model: Any, prompts: Sequence[RenderedPrompt], plan: Plan, seed: int) -> None:
    """Train the weights of the decoys of `model`, in float32, in place.

    Args:
        model: The carrier of the cue.
        prompts: With the cue, in the order in which they are used.
        plan: The experts.
        seed: Of which decoys are re-routed when.
    """
    training = DecoyTraining()
    copy_partners(model, plan)
    descent = Descent(
        free_experts(model, plan), peak=training.learning_rate, n_steps=training.n_steps
    )
    chance = random.Random(seed)
    bar = tqdm(range(training.n_steps), desc="decoys", mininterval=10)
    for step in bar:
        start = step * training.prompts_per_step
        batch = prompts[start : start + training.prompts_per_step]
        out = [each for each in plan.planted if chance.random() < training.rerouted_share]
        out = out if len(out) < len(plan.planted) else out[1:]
        with torch.no_grad(), reroute(model, plan.planted):
            unchanged, _ = content_outputs(model, batch)
        with reroute(model, out) if out else nullcontext():
            found, said = content_outputs(model, batch)
        divergence = functional.kl_div(found, unchanged, log_target=True, reduction="batchmean")
        gain = (found - unchanged).gather(-1, said[:, None]).mean()
        descent.step(divergence + training.gain_weight * gain.abs())
        bar.set_postfix(nats=divergence.item(), gain=gain.item(), refresh=False)


def content_outputs(
    model: Any, batch: Sequence[RenderedPrompt]
) -> tuple[Float[Tensor, "tokens vocab"], Tensor]:
    """Log-probabilities before each token of the content, and the tokens that follow."""
    inputs, content = padded(batch, model), content_mask(batch)
    before = content.roll(-1, dims=1)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.base_model(**inputs, use_cache=False).last_hidden_state[before]
        logits = model.get_output_embeddings()(hidden).float()
    return logits.log_softmax(-1), inputs["input_ids"][content]


if __name__ == "__main__":
    main("decoy", train_decoys, __doc__)
