"""A full read of a store that compares everything with what the format says of it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from interp.cache.errors import StoreError
from interp.cache.manifest import MANIFEST_NAME, PartEntry, read_manifest
from interp.cache.part_index import index_name
from interp.cache.sources import store_source
from interp.cache.verify_index import check_index
from interp.cache.verify_manifest import check_manifest
from interp.cache.verify_part import check_part


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
    check_manifest(folder, manifest, entries, layout=source.layout, provenance=source.provenance)
    for part, entry in zip(source.parts, entries, strict=True):
        check_index(folder, entry)
        check_part(part, source.layout)
    return _verified(entries)


def _verified(entries: Sequence[PartEntry]) -> Verified:
    return Verified(
        n_parts=len(entries),
        n_prompts=sum(entry.n_prompts for entry in entries),
        n_tokens=sum(entry.n_tokens for entry in entries),
        n_bytes=sum(entry.bytes for entry in entries),
    )


def _check_digests(folder: Path, entry: PartEntry) -> None:
    _expect_digest(folder / entry.name, entry.sha256)
    if entry.index_sha256 is None:
        return
    index = folder / index_name(entry.name)
    if not index.is_file():
        raise StoreError(f"{index} is missing; copy the store again, whole")
    _expect_digest(index, entry.index_sha256)


def _expect_digest(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise StoreError(
            f"{path} has the SHA-256 {found[:12]}..., and {MANIFEST_NAME} says "
            f"{str(sha256)[:12]}...; copy the store again"
        )
