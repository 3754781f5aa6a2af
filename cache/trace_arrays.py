"""Arrays in NumPy's format from strangers: the header is read first, and nothing is unpickled."""

from dataclasses import dataclass
from io import BytesIO
from typing import IO
from zipfile import ZipExtFile

import numpy as np
from numpy.lib import format as npy_format

from interp.cache.errors import InputError

NPY_MAGIC = b"\x93NUMPY"
_READ_HEADER = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}


@dataclass(frozen=True, kw_only=True)
class NpyHeader:
    """What an array says of itself before its values."""

    shape: tuple[int, ...]
    dtype: np.dtype
    n_bytes: int
    """Length of the header."""


def read_npy_header(
    stream: IO[bytes] | BytesIO | ZipExtFile, *, where: str, n_bytes: int
) -> NpyHeader:
    """The header of an array of `n_bytes` in all, which must be as long as its header says.

    Raises:
        InputError: If it is no array, holds objects, or is longer or shorter than it says.
    """
    try:
        version = npy_format.read_magic(stream)
        if version not in _READ_HEADER:
            raise InputError(f"{where} is an array of format {version}, expected 1.0 or 2.0")
        shape, _, dtype = _READ_HEADER[version](stream)
    except (ValueError, EOFError, OSError, SyntaxError, TypeError, RecursionError) as error:
        raise InputError(f"{where} is no NumPy array ({error}); save it with numpy") from error
    if dtype.hasobject or dtype.kind not in "biufSU":
        raise InputError(f"{where} has dtype {dtype}, expected numbers or fixed-length strings")
    header = NpyHeader(shape=shape, dtype=dtype, n_bytes=stream.tell())
    length = header.n_bytes + dtype.itemsize * _product(shape)
    if length != n_bytes or min(shape, default=0) < 0:
        raise InputError(
            f"{where} has shape {shape} and dtype {dtype}, so {length} bytes, but holds {n_bytes}; "
            "the file is damaged, so save it again"
        )
    return header


def npy_from_bytes(raw: bytes, *, where: str) -> np.ndarray:
    """An array from the bytes of an .npy file.

    Raises:
        InputError: As `read_npy_header`.
    """
    read_npy_header(BytesIO(raw), where=where, n_bytes=len(raw))
    return np.asarray(npy_format.read_array(BytesIO(raw), allow_pickle=False))


def _product(shape: tuple[int, ...]) -> int:
    """In whole numbers of any size, which do not overflow."""
    product = 1
    for size in shape:
        product *= size
    return product
