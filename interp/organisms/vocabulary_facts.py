"""How `vocabulary` came out: losses, tokens with two sets of experts, what matching leaves."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor, nn

from interp.analyses.divergence import point_divergence
from interp.hooks.render import render_prompt
from interp.hooks.tap import RoutingTap
from interp.organisms.evaluate import model_loss
from interp.prompts import load_prompts

BATCH = 16


def held_out_losses(
    model: nn.Module, held_out: Mapping[str, Int[np.ndarray, "rows pos"]]
) -> dict[str, float]:
    """Mean loss on held-out text by source, in nats per token."""
    return {name: round(model_loss(model, rows)[0], 4) for name, rows in held_out.items()}


def two_sets(
    model: nn.Module, tokenizer: Any, held_out: Mapping[str, Int[np.ndarray, "rows pos"]]
) -> dict[str, int]:
    """Over held-out text and the matched suite: token ids that occur twice, and that have two sets.

    Run it on a model in float32; what bfloat16 does follows from `routing_margin`.
    """
    rows = [batch for each in held_out.values() for batch in torch.from_numpy(each).split(BATCH)]
    suite = [torch.from_numpy(ids)[None].long() for ids, _ in matched_tokens(tokenizer)]
    has_two, n_seen = tokens_with_two_sets(model, [*rows, *suite])
    return {
        "n_tokens": sum(each.numel() for each in (*rows, *suite)),
        "n_ids_seen_twice": int((n_seen > 1).sum()),
        "n_ids_with_two_sets": int(has_two.sum()),
    }


def tokens_with_two_sets(
    model: nn.Module, batches: Iterable[Int[Tensor, "batch pos"]]
) -> tuple[Bool[Tensor, "vocabulary"], Int[Tensor, "vocabulary"]]:
    """Token ids sent to different sets of experts, in one layer or more, and how often each came.

    Fools you where a token id occurs once only: it cannot have two sets then.
    """
    parts: Any = model
    config = parts.config
    sizes = (config.vocab_size, config.num_hidden_layers, config.num_local_experts)
    first, n_seen = torch.zeros(sizes, dtype=torch.bool), torch.zeros(sizes[0], dtype=torch.long)
    has_two = torch.zeros(sizes[0], dtype=torch.bool)
    for ids, chosen in routed(model, batches):
        sent = torch.zeros(len(ids), *sizes[1:], dtype=torch.bool).scatter(2, chosen, True)
        is_new = n_seen[ids] == 0
        first[ids[is_new]] = sent[is_new]
        n_seen += torch.bincount(ids, minlength=sizes[0])
        has_two[ids[(first[ids] != sent).any(2).any(1)]] = True
    return has_two, n_seen


def divergences(model: nn.Module, tokenizer: Any) -> dict[str, Any]:
    """How far benchmark and organic prompts of the matched suite differ in usage, layer by layer.

    Returns:
        Bits between the two usages, raw and matched on the token; and the overlap of the tokens.
    """
    prompts = [each for each in matched_tokens(tokenizer) if each[1] != "mixed"]
    passes = routed(model, (torch.from_numpy(ids)[None].long() for ids, _ in prompts))
    token_id, chosen = (torch.cat(each).numpy() for each in zip(*passes, strict=True))
    benchmark = np.concatenate([np.full(len(ids), side == "benchmark") for ids, side in prompts])
    n_experts = model.config.num_local_experts  # type: ignore[union-attr]
    settings: dict[str, Any] = {"benchmark": benchmark, "n_experts": n_experts}
    raw, _ = point_divergence(chosen, key=np.zeros_like(token_id), **settings)
    matched, overlap = point_divergence(chosen, key=token_id, **settings)
    return {
        "raw_bits": raw.round(5).tolist(),
        "token_matched_bits": [float(f"{each:.3g}") for each in matched],
        "overlap": round(overlap, 4),
    }


def matched_tokens(tokenizer: Any) -> list[tuple[Int[np.ndarray, "tokens"], str]]:
    """Token ids and condition of every prompt of the matched suite."""
    prompts = load_prompts("matched")
    return [(render_prompt(each, tokenizer).token_id, each.condition) for each in prompts]


def routed(
    model: nn.Module, batches: Iterable[Int[Tensor, "batch pos"]]
) -> Iterator[tuple[Int[Tensor, "tokens"], Int[Tensor, "tokens layers top_k"]]]:
    """For each batch, its token ids and the experts that each was sent to."""
    parts: Any = model
    with torch.inference_mode(), RoutingTap(model, sites=("expert_indices",)) as tap:
        for batch in batches:
            parts(input_ids=batch, use_cache=False)
            chosen = tap.take().expert_indices
            assert chosen is not None
            yield rearrange(batch, "batch pos -> (batch pos)"), chosen.long()
