"""Logistic probes: how well a direction in some features tells two kinds of prompts apart.

scikit-learn loads when a probe is fitted, not when this file is imported.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped
from scipy.sparse import csr_array

from interp.analyses.permutation import permuted_labels

Features = Float[np.ndarray, "prompts d"] | csr_array
"""[prompts d]: dense features are standardised, sparse ones (`bag_of_tokens`) only scaled."""

STRENGTH = 10.0
"""Inverse L2 penalty of a probe whose feature rows have a mean squared norm of 1."""


@dataclass(frozen=True, kw_only=True)
class ProbeScore:
    """What one probe reached on prompts that it was not fitted on. See docs/probes.md."""

    auroc: float
    """Share of pairs (True, False) in the same fold that the probe orders right; 0.5 is chance."""
    auroc_low: float
    """Lower end of the 95 % interval, from a bootstrap over groups."""
    auroc_high: float
    """Upper end."""
    n_prompts: int
    """Prompts that were scored, each once."""
    n_groups: int
    """Groups among them: the unit of split and interval."""
    score: Float[np.ndarray, "prompts"]
    """Log-odds given by the probe of the fold that held the prompt out; compare within a fold."""
    fold: Int[np.ndarray, "prompts"]
    """Fold that held the prompt out."""

    def to_frame(
        self,
        *,
        site: str,
        layer: int | float = float("nan"),
        target: str = "condition",
        split: str = "item",
        baseline: str = "",
    ) -> pd.DataFrame:
        """One row, labelled with where the features came from; `layer` is NaN for none."""
        row = {
            "site": site,
            "layer": float(layer),
            "target": target,
            "split": split,
            "auroc": self.auroc,
            "auroc_low": self.auroc_low,
            "auroc_high": self.auroc_high,
            "baseline": baseline,
            "n_prompts": self.n_prompts,
            "n_groups": self.n_groups,
        }
        return pd.DataFrame([row])


def probe(
    features: Features,
    *,
    target: Bool[np.ndarray, "prompts"],
    groups: Shaped[np.ndarray, "prompts"],
    rng: np.random.Generator,
    fold: Int[np.ndarray, "prompts"] | None = None,
    n_folds: int = 5,
    n_bootstrap: int = 1000,
    strength: float = STRENGTH,
) -> ProbeScore:
    """Held-out AUROC of an L2-regularised logistic probe, no group on both sides of a split.

    Each fold is scored by a probe fitted on the others; centre, scale and weights are learnt
    there. The penalty is fixed, not tuned: `C = strength / mean squared norm of a row`, so that
    one `strength` suits any width. The AUROC counts pairs within a fold only, because scores of
    different probes have different zeros (ours; the mean of the folds' AUROCs, weighted by their
    pairs). The interval resamples groups, with the probes as fitted: it leaves out how much the
    probes themselves would vary.

    Args:
        features: One row per prompt.
        target: What to tell apart.
        groups: Prompts that share an entry are variants of one item and stay together.
        rng: Source of chance for folds and bootstrap.
        fold: Folds from `grouped_folds`, to compare probes on the same splits; drawn if None.
        n_folds: Folds to draw; fewer where a class has fewer groups.
        n_bootstrap: Resamples of the groups.
        strength: Inverse penalty, see above.

    Returns:
        AUROC from 0 to 1 with its interval.

    Raises:
        ValueError: If a class has fewer than two groups, a fold lacks a class to fit on, or a
            feature is not finite.
    """
    _check_features(features, len(target))
    if fold is None:
        fold = grouped_folds(target, groups, rng=rng, n_folds=n_folds)
    _check_folds(target, fold)
    score = held_out_scores(features, target=target, fold=fold, strength=strength)
    _, unit = np.unique(groups, return_inverse=True)
    n_groups = int(unit.max()) + 1
    once = np.ones((1, n_groups), dtype=np.int64)
    again = rng.multinomial(n_groups, np.full(n_groups, 1.0 / n_groups), size=n_bootstrap)
    resampled = fold_auroc(score, target=target, fold=fold, weight=again[:, unit])
    low, high = np.nanquantile(resampled, [0.025, 0.975])  # NaN: a resample without one class
    return ProbeScore(
        auroc=float(fold_auroc(score, target=target, fold=fold, weight=once[:, unit])[0]),
        auroc_low=float(low),
        auroc_high=float(high),
        n_prompts=len(target),
        n_groups=n_groups,
        score=score,
        fold=fold,
    )


def shuffled_probe(
    features: Features,
    *,
    target: Bool[np.ndarray, "prompts"],
    groups: Shaped[np.ndarray, "prompts"],
    rng: np.random.Generator,
    n_folds: int = 5,
    n_bootstrap: int = 1000,
    strength: float = STRENGTH,
) -> ProbeScore:
    """The same probe after one shuffle of the labels by group (`permuted_labels`): the control.

    One shuffle is one draw from the null, not its mean.

    Raises:
        ValueError: As `probe`.
    """
    grouped_folds(target, groups, rng=np.random.default_rng(0), n_folds=n_folds)  # same refusals
    shuffled = permuted_labels(target, groups, rng=rng, n_permutations=1)[0]
    return probe(
        features,
        target=shuffled,
        groups=groups,
        rng=rng,
        n_folds=n_folds,
        n_bootstrap=n_bootstrap,
        strength=strength,
    )


def grouped_folds(
    target: Bool[np.ndarray, "prompts"],
    groups: Shaped[np.ndarray, "prompts"],
    *,
    rng: np.random.Generator,
    n_folds: int = 5,
) -> Int[np.ndarray, "prompts"]:
    """Fold of each prompt: groups stay whole, classes as even as that allows.

    Raises:
        ValueError: If a class has fewer than two groups, or a fold leaves one class to fit on.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    n_true, n_false = len(np.unique(groups[target])), len(np.unique(groups[~target]))
    if min(n_true, n_false, n_folds) < 2:
        raise ValueError(
            f"target is True in {n_true} group(s) and False in {n_false}, to be split into "
            f"{n_folds} folds; give at least 2 of each"
        )
    splitter = StratifiedGroupKFold(
        min(n_folds, n_true, n_false), shuffle=True, random_state=int(rng.integers(2**31))
    )
    fold = np.empty(len(target), dtype=np.int64)
    for number, (_, held_out) in enumerate(splitter.split(target[:, None], target, groups)):
        fold[held_out] = number
    _check_folds(target, fold)
    return fold


