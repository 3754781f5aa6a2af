"""Token-matched usage: what two sides would use, had they the same tokens in the same shares."""

from dataclasses import dataclass

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float, Integer
from scipy.sparse import csr_array


@dataclass(frozen=True, kw_only=True)
class TokenRows:
    """Tokens gathered by (prompt, token id), for those ids that occur in two prompts or more.

    An id within one prompt only can never be matched, under any labels.
    """

    prompt: Integer[np.ndarray, "rows"]
    """Prompt of each row."""
    token: csr_array
    """[ids rows]: how many tokens each row stands for, in the line of its token id."""
    token_of_row: Integer[np.ndarray, "rows"]
    """Line of `token` to which each row belongs."""
    slots: csr_array
    """[layers * experts, rows]: routed slots, as a share of `top_k`."""


def gather_rows(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    *,
    token_id: Integer[np.ndarray, "tokens"],
    prompt: Integer[np.ndarray, "tokens"],
    n_experts: int,
) -> TokenRows:
    """Add up the routed slots of the tokens that share prompt and token id."""
    _, token = np.unique(token_id, return_inverse=True)
    n_ids = int(token.max()) + 1
    # One row is one prompt's tokens with one id, so an id with one row occurs in one prompt only.
    cells = np.unique(prompt.astype(np.int64) * n_ids + token)
    shared = np.bincount(cells % n_ids, minlength=n_ids) > 1
    kept = shared[token]
    cell, row, n_tokens = np.unique(
        prompt[kept].astype(np.int64) * n_ids + token[kept], return_inverse=True, return_counts=True
    )
    token_of_row = cell % n_ids
    where = (token_of_row, np.arange(len(cell)))
    return TokenRows(
        prompt=cell // n_ids,
        token=csr_array((n_tokens.astype(float), where), shape=(n_ids, len(cell))),
        token_of_row=token_of_row,
        slots=_slots(expert_indices[kept], row, len(cell), n_experts),
    )


def _slots(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    row: Integer[np.ndarray, "tokens"],
    n_rows: int,
    n_experts: int,
) -> csr_array:
    """One-hot of the chosen experts, summed over the tokens of a row, as a share of `top_k`."""
    _, n_layers, top_k = expert_indices.shape
    first = rearrange(np.arange(n_layers) * n_experts, "layers -> 1 layers 1")
    column = (expert_indices + first).ravel()
    share = np.full(len(column), 1.0 / top_k)
    where = (column, np.repeat(row, n_layers * top_k))
    return csr_array((share, where), shape=(n_layers * n_experts, n_rows))


def matched_usages(
    rows: TokenRows,
    n_tokens: Integer[np.ndarray, "prompts"],
    labels: Bool[np.ndarray, "labellings prompts"],
) -> tuple[
    Float[np.ndarray, "cells labellings"],
    Float[np.ndarray, "cells labellings"],
    Float[np.ndarray, "labellings"],
]:
    """Token-matched usage of the True and the False side of each labelling, and the overlap.

    Matched usage is `sum_t w_t * usage on tokens with id t`, and `w_t = min(a_t, b_t) / overlap`.
    So a token of side A weighs `w_t / (tokens of A with id t)`: one product of weights and slots.

    Args:
        rows: All tokens, from `gather_rows`.
        n_tokens: Tokens of each prompt, those that cannot be matched included.
        labels: One labelling of the prompts per line.

    Returns:
        Usages with layers and experts in one axis (0 where the overlap is 0), and the overlap.
    """
    sides = [np.ascontiguousarray(side.T, dtype=np.float64) for side in (labels, ~labels)]
    count_a, count_b = (rows.token @ side[rows.prompt] for side in sides)
    total_a, total_b = (n_tokens @ side for side in sides)
    common = np.minimum(count_a / total_a, count_b / total_b)
    overlap = common.sum(axis=0)
    usages = []
    for side, count in zip(sides, (count_a, count_b), strict=True):
        per_token = np.divide(common, count * overlap, out=np.zeros_like(count), where=common > 0)
        usages.append(rows.slots @ (per_token[rows.token_of_row] * side[rows.prompt]))
    return usages[0], usages[1], overlap
