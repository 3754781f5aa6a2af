"""Permuted labels with the right unit: whole items, never tokens and never single variants."""

import numpy as np
from jaxtyping import Bool, Float, Shaped


def permuted_labels(
    label: Bool[np.ndarray, "prompts"],
    item: Shaped[np.ndarray, "prompts"],
    *,
    rng: np.random.Generator,
    n_permutations: int,
) -> Bool[np.ndarray, "permutations prompts"]:
    """Labels as they could have been, had the label nothing to do with the prompt.

    The unit is the item: all prompts that share an entry of `item`. An item that has both labels
    keeps its prompts and swaps all their labels, with probability 1/2 (exchange within the item).
    Items that have one label only exchange these labels among themselves, whole items at a time.
    So the number of prompts with a label can vary where items differ in size; the number of
    one-label items with that label does not.

    Args:
        label: Label of each prompt.
        item: Item of each prompt, of any type that sorts.
        rng: Source of chance; the same generator state gives the same permutations.
        n_permutations: Rows to draw, independently; the observed labels can come up again.

    Returns:
        One row per permutation.

    Raises:
        ValueError: If there are fewer than two items, or all prompts have one label.
    """
    _, unit = np.unique(item, return_inverse=True)
    n_units = int(unit.max(initial=-1)) + 1
    _check(label, n_units)
    has_true = np.bincount(unit[label], minlength=n_units) > 0
    has_false = np.bincount(unit[~label], minlength=n_units) > 0
    both = has_true & has_false
    of_unit = np.empty((n_permutations, n_units), dtype=bool)
    of_unit[:, both] = rng.random((n_permutations, int(both.sum()))) < 0.5
    single = np.tile(has_true[~both], (n_permutations, 1))
    of_unit[:, ~both] = rng.permuted(single, axis=1)
    drawn = of_unit[:, unit]  # swap or stay for items with both labels, else the label itself
    return np.where(both[unit], drawn ^ label, drawn)


def permutation_p_value(
    observed: Float[np.ndarray, "*of"], null: Float[np.ndarray, "permutations *of"]
) -> Float[np.ndarray, "*of"]:
    """One-sided p-value `(1 + #{null >= observed}) / (1 + permutations)`.

    Never 0: the observed labelling counts as one of its own null (Phipson and Smyth 2010,
    arXiv:1603.05766, eq. 2). Differences below 1e-12 count as ties.

    Returns:
        From `1 / (1 + permutations)` to 1.

    Example:
        >>> permutation_p_value(np.array([3.0]), np.array([[1.0], [2.0], [3.0]]))
        array([0.5])
    """
    reached = (null >= observed - 1e-12).sum(axis=0)
    return np.asarray((1.0 + reached) / (1.0 + len(null)))


def _check(label: Bool[np.ndarray, "prompts"], n_units: int) -> None:
    if n_units < 2:
        raise ValueError(
            f"item names {n_units} item(s); labels are permuted by item, so give at least 2"
        )
    if label.all() or not label.any():
        raise ValueError(f"all {len(label)} prompts have the same label; give prompts of both")
