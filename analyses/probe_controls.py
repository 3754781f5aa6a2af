"""Controls of a probe: labels it could only memorise, and the bits that it saves."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from interp.analyses.probe_choice import FeatureSource, log_odds
from interp.analyses.probe_gain import difference_of
from interp.analyses.probe_metrics import Estimate, estimates
from interp.analyses.probe_splits import Splits, fold_splits
from interp.analyses.probes import STRENGTHS, held_out_scores

BLOCKS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Ends of the blocks of an online code, as shares of the prompts."""


@dataclass(frozen=True, kw_only=True)
class Selectivity:
    """How much better a probe tells the target than labels that it can only have memorised."""

    accuracy: float
    """Of the target, with prompts of one kind on both sides of a split; classes count half each."""
    control_accuracy: float
    """Of random labels, one a kind, on the same splits."""
    selectivity: float
    """Accuracy minus control accuracy, -1 to 1."""
    selectivity_low: float
    """Lower end of the 95 % interval, from leaving out one kind at a time."""
    selectivity_high: float
    """Upper end."""
    n_kinds: int
    """Kinds of two prompts or more; others take no part."""


def selectivity(
    features: FeatureSource,
    *,
    target: Bool[np.ndarray, "prompts"],
    kind: Shaped[np.ndarray, "prompts"],
    rng: np.random.Generator,
    n_folds: int = 5,
    n_controls: int = 3,
    strengths: Sequence[float] = STRENGTHS,
) -> Selectivity:
    """The control task of Hewitt and Liang (2019, arXiv:1909.03368), with prompts for words.

    Each *kind* (their word type; here what several prompts share, such as the item) gets a random
    label, True as often as in `target`. A probe of those labels can only be right by remembering
    the kind. Prompts of a kind are dealt over folds on purpose, for the target and for the control:
    this accuracy is no evidence of anything by itself, and higher than under `probe`.

    How it fools you: high selectivity says that the probe does not memorise kinds; what it reads
    may still be the surface.

    Args:
        features: One row per prompt.
        target: What to tell apart.
        kind: What the control labels go by.
        rng: Source of chance for labels and folds.
        n_folds: Folds that the prompts of a kind are dealt to.
        n_controls: Random labellings, averaged.
        strengths: As for `probe`.

    Returns:
        Accuracies from 0 to 1; 0.5 is chance for both.

    Raises:
        ValueError: If fewer than four kinds have two prompts, or these leave one class to fit on.
    """
    kinds, of, size = np.unique(kind, return_inverse=True, return_counts=True)
    shared = np.flatnonzero(size > 1)
    if len(shared) < 4:
        raise ValueError(
            f"kind has {len(shared)} value(s) that two prompts share, and a control task needs 4; "
            "give the item, template or another field that repeats"
        )
    splits = _within_kinds(of, size, n_folds, rng)
    if not all(0 < target[fitted].sum() < fitted.sum() for fitted, _ in splits):
        raise ValueError(
            "prompts that share a kind have one class of the target in a part to be fitted on, and "
            "a control task needs both; give more prompts, or a kind that goes across classes"
        )

    def accuracy(labels: Bool[np.ndarray, "prompts"]) -> Estimate:
        found = held_out_scores(
            {"": features},
            target=labels,
            splits=splits,
            cluster=kind,
            inner_cluster=np.arange(len(labels)),
            strengths=strengths,
            rng=rng,
        )
        return estimates(found.score, target=labels, splits=splits, cluster=kind)["accuracy"]

    real = accuracy(target)
    n_true = int(np.clip(round(float(target.mean()) * len(shared)), 2, len(shared) - 2))
    controls = []
    for _ in range(n_controls):
        label = rng.random(len(kinds)) < 0.5
        label[shared] = rng.permutation(np.arange(len(shared)) < n_true)
        controls.append(accuracy(label[of]))
    mean = Estimate(
        value=float(np.mean([each.value for each in controls])),
        without=np.mean([each.without for each in controls], axis=0),
        stratum=real.stratum,
    )
    found = difference_of(real, mean, is_share=True)
    return Selectivity(
        accuracy=real.value,
        control_accuracy=mean.value,
        selectivity=found.value,
        selectivity_low=found.low,
        selectivity_high=found.high,
        n_kinds=len(shared),
    )


@dataclass(frozen=True, kw_only=True)
class DescriptionLength:
    """Bits that it takes to send the labels to someone who has the features."""

    bits: float
    """Online code: the best strength's, with the bits that name this strength."""
    uniform_bits: float
    """One bit a prompt: what it takes without features."""
    compression: float
    """Uniform bits over bits; 1 or less where the features help nothing."""
    bits_by_strength: Float[np.ndarray, "strengths"]
    """Online code of each strength."""
    block_ends: Int[np.ndarray, "blocks"]
    """Prompts sent by the end of each block."""


