"""A part that lies elsewhere, read by its index: only the chunks that are wanted, each checked.

What a read returns was compared with the SHA-256 that the manifest vouches for, chunk by chunk, so
a part that is replaced while it is read gives an error and never a mix of two versions.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from interp.cache.chunk_codec import array_dtype, decode_chunk
from interp.cache.chunk_selection import Selection, Span, place, plan, select, touched_chunks
from interp.cache.chunk_table import ChunkedDataset
from interp.cache.errors import StoreError
from interp.cache.fetching import CONCURRENT, Fetcher

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class IndexedPart:
    """One part of a store that lies elsewhere; made by `open_remote`."""

    name: str
    """File name, such as `part-00000.h5`."""
    bytes: int
    """Size of the file."""
    datasets: Mapping[str, ChunkedDataset]
    """From the index, by path."""
    fetcher: Fetcher

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every dataset, by its path."""
        return {path: dataset.shape for path, dataset in self.datasets.items()}

    def read(
        self,
        path: str,
        *,
        rows: Sequence[slice] | None = None,
        columns: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Values of a dataset; fetches the chunks that hold them, and little between these.

        Args:
            path: Of the dataset, such as `router/expert_indices`.
            rows: Rising, disjoint slices of axis 0; what they hold comes concatenated.
            columns: Positions along axis 1, in the order asked.

        Returns:
            The values; bfloat16 as its raw bits in uint16, strings as fixed-length bytes.

        Raises:
            ValueError: If rows or columns are not within the dataset.
            StoreError: If the part has no such dataset, or gives other bytes than its index says.
        """
        if path not in self.datasets:
            raise StoreError(
                f"{self.fetcher.shown}/{self.name} holds no {path}; capture the store again with it"
            )
        dataset = self.datasets[path]
        selection = select(dataset.shape, rows=rows, columns=columns)
        into = np.empty(selection.shape_of(dataset.shape), dtype=array_dtype(dataset.dtype))
        if into.size:
            spans = plan(dataset, touched_chunks(dataset, selection))
            concurrently(lambda span: self._take(span, path, selection, into), spans)
        return into

    def _take(self, span: Span, path: str, selection: Selection, into: np.ndarray) -> None:
        """Fetch one range, and put what is wanted of its chunks where it belongs."""
        dataset = self.datasets[path]
        for chunk, raw in zip(span.chunks, self._verified(span, dataset), strict=True):
            try:
                values = decode_chunk(
                    raw, dtype=dataset.dtype, filters=dataset.filters, shape=dataset.chunks
                )
            except ValueError as error:
                raise StoreError(
                    f"{path} in {self.fetcher.shown}/{self.name} cannot be decoded ({error}); the "
                    "store was published damaged, so ask for it to be published again"
                ) from error
            corner = np.unravel_index(chunk, dataset.grid)
            start = [int(at) * step for at, step in zip(corner, dataset.chunks, strict=True)]
            place(values, start, selection=selection, into=into)

    def _verified(self, span: Span, dataset: ChunkedDataset) -> list[memoryview]:
        """The raw chunks of a range; a second time past all caches where the first is not right."""
        for fresh in (False, True):
            raw = memoryview(
                self.fetcher.span(self.name, span.start, span.stop, size=self.bytes, fresh=fresh)
            )
            pieces = [_piece(raw, span, dataset, chunk) for chunk in span.chunks]
            wrong = [
                chunk
                for chunk, piece in zip(span.chunks, pieces, strict=True)
                if hashlib.sha256(piece).hexdigest() != dataset.sha256[chunk]
            ]
            if not wrong:
                return pieces
        raise StoreError(
            f"{self.fetcher.shown}/{self.name} does not hold what its index says at byte "
            f"{dataset.offset[wrong[0]]}; it was replaced or damaged, so open the store again"
        )


def concurrently(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """What `work` gives for each item, in order; a few at once, and none more after a failure."""
    with ThreadPoolExecutor(max_workers=max(1, min(CONCURRENT, len(items)))) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def _piece(raw: memoryview, span: Span, dataset: ChunkedDataset, chunk: int) -> memoryview:
    start = int(dataset.offset[chunk]) - span.start
    return raw[start : start + int(dataset.length[chunk])]
