"""What a probe reads, and the penalty and features chosen for it within the fitted prompts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from interp.analyses.probe_newton import Features
from interp.analyses.probe_solver import logistic_path
from interp.analyses.probe_splits import cluster_splits

N_INNER = 4
"""Folds within the fitted prompts that choose among strengths and candidates."""


@dataclass(frozen=True, kw_only=True)
class WeightedFeatures:
    """Features of which some columns are penalised less than others."""

    values: Float[np.ndarray, "prompts d"]
    """One row per prompt."""
    column_weight: Float[np.ndarray, "d"]
    """What each column is multiplied with, once it is standardised inside the fold."""


FoldFeatures = Callable[[Bool[np.ndarray, "prompts"]], Features]
"""Features that must be learnt: given the prompts to learn from, a row for every prompt."""

FeatureSource = Features | WeightedFeatures | FoldFeatures
"""What a probe reads."""


def log_odds(
    features: FeatureSource,
    *,
    target: Bool[np.ndarray, "prompts"],
    fitted: Bool[np.ndarray, "prompts"],
    scored: Bool[np.ndarray, "prompts"],
    strengths: Sequence[float],
    balanced: bool = True,
) -> Float[np.ndarray, "strengths scored"]:
    """Log-odds of some prompts under a probe fitted on others; `balanced` weighs classes alike."""
    rows, column_weight = _rows(features, fitted)
    weight = np.ones(int(fitted.sum()))
    if balanced:
        n_true = int(target[fitted].sum())
        weight = np.where(target[fitted], 0.5 / n_true, 0.5 / (len(weight) - n_true)) * len(weight)
    inside = rows[fitted]
    norm = max(_mean_squared_norm(inside, column_weight), 1e-12)
    path = logistic_path(
        inside,
        target=target[fitted],
        inverse_penalties=[strength / norm for strength in strengths],
        prompt_weight=weight,
        column_weight=column_weight,
        overwrite=True,
    )
    return path.log_odds(rows[scored])


def choose(
    named: Mapping[str, FeatureSource],
    target: Bool[np.ndarray, "prompts"],
    inner_cluster: Shaped[np.ndarray, "prompts"],
    fitted: Bool[np.ndarray, "prompts"],
    strengths: Sequence[float],
    rng: np.random.Generator,
) -> tuple[str, float]:
    """The features and strength with the least cross-entropy in folds of the fitted prompts."""
    if len(named) == len(strengths) == 1:
        return next(iter(named)), float(strengths[0])
    try:
        inner = cluster_splits(target[fitted], inner_cluster[fitted], rng=rng, n_folds=N_INNER)
    except ValueError as error:
        raise ValueError(
            f"the penalty cannot be chosen within the fitted prompts ({error}); or give one "
            "strength, or the item as inner_cluster"
        ) from error
    bits = np.zeros((len(named), len(strengths)))
    place = np.flatnonzero(fitted)
    for inside, outside in inner:
        learnt, left = _mask(place[inside], len(target)), _mask(place[outside], len(target))
        for row, features in enumerate(named.values()):
            found = log_odds(
                features, target=target, fitted=learnt, scored=left, strengths=strengths
            )
            bits[row] += _balanced_bits(found, target[left])
    row, column = divmod(int(np.argmin(bits)), len(strengths))
    return list(named)[row], float(strengths[column])


def _mask(place: Int[np.ndarray, "k"], n_prompts: int) -> Bool[np.ndarray, "prompts"]:
    mask = np.zeros(n_prompts, dtype=bool)
    mask[place] = True
    return mask


def _balanced_bits(
    found: Float[np.ndarray, "strengths scored"], target: Bool[np.ndarray, "scored"]
) -> Float[np.ndarray, "strengths"]:
    """Cross-entropy in bits, the classes that are there counting alike."""
    loss = np.logaddexp(0.0, np.where(target, -found, found)) / np.log(2)
    sides = [loss[:, side].mean(axis=1) for side in (target, ~target) if side.any()]
    return np.asarray(np.mean(sides, axis=0))


def _rows(
    features: FeatureSource, fitted: Bool[np.ndarray, "prompts"]
) -> tuple[Features, Float[np.ndarray, "d"] | None]:
    if isinstance(features, WeightedFeatures):
        return features.values, features.column_weight
    if callable(features):
        rows = features(fitted)
        check_features(rows, len(fitted))
        return rows, None
    return features, None


def _mean_squared_norm(rows: Features, column_weight: Float[np.ndarray, "d"] | None) -> float:
    """Of a standardised row: one for each column that varies; sparse rows are as they are."""
    if not isinstance(rows, np.ndarray):
        return float(np.square(rows.data).sum()) / float(rows.shape[0])
    varies = (rows != rows[0]).any(axis=0)
    return float(varies.sum() if column_weight is None else np.square(column_weight[varies]).sum())


def check_features(features: FeatureSource, n_prompts: int) -> None:
    """Raise ValueError unless there is a finite row for every prompt."""
    if callable(features):
        return
    values = features.values if isinstance(features, WeightedFeatures) else features
    if values.shape[0] != n_prompts:
        raise ValueError(
            f"features has {values.shape[0]} rows, but target has {n_prompts} prompts; give one "
            "row per prompt"
        )
    flat = values if isinstance(values, np.ndarray) else values.sum(axis=1)[:, None]
    finite = np.isfinite(flat)
    if not finite.all():
        row = int(np.flatnonzero(~finite.all(axis=1))[0])
        raise ValueError(
            f"features of prompt {row} are not finite, as for a prompt without tokens; drop it"
        )
