"""A full read of a store that compares everything with what the format says of it."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from interp.cache.checks import check_experts, check_norms, check_weights
from interp.cache.errors import StoreError
from interp.cache.manifest import MANIFEST_NAME, PartEntry, read_manifest
from interp.cache.opened import OpenedPart
from interp.cache.part_index import INDEX_FORMAT, index_name
from interp.cache.records import SEGMENTS, Layout
from interp.cache.sources import store_source

BLOCK_TOKENS = 2**16
BLOCK_ROWS = 2**12


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was read and found sound."""

    n_parts: int
    n_prompts: int
    n_tokens: int
    n_bytes: int


def verify(path: str | Path, *, trusted: bool | None = None) -> Verified:
    """Read all of a store: digests, sizes, offsets, ranges, weights, checksums of all chunks.

    Args:
        path: The folder of a store.
        trusted: As in `open_store`.

    Raises:
        InputError: If nothing is at `path`.
        StoreError: At the first fault, with its part and dataset.
    """
    folder = Path(path)
    manifest, entries = read_manifest(folder)
    for entry in entries:
        _check_digests(folder, entry)
    source = store_source(folder, trusted=trusted, storage_options=None)
    for part in source.parts:
        _check_part(part, source.layout)
    _check_totals(folder, manifest, entries)
    return Verified(
        n_parts=len(entries),
        n_prompts=sum(entry.n_prompts for entry in entries),
        n_tokens=sum(entry.n_tokens for entry in entries),
        n_bytes=sum(entry.bytes for entry in entries),
    )


def _check_digests(folder: Path, entry: PartEntry) -> None:
    _expect_digest(folder / entry.name, entry.sha256)
    index = folder / index_name(entry.name)
    if entry.index_sha256 is None:
        return
    if not index.is_file():
        raise StoreError(f"{index} is missing; copy the store again, whole")
    _expect_digest(index, entry.index_sha256)
    if json.loads(index.read_bytes()).get("format") != INDEX_FORMAT:
        raise StoreError(f"{index} is no index of a part; copy the store again")


def _expect_digest(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise StoreError(
            f"{path} has the SHA-256 {found[:12]}..., and {MANIFEST_NAME} says {sha256[:12]}...; "
            "copy the store again"
        )


def _check_part(part: OpenedPart, layout: Layout) -> None:
    """Everything in a part is read, and is what the format says."""
    try:
        _check_tokens(part)
        for start in range(0, part.n_tokens, BLOCK_TOKENS):
            rows = slice(start, min(start + BLOCK_TOKENS, part.n_tokens))
            _check_routing(part, layout, rows)
        for path, shape in part.source.shapes().items():
            _read_all(part, path, shape)
        _check_resid_index(part)
    except ValueError as error:
        raise StoreError(
            f"{part.source.name}: {error}; the store holds what no capture gives"
        ) from error


def _check_tokens(part: OpenedPart) -> None:
    read = part.source.read
    token_id, position = read("tokens/token_id"), read("tokens/position")
    if token_id.min() < 0:
        raise ValueError(f"tokens/token_id holds {token_id.min()}, expected 0 or more")
    _expect_rising("tokens/position", position, part.offset)
    segment = read("tokens/segment")
    if segment.max() >= len(SEGMENTS):
        raise ValueError(f"tokens/segment holds {segment.max()}, expected 0 to {len(SEGMENTS) - 1}")
    if (read("tokens/logprob") > 1e-3).any():
        raise ValueError("tokens/logprob holds values above 0")
    text_offset, n_bytes = read("prompts/text_offset"), part.source.shapes()["prompts/text"][0]
    if text_offset[0] != 0 or text_offset[-1] != n_bytes or (np.diff(text_offset) < 0).any():
        raise ValueError(f"prompts/text_offset does not rise from 0 to {n_bytes}")
    if "tokens/text_end" in part.source.shapes():
        _check_text_end(read("tokens/text_end"), part.offset, np.diff(text_offset))


def _expect_rising(path: str, values: np.ndarray, offset: np.ndarray) -> None:
    """Positions rise strictly within each prompt, from 0 or more."""
    is_first = np.zeros(len(values), dtype=bool)
    is_first[offset[:-1]] = True
    fault = np.flatnonzero(np.where(is_first, values < 0, np.diff(values, prepend=-1) <= 0))
    if fault.size:
        raise ValueError(f"{path} does not rise at token {fault[0]}")


def _check_text_end(ends: np.ndarray, offset: np.ndarray, n_text: np.ndarray) -> None:
    is_first = np.zeros(len(ends), dtype=bool)
    is_first[offset[:-1]] = True
    falls = ~is_first & (np.diff(ends, prepend=0) < 0)
    beyond = ends > np.repeat(n_text, np.diff(offset))
    fault = np.flatnonzero(falls | beyond | (ends < 0))
    if fault.size:
        raise ValueError(f"tokens/text_end falls or leaves its text at token {fault[0]}")


def _check_routing(part: OpenedPart, layout: Layout, rows: slice) -> None:
    read = part.source.read
    shape = (part.n_tokens, layout.n_layers, layout.top_k)
    for path in ("router/expert_indices", "router/expert_weights"):
        if part.source.shapes().get(path) != shape:
            raise ValueError(f"{path} has shape {part.source.shapes().get(path)}, expected {shape}")
    try:
        check_experts(read("router/expert_indices", rows=[rows]), n_experts=layout.n_experts)
        weights = read("router/expert_weights", rows=[rows])
        check_weights(weights, weights_sum=layout.weights_sum)
        if layout.expert_output_norms:
            check_norms(read("experts/expert_output_norms", rows=[rows]))
        if layout.router_logits and np.isnan(read("router/router_logits", rows=[rows])).any():
            raise ValueError("router_logits holds NaN")
    except ValueError as error:
        raise ValueError(f"tokens {rows.start} to {rows.stop - 1}: {error}") from error


def _read_all(part: OpenedPart, path: str, shape: Sequence[int]) -> None:
    """Read a dataset block by block, so that every chunk proves its checksum."""
    for rows in _blocks(shape[0] if shape else 0):
        part.source.read(path, rows=[rows])


def _blocks(n_rows: int) -> Iterator[slice]:
    for start in range(0, n_rows, BLOCK_ROWS):
        yield slice(start, min(start + BLOCK_ROWS, n_rows))


def _check_resid_index(part: OpenedPart) -> None:
    shapes = part.source.shapes()
    if "resid/token_index" not in shapes:
        n_rows = part.n_tokens
    else:
        index = part.source.read("resid/token_index")
        n_rows = len(index)
        if n_rows and (index[0] < 0 or index[-1] >= part.n_tokens or (np.diff(index) <= 0).any()):
            raise ValueError(f"resid/token_index does not rise within 0 to {part.n_tokens - 1}")
    for path, shape in shapes.items():
        if path.startswith("resid/") and path != "resid/token_index" and shape[0] != n_rows:
            raise ValueError(f"{path} has {shape[0]} rows, expected {n_rows}")


def _check_totals(folder: Path, manifest: dict[str, Any], entries: Sequence[PartEntry]) -> None:
    for name in ("n_prompts", "n_tokens"):
        total = sum(getattr(entry, name) for entry in entries)
        if manifest.get(name) != total:
            raise StoreError(
                f"{folder}/{MANIFEST_NAME} says {name} is {manifest.get(name)}, and its parts "
                f"hold {total}; copy the store again"
            )
