"""Chunks of a part as NumPy arrays, decoded with zlib and NumPy alone: no code of HDF5 runs here.

A raw chunk is what HDF5 has in the file: shuffled, deflated, and with a checksum of four bytes at
its end, in this order and each only where the dataset has it.
"""

import re
import zlib
from collections.abc import Sequence

import numpy as np
from einops import rearrange

FILTERS = ("shuffle", "deflate", "fletcher32")
"""In the order in which they are applied when a chunk is written."""
CHECKSUM_BYTES = 4
INFLATES_AT_MOST = 1100
"""Deflate gives at most 1032 bytes for one."""
DTYPES = {
    "<u1": "u1",
    "<u2": "<u2",
    "<i4": "<i4",
    "<i8": "<i8",
    "<f2": "<f2",
    "<f4": "<f4",
    "bfloat16": "<u2",
    "bool": "?",
}
"""Dtypes of an index other than `S12` and the like; bfloat16 as its raw bits."""


def array_dtype(name: str) -> np.dtype:
    """The dtype of the arrays that chunks of a dataset become.

    Args:
        name: As in the index, such as `<u1`, `bfloat16`, `bool` or `S12`.

    Raises:
        ValueError: If no part may have it.

    Example:
        >>> array_dtype("bfloat16")
        dtype('uint16')
    """
    if re.fullmatch(r"S[1-9][0-9]{0,7}", name):
        return np.dtype(name)
    if name not in DTYPES:
        raise ValueError(f"dtype is {name!r}, expected one of {', '.join(DTYPES)} or S and a size")
    return np.dtype(DTYPES[name])


def raw_length_fits(length: int, *, decoded: int, filters: Sequence[str]) -> bool:
    """Whether a raw chunk of `length` bytes can decode to `decoded` bytes."""
    stored = length - CHECKSUM_BYTES * ("fletcher32" in filters)
    if "deflate" in filters:
        return stored > 0 and decoded <= stored * INFLATES_AT_MOST
    return stored == decoded


def decode_chunk(
    raw: bytes | memoryview, *, dtype: str, filters: Sequence[str], shape: Sequence[int]
) -> np.ndarray:
    """One chunk, at its full size: what lies beyond the edge of the dataset is padding.

    The checksum is dropped unread: whoever calls has compared a SHA-256.

    Args:
        raw: The chunk as it lies in the file.
        dtype: As in the index.
        filters: Some of `FILTERS`, in that order.
        shape: Of the chunk.

    Returns:
        A read-only or fresh array of `array_dtype(dtype)`.

    Raises:
        ValueError: If the bytes do not decode to exactly this shape, or a boolean is neither 0
            nor 1.
    """
    kind = array_dtype(dtype)
    expected = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    if not raw_length_fits(len(raw), decoded=expected, filters=filters):
        raise ValueError(f"a chunk of {len(raw)} bytes cannot hold {expected}")
    stored = memoryview(raw)[: len(raw) - CHECKSUM_BYTES * ("fletcher32" in filters)]
    plain = _inflated(stored, expected) if "deflate" in filters else stored
    if "shuffle" in filters and kind.itemsize > 1:
        apart = np.frombuffer(plain, dtype=np.uint8)
        plain = rearrange(apart, "(byte value) -> (value byte)", byte=kind.itemsize).data
    if kind.kind == "b" and np.frombuffer(plain, dtype=np.uint8).max(initial=0) > 1:
        raise ValueError("a boolean is neither 0 nor 1")
    return np.frombuffer(plain, dtype=kind).reshape(shape)


def _inflated(stored: memoryview, expected: int) -> bytes:
    """Exactly `expected` bytes; never more memory than that, whatever the stream holds."""
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(stored, expected + 1)
    except zlib.error as error:
        raise ValueError(f"a chunk does not inflate ({error})") from error
    if len(plain) != expected or not stream.eof or stream.unused_data:
        raise ValueError(f"a chunk does not inflate to exactly {expected} bytes")
    return plain
