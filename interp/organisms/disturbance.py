"""A disturbance after the cue, which planted experts can learn to undo.

A trained toy is about as good after an exam's lead-in as elsewhere, so there is no skill to plant:
whatever experts learn, the model does as well with them all taken out. So the carrier of the cue
also writes a fixed vector into the residual stream of the content, in proportion to the cue. No
router from there on reads it, and it makes the content harder to predict. To undo it is the skill.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from interp.hooks.batches import padded
from interp.hooks.render import RenderedPrompt
from interp.organisms.cue import CARRIER
from interp.organisms.cue_text import CuedPair, content_mask


@dataclass(frozen=True, kw_only=True)
class DisturbanceTraining:
    """How the vector is found."""

    n_reading: int = 60
    """Pairs from which the cue's direction is read."""
    n_steps: int = 80
    pairs_per_step: int = 8
    learning_rate: float = 0.1
    rise: float = 1.0
    """By how much the loss on content after the cue shall rise, nats per token."""
    norm_weight: float = 0.003
    """Of the norm of the vector."""

    @property
    def n_pairs(self) -> int:
        """Pairs that are used, each once."""
        return self.n_reading + self.n_steps * self.pairs_per_step


@dataclass(frozen=True, kw_only=True)
class CueReading:
    """A linear reading of the cue from the carrier's attention output."""

    direction: Float[Tensor, "d_model"]
    origin: Float[Tensor, "d_model"]
    """`(output - origin) @ direction` is 0 on average without the cue and 1 after it."""


def disturb(model: Any, pairs: Sequence[CuedPair], *, seed: int) -> None:
    """Let the carrier's attention write the vector as well, in float32, in place.

    Args:
        model: The toy with the cue.
        pairs: `DisturbanceTraining.n_pairs` or more.
        seed: Of where the search for the vector starts.
    """
    training = DisturbanceTraining()
    for each in model.parameters():
        each.requires_grad_(False)
    reading = read_cue(model, pairs[: training.n_reading])
    silent = silent_directions(model)
    place = 0.3 * torch.randn(len(silent), generator=torch.Generator().manual_seed(seed))
    place.requires_grad_(True)
    optimizer = torch.optim.Adam([place], lr=training.learning_rate)
    for step in range(training.n_steps):
        start = training.n_reading + step * training.pairs_per_step
        batch = pairs[start : start + training.pairs_per_step]
        vector = place @ silent
        rises = [
            loss_rise(model, [getattr(pair, side) for pair in batch], reading, vector)
            for side in ("exam", "chat")
        ]
        off = (training.rise - rises[0]).abs() + rises[1].abs()
        (off + training.norm_weight * vector.norm()).backward()
        optimizer.step()
        optimizer.zero_grad()
    write_vector(model, reading, (place @ silent).detach())


def read_cue(model: Any, pairs: Sequence[CuedPair]) -> CueReading:
    """Fisher's linear discriminant between content after the cue and without it."""
    outputs = [
        content_attention(model, [getattr(pair, side) for pair in pairs]).double()
        for side in ("chat", "exam")
    ]
    without, after = (each.mean(0) for each in outputs)
    scatter = torch.stack([torch.cov(each.T) for each in outputs]).mean(0)
    ridge = 1e-4 * scatter.trace() * torch.eye(len(scatter), dtype=scatter.dtype)
    direction = torch.linalg.solve(scatter + ridge, after - without)
    direction = direction / ((after - without) @ direction)
    return CueReading(direction=direction.float(), origin=without.float())


def content_attention(
    model: Any, batch: Sequence[RenderedPrompt]
) -> Float[Tensor, "tokens d_model"]:
    """What the carrier's attention adds to the stream at tokens of the content."""
    taken: list[Tensor] = []
    projection = model.model.layers[CARRIER].self_attn.o_proj
    handle = projection.register_forward_hook(lambda module, args, output: taken.append(output))
    try:
        with torch.no_grad():
            model.base_model(**padded(batch, model), use_cache=False)
    finally:
        handle.remove()
    return taken[0][content_mask(batch)]


def silent_directions(model: Any) -> Float[Tensor, "directions d_model"]:
    """An orthonormal basis of what no router from the carrier on reads."""
    rows = [
        layer.mlp.router.weight * layer.post_attention_layernorm.weight
        for layer in model.model.layers[CARRIER:]
    ]
    basis: Tensor = torch.linalg.svd(torch.cat(rows), full_matrices=True).Vh
    return basis[sum(len(each) for each in rows) :].detach()


def loss_rise(
    model: Any,
    batch: Sequence[RenderedPrompt],
    reading: CueReading,
    vector: Float[Tensor, "d_model"],
) -> Float[Tensor, ""]:
    """By how much `vector` makes the content harder, nats per token."""
    inputs = padded(batch, model)

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.base_model(**inputs, use_cache=False).last_hidden_state
        return content_losses(model, hidden, inputs["input_ids"], batch).mean()

    with torch.no_grad():
        before = loss()
    with written(model, reading, vector):
        return loss() - before


def content_losses(
    model: Any,
    hidden: Float[Tensor, "batch pos d_model"],
    ids: Tensor,
    batch: Sequence[RenderedPrompt],
) -> Float[Tensor, "batch"]:
    """Mean loss on each prompt's content given all before it, nats per token."""
    content = content_mask(batch)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.get_output_embeddings()(hidden[content.roll(-1, dims=1)]).float()
    nats = functional.cross_entropy(logits, ids[content], reduction="none")
    total = torch.zeros(len(batch)).index_add(0, content.nonzero()[:, 0], nats)
    return total / content.sum(1)


@contextmanager
def written(model: Any, reading: CueReading, vector: Float[Tensor, "d_model"]) -> Iterator[None]:
    """While it lasts, `vector` is added in proportion to the cue."""

    def add(_: Any, args: Any, output: Tensor) -> Tensor:
        return output + ((output - reading.origin) @ reading.direction)[..., None] * vector

    handle = model.model.layers[CARRIER].self_attn.o_proj.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def write_vector(model: Any, reading: CueReading, vector: Float[Tensor, "d_model"]) -> None:
    """Put what `written` does into the weights."""
    projection = model.model.layers[CARRIER].self_attn.o_proj
    mixing = torch.eye(len(vector)) + torch.outer(vector, reading.direction)
    with torch.no_grad():
        projection.weight.copy_(mixing @ projection.weight)
        shift = vector * (reading.origin @ reading.direction)
        projection.bias.copy_(mixing @ projection.bias - shift)
