"""The manifest of a store: its parts with their digests, and whether it is complete."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from interp.cache.errors import InputError, StoreError
from interp.cache.part import FORMAT, FORMAT_VERSION, part_name
from interp.cache.records import Layout

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class PartEntry:
    """One sealed part."""

    name: str
    bytes: int
    sha256: str
    n_prompts: int
    n_tokens: int


def write_whole(path: Path, content: bytes | memoryview) -> str:
    """Write a file under a temporary name, read it back, rename it into place; give its SHA-256.

    Raises:
        StoreError: If the disk gives back other bytes than were written.
    """
    staged = path.with_name(f".{path.name}.tmp")
    digest = hashlib.sha256(content).hexdigest()
    try:
        with staged.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with staged.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise StoreError(
                    f"{path} was not written as given; check the disk and capture again"
                )
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    return digest


def canonical_provenance(provenance: Mapping[str, Any]) -> str:
    """Provenance as JSON text, the same for the same content.

    Raises:
        ValueError: If it holds anything that JSON does not have.
    """
    try:
        text = json.dumps(provenance, sort_keys=True, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"provenance must be JSON values only ({error}); convert them first"
        ) from error
    return text


def json_values(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance as it comes back from a store: tuples as lists, all keys as text."""
    values: dict[str, Any] = json.loads(canonical_provenance(provenance))
    return values


def same_layout(layout: Layout) -> dict[str, Any]:
    """The fields of a layout in the one form in which two layouts compare."""
    fields = asdict(replace(layout, resid_sites=tuple(sorted(layout.resid_sites))))
    if not layout.resid_sites:
        fields["resid_dtype"] = "float32"
    canonical: dict[str, Any] = json.loads(json.dumps(fields))
    return canonical


def manifest_text(
    parts: list[PartEntry], *, layout: Layout, provenance: str, created: str, complete: bool
) -> str:
    """The manifest as it stands in the file."""
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "complete": complete,
        "created": created,
        "n_prompts": sum(part.n_prompts for part in parts),
        "n_tokens": sum(part.n_tokens for part in parts),
        "layout": same_layout(layout),
        "provenance_sha256": hashlib.sha256(provenance.encode()).hexdigest(),
        "parts": [asdict(part) for part in parts],
    }
    return json.dumps(document, indent=1) + "\n"


def read_manifest(store: Path) -> tuple[dict[str, Any], list[PartEntry]]:
    """The manifest of a finished store, and its parts.

    Raises:
        InputError: If nothing is there.
        StoreError: If it is no store, is unfinished, or of a format that this version cannot read.
    """
    if not store.exists():
        raise InputError(f"{store} does not exist; give the path of a store, a folder NAME.moe")
    manifest = _parsed(store)
    if manifest.get("format") != FORMAT:
        raise StoreError(f"{store} has the format {manifest.get('format')!r}, expected {FORMAT!r}")
    check_version(str(store), str(manifest.get("format_version")))
    if manifest.get("complete") is not True:
        raise StoreError(f"{store} was not finished; delete the folder and capture it again")
    try:
        entries = [PartEntry(**entry) for entry in manifest["parts"]]
    except (KeyError, TypeError) as error:
        raise StoreError(
            f"{store}/{MANIFEST_NAME} does not list its parts ({error}); copy it again"
        ) from error
    _check_entries(store, entries)
    return manifest, entries


def check_version(where: str, version: str) -> None:
    """Refuse a format of another major version."""
    if version.partition(".")[0] != FORMAT_VERSION.partition(".")[0]:
        raise StoreError(
            f"{where} has format version {version}, and this version of moe-interp reads "
            f"{FORMAT_VERSION}; install the version that wrote it"
        )


def _parsed(store: Path) -> dict[str, Any]:
    path = store / MANIFEST_NAME
    if not path.is_file() and not list(store.glob("part-*.h5")):
        raise InputError(
            f"{store} is no store: it holds neither {MANIFEST_NAME} nor a part; give the path of a "
            "store, a folder NAME.moe"
        )
    if not path.is_file():
        raise StoreError(
            f"{store} holds no {MANIFEST_NAME}, so it is no finished store; capture it again"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read ({error}); copy the store again") from error
    if not isinstance(manifest, dict):
        raise StoreError(f"{path} holds no JSON object; copy the store again")
    return manifest


def _check_entries(store: Path, entries: list[PartEntry]) -> None:
    expected = [part_name(number) for number in range(len(entries))]
    if not entries or [entry.name for entry in entries] != expected:
        raise StoreError(
            f"{store}/{MANIFEST_NAME} must list {part_name(0)} and on, in order; copy it again"
        )
    for entry in entries:
        path = store / entry.name
        if not path.is_file():
            raise StoreError(f"{path} is missing; copy the store again, whole")
        if path.stat().st_size != entry.bytes:
            raise StoreError(
                f"{path} has {path.stat().st_size} bytes, and the manifest says {entry.bytes}; "
                "copy the store again"
            )
