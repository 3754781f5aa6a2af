"""Prompts of two stores, matched and compared."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from interp.cache.diff_digests import (
    Side,
    common_layers,
    common_sites,
    fact_digests,
    resid_digests,
    routing_digests,
    text_digests,
    token_digests,
)
from interp.cache.records import PROMPT_FIELDS


@dataclass(frozen=True, kw_only=True)
class Match:
    """Which prompt of one store is which of the other."""

    by: str
    """`prompt_id`, `routing` or `counts`; `nothing` where they cannot be matched."""
    pairs: tuple[tuple[int, int], ...] = ()
    """Rows in the first and the second store, by the first."""
    only_in_a: tuple[str, ...] = ()
    only_in_b: tuple[str, ...] = ()

    @property
    def order_differs(self) -> bool:
        """Whether the prompts in both stand in another order."""
        seconds = [second for _, second in self.pairs]
        return seconds != sorted(seconds)

    @property
    def is_complete(self) -> bool:
        """Whether every prompt has its like, in the same place."""
        return not (self.only_in_a or self.only_in_b or self.order_differs)


@dataclass(frozen=True, kw_only=True)
class Differing:
    """How many of the matched prompts differ; None where the stores do not both hold it."""

    labels: int | None = None
    """In condition, source, domain, item, variant or template."""
    texts: int | None = None
    tokens: int | None = None
    """In token ids or positions."""
    token_facts: int | None = None
    """In position, segment, `generated`, log-probability or end in the text."""
    routing: int | None = None
    """In experts or weights, in the layers that both stores have; of the prompts with equal tokens,
    as all below. None also where prompts were matched by it."""
    router_logits: int | None = None
    expert_output_norms: int | None = None
    residuals: int | None = None
    """At the sites and layers that both stores have."""


def matched(a: Side, b: Side) -> Match:
    """Match prompts by `prompt_id`; without text, where ids are running numbers, by routing."""
    names = [side.store.prompts["prompt_id"].tolist() for side in (a, b)]
    if (a.tier, b.tier) == ("full", "full"):
        return match_by("prompt_id", *names, *names)
    layers = common_layers(a, b)
    if not layers:
        return Match(by="nothing")
    digests = [routing_digests(side, layers, range(len(side.store.prompts))) for side in (a, b)]
    keys = [list(each["routing"].values()) for each in digests]
    return match_by("routing", keys[0], keys[1], *names)


def match_by(
    by: str,
    keys_a: Sequence[object],
    keys_b: Sequence[object],
    names_a: Sequence[str],
    names_b: Sequence[str],
) -> Match:
    """Rows of the same key in both; the nth of one key belongs to the nth of it."""
    rows_b: dict[object, list[int]] = defaultdict(list)
    for row in reversed(range(len(keys_b))):
        rows_b[keys_b[row]].append(row)
    pairs, only_a = [], []
    for row, key in enumerate(keys_a):
        if rows_b[key]:
            pairs.append((row, rows_b[key].pop()))
        else:
            only_a.append(names_a[row])
    only_b = [names_b[row] for row in sorted(row for rows in rows_b.values() for row in rows)]
    return Match(by=by, pairs=tuple(pairs), only_in_a=tuple(only_a), only_in_b=tuple(only_b))


def compared(a: Side, b: Side, match: Match) -> Differing:
    """Compare all that both stores hold of the matched prompts, bit for bit.

    Routing and residuals are compared where the tokens are equal, in the layers and at the sites
    that both stores have.
    """
    has_text = (a.tier, b.tier) == ("full", "full")
    tokens = token_digests(a, b) if has_text else None
    pairs = match.pairs
    equal = pairs if tokens is None else [(i, j) for i, j in pairs if tokens[0][i] == tokens[1][j]]
    rows = sorted(i for i, _ in equal), sorted(j for _, j in equal)
    layers, sites = common_layers(a, b), common_sites(a, b)
    both = list(zip((a, b), rows, strict=True))
    routing = [routing_digests(side, layers, own) for side, own in both] if layers else [{}, {}]
    resid = [resid_digests(side, sites, own) for side, own in both]
    return Differing(
        labels=labels_differ(a.store.prompts, b.store.prompts, match) if a.tier == b.tier else None,
        texts=_n_unlike([text_digests(side) for side in (a, b)], pairs) if has_text else None,
        tokens=None if tokens is None else len(pairs) - len(equal),
        token_facts=_n_unlike([fact_digests(side, has_text) for side in (a, b)], pairs),
        residuals=_n_unlike(resid, equal) if sites else None,
        **{
            name: _n_unlike([routing[0][name], routing[1][name]], equal)
            for name in routing[0].keys() & routing[1].keys()
            if (match.by, name) != ("routing", "routing")
        },
    )


def labels_differ(a: pd.DataFrame, b: pd.DataFrame, match: Match) -> int:
    """Pairs with another label; without text items are numbered in the order of the prompts."""
    shared = [name for name in PROMPT_FIELDS[1:] if name in a and name in b]
    if match.by != "prompt_id" and not match.is_complete:
        shared.remove("item_id")
    rows = [[pair[side] for pair in match.pairs] for side in (0, 1)]
    left, right = a[shared].to_numpy()[rows[0]], b[shared].to_numpy()[rows[1]]
    return int((left != right).any(axis=1).sum())


def _n_unlike(
    digests: Sequence[Sequence[bytes] | Mapping[int, bytes]], pairs: Sequence[tuple[int, int]]
) -> int:
    return sum(digests[0][i] != digests[1][j] for i, j in pairs)
