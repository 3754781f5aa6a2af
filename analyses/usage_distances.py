"""Squared distances between prompts' usages, added up by source, layer by layer."""

from typing import Literal

import numpy as np
from einops import einsum, rearrange, reduce
from jaxtyping import Float, Integer
from scipy.special import entr

Metric = Literal["jensen_shannon", "hellinger", "euclidean"]
"""Squared distance of two usages: Jensen-Shannon divergence in bits, `1 - sum sqrt(p q)`, or
`sum (p - q)^2 / 2`. All from 0 to 1; only the last is free of the length of prompts."""

BLOCK = 1 << 22
"""Values held at once; bounds the memory, has no effect on the result."""


def distance_sums(
    usage: Float[np.ndarray, "prompts layers experts"],
    *,
    source_index: Integer[np.ndarray, "prompts"],
    n_sources: int,
    metric: Metric,
) -> Float[np.ndarray, "layers sources sources"]:
    """Sum of the squared distances of all pairs of prompts, by source of either.

    All that an analysis of variance of distances needs. The metrics are squared distances in a
    Hilbert space (Jensen-Shannon: Endres and Schindelin 2003, A new metric for probability
    distributions, shows that its root is a metric), so sums of squares and centroids mean what
    they mean in ordinary space. Jensen-Shannon takes time quadratic in prompts, the others linear.

    Args:
        usage: Usage within each prompt; sums to 1 over experts.
        source_index: Source of each prompt, 0 to `n_sources - 1`.
        n_sources: Number of sources.
        metric: Squared distance of two usages.

    Returns:
        Symmetric; a pair within a source counts twice, once from either end.
    """
    member = np.eye(n_sources)[source_index]
    if metric == "jensen_shannon":
        by_layer = rearrange(usage, "prompts layers experts -> layers prompts experts")
        return np.stack([_pairwise(np.ascontiguousarray(of), member) for of in by_layer])
    place = np.sqrt(usage) if metric == "hellinger" else usage
    return _from_moments(place, member)


def _from_moments(
    place: Float[np.ndarray, "prompts layers experts"],
    member: Float[np.ndarray, "prompts sources"],
) -> Float[np.ndarray, "layers sources sources"]:
    """Sums of `|x - y|^2 / 2` from each source's number, sum and sum of squares."""
    place = place - place.mean(axis=0)  # keeps the differences below small numbers
    size = member.sum(axis=0)
    total = einsum(
        member, place, "prompts sources, prompts layers experts -> layers sources experts"
    )
    squared = reduce(place**2, "prompts layers experts -> prompts layers", "sum")
    square = einsum(member, squared, "prompts sources, prompts layers -> layers sources")
    inner = einsum(total, total, "layers one experts, layers other experts -> layers one other")
    return np.asarray((square[:, :, None] * size + square[:, None, :] * size[:, None]) / 2 - inner)


def _pairwise(
    usage: Float[np.ndarray, "prompts experts"], member: Float[np.ndarray, "prompts sources"]
) -> Float[np.ndarray, "sources sources"]:
    """Sums of Jensen-Shannon divergences, some rows at a time, each pair computed once."""
    n_prompts, n_experts = usage.shape
    step = max(1, BLOCK // max(1, n_prompts * n_experts))
    sums = np.zeros((member.shape[1], member.shape[1]))
    for start in range(0, n_prompts, step):
        rows, later = slice(start, start + step), slice(start + step, None)
        own = jensen_shannon_pairs(usage[rows], usage[rows])
        rest = jensen_shannon_pairs(usage[rows], usage[later])
        once = member[rows].T @ rest @ member[later]
        sums += member[rows].T @ own @ member[rows] + once + once.T
    return sums


def jensen_shannon_pairs(
    first: Float[np.ndarray, "rows experts"], second: Float[np.ndarray, "columns experts"]
) -> Float[np.ndarray, "rows columns"]:
    """Jensen-Shannon divergence in bits of each usage of the first with each of the second.

    Returns:
        From 0 to 1.

    Example:
        >>> even, one = np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]])
        >>> jensen_shannon_pairs(even, one).round(4)
        array([[0.3113]])
    """
    middle = (first[:, None, :] + second[None, :, :]) / 2
    mixed = reduce(entr(middle), "rows columns experts -> rows columns", "sum")
    own = [reduce(entr(each), "prompts experts -> prompts", "sum") for each in (first, second)]
    nats = mixed - (own[0][:, None] + own[1][None, :]) / 2
    return np.asarray(np.maximum(nats / np.log(2.0), 0.0))
