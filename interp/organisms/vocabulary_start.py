"""Where `vocabulary` starts: routers that come near the toy's mean routing of each token."""

from typing import Any

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from interp.hooks.tap import RoutingTap

SITES = ("expert_indices", "expert_weights", "resid_mid")
FIT_STEPS = 400
FIT_RATE = 0.05
"""Of Adam, falling to 0 in a straight line."""
ALONE = 2.0
"""Occurrences that the token by itself, after the start of the text, counts for."""


def mean_gates(
    model: nn.Module, rows: Int[Tensor, "rows pos"]
) -> tuple[
    Float[Tensor, "layers tokens experts"], Float[Tensor, "tokens"], Float[Tensor, "layers"]
]:
    """What the model sends of each token id to each expert on average, in `rows`.

    Returns:
        Mean weight of each expert by token id, 0 where it was not chosen; how often each id occurs;
        and the root mean square of what the norm before each router receives.
    """
    parts: Any = model
    config = parts.config
    ids = torch.arange(config.vocab_size)
    alone = torch.stack([torch.full_like(ids, config.bos_token_id), ids], dim=1)
    by_itself, _, _ = _summed(model, alone, keep=slice(1, None))
    total, counts, squares = _summed(model, rows, keep=slice(None))
    mean = (total + ALONE * by_itself) / (counts + ALONE)[:, None]
    return mean, counts, (squares / counts.sum() / config.hidden_size).sqrt()


def _summed(
    model: nn.Module, rows: Int[Tensor, "rows pos"], *, keep: slice
) -> tuple[Tensor, Tensor, Tensor]:
    parts: Any = model
    config = parts.config
    sizes = (config.num_hidden_layers, config.vocab_size, config.num_local_experts)
    total, counts, squares = torch.zeros(sizes), torch.zeros(sizes[1]), torch.zeros(sizes[0])
    with torch.inference_mode(), RoutingTap(model, sites=SITES) as tap:
        for batch in tqdm(rows.split(16 * 256 // rows.shape[1]), desc="measure", mininterval=5):
            parts.model(input_ids=batch, use_cache=False)
            records = tap.take()
            kept = torch.zeros(batch.shape, dtype=torch.bool)
            kept[:, keep] = True
            ids, kept = batch.flatten()[kept.flatten()], kept.flatten()
            counts += torch.bincount(ids, minlength=sizes[1])
            chosen, weights = records.expert_indices, records.expert_weights
            assert chosen is not None
            assert weights is not None
            for layer in range(sizes[0]):
                gates = torch.zeros(len(ids), sizes[2])
                gates.scatter_(1, chosen[kept, layer].long(), weights[kept, layer].float())
                total[layer].index_add_(0, ids, gates)
                squares[layer] += records.resid["resid_mid", layer][kept].float().square().sum()
    return total, counts, squares


def start_routers(
    gates: Float[Tensor, "layers tokens experts"],
    counts: Float[Tensor, "tokens"],
    *,
    n_reserved: int,
    seed: int,
) -> tuple[Float[Tensor, "tokens reserved"], Float[Tensor, "layers experts reserved"]]:
    """Codes of the tokens and routers that read them, fitted to the mean gates.

    Minimises `sum_t f_t^(3/4) KL(gates_t || softmax(W_l c_t))` from a random start.

    Returns:
        Codes of unit root mean square, and routers whose logits are in nats.
    """
    drawn = torch.Generator().manual_seed(seed)
    n_layers, n_tokens, n_experts = gates.shape
    codes = torch.randn(n_tokens, n_reserved, generator=drawn).requires_grad_()
    read = torch.randn(n_layers, n_experts, n_reserved, generator=drawn) / n_reserved**0.5
    read = read.requires_grad_()
    often = (counts + 1) ** 0.75
    often = often / often.sum()
    optimizer = torch.optim.Adam([codes, read], lr=FIT_RATE)
    for step in range(FIT_STEPS):
        optimizer.param_groups[0]["lr"] = FIT_RATE * (1 - step / FIT_STEPS)
        said = einsum(codes, read, "t d, l e d -> l t e").log_softmax(-1)
        loss = -einsum(gates, said, often, "l t e, l t e, t ->") / n_layers
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scale = codes.detach().square().mean().sqrt()
    return codes.detach() / scale, read.detach() * scale
