"""What a probe is fitted on and what it is scored on; no cluster on both sides."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Integer, Shaped


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Fitted and held-out prompts of each split; a prompt may be in neither.

    Raises:
        ValueError: If a prompt is on both sides of a split, or there is no split.
    """

    fitted: Bool[np.ndarray, "splits prompts"]
    """True for the prompts that a split fits on."""
    held_out: Bool[np.ndarray, "splits prompts"]
    """True for the prompts that it scores."""

    def __post_init__(self) -> None:
        if not len(self.fitted):
            raise ValueError("fitted holds no split; give at least one")
        both = np.argwhere(self.fitted & self.held_out)
        if len(both):
            split, prompt = both[0].tolist()
            raise ValueError(
                f"prompt {prompt} is fitted and held out in split {split}; give it to one side"
            )

    def __len__(self) -> int:
        return len(self.fitted)

    def __iter__(self) -> Iterator[tuple[Bool[np.ndarray, "prompts"], Bool[np.ndarray, "prompts"]]]:
        return iter(zip(self.fitted, self.held_out, strict=True))

    def of(self, chosen: Bool[np.ndarray, "splits"]) -> "Splits":
        """Some of the splits."""
        return Splits(fitted=self.fitted[chosen], held_out=self.held_out[chosen])

    def usable(self, target: Bool[np.ndarray, "prompts"]) -> Bool[np.ndarray, "splits"]:
        """True where both labels are there to fit on and both to score."""
        return np.array(
            [all(0 < target[side].sum() < side.sum() for side in sides) for sides in self],
            dtype=bool,
        )


def fold_splits(fold: Int[np.ndarray, "prompts"]) -> Splits:
    """One split for each fold, fitted on all the others.

    Example:
        >>> fold_splits(np.array([0, 0, 1])).held_out.astype(int)
        array([[1, 1, 0],
               [0, 0, 1]])
    """
    held_out = fold[None, :] == np.unique(fold)[:, None]
    return Splits(fitted=~held_out, held_out=held_out)


def index_splits(
    pairs: Iterable[tuple[Integer[np.ndarray, "_"], Integer[np.ndarray, "_"]]], *, n_prompts: int
) -> Splits:
    """Splits from (fitted, held out) as indices of prompts, such as pairs of held-out sources.

    Example:
        >>> index_splits([(np.array([0, 1]), np.array([3]))], n_prompts=4).fitted.astype(int)
        array([[1, 1, 0, 0]])
    """
    listed = list(pairs)
    fitted = np.zeros((len(listed), n_prompts), dtype=bool)
    held_out = np.zeros_like(fitted)
    for number, (inside, outside) in enumerate(listed):
        fitted[number, inside], held_out[number, outside] = True, True
    return Splits(fitted=fitted, held_out=held_out)


def cluster_splits(
    target: Bool[np.ndarray, "prompts"],
    cluster: Shaped[np.ndarray, "prompts"],
    *,
    rng: np.random.Generator,
    n_folds: int = 5,
) -> Splits:
    """Cross-validation with whole clusters, classes as even over folds as that allows.

    Raises:
        ValueError: If a class has fewer than two clusters, or a split lacks a class to fit on.
    """
    return fold_splits(grouped_folds(target, cluster, rng=rng, n_folds=n_folds))


def grouped_folds(
    target: Bool[np.ndarray, "prompts"],
    cluster: Shaped[np.ndarray, "prompts"],
    *,
    rng: np.random.Generator,
    n_folds: int = 5,
) -> Int[np.ndarray, "prompts"]:
    """Fold of each prompt: clusters stay whole, classes as even as that allows.

    Raises:
        ValueError: If a class has fewer than two clusters, or a fold leaves one class to fit on.
    """
    n_true, n_false = len(np.unique(cluster[target])), len(np.unique(cluster[~target]))
    if min(n_true, n_false, n_folds) < 2:
        raise ValueError(
            f"target is True in {n_true} cluster(s) and False in {n_false}, to be split into "
            f"{n_folds} folds; give at least 2 of each"
        )
    n_folds = min(n_folds, n_true, n_false)
    _, of, size = np.unique(cluster, return_inverse=True, return_counts=True)
    n_of_true = np.bincount(of, target, minlength=len(size))
    kind = np.where(n_of_true == size, 2, np.where(n_of_true == 0, 0, 1))
    # Dealt in rounds: False alone, both, True alone, large ones first, chance between equals. So
    # the clusters with a class are neighbours, and any n_folds neighbours reach every fold.
    order = np.lexsort((rng.random(len(size)), -n_of_true, -size, kind))
    fold_of = np.empty(len(size), dtype=np.int64)
    fold_of[order] = rng.permutation(n_folds)[np.arange(len(size)) % n_folds]
    fold = fold_of[of]
    check_splits(fold_splits(fold), target=target)
    return fold


def check_splits(
    splits: Splits,
    *,
    target: Bool[np.ndarray, "prompts"],
    cluster: Shaped[np.ndarray, "prompts"] | None = None,
) -> None:
    """Raise ValueError if a split has one class to fit on, or a cluster straddles it."""
    if splits.fitted.shape[1] != len(target):
        raise ValueError(
            f"splits cover {splits.fitted.shape[1]} prompts, but target has {len(target)}; "
            "give one entry for each"
        )
    for number, (fitted, held_out) in enumerate(splits):
        if not 0 < target[fitted].sum() < fitted.sum():
            raise ValueError(
                f"fold {number} leaves prompts of one class only to fit on; give more clusters"
            )
        if cluster is None:
            continue
        astride = np.intersect1d(cluster[fitted], cluster[held_out])
        if len(astride):
            raise ValueError(
                f"cluster {astride[0]} is on both sides of split {number}; hold clusters out whole"
            )
    if not splits.usable(target).any():
        raise ValueError("no split holds out prompts of both classes; hold out one of each at once")
