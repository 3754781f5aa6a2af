"""A full read of a store that compares everything with what the format says of it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from interp.cache.errors import InputError, StoreError
from interp.cache.manifest import MANIFEST_NAME, PartEntry, read_manifest, read_unfinished
from interp.cache.part_index import index_name
from interp.cache.share_files import usage_manifest
from interp.cache.sources import store_source
from interp.cache.verify_index import check_index
from interp.cache.verify_manifest import check_manifest
from interp.cache.verify_part import check_part
from interp.cache.verify_usage import check_usage


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was read and found sound."""

    n_parts: int
    n_prompts: int
    n_tokens: int | None
    """None of a table of usage, which does not say."""
    n_bytes: int


def verify(path: str | Path, *, trusted: bool | None = None) -> Verified:
    """Read all of a store: digests, sizes, offsets, ranges, weights, checksums of all chunks.

    Of the tier `aggregate` it is the table of usage; of a single part that part, compared with the
    manifest beside it where that lists it.

    Args:
        path: The folder of a store, or a part.
        trusted: As in `open_store`.

    Raises:
        InputError: If nothing is at `path`, or it is a URL.
        StoreError: At the first fault, with its part and dataset.
    """
    if "://" in str(path):
        raise InputError(
            f"{path} lies elsewhere, and all of it must be read to verify it; pull it first with "
            "interp pull, and verify the copy"
        )
    folder = Path(path)
    if folder.is_file():
        return _verified_part(folder, trusted=trusted)
    table = usage_manifest(folder)
    if table is not None:
        check_usage(folder, table)
        return Verified(
            n_parts=0,
            n_prompts=table["n_prompts"],
            n_tokens=None,
            n_bytes=table["usage"]["bytes"],
        )
    manifest, entries = read_manifest(folder)
    for entry in entries:
        _check_digests(folder, entry)
    source = store_source(folder, trusted=trusted, storage_options=None)
    check_manifest(folder, manifest, entries, layout=source.layout, provenance=source.provenance)
    for part, entry in zip(source.parts, entries, strict=True):
        check_index(folder, entry)
        check_part(part, source.layout)
    return _verified(entries)


def _verified_part(path: Path, *, trusted: bool | None) -> Verified:
    """A part is complete by itself; only its digests stand elsewhere."""
    has_manifest = (path.parent / MANIFEST_NAME).is_file()
    entries = read_unfinished(path.parent)[1] if has_manifest else []
    listed = [entry for entry in entries if entry.name == path.name]
    for entry in listed:
        _check_digests(path.parent, entry)
    source = store_source(path, trusted=trusted, storage_options=None)
    for entry in listed:
        check_index(path.parent, entry)
    (part,) = source.parts
    check_part(part, source.layout)
    return _verified([PartEntry.from_json(source.manifest["parts"][0])])


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
