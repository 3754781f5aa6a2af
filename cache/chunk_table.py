"""The index of a part, read from strangers: checked in full before any of it is used."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from interp.cache.chunk_codec import FILTERS, array_dtype, raw_length_fits
from interp.cache.errors import StoreError
from interp.cache.manifest import PartEntry, check_version
from interp.cache.part_index import INDEX_FORMAT

CHUNK_BYTES_LIMIT = 2**28
"""Decoded size of the largest chunk that is read."""
INFLATED_LIMIT = 32
"""A part decodes to at most this many times its size, and 64 MiB."""
DATASET_NAME = re.compile(r"\w[\w.-]{0,99}(/\w[\w.-]{0,99}){0,7}", re.ASCII)
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class ChunkedDataset:
    """Where the chunks of one dataset lie in the file of their part, in C order over the grid."""

    shape: tuple[int, ...]
    dtype: str
    """As in the index, such as `<u1`, `bfloat16`, `bool` or `S12`."""
    chunks: tuple[int, ...]
    """Shape of a chunk; `shape` where there is none."""
    filters: tuple[str, ...]
    offset: np.ndarray
    """Where each raw chunk starts, in bytes."""
    length: np.ndarray
    """Of each raw chunk, in bytes."""
    sha256: tuple[str, ...]
    """Of each raw chunk."""
    crc32: tuple[int, ...] = ()
    """Of each raw chunk, for a part on this machine; empty in an index without."""

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of chunks along each axis; an axis of no length has none."""
        return tuple(-(-n // max(step, 1)) for n, step in zip(self.shape, self.chunks, strict=True))

    @property
    def decoded_bytes(self) -> int:
        """Size of all chunks once they are decoded."""
        return len(self.sha256) * prod(self.chunks) * array_dtype(self.dtype).itemsize


def strict_json(content: bytes) -> dict[str, Any]:
    """One JSON object, without doubled keys and without NaN or infinity.

    Raises:
        ValueError: If it is anything else.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON value")

    try:
        document = json.loads(content.decode(), object_pairs_hook=_unique, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(document, dict):
        raise ValueError("it holds no JSON object")
    return document


def parse_index(content: bytes, *, entry: PartEntry, where: str) -> dict[str, ChunkedDataset]:
    """The datasets of a part by their path, such as `router/expert_indices`.

    Every range lies within the part, no two overlap, and every size is bounded by what its bytes
    can decode to, so that no reading can take much more memory than an honest part of that size.

    Args:
        content: The index file.
        entry: What the manifest says of the part.
        where: Address of the index, for sentences.

    Raises:
        StoreError: If it is no index of this part.
    """
    try:
        document = strict_json(content)
        _require(document.get("format") == INDEX_FORMAT, "it is no index of a part")
        check_version(where, document.get("format_version"))
        said = (document.get("part"), document.get("bytes"), document.get("sha256"))
        _require(said == (entry.name, entry.bytes, entry.sha256), "it is of another part")
        described = document.get("datasets")
        _require(isinstance(described, dict), "it lists no datasets")
        datasets = {path: _parsed(path, each) for path, each in dict(described or {}).items()}
        _check_ranges(datasets, entry.bytes)
    except (ValueError, OverflowError) as error:
        raise StoreError(
            f"{where} cannot be used ({error}); it is damaged or was replaced, so ask for the "
            "store to be published again"
        ) from error
    return datasets


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    _require(len(document) == len(pairs), "a key occurs twice in one object")
    return document


def _parsed(path: str, described: Any) -> ChunkedDataset:
    _require(DATASET_NAME.fullmatch(path) is not None, f"{path[:80]!r} is no name of a dataset")
    _require(isinstance(described, Mapping), f"{path} is not described")
    shape, chunks = _sizes(described, "shape"), described.get("chunks")
    digests, dtype = described.get("sha256"), described.get("dtype")
    _require(1 <= len(shape) <= 8, f"{path} has {len(shape)} axes")
    _require(isinstance(dtype, str), f"{path} has no dtype")
    _require(chunks is not None or 0 in shape, f"{path} has values and no chunks")
    _require(
        isinstance(digests, list)
        and all(isinstance(each, str) and DIGEST.fullmatch(each) for each in digests),
        f"{path} has a digest that is no SHA-256",
    )
    dataset = ChunkedDataset(
        shape=shape,
        dtype=str(dtype),
        chunks=shape if chunks is None else _sizes(described, "chunks"),
        filters=_filters(path, described.get("filters")),
        offset=np.array(_sizes(described, "offset"), dtype=np.int64),
        length=np.array(_sizes(described, "length"), dtype=np.int64),
        sha256=tuple(digests or ()),
        crc32=_sizes(described, "crc32") if "crc32" in described else (),
    )
    _check_chunks(path, dataset)
    return dataset


def _sizes(described: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """A list of whole numbers from 0; True is none."""
    values = described.get(name)
    _require(
        isinstance(values, list)
        and all(type(each) is int and 0 <= each < 2**62 for each in values),
        f"{name} is no list of sizes",
    )
    return tuple(values or ())


def _filters(path: str, names: Any) -> tuple[str, ...]:
    known = isinstance(names, list) and names == [each for each in FILTERS if each in names]
    _require(known, f"{path} has the filters {names!r}, expected some of {FILTERS} in this order")
    return tuple(names)


def _check_chunks(path: str, dataset: ChunkedDataset) -> None:
    """Compare the number of chunks with the grid, and each raw length with its decoded size."""
    same_axes = len(dataset.chunks) == len(dataset.shape)
    _require(same_axes, f"{path} has chunks of {len(dataset.chunks)} axes")
    _require(0 in dataset.shape or 0 not in dataset.chunks, f"{path} has chunks of no size")
    counts = {len(dataset.offset), len(dataset.length), len(dataset.sha256)}
    counts |= {len(dataset.crc32)} if dataset.crc32 else set()
    _require(counts == {prod(dataset.grid)}, f"{path} does not list {prod(dataset.grid)} chunks")
    decoded = prod(dataset.chunks) * array_dtype(dataset.dtype).itemsize
    _require(decoded <= CHUNK_BYTES_LIMIT, f"{path} has chunks of {decoded} bytes")
    fit = all(
        raw_length_fits(length, decoded=decoded, filters=dataset.filters)
        for length in set(dataset.length.tolist())
    )
    _require(fit, f"{path} has a chunk whose length does not fit its shape")


def _check_ranges(datasets: Mapping[str, ChunkedDataset], n_bytes: int) -> None:
    """Refuse ranges that overlap or leave the part, and decoded sizes beyond all measure."""
    nothing = np.zeros(0, dtype=np.int64)
    offset = np.concatenate([nothing, *(each.offset for each in datasets.values())])
    length = np.concatenate([nothing, *(each.length for each in datasets.values())])
    order = np.argsort(offset)
    start, stop = offset[order], (offset + length)[order]
    _require(bool(np.all(start[1:] >= stop[:-1])), "two of its chunks overlap")
    _require(bool(np.all(stop <= n_bytes)), "a chunk reaches beyond the part")
    decoded = sum(each.decoded_bytes for each in datasets.values())
    _require(
        decoded <= INFLATED_LIMIT * n_bytes + 2**26, f"its chunks would decode to {decoded} bytes"
    )


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
