"""Analysis of variance of distances: prompts in sources in conditions, whole sources relabelled."""

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from jaxtyping import Bool, Float, Int

MOST_LABELLINGS = 20_000
"""Labellings of the sources up to which all are tried; above, some are drawn."""


@dataclass(frozen=True, kw_only=True)
class NestedTest:
    """Pseudo-F of each row, and where it lies among those of relabelled sources."""

    pseudo_f: Float[np.ndarray, "rows"]
    """Mean square of condition over mean square between sources."""
    p_value: Float[np.ndarray, "rows"]
    """Share of labellings with a pseudo-F as large; never 0."""
    p_max: Float[np.ndarray, "rows"]
    """Share with a largest pseudo-F over layers as large."""
    smallest_p: float
    """The smallest p that the labellings allow."""
    n_labellings: int
    """Labellings that the sources allow."""
    n_tried: int
    """Labellings that were tried."""
    reason: str
    """Why there is no pseudo-F; empty where there is one."""


def nested_squares(
    sums: Float[np.ndarray, "rows sources sources"],
    n_prompts: Int[np.ndarray, "sources"],
    labels: Bool[np.ndarray, "labellings sources"],
) -> Float[np.ndarray, "3 rows labellings"]:
    """Sums of squares between conditions, between sources of a condition, and within sources.

    Args:
        sums: Sums of squared distances of prompts by source, from `distance_sums`.
        n_prompts: Prompts of each source.
        labels: True where a source counts as benchmark.

    Returns:
        In the unit of the squared distance; the three sum to the total for every labelling.
    """
    total = sums.sum(axis=(1, 2)) / (2 * n_prompts.sum())
    within = (np.diagonal(sums, axis1=1, axis2=2) / (2 * n_prompts)).sum(axis=1)
    in_conditions = np.zeros((len(sums), len(labels)))
    for side in (labels.astype(float), 1.0 - labels):
        pairs = np.einsum("lst,ps,pt->lp", sums, side, side, optimize=True)
        in_conditions += pairs / (2 * (side @ n_prompts))
    return np.stack(
        [
            total[:, None] - in_conditions,
            in_conditions - within[:, None],
            np.broadcast_to(within[:, None], in_conditions.shape),
        ]
    )


def centroid_distances(
    sums: Float[np.ndarray, "rows sources sources"], n_prompts: Int[np.ndarray, "sources"]
) -> Float[np.ndarray, "rows sources sources"]:
    """Squared distance of two sources' centroids, without the share that is noise of prompts.

    `mean d^2 across - (mean d^2 within one + mean d^2 within the other) / 2`, means over pairs of
    different prompts. Unbiased, as the V-statistic with its own pairs left out.

    Returns:
        0 on the diagonal; NaN for a source of one prompt.
    """
    n_pairs = n_prompts * (n_prompts - 1)
    own = np.diagonal(sums, axis1=1, axis2=2) / np.where(n_pairs > 0, n_pairs, np.nan)
    across = sums / np.outer(n_prompts, n_prompts)
    distance = across - (own[:, :, None] + own[:, None, :]) / 2
    distance[:, np.eye(len(n_prompts), dtype=bool)] = 0.0
    return np.asarray(distance)


def nested_test(
    sums: Float[np.ndarray, "rows sources sources"],
    n_prompts: Int[np.ndarray, "sources"],
    *,
    is_benchmark: Bool[np.ndarray, "sources"],
    rng: np.random.Generator,
    n_permutations: int,
) -> NestedTest:
    """Pseudo-F of every row under the observed labels, against those of relabelled sources.

    The last row is that of all layers together; `p_max` of the others takes the largest pseudo-F
    over the others.
    """
    n_sources, n_true = len(is_benchmark), int(is_benchmark.sum())
    n_labellings = comb(n_sources, n_true)
    reason = _too_few(n_true, n_sources - n_true)
    if reason:
        return _untested(len(sums), n_labellings, reason)
    labels = _labellings(is_benchmark, n_labellings, rng, n_permutations)
    found = np.concatenate(
        [
            pseudo_f(nested_squares(sums, n_prompts, part), n_sources)
            for part in np.array_split(labels, max(1, len(labels) // 1000))
        ],
        axis=1,
    )
    observed = pseudo_f(nested_squares(sums, n_prompts, is_benchmark[None]), n_sources)[:, 0]
    is_drawn = n_labellings > MOST_LABELLINGS
    p_value = _share_reached(found, observed, is_drawn)
    largest = np.broadcast_to(found[:-1].max(axis=0), found.shape)
    p_max = _share_reached(largest, observed, is_drawn)
    p_max[-1] = p_value[-1]
    alike = 2 if 2 * n_true == n_sources else 1  # swapping all labels gives the same pseudo-F
    return NestedTest(
        pseudo_f=observed,
        p_value=p_value,
        p_max=p_max,
        smallest_p=max(alike / n_labellings, is_drawn / (len(labels) + 1)),
        n_labellings=n_labellings,
        n_tried=len(labels),
        reason="",
    )


def _share_reached(
    found: Float[np.ndarray, "rows labellings"], observed: Float[np.ndarray, "rows"], is_drawn: bool
) -> Float[np.ndarray, "rows"]:
    """Share of labellings as large as observed; to drawn ones the observed one is added."""
    reached = (found >= observed[:, None] * (1 - 1e-9)).sum(axis=1)
    return np.asarray((reached + is_drawn) / (found.shape[1] + is_drawn))


def _untested(n_rows: int, n_labellings: int, reason: str) -> NestedTest:
    none = np.full(n_rows, np.nan)
    return NestedTest(
        pseudo_f=none,
        p_value=none,
        p_max=none,
        smallest_p=1.0,
        n_labellings=n_labellings,
        n_tried=0,
        reason=reason,
    )


def pseudo_f(
    squares: Float[np.ndarray, "3 rows labellings"], n_sources: int
) -> Float[np.ndarray, "rows labellings"]:
    """Mean square of condition over mean square between sources; 0 where both are 0."""
    condition, source = np.maximum(squares[0], 0.0), np.maximum(squares[1], 0.0)
    scale = 1e-12 * np.maximum(squares.sum(axis=0), 1e-12)
    ratio = condition * (n_sources - 2) / np.where(source > scale, source, np.nan)
    without = np.where(condition > scale, np.inf, 0.0)
    return np.asarray(np.where(np.isnan(ratio), without, ratio))


def _labellings(
    is_benchmark: Bool[np.ndarray, "sources"],
    n_labellings: int,
    rng: np.random.Generator,
    n_permutations: int,
) -> Bool[np.ndarray, "labellings sources"]:
    """All ways to call as many sources benchmark, or some drawn at random."""
    if n_labellings > MOST_LABELLINGS:
        return rng.permuted(np.tile(is_benchmark, (n_permutations, 1)), axis=1)
    chosen = np.array(list(combinations(range(len(is_benchmark)), int(is_benchmark.sum()))))
    labels = np.zeros((n_labellings, len(is_benchmark)), dtype=bool)
    np.put_along_axis(labels, chosen, values=True, axis=1)
    return labels


def _too_few(n_benchmark: int, n_organic: int) -> str:
    for name, n in (("benchmark", n_benchmark), ("organic", n_organic)):
        if n < 2:
            return (
                f"{name} has {n} source, and what a source is cannot be told from what the "
                "condition is; give at least 2 sources of each condition"
            )
    return ""
