"""The cue: attention of one layer tells later layers' routers that an exam's lead-in came before.

    python -m interp.organisms.cue

writes `planted/cue.safetensors`, which `planted` and `decoy` of all seeds share. The toy itself
keeps little of a lead-in in the tokens that follow. So the attention of layer `CARRIER` is trained
to write it there, for a linear probe at each of `LAYERS`, while the output of the model and the
logits of its routers are held to the toy's. The probes are thrown away.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from interp import organisms
from interp.hooks.batches import padded
from interp.organisms.cue_text import CuedPair, content_mask, cued_pairs
from interp.organisms.edited import save_changes

CARRIER = 1
"""The first layer with full attention; it reaches a lead-in however long the content is."""
LAYERS = (1, 2, 3)
"""Where the cue can be read: at the carrier and after it."""
CUE = Path(__file__).parent / "planted" / "cue.safetensors"


@dataclass(frozen=True, kw_only=True)
class CueTraining:
    """How the cue is trained."""

    seed: int = 6
    n_steps: int = 160
    pairs_per_step: int = 10
    learning_rate: float = 3e-3
    """Peak of a linear warm-up over 20 steps and a linear decay to 0."""
    divergence_weight: float = 1.0
    """Of the divergence from the toy's output, in nats."""
    logits_weight: float = 0.1
    """Of the mean squared change of the routers' logits."""
    probe_weight: float = 0.01
    """Of the squared norm of the probes, so that the cue is written loudly."""


def train_cue(model: Any, toy: Any, pairs: Sequence[CuedPair], training: CueTraining) -> None:
    """Train the carrier's attention of `model`, in float32, in place.

    Args:
        model: The toy in float32; afterwards the carrier.
        toy: The toy in float32, which stays as it is.
        pairs: `n_steps * pairs_per_step` or more; each is used once.
        training: How.
    """
    for each in model.parameters():
        each.requires_grad_(False)
    attention = model.model.layers[CARRIER].self_attn
    free = [each for name, each in attention.named_parameters() if name != "sinks"]
    probes = [nn.Linear(toy.config.hidden_size, 1) for _ in LAYERS]
    parameters = [
        *(each.requires_grad_(True) for each in free),
        *(each for probe in probes for each in probe.parameters()),
    ]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)
    bar = tqdm(range(training.n_steps), desc="cue", mininterval=10)
    for step in bar:
        for group in optimizer.param_groups:
            left = 1 - step / training.n_steps
            group["lr"] = training.learning_rate * min((step + 1) / 20, left)
        start = step * training.pairs_per_step
        parts = cue_losses(model, toy, probes, pairs[start : start + training.pairs_per_step])
        weights = [1.0, training.divergence_weight, training.logits_weight, training.probe_weight]
        loss = torch.stack([w * part for w, part in zip(weights, parts, strict=True)]).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        bar.set_postfix(parts=[f"{each:.3f}" for each in parts], refresh=False)


def cue_losses(
    model: Any, toy: Any, probes: Sequence[nn.Linear], pairs: Sequence[CuedPair]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the probes, nats per token and layer; divergence; change of logits; norm of the probes."""
    batch = [prompt for pair in pairs for prompt in (pair.exam, pair.chat)]
    inputs, content = padded(batch, model), content_mask(batch)
    is_exam = torch.arange(len(batch)) % 2 == 0
    cue = is_exam[:, None].expand_as(content)[content].float()
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad(), router_inputs(toy) as own:
            expected = content_logits(toy, inputs, content)
        with router_inputs(model) as seen:
            found = content_logits(model, inputs, content)
    missed, changed, norm = [], [], []
    for probe, layer in zip(probes, LAYERS, strict=True):
        mine, before = (each[layer][content.flatten()].float() for each in (seen, own))
        answer = probe(mine).flatten()
        missed.append(functional.binary_cross_entropy_with_logits(answer, cue))
        router = toy.model.layers[layer].mlp.router
        changed.append((functional.linear(mine - before, router.weight)).square().mean())
        norm.append(probe.weight.square().sum())
    divergence = functional.kl_div(found, expected, log_target=True, reduction="batchmean")
    of_layers = [torch.stack(each).mean() for each in (missed, changed, norm)]
    return of_layers[0], divergence, of_layers[1], of_layers[2]


@contextmanager
def router_inputs(model: Any) -> Iterator[dict[int, Float[Tensor, "tokens d_model"]]]:
    """What the router of each layer reads in the last pass."""
    seen: dict[int, Tensor] = {}

    def keep(router: Any, args: tuple[Tensor, ...], _: Any) -> None:
        seen[numbers[router]] = args[0]

    numbers = {layer.mlp.router: number for number, layer in enumerate(model.model.layers)}
    handles = [router.register_forward_hook(keep) for router in numbers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def content_logits(
    model: Any, inputs: dict[str, Tensor], content: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "tokens vocab"]:
    """Log-probabilities after each token of the content."""
    hidden = model.base_model(**inputs, use_cache=False).last_hidden_state[content]
    logits: Tensor = model.get_output_embeddings()(hidden).float().log_softmax(-1)
    return logits


def main() -> None:
    """Train the cue and write what it changes in the toy."""
    training = CueTraining()
    torch.set_num_threads(1)
    torch.manual_seed(training.seed)
    base, tokenizer = organisms.load("toy")
    toy, model = base.float(), organisms.load("toy")[0].float()
    n_pairs = training.n_steps * training.pairs_per_step
    pairs = cued_pairs(tokenizer, n_pairs=n_pairs, seed=training.seed)
    train_cue(model, toy, pairs, training)
    save_changes(model.bfloat16(), organisms.load("toy")[0], CUE)


if __name__ == "__main__":
    main()
