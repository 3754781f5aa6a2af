"""bfloat16 in HDF5: its 16 raw bits, under a float type that has bfloat16's fields.

HDF5 files of this age know no bfloat16, but any float can be described by its fields, and then
h5dump and other tools print the right numbers. Bits are written and read without conversion: the
library's own conversion is slow, and NumPy has no dtype to convert to.
"""

from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, UInt16

FIELDS = (15, 7, 8, 0, 7)
"""Sign at bit 15; exponent of 8 bits from bit 7; mantissa of 7 bits from bit 0."""
EXPONENT_BIAS = 127


def bfloat16_type() -> Any:
    """The little-endian HDF5 float type of 2 bytes with bfloat16's fields."""
    float_type = h5py.h5t.IEEE_F16LE.copy()
    float_type.set_fields(*FIELDS)
    float_type.set_ebias(EXPONENT_BIAS)
    return float_type


def is_bfloat16(dataset: h5py.Dataset) -> bool:
    """Whether the values of a dataset are bfloat16 as `bfloat16_type` describes it."""
    return bool(dataset.id.get_type().equal(bfloat16_type()))


def read_bits(dataset: h5py.Dataset, rows: slice | None = None) -> UInt16[np.ndarray, "..."]:
    """The raw bits of a bfloat16 dataset, or of some of its rows, as they were written."""
    rows = slice(0, len(dataset)) if rows is None else rows
    shape = (rows.stop - rows.start, *dataset.shape[1:])
    bits = np.empty(shape, dtype="<u2")
    if bits.size:
        space = dataset.id.get_space()
        space.select_hyperslab((rows.start, *[0] * (len(shape) - 1)), shape)
        memory = h5py.h5s.create_simple(shape)
        dataset.id.read(memory, space, bits, mtype=dataset.id.get_type())
    return bits


def widen(bits: UInt16[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The float32 of the same value; exact, since bfloat16 is the upper half of float32.

    Example:
        >>> widen(np.array([0x3F80, 0xC000], dtype=np.uint16))
        array([ 1., -2.], dtype=float32)
    """
    wide: np.ndarray = np.left_shift(bits, 16, dtype=np.uint32)
    return wide.view(np.float32)
