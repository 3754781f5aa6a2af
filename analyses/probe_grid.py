"""The 2 x 2 of what is asked and how it is put: does a probe read the wording or the wrapper?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from interp.analyses.probe_choice import FeatureSource
from interp.analyses.probe_metrics import mean_estimate
from interp.analyses.probe_splits import Splits, cluster_splits
from interp.analyses.probes import STRENGTHS, ProbeScore, held_out_scores, probe, scored

CELLS = ("organic-chat", "organic-exam", "benchmark-chat", "benchmark-exam")
"""Wording, then wrapper. The first and the last are the diagonal, the condition."""


@dataclass(frozen=True, kw_only=True)
class GridScore:
    """A probe of the condition in the cells it was not fitted on, and a probe of either side."""

    diagonal: ProbeScore
    """Benchmark wording in an exam wrapper against organic wording in chat, items held out."""
    called_benchmark: Float[np.ndarray, "4"]
    """Share of held-out prompts of each of `CELLS` that this probe calls benchmark.

    `organic-exam` is the rate of false alarms that the wrapper causes, `benchmark-chat` the rate
    that the wording causes. 0 and 1: the probe reads the wording; 1 and 0: the wrapper.
    """
    called_benchmark_low: Float[np.ndarray, "4"]
    """Lower end of the 95 % interval, from leaving out one item at a time."""
    called_benchmark_high: Float[np.ndarray, "4"]
    """Upper end."""
    wording: ProbeScore
    """Benchmark against organic wording in all four cells."""
    wrapper: ProbeScore
    """Exam against chat wrapper in all four cells."""

    def to_frame(self) -> pd.DataFrame:
        """One row per cell."""
        return pd.DataFrame(
            {
                "cell": np.array(CELLS, dtype=object),
                "called_benchmark": self.called_benchmark,
                "called_benchmark_low": self.called_benchmark_low,
                "called_benchmark_high": self.called_benchmark_high,
            }
        )


def grid_probe(
    features: FeatureSource,
    *,
    benchmark_wording: Bool[np.ndarray, "prompts"],
    exam_wrapper: Bool[np.ndarray, "prompts"],
    cluster: Shaped[np.ndarray, "prompts"],
    rng: np.random.Generator,
    n_folds: int = 5,
    strengths: Sequence[float] = STRENGTHS,
) -> GridScore:
    """Fits on the diagonal, then asks what the probe says where wording and wrapper disagree.

    A probe that has only seen the diagonal cannot know which of the two made the condition. On
    confounded data such probes called 94 % of benchmark-shaped deployment text a test
    (arXiv:2603.19426). All four cells of an item are held out together.

    Args:
        features: One row per prompt.
        benchmark_wording: True where the item is asked as a benchmark asks it.
        exam_wrapper: True where it stands in an exam wrapper.
        cluster: Item (or template) of each prompt.
        rng: Source of chance for folds.
        n_folds: Folds over clusters.
        strengths: As for `probe`.

    Returns:
        Shares from 0 to 1.

    Raises:
        ValueError: If a cell is empty, or as `probe`.
    """
    cell = 2 * benchmark_wording.astype(np.int64) + exam_wrapper
    for number, name in enumerate(CELLS):
        if not (cell == number).any():
            raise ValueError(f"cell {name} of the 2 x 2 has no prompt; give prompts of all four")
    common: dict[str, Any] = {"cluster": cluster, "rng": rng, "strengths": strengths}
    splits = cluster_splits(benchmark_wording, cluster, rng=rng, n_folds=n_folds)
    diagonal = benchmark_wording == exam_wrapper
    on_diagonal = Splits(fitted=splits.fitted & diagonal, held_out=splits.held_out & diagonal)
    everywhere = held_out_scores(
        {"": features},
        target=benchmark_wording,
        splits=Splits(fitted=splits.fitted & diagonal, held_out=splits.held_out),
        cluster=cluster,
        inner_cluster=cluster,
        strengths=strengths,
        rng=rng,
    )
    shares, lows, highs = np.empty(4), np.empty(4), np.empty(4)
    for number in range(4):
        here = Splits(fitted=splits.fitted, held_out=splits.held_out & (cell == number))
        estimate = mean_estimate(
            (everywhere.score > 0).astype(float),
            target=np.ones(len(cell), dtype=bool),
            splits=here,
            cluster=cluster,
        )
        shares[number] = estimate.value
        lows[number], highs[number] = estimate.interval(share=True)
    return GridScore(
        diagonal=scored(
            np.where(on_diagonal.held_out, everywhere.score, np.nan),
            target=benchmark_wording,
            splits=on_diagonal,
            cluster=cluster,
            strength=everywhere.strength,
            candidate=everywhere.candidate,
        ),
        called_benchmark=shares,
        called_benchmark_low=lows,
        called_benchmark_high=highs,
        wording=probe(features, target=benchmark_wording, splits=splits, **common),
        wrapper=probe(
            features,
            target=exam_wrapper,
            splits=cluster_splits(exam_wrapper, cluster, rng=rng, n_folds=n_folds),
            **common,
        ),
    )
