"""Whole datasets of a part on this machine, read by its index: no copy on the way, on all cores.

Chunks of residuals are as wide as their rows, so they are read straight to where they belong, and
their checksums are compared while they are still in the processor's cache.
"""

import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from interp.cache.chunk_codec import CHECKSUM_BYTES, array_dtype
from interp.cache.chunk_table import ChunkedDataset
from interp.cache.errors import StoreError

THREADS = 4


def is_direct(dataset: ChunkedDataset) -> bool:
    """Whether a dataset lies in the file as in memory, but for the checksums between its chunks."""
    is_wide = dataset.chunks[1:] == dataset.shape[1:] and len(dataset.shape) == 2
    is_plain = dataset.filters == ("fletcher32",) and bool(dataset.crc32)
    return is_wide and is_plain and hasattr(os, "preadv")


def read_direct(path: Path, dataset: ChunkedDataset) -> np.ndarray:
    """All rows of a dataset for which `is_direct`; bfloat16 as its raw bits.

    Raises:
        StoreError: If a chunk is not what the index says.
    """
    values = np.empty(dataset.shape, dtype=array_dtype(dataset.dtype))
    n_threads = min(THREADS, os.cpu_count() or 1, max(len(dataset.crc32), 1))
    shares = np.array_split(np.arange(len(dataset.crc32)), n_threads)
    try:
        with path.open("rb", buffering=0) as file, ThreadPoolExecutor(n_threads) as threads:
            reads = [threads.submit(_read, file.fileno(), dataset, values, each) for each in shares]
            faulty = [number for each in reads for number in each.result()]
    except OSError as error:
        raise StoreError(
            f"{path} cannot be read ({error.strerror}); open the store again"
        ) from error
    if faulty:
        raise StoreError(
            f"{path} cannot be read: chunk {faulty[0]} of a dataset of shape {dataset.shape} is "
            "not what the index says; it is damaged, so copy the store again"
        )
    return values


def _read(
    descriptor: int, dataset: ChunkedDataset, values: np.ndarray, numbers: np.ndarray
) -> list[int]:
    """Read some chunks to their places; those that are not as the index says are returned."""
    rows = dataset.chunks[0]
    of_chunk = rows * values[:1].nbytes
    checksum, padded, faulty = bytearray(CHECKSUM_BYTES), None, []
    for number in numbers.tolist():
        place = values[number * rows : (number + 1) * rows]
        if place.nbytes < of_chunk:  # the last chunk is stored as large as the others
            padded = np.empty((rows, *values.shape[1:]), dtype=values.dtype)
        into = (place if padded is None else padded).data.cast("B")
        n_read = os.preadv(descriptor, [into, checksum], int(dataset.offset[number]))
        found = zlib.crc32(checksum, zlib.crc32(into))
        if n_read != dataset.length[number] or found != dataset.crc32[number]:
            faulty.append(number)
        if padded is not None:
            place[:] = padded[: len(place)]
    return faulty
