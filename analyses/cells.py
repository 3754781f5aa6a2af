"""Sums by cluster from which every effect, interval and resampled statistic is made.

One estimator serves all effects. Tokens are gathered into *cells* (cluster, token id, condition).
A cell has `n` tokens, the sum `x` of their shares and the condition `d` (1 benchmark, 0 organic).
Less their means over the same token id these are `r` and `w`, and the effect is
`sum r w / sum n w^2`. With one token id for all it is a plain difference of means.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float, Integer, Shaped
from scipy.sparse import csr_array

from interp.analyses.cells_contrast import (
    Contrast,
    Units,
    contrast_cells,
    number_units,
    token_means,
)
from interp.analyses.usage import check_routing

BLOCK = 4_000_000
"""Sums held at once, cells times columns; bounds the memory, has no effect on the result."""


@dataclass(frozen=True, kw_only=True)
class ClusterSums:
    """What a test needs to know of each cluster; columns are (layer, expert), in this order.

    A *unit* is the part of a cluster under one condition: what gets a label when labels are
    exchanged. A cluster has one unit, or two where it has prompts of both conditions.
    """

    score: Float[np.ndarray, "clusters columns"]
    """`sum r w` over the cluster's tokens."""
    square: Float[np.ndarray, "clusters"]
    """`sum w^2` over the cluster's tokens."""
    left_out_score: Float[np.ndarray, "clusters columns"]
    """What the total score loses when the cluster is left out and token means are taken anew."""
    left_out_square: Float[np.ndarray, "clusters"]
    """Likewise what the total of `square` loses."""
    mean_residual: Float[np.ndarray, "clusters columns"]
    """Mean of `r` over the cluster's tokens; NaN without a token."""
    label: Bool[np.ndarray, "units"]
    """True for a benchmark unit."""
    cluster_of_unit: Integer[np.ndarray, "units"]
    """Which cluster each unit is part of."""
    unit_score: Float[np.ndarray, "clusters units columns"] | None
    """`sum r h` over the cluster's tokens, `h` the indicator of a unit less its token mean, so
    that labels `y` give scores `unit_score @ y`. None where labels are not exchanged."""
    unit_square: Float[np.ndarray, "clusters units units"] | None
    """`sum h h'` over the cluster's tokens: labels `y` give squares `y @ unit_square @ y`."""

    @property
    def effect(self) -> Float[np.ndarray, "columns"]:
        """`sum r w / sum w^2`, as a share of routed slots; NaN where no token can be compared."""
        total = self.square.sum()
        return np.asarray(self.score.sum(axis=0) / (total if total > 0 else np.nan))


def cluster_sums(blocks: Iterable[Float[np.ndarray, "cells _"]], contrast: Contrast) -> ClusterSums:
    """Sums by cluster of shares that come in blocks of columns, one row for each cell."""
    n_of_token = np.bincount(contrast.token, contrast.n_tokens).astype(float)
    edges = np.searchsorted(contrast.cluster, np.arange(contrast.n_clusters + 1))
    by_cluster = _rows_of_clusters(edges, np.ones(len(contrast.cluster)))
    by_weight = _rows_of_clusters(edges, contrast.weight)
    by_left_out = _rows_of_clusters(edges, contrast.left_out_weight)
    score, left_out, residual_sum, unit_score = [], [], [], []
    for block in blocks:
        mean = token_means(block, contrast.token, n_of_token)
        residual = block - contrast.n_tokens[:, None] * mean
        score.append(by_weight @ residual)
        left_out.append(by_left_out @ residual)
        residual_sum.append(by_cluster @ residual)
        if contrast.unit_weight is not None:
            unit_score.append(_products(edges, contrast.unit_weight, residual))
    n_of_cluster = by_cluster @ contrast.n_tokens
    square = contrast.n_tokens * contrast.weight
    return ClusterSums(
        score=np.concatenate(score, axis=1),
        square=by_weight @ square,
        left_out_score=np.concatenate(left_out, axis=1),
        left_out_square=by_left_out @ square,
        mean_residual=np.concatenate(residual_sum, axis=1)
        / np.where(n_of_cluster > 0, n_of_cluster, np.nan)[:, None],
        label=contrast.label,
        cluster_of_unit=contrast.cluster_of_unit,
        unit_score=np.concatenate(unit_score, axis=2) if unit_score else None,
        unit_square=_unit_square(edges, contrast),
    )


def _rows_of_clusters(
    edges: Integer[np.ndarray, "_"], values: Float[np.ndarray, "cells"]
) -> csr_array:
    """Values at [cluster, cell]; cells are sorted by cluster."""
    return csr_array((values, np.arange(len(values)), edges), shape=(len(edges) - 1, len(values)))


def _products(
    edges: Integer[np.ndarray, "_"],
    unit_weight: Float[np.ndarray, "cells units"],
    of: Float[np.ndarray, "cells columns"],
) -> Float[np.ndarray, "clusters units columns"]:
    """`sum h * of` within each cluster."""
    return np.stack([unit_weight[a:b].T @ of[a:b] for a, b in pairwise(edges)])


