"""The manifest of a store: its parts with their digests, and whether it is complete."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from interp.cache.checks import check_layout
from interp.cache.errors import InputError, StoreError
from interp.cache.layout_types import check_layout_types
from interp.cache.part import FORMAT, FORMAT_VERSION, part_name
from interp.cache.records import RESID_SITES, Layout

MANIFEST_NAME = "manifest.json"
DIGEST_FIELD = "content_sha256"
MANIFEST_FIELDS = (
    "format",
    "format_version",
    "complete",
    "created",
    "tier",
    "part_bytes",
    "n_prompts",
    "n_tokens",
    "layout",
    "self_check",
    "provenance_sha256",
    "provenance",
    "parts",
    DIGEST_FIELD,
)
"""All that a manifest of this version may say."""
ROUTING_TIERS = ("full", "no_text")
"""Tiers that keep routing, and so have parts; see docs/sharing.md."""
VERSION = re.compile(r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)")


@dataclass(frozen=True, kw_only=True)
class PartEntry:
    """One sealed part."""

    name: str
    bytes: int
    sha256: str
    n_prompts: int
    n_tokens: int
    index_bytes: int | None = None
    """Size of the index of the part; None in a store that was written without."""
    index_sha256: str | None = None

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "PartEntry":
        """The entry as a manifest has it; what a later minor version added is left out."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in entry.items() if name in known})


def canonical_json(content: Mapping[str, Any]) -> str:
    """Provenance, or a manifest that holds it, as JSON text: the same for the same content.

    Raises:
        ValueError: If it holds anything that JSON does not have.
    """
    try:
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"provenance must be JSON values only ({error}); convert them first"
        ) from error
    return text


