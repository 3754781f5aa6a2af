"""The files of a shared store: which names there can be, and what a manifest says of them."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.cache.card import CARD_NAME
from interp.cache.errors import StoreError
from interp.cache.manifest import MANIFEST_NAME, check_version, layout_from_json
from interp.cache.part import FORMAT, part_name

CROISSANT_NAME = "croissant.json"
USAGE_NAME = "usage.csv"
TIERS = ("full", "no_text", "aggregate")
MOST_TEXT_BYTES = 2**26
"""A card, manifest or index of a stranger is read up to here, and refused beyond."""
MOST_PART_BYTES = 2**40

_KNOWN = re.compile(
    r"manifest\.json|README\.md|croissant\.json|usage\.csv|part-[0-9]{5}\.(h5|index\.json)"
)
_PLAIN = re.compile(r"[A-Za-z0-9._-]+")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class SharedFile:
    """One file of a shared store."""

    name: str
    bytes: int
    sha256: str | None
    """None where nothing vouches for it, as for the card of a stranger."""


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """A file on this machine that is to be shared."""

    path: Path
    file: SharedFile

    def expect_whole(self) -> None:
        """Refuse to pass on what is not what the manifest says.

        Raises:
            StoreError: If the file was damaged or changed since it was written.
        """
        if not has_content(self.path, self.file):
            raise StoreError(
                f"{self.path} is not what its manifest says, so it is not shared; capture it again"
            )


def outgoing(path: Path) -> Outgoing:
    """A small file as it is now."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return Outgoing(path=path, file=SharedFile(name=path.name, bytes=len(content), sha256=digest))


def is_known(name: str) -> bool:
    """Whether a store can have a file of this name; no other is ever written or fetched."""
    return _KNOWN.fullmatch(name) is not None


def has_content(path: Path, file: SharedFile) -> bool:
    """Whether a plain file is there with this size and SHA-256."""
    if file.sha256 is None or path.is_symlink() or not path.is_file():
        return False
    if path.stat().st_size != file.bytes:
        return False
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256


def refuse_hostile(names: Iterable[str], where: str) -> None:
    """Refuse a listing with a name that could leave its folder, or mean two files or a device.

    Raises:
        StoreError: Naming it.
    """
    seen: dict[str, str] = {}
    for name in names:
        reason = _fault(name)
        if reason:
            raise StoreError(f"{where} holds the name {name!r}, {reason}; nothing was fetched")
        twin = seen.setdefault(name.casefold(), name)
        if twin != name:
            raise StoreError(
                f"{where} holds {twin!r} and {name!r}, which some disks cannot tell apart; "
                "nothing was fetched"
            )


def parsed_manifest(raw: bytes, where: str) -> dict[str, Any]:
    """The manifest of a stranger's finished store.

    Raises:
        StoreError: If it is none, of a format that is not known here, or not finished.
    """
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where}/{MANIFEST_NAME} is no JSON ({error}); ask its owner") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise StoreError(f"{where}/{MANIFEST_NAME} is not that of a store; give the URL of one")
    check_version(where, document.get("format_version"))
    if document.get("complete") is not True:
        raise StoreError(f"{where} is not finished; wait until its owner has shared all of it")
    if document.get("tier", "full") not in TIERS:
        raise StoreError(
            f"{where} has the tier {document.get('tier')!r}, expected one of {', '.join(TIERS)}; "
            "a newer version of moe-interp may know it"
        )
    return document


def usage_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a store of the tier `aggregate`; None where there is anything else.

    Raises:
        StoreError: If it is one, and not finished, not whole, or of a format not known here.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file() or path.stat().st_size > MOST_TEXT_BYTES:
        return None
    raw = path.read_bytes()
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or document.get("tier") != "aggregate":
        return None
    parsed_manifest(raw, str(folder))
    try:
        layout_from_json(document["layout"])
        counted = [(str(a), str(b), int(n)) for a, b, n in document["prompts_by_kind"]]
        is_whole = sum(n for _, _, n in counted) == document["n_prompts"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path} lacks what it must say ({error}); copy it again") from error
    held = (document.get("provenance"), document.get("usage"))
    if not is_whole or not all(isinstance(each, dict) for each in held):
        raise StoreError(f"{path} lacks what it must say, or contradicts itself; copy it again")
    return document


def listed_files(document: Mapping[str, Any], where: str) -> tuple[SharedFile, ...]:
    """Parts with their indexes, or the table of usage, as a manifest lists them.

    Raises:
        StoreError: If an entry is not as it must be: names in order, sizes and digests given.
    """
    entries = document.get("parts")
    is_aggregate = document.get("tier") == "aggregate"
    if not isinstance(entries, list) or bool(entries) == is_aggregate:
        raise StoreError(f"{where}/{MANIFEST_NAME} does not list its parts; ask its owner")
    if is_aggregate:
        usage = document.get("usage")
        return (_entry(usage, USAGE_NAME, ("name", "bytes", "sha256"), where),)
    files = []
    for number, entry in enumerate(entries):
        name = part_name(number)
        files.append(_entry(entry, name, ("name", "bytes", "sha256"), where))
        if entry.get("index_sha256") is not None:
            index = entry | {"index": f"{name.removesuffix('.h5')}.index.json"}
            keys = ("index", "index_bytes", "index_sha256")
            files.append(_entry(index, index["index"], keys, where))
    return tuple(files)


def _entry(entry: Any, name: str, keys: tuple[str, str, str], where: str) -> SharedFile:
    found = tuple(entry.get(key) for key in keys) if isinstance(entry, dict) else (None,) * 3
    most = MOST_PART_BYTES if name.endswith(".h5") else MOST_TEXT_BYTES
    if found[0] != name:
        raise StoreError(
            f"{where}/{MANIFEST_NAME} names {str(found[0])[:80]!r} where {name} was expected; "
            "nothing was fetched"
        )
    n_bytes = found[1] if type(found[1]) is int else 0
    is_digest = isinstance(found[2], str) and _DIGEST.fullmatch(found[2]) is not None
    if not 0 < n_bytes <= most or not is_digest:
        raise StoreError(
            f"{where}/{MANIFEST_NAME} gives no size and SHA-256 of {name} that can be; "
            "nothing was fetched"
        )
    return SharedFile(name=name, bytes=n_bytes, sha256=found[2])


def _fault(name: str) -> str:
    if name.startswith("/") or "\\" in name or re.match(r"[A-Za-z]:", name):
        return "an absolute path or one of another system"
    steps = name.split("/")
    if ".." in steps:
        return "which leads out of its folder"
    if any(_PLAIN.fullmatch(step) is None or step == "." for step in steps):
        return "with characters outside A-Z a-z 0-9 . _ -"
    if any(_RESERVED.fullmatch(step) or step.endswith(".") for step in steps):
        return "which some systems reserve"
    return ""


NAMES_OF_TEXTS = (CARD_NAME, CROISSANT_NAME)
"""Fetched where they are there; nothing vouches for them."""
