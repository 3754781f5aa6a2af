"""Logistic regression at several penalties at once, for rows that are fewer than columns.

With n fitted rows and d columns, n < d, the best weights are `w = rows' a`: they lie in the span
of the rows. So one product `rows rows'` [n n] stands for the features at every penalty and for
every Newton step, and d is not met again until the weights are written out. See docs/probes.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.sparse import csr_array

from interp.analyses.probe_newton import (
    Features,
    State,
    minimise,
    minimise_small,
    single_threaded,
    space_of,
)


@dataclass(frozen=True, kw_only=True)
class LogisticPath:
    """Weights of one logistic regression at several penalties."""

    inverse_penalties: tuple[float, ...]
    """`C` of scikit-learn: how much the loss of a prompt weighs against half the squared norm."""
    centre: Float[np.ndarray, "d"]
    """Mean of each column over the fitted prompts; 0 for sparse features."""
    scale: Float[np.ndarray, "d"]
    """Standard deviation of each column over its column weight; 1 where constant or sparse."""
    weights: Float[np.ndarray, "penalties d"]
    """Log-odds per `scale` of a column."""
    bias: Float[np.ndarray, "penalties"]
    """Log-odds at the centre."""

    def log_odds(self, features: Features) -> Float[np.ndarray, "penalties prompts"]:
        """Log-odds of True for each row, at each penalty."""
        rows = _scaled(features, self.centre, self.scale)
        weights = self.weights.astype(rows.dtype)
        product = weights @ rows.T if isinstance(rows, np.ndarray) else (rows @ weights.T).T
        return np.asarray(product + self.bias[:, None], dtype=np.float64)


def logistic_path(
    features: Features,
    *,
    target: Bool[np.ndarray, "prompts"],
    inverse_penalties: Sequence[float],
    prompt_weight: Float[np.ndarray, "prompts"] | None = None,
    column_weight: Float[np.ndarray, "d"] | None = None,
    tolerance: float = 1e-3,
    max_steps: int = 50,
    overwrite: bool = False,
) -> LogisticPath:
    """Weights that minimise `|w|^2 / 2 + C sum_i weight_i log(1 + exp(-y_i (w x_i + b)))`.

    The problem of scikit-learn's `LogisticRegression` after `StandardScaler`; the bias is free.
    Solved by Newton steps, each penalty starting from the solution of the one before (strongest
    first), until a step changes the weights by less than `tolerance` of their norm.

    Args:
        features: Rows to fit on, as they come; centre and scale are learnt here.
        target: What to tell apart.
        inverse_penalties: Values of C, in any order.
        prompt_weight: Weight of each prompt's loss; 1 if None.
        column_weight: Multiplies each column once it is standardised, so that it is penalised
            less where this is above 1; 1 if None.
        tolerance: See above.
        max_steps: Newton steps for one penalty, at most.
        overwrite: Standardise `features` in place, which saves a copy of them.

    Returns:
        Weights in the order of `inverse_penalties`.

    Raises:
        ValueError: If all prompts have one label, or a penalty is not above 0.

    Example:
        >>> path = logistic_path(
        ...     np.array([[0.0], [2.0], [4.0], [6.0]]),
        ...     target=np.array([False, False, True, True]),
        ...     inverse_penalties=[1.0],
        ... )
        >>> path.centre, path.weights.round(2)
        (array([3.]), array([[0.94]]))
    """
    if target.all() or not target.any():
        raise ValueError(f"all {len(target)} prompts have the same label; give prompts of both")
    if not min(inverse_penalties) > 0:
        raise ValueError(f"inverse penalty {min(inverse_penalties)} is not above 0; give larger")
    centre, scale, rows = _standardised(features, column_weight, overwrite)
    space = space_of(rows)
    loss_weight = np.ones(len(target)) if prompt_weight is None else prompt_weight
    order = np.argsort(inverse_penalties)
    n_unknowns = space.matrix.shape[1]
    unknowns, bias = np.empty((len(order), n_unknowns)), np.empty(len(order))
    found, small = State.zero(space, len(target)), np.zeros(n_unknowns + 1)
    for place in order:
        losses = float(inverse_penalties[place]) * loss_weight
        if space.is_small:
            assert isinstance(space.matrix, np.ndarray)
            small = minimise_small(
                space.matrix, small, target.astype(float), losses, tolerance, max_steps
            )
            unknowns[place], bias[place] = small[:-1], small[-1]
        else:
            with single_threaded():
                found = minimise(space, found, target.astype(float), losses, tolerance, max_steps)
            unknowns[place], bias[place] = found.unknowns, found.bias
    return LogisticPath(
        inverse_penalties=tuple(float(each) for each in inverse_penalties),
        centre=centre,
        scale=scale,
        weights=space.weights(rows, unknowns),
        bias=bias,
    )


def _standardised(
    features: Features, column_weight: Float[np.ndarray, "d"] | None, overwrite: bool
) -> tuple[Float[np.ndarray, "d"], Float[np.ndarray, "d"], Features]:
    """Centre, scale and rows; dense rows are copied at most once, sparse ones stay uncentred."""
    n, d = features.shape
    if not isinstance(features, np.ndarray):
        scale = np.ones(d) if column_weight is None else 1.0 / column_weight
        return np.zeros(d), scale, _scaled(features, np.zeros(d), scale)
    centre = features.mean(axis=0, dtype=np.float64)
    rows = features if overwrite else features.copy()
    rows -= centre.astype(rows.dtype)
    rest = np.ones(n, dtype=rows.dtype) @ rows / n  # what rounding left of the mean
    variance = np.einsum("ij,ij->j", rows, rows) / n - np.square(rest)
    scale = np.sqrt(np.maximum(variance, 0.0).astype(np.float64))
    noise = np.finfo(features.dtype).eps * np.abs(centre)
    scale = np.where(scale > noise, scale, 1.0)
    if column_weight is not None:
        scale = scale / column_weight
    rows *= (1.0 / scale).astype(rows.dtype)
    return centre, scale, rows


def _scaled(
    features: Features, centre: Float[np.ndarray, "d"], scale: Float[np.ndarray, "d"]
) -> Features:
    """In the dtype of `features`; sparse rows are not centred."""
    per_scale = (1.0 / scale).astype(features.dtype)
    if isinstance(features, np.ndarray):
        return np.asarray((features - centre.astype(features.dtype)) * per_scale)
    return csr_array(features * per_scale[None, :])
