"""Writing a store, part by part: what has its final name is whole."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from interp.cache.card import CARD_NAME, store_card
from interp.cache.checks import check_layout
from interp.cache.durable import told_when_full, write_whole
from interp.cache.errors import InputError
from interp.cache.manifest import (
    MANIFEST_NAME,
    Described,
    PartEntry,
    canonical_json,
    json_values,
    manifest_text,
)
from interp.cache.memory_file import MemoryFile
from interp.cache.part import part_name
from interp.cache.part_builder import PartBuilder, arrays_of
from interp.cache.part_index import index_name, index_text, indexed_datasets
from interp.cache.reader import open_store
from interp.cache.records import Layout, PromptActivations
from interp.cache.resume import (
    LOCK_NAME,
    clear_leftovers,
    found_at,
    is_empty_folder,
    prompts_by_kind,
    sealed_kinds,
)
from interp.cache.sizes import Sizes
from interp.cache.stored import Stored, checked

FOLDER_TRIES = 20
"""To lock a folder that another writer, which wrote nothing, removes at the same moment."""
SPARE = 1.02
"""Of the buffer, over the size of a part: estimates are rounded up already."""


class StoreWriter:
    """Writes one store; a context manager, whose clean end makes the store complete.

    When the body fails, or the process is killed, the parts sealed so far stay. Opened again with
    the same layout, provenance and size of parts, the writer goes on behind them: `n_prompts` of
    them are there already, and the caller adds those that follow. Where the store is complete,
    `is_complete` is true and nothing may be added.

    Args:
        path: The folder of the store, such as `run.moe`.
        layout: Sizes and dtypes of everything that will be added.
        provenance: Where it all came from, as JSON values.
        part_mb: A part has at most so many MB (10^6 bytes), unless one prompt alone has more.
        vocab: The texts of token ids 0, 1, ... where `layout.vocab_local`; else nothing.
        self_check: What was checked beforehand; goes to the manifest.
        tier: What was left out before sharing: `full`, `no_text` or `aggregate`.

    Raises:
        InputError: If another process writes to `path`, something else is there, or at the end no
            prompt was added.
        StorageError: If there is no space left; what was sealed before is kept.
        ValueError: If layout, provenance or vocabulary cannot be stored.
    """

    def __init__(
        self,
        path: Path,
        *,
        layout: Layout,
        provenance: Mapping[str, Any],
        part_mb: float = 512.0,
        vocab: Sequence[str] = (),
        self_check: Mapping[str, Any] | None = None,
        tier: str = "full",
    ) -> None:
        check_layout(layout)
        if not 0 < part_mb < float("inf"):
            raise ValueError(f"part_mb is {part_mb}, expected a number of MB above 0")
        if bool(vocab) != layout.vocab_local:
            raise ValueError(
                f"vocab has {len(vocab)} entries, but layout.vocab_local is {layout.vocab_local}; "
                "give a vocabulary exactly where token ids are local to the store"
            )
        self.path = Path(path)
        self.n_prompts = 0
        self.is_complete = False
        self._is_new = False
        self._layout = layout
        self._described = Described(
            layout=layout,
            provenance=canonical_json(provenance),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            part_bytes=int(part_mb * 10**6),
            tier=tier,
            self_check=None if self_check is None else json_values(self_check),
        )
        self._vocab = [text.encode() for text in vocab]
        self._vocab_bytes = sum(map(len, self._vocab)) + 8 * len(self._vocab)
        self._parts: list[PartEntry] = []
        self._kinds: frozenset[str] | None = None
        self._lock = FileLock(self.path / LOCK_NAME, timeout=0, thread_local=False)
        self._file: MemoryFile | None = None
        self._builder: PartBuilder | None = None
        self._sizes = self._no_rows()

    def __enter__(self) -> "StoreWriter":
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; choose another path or delete it first")
        with told_when_full(f"{self.path} cannot be made, for there is no space"):
            self._take_lock()
        try:
            self._recover()
        except BaseException:
            self._leave()
            raise
        return self

    def add(self, activations: PromptActivations) -> None:
        """Check and keep one prompt; seal a part when it is full.

        Raises:
            ValueError: If the activations contradict the layout or the prompts before.
            StorageError: If there is no space left for a part.
        """
        if not self._lock.is_locked or self.is_complete:
            raise ValueError(
                f"{self.path} is complete and takes no more prompts"
                if self.is_complete
                else "the store is not open for writing; use: with StoreWriter(...) as writer"
            )
        stored = checked(activations, self._layout, n_vocab=len(self._vocab))
        arrays = arrays_of(stored)
        self._expect_same_kinds(frozenset(arrays))
        if self._builder is not None and not self._has_room(stored):
            self._seal()
        if self._builder is None:
            self._begin()
        assert self._builder is not None
        self._sizes.add(stored)
        self._builder.add(stored)
        self.n_prompts += 1

    def note_self_check(self, checked: Mapping[str, Any]) -> None:
        """What was checked while the prompts were on their way; goes to the manifest at the end."""
        self._described = replace(self._described, self_check=json_values(checked))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None and not self.is_complete:
                self._finish()
        finally:
            self._leave()

    def _take_lock(self) -> None:
        """Make the folder and lock it, also where a writer that gives up is about to remove it."""
        for is_last in (*[False] * FOLDER_TRIES, True):
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._lock.acquire()
                return
            except Timeout as error:
                raise InputError(
                    f"another process is writing to {self.path}; wait for it, or choose another "
                    "path"
                ) from error
            except (FileExistsError, FileNotFoundError):
                if is_last:
                    raise

    def _recover(self) -> None:
        """Take up what an earlier run left at the path."""
        found = found_at(self.path, self._described)
        if found is None:
            self._is_new = True
            self._write_manifest(complete=False)  # from here on, unlisted parts are leftovers
            return
        self.is_complete, self._parts = found.is_complete, list(found.parts)
        self._described = found.described
        self.n_prompts = sum(part.n_prompts for part in self._parts)
        self._kinds = sealed_kinds(self.path, self._parts)
        if not self.is_complete:
            clear_leftovers(self.path, self._parts)

    def _finish(self) -> None:
        if self._builder is not None:
            self._seal()
        if not self._parts:
            raise InputError(
                f"no prompt was captured, so {self.path} was not made; give at least one"
            )
        self._write_card()
        self._write_manifest(complete=True)
        self.is_complete = True

    def _expect_same_kinds(self, paths: frozenset[str]) -> None:
        """All prompts of a store have the same datasets."""
        if self._kinds is None:
            self._kinds = paths
        if self._kinds != paths:
            odd = ", ".join(sorted(self._kinds ^ paths))
            raise ValueError(f"arrays must be the same for all prompts; not so: {odd}")

    def _begin(self) -> None:
        if self._file is None:
            self._file = MemoryFile(int(min(self._described.part_bytes, 2**40) * SPARE))
        self._file.clear()
        self._builder = PartBuilder(
            self._file,
            layout=self._layout,
            provenance=self._described.provenance,
            vocab=self._vocab,
        )

    def _seal(self) -> None:
        assert self._builder is not None
        assert self._file is not None
        name, content = part_name(len(self._parts)), self._builder.finish()
        with ThreadPoolExecutor(1) as threads:
            digest = threads.submit(lambda: hashlib.sha256(content).hexdigest())
            write_whole(self.path / name, content)
            datasets = indexed_datasets(self._file)
            index = index_text(name, content, datasets, sha256=digest.result()).encode()
        write_whole(self.path / index_name(name), index)
        self._parts.append(
            PartEntry(
                name=name,
                bytes=len(content),
                sha256=digest.result(),
                n_prompts=self._builder.n_prompts,
                n_tokens=self._builder.n_tokens,
                index_bytes=len(index),
                index_sha256=hashlib.sha256(index).hexdigest(),
            )
        )
        self._builder, self._sizes = None, self._no_rows()
        self._write_manifest(complete=False)

    def _has_room(self, stored: Stored) -> bool:
        return self._sizes.with_one_more(stored) <= self._described.part_bytes

    def _no_rows(self) -> Sizes:
        return Sizes(fixed=2 * len(self._described.provenance.encode()) + self._vocab_bytes)

    def _write_manifest(self, *, complete: bool) -> None:
        text = manifest_text(self._parts, self._described, complete=complete)
        write_whole(self.path / MANIFEST_NAME, text.encode())

    def _write_card(self) -> None:
        prompts, tokens = prompts_by_kind(self.path, self._parts)
        text = store_card(
            self.path.name,
            layout=self._layout,
            provenance=json.loads(self._described.provenance),
            parts=self._parts,
            prompts=prompts,
            tokens=tokens,
        )
        write_whole(self.path / CARD_NAME, text.encode())

    def _leave(self) -> None:
        """Give up the lock; where nothing was sealed, there is no folder afterwards."""
        if self._builder is not None:
            self._builder.abandon()
        if self._file is not None:
            self._file.close()
        self._builder = self._file = None
        if self._is_new and not self._parts:
            clear_leftovers(self.path, [])
            (self.path / MANIFEST_NAME).unlink(missing_ok=True)
        is_left_empty = is_empty_folder(self.path)
        (self.path / LOCK_NAME).unlink(missing_ok=True)  # while it is held: no other can have it
        self._lock.release()
        if is_left_empty:
            with suppress(OSError):  # another writer may have begun there
                self.path.rmdir()


def is_captured(path: Path, *, layout: Layout, provenance: Mapping[str, Any]) -> bool:
    """Whether the complete store that these settings would make is at `path` already.

    Returns:
        False where nothing is there, or a part of that store, so that it can be made or continued.

    Raises:
        InputError: If another store is there, naming what differs, or anything else.
    """
    if not Path(path).exists():
        return False
    wanted = Described(
        layout=layout, provenance=canonical_json(provenance), created="", part_bytes=0
    )
    found = found_at(Path(path), wanted)
    return found is not None and found.is_complete and bool(open_store(path))
