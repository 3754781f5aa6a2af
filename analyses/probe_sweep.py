"""Many layers, splits and penalties at once."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from interp.analyses.probe_newton import Features, single_threaded
from interp.analyses.probe_solver import logistic_path
from interp.analyses.probe_splits import Splits, check_splits

TOLERANCE = 1e-2
"""Of a sweep's weights: scores are then within 1 % of their standard deviation."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """AUROC of every layer, split and penalty. For looking at; choosing needs nested folds."""

    layer_indices: tuple[int, ...]
    """Numbers of the layers in the model."""
    inverse_penalties: tuple[float, ...]
    """`C` of scikit-learn."""
    auroc: Float[np.ndarray, "layers splits penalties"]
    """On held-out prompts; NaN where a split holds out one class."""

    def to_frame(self) -> pd.DataFrame:
        """One row per layer and penalty, with the mean over splits."""
        mean = np.nanmean(self.auroc, axis=1)
        return pd.DataFrame(
            {
                "layer": np.repeat(self.layer_indices, len(self.inverse_penalties)),
                "inverse_penalty": np.tile(self.inverse_penalties, len(self.layer_indices)),
                "auroc": mean.ravel(),
            }
        )


def sweep_probes(
    features: Iterable[Features],
    *,
    layer_indices: Sequence[int],
    target: Bool[np.ndarray, "prompts"],
    splits: Splits,
    inverse_penalties: Sequence[float],
    n_threads: int = 2,
) -> Sweep:
    """AUROC of each layer on each split at each penalty, standardised inside the split.

    How it fools you: the highest of many numbers is too high; `probe` chooses within the fitted
    prompts.

    Args:
        features: Rows of every prompt, a layer at a time, so that one is in memory at once.
        layer_indices: Number in the model of each layer.
        target: What to tell apart.
        splits: What to fit and hold out.
        inverse_penalties: Values of `C` in the problem of scikit-learn's `LogisticRegression`.
        n_threads: Splits fitted at once, each with one thread of BLAS; each needs as much memory as
            its fitted rows and their inner products.

    Returns:
        AUROC from 0 to 1.

    Raises:
        ValueError: If a split has one class to fit on, layers and numbers differ, or a feature is
            not finite.
    """
    check_splits(splits, target=target)
    found = []
    with single_threaded(), ThreadPoolExecutor(n_threads) as pool:
        for layer, rows in zip(layer_indices, features, strict=True):
            values = rows if isinstance(rows, np.ndarray) else rows.data
            if not np.isfinite(values).all():
                raise ValueError(
                    f"features of layer {layer} are not finite; drop prompts without rows"
                )
            one = partial(_aurocs, rows, target, inverse_penalties=inverse_penalties)
            found.append(list(pool.map(one, splits.fitted, splits.held_out)))
    return Sweep(
        layer_indices=tuple(int(layer) for layer in layer_indices),
        inverse_penalties=tuple(float(each) for each in inverse_penalties),
        auroc=np.array(found),
    )


def _aurocs(
    rows: Features,
    target: Bool[np.ndarray, "prompts"],
    fitted: Bool[np.ndarray, "prompts"],
    held_out: Bool[np.ndarray, "prompts"],
    inverse_penalties: Sequence[float],
) -> Float[np.ndarray, "penalties"]:
    path = logistic_path(
        rows[fitted],
        target=target[fitted],
        inverse_penalties=inverse_penalties,
        tolerance=TOLERANCE,
        overwrite=True,
    )
    rank = rankdata(path.log_odds(rows[held_out]), axis=1)
    above = target[held_out]
    n_above, n_below = int(above.sum()), int((~above).sum())
    if not n_above or not n_below:
        return np.full(len(inverse_penalties), np.nan)
    ordered = rank[:, above].sum(axis=1) - n_above * (n_above + 1) / 2
    return np.asarray(ordered / (n_above * n_below))
