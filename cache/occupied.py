"""What lies at a place already, and whether a push may put another store there."""

import json
from collections.abc import Mapping
from typing import Any

from interp.cache.diff import differences, shown
from interp.cache.errors import InputError, StoreError
from interp.cache.manifest import MANIFEST_NAME
from interp.cache.part import FORMAT
from interp.cache.share_files import is_known
from interp.cache.targets import Place, Source, read_text

GROWING = (
    "caveats",
    "files",
    "license",
    "prompts_sha256",
    "source_licenses",
    "tokens_without_routing",
)
"""Of the provenance, what changes as prompts are added to a capture or an import, or their licences
become known."""
HIDDEN = (".gitattributes", ".gitignore", ".pulled", ".lock")
"""Files that a place may have beside those of a store."""
_MOST_NAMED = 3
_FIRST = ("provenance.model", "tier")


def expect_free(place: Place, manifest: Mapping[str, Any], *, replace: bool) -> tuple[str, ...]:
    """Refuse to push over something else, or over another capture where nothing keeps it.

    Another capture is one of another tier, layout or provenance, but for the part of the provenance
    that changes as prompts are added.

    Args:
        place: Where the store is to go.
        manifest: Of the store.
        replace: Whether another capture may be lost.

    Returns:
        In what the store that is replaced differs, as parts of a sentence; empty where it is an
        earlier state of the same capture, or nothing is there.

    Raises:
        InputError: Naming what is there and how it differs.
    """
    listing = [name for name in place.listing() if name not in HIDDEN]
    others = [name for name in listing if not is_known(name) and not name.endswith(".tmp")]
    if others:
        raise InputError(
            f"{place.where} holds something else ({min(others)}); choose another target"
        )
    if MANIFEST_NAME not in listing:
        return ()
    there = _manifest_there(place)
    if there is not None and there.get("complete") is not True:
        return ()  # what a push that broke has left
    if there is None:
        found: tuple[str, ...] = ("its manifest cannot be read",)
    else:
        found = _unlike(there, manifest)
        _refuse_tier(place, there, manifest)
    if found and not (replace or place.keeps_history):
        named = "; ".join(found[:_MOST_NAMED])
        more = f"; and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
        raise InputError(
            f"{place.where} holds another capture, which would be lost ({named}{more}); choose "
            "another target, or add --replace (replace=True) to lose it"
        )
    return found


def _manifest_there(place: Source) -> dict[str, Any] | None:
    try:
        document = json.loads(read_text(place, MANIFEST_NAME))
    except (ValueError, RecursionError, StoreError):
        return None
    is_ours = isinstance(document, dict) and document.get("format") == FORMAT
    return document if is_ours else None


def _refuse_tier(place: Place, there: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """A history keeps every tier, so that a smaller one beside a larger one hides nothing."""
    tiers = there.get("tier", "full"), ours.get("tier", "full")
    if place.keeps_history and tiers[0] != tiers[1]:
        raise InputError(
            f"{place.where} holds a store of the tier {tiers[0]}, and this one has {tiers[1]}; its "
            "history would keep both, so choose another target"
        )


def _unlike(there: Mapping[str, Any], ours: Mapping[str, Any]) -> tuple[str, ...]:
    found = differences(_said(there), _said(ours))
    return tuple(
        f"{each.name} is {shown(each.a)} there and {shown(each.b)} here"
        for each in sorted(found, key=lambda each: each.name not in _FIRST)
    )


def _said(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a store says of its capture; its digest where an older one says no more."""
    said = {
        "format_version": str(manifest.get("format_version")).partition(".")[0],
        "tier": manifest.get("tier", "full"),
        "layout": manifest.get("layout"),
    }
    provenance = manifest.get("provenance")
    if not isinstance(provenance, Mapping):
        return said | {"provenance_sha256": manifest.get("provenance_sha256")}
    kept = {name: each for name, each in provenance.items() if name not in GROWING}
    return said | {"provenance": kept}
