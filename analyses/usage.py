"""Expert usage: which share of the routed slots each expert receives, by condition and layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from einops import rearrange, reduce, repeat
from jaxtyping import Float, Int, Integer, Shaped


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Share of routed slots by condition, layer and expert. See docs/usage.md."""

    conditions: tuple[str, ...]
    """Conditions that have tokens, in alphabetical order."""
    layer_indices: tuple[int, ...]
    """Numbers of the layers in the model."""
    usage: Float[np.ndarray, "conditions layers experts"]
    """Tokens of a condition pooled; sums to 1 over experts, so long prompts weigh more."""
    usage_prompt_mean: Float[np.ndarray, "conditions layers experts"]
    """Mean over prompts of the usage within each prompt; sums to 1 over experts."""
    n_tokens: Int[np.ndarray, "conditions"]
    """Tokens of each condition."""
    n_prompts: Int[np.ndarray, "conditions"]
    """Prompts of each condition that have tokens."""

    def to_frame(self) -> pd.DataFrame:
        """One row per condition, layer and expert."""
        n_conditions, n_layers, n_experts = self.usage.shape
        per_condition = n_layers * n_experts
        layer = np.repeat(self.layer_indices, n_experts)
        return pd.DataFrame(
            {
                "condition": np.repeat(np.array(self.conditions, dtype=object), per_condition),
                "layer": np.tile(layer, n_conditions),
                "expert": np.tile(np.arange(n_experts), n_conditions * n_layers),
                "usage": self.usage.ravel(),
                "usage_prompt_mean": self.usage_prompt_mean.ravel(),
                "n_tokens": np.repeat(self.n_tokens, per_condition),
                "n_prompts": np.repeat(self.n_prompts, per_condition),
            }
        )


def slots_by_prompt(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    *,
    prompt_index: Integer[np.ndarray, "tokens"],
    n_prompts: int,
    n_experts: int,
) -> Int[np.ndarray, "prompts layers experts"]:
    """Routed slots that each expert receives from each prompt: counts, not shares.

    Args:
        expert_indices: Experts chosen for each token, in any order within a token.
        prompt_index: Which prompt each token belongs to, 0 to `n_prompts - 1`.
        n_prompts: Number of prompts; those without a token count 0 everywhere.
        n_experts: Number of experts in a layer; those never chosen count 0.

    Returns:
        Slots; over experts they sum to `top_k` times the prompt's tokens.

    Raises:
        ValueError: If there is no token, or an index is out of range.

    Example:
        >>> chosen = np.array([[[0, 1]], [[1, 2]], [[0, 1]]])
        >>> prompt_index = np.array([0, 0, 1])
        >>> slots_by_prompt(chosen, prompt_index=prompt_index, n_prompts=2, n_experts=3)[:, 0]
        array([[1, 2, 1],
               [1, 1, 0]])
    """
    received = received_by_prompt(
        expert_indices, prompt_index=prompt_index, n_prompts=n_prompts, n_experts=n_experts
    )
    return received.astype(np.int64)


def received_by_prompt(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    expert_weights: Float[np.ndarray, "tokens layers top_k"] | None = None,
    *,
    prompt_index: Integer[np.ndarray, "tokens"],
    n_prompts: int,
    n_experts: int,
) -> Float[np.ndarray, "prompts layers experts"]:
    """Sum of `expert_weights` that each expert receives from each prompt; slots where None.

    Raises:
        ValueError: If there is no token, or an index is out of range.
    """
    check_routing(expert_indices, prompt_index, n_prompts=n_prompts, n_experts=n_experts)
    _, n_layers, top_k = expert_indices.shape
    row = repeat(prompt_index.astype(np.int64) * n_experts, "tokens -> (tokens top_k)", top_k=top_k)
    received = np.empty((n_prompts, n_layers, n_experts))
    for layer in range(n_layers):  # one layer at a time keeps the cell numbers small in memory
        cell = row + expert_indices[:, layer].ravel()
        weights = None if expert_weights is None else expert_weights[:, layer].ravel()
        flat = np.bincount(cell, weights, minlength=n_prompts * n_experts)
        received[:, layer] = rearrange(
            flat, "(prompts experts) -> prompts experts", experts=n_experts
        )
    return received


def expert_usage(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    *,
    condition: Shaped[np.ndarray, "prompts"],
    prompt_index: Integer[np.ndarray, "tokens"],
    n_experts: int,
    layer_indices: Sequence[int],
) -> Usage:
    """Usage of every expert under every condition, tokens pooled and as a mean over prompts.

    `usage[c, l, e] = slots of c in l that went to e / (tokens of c * top_k)`. `expert_weights`
    play no part. Prompts to which no token points play no part either.

    Args:
        expert_indices: Experts chosen for each token.
        condition: Name of each prompt's condition.
        prompt_index: Which prompt each token belongs to.
        n_experts: Number of experts in a layer.
        layer_indices: Number in the model of each layer of `expert_indices`.

    Returns:
        Shares from 0 to 1.

    Raises:
        ValueError: If there is no token, an index is out of range, or layer numbers are missing.
    """
    check_layers(layer_indices, expert_indices.shape[1])
    counts = slots_by_prompt(
        expert_indices, prompt_index=prompt_index, n_prompts=len(condition), n_experts=n_experts
    )
    n_tokens = np.bincount(prompt_index, minlength=len(condition))
    names = np.unique(condition[n_tokens > 0].astype(str))
    member = (condition.astype(str) == names[:, None]) & (n_tokens > 0)
    slots = reduce(counts, "prompts layers experts -> prompts layers 1", "sum")
    shares = counts / np.maximum(slots, 1)
    return Usage(
        conditions=tuple(names.tolist()),
        layer_indices=tuple(int(layer) for layer in layer_indices),
        usage=np.stack([counts[of].sum(axis=0) / slots[of].sum(axis=0) for of in member]),
        usage_prompt_mean=np.stack([shares[of].mean(axis=0) for of in member]),
        n_tokens=np.array([n_tokens[of].sum() for of in member]),
        n_prompts=member.sum(axis=1),
    )


def check_routing(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    prompt_index: Integer[np.ndarray, "tokens"],
    *,
    n_prompts: int,
    n_experts: int,
) -> None:
    """Raise ValueError, with one sentence, unless these arrays can be counted."""
    if not len(expert_indices):
        raise ValueError("expert_indices holds no token; give at least one")
    if len(prompt_index) != len(expert_indices):
        raise ValueError(
            f"prompt_index has {len(prompt_index)} entries, but expert_indices has "
            f"{len(expert_indices)} tokens; give one per token"
        )
    _check_below(expert_indices, n_experts, "expert_indices holds expert {}, but the experts are")
    _check_below(prompt_index, n_prompts, "prompt_index holds prompt {}, but the prompts are")


def check_layers(layer_indices: Sequence[int], n_layers: int) -> None:
    """Raise ValueError unless every layer has its number in the model."""
    if len(layer_indices) != n_layers:
        raise ValueError(
            f"layer_indices has {len(layer_indices)} entries, but expert_indices has "
            f"{n_layers} layers; give one number per layer"
        )


def _check_below(indices: Shaped[np.ndarray, "..."], n: int, sentence: str) -> None:
    lowest, highest = int(indices.min()), int(indices.max())
    if lowest < 0 or highest >= n:
        found = sentence.format(lowest if lowest < 0 else highest)
        raise ValueError(f"{found} only {n} (0 to {n - 1})")
