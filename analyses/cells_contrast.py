"""Which weight each cell of tokens has: all of an effect that does not depend on the experts."""

from dataclasses import dataclass
from functools import cached_property

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
    unit_weight: "UnitWeights | None"
    """Indicator of each unit less its mean over the token id; None where labels stay."""
    label: Bool[np.ndarray, "units"]
    """True for a benchmark unit."""
    cluster_of_unit: Integer[np.ndarray, "units"]
    """Which cluster each unit is part of."""
    n_clusters: int
    """Clusters, those without a cell included."""

    @cached_property
    def edges(self) -> Integer[np.ndarray, "_"]:
        """First cell of each cluster, and the number of cells."""
        return np.searchsorted(self.cluster, np.arange(self.n_clusters + 1))

    @cached_property
    def n_of_token(self) -> Float[np.ndarray, "ids"]:
        """Tokens of each id."""
        n_ids = int(self.token.max(initial=0)) + 1
        return np.maximum(np.bincount(self.token, self.n_tokens, n_ids), 1.0)  # 0: no cell

    @cached_property
    def by_token(self) -> csr_array:
        """[ids, cells]: ones."""
        shape = (len(self.n_of_token), len(self.token))
        return csr_array((np.ones(shape[1]), (self.token, np.arange(shape[1]))), shape=shape)

    @cached_property
    def by_cluster(self) -> csr_array:
        """[3 clusters, cells]: weights, weights with the cluster left out, ones."""
        n_cells = len(self.cluster)
        values = np.concatenate([self.weight, self.left_out_weight, np.ones(n_cells)])
        starts = np.concatenate([self.edges[:-1] + n_cells * turn for turn in range(3)])
        indptr = np.append(starts, 3 * n_cells)
        shape = (3 * self.n_clusters, n_cells)
        return csr_array((values, np.tile(np.arange(n_cells), 3), indptr), shape=shape)


@dataclass(frozen=True, kw_only=True)
class UnitWeights:
    """Indicator of each unit less its mean over the token id, for the cells of one cluster."""

    unit: Integer[np.ndarray, "cells"]
    """Unit of each cell."""
    token: Integer[np.ndarray, "cells"]
    """Token id of each cell, numbered from 0."""
    mean: Float[np.ndarray, "ids units"]
    """Mean of the indicator over the tokens with an id."""
    fitted: Float[np.ndarray, "cells units"] | None
    """What the surface tells of the indicator, mean of each cell; None for nothing."""

    @classmethod
    def of(
        cls,
        unit: Integer[np.ndarray, "cells"],
        token: Integer[np.ndarray, "cells"],
        n_tokens: Float[np.ndarray, "cells"],
        *,
        n_units: int,
        fitted: Float[np.ndarray, "cells units"] | None = None,
    ) -> "UnitWeights":
        """Take the means."""
        n_ids = int(token.max(initial=0)) + 1
        flat = np.bincount(token * n_units + unit, n_tokens, minlength=n_ids * n_units)
        total = flat.reshape(n_ids, n_units)
        if fitted is not None:
            by_token = csr_array((n_tokens, (token, np.arange(len(token)))), (n_ids, len(token)))
            total = total - by_token @ fitted
        n_of_token = np.maximum(np.bincount(token, n_tokens, n_ids), 1.0)
        return cls(unit=unit, token=token, mean=total / n_of_token[:, None], fitted=fitted)

    def rows(self, first: int, stop: int) -> Float[np.ndarray, "_ units"]:
        """The weights of some cells."""
        of = slice(first, stop)
        weight = -self.mean[self.token[of]]
        weight[np.arange(len(weight)), self.unit[of]] += 1.0
        return np.asarray(weight if self.fitted is None else weight - self.fitted[of])


@dataclass(frozen=True, kw_only=True)
class Units:
    """Clusters and their parts under either condition, numbered from 0."""

    cluster: Integer[np.ndarray, "rows"]
    """Cluster of each row: token or prompt."""
    unit: Integer[np.ndarray, "rows"]
    """Unit of each row."""
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


def number_units(benchmark: Bool[np.ndarray, "rows"], cluster: Shaped[np.ndarray, "rows"]) -> Units:
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
    unit_weight: UnitWeights | None,
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
        unit_weight=unit_weight,
        label=label,
        cluster_of_unit=cluster_of_unit,
        n_clusters=int(cluster_of_unit.max(initial=-1)) + 1,
    )
