"""The manifest of a store, compared with its parts and with itself."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

from interp.cache.errors import StoreError
from interp.cache.manifest import (
    DIGEST_FIELD,
    MANIFEST_FIELDS,
    MANIFEST_NAME,
    ROUTING_TIERS,
    PartEntry,
    canonical_json,
    content_digest,
    layout_from_json,
    same_layout,
)
from interp.cache.part import FORMAT_VERSION
from interp.cache.records import Layout


def check_manifest(
    folder: Path,
    manifest: Mapping[str, Any],
    entries: Sequence[PartEntry],
    *,
    layout: Layout,
    provenance: Mapping[str, Any],
) -> None:
    """Refuse a manifest that its parts contradict, or that is not what was written.

    What cannot be known is whether `created` is another time than it was, and the same of
    `tier`, `part_bytes` and `self_check` in a store from before manifests had a digest.

    Args:
        folder: Of the store, for sentences.
        manifest: What it says.
        entries: Its parts.
        layout: As the parts have it.
        provenance: As the parts have it.

    Raises:
        StoreError: Naming the field.
    """
    try:
        _check_names(manifest)
        _check_totals(manifest, entries)
        _check_parts(manifest, layout, provenance)
        _check_rest(manifest)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{folder}/{MANIFEST_NAME}: {error}; copy the store again") from error


def _check_names(manifest: Mapping[str, Any]) -> None:
    """This very version has these fields and no others; what a later one adds is passed over."""
    if manifest["format_version"] != FORMAT_VERSION:
        return
    groups = [(manifest, set(MANIFEST_FIELDS))]
    groups += [(each, {field.name for field in fields(PartEntry)}) for each in manifest["parts"]]
    groups += [(manifest["layout"], {field.name for field in fields(Layout)})]
    odd = sorted(name for group, known in groups for name in set(group) - known)
    if odd:
        raise ValueError(f"format {FORMAT_VERSION} has no field {odd[0]!r}")


def _check_totals(manifest: Mapping[str, Any], entries: Sequence[PartEntry]) -> None:
    for name in ("n_prompts", "n_tokens"):
        total = sum(getattr(entry, name) for entry in entries)
        if manifest.get(name) != total:
            raise ValueError(f"{name} is {manifest.get(name)!r}, and its parts hold {total}")


def _check_parts(
    manifest: Mapping[str, Any], layout: Layout, provenance: Mapping[str, Any]
) -> None:
    """What the parts say as well."""
    said, found = same_layout(layout_from_json(manifest["layout"])), same_layout(layout)
    for name in found:
        if said[name] != found[name]:
            raise ValueError(f"layout.{name} is {said[name]!r}, and its parts have {found[name]!r}")
    given = manifest.get("provenance", provenance)
    if canonical_json(given) != canonical_json(provenance):
        raise ValueError("provenance is not that of the parts")


def _check_rest(manifest: Mapping[str, Any]) -> None:
    created = str(manifest.get("created"))
    if datetime.fromisoformat(created).isoformat(timespec="seconds") != created:
        raise ValueError(f"created is {created!r}, expected a time in ISO 8601 with seconds")
    if manifest.get("tier", "full") not in ROUTING_TIERS:
        raise ValueError(
            f"tier is {manifest['tier']!r}, expected one of {', '.join(ROUTING_TIERS)}"
        )
    said = manifest.get(DIGEST_FIELD, ...)
    if said is not ... and said != content_digest(manifest):
        raise ValueError(f"{DIGEST_FIELD} is not that of its content, so some of it was changed")
