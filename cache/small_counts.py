"""Small counts: what is left out of a shared copy so that what is shown does not give it away.

Whoever reads a copy knows this rule too, and the length of every prompt: each token chooses
`top_k` different experts, so the counts of a layer sum to `n_tokens * top_k` and none is above
`n_tokens`. What follows is safe for such a reader, and so also where layers are compared.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

LABELS = ("source", "domain", "variant", "template")
"""Labels that can be left out, in the order in which they are looked at."""
ITEM_LABELS = ("source", "domain")
"""Of these, what prompts of one item have in common, so that one of them would tell the others."""
BY_TURN = 2
"""Cells of a layer that go with its small ones, whatever they hold."""


def suppressed(
    counts: Int[np.ndarray, "layers experts"], *, top_k: int, minimum_count: int
) -> Int[np.ndarray, "layers experts"]:
    """Counts of one prompt with 0 for all that is left out.

    A layer without a count below `minimum_count` is shown whole. Elsewhere the small counts go, and
    with them two experts in turn by the number of tokens: never by what they hold, since a reader
    who knows that the smallest went would learn from the next. Where the sum of all that is missing
    still rules out a value from 0 to `minimum_count - 1` for one of them, the whole layer goes.

    Args:
        counts: Routed slots; all layers have the same sum.
        top_k: Experts that each token chooses in a layer.
        minimum_count: The least count that is shown.
    """
    n_experts = counts.shape[1]
    n_tokens = counts.sum(axis=1) // top_k
    small = counts < minimum_count
    turn = _by_turn(n_tokens, n_experts=n_experts, top_k=top_k)
    missing = (small | turn) & small.any(axis=1, keepdims=True)
    total = np.where(missing, counts, 0).sum(axis=1)
    # All but the two are small, and one of the two has room for n_tokens when the other has none.
    most = (missing & ~turn).sum(axis=1) * (minimum_count - 1) + n_tokens
    is_told = missing.any(axis=1) & ((total < minimum_count - 1) | (total > most))
    shown: Int[np.ndarray, "layers experts"] = np.where(missing | is_told[:, None], 0, counts)
    return shown


def _by_turn(
    n_tokens: Int[np.ndarray, "layers"], *, n_experts: int, top_k: int
) -> Bool[np.ndarray, "layers experts"]:
    """The two experts whose turn it is; all where a token leaves out fewer than two."""
    if n_experts - top_k < BY_TURN:
        return np.ones((len(n_tokens), n_experts), dtype=bool)
    since: Int[np.ndarray, "layers experts"] = np.arange(n_experts) - n_tokens[:, None]
    return since % n_experts < BY_TURN


def public_labels(prompts: pd.DataFrame, *, minimum_count: int) -> pd.DataFrame:
    """Prompts with numbers for ids, and without the labels of fewer than `minimum_count` prompts.

    Each label is counted among the prompts that agree in condition and in all labels before it, so
    that no table of several labels has a smaller cell. Where fewer than `minimum_count` of them are
    left without a label, the rarest of the other labels goes too. A source or domain that goes for
    one prompt goes for all prompts of its item. Conditions stay.
    """
    labels = prompts.copy()
    labels["prompt_id"] = [f"prompt-{number:06d}" for number in range(len(prompts))]
    items = pd.factorize(prompts["item_id"])[0].tolist()
    labels["item_id"] = [f"item-{number:06d}" for number in items]
    groups: list[Hashable] = [str(each) for each in prompts["condition"]]
    for name in LABELS:
        values = [str(each) for each in prompts[name]]
        tied = items if name in ITEM_LABELS else list(range(len(items)))
        values = _blanked(values, groups, tied, minimum_count=minimum_count)
        labels[name] = values
        groups = list(zip(groups, values, strict=True))
    return labels


def _blanked(
    values: list[str], groups: Sequence[Hashable], tied: Sequence[int], *, minimum_count: int
) -> list[str]:
    """Values with "" for those left out; again until nothing more follows from what went."""
    while True:
        counts: defaultdict[Hashable, Counter[str]] = defaultdict(Counter)
        for group, value in zip(groups, values, strict=True):
            counts[group][value] += 1
        rare = {group: _rare(each, minimum_count=minimum_count) for group, each in counts.items()}
        told = {
            tie
            for group, value, tie in zip(groups, values, tied, strict=True)
            if not value or value in rare[group]
        }
        kept = ["" if tie in told else value for tie, value in zip(tied, values, strict=True)]
        if kept == values:
            return kept
        values = kept


def _rare(counts: Mapping[str, int], *, minimum_count: int) -> set[str]:
    """Labels that go: the rare ones, and the next rarest until enough prompts have none."""
    by_size = sorted((size, value) for value, size in counts.items() if value)
    n_without, rare = counts.get("", 0), set()
    for size, value in by_size:
        if size < minimum_count or 0 < n_without < minimum_count:
            rare.add(value)
            n_without += size
    return rare
