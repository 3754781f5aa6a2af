"""Token-matched usage: what two conditions would use, had they the same tokens in the same shares.

Everything here follows from integers that add up over parts (`interp.analyses.streaming`) and one
weighted sum over the tokens, so a store is never held in memory.
"""

from dataclasses import dataclass

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int, Integer
from scipy.sparse import csr_array

from interp.analyses.permutation import LeftOut
from interp.analyses.shared_keys import SharedKeys, token_weights
from interp.analyses.slots import summed_slots
from interp.analyses.streaming import Parts, SlotCounts, places

KEYS_AT_ONCE = 2048
"""Keys turned into floating-point numbers at once; bounds the memory, not the result."""
WEIGHTS_AT_ONCE = 2**23
"""Weights of tokens in replicates held at once; likewise."""
SIGN = np.array([-1.0, 1.0])
"""Of organic and benchmark tokens in the difference benchmark - organic."""


def matched_usage(
    by_key: Integer[np.ndarray, "keys 2 layers experts"],
    weight: Float[np.ndarray, "keys 2 replicates"],
    *,
    top_k: int,
) -> Float[np.ndarray, "replicates 2 layers experts"]:
    """Matched usage `sum_t w_t * usage on tokens with key t` of either condition, for many weights.

    Args:
        by_key: Slots of the organic and the benchmark tokens with each key.
        weight: What one token weighs, from `token_weights`.
        top_k: Slots of a token.
    """
    n_keys, _, n_layers, n_experts = by_key.shape
    usage = np.zeros((2, weight.shape[-1], n_layers * n_experts))
    for start in range(0, n_keys, KEYS_AT_ONCE):
        block = slice(start, start + KEYS_AT_ONCE)
        for side in (0, 1):
            slots = by_key[block, side].reshape(-1, n_layers * n_experts).astype(np.float64)
            usage[side] += weight[block, side].T @ slots
    split = "side replicates (layers experts) -> replicates side layers experts"
    return rearrange(usage / top_k, split, layers=n_layers)


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Matched usages of the data, of each replicate, and what each cluster adds."""

    usage: Float[np.ndarray, "2 layers experts"]
    """Of organic and benchmark; sums to 1 over experts, or 0 where the overlap is 0."""
    overlap: float
    """Share of tokens that can be matched."""
    contribution: Float[np.ndarray, "clusters layers experts"]
    """`c_g`: what each cluster adds to benchmark - organic beyond what other clusters do on the
    same keys."""
    replicates: Float[np.ndarray, "replicates 2 layers experts"] | None
    """Usage with the clusters of each replicate left out; None where nothing can be left out."""
    replicate_overlap: Float[np.ndarray, "replicates"] | None
    """Overlap of each replicate."""


def match(
    parts: Parts, shared: SharedKeys, slots: SlotCounts, *, left_out: LeftOut | None, top_k: int
) -> Matched:
    """Matched usages with the clusters' contributions and, if wanted, clusters left out.

    `c_g = sum over tokens i of g of +-weight_i * (share_i - m_t)`: `share_i` are the token's slots
    by expert divided by `top_k`, and `m_t` the mean of that over the tokens with the same key of
    all clusters but g. With one `m_t` for all clusters the `c_g` sum to the matched difference
    benchmark - organic; but a mean that contains g draws `c_g` to 0, and the null would be too
    narrow. Without g it is a little too wide where few clusters have a key (as the jackknife
    variance of MacKinnon and White 1985, doi:10.1016/0304-4076(85)90158-7, is).

    Args:
        parts: The tokens; gone over once.
        shared: From all of these tokens.
        slots: Likewise, of the keys of `shared`.
        left_out: Clusters of each replicate; None for no replicates.
        top_k: Slots of a token.
    """
    weight, overlap = token_weights(shared.n_tokens, shared.total)
    own_weight, replicates, replicate_overlap = _replicates(shared, slots, left_out, top_k)
    alpha, expected = _contribution_weights(shared, weight)
    n_clusters = len(shared.row_tokens) // 2
    _, n_layers, n_experts = slots.by_row.shape
    contribution = np.zeros((n_clusters, n_layers, n_experts))
    own = np.zeros((0 if left_out is None else 2 * len(left_out.stratum), n_layers, n_experts))
    for part in parts():
        cell, kept = _cell_of_token(shared, part.key, part.row)
        chosen, cluster = part.expert_indices[kept], part.row[kept] // 2
        sizes = {"n_experts": n_experts}
        summed_slots(
            chosen,
            row=cluster,
            n_rows=n_clusters,
            weight=alpha[cell] / top_k,
            out=contribution,
            **sizes,
        )
        if left_out is not None:
            row = 2 * left_out.replicate[cluster] + part.row[kept] % 2
            summed_slots(
                chosen,
                row=row,
                n_rows=len(own),
                weight=own_weight[cell] / top_k,
                out=own,
                **sizes,
            )
    contribution -= _expected(expected, slots.by_key) / top_k
    if replicates is not None:
        replicates -= rearrange(own, "(replicates side) ... -> replicates side ...", side=2)
    return Matched(
        usage=matched_usage(slots.by_key, weight[..., None], top_k=top_k)[0],
        overlap=float(overlap),
        contribution=contribution,
        replicates=replicates,
        replicate_overlap=replicate_overlap,
    )


def _replicates(
    shared: SharedKeys, slots: SlotCounts, left_out: LeftOut | None, top_k: int
) -> tuple[
    Float[np.ndarray, "cells"],
    Float[np.ndarray, "replicates 2 layers experts"] | None,
    Float[np.ndarray, "replicates"] | None,
]:
    """What all tokens would give under each replicate's weights, those left out still counted.

    Also, for each cell, the weight of its tokens in the replicate that leaves them out, so that
    the caller can take them away.
    """
    own_weight = np.zeros(len(shared.place))
    if left_out is None:
        return own_weight, None, None
    usages, overlaps = [], []
    of_cell = left_out.replicate[shared.cells.row // 2]
    at_once = max(1, WEIGHTS_AT_ONCE // max(1, 2 * len(shared.keys)))
    for start in range(0, len(left_out.stratum), at_once):
        replicates = np.arange(start, min(start + at_once, len(left_out.stratum)))
        weight, overlap = token_weights(*shared.without(left_out, replicates))
        usages.append(matched_usage(slots.by_key, weight, top_k=top_k))
        overlaps.append(overlap)
        own = np.isin(of_cell, replicates)
        own_weight[own] = weight[shared.place[own], shared.cells.row[own] % 2, of_cell[own] - start]
    return own_weight, np.concatenate(usages), np.concatenate(overlaps)


def _contribution_weights(
    shared: SharedKeys, weight: Float[np.ndarray, "keys 2"]
) -> tuple[Float[np.ndarray, "cells"], csr_array]:
    """Weights that turn slots into contributions: of a cell's own tokens, and of all with its key.

    With `q_gt = sum +-weight` over the tokens of g with key t, `n_gt` their number and `N_t` that
    of all clusters, `m_t = (T_t - s_gt) / (N_t - n_gt)` for sums of shares T and s. So an own token
    has `+-weight + q / (N - n)`, and `T_t` has `-q / (N - n)`. Where no other cluster has the key,
    `q` is 0 and so is the second part.
    """
    side, cluster = shared.cells.row % 2, shared.cells.row // 2
    own = SIGN[side] * weight[shared.place, side]
    first = np.ones(len(own), dtype=bool)  # the two conditions of one cluster and key go together
    first[1:] = (np.diff(shared.place) != 0) | (np.diff(cluster) != 0)
    pair = np.cumsum(first) - 1
    n_pairs = int(first.sum())
    n_own = np.bincount(pair, shared.cells.n_tokens, minlength=n_pairs)
    q = np.bincount(pair, own * shared.cells.n_tokens, minlength=n_pairs)
    others = shared.n_tokens.sum(axis=1)[shared.place[first]] - n_own
    per_other = np.divide(q, others, out=np.zeros(n_pairs), where=others > 0)
    shape = (len(shared.row_tokens) // 2, len(shared.keys))
    expected = csr_array((per_other, (cluster[first], shared.place[first])), shape=shape)
    return own + per_other[pair], expected


def _cell_of_token(
    shared: SharedKeys, key: Int[np.ndarray, "tokens"], row: Int[np.ndarray, "tokens"]
) -> tuple[Int[np.ndarray, "matched"], Int[np.ndarray, "matched"]]:
    """Cell of each token whose key is shared, and which tokens these are."""
    place, is_shared = places(shared.keys, key)
    kept = np.flatnonzero(is_shared)
    n_rows = len(shared.row_tokens)
    code = shared.place * n_rows + shared.cells.row
    return np.searchsorted(code, place[kept] * n_rows + row[kept]), kept


def _expected(
    weight: csr_array, by_key: Integer[np.ndarray, "keys 2 layers experts"]
) -> Float[np.ndarray, "clusters layers experts"]:
    """Sum over keys of weight times the slots of all tokens with that key."""
    n_keys, _, n_layers, n_experts = by_key.shape
    total = np.zeros((weight.shape[0], n_layers * n_experts))
    columns = weight.tocsc()
    for start in range(0, n_keys, KEYS_AT_ONCE):
        block = slice(start, start + KEYS_AT_ONCE)
        slots = by_key[block].sum(axis=1, dtype=np.float64).reshape(-1, n_layers * n_experts)
        total += columns[:, block].tocsr() @ slots
    return rearrange(total, "clusters (layers experts) -> clusters layers experts", layers=n_layers)