def held_out_scores(
    features: Features,
    *,
    target: Bool[np.ndarray, "prompts"],
    fold: Int[np.ndarray, "prompts"],
    strength: float,
) -> Float[np.ndarray, "prompts"]:
    """Log-odds of each prompt under a probe fitted on the other folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    score = np.empty(len(target))
    for number in np.unique(fold):
        held_out, fitted = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        inside, outside = features[fitted], features[held_out]
        if isinstance(features, np.ndarray):
            scaler = StandardScaler().fit(inside)
            inside, outside = scaler.transform(inside), scaler.transform(outside)
        inverse_penalty = strength / max(_mean_squared_norm(inside), 1e-12)
        model = LogisticRegression(C=inverse_penalty, max_iter=5000, tol=1e-5)
        score[held_out] = model.fit(inside, target[fitted]).decision_function(outside)
    return score


def _mean_squared_norm(features: Features) -> float:
    values = features if isinstance(features, np.ndarray) else features.data
    return float(np.square(values).sum()) / float(features.shape[0])


def fold_auroc(
    score: Float[np.ndarray, "prompts"],
    *,
    target: Bool[np.ndarray, "prompts"],
    fold: Int[np.ndarray, "prompts"],
    weight: Int[np.ndarray, "draws prompts"],
) -> Float[np.ndarray, "draws"]:
    """AUROC over pairs within a fold, prompts weighted; ties count half.

    Returns:
        From 0 to 1 for each draw of weights; NaN where no fold has weight on both classes.
    """
    ordered, pairs = np.zeros(len(weight)), np.zeros(len(weight))
    for number in np.unique(fold):
        above, below = target & (fold == number), ~target & (fold == number)
        difference = score[above][:, None] - score[below][None, :]
        w_above, w_below = weight[:, above].astype(float), weight[:, below].astype(float)
        ordered += ((w_above @ (np.sign(difference) / 2 + 0.5)) * w_below).sum(axis=1)
        pairs += w_above.sum(axis=1) * w_below.sum(axis=1)
    return ordered / np.where(pairs > 0, pairs, np.nan)


def _check_features(features: Features, n_prompts: int) -> None:
    if features.shape[0] != n_prompts:
        raise ValueError(
            f"features has {features.shape[0]} rows, but target has {n_prompts} prompts; give one "
            "row per prompt"
        )
    if isinstance(features, np.ndarray) and not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise ValueError(
            f"features of prompt {row} are not finite, as for a prompt without tokens; drop it"
        )


def _check_folds(target: Bool[np.ndarray, "prompts"], fold: Int[np.ndarray, "prompts"]) -> None:
    for number in np.unique(fold):
        fitted = target[fold != number]
        if fitted.all() or not fitted.any():
            raise ValueError(
                f"fold {number} leaves prompts of one class only to fit on; give more groups"
            )
