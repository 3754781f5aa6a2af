"""Divergence of a whole store, read part by part: memory does not grow with its tokens."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int, Shaped

from interp.analyses.divergence import Divergence, divergence_of_parts
from interp.analyses.divergence_result import NO_SHARE
from interp.analyses.matched_on import match_key
from interp.analyses.shared_keys import SharedKeys
from interp.analyses.store_stream import CONDITIONS, store_stream
from interp.analyses.streaming import RoutedPart, count_cells
from interp.analyses.token_stream import TokenStream

if TYPE_CHECKING:
    from interp.cache.reader import Store
    from interp.cache.views import TokenBatch

BATCH_TOKENS = 2**14


def store_divergence(
    store: "Store",
    *,
    cluster: Shaped[np.ndarray, "prompts"],
    rng: np.random.Generator,
    n_permutations: int = 200,
    take: "Callable[[TokenBatch], Bool[np.ndarray, ' tokens']] | None" = None,
    match_on: str = "token",
    at_most_clusters: int = 1000,
    table_bytes: int = 2**29,
) -> Divergence:
    """`usage_divergence` of the benchmark and organic prompts of a store of any size.

    Three passes over the tokens for each block of layers. The table of slots by shared key takes
    `shared keys * 2 * layers * experts * 4` bytes, and layers go in blocks that keep it under
    `table_bytes`. Clusters beyond `at_most_clusters` are put together at random (among those of
    the same condition: random groups, Wolter 2007, doi:10.1007/978-0-387-35099-8), which keeps
    the tests valid and makes them a little coarser.

    Args:
        store: From `open_store`.
        cluster: Item, source or template of each row of `store.prompts`.
        rng: Source of chance.
        n_permutations: Labellings, and flips, to draw.
        take: Which tokens of a batch take part; all of both conditions if None.
        match_on: Key of the matched divergence, one of `interp.analyses.matched_on.KEYS`.
        at_most_clusters: Clusters that are told apart.
        table_bytes: Memory for the table of shared keys.

    Returns:
        As `usage_divergence` of all these tokens at once.

    Raises:
        ValueError: As `usage_divergence`, or if `cluster` has another length than the prompts.
    """
    if len(cluster) != len(store.prompts):
        raise ValueError(
            f"cluster has {len(cluster)} entries, but the store has {len(store.prompts)} prompts; "
            "give one for each"
        )
    condition = store.prompts["condition"].to_numpy(dtype=str)
    number = pooled_clusters(condition, cluster, rng=rng, at_most=at_most_clusters)
    row = np.where(np.isin(condition, CONDITIONS), 2 * number + (condition == "benchmark"), -1)
    n_clusters = int(number.max()) + 1
    stream = store_stream(store, row=row, take=take, batch_tokens=BATCH_TOKENS)
    layers = store.layout.layer_indices
    cells = count_cells(lambda: _routed_parts(stream, slice(0, 0), match_on))
    n_keys = len(SharedKeys.of(cells, n_rows=2 * n_clusters).keys)
    per_layer = max(1, n_keys) * 2 * store.layout.n_experts * 4
    at_once = max(1, table_bytes // per_layer)
    seed = int(rng.integers(2**63))  # every block of layers draws the same labellings and flips
    found = []
    for start in range(0, len(layers), at_once):
        block = slice(start, start + at_once)
        found.append(
            divergence_of_parts(
                lambda block=block: _routed_parts(stream, block, match_on),  # type: ignore[misc]
                n_clusters=n_clusters,
                n_experts=store.layout.n_experts,
                layer_indices=layers[block],
                rng=np.random.default_rng(seed),
                n_permutations=n_permutations,
                cells=cells,
            )
        )
    return _joined(found)


def _routed_parts(stream: TokenStream, layers: slice, match_on: str) -> Iterator[RoutedPart]:
    """All tokens that take part, in order, each with its key."""
    for part in stream.parts(layers):
        key = match_key(
            match_on,
            token_id=part.token_id,
            previous_token_id=part.previous_token_id,
            position=part.position,
        )
        yield RoutedPart(expert_indices=part.expert_indices, row=part.row, key=key)


def pooled_clusters(
    condition: Shaped[np.ndarray, "prompts"],
    cluster: Shaped[np.ndarray, "prompts"],
    *,
    rng: np.random.Generator,
    at_most: int,
) -> Int[np.ndarray, "prompts"]:
    """Number of each prompt's cluster, with clusters put together at random where too many.

    Only clusters that hold the same conditions are put together.

    Raises:
        ValueError: If `at_most` is below 6: two for each kind of cluster.
    """
    if at_most < 6:
        raise ValueError(f"at_most is {at_most}, expected 6 or more clusters")
    _, number = np.unique(cluster, return_inverse=True)
    n = int(number.max()) + 1
    if n <= at_most:
        return number.astype(np.int64)
    holds = [np.bincount(number[condition == name], minlength=n) > 0 for name in CONDITIONS]
    kind = holds[0] + 2 * holds[1]
    pooled, first = np.empty(n, dtype=np.int64), 0
    for name in np.unique(kind):
        size = int((kind == name).sum())
        groups = min(size, max(2, at_most * size // n))
        pooled[kind == name] = first + rng.permutation(size) % groups
        first += groups
    return pooled[number]


def _joined(found: Sequence[Divergence]) -> Divergence:
    """The layers of all blocks behind each other."""
    first = found[0]
    per_layer = [
        each.name for each in fields(first) if isinstance(getattr(first, each.name), np.ndarray)
    ]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(of, name) for of in found]) for name in per_layer
    }
    absent: dict[str, str] = {}
    for each in found:
        absent |= each.absent
    if "share" in absent:
        undefined = np.isnan(columns["share_explained_by_vocabulary"])
        absent["share"] = NO_SHARE.format(n=int(undefined.sum()), layers=len(undefined))
    return replace(
        first, layer=tuple(layer for of in found for layer in of.layer), absent=absent, **columns
    )
