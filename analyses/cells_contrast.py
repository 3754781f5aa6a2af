"""Which weight each cell of tokens has: all of an effect that does not depend on the experts."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped
from scipy.sparse import csr_array

MAX_RELABELLED = 64
"""Clusters up to which labels are exchanged; above it, signs of scores are flipped."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Which weight each cell has: all that does not depend on the experts."""

    cluster: Integer[np.ndarray, "cells"]
    """Cluster of each cell, ascending."""
    token: Integer[np.ndarray, "cells"]
    """Token id of each cell, numbered from 0."""
    n_tokens: Float[np.ndarray, "cells"]
    """Tokens of each cell."""
    weight: Float[np.ndarray, "cells"]
    """Condition less its mean over the token id."""
    left_out_weight: Float[np.ndarray, "cells"]
    """Condition less its mean over the token id outside the cluster."""
    unit_weight: Float[np.ndarray, "cells units"] | None
    """Indicator of each unit less its mean over the token id; None where labels stay."""
    label: Bool[np.ndarray, "units"]
    """True for a benchmark unit."""
    cluster_of_unit: Integer[np.ndarray, "units"]
    """Which cluster each unit is part of."""
    n_clusters: int
    """Clusters, those without a cell included."""


@dataclass(frozen=True, kw_only=True)
class Units:
    """Clusters and their parts under either condition, numbered from 0."""

    cluster: Integer[np.ndarray, "tokens"]
    """Cluster of each token."""
    unit: Integer[np.ndarray, "tokens"]
    """Unit of each token."""
    label: Bool[np.ndarray, "units"]
    """True for a benchmark unit."""
    cluster_of_unit: Integer[np.ndarray, "units"]
    """Which cluster each unit is part of."""

    @property
    def n_clusters(self) -> int:
        """Clusters that have tokens."""
        return int(self.cluster_of_unit.max(initial=-1)) + 1

    @property
    def are_relabelled(self) -> bool:
        """Whether labels are exchanged: few clusters, and not all of them under both conditions."""
        return self.n_clusters <= MAX_RELABELLED and len(self.label) < 2 * self.n_clusters


def number_units(
    benchmark: Bool[np.ndarray, "tokens"], cluster: Shaped[np.ndarray, "tokens"]
) -> Units:
    """Number the clusters, and their parts under either condition."""
    _, number = np.unique(cluster, return_inverse=True)
    present, unit = np.unique(2 * number + benchmark, return_inverse=True)
    return Units(cluster=number, unit=unit, label=present % 2 == 1, cluster_of_unit=present // 2)


def contrast_cells(
    condition: Float[np.ndarray, "cells"],
    *,
    cluster: Integer[np.ndarray, "cells"],
    token: Integer[np.ndarray, "cells"],
    n_tokens: Float[np.ndarray, "cells"],
    unit_indicator: Float[np.ndarray, "cells units"] | None,
    label: Bool[np.ndarray, "units"],
    cluster_of_unit: Integer[np.ndarray, "units"],
) -> Contrast:
    """Weights of cells that are sorted by cluster; `condition` may be a residual."""
    n_ids = int(token.max(initial=0)) + 1
    n_of_token = np.maximum(np.bincount(token, n_tokens, n_ids), 1.0)  # 0 only without a cell
    of_token = np.bincount(token, n_tokens * condition, n_ids)
    _, pair = np.unique(cluster * n_ids + token, return_inverse=True)
    n_outside = n_of_token[token] - np.bincount(pair, n_tokens)[pair]
    outside = of_token[token] - np.bincount(pair, n_tokens * condition)[pair]
    mean_outside = np.divide(outside, n_outside, out=np.zeros(len(token)), where=n_outside > 0)
    return Contrast(
        cluster=cluster,
        token=token,
        n_tokens=n_tokens,
        weight=condition - (of_token / n_of_token)[token],
        left_out_weight=condition - mean_outside,
        unit_weight=None
        if unit_indicator is None
        else unit_indicator - token_means(unit_indicator * n_tokens[:, None], token, n_of_token),
        label=label,
        cluster_of_unit=cluster_of_unit,
        n_clusters=int(cluster_of_unit.max(initial=-1)) + 1,
    )


def token_means(
    sums: Float[np.ndarray, "cells columns"],
    token: Integer[np.ndarray, "cells"],
    n_of_token: Float[np.ndarray, "ids"],
) -> Float[np.ndarray, "cells columns"]:
    """Mean over all tokens with the same id, one row for each cell."""
    where = (token, np.arange(len(token)))
    by_token = csr_array((np.ones(len(token)), where), shape=(len(n_of_token), len(token)))
    means = (by_token @ sums) / n_of_token[:, None]
    return np.asarray(means[token])
