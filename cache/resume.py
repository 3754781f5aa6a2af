"""What an earlier run left where a store is to be written: nothing, a part of it, or another."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from interp.cache.errors import InputError, StoreError
from interp.cache.manifest import (
    MANIFEST_NAME,
    Described,
    PartEntry,
    canonical_json,
    layout_from_json,
    read_unfinished,
    same_layout,
)
from interp.cache.opened import opened
from interp.cache.part_index import index_name
from interp.cache.sealed import SealedPart

LOCK_NAME = ".lock"
"""Held while a store is written; not part of the store."""
_PART = r"part-\d{5}\.(?:h5|index\.json)"
PART_FILE = re.compile(_PART)
STAGED_FILE = re.compile(rf"\.(?:{_PART}|manifest\.json|README\.md)\.tmp")
"""Of a store, under its name until it is whole; anything else is the user's, and stays."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The store that is there, which is the one to be written."""

    described: Described
    parts: tuple[PartEntry, ...]
    is_complete: bool


def found_at(path: Path, wanted: Described) -> Found | None:
    """The store at `path` if it is the one that is wanted, finished or not; None if nothing is.

    Raises:
        InputError: If something else is there; of another store, the fields that differ are named.
        StoreError: If a store is there and damaged.
    """
    if is_empty_folder(path):
        return None
    try:
        manifest, parts = read_unfinished(path)
        is_complete = manifest.get("complete") is True
        found = _described(path, manifest, parts)
    except (InputError, StoreError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, StoreError) and (path / MANIFEST_NAME).is_file():
            raise StoreError(f"{error}, or delete {path} and run the same again") from error
        raise InputError(
            f"{path} holds something else ({error}); choose another path or delete it first"
        ) from error
    _expect_same(path, found, wanted, with_parts=not is_complete)
    if parts and not is_complete:
        _check_digest(path, parts[-1])
    return Found(described=found, parts=tuple(parts), is_complete=is_complete)


def clear_leftovers(path: Path, parts: Sequence[PartEntry]) -> None:
    """Remove what belongs to no sealed part: its process ended before the manifest named it."""
    names = {each.name for each in parts} | {index_name(each.name) for each in parts}
    for left in path.iterdir():
        is_part = PART_FILE.fullmatch(left.name) and left.name not in names
        if is_part or STAGED_FILE.fullmatch(left.name):
            left.unlink()


def is_empty_folder(path: Path) -> bool:
    """Whether nothing is in a folder but what a writer left that had not begun."""
    return path.is_dir() and all(
        each.name == LOCK_NAME or STAGED_FILE.fullmatch(each.name) for each in path.iterdir()
    )


def sealed_kinds(path: Path, parts: Sequence[PartEntry]) -> frozenset[str] | None:
    """Paths of the datasets whose rows come with each prompt; None if no part is sealed."""
    if not parts:
        return None
    paths = SealedPart(path / parts[0].name).shapes()
    with_prompts = ("tokens/", "router/", "experts/", "resid/")
    of_rows = {each for each in paths if each.startswith(with_prompts)} - {"resid/token_index"}
    return frozenset(of_rows | {"prompts/text"})


def prompts_by_kind(
    path: Path, parts: Sequence[PartEntry]
) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
    """Prompts and tokens of some sealed parts, by condition and source."""
    prompts: Counter[tuple[str, str]] = Counter()
    tokens: Counter[tuple[str, str]] = Counter()
    for entry in parts:
        part = opened(SealedPart(path / entry.name), entry)
        kinds = zip(part.fields["condition"], part.fields["source"], strict=True)
        for kind, n_tokens in zip(kinds, np.diff(part.offset), strict=True):
            prompts[kind] += 1
            tokens[kind] += int(n_tokens)
    return prompts, tokens


def _described(path: Path, manifest: Mapping[str, Any], parts: Sequence[PartEntry]) -> Described:
    provenance = manifest.get("provenance")
    if provenance is None:  # as in the first stores, where only the parts have it
        provenance = SealedPart(path / parts[0].name).provenance
    return Described(
        layout=layout_from_json(manifest["layout"]),
        provenance=canonical_json(provenance),
        created=str(manifest["created"]),
        part_bytes=int(manifest.get("part_bytes", 0)),
        tier=str(manifest.get("tier", "full")),
        self_check=manifest.get("self_check"),
    )


def _expect_same(path: Path, found: Described, wanted: Described, *, with_parts: bool) -> None:
    differing = _differing(same_layout(found.layout), same_layout(wanted.layout))
    differing += _differing(json.loads(found.provenance), json.loads(wanted.provenance))
    differing += ["tier"] if found.tier != wanted.tier else []
    if with_parts and wanted.part_bytes and found.part_bytes != wanted.part_bytes:
        differing.append("part_mb")
    if differing:
        raise InputError(
            f"{path} holds another capture, which differs in {', '.join(differing)}; "
            "choose another path or delete it first"
        )


def _differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Names of the fields that differ, dotted where they lie within another."""
    names = []
    for name in sorted(set(found) | set(wanted)):
        ours, theirs = found.get(name, ...), wanted.get(name, ...)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            names += [f"{name}.{within}" for within in _differing(ours, theirs)]
        elif ours != theirs:
            names.append(name)
    return names


def _check_digest(path: Path, entry: PartEntry) -> None:
    """The last part, which a power cut may have reached."""
    with (path / entry.name).open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
            raise InputError(
                f"{path / entry.name} is not what its manifest says; delete {path} and begin anew"
            )
