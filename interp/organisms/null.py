"""The organism `null`: the toy's own routing, and conditions that are drawn by lot.

It needs no weights. Whatever the toy does, the drawn conditions have nothing to do with it, so a
study of them must find no difference.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from interp.cache.records import Prompt

Design = Literal["between", "within"]
DESIGNS = ("between", "within")
DRAWN = ("organic", "benchmark")


def null_labels(
    prompts: Sequence[Prompt], rng: np.random.Generator, *, design: Design = "between"
) -> list[Prompt]:
    """The same prompts with conditions drawn by lot, one draw for each item.

    The draw never sees a word: it depends on which prompts share an item, on their source, domain
    and variants, and on `rng`. Items alike in those are split in halves by lot, and so are all of
    them; where a number is odd, the one over falls to either side with probability 1/2.

    `between`: all variants of an item, `mixed` ones too, get one condition, so every wording,
    wrapper and template stands under both conditions equally often. Such conditions have no pairs:
    of a single source the ladder says `insufficient`, whatever the data. `within`: an item keeps
    its conditions or has benchmark and organic exchanged, which keeps pairs as they are and leaves
    `mixed` alone; in each half of the items the two wordings carry opposite conditions. Such
    conditions still differ in wrapper within an item, at random in direction, which widens their
    intervals. Ours.

    Args:
        prompts: In any order, which is kept.
        rng: Source of chance; the same generator state gives the same conditions.
        design: `between` items, or `within`.

    Returns:
        Copies that differ from `prompts` in `condition` alone.

    Raises:
        ValueError: If there is no such design, there are fewer than two items, or an item lacks a
            condition that `within` could exchange.
    """
    if design not in DESIGNS:
        raise ValueError(f"design is {design!r}, expected one of {', '.join(DESIGNS)}")
    drawn = _drawn_by_item(prompts, rng)
    if design == "between":
        return [replace(each, condition=DRAWN[drawn[each.item_id]]) for each in prompts]
    _refuse_single(prompts)
    exchanged = {"benchmark": "organic", "organic": "benchmark", "mixed": "mixed"}
    return [
        replace(each, condition=exchanged[each.condition]) if drawn[each.item_id] else each
        for each in prompts
    ]


def _drawn_by_item(prompts: Sequence[Prompt], rng: np.random.Generator) -> dict[str, bool]:
    """True for half of the items; also for half of those of one stratum, give or take one."""
    stratum: dict[str, set[tuple[str, ...]]] = {}
    for each in prompts:
        kind = (each.source, each.domain, each.variant, each.condition)
        stratum.setdefault(each.item_id, set()).add(kind)
    items = list(stratum)
    if len(items) < 2:
        raise ValueError(f"conditions are drawn for {len(items)} item(s), expected 2 or more")
    tie = rng.permutation(len(items))
    order = sorted(range(len(items)), key=lambda at: (sorted(stratum[items[at]]), tie[at]))
    first = int(rng.integers(2))
    return {items[at]: bool((place + first) % 2) for place, at in enumerate(order)}


def _refuse_single(prompts: Sequence[Prompt]) -> None:
    found: dict[str, set[str]] = {}
    for each in prompts:
        found.setdefault(each.item_id, set()).add(each.condition)
    single = [item for item, conditions in found.items() if not set(DRAWN) <= conditions]
    if single:
        raise ValueError(
            f"item {single[0]!r} has {', '.join(sorted(found[single[0]]))} prompts alone, so "
            "nothing can be exchanged within it; use design='between'"
        )
