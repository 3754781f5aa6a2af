"""What an audit asks of how a dataset is stored: layout, filters, chunks that unpack as said."""

import io
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from h5py import h5d, h5p, h5s, h5z

from interp.cache.errors import StoreError

MAX_CHUNK = 2**26
"""Bytes of a chunk once it is unpacked."""
MAX_CHUNKS = 2**20
"""Of all datasets of a part."""
MAX_PLAIN = 2**16
"""Bytes of a dataset that is stored without chunks, which have no checksum."""
FREE_BYTES = 2**26
MAX_RATIO = 100
"""All datasets, unpacked, may have `FREE_BYTES` and this often the bytes of the file."""

FILTERS = (h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE, h5z.FILTER_FLETCHER32)
"""All that a part may use, in this order."""


@dataclass(kw_only=True)
class Tally:
    """What has been found so far, against the limits for a whole part."""

    file_bytes: int
    objects: int = 0
    attribute_bytes: int = 0
    unpacked_bytes: int = 0
    chunks: int = 0
    extents: list[tuple[int, int]] = field(default_factory=list)
    """First byte and length of each piece of data in the file."""

    def check_extents(self) -> None:
        """Refuse two pieces of data in the same bytes, which is how a small file says much."""
        if not self.extents:
            return
        starts, lengths = np.array(sorted(self.extents), dtype=np.int64).T
        if (starts[:-1] + lengths[:-1] > starts[1:]).any():
            raise StoreError("two chunks lie in the same bytes of the file, expected each its own")


def check_storage(dataset: Any, path: str, shape: Sequence[int], tally: Tally) -> None:
    """Refuse storage outside this file, unknown filters, missing or impossible chunks, bombs.

    Raises:
        StoreError: Naming the dataset and the fault.
    """
    created, item = dataset.get_create_plist(), dataset.get_type().get_size()
    layout, unpacked = created.get_layout(), math.prod(shape) * item
    if layout == h5d.VIRTUAL:
        raise StoreError(f"{path} is a virtual dataset, expected its data in the part")
    if layout not in (h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED):
        raise StoreError(f"{path} has an unknown layout")
    if created.get_external_count():
        raise StoreError(f"{path} is stored in another file, expected its data in the part")
    if created.fill_value_defined() == h5d.FILL_VALUE_USER_DEFINED:
        raise StoreError(f"{path} has a fill value of its own, expected none")
    tally.unpacked_bytes += unpacked
    if tally.unpacked_bytes > FREE_BYTES + MAX_RATIO * tally.file_bytes:
        raise StoreError(f"{path} claims {unpacked} bytes, too many for a file of this size")
    if layout == h5d.CHUNKED:
        _check_chunked(dataset, path, shape, tally)
    else:
        _check_plain(dataset, path, unpacked, tally, compact=layout == h5d.COMPACT)


def _check_plain(dataset: Any, path: str, unpacked: int, tally: Tally, *, compact: bool) -> None:
    if unpacked > MAX_PLAIN:
        raise StoreError(f"{path} has {unpacked} bytes and no chunks, expected chunks")
    if unpacked and dataset.get_storage_size() != unpacked:
        raise StoreError(f"{path} claims {unpacked} bytes that are not there")
    start = None if compact else dataset.get_offset()
    if unpacked and not compact:
        _check_extent(path, start, unpacked, tally)


def _check_extent(path: str, start: int | None, length: int, tally: Tally) -> None:
    if start is None or start < 0 or start + length > tally.file_bytes:
        raise StoreError(f"{path} has data beyond the end of the file")
    tally.extents.append((start, length))


def _filters(created: Any, path: str) -> list[int]:
    """Numbers of the filters of a dataset; refuse all but those of `FILTERS`, in their order."""
    if created.get_nfilters() > len(FILTERS):
        raise StoreError(f"{path} has {created.get_nfilters()} filters, expected at most 3")
    found = [created.get_filter(at)[0] for at in range(created.get_nfilters())]
    if any(each not in FILTERS for each in found):
        raise StoreError(
            f"{path} uses the filters {found}, expected only shuffle, deflate and fletcher32"
        )
    if found != [each for each in FILTERS if each in found]:
        raise StoreError(f"{path} has its filters in another order, or twice")
    return found


