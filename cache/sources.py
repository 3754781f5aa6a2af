"""Where a store lies: a folder, a single part, or a server; and whether it may be trusted."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from interp.cache.errors import InputError, StoreError
from interp.cache.layout_datasets import compared_layout
from interp.cache.manifest import (
    MANIFEST_NAME,
    PartEntry,
    canonical_json,
    read_manifest,
    read_unfinished,
    same_layout,
)
from interp.cache.opened import OpenedPart, opened
from interp.cache.part import FORMAT, FORMAT_VERSION, part_name
from interp.cache.receive import ORIGIN_NAME
from interp.cache.records import Layout
from interp.cache.sandbox import audited_all
from interp.cache.sealed import SealedPart

SIGNATURE = b"\x89HDF\r\n\x1a\n"
"""How every HDF5 file begins."""


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
    if read_unfinished(folder)[0] != manifest:
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
    _expect_hdf5(path)
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
    tier = _tier_beside(path, sha256)
    manifest |= {} if tier is None else {"tier": tier}
    return StoreSource(
        path=path,
        manifest=manifest,
        layout=part.layout,
        provenance=part.provenance,
        parts=(opened(part, entry),),
    )


def _expect_hdf5(path: Path) -> None:
    with path.open("rb") as file:
        is_hdf5 = file.read(len(SIGNATURE)) == SIGNATURE
    if not is_hdf5:
        raise StoreError(
            f"{path} is no part of a store: it is no HDF5 file; give a store, a folder NAME.moe, "
            "or one of its parts"
        )


def _tier_beside(path: Path, sha256: str) -> str | None:
    """What the manifest beside a part says was left out of it; None where none knows this part."""
    beside = path.with_name(MANIFEST_NAME)
    if not beside.is_file():
        return None
    try:
        manifest, entries = read_manifest(path.parent)
    except (InputError, StoreError):  # the part is whole, whatever lies around it
        return None
    is_listed = any(each.name == path.name and each.sha256 == sha256 for each in entries)
    return str(manifest.get("tier", "full")) if is_listed else None


def _remote(url: str, storage_options: Mapping[str, Any] | None) -> StoreSource:
    from interp.cache.remote import open_remote

    found = open_remote(url, storage_options=storage_options)
    where = found.url.rstrip("/")
    layout = compared_layout(found.manifest, found.entries, found.parts, where=where)
    parts = zip(found.parts, found.entries, strict=True)
    return StoreSource(
        path=Path(where.rpartition("/")[2]),
        manifest=found.manifest,
        layout=layout,
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
