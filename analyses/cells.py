"""Sums by cluster from which every effect, interval and resampled statistic is made.

One estimator serves all effects. Tokens are gathered into *cells* (cluster, token id, condition).
A cell has `n` tokens, the sum `x` of their shares and the condition `d` (1 benchmark, 0 organic).
Less their means over the same token id these are `r` and `w`, and the effect is
`sum r w / sum n w^2`. With one token id for all it is a plain difference of means.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped

from interp.analyses.cells_contrast import (
    Contrast,
    Units,
    UnitWeights,
    contrast_cells,
    number_units,
)
from interp.analyses.slot_tables import cell_index, slot_tables
from interp.analyses.token_stream import CellIndex, stream_of_arrays
from interp.analyses.usage import check_routing


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


@dataclass(frozen=True, kw_only=True)
class ColumnSums:
    """The fields of `ClusterSums` that have columns, of some of them."""

    score: Float[np.ndarray, "clusters columns"]
    left_out_score: Float[np.ndarray, "clusters columns"]
    mean_residual: Float[np.ndarray, "clusters columns"]
    unit_score: Float[np.ndarray, "clusters units columns"] | None

    def and_within(
        self, score: Float[np.ndarray, "clusters of columns"], label: Float[np.ndarray, "of"]
    ) -> "ColumnSums":
        """With what condition and share have in common within cells, for each unit or in all."""
        of_label = np.einsum("cuk,u->ck", score, label)
        return ColumnSums(
            score=self.score + of_label,
            left_out_score=self.left_out_score + of_label,
            mean_residual=self.mean_residual,
            unit_score=None if self.unit_score is None else self.unit_score + score,
        )


def cluster_sums(blocks: Iterable[Float[np.ndarray, "cells _"]], contrast: Contrast) -> ClusterSums:
    """Sums by cluster of shares that come in blocks of columns, one row for each cell."""
    return joined([column_sums(block, contrast) for block in blocks], contrast)


def column_sums(block: Float[np.ndarray, "cells columns"], contrast: Contrast) -> ColumnSums:
    """Sums by cluster of some columns of the shares."""
    residual = (contrast.by_token @ block / contrast.n_of_token[:, None])[contrast.token]
    residual *= -contrast.n_tokens[:, None]
    residual += block
    score, left_out_score, total = np.split(contrast.by_cluster @ residual, 3)
    n_of_cluster = contrast.by_cluster[2 * contrast.n_clusters :] @ contrast.n_tokens
    edges = pairwise(contrast.edges.tolist())
    return ColumnSums(
        score=score,
        left_out_score=left_out_score,
        mean_residual=total / np.where(n_of_cluster > 0, n_of_cluster, np.nan)[:, None],
        unit_score=None
        if (of := contrast.unit_weight) is None
        else np.stack([of.rows(a, b).T @ residual[a:b] for a, b in edges]),
    )


def joined(columns: Sequence[ColumnSums], contrast: Contrast) -> ClusterSums:
    """The sums of all columns, with those that have none."""
    squares = contrast.by_cluster @ (contrast.n_tokens * contrast.weight)
    square, left_out_square, _ = np.split(squares, 3)
    of_units = [each.unit_score for each in columns if each.unit_score is not None]
    return ClusterSums(
        score=np.concatenate([each.score for each in columns], axis=1),
        square=square,
        left_out_score=np.concatenate([each.left_out_score for each in columns], axis=1),
        left_out_square=left_out_square,
        mean_residual=np.concatenate([each.mean_residual for each in columns], axis=1),
        label=contrast.label,
        cluster_of_unit=contrast.cluster_of_unit,
        unit_score=np.concatenate(of_units, axis=2) if of_units else None,
        unit_square=_unit_square(contrast),
    )


def _unit_square(contrast: Contrast) -> Float[np.ndarray, "clusters units units"] | None:
    if contrast.unit_weight is None:
        return None
    squares = []
    for a, b in pairwise(contrast.edges.tolist()):
        weight = contrast.unit_weight.rows(a, b)
        squares.append(weight.T @ (contrast.n_tokens[a:b, None] * weight))
    return np.stack(squares)


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
    stream = stream_of_arrays(
        expert_indices,
        row=units.unit,
        token_id=token_id,
        previous_token_id=token_id,
        position=token_id,
        logprob=np.zeros(len(token_id)),
        n_experts=n_experts,
        layer_indices=tuple(range(expert_indices.shape[1])),
    )
    cells = cell_index(stream)
    kept, contrast = shared_contrast(cells, units)
    blocks = (
        table.shares(columns)[kept]
        for table in slot_tables(stream, cells)
        for columns in table.blocks()
    )
    return cluster_sums(blocks, contrast)


def mean_difference_sums(
    share: Float[np.ndarray, "rows columns"],
    *,
    benchmark: Bool[np.ndarray, "rows"],
    cluster: Shaped[np.ndarray, "rows"],
) -> ClusterSums:
    """Sums for a plain difference of means, such as that of prompts' usages: one row a prompt."""
    order, contrast = row_contrast(np.ones(len(share)), benchmark=benchmark, cluster=cluster)
    return cluster_sums([share[order]], contrast)


def row_contrast(
    n_tokens: Float[np.ndarray, "rows"],
    *,
    benchmark: Bool[np.ndarray, "rows"],
    cluster: Shaped[np.ndarray, "rows"],
) -> tuple[Integer[np.ndarray, "rows"], Contrast]:
    """Weights of rows that are compared whatever their tokens, such as prompts, and their order."""
    units = number_units(benchmark, cluster)
    order = np.argsort(units.cluster, kind="stable")
    unit, one = units.unit[order], np.zeros(len(order), dtype=int)
    return order, contrast_cells(
        units.label[unit].astype(float),
        cluster=units.cluster[order],
        token=one,
        n_tokens=n_tokens[order],
        unit_weight=_unit_weights(units, unit, one, n_tokens[order]),
        label=units.label,
        cluster_of_unit=units.cluster_of_unit,
    )


def shared_contrast(cells: CellIndex, units: Units) -> tuple[Integer[np.ndarray, "_"], Contrast]:
    """Cells of the ids that more than one unit has, and their weights."""
    n_units_of_id = np.bincount(cells.token, minlength=len(cells.ids))
    kept = np.flatnonzero(n_units_of_id[cells.token] > 1)
    unit, n_tokens = cells.unit[kept], cells.n_tokens[kept].astype(float)
    _, token = np.unique(cells.token[kept], return_inverse=True)
    contrast = contrast_cells(
        units.label[unit].astype(float),
        cluster=units.cluster_of_unit[unit],  # rises, since units are numbered by cluster
        token=token,
        n_tokens=n_tokens,
        unit_weight=_unit_weights(units, unit, token, n_tokens),
        label=units.label,
        cluster_of_unit=units.cluster_of_unit,
    )
    return kept, contrast


def _unit_weights(
    units: Units,
    unit: Integer[np.ndarray, "cells"],
    token: Integer[np.ndarray, "cells"],
    n_tokens: Float[np.ndarray, "cells"],
) -> UnitWeights | None:
    if not units.are_relabelled:
        return None
    return UnitWeights.of(unit, token, n_tokens, n_units=len(units.label))