def _check_chunked(dataset: Any, path: str, shape: Sequence[int], tally: Tally) -> None:
    created = dataset.get_create_plist()
    filters, chunk = _filters(created, path), tuple(created.get_chunk())
    bytes_each = math.prod(chunk) * dataset.get_type().get_size()
    if len(chunk) != len(shape) or not 0 < bytes_each <= MAX_CHUNK:
        raise StoreError(f"{path} has chunks {chunk}, expected at most {MAX_CHUNK} bytes each")
    expected = math.prod(-(-length // step) for length, step in zip(shape, chunk, strict=True))
    tally.chunks += expected
    if tally.chunks > MAX_CHUNKS:
        raise StoreError(f"{path} claims {expected} chunks, more than a part may have")
    found = _stored_chunks(dataset, expected) if expected else []
    if len(found) != expected or {tuple(each.chunk_offset) for each in found} != set(
        _starts(shape, chunk)
    ):
        raise StoreError(f"{path} has {len(found)} chunks, but its shape needs {expected}")
    for each in found:
        if each.filter_mask:
            raise StoreError(f"{path} has a chunk that leaves filters out")
        _check_extent(path, each.byte_offset, each.size, tally)
        _check_packed(path, each.size, bytes_each, filters)


def _starts(shape: Sequence[int], step: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Where the blocks of `step` start that make up `shape`."""
    return product(*(range(0, each, by) for each, by in zip(shape, step, strict=True)))


def _stored_chunks(dataset: Any, limit: int) -> list[Any]:
    """Where each chunk lies; stops one past `limit`."""
    found: list[Any] = []

    def collect(chunk: Any) -> bool | None:
        found.append(chunk)
        return True if len(found) > limit else None

    dataset.chunk_iter(collect)
    return found


def _check_packed(path: str, size: int, unpacked: int, filters: Sequence[int]) -> None:
    data = size - 4 * (h5z.FILTER_FLETCHER32 in filters)
    packed = h5z.FILTER_DEFLATE in filters
    if not (0 < data <= 2 * unpacked + 1024 if packed else data == unpacked):
        raise StoreError(f"{path} has a chunk of {size} bytes for {unpacked}")


def read_storage(dataset: Any, path: str, file: io.FileIO) -> None:
    """Read all values through their filters, a chunk at a time, and forget them.

    Raises:
        StoreError: If a chunk does not unpack to exactly its size.
        OSError: If a checksum is wrong, or the library refuses otherwise.
    """
    space, stored_type = dataset.get_space(), dataset.get_type()
    shape, created = space.get_simple_extent_dims(), dataset.get_create_plist()
    chunked = created.get_layout() == h5d.CHUNKED
    step = created.get_chunk() if chunked else shape
    if not math.prod(shape):
        return
    if chunked and h5z.FILTER_DEFLATE in _filters(created, path):
        _check_unpacking(dataset, created, path, file)
    for start in _starts(shape, step):
        count = tuple(
            min(each, length - at) for at, each, length in zip(start, step, shape, strict=True)
        )
        space.select_hyperslab(start, count)
        block = np.empty(count, dtype=f"V{stored_type.get_size()}")
        dataset.read(h5s.create_simple(count), space, block, mtype=stored_type)


def _check_unpacking(dataset: Any, created: h5p.PropDCID, path: str, file: io.FileIO) -> None:
    """A deflated chunk may unpack to more than its chunk: the library would make room for it."""
    expected = math.prod(created.get_chunk()) * dataset.get_type().get_size()
    checksum = 4 * (h5z.FILTER_FLETCHER32 in _filters(created, path))
    for chunk in _stored_chunks(dataset, MAX_CHUNKS):
        packed = os.pread(file.fileno(), chunk.size - checksum, chunk.byte_offset)
        inflating = zlib.decompressobj()
        try:
            found = len(inflating.decompress(packed, expected + 1))
        except zlib.error as error:
            raise StoreError(f"{path} has a chunk that cannot be unpacked ({error})") from error
        if found != expected or not inflating.eof or inflating.unused_data:
            raise StoreError(f"{path} has a chunk that does not unpack to {expected} bytes")
