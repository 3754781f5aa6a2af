"""Writing a store, part by part: what has its final name is whole."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from interp.cache.card import CARD_NAME, store_card
from interp.cache.checks import check_layout
from interp.cache.errors import InputError, StoreError
from interp.cache.manifest import (
    MANIFEST_NAME,
    PartEntry,
    canonical_provenance,
    json_values,
    manifest_text,
    same_layout,
    write_whole,
)
from interp.cache.part import build_part, part_name
from interp.cache.reader import open_store
from interp.cache.records import Layout, PromptActivations
from interp.cache.stored import Stored, checked


class StoreWriter:
    """Writes one new store; a context manager, whose clean end makes the store complete.

    When the body fails, the parts sealed so far stay, in a store that its manifest calls
    unfinished; where none was sealed, the folder is removed.

    Args:
        path: The folder to make, such as `run.moe`; must not exist, or be empty.
        layout: Sizes and dtypes of everything that will be added.
        provenance: Where it all came from, as JSON values.
        part_mb: A part is sealed when it holds this much before compression.
        vocab: The texts of token ids 0, 1, ... where `layout.vocab_local`; else nothing.

    Raises:
        InputError: If something is at `path`, or at the end no prompt was added.
        ValueError: If layout, provenance or vocabulary cannot be stored.
    """

    def __init__(
        self,
        path: Path,
        *,
        layout: Layout,
        provenance: Mapping[str, Any],
        part_mb: float = 512,
        vocab: Sequence[str] = (),
    ) -> None:
        check_layout(layout)
        if part_mb <= 0:
            raise ValueError(f"part_mb is {part_mb}, expected more than 0")
        if bool(vocab) != layout.vocab_local:
            raise ValueError(
                f"vocab has {len(vocab)} entries, but layout.vocab_local is {layout.vocab_local}; "
                "give a vocabulary exactly where token ids are local to the store"
            )
        self.path = Path(path)
        self._layout = layout
        self._described = json_values(provenance)
        self._provenance = canonical_provenance(provenance)
        self._part_bytes = part_mb * 2**20
        self._vocab = [text.encode() for text in vocab]
        self._created = datetime.now(UTC).isoformat(timespec="seconds")
        self._pending: list[Stored] = []
        self._pending_bytes = 0
        self._parts: list[PartEntry] = []
        self._prompts: Counter[tuple[str, str]] = Counter()
        self._tokens: Counter[tuple[str, str]] = Counter()
        self._kinds: tuple[frozenset[str], frozenset[tuple[str, int]]] | None = None
        self._open = False

    def __enter__(self) -> "StoreWriter":
        if self.path.exists() and not _is_empty_folder(self.path):
            raise InputError(f"{self.path} exists already; choose another path or delete it first")
        self.path.mkdir(parents=True, exist_ok=True)
        self._open = True
        return self

    def add(self, activations: PromptActivations) -> None:
        """Check and keep one prompt; seal a part when it is full.

        Raises:
            ValueError: If the activations contradict the layout or the prompts before.
            StoreError: If the disk does not keep what is written.
        """
        if not self._open:
            raise ValueError(
                "the store is not open for writing; use: with StoreWriter(...) as writer"
            )
        stored = checked(activations, self._layout, n_vocab=len(self._vocab))
        self._expect_same_kinds(stored)
        self._pending.append(stored)
        self._pending_bytes += stored.n_bytes
        key = (activations.prompt["condition"], activations.prompt["source"])
        self._prompts[key] += 1
        self._tokens[key] += stored.n_tokens
        if self._pending_bytes >= self._part_bytes:
            self._seal()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open = False
        try:
            if kind is None:
                self._finish()
        finally:
            if not self._parts:
                self._remove_folder()

    def _finish(self) -> None:
        if self._pending:
            self._seal()
        if not self._parts:
            raise InputError(
                f"no prompt was captured, so {self.path} was not made; give at least one"
            )
        self._write_card()
        self._write_manifest(complete=True)

    def _expect_same_kinds(self, stored: Stored) -> None:
        """All prompts of a store have the same datasets."""
        kinds = (frozenset(stored.tokens), frozenset(stored.resid))
        if self._kinds is None:
            self._kinds = kinds
        for name, first, now in zip(("token", "residual"), self._kinds, kinds, strict=True):
            if first != now:
                odd = ", ".join(sorted(str(kind) for kind in set(first) ^ set(now)))
                raise ValueError(f"{name} arrays must be the same for all prompts; not so: {odd}")

    def _seal(self) -> None:
        name = part_name(len(self._parts))
        content = build_part(
            self._pending, layout=self._layout, provenance=self._provenance, vocab=self._vocab
        )
        entry = PartEntry(
            name=name,
            bytes=content.nbytes,
            sha256=write_whole(self.path / name, content),
            n_prompts=len(self._pending),
            n_tokens=sum(stored.n_tokens for stored in self._pending),
        )
        self._parts.append(entry)
        self._pending, self._pending_bytes = [], 0
        self._write_manifest(complete=False)

    def _write_manifest(self, *, complete: bool) -> None:
        text = manifest_text(
            self._parts,
            layout=self._layout,
            provenance=self._provenance,
            created=self._created,
            complete=complete,
        )
        write_whole(self.path / MANIFEST_NAME, text.encode())
        _sync_folder(self.path)

    def _write_card(self) -> None:
        text = store_card(
            self.path.name,
            layout=self._layout,
            provenance=self._described,
            parts=self._parts,
            prompts=self._prompts,
            tokens=self._tokens,
        )
        write_whole(self.path / CARD_NAME, text.encode())

    def _remove_folder(self) -> None:
        """Remove the folder if it is empty, as it is where no part was sealed."""
        if _is_empty_folder(self.path):
            self.path.rmdir()


def is_captured(path: Path, *, layout: Layout, provenance: Mapping[str, Any]) -> bool:
    """Whether the complete store that these settings would make is at `path` already.

    Returns:
        False where nothing is there, so that it can be made.

    Raises:
        InputError: If another store is there, naming what differs, or anything else.
    """
    path = Path(path)
    if not path.exists() or _is_empty_folder(path):
        return False
    try:
        store = open_store(path)
    except (InputError, StoreError) as error:
        raise InputError(
            f"{path} holds something else ({error}); choose another path or delete it first"
        ) from error
    differing = _differing(same_layout(store.layout), same_layout(layout))
    differing += _differing(store.provenance, json_values(provenance))
    if differing:
        raise InputError(
            f"{path} holds another capture, which differs in {', '.join(differing)}; "
            "choose another path or delete it first"
        )
    return True


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


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and next(path.iterdir(), None) is None


def _sync_folder(path: Path) -> None:
    """Make renames last through a power cut, where the system can do that for a folder."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
