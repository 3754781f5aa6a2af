"""Routed slots summed over tokens, by prompt or any row: the one loop under every count."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from einops import rearrange, repeat
from jaxtyping import Float, Int, Integer, Shaped

CHUNK_SLOTS = 2**19
"""Slots counted at once: few enough to stay in a processor's cache, no effect on the result."""


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
    check_routing(expert_indices, prompt_index, n_prompts=n_prompts, n_experts=n_experts)
    slots = summed_slots(expert_indices, row=prompt_index, n_rows=n_prompts, n_experts=n_experts)
    return np.asarray(slots)


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
    return summed_slots(
        expert_indices,
        row=prompt_index,
        n_rows=n_prompts,
        n_experts=n_experts,
        weight=expert_weights,
    ).astype(np.float64)


def summed_slots(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    *,
    row: Integer[np.ndarray, "tokens"],
    n_rows: int,
    n_experts: int,
    weight: Float[np.ndarray, "tokens"] | Float[np.ndarray, "tokens layers top_k"] | None = None,
    out: Shaped[np.ndarray, "rows layers experts"] | None = None,
) -> Shaped[np.ndarray, "rows layers experts"]:
    """Routed slots of each expert, summed over the tokens of each row: `[rows layers experts]`.

    Nothing is checked here. Quickest where the tokens of a row follow each other.

    Args:
        expert_indices: Experts chosen for each token.
        row: To which row of the result each token adds.
        n_rows: Rows of the result.
        n_experts: Number of experts in a layer.
        weight: What a token, or each of its slots, adds; 1 if None.
        out: Array to add to, and to return; a new one if None.

    Returns:
        Integers without `weight`, else float64.
    """
    n_tokens, n_layers, top_k = expert_indices.shape
    width = n_layers * n_experts
    if out is None:
        out = np.zeros((n_rows, n_layers, n_experts), np.int64 if weight is None else np.float64)
    # Tokens by row, so that a chunk spans few rows and its cells fit the cache.
    order = None if width * n_rows <= CHUNK_SLOTS or _rises(row) else np.argsort(row, kind="stable")
    first = repeat(np.arange(n_layers) * n_experts, "layers -> (layers top_k)", top_k=top_k)
    per_chunk = max(1, CHUNK_SLOTS // (n_layers * top_k))
    for start in range(0, n_tokens, per_chunk):
        chunk = slice(start, start + per_chunk)
        used: Any = chunk if order is None else order[chunk]
        _add_chunk(
            out, expert_indices[used], row[used], None if weight is None else weight[used], first
        )
    return out


def _add_chunk(
    out: Shaped[np.ndarray, "rows layers experts"],
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    row: Integer[np.ndarray, "tokens"],
    weight: Float[np.ndarray, "tokens *slots"] | None,
    first: Integer[np.ndarray, "slots_of_token"],
) -> None:
    """Count one chunk into the rows it touches; a chunk of far-apart rows goes by distinct rows."""
    _, n_layers, n_experts = out.shape
    width = n_layers * n_experts
    low, high = int(row.min()), int(row.max()) + 1
    place = row.astype(np.int64) - low
    rows: Any = slice(low, high)
    if high - low > len(row):
        distinct, place = np.unique(row, return_inverse=True)
        rows, high = distinct, low + len(distinct)
    chosen = rearrange(expert_indices, "tokens layers top_k -> tokens (layers top_k)")
    cell = chosen + (first + (place * width)[:, None])
    values = None
    if weight is not None:
        values = np.broadcast_to(weight.reshape(len(row), -1), cell.shape).ravel()
    counted = np.bincount(cell.ravel(), values, minlength=(high - low) * width)
    out[rows] += counted.reshape(-1, n_layers, n_experts).astype(out.dtype, copy=False)


def _rises(row: Integer[np.ndarray, "tokens"]) -> bool:
    return bool(np.all(row[1:] >= row[:-1]))


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
