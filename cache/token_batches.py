"""All tokens of a store in order; every chunk is read once, however few tokens a batch has.

Chunks span thousands of tokens. Read anew for each small batch, they would be fetched and decoded
as often as there are batches, so what was read is kept until all of it was handed out.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from interp.cache.opened import OpenedPart
from interp.cache.part_builder import chunk_rows
from interp.cache.views import TokenBatch, routing_of

TOKEN_FIELDS = ("token_id", "position", "segment", "generated", "logprob")


class _Read(Protocol):
    def __call__(self, *, rows: Sequence[slice]) -> np.ndarray: ...


def token_batches(
    parts: Sequence[OpenedPart],
    routing_paths: Mapping[str, str],
    *,
    batch: int,
    layers: tuple[int, ...],
    columns: Sequence[int] | None,
) -> Iterator[TokenBatch]:
    """Batches of each part in turn.

    Args:
        parts: Of the store, in order.
        routing_paths: By name of the site, the path of its dataset.
        batch: Tokens of a batch, at most.
        layers: Numbers of the wanted layers.
        columns: Their places along the axis; None if it is all.

    Raises:
        StoreError: If a part is damaged.
    """
    token_start = prompt_start = 0
    for part in parts:
        pieces = {name: _pieces(part, f"tokens/{name}", batch=batch) for name in TOKEN_FIELDS}
        routing = {
            name: _pieces(part, path, batch=batch, columns=columns)
            for name, path in routing_paths.items()
        }
        for first in range(0, part.n_tokens, batch):
            tokens = np.arange(first, min(first + batch, part.n_tokens))
            owners = np.searchsorted(part.offset, tokens, side="right") - 1
            yield TokenBatch(
                start=token_start + first,
                prompt_index=prompt_start + owners,
                routing=routing_of(layers, {name: next(each) for name, each in routing.items()}),
                **{name: next(each) for name, each in pieces.items()},
            )
        token_start += part.n_tokens
        prompt_start += len(part.offset) - 1


def _pieces(
    part: OpenedPart, path: str, *, batch: int, columns: Sequence[int] | None = None
) -> Iterator[np.ndarray]:
    """Rows of one dataset in order, so many at a time; read in whole chunks of the writer.

    Chunks of another length, as another program may write them, cost time and no more.
    """
    n_rows, *row_shape = part.source.shapes()[path]
    chunk = chunk_rows(path, np.empty((0, *row_shape), dtype=np.uint8))
    read: _Read = partial(part.source.read, path, columns=columns)
    held, read_to = read(rows=[]), 0
    for first in range(0, n_rows, batch):
        stop = min(first + batch, n_rows)
        if stop > read_to:
            upto = min(-(-stop // chunk) * chunk, n_rows)
            left = held[len(held) - (read_to - first) :]
            fresh = read(rows=[slice(read_to, upto)])
            held, read_to = np.concatenate([left, fresh]) if len(left) else fresh, upto
        at = len(held) - (read_to - first)
        yield held[at : at + stop - first]