def _unit_square(
    edges: Integer[np.ndarray, "_"], contrast: Contrast
) -> Float[np.ndarray, "clusters units units"] | None:
    if contrast.unit_weight is None:
        return None
    return _products(edges, contrast.unit_weight, contrast.n_tokens[:, None] * contrast.unit_weight)


def token_adjusted_sums(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    *,
    benchmark: Bool[np.ndarray, "tokens"],
    cluster: Shaped[np.ndarray, "tokens"],
    token_id: Integer[np.ndarray, "tokens"],
    n_experts: int,
) -> ClusterSums:
    """Sums for the token-adjusted effect of the condition on every expert of every layer.

    `r` = share of the token's slots that went to the expert, less its mean over all tokens with
    the same id; `w` likewise of the condition (ours; the within estimator of a regression with
    one constant for each token id). Token ids that one unit alone has are left out: they add 0.
    Give the same `token_id` to all tokens for the raw effect: the difference of pooled usages.

    Args:
        expert_indices: Experts chosen, in any order within a token.
        benchmark: True for a token of a benchmark prompt.
        cluster: What is resampled: source, item or template of each token's prompt.
        token_id: Vocabulary id.
        n_experts: Experts in a layer.

    Returns:
        Sums by cluster; columns are layers times experts.

    Raises:
        ValueError: If there is no token, or an expert is out of range.

    Example:
        >>> chosen = np.array([[[0]], [[1]], [[0]], [[1]]])
        >>> is_benchmark = np.array([True, True, False, False])
        >>> sums = token_adjusted_sums(
        ...     chosen, benchmark=is_benchmark, cluster=np.array(["a", "a", "b", "b"]),
        ...     token_id=np.array([5, 6, 5, 5]), n_experts=2,
        ... )
        >>> sums.effect  # of token 5: always expert 0 in a, half of the time in b
        array([ 0.5, -0.5])
    """
    check_routing(
        expert_indices, np.zeros(len(benchmark), dtype=int), n_prompts=1, n_experts=n_experts
    )
    units = number_units(benchmark, cluster)
    cell_of_token, contrast = _gather(units, token_id)
    kept = cell_of_token >= 0
    blocks = _slot_shares(
        expert_indices[kept], cell_of_token[kept], len(contrast.cluster), n_experts
    )
    return cluster_sums(blocks, contrast)


def mean_difference_sums(
    share: Float[np.ndarray, "rows columns"],
    *,
    benchmark: Bool[np.ndarray, "rows"],
    cluster: Shaped[np.ndarray, "rows"],
) -> ClusterSums:
    """Sums for a plain difference of means, such as that of prompts' usages: one row a prompt."""
    units = number_units(benchmark, cluster)
    order = np.argsort(units.cluster, kind="stable")
    unit = units.unit[order]
    contrast = contrast_cells(
        units.label[unit].astype(float),
        cluster=units.cluster[order],
        token=np.zeros(len(order), dtype=int),
        n_tokens=np.ones(len(order)),
        unit_indicator=np.eye(len(units.label))[unit] if units.are_relabelled else None,
        label=units.label,
        cluster_of_unit=units.cluster_of_unit,
    )
    return cluster_sums([share[order]], contrast)


def _gather(
    units: Units, token_id: Integer[np.ndarray, "tokens"]
) -> tuple[Integer[np.ndarray, "tokens"], Contrast]:
    """Cell of each token, -1 for ids that one unit alone has, and the weights of the cells."""
    _, token = np.unique(token_id, return_inverse=True)
    n_ids = int(token.max()) + 1
    key, cell, n_tokens = np.unique(
        units.unit * n_ids + token, return_inverse=True, return_counts=True
    )
    # Units are numbered by cluster, so cells sorted by unit are sorted by cluster too.
    n_units_of_id = np.bincount(key % n_ids, minlength=n_ids)
    shared = n_units_of_id[key % n_ids] > 1
    number = np.where(shared, np.cumsum(shared) - 1, -1)
    unit = key[shared] // n_ids
    _, renumbered = np.unique(key[shared] % n_ids, return_inverse=True)
    contrast = contrast_cells(
        units.label[unit].astype(float),
        cluster=units.cluster_of_unit[unit],
        token=renumbered,
        n_tokens=n_tokens[shared].astype(float),
        unit_indicator=np.eye(len(units.label))[unit] if units.are_relabelled else None,
        label=units.label,
        cluster_of_unit=units.cluster_of_unit,
    )
    return number[cell], contrast


def _slot_shares(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    cell: Integer[np.ndarray, "tokens"],
    n_cells: int,
    n_experts: int,
) -> Iterator[Float[np.ndarray, "cells _"]]:
    """Share of each expert, summed over the tokens of a cell, some layers at a time."""
    _, n_layers, top_k = expert_indices.shape
    step = max(1, BLOCK // max(1, n_cells * n_experts))
    for first in range(0, n_layers, step):
        chosen = expert_indices[:, first : first + step].astype(np.int64)
        width = chosen.shape[1] * n_experts
        column = chosen + rearrange(np.arange(0, width, n_experts), "layers -> 1 layers 1")
        flat = (column + width * rearrange(cell, "tokens -> tokens 1 1")).ravel()
        slots = np.bincount(flat, minlength=n_cells * width)
        yield rearrange(slots, "(cells columns) -> cells columns", columns=width) / top_k