def json_values(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance as it comes back from a store: tuples as lists, all keys as text."""
    values: dict[str, Any] = json.loads(canonical_json(provenance))
    return values


def same_layout(layout: Layout) -> dict[str, Any]:
    """The fields of a layout in the one form in which two layouts compare."""
    fields = asdict(replace(layout, resid_sites=tuple(sorted(layout.resid_sites))))
    if not layout.resid_sites:
        fields["resid_dtype"] = "float32"
    canonical: dict[str, Any] = json.loads(json.dumps(fields))
    return canonical


def layout_from_json(values: Mapping[str, Any]) -> Layout:
    """The layout as a manifest has it; what a later minor version added is left out.

    Raises:
        KeyError: If a field is missing.
        TypeError: If a field has another type than it must have.
        ValueError: If no store can have a field as it is, or fields contradict each other.
    """
    check_layout_types(values)
    known = {each.name for each in fields(Layout)}
    given = {name: value for name, value in values.items() if name in known}
    sites = tuple(site for site in given["resid_sites"] if site in RESID_SITES)
    given |= {"layer_indices": tuple(given["layer_indices"]), "resid_sites": sites}
    layout = Layout(**given)
    check_layout(layout)
    return layout


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a manifest says of a store beside its parts."""

    layout: Layout
    provenance: str
    """Canonical JSON text, as in the parts."""
    created: str
    """When the store was begun, in ISO 8601."""
    part_bytes: int
    """The most that a part has, unless one prompt alone has more."""
    tier: str = "full"
    """What was left out before sharing; see docs/sharing.md."""
    self_check: Mapping[str, Any] | None = None
    """What the capture checked before it wrote anything."""


def manifest_text(parts: Sequence[PartEntry], described: Described, *, complete: bool) -> str:
    """The manifest as it stands in the file."""
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "complete": complete,
        "created": described.created,
        "tier": described.tier,
        "part_bytes": described.part_bytes,
        "n_prompts": sum(part.n_prompts for part in parts),
        "n_tokens": sum(part.n_tokens for part in parts),
        "layout": same_layout(described.layout),
        "self_check": described.self_check,
        "provenance_sha256": hashlib.sha256(described.provenance.encode()).hexdigest(),
        "provenance": json.loads(described.provenance),
        "parts": [asdict(part) for part in parts],
    }
    document[DIGEST_FIELD] = content_digest(document)
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def content_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of all that a manifest says but the time, as canonical JSON; ours.

    The same capture has the same one, whenever it ran.
    """
    said = {name: manifest[name] for name in manifest if name not in ("created", DIGEST_FIELD)}
    return hashlib.sha256(canonical_json(said).encode()).hexdigest()


def read_manifest(store: Path) -> tuple[dict[str, Any], list[PartEntry]]:
    """The manifest of a finished store, and its parts.

    Raises:
        InputError: If nothing is there.
        StoreError: If it is no store, is unfinished, or of a format that this version cannot read.
    """
    manifest, entries = read_unfinished(store)
    if manifest.get("complete") is not True:
        raise StoreError(
            f"{store} was not finished, or is being replaced; run the command that writes it "
            "again, which goes on with it, or delete it"
        )
    if manifest.get("tier") == "aggregate":
        raise InputError(
            f"{store} holds counts of usage and no routing (tier aggregate); read it with "
            "interp.cache.usage_table.read_usage"
        )
    if not entries:
        raise StoreError(f"{store}/{MANIFEST_NAME} lists no part; copy the store again")
    check_content(manifest, f"{store}/{MANIFEST_NAME}", advice="copy the store again")
    return manifest, entries


def check_content(manifest: Mapping[str, Any], where: str, *, advice: str) -> None:
    """Refuse a finished manifest with a tier of no parts, or that is not of its own digest.

    Args:
        manifest: The JSON object.
        where: The manifest, for sentences.
        advice: What to do about one that was changed.

    Raises:
        StoreError: Naming the field.
    """
    tier = manifest.get("tier", "full")
    if tier not in ROUTING_TIERS:
        raise StoreError(
            f"{where}: tier is {str(tier)[:80]!r}, expected one of {', '.join(ROUTING_TIERS)}; a "
            "newer version of moe-interp may know it"
        )
    said = manifest.get(DIGEST_FIELD, ...)
    if said is ...:  # as in stores from before there was one
        return
    try:
        is_same = said == content_digest(manifest)
    except (ValueError, RecursionError):  # what cannot be hashed was never written
        is_same = False
    if not is_same:
        raise StoreError(
            f"{where}: {DIGEST_FIELD} is not that of its content, so some of it was changed; "
            f"{advice}"
        )


def read_unfinished(store: Path) -> tuple[dict[str, Any], list[PartEntry]]:
    """The manifest of a store that may still grow, and the parts that are sealed.

    Raises:
        InputError: If nothing is there.
        StoreError: If it is no store, or of a format that this version cannot read.
    """
    if not store.exists():
        raise InputError(f"{store} does not exist; give the path of a store, a folder NAME.moe")
    manifest = _parsed(store)
    entries = checked_manifest(manifest, str(store))
    _check_sizes(store, entries)
    return manifest, entries


def checked_manifest(manifest: Mapping[str, Any], where: str) -> list[PartEntry]:
    """The parts that a manifest lists.

    Args:
        manifest: The JSON object.
        where: The store, for sentences.

    Raises:
        StoreError: If its format is not known here, or its parts are not in order.
    """
    if manifest.get("format") != FORMAT:
        raise StoreError(f"{where} has the format {manifest.get('format')!r}, expected {FORMAT!r}")
    check_version(where, manifest.get("format_version"))
    try:
        entries = [PartEntry.from_json(entry) for entry in manifest["parts"]]
    except (AttributeError, KeyError, TypeError) as error:
        raise StoreError(
            f"{where}/{MANIFEST_NAME} does not list its parts ({error}); copy it again"
        ) from error
    expected = [part_name(number) for number in range(len(entries))]
    if [entry.name for entry in entries] != expected:
        raise StoreError(
            f"{where}/{MANIFEST_NAME} must list {part_name(0)} and on, in order; copy it again"
        )
    return entries


def check_version(where: str, version: object) -> None:
    """Refuse a format of another major version, and what is no version at all.

    Raises:
        StoreError: Saying what was found.
    """
    if not isinstance(version, str) or VERSION.fullmatch(version) is None:
        raise StoreError(
            f"{where} has the format version {str(version)[:80]!r}, expected two numbers as text, "
            f"such as {FORMAT_VERSION!r}; copy the store again"
        )
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


def _check_sizes(store: Path, entries: Sequence[PartEntry]) -> None:
    for entry in entries:
        path = store / entry.name
        if not path.is_file():
            raise StoreError(f"{path} is missing; copy the store again, whole")
        if path.stat().st_size != entry.bytes:
            raise StoreError(
                f"{path} has {path.stat().st_size} bytes, and the manifest says {entry.bytes}; "
                "copy the store again"
            )
