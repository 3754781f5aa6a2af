"""Directions between two conditions: by difference of means, and by logistic weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from interp.analyses.probe_solver import logistic_path

METHODS = ("difference_of_means", "logistic")
"""Names of the two kinds of direction, in the order of the axis `methods`."""


@dataclass(frozen=True, kw_only=True)
class Directions:
    """Directions from organic to benchmark prompts (or False to True), one each layer and method.

    Learnt on prompts that are named, so that an intervention can be tried on others.
    """

    site: str
    """Where the features came from, such as `resid_post`."""
    layer_indices: tuple[int, ...]
    """Numbers of the layers in the model."""
    vector: Float[np.ndarray, "methods layers d_model"]
    """Unit vectors in the space of the features, in the order of `METHODS`."""
    length: Float[np.ndarray, "layers"]
    """Distance between the two means, in the unit of the features."""
    spread: Float[np.ndarray, "methods layers"]
    """Standard deviation of the fitted prompts along the vector, within the classes."""
    cosine: Float[np.ndarray, "methods layers layers"]
    """Cosine of the directions of any two layers, -1 to 1."""
    cosine_of_methods: Float[np.ndarray, "layers"]
    """Cosine of the two directions of a layer."""
    fitted: Bool[np.ndarray, "prompts"]
    """Prompts that the directions were learnt on."""

    def to_frame(self) -> pd.DataFrame:
        """One row per layer; the vectors themselves stay out."""
        return pd.DataFrame(
            {
                "site": self.site,
                "layer": list(self.layer_indices),
                "length": self.length,
                "spread_difference_of_means": self.spread[0],
                "spread_logistic": self.spread[1],
                "cosine_of_methods": self.cosine_of_methods,
            }
        )


@dataclass(frozen=True, kw_only=True)
class SourceCosines:
    """Whether each pair of sources points the same way."""

    true_sources: tuple[str, ...]
    """Source of the True prompts of each pair."""
    false_sources: tuple[str, ...]
    """Source of the False prompts of each pair."""
    cosine: Float[np.ndarray, "layers pairs pairs"]
    """Cosine of the differences of means of two pairs, -1 to 1."""
    shares_no_source: Bool[np.ndarray, "pairs pairs"]
    """True where two pairs have no source in common: only there is agreement not built in."""
    layer_indices: tuple[int, ...]
    """Numbers of the layers in the model."""

    def to_frame(self) -> pd.DataFrame:
        """One row per layer: mean and least cosine over pairs that share no source."""
        apart = self.cosine[:, self.shares_no_source]
        if not apart.shape[1]:
            apart = np.full((len(apart), 1), np.nan)
        return pd.DataFrame(
            {
                "layer": list(self.layer_indices),
                "cosine_mean": apart.mean(axis=1),
                "cosine_least": apart.min(axis=1),
                "n_pairs": int(self.shares_no_source.sum()) // 2,
            }
        )


def probe_directions(
    features: Sequence[Float[np.ndarray, "prompts d_model"]],
    *,
    site: str,
    layer_indices: Sequence[int],
    target: Bool[np.ndarray, "prompts"],
    fitted: Bool[np.ndarray, "prompts"] | None = None,
    strength: float = 1.0,
) -> Directions:
    """Both directions of every layer.

    Difference of means: mean of the True prompts minus mean of the False ones. Logistic: the
    weights of a probe, taken back from standardised columns to the features' own units. The first
    is what moves activations along what the classes differ in; the second tells the classes apart
    best and can point elsewhere where columns are correlated (Marks and Tegmark 2024,
    arXiv:2310.06824).

    How it fools you: in a residual stream a few columns are hundreds of times larger than the
    rest, and the difference of means lies mostly in them; layers that copy the stream have high
    cosines without any shared concept.

    Args:
        features: One array per layer.
        site: Where they came from.
        layer_indices: Number in the model of each layer.
        target: What to tell apart.
        fitted: Prompts to learn from; all if None.
        strength: Inverse penalty of the probe, as in `probe`.

    Returns:
        Unit vectors; a vector of zeros where the classes have the same mean.

    Raises:
        ValueError: If layers and numbers differ, a class has no prompt, or a feature is not finite.

    Example:
        >>> rows = np.array([[0.0, 1.0], [0.0, -1.0], [3.0, 1.0], [3.0, -1.0]])
        >>> target = np.array([False, False, True, True])
        >>> found = probe_directions([rows], site="resid_post", layer_indices=[7], target=target)
        >>> found.vector[0], found.length
        (array([[1., 0.]]), array([3.]))
    """
    used = np.ones(len(target), dtype=bool) if fitted is None else fitted
    _check(features, layer_indices, target[used])
    vector = np.stack(
        [[_unit(each) for each in _both(rows[used], target[used], strength)] for rows in features],
        axis=1,
    )
    means = [_difference_of_means(rows[used], target[used]) for rows in features]
    spread = np.array(
        [
            [
                _spread(rows[used] @ along, target[used])
                for rows, along in zip(features, of, strict=True)
            ]
            for of in vector
        ]
    )
    return Directions(
        site=site,
        layer_indices=tuple(int(layer) for layer in layer_indices),
        vector=vector,
        length=np.array([float(np.linalg.norm(each)) for each in means]),
        spread=spread,
        cosine=np.einsum("mld,mkd->mlk", vector, vector),
        cosine_of_methods=np.einsum("ld,ld->l", vector[0], vector[1]),
        fitted=used,
    )


def source_cosines(
    features: Sequence[Float[np.ndarray, "prompts d_model"]],
    *,
    layer_indices: Sequence[int],
    target: Bool[np.ndarray, "prompts"],
    source: Shaped[np.ndarray, "prompts"],
) -> SourceCosines:
    """Cosines between the differences of means of any two pairs (True source, False source).

    A direction of the condition should be the same whichever sources show it. Pairs that share a
    source agree by construction, so only pairs that share none count in `to_frame`.

    Raises:
        ValueError: As `probe_directions`.
    """
    _check(features, layer_indices, target)
    sides = [np.unique(source[target].astype(str)), np.unique(source[~target].astype(str))]
    pairs = [(one, other) for one in sides[0] for other in sides[1]]
    name = source.astype(str)
    cosine = np.empty((len(features), len(pairs), len(pairs)))
    for place, rows in enumerate(features):
        above = {one: rows[target & (name == one)].mean(axis=0) for one in sides[0]}
        below = {one: rows[~target & (name == one)].mean(axis=0) for one in sides[1]}
        units = np.array([_unit(above[one] - below[other]) for one, other in pairs])
        cosine[place] = units @ units.T
    apart = np.array([[not set(one) & set(other) for other in pairs] for one in pairs])
    return SourceCosines(
        true_sources=tuple(str(one) for one, _ in pairs),
        false_sources=tuple(str(other) for _, other in pairs),
        cosine=cosine,
        shares_no_source=apart,
        layer_indices=tuple(int(layer) for layer in layer_indices),
    )


def _both(
    rows: Float[np.ndarray, "prompts d"], target: Bool[np.ndarray, "prompts"], strength: float
) -> tuple[Float[np.ndarray, "d"], Float[np.ndarray, "d"]]:
    n_varying = max(int((rows != rows[0]).any(axis=0).sum()), 1)
    weight = np.where(target, 0.5 / target.sum(), 0.5 / (~target).sum()) * len(target)
    path = logistic_path(
        rows, target=target, inverse_penalties=[strength / n_varying], prompt_weight=weight
    )
    return _difference_of_means(rows, target), path.weights[0] / path.scale


def _difference_of_means(
    rows: Float[np.ndarray, "prompts d"], target: Bool[np.ndarray, "prompts"]
) -> Float[np.ndarray, "d"]:
    above, below = (rows[side].mean(axis=0, dtype=np.float64) for side in (target, ~target))
    return np.asarray(above - below)


def _unit(vector: Float[np.ndarray, "d"]) -> Float[np.ndarray, "d"]:
    norm = float(np.linalg.norm(vector))
    return vector / norm if norm > 0 else vector


def _spread(along: Float[np.ndarray, "prompts"], target: Bool[np.ndarray, "prompts"]) -> float:
    inside = [along[side] - along[side].mean() for side in (target, ~target)]
    return float(np.concatenate(inside).std())


def _check(
    features: Sequence[Float[np.ndarray, "prompts d_model"]],
    layer_indices: Sequence[int],
    target: Bool[np.ndarray, "_"],
) -> None:
    if len(features) != len(layer_indices):
        raise ValueError(
            f"features has {len(features)} layers, but layer_indices has {len(layer_indices)}; "
            "give one number per layer"
        )
    if target.all() or not target.any():
        raise ValueError(f"all {len(target)} prompts have the same label; give prompts of both")
    for layer, rows in zip(layer_indices, features, strict=True):
        if not np.isfinite(rows).all():
            raise ValueError(f"features of layer {layer} are not finite; drop prompts without rows")
