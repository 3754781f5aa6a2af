"""Studentised statistics under many labellings or signs at once, as matrix products."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from interp.analyses.cells import ClusterSums

BATCH = 512
"""Resamples computed at once; bounds the memory, has no effect on the result."""


def flipped_statistics(
    score: Float[np.ndarray, "clusters columns"], signs: Float[np.ndarray, "resamples clusters"]
) -> tuple[Float[np.ndarray, "columns"], Float[np.ndarray, "resamples"]]:
    """Absolute t statistic of the scores, and its largest over columns under each row of signs."""
    n_clusters = len(score)
    squares = (score**2).sum(axis=0)

    def absolute_t(total: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
        spread = squares - total**2 / n_clusters
        return _ratio(np.abs(total), spread * (n_clusters / (n_clusters - 1)), squares * 1e-12)

    null = [absolute_t(batch @ score).max(axis=1) for batch in _batches(signs)]
    return absolute_t(score.sum(axis=0, keepdims=True))[0], np.concatenate(null)


def relabelled_statistics(
    sums: ClusterSums, labels: Float[np.ndarray, "resamples units"]
) -> tuple[Float[np.ndarray, "columns"], Float[np.ndarray, "resamples"]]:
    """`T` of the observed labels, and the largest over columns under each relabelling.

    Nothing of size resamples x clusters x columns is made: `sum S`, `sum S^2` and `sum S W` are
    each one matrix product of labels, or products of labels, with sums over clusters.
    """
    assert sums.unit_score is not None
    assert sums.unit_square is not None
    n_clusters, n_units, n_columns = sums.unit_score.shape
    first, second = np.triu_indices(n_units)
    twice = np.where(first == second, 1.0, 2.0)
    by_column = sums.unit_score.transpose(2, 0, 1)  # columns clusters units
    products = by_column.transpose(0, 2, 1) @ by_column  # columns units units
    score_squares = (products[:, first, second] * twice).T
    square_terms = (sums.unit_square[:, first, second] * twice).T
    score_terms = sums.unit_score.sum(axis=0)
    cross_terms = sums.unit_score.reshape(n_clusters * n_units, n_columns)

    def statistic(batch: Float[np.ndarray, "rows units"]) -> Float[np.ndarray, "rows columns"]:
        pairs = batch[:, first] * batch[:, second]
        square = pairs @ square_terms  # W*_g
        total = batch @ score_terms  # sum S*
        weights = (square[:, :, None] * batch[:, None, :]).reshape(len(batch), -1)
        sum_square = square.sum(axis=1, keepdims=True)
        beta = np.divide(total, sum_square, out=np.zeros_like(total), where=sum_square > 1e-9)
        score_square = pairs @ score_squares
        square_square = (square**2).sum(axis=1, keepdims=True)
        spread = score_square - 2 * beta * (weights @ cross_terms) + beta**2 * square_square
        least = 1e-12 * (score_square + beta**2 * square_square)
        return np.where(sum_square > 1e-9, _ratio(np.abs(total), spread, least), 0.0)

    null = [statistic(batch).max(axis=1) for batch in _batches(labels)]
    return statistic(sums.label.astype(float)[None])[0], np.concatenate(null)


def _ratio(
    total: Float[np.ndarray, "rows columns"],
    spread: Float[np.ndarray, "rows columns"],
    least: Float[np.ndarray, "..."],
) -> Float[np.ndarray, "rows columns"]:
    """`total / sqrt(spread)`, 0 where the spread is 0 but for rounding."""
    varies = spread > least
    return np.asarray(total * varies / np.sqrt(np.where(varies, spread, 1.0)))


def _batches(rows: Float[np.ndarray, "rows _"]) -> Iterator[Float[np.ndarray, "batch _"]]:
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH]
