"""Exact quantiles of numbers that come in parts: memory does not grow with their number."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt

BITS = 16
"""Bits that are told apart in one pass."""


def streamed_quantiles(
    parts: Callable[[], Iterable[Float[np.ndarray, "_"]]], shares: Float[np.ndarray, "quantiles"]
) -> Float[np.ndarray, "_"]:
    """`np.quantile` of all parts end to end, to the last digit; NaNs are passed over.

    Radix selection: each pass counts 16 more bits of the numbers that share the bits found so far
    with a wanted one (two passes for float32, four for float64). A count of 2^16 integers for each
    wanted number is all that is held, and counts of parts add.

    Args:
        parts: Goes over all parts from the start, each time it is called; all of one dtype.
        shares: From 0 to 1.

    Returns:
        Empty if there is no number.

    Example:
        >>> parts = [np.array([3.0, 1.0]), np.array([np.nan, 2.0, 4.0])]
        >>> streamed_quantiles(lambda: parts, np.array([0.0, 0.5, 1.0]))
        array([1. , 2.5, 4. ])
    """
    counts, total = np.zeros((1, 2**BITS), dtype=np.int64), 64
    known = np.zeros(1, dtype=np.uint64)
    for part in parts():
        total = 8 * part.dtype.itemsize
        _count(counts, ordered_bits(part[~np.isnan(part)]), known, total)
    if not counts.any():
        return np.empty(0)
    low, high, share = _ranks(int(counts.sum()), shares)
    rank = np.unique(np.concatenate([low, high]))
    prefix, left = _digits(counts[np.zeros(len(rank), dtype=int)], rank)
    for width in range(total - BITS, 0, -BITS):
        known, of = np.unique(prefix, return_inverse=True)
        counts = np.zeros((len(known), 2**BITS), dtype=np.int64)
        for part in parts():
            _count(counts, ordered_bits(part[~np.isnan(part)]), known, width)
        digit, left = _digits(counts[of], left)
        prefix = (prefix << np.uint64(BITS)) | digit
    found = _numbers(prefix, total)
    return _between(found[np.searchsorted(rank, low)], found[np.searchsorted(rank, high)], share)


def quantiles_of_counts(
    values: Float[np.ndarray, "values"],
    counts: Int[np.ndarray, "values"],
    shares: Float[np.ndarray, "quantiles"],
) -> Float[np.ndarray, "quantiles"]:
    """`np.quantile` of rising values that occur so often, at least one of them once.

    Example:
        >>> quantiles_of_counts(np.array([1.0, 2.0]), np.array([3, 1]), np.array([0.5, 1.0]))
        array([1., 2.])
    """
    low, high, share = _ranks(int(counts.sum()), shares)
    upto = np.cumsum(counts)
    first, second = (values[np.searchsorted(upto, rank, side="right")] for rank in (low, high))
    return _between(first, second, share)


def _ranks(
    n: int, shares: Float[np.ndarray, "quantiles"]
) -> tuple[
    Int[np.ndarray, "quantiles"], Int[np.ndarray, "quantiles"], Float[np.ndarray, "quantiles"]
]:
    """Ranks of the two numbers that a quantile lies between, and how far from the first."""
    at = shares * (n - 1)
    low = np.floor(at).astype(np.int64)
    return low, np.minimum(low + 1, n - 1), at - low


def _between(
    first: Float[np.ndarray, "quantiles"],
    second: Float[np.ndarray, "quantiles"],
    share: Float[np.ndarray, "quantiles"],
) -> Float[np.ndarray, "quantiles"]:
    """Linear between the two, and as numpy has it, so that both ends are met exactly."""
    from_second = second - (second - first) * (1.0 - share)
    return np.asarray(np.where(share < 0.5, first + (second - first) * share, from_second))


def _digits(
    counts: Int[np.ndarray, "wanted digits"], left: Int[np.ndarray, "wanted"]
) -> tuple[UInt[np.ndarray, "wanted"], Int[np.ndarray, "wanted"]]:
    """Next digit of the numbers of these ranks, and their ranks among those that share it."""
    upto = np.cumsum(counts, axis=1)
    digit = (upto <= left[:, None]).sum(axis=1)
    before = np.concatenate([np.zeros((len(left), 1), dtype=np.int64), upto], axis=1)
    passed = np.take_along_axis(before, digit[:, None], axis=1)[:, 0]
    return digit.astype(np.uint64), left - passed


def _count(
    counts: Int[np.ndarray, "known digits"],
    bits: UInt[np.ndarray, "_"],
    known: UInt[np.ndarray, "known"],
    width: int,
) -> None:
    """Count the next digit of the numbers whose leading digits are known, in place."""
    above = bits >> np.uint64(width) if width < 64 else np.zeros_like(bits)
    digit = (bits >> np.uint64(width - BITS)) & np.uint64(2**BITS - 1)
    for place, prefix in enumerate(known):
        counts[place] += np.bincount(digit[above == prefix].astype(np.int64), minlength=2**BITS)


def ordered_bits(values: Float[np.ndarray, "_"]) -> UInt[np.ndarray, "_"]:
    """Unsigned integers in the order of the numbers (-0.0 as 0.0)."""
    unsigned, top, every = _kind(8 * values.dtype.itemsize)
    bits = (values + values.dtype.type(0)).view(unsigned).astype(np.uint64) & every
    return np.asarray(np.where(bits & top, ~bits & every, bits | top))


def _numbers(bits: UInt[np.ndarray, "_"], width: int) -> Float[np.ndarray, "_"]:
    """The numbers of these ordered bits."""
    unsigned, top, every = _kind(width)
    plain = np.where(bits & top, bits ^ top, ~bits & every).astype(unsigned)
    return plain.view(np.float32 if width == 32 else np.float64).astype(np.float64)


def _kind(width: int) -> tuple[type[np.unsignedinteger[Any]], np.uint64, np.uint64]:
    """Integers of as many bits, their highest bit, and all of their bits."""
    kind = np.uint32 if width == 32 else np.uint64
    return kind, np.uint64(1 << (width - 1)), np.uint64((1 << width) - 1)
