"""AUROC of two classes, and the interval of its mean over a table of pairs of sources."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata, t


def auroc(score: Float[np.ndarray, "prompts"], *, target: Bool[np.ndarray, "prompts"]) -> float:
    """Share of pairs (True, False) that the score orders right, ties counting half.

    From ranks (Mann and Whitney 1947); 0 to 1, NaN where one class is missing.

    Example:
        >>> auroc(np.array([0.1, 0.4, 0.4, 0.9]), target=np.array([False, False, True, True]))
        0.875
    """
    n_true = int(target.sum())
    n_false = len(target) - n_true
    if not n_true or not n_false:
        return float("nan")
    above = float(rankdata(score)[target].sum()) - n_true * (n_true + 1) / 2
    return above / (n_true * n_false)


def mean_interval(
    of_pair: Float[np.ndarray, "rows columns"], *, level: float = 0.95
) -> tuple[float, float, float]:
    """Interval of the mean of a two-way table whose rows and columns are both samples.

    Returns:
        Lower and upper end, and Satterthwaite's degrees of freedom; no width where all rows and
        all columns have the same mean.
    """
    parts = [
        float(means.var(ddof=1)) / len(means)
        for means in (of_pair.mean(axis=1), of_pair.mean(axis=0))
    ]
    variance = sum(parts)
    below = sum(part**2 / (n - 1) for part, n in zip(parts, of_pair.shape, strict=True))
    freedom = variance**2 / below if below > 0 else float(sum(of_pair.shape) - 2)
    half = float(t.ppf((1 + level) / 2, freedom)) * variance**0.5
    mean = float(of_pair.mean())
    return mean - half, mean + half, freedom
