"""Stores of consecutive prompts become one, part by part, without reading what is in them."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from interp.cache.card import CARD_NAME, store_card
from interp.cache.durable import sync_folder, told_when_full, write_whole
from interp.cache.errors import InputError, StoreError
from interp.cache.manifest import (
    MANIFEST_NAME,
    Described,
    PartEntry,
    canonical_json,
    layout_from_json,
    manifest_text,
    read_manifest,
)
from interp.cache.part import part_name
from interp.cache.part_index import index_name
from interp.cache.resume import LOCK_NAME, clear_leftovers, is_empty_folder, prompts_by_kind


def is_whole(store: Path) -> bool:
    """Whether a store is finished and every part is what its manifest says, byte for byte."""
    try:
        _, entries = read_manifest(store)
    except (InputError, StoreError):
        return False
    return all(_is_as_said(store, entry) for entry in entries)


def join_stores(out: Path, stores: Sequence[Path]) -> None:
    """Make one store of several of the same capture, its prompts in their order.

    Parts are linked where the file system can do that, and copied where not; the stores stay.

    Args:
        out: Where nothing is, or what an earlier try left.
        stores: Finished ones, in the order of their prompts.

    Raises:
        InputError: If `out` holds something else, another process writes to it, or the stores are
            of different captures.
        StoreError: If a part is not what its manifest says.
        StorageError: If there is no space left.
    """
    manifests = [read_manifest(store)[0] for store in stores]
    for store, manifest in zip(stores, manifests, strict=True):
        _expect_alike(store, manifest, stores[0], manifests[0])
    with told_when_full(f"{out} cannot be made, for there is no space"):
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK_NAME, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise InputError(f"another process is writing to {out}; wait for it") from error
        try:
            clear_leftovers(out, [])
            if not is_empty_folder(out):
                raise InputError(f"{out} holds something else; choose another path or delete it")
            _join(out, stores, manifests[0])
        finally:
            (out / LOCK_NAME).unlink(missing_ok=True)  # while it is held: no other can have it
            lock.release()


def _join(out: Path, stores: Sequence[Path], manifest: dict[str, Any]) -> None:
    entries: list[PartEntry] = []
    for store, entry in _parts(stores):
        name = part_name(len(entries))
        if not _is_as_said(store, entry):
            raise StoreError(
                f"{store / entry.name} is not what its manifest says; delete {store} and run the "
                "same again"
            )
        _link(store / entry.name, out / name)
        index = _renamed_index(store / index_name(entry.name), name)
        write_whole(out / index_name(name), index)
        digest = hashlib.sha256(index).hexdigest()
        entries.append(replace(entry, name=name, index_bytes=len(index), index_sha256=digest))
    sync_folder(out)
    described = Described(
        layout=layout_from_json(manifest["layout"]),
        provenance=canonical_json(manifest["provenance"]),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        part_bytes=int(manifest["part_bytes"]),
        tier=str(manifest["tier"]),
        self_check=manifest["self_check"],
    )
    prompts, tokens = prompts_by_kind(out, entries)
    card = store_card(
        out.name,
        layout=described.layout,
        provenance=manifest["provenance"],
        parts=entries,
        prompts=prompts,
        tokens=tokens,
    )
    write_whole(out / CARD_NAME, card.encode())
    text = manifest_text(entries, described, complete=True)
    write_whole(out / MANIFEST_NAME, text.encode())


def _parts(stores: Sequence[Path]) -> Iterator[tuple[Path, PartEntry]]:
    for store in stores:
        for entry in read_manifest(store)[1]:
            yield store, entry


def _expect_alike(
    store: Path, manifest: dict[str, Any], first: Path, expected: dict[str, Any]
) -> None:
    for field in ("layout", "provenance", "tier", "part_bytes"):
        if manifest[field] != expected[field]:
            raise InputError(
                f"{store} and {first} differ in {field}, so they are of different captures; delete "
                "both and run the same again"
            )


def _is_as_said(store: Path, entry: PartEntry) -> bool:
    try:
        with (store / entry.name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256
    except OSError:
        return False


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system has no links."""
    with suppress(OSError):
        os.link(source, target)
        return
    staged = target.with_name(f".{target.name}.tmp")
    shutil.copyfile(source, staged)
    staged.replace(target)


def _renamed_index(path: Path, part: str) -> bytes:
    document = json.loads(path.read_bytes()) | {"part": part}
    return (json.dumps(document, separators=(",", ":")) + "\n").encode()
