"""Surface-adjusted effect: what is left of the effect at the same token, neighbour and position."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped
from scipy.sparse import csr_array, hstack

from interp.analyses.cells import ClusterSums, cluster_sums
from interp.analyses.cells_contrast import Units, contrast_cells, number_units
from interp.analyses.surface_regression import Fold, fold_regressions, residuals
from interp.analyses.usage import check_routing

MAX_FOLDS = 10
"""Parts of the cross-fit; each cluster is its own up to this many."""
N_KNOTS = 8
"""Knots of position and of log-probability, at their quantiles."""
MAX_PREVIOUS = 1024
"""Previous tokens with a constant of their own; the rarer ones share one."""


@dataclass(frozen=True, kw_only=True)
class SurfaceAdjustment:
    """Sums for the surface-adjusted effect, and what the surface was."""

    sums: ClusterSums
    """Sums by cluster, columns are (layer, expert)."""
    adjusted_for: tuple[str, ...]
    """What was taken out: of `token`, `previous_token`, `position` and `logprob`."""
    left_out: tuple[str, ...]
    """What could not be taken out, each with its reason in a sentence."""
    n_tokens: int
    """Tokens that count: those whose id occurs under both conditions."""


def surface_adjusted_sums(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    *,
    benchmark: Bool[np.ndarray, "tokens"],
    cluster: Shaped[np.ndarray, "tokens"],
    token_id: Integer[np.ndarray, "tokens"],
    previous_token_id: Integer[np.ndarray, "tokens"],
    position: Integer[np.ndarray, "tokens"],
    logprob: Float[np.ndarray, "tokens"],
    n_experts: int,
    rng: np.random.Generator,
    ridge: float = 1.0,
) -> SurfaceAdjustment:
    """Sums for the effect of the condition on every expert, beyond what the surface explains.

    Share and condition are regressed on one constant for each token id, one for each previous
    token (ridge), and on position and log-probability (piecewise linear, knots at quantiles). The
    fit for a token comes from other clusters, so that a cluster cannot explain itself away. Then
    the token-adjusted estimator is applied to the residuals: the partially linear regression of
    Robinson 1988 (doi:10.2307/1912705), cross-fitted as in Chernozhukov et al. 2018
    (arXiv:1608.00060), by cluster as in Chiang et al. 2019 (arXiv:1909.03489). The constants of
    token ids are within-token means of all clusters, since the estimator takes them out again.
    Folds do not look at the condition, and the regression is linear in it: so exchanged labels
    are residualised anew at no cost.

    Args:
        expert_indices: Experts chosen, in any order within a token.
        benchmark: True for a token of a benchmark prompt.
        cluster: What is resampled and kept whole in a fold.
        token_id: Vocabulary id.
        previous_token_id: Vocabulary id of the token before; -1 for none.
        position: Position in its sequence.
        logprob: Log-probability in nats. Tokens that lack it have a constant of their own; where
            all do, it is left out and named so.
        n_experts: Experts in a layer.
        rng: Puts clusters into folds where there are more than 10.
        ridge: Tokens that a feature must be seen on, within token ids, to be believed by half.

    Returns:
        Sums for `max_t_test` and `cluster_jackknife`, and what was adjusted for.

    Raises:
        ValueError: If there is no token, or an expert is out of range.
    """
    check_routing(
        expert_indices, np.zeros(len(benchmark), dtype=int), n_prompts=1, n_experts=n_experts
    )
    units = number_units(benchmark, cluster)
    order = np.argsort(units.cluster, kind="stable")
    _, token = np.unique(token_id, return_inverse=True)
    features, adjusted_for, left_out = surface_features(previous_token_id, position, logprob)
    folds = fold_regressions(features[order], token[order], _folds(units, order, rng), ridge=ridge)
    counts = _in_both_conditions(token, benchmark)[order]
    sums = _sums_of_residuals(expert_indices, units, order, token, folds, counts, n_experts)
    return SurfaceAdjustment(
        sums=sums,
        adjusted_for=("token", *adjusted_for),
        left_out=left_out,
        n_tokens=int(counts.sum()),
    )


def surface_features(
    previous_token_id: Integer[np.ndarray, "tokens"],
    position: Integer[np.ndarray, "tokens"],
    logprob: Float[np.ndarray, "tokens"],
) -> tuple[csr_array, tuple[str, ...], tuple[str, ...]]:
    """Previous token, position and log-probability as sparse columns, and what was left out."""
    parts = [_one_hot_of_frequent(previous_token_id), _piecewise_linear(np.log1p(position))]
    known = ~np.isnan(logprob)
    if not known.any():
        sentence = "logprob is NaN for every token, so the effect is not adjusted for it."
        return hstack(parts, format="csr"), ("previous_token", "position"), (sentence,)
    curve = _piecewise_linear(logprob[known])
    rows = csr_array(
        (np.ones(known.sum()), (np.flatnonzero(known), np.arange(known.sum()))),
        shape=(len(known), int(known.sum())),
    )
    parts += [csr_array(rows @ curve), csr_array((~known).astype(float)[:, None])]
    return hstack(parts, format="csr"), ("previous_token", "position", "logprob"), ()


def _one_hot_of_frequent(ids: Integer[np.ndarray, "tokens"]) -> csr_array:
    _, number, count = np.unique(ids, return_inverse=True, return_counts=True)
    rank = np.empty(len(count), dtype=int)
    rank[np.argsort(-count, kind="stable")] = np.arange(len(count))
    column = np.minimum(rank[number], MAX_PREVIOUS)
    n_columns = min(len(count), MAX_PREVIOUS + 1)
    return csr_array(
        (np.ones(len(ids)), (np.arange(len(ids)), column)), shape=(len(ids), n_columns)
    )


def _piecewise_linear(values: Float[np.ndarray, "tokens"]) -> csr_array:
    """Hat functions at quantiles: a fit that is linear between them and constant outside."""
    knots = np.unique(np.quantile(values, np.linspace(0.0, 1.0, N_KNOTS)))
    hats = [np.interp(values, knots, height) for height in np.eye(len(knots))]
    return csr_array(np.stack(hats, axis=1))


def _folds(
    units: Units, order: Integer[np.ndarray, "tokens"], rng: np.random.Generator
) -> Integer[np.ndarray, "tokens"]:
    """Fold of each token, by cluster and whatever its condition."""
    n_folds = min(units.n_clusters, MAX_FOLDS)
    fold_of_cluster = rng.permutation(np.arange(units.n_clusters) % n_folds)
    return np.asarray(fold_of_cluster[units.cluster[order]])


def _in_both_conditions(
    token: Integer[np.ndarray, "tokens"], benchmark: Bool[np.ndarray, "tokens"]
) -> Bool[np.ndarray, "tokens"]:
    n_ids = int(token.max()) + 1
    n_benchmark = np.bincount(token, benchmark, n_ids)
    n_all = np.bincount(token, minlength=n_ids)
    return np.asarray(((n_benchmark > 0) & (n_benchmark < n_all))[token])


def _sums_of_residuals(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    units: Units,
    order: Integer[np.ndarray, "tokens"],
    token: Integer[np.ndarray, "tokens"],
    folds: list[Fold],
    counts: Bool[np.ndarray, "tokens"],
    n_experts: int,
) -> ClusterSums:
    """The token-adjusted estimator on residuals, each token a cell of its own."""
    unit = units.unit[order]
    label = units.label.astype(float)
    if units.are_relabelled:  # every unit's indicator, so that any labels can be residualised
        indicator = residuals(np.eye(len(label))[unit], folds)[counts]
        condition = indicator @ label
    else:
        indicator = None
        condition = residuals(label[unit][:, None], folds)[counts, 0]
    _, renumbered = np.unique(token[order][counts], return_inverse=True)
    contrast = contrast_cells(
        condition,
        cluster=units.cluster[order][counts],
        token=renumbered,
        n_tokens=np.ones(int(counts.sum())),
        unit_indicator=indicator,
        label=units.label,
        cluster_of_unit=units.cluster_of_unit,
    )
    blocks = _residual_shares(expert_indices, order, folds, counts, n_experts)
    return cluster_sums(blocks, contrast)


def _residual_shares(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    order: Integer[np.ndarray, "tokens"],
    folds: list[Fold],
    counts: Bool[np.ndarray, "tokens"],
    n_experts: int,
) -> Iterator[Float[np.ndarray, "_ experts"]]:
    """Residual share of each expert for every token that counts, one layer at a time."""
    n_tokens, n_layers, top_k = expert_indices.shape
    first = n_experts * np.arange(n_tokens)[:, None]
    for layer in range(n_layers):
        flat = (expert_indices[order, layer].astype(np.int64) + first).ravel()
        slots = np.bincount(flat, minlength=n_tokens * n_experts)
        yield residuals(slots.reshape(n_tokens, n_experts) / top_k, folds)[counts]
