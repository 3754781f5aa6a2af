"""Logistic probes: how well a direction in some features tells two kinds of prompts apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from interp.analyses.permutation import permuted_labels
from interp.analyses.probe_choice import FeatureSource, check_features, choose, log_odds
from interp.analyses.probe_metrics import METRICS, estimates
from interp.analyses.probe_splits import Splits, check_splits, cluster_splits

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
"""Inverse L2 penalties of a probe whose feature rows have a mean squared norm of 1."""


@dataclass(frozen=True, kw_only=True)
class ProbeScore:
    """What one probe reached on prompts that it was not fitted on. See docs/probes.md."""

    auroc: float
    """Mean over splits of the share of pairs (True, False) ordered right; 0.5 is chance."""
    auroc_low: float
    """Lower end of the 95 % interval, from leaving out one cluster at a time."""
    auroc_high: float
    """Upper end."""
    accuracy: float
    """Share told right at log-odds 0, the classes counting half each; 0.5 is chance."""
    accuracy_low: float
    """Lower end."""
    accuracy_high: float
    """Upper end."""
    brier: float
    """Mean squared error of the probability, the classes counting half each; 0.25 knows nothing."""
    brier_low: float
    """Lower end."""
    brier_high: float
    """Upper end."""
    bits: float
    """Mean cross-entropy in bits, the classes counting half each; 1 knows nothing."""
    bits_low: float
    """Lower end."""
    bits_high: float
    """Upper end."""
    n_prompts: int
    """Prompts that were scored."""
    n_clusters: int
    """Clusters among them: what is kept whole in splits and left out for intervals."""
    target: Bool[np.ndarray, "prompts"]
    """What was told apart."""
    cluster: Shaped[np.ndarray, "prompts"]
    """Cluster of each prompt."""
    splits: Splits
    """What was fitted and what held out."""
    score: Float[np.ndarray, "splits prompts"]
    """Log-odds of each held-out prompt, NaN for others; compare within a split."""
    strength: Float[np.ndarray, "splits"]
    """Inverse penalty chosen for each split, from its fitted prompts alone."""
    candidate: Shaped[np.ndarray, "splits"]
    """Name of the features chosen for each split; empty where there was no choice."""

    def to_frame(
        self,
        *,
        site: str,
        layer: int | float = float("nan"),
        target: str = "condition",
        split: str = "item",
        baseline: str = "",
        readout: str = "",
    ) -> pd.DataFrame:
        """One row, labelled with where the features came from; `layer` is NaN for none."""
        row: dict[str, object] = {
            "site": site,
            "layer": float(layer),
            "readout": readout,
            "target": target,
            "split": split,
        }
        for name in METRICS:
            row |= {name + end: getattr(self, name + end) for end in ("", "_low", "_high")}
        row |= {"baseline": baseline, "n_prompts": self.n_prompts, "n_clusters": self.n_clusters}
        return pd.DataFrame([row])


def probe(
    features: FeatureSource | Mapping[str, FeatureSource],
    *,
    target: Bool[np.ndarray, "prompts"],
    cluster: Shaped[np.ndarray, "prompts"],
    rng: np.random.Generator,
    splits: Splits | None = None,
    inner_cluster: Shaped[np.ndarray, "prompts"] | None = None,
    n_folds: int = 5,
    strengths: Sequence[float] = STRENGTHS,
) -> ProbeScore:
    """How well an L2-regularised logistic probe tells held-out prompts apart.

    Everything is learnt on the fitted prompts of a split: centre, scale, weights, the penalty
    (`C = strength / mean squared norm of a row`, so that one `strength` suits any width) and,
    where several features are given, which to use. Penalty and features are chosen by the
    cross-entropy in folds within the fitted prompts. Both classes weigh the same, whatever their
    numbers. Intervals leave out one cluster at a time with the probes as fitted: how much the
    probes themselves would vary stays out.

    Args:
        features: One row per prompt; or features to choose from by name, such as layers.
        target: What to tell apart.
        cluster: Prompts that share an entry stay together: item, source or template.
        rng: Source of chance for folds.
        splits: What to fit and hold out, to compare probes on the same splits; drawn if None.
        inner_cluster: What the folds within the fitted prompts keep whole; `cluster` if None.
        n_folds: Folds to draw; fewer where a class has fewer clusters.
        strengths: Inverse penalties to choose from; one of them means no choice.

    Returns:
        AUROC, accuracy, Brier score and cross-entropy with 95 % intervals.

    Raises:
        ValueError: If a class has fewer than two clusters, a cluster straddles a split, a split
            lacks a class to fit on, or a feature is not finite.

    Example:
        >>> target = np.arange(40) % 2 == 0
        >>> features = np.random.default_rng(0).normal(size=(40, 3)) + 4.0 * target[:, None]
        >>> rng = np.random.default_rng(0)
        >>> probe(features, target=target, cluster=np.arange(40), rng=rng).auroc
        1.0
    """
    named = dict(features) if isinstance(features, Mapping) else {"": features}
    for each in named.values():
        check_features(each, len(target))
    if splits is None:
        splits = cluster_splits(target, cluster, rng=rng, n_folds=n_folds)
    check_splits(splits, target=target, cluster=cluster)
    inner = cluster if inner_cluster is None else inner_cluster
    return held_out_scores(
        named,
        target=target,
        splits=splits,
        cluster=cluster,
        inner_cluster=inner,
        strengths=strengths,
        rng=rng,
    )


def shuffled_probe(
    features: FeatureSource | Mapping[str, FeatureSource],
    *,
    target: Bool[np.ndarray, "prompts"],
    cluster: Shaped[np.ndarray, "prompts"],
    rng: np.random.Generator,
    splits: Splits | None = None,
    inner_cluster: Shaped[np.ndarray, "prompts"] | None = None,
    n_folds: int = 5,
    strengths: Sequence[float] = STRENGTHS,
) -> ProbeScore:
    """The same probe after one shuffle of the labels by cluster (`permuted_labels`): the control.

    One shuffle is one draw from the null, not its mean. Splits that the shuffle leaves with one
    class to fit on or to score are left out.

    Raises:
        ValueError: As `probe`, and if the shuffle leaves no split.
    """
    cluster_splits(target, cluster, rng=np.random.default_rng(0), n_folds=n_folds)  # same refusals
    shuffled = permuted_labels(target, cluster, rng=rng, n_permutations=1)[0]
    if splits is not None:
        usable = splits.usable(shuffled)
        if not usable.any():
            raise ValueError(
                f"the shuffled labels leave none of {len(splits)} splits with both classes on both "
                "sides; shuffle with another rng, or give more clusters"
            )
        splits = splits.of(usable)
    return probe(
        features,
        target=shuffled,
        cluster=cluster,
        rng=rng,
        splits=splits,
        inner_cluster=inner_cluster,
        n_folds=n_folds,
        strengths=strengths,
    )


def held_out_scores(
    named: Mapping[str, FeatureSource],
    *,
    target: Bool[np.ndarray, "prompts"],
    splits: Splits,
    cluster: Shaped[np.ndarray, "prompts"],
    inner_cluster: Shaped[np.ndarray, "prompts"],
    strengths: Sequence[float],
    rng: np.random.Generator,
) -> ProbeScore:
    """As `probe`, unchecked: here `cluster` says only what intervals leave out."""
    score = np.full(splits.held_out.shape, np.nan)
    chosen: list[tuple[str, float]] = []
    for number, (fitted, held_out) in enumerate(splits):
        name, strength = choose(named, target, inner_cluster, fitted, strengths, rng)
        score[number, held_out] = log_odds(
            named[name], target=target, fitted=fitted, scored=held_out, strengths=[strength]
        )[0]
        chosen.append((name, strength))
    return scored(
        score,
        target=target,
        splits=splits,
        cluster=cluster,
        strength=np.array([strength for _, strength in chosen]),
        candidate=np.array([name for name, _ in chosen]),
    )


def scored(
    score: Float[np.ndarray, "splits prompts"],
    *,
    target: Bool[np.ndarray, "prompts"],
    splits: Splits,
    cluster: Shaped[np.ndarray, "prompts"],
    strength: Float[np.ndarray, "splits"],
    candidate: Shaped[np.ndarray, "splits"],
) -> ProbeScore:
    """The numbers of probes whose log-odds of held-out prompts are known."""
    numbers: dict[str, float] = {}
    found = estimates(score, target=target, splits=splits, cluster=cluster)
    for name, share in METRICS.items():
        low, high = found[name].interval(share=share)
        numbers |= {name: found[name].value, f"{name}_low": low, f"{name}_high": high}
    held_out = splits.held_out.any(axis=0)
    return ProbeScore(
        **numbers,
        n_prompts=int(held_out.sum()),
        n_clusters=len(np.unique(cluster[held_out])),
        target=target,
        cluster=cluster,
        splits=splits,
        score=score,
        strength=strength,
        candidate=candidate,
    )
