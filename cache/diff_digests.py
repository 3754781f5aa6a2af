"""What is stored of each prompt of a store, as digests that tell whether two are alike."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from interp.cache.part import split_texts
from interp.cache.reader import Store
from interp.cache.sources import StoreSource

BATCH_TOKENS = 2**16
_ROUTING = {
    "routing": ("expert_indices", "expert_weights"),
    "router_logits": ("router_logits",),
    "expert_output_norms": ("expert_output_norms",),
}


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two stores."""

    store: Store
    source: StoreSource
    """What the store was opened from, for what the store itself does not give."""

    @property
    def tier(self) -> str:
        """`full` or `no_text`."""
        return str(self.store.manifest.get("tier", "full"))

    def read(self, path: str) -> np.ndarray | None:
        """A dataset of all parts, end to end; None where a part is without it."""
        if any(path not in part.source.shapes() for part in self.source.parts):
            return None
        return np.concatenate([part.source.read(path) for part in self.source.parts])

    def bounds(self) -> np.ndarray:
        """Where the tokens of each prompt start, and where the last ones end."""
        return np.concatenate([[0], np.cumsum(self.store.prompts["n_tokens"].to_numpy())])


def vocabularies_differ(a: Side, b: Side) -> bool:
    """Whether ids that are local to their store mean other texts."""
    is_local = a.store.layout.vocab_local, b.store.layout.vocab_local
    return is_local == (True, True) and _vocab(a) != _vocab(b)


def common_layers(a: Side, b: Side) -> list[int]:
    """Routed layers that both stores have."""
    return sorted(set(a.store.layout.layer_indices) & set(b.store.layout.layer_indices))


def common_sites(a: Side, b: Side) -> list[tuple[str, int]]:
    """Residual sites, each with a layer, that both stores have."""
    held = [
        {(site, layer) for site, layers in each.store.resid_layers.items() for layer in layers}
        for each in (a, b)
    ]
    return sorted(held[0] & held[1])


def text_digests(side: Side) -> list[bytes]:
    """Of the rendered text of each prompt."""
    found = []
    for part in side.source.parts:
        joined = part.source.read("prompts/text")
        texts = split_texts(joined, part.source.read("prompts/text_offset"))
        found += [hashlib.sha256(text).digest() for text in texts]
    return found


def token_digests(a: Side, b: Side) -> list[list[bytes]] | None:
    """Of ids and positions; ids that are local to their store become numbers that both share.

    None where the ids of one store are local, and those of the other are not.
    """
    if a.store.layout.vocab_local != b.store.layout.vocab_local:
        return None
    ids = [side.store.token_id for side in (a, b)]
    if vocabularies_differ(a, b):
        vocabs = _vocab(a), _vocab(b)
        number = {text: n for n, text in enumerate(dict.fromkeys([*vocabs[0], *vocabs[1]]))}
        shared = [np.array([number[text] for text in vocab]) for vocab in vocabs]
        ids = [lookup[each] for lookup, each in zip(shared, ids, strict=True)]
    return [
        _cut_digests(side, each.astype(np.int64), side.store.position)
        for side, each in zip((a, b), ids, strict=True)
    ]


def fact_digests(side: Side, has_text: bool) -> list[bytes]:
    """Of what is known of the tokens of each prompt beside their ids."""
    store = side.store
    plain = [store.position, store.segment, store.generated]
    if not has_text:
        return _cut_digests(side, *plain)
    ends = side.read("tokens/text_end")
    known = [] if ends is None else [ends]
    return _cut_digests(side, *plain, store.logprob.astype(np.float32), *known)


def _cut_digests(side: Side, *columns: np.ndarray) -> list[bytes]:
    return [
        _digest(*(column[start:stop] for column in columns))
        for start, stop in pairwise(side.bounds())
    ]


def _vocab(side: Side) -> list[bytes]:
    read = side.source.parts[0].source.read
    return split_texts(read("vocab/text"), read("vocab/text_offset"))


def routing_digests(
    side: Side, layers: Sequence[int], rows: Sequence[int]
) -> dict[str, dict[int, bytes]]:
    """By what is stored of the router and by row, in dtypes that hold those of any store."""
    bounds = side.bounds()
    layout = side.store.layout
    is_stored = {
        "routing": True,
        "router_logits": layout.router_logits,
        "expert_output_norms": layout.expert_output_norms,
    }
    found: dict[str, dict[int, bytes]] = {name: {} for name in _ROUTING if is_stored[name]}
    for batch in _batches(bounds, rows):
        routing = side.store.router(layers, prompts=np.array(batch))
        start = 0
        for row in batch:
            stop = start + int(bounds[row + 1] - bounds[row])
            for name, digests in found.items():
                arrays = (getattr(routing, each)[start:stop] for each in _ROUTING[name])
                digests[row] = _digest(*map(_widest, arrays))
            start = stop
    return found


def resid_digests(
    side: Side, sites: Sequence[tuple[str, int]], rows: Sequence[int]
) -> dict[int, bytes]:
    """By row: which tokens have residuals, and these, of all the sites and layers."""
    bounds, digests = side.bounds(), {row: hashlib.sha256() for row in rows}
    for site, layer in sites:
        for batch in _batches(bounds, rows):
            resid = side.store.resid(site, layer, prompts=np.array(batch))
            for row in batch:
                first, last = np.searchsorted(resid.token_index, bounds[row : row + 2])
                own = resid.token_index[first:last] - bounds[row]
                digests[row].update(_digest(own, resid.values[first:last]))
    return {row: digest.digest() for row, digest in digests.items()}


def _batches(bounds: np.ndarray, rows: Sequence[int]) -> Iterator[list[int]]:
    """Rows whose tokens together fit in memory; at least one."""
    batch: list[int] = []
    n_tokens = 0
    for row in rows:
        own = int(bounds[row + 1] - bounds[row])
        if batch and n_tokens + own > BATCH_TOKENS:
            yield batch
            batch, n_tokens = [], 0
        batch.append(row)
        n_tokens += own
    if batch:
        yield batch


def _widest(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32 if values.dtype.kind == "f" else np.int32)


def _digest(*arrays: np.ndarray) -> bytes:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()
