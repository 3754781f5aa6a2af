"""In what two stores differ."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from interp.cache.manifest import same_layout
from interp.cache.reader import Store, open_store

MISSING = "(not there)"
BATCH_PROMPTS = 256
LONGEST = 60


@dataclass(frozen=True, kw_only=True)
class FieldDifference:
    """One field that two stores have differently."""

    name: str
    """Dotted where it lies within another, such as `settings.sites`."""
    a: Any
    b: Any


@dataclass(frozen=True, kw_only=True)
class StoreDiff:
    """In what store `a` and store `b` differ; prompts are matched by `prompt_id`."""

    tiers: tuple[str, str]
    layout: tuple[FieldDifference, ...]
    provenance: tuple[FieldDifference, ...]
    """All but the settings of the capture."""
    settings: tuple[FieldDifference, ...]
    prompts_only_in_a: tuple[str, ...]
    prompts_only_in_b: tuple[str, ...]
    parts_shared: int
    """Parts with the same SHA-256 in both."""
    parts_only_in_a: tuple[str, ...]
    parts_only_in_b: tuple[str, ...]
    prompts_shared: int
    tokens_differ: int
    """Of the shared prompts, those whose token ids or positions differ."""
    routing_differs: int | None
    """Of those with equal tokens, how many have other experts or weights in the layers that both
    stores have; None where they have none in common."""
    residuals_differ: int | None
    """Likewise with residuals, at the sites and layers that both stores have."""

    @property
    def is_same(self) -> bool:
        """Whether nothing differs."""
        fields = (self.layout, self.provenance, self.settings)
        prompts = (self.prompts_only_in_a, self.prompts_only_in_b)
        counts = (self.tokens_differ, self.routing_differs, self.residuals_differ)
        return self.tiers[0] == self.tiers[1] and not any((*fields, *prompts, *counts))

    def lines(self) -> Iterator[str]:
        """What to show a person, one finding a line."""
        if self.is_same:
            yield f"The stores hold the same: {self.prompts_shared:,} prompts."
            return
        if self.tiers[0] != self.tiers[1]:
            yield f"tier: {self.tiers[0]} | {self.tiers[1]}"
        for kind in ("layout", "settings", "provenance"):
            for each in getattr(self, kind):
                yield f"{kind} {each.name}: {_short(each.a)} | {_short(each.b)}"
        yield (
            f"prompts: {self.prompts_shared:,} in both, {len(self.prompts_only_in_a):,} only in "
            f"the first, {len(self.prompts_only_in_b):,} only in the second"
        )
        yield (
            f"parts: {self.parts_shared:,} in both, {len(self.parts_only_in_a):,} only in the "
            f"first, {len(self.parts_only_in_b):,} only in the second"
        )
        yield f"of the prompts in both: {self.tokens_differ:,} with other tokens"
        for name in ("routing", "residuals"):
            found = self.routing_differs if name == "routing" else self.residuals_differ
            told = "nothing to compare" if found is None else f"{found:,} prompts differ"
            yield f"{name}: {told}"


def diff(a: str | Path, b: str | Path) -> StoreDiff:
    """Compare two stores: what they say of themselves, and prompt by prompt what they hold.

    Args:
        a: Path or URL of a store.
        b: Likewise.

    Raises:
        InputError: If there is no store.
        StoreError: If one is unfinished or damaged.
    """
    first, second = open_store(a), open_store(b)
    found, other = _facts(first), _facts(second)
    pairs, only_a, only_b = _matched(first, second)
    parts_a, parts_b = _parts(first), _parts(second)
    is_same = list(parts_a) == list(parts_b)
    counts = (0, 0, 0) if is_same else _compared(first, second, pairs)
    tokens, routing, residuals = counts
    layers, sites = _common_layers(first, second), _common_sites(first, second)
    return StoreDiff(
        tiers=(str(first.manifest.get("tier", "full")), str(second.manifest.get("tier", "full"))),
        layout=differences(same_layout(first.layout), same_layout(second.layout)),
        provenance=differences(found[0], other[0]),
        settings=differences(found[1], other[1]),
        prompts_only_in_a=only_a,
        prompts_only_in_b=only_b,
        parts_shared=len(parts_a.keys() & parts_b.keys()),
        parts_only_in_a=tuple(name for key, name in parts_a.items() if key not in parts_b),
        parts_only_in_b=tuple(name for key, name in parts_b.items() if key not in parts_a),
        prompts_shared=len(pairs),
        tokens_differ=tokens,
        routing_differs=routing if layers else None,
        residuals_differ=residuals if sites else None,
    )


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[FieldDifference, ...]:
    """Fields that differ, within others too."""
    found: list[FieldDifference] = []
    for name in sorted(set(a) | set(b)):
        ours, theirs = a.get(name, MISSING), b.get(name, MISSING)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            within = differences(ours, theirs)
            found += [
                FieldDifference(name=f"{name}.{each.name}", a=each.a, b=each.b) for each in within
            ]
        elif ours != theirs:
            found.append(FieldDifference(name=name, a=ours, b=theirs))
    return tuple(found)


def _facts(store: Store) -> tuple[dict[str, Any], dict[str, Any]]:
    settings = store.provenance.get("settings")
    rest = {name: value for name, value in store.provenance.items() if name != "settings"}
    return rest, dict(settings) if isinstance(settings, Mapping) else {}


def _parts(store: Store) -> dict[str, str]:
    return {part["sha256"]: part["name"] for part in store.manifest["parts"]}


def _matched(a: Store, b: Store) -> tuple[list[tuple[int, int]], tuple[str, ...], tuple[str, ...]]:
    """Rows of the same prompt in both; the nth of one id belongs to the nth of it."""
    rows_b: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(b.prompts["prompt_id"]):
        rows_b[name].append(row)
    pairs, only_a = [], []
    for row, name in enumerate(a.prompts["prompt_id"]):
        if rows_b[name]:
            pairs.append((row, rows_b[name].pop(0)))
        else:
            only_a.append(name)
    only_b = [name for name, rows in rows_b.items() for _ in rows]
    return pairs, tuple(only_a), tuple(only_b)


def _compared(a: Store, b: Store, pairs: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    """How many prompts differ in tokens, routing and residuals."""
    tokens_a, tokens_b = _token_digests(a), _token_digests(b)
    equal = [(i, j) for i, j in pairs if tokens_a[i] == tokens_b[j]]
    rows = sorted(i for i, _ in equal), sorted(j for _, j in equal)
    layers, sites = _common_layers(a, b), _common_sites(a, b)
    routing = [_routing_digests(each, layers, own) for each, own in zip((a, b), rows, strict=True)]
    resid = [_resid_digests(each, sites, own) for each, own in zip((a, b), rows, strict=True)]
    return (
        len(pairs) - len(equal),
        sum(routing[0][i] != routing[1][j] for i, j in equal),
        sum(resid[0][i] != resid[1][j] for i, j in equal),
    )


def _common_layers(a: Store, b: Store) -> list[int]:
    return sorted(set(a.layout.layer_indices) & set(b.layout.layer_indices))


def _common_sites(a: Store, b: Store) -> list[tuple[str, int]]:
    held = [
        {(site, layer) for site, layers in each.resid_layers.items() for layer in layers}
        for each in (a, b)
    ]
    return sorted(held[0] & held[1])


def _bounds(store: Store) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(store.prompts["n_tokens"].to_numpy())])


def _token_digests(store: Store) -> list[bytes]:
    return [
        _digest(store.token_id[start:stop], store.position[start:stop])
        for start, stop in pairwise(_bounds(store))
    ]


def _routing_digests(store: Store, layers: Sequence[int], rows: Sequence[int]) -> dict[int, bytes]:
    """By row of `prompts`: experts and weights, in dtypes that hold those of any store."""
    bounds, found = _bounds(store), {}
    for batch in _batches(rows):
        routing = store.router(layers, prompts=np.array(batch))
        start = 0
        for row in batch:
            stop = start + int(bounds[row + 1] - bounds[row])
            indices = routing.expert_indices[start:stop].astype(np.int32)
            weights = routing.expert_weights[start:stop].astype(np.float32)
            found[row] = _digest(indices, weights)
            start = stop
    return found


def _resid_digests(
    store: Store, sites: Sequence[tuple[str, int]], rows: Sequence[int]
) -> dict[int, bytes]:
    """By row of `prompts`: which tokens have residuals, and these, of all the sites and layers."""
    bounds, found = _bounds(store), {}
    for batch in _batches(rows):
        resid = [store.resid(site, layer, prompts=np.array(batch)) for site, layer in sites]
        for row in batch:
            arrays = []
            for each in resid:
                first, last = np.searchsorted(each.token_index, bounds[row : row + 2])
                arrays += [each.token_index[first:last] - bounds[row], each.values[first:last]]
            found[row] = _digest(*arrays)
    return found


def _batches(rows: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(rows), BATCH_PROMPTS):
        yield rows[start : start + BATCH_PROMPTS]


def _digest(*arrays: np.ndarray) -> bytes:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
