"""A sweep of layers, folds and penalties: how many times faster than scikit-learn, and as right?

Run as `python benchmarks/probe_sweep.py`. For each layer, `sweep_probes` and scikit-learn's
`StandardScaler` and `LogisticRegression` fit the same folds at the same penalties, in turns, the
first to run changing from layer to layer. scikit-learn standardises once a fold, not once a
penalty. `n_jobs=2` hands folds to two processes (in scikit-learn 1.8 and later, `n_jobs` of
`LogisticRegression` itself does nothing). Features are float32, as a store has them; with
`--float64`, scikit-learn gets them as float64 and ours stay. Figures are ratios of total times.
"""

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable

import joblib
import numpy as np
from scipy.special import ndtr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from interp.analyses.probe_splits import Splits, fold_splits
from interp.analyses.probe_sweep import sweep_probes

N_LATENT = 300


def layer_features(seed: int, target: np.ndarray, *, d: int, auroc_best: float) -> np.ndarray:
    """Correlated columns with a power-law spectrum and noise, shifted by the label.

    `auroc_best` is what the best direction of the latent could reach if it were known.
    """
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(len(target), N_LATENT))
    shift = rng.normal(size=N_LATENT)
    apart = np.sqrt(2) * _inverse_normal(auroc_best) / np.linalg.norm(shift)
    latent += np.where(target, 0.5, -0.5)[:, None] * apart * shift
    latent *= np.arange(1, N_LATENT + 1) ** -0.5
    rows = latent @ rng.normal(size=(N_LATENT, d)) + 0.5 * rng.normal(size=(len(target), d))
    return (rows + rng.normal(size=d)).astype(np.float32)


def _inverse_normal(share: float) -> float:
    grid = np.linspace(-5, 5, 100_001)
    return float(grid[np.searchsorted(ndtr(grid), share)])


def by_scikit_learn(
    rows: np.ndarray,
    target: np.ndarray,
    splits: Splits,
    penalties: list[float],
    *,
    max_iter: int,
    n_jobs: int | None,
) -> np.ndarray:
    """AUROC of each split and penalty."""

    def one(fitted: np.ndarray, held_out: np.ndarray) -> list[float]:
        warnings.simplefilter("ignore")  # says that max_iter was reached
        scaler = StandardScaler().fit(rows[fitted])
        inside, outside = scaler.transform(rows[fitted]), scaler.transform(rows[held_out])
        models = [LogisticRegression(C=penalty, max_iter=max_iter) for penalty in penalties]
        scores = [model.fit(inside, target[fitted]).decision_function(outside) for model in models]
        return [float(roc_auc_score(target[held_out], score)) for score in scores]

    if n_jobs is None:
        return np.array([one(*split) for split in splits])
    return np.array(joblib.Parallel(n_jobs=n_jobs)(joblib.delayed(one)(*each) for each in splits))


def seconds(run: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """That one call takes, and what it returns."""
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--d", type=int, default=2880)
    parser.add_argument("--max-iter", type=int, default=1000)
    parser.add_argument("--float64", action="store_true")
    parser.add_argument("--no-jobs", action="store_true", help="leave n_jobs=2 out")
    options = parser.parse_args()
    penalties = [float(each) for each in np.logspace(-5, 0, 6)]
    rng = np.random.default_rng(0)
    target = rng.permutation(np.arange(options.prompts) % 2 == 0)
    splits = fold_splits(np.arange(options.prompts) % 5)
    taken: dict[str, list[float]] = {}
    aurocs: dict[str, list[np.ndarray]] = {}
    joblib.Parallel(n_jobs=2)(joblib.delayed(os.getpid)() for _ in range(2))  # start them before
    for layer in range(options.layers):
        best = 0.89 + 0.08 * layer / max(options.layers - 1, 1)
        rows = layer_features(layer, target, d=options.d, auroc_best=best)
        theirs = rows.astype(np.float64) if options.float64 else rows
        runs: dict[str, Callable[[], np.ndarray]] = {
            "ours": lambda rows=rows: (  # type: ignore[misc]
                sweep_probes(
                    [rows],
                    layer_indices=[0],
                    target=target,
                    splits=splits,
                    inverse_penalties=penalties,
                ).auroc[0]
            )
        }
        for name, n_jobs in {"n_jobs=None": None, "n_jobs=2": 2}.items():
            if n_jobs is None or not options.no_jobs:
                runs[name] = lambda theirs=theirs, n_jobs=n_jobs: by_scikit_learn(  # type: ignore[misc]
                    theirs, target, splits, penalties, max_iter=options.max_iter, n_jobs=n_jobs
                )
        order = list(runs) if layer % 2 else list(runs)[::-1]
        for name in order:
            spent, found = seconds(runs[name])
            taken.setdefault(name, []).append(spent)
            aurocs.setdefault(name, []).append(found.mean(axis=0))
    print(json.dumps(_summary(taken, aurocs), indent=1))


def _summary(
    taken: dict[str, list[float]], aurocs: dict[str, list[np.ndarray]]
) -> dict[str, object]:
    ours = np.array(aurocs["ours"])
    summary: dict[str, object] = {
        "seconds_a_layer": {name: statistics.median(each) for name, each in taken.items()},
        "auroc_of_the_best_penalty": [float(ours.max(axis=1).min()), float(ours.max())],
        "auroc_by_penalty": ours.mean(axis=0).round(3).tolist(),
    }
    for name in taken:
        if name != "ours":
            difference = np.abs(np.array(aurocs[name]) - ours)
            summary[name] = {
                "times_faster": sum(taken[name]) / sum(taken["ours"]),
                "of_each_layer": [
                    round(theirs / mine, 1)
                    for theirs, mine in zip(taken[name], taken["ours"], strict=True)
                ],
                "largest_difference_of_fold_mean_auroc": float(difference.max()),
            }
    return summary


if __name__ == "__main__":
    main()
