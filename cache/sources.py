"""Where a store lies: a folder, a single part, or a server; and whether it may be trusted."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from interp.cache.errors import StoreError
from interp.cache.manifest import (
    MANIFEST_NAME,
    PartEntry,
    canonical_json,
    checked_manifest,
    layout_from_json,
    read_manifest,
    same_layout,
)
from interp.cache.opened import OpenedPart, opened
from interp.cache.part import FORMAT, FORMAT_VERSION, part_name
from interp.cache.receive import ORIGIN_NAME
from interp.cache.records import Layout
from interp.cache.sandbox import audited_all
from interp.cache.sealed import SealedPart


@dataclass(frozen=True, kw_only=True)
class StoreSource:
    """A store that was opened: what its manifest says, and its parts."""

    path: Path
    manifest: dict[str, Any]
    layout: Layout
    provenance: dict[str, Any]
    parts: tuple[OpenedPart, ...]


def store_source(
    path: str | Path, *, trusted: bool | None, storage_options: Mapping[str, Any] | None
) -> StoreSource:
    """The store at a path or URL; arguments and errors as `open_store` has them."""
    if "://" in str(path):
        return _remote(str(path), storage_options)
    folder = Path(path)
    if folder.is_file():
        return _single(folder, trusted=trusted)
    manifest, entries = read_manifest(folder)
    is_trusted = not (folder / ORIGIN_NAME).exists() if trusted is None else trusted
    source = _local(folder, manifest, entries, trusted=is_trusted)
    if read_manifest(folder)[0] != manifest:
        raise StoreError(f"{folder} was replaced while it was opened; open it again")
    return source


def _local(
    folder: Path, manifest: dict[str, Any], entries: Sequence[PartEntry], *, trusted: bool
) -> StoreSource:
    paths = [folder / entry.name for entry in entries]
    if not trusted:
        audited_all(paths)
    # The index of a stranger vouches for nothing that the audit has seen.
    sealed = [
        SealedPart(path, entry if trusted else None)
        for path, entry in zip(paths, entries, strict=True)
    ]
    first = sealed[0]
    for part in sealed:
        if (
            same_layout(part.layout) != same_layout(first.layout)
            or part.provenance != first.provenance
        ):
            raise StoreError(
                f"{part.path} has another layout or provenance than {first.path.name}; "
                "its parts are of different stores, so copy the store again"
            )
    _expect_provenance(folder, manifest, first.provenance)
    parts = tuple(opened(each, entry) for each, entry in zip(sealed, entries, strict=True))
    return StoreSource(
        path=folder,
        manifest=manifest,
        layout=first.layout,
        provenance=first.provenance,
        parts=parts,
    )


def _single(path: Path, *, trusted: bool | None) -> StoreSource:
    """A part by itself, which is as good as a store of one part."""
    if trusted is None:
        trusted = not (path.parent / ORIGIN_NAME).exists()
    if not trusted:
        audited_all([path])
    part = SealedPart(path)
    shapes = part.shapes()
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    entry = PartEntry(
        name=path.name,
        bytes=path.stat().st_size,
        sha256=sha256,
        n_prompts=shapes.get("prompts/offset", (1,))[0] - 1,
        n_tokens=shapes.get("tokens/token_id", (0,))[0],
    )
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "complete": True,
        "layout": same_layout(part.layout),
        "parts": [asdict(entry)],
    }
    return StoreSource(
        path=path,
        manifest=manifest,
        layout=part.layout,
        provenance=part.provenance,
        parts=(opened(part, entry),),
    )


def _remote(url: str, storage_options: Mapping[str, Any] | None) -> StoreSource:
    from interp.cache.remote import open_remote

    found = open_remote(url, storage_options=storage_options)
    entries = checked_manifest(found.manifest, url)
    parts = zip(found.parts, entries, strict=True)
    return StoreSource(
        path=Path(found.url.rstrip("/").rpartition("/")[2]),
        manifest=found.manifest,
        layout=layout_from_json(found.manifest["layout"]),
        provenance=found.manifest["provenance"],
        parts=tuple(opened(part, entry) for part, entry in parts),
    )


def _expect_provenance(
    folder: Path, manifest: Mapping[str, Any], provenance: Mapping[str, Any]
) -> None:
    """The manifest and the parts are of the same capture."""
    digest = hashlib.sha256(canonical_json(provenance).encode()).hexdigest()
    if manifest.get("provenance_sha256") != digest:
        raise StoreError(
            f"{folder}/{MANIFEST_NAME} is of another capture than {part_name(0)}; copy the store "
            "again"
        )