def description_length(
    features: FeatureSource,
    *,
    target: Bool[np.ndarray, "prompts"],
    cluster: Shaped[np.ndarray, "prompts"],
    rng: np.random.Generator,
    strengths: Sequence[float] = STRENGTHS,
    blocks: Sequence[float] = BLOCKS,
) -> DescriptionLength:
    """Minimum description length by online code (Voita and Titov 2020, arXiv:2003.12298, sec. 2.2).

    Prompts are sent in blocks, clusters in random order and whole. The first block costs one bit a
    prompt; each further one `-sum log2 p(label)` under a probe fitted on all before it. The sum is
    short where few prompts teach the probe what it needs, so that ease of learning counts and not
    the final accuracy alone. Each strength is a code of its own; naming the shortest costs
    `log2(strengths)` bits (ours; Voita and Titov tune on other data).

    How it fools you: unequal classes can be sent in fewer bits than one a prompt by their rate
    alone; compare with the code under shuffled labels.

    Args:
        features: One row per prompt.
        target: What to tell apart.
        cluster: Prompts that share an entry are sent one after the other, in one block.
        rng: Source of chance for the order.
        strengths: Inverse penalties, as for `probe`.
        blocks: Ends of the blocks, as rising shares of the prompts up to 1. Blocks that end before
            two prompts of each class were sent are joined to the next.

    Returns:
        Bits, from 0 up.

    Raises:
        ValueError: If a class has fewer than two prompts before the last block.
    """
    order, ends = _order_and_ends(target, cluster, blocks, rng)
    bits = np.full(len(strengths), float(ends[0]))
    for start, end in pairwise(ends.tolist()):
        sent, sending = np.zeros(len(target), dtype=bool), np.zeros(len(target), dtype=bool)
        sent[order[:start]], sending[order[start:end]] = True, True
        found = log_odds(
            features,
            target=target,
            fitted=sent,
            scored=sending,
            strengths=strengths,
            balanced=False,
        )
        bits += np.logaddexp(0.0, np.where(target[sending], -found, found)).sum(axis=1) / np.log(2)
    total = float(bits.min() + np.log2(len(strengths)))
    return DescriptionLength(
        bits=total,
        uniform_bits=float(len(target)),
        compression=len(target) / total,
        bits_by_strength=bits,
        block_ends=ends,
    )


def _order_and_ends(
    target: Bool[np.ndarray, "prompts"],
    cluster: Shaped[np.ndarray, "prompts"],
    blocks: Sequence[float],
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, "prompts"], Int[np.ndarray, "blocks"]]:
    """Prompts in the order in which they are sent, and where each block ends."""
    _, of = np.unique(cluster, return_inverse=True)
    turn = rng.permutation(int(of.max()) + 1)[of]
    order = np.argsort(turn, kind="stable").astype(np.int64)
    last_of_cluster = np.append(np.flatnonzero(np.diff(turn[order])) + 1, len(order))
    n_true = np.cumsum(target[order])[last_of_cluster - 1]
    enough = np.minimum(n_true, last_of_cluster - n_true) >= 2
    places = np.searchsorted(last_of_cluster, np.array(blocks) * len(order) - 1e-9)
    ends = np.unique(last_of_cluster[np.minimum(places, len(last_of_cluster) - 1)])
    ends = ends[np.isin(ends, last_of_cluster[enough])]
    if len(ends) < 2:
        raise ValueError(
            f"target is True for {int(target.sum())} of {len(target)} prompts, too few of a class "
            "to fit on before the last block; give more prompts"
        )
    return order, ends


def _within_kinds(
    of: Int[np.ndarray, "prompts"],
    size: Int[np.ndarray, "kinds"],
    n_folds: int,
    rng: np.random.Generator,
) -> Splits:
    """Folds that deal out the prompts of each kind; kinds of one prompt take no part."""
    order = np.lexsort((rng.random(len(of)), of))
    rank = np.empty(len(of), dtype=np.int64)
    rank[order] = np.arange(len(of)) - np.repeat(np.cumsum(size) - size, size)
    n_folds = min(n_folds, int(size.max()))
    fold = (rank + rng.integers(n_folds, size=len(size))[of]) % n_folds
    splits, shared = fold_splits(fold), (size > 1)[of]
    return Splits(fitted=splits.fitted & shared, held_out=splits.held_out & shared)
