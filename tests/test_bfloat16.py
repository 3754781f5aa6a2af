"""bfloat16 through HDF5: bit for bit, and readable by tools that know nothing of it."""

import io
import struct
from collections.abc import Iterator

import h5py
import numpy as np
import pytest

from interp.cache.bfloat16 import is_bfloat16, read_bits, widen
from interp.cache.growing import GrowingDataset

EVERY_PATTERN = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
"""All values there are: zeros, subnormals, infinities and every NaN payload among them."""


@pytest.fixture
def part() -> Iterator[h5py.File]:
    with h5py.File(io.BytesIO(), "w", libver=("v110", "v110")) as file:
        yield file


def store(part: h5py.File, bits: np.ndarray) -> h5py.Dataset:
    growing = GrowingDataset(
        part,
        "values",
        dtype=bits.dtype,
        row_shape=bits.shape[1:],
        chunk_rows=16,
        bfloat16=True,
    )
    growing.append(bits)
    growing.finish()
    return part["values"]


def float32_bits(bits: int) -> int:
    """The bits of the float32 of the same value, by hand: 16 zero bits more."""
    return int.from_bytes(struct.pack("<HH", 0, bits), "little")


def test_every_bit_pattern_comes_back_unchanged(part: h5py.File) -> None:
    assert np.array_equal(read_bits(store(part, EVERY_PATTERN)), EVERY_PATTERN)


def test_every_bit_pattern_widens_to_the_float32_of_the_same_value() -> None:
    wide = widen(EVERY_PATTERN).view(np.uint32).ravel()
    assert wide.tolist() == [float32_bits(bits) for bits in range(2**16)]


def test_known_bit_patterns_have_their_known_values() -> None:
    bits = np.array([0x3F80, 0xC000, 0x0001, 0x8000, 0x7F80, 0x3DCD], dtype=np.uint16)
    expected = [1.0, -2.0, 2.0**-133, -0.0, np.inf, 205 / 128 * 2.0**-4]
    assert widen(bits).tolist() == expected


def test_type_has_the_fields_of_bfloat16(part: h5py.File) -> None:
    float_type = store(part, EVERY_PATTERN).id.get_type()
    found = (float_type.get_size(), float_type.get_fields(), float_type.get_ebias())
    assert found == (2, (15, 7, 8, 0, 7), 127)
    assert float_type.get_class() == h5py.h5t.FLOAT


def test_conversion_of_the_hdf5_library_reads_the_same_numbers(part: h5py.File) -> None:
    converted = store(part, EVERY_PATTERN).astype(np.float32)[()]
    assert np.array_equal(converted, widen(EVERY_PATTERN), equal_nan=True)


def test_no_rows_come_back_as_no_rows(part: h5py.File) -> None:
    dataset = store(part, np.empty((0, 8), dtype=np.uint16))
    assert is_bfloat16(dataset)
    assert read_bits(dataset).shape == (0, 8)


def test_float16_is_not_taken_for_bfloat16(part: h5py.File) -> None:
    assert not is_bfloat16(part.create_dataset("half", data=np.ones(3, dtype="<f2")))
