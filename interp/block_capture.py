"""Capture by several workers: each holds the model and seals the parts of its own prompts."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from interp.cache.durable import write_whole
from interp.cache.errors import InputError, StoreError
from interp.cache.joining import is_whole, join_stores
from interp.cache.manifest import (
    MANIFEST_NAME,
    canonical_json,
    json_values,
    read_manifest,
    read_unfinished,
)
from interp.cache.records import Prompt
from interp.cache.resume import LOCK_NAME
from interp.executors import TRIES, Workers, done_blocks

if TYPE_CHECKING:
    from interp.hooks.settings import CaptureSettings

BLOCK_PROMPTS = 1024
"""Prompts of a block; a whole number of the spans that batches are made of."""
FACTS_NAME = "capture.json"


@dataclass(frozen=True, kw_only=True)
class Block:
    """Prompts that one worker captures into a store of their own."""

    prompts: tuple[Prompt, ...]
    store: Path


@dataclass(frozen=True, kw_only=True)
class BlockCapture:
    """Makes a worker that captures blocks: it loads and checks the model in its own process."""

    model: str
    dtype: str
    settings: "CaptureSettings"
    prompts_sha256: str
    """Of all prompts of the store."""
    checked: tuple[Prompt, ...]
    """Of which the self-check takes the shortest and a long one."""
    source_licenses: dict[str, str]
    part_mb: float

    def facts(self) -> dict[str, Any]:
        """What the blocks depend on, as JSON values."""
        from interp.hooks.load import weights_digest
        from interp.organisms import model_path

        place = Path(model_path(self.model))
        return json_values(
            {
                "model": self.model,
                "dtype": self.dtype,
                "settings": asdict(self.settings),
                "prompts_sha256": self.prompts_sha256,
                "part_mb": self.part_mb,
                "weights_sha256": weights_digest(place) if self._is_a_folder(place) else "",
            }
        )

    def _is_a_folder(self, place: Path) -> bool:
        """Whether the files there are all that the model is made of."""
        from interp.organisms import EDITED, UNTRAINED

        return place.is_dir() and self.model not in (*EDITED, *UNTRAINED)

    def __call__(self) -> Callable[[Block], int]:
        """The worker: captures a block and says how many prompts it has."""
        from interp.hooks.capture import (
            capture_provenance,
            rendered_prompts,
            shortest_and_long,
            write_captured,
        )
        from interp.hooks.self_check import self_check
        from interp.organisms import load_model

        loaded = load_model(self.model, dtype=self.dtype)
        tokenizer, settings = loaded.tokenizer, self.settings
        pair = shortest_and_long(rendered_prompts(self.checked, tokenizer, settings))
        checked = self_check(loaded.model, tokenizer, pair, settings=settings)
        provenance = capture_provenance(
            loaded, self.checked, settings=settings, registered=None, path=checked["experts_path"]
        )
        provenance |= {"prompts_sha256": self.prompts_sha256}
        provenance.pop("source_licenses", None)
        if self.source_licenses:
            provenance["source_licenses"] = self.source_licenses

        def capture_block(block: Block) -> int:
            write_captured(
                loaded,
                rendered_prompts(block.prompts, tokenizer, settings),
                block.store,
                settings=settings,
                provenance=provenance,
                checked=checked,
                part_mb=self.part_mb,
                progress=False,
            )
            return len(block.prompts)

        return capture_block


def capture_in_blocks(
    model: str,
    prompts: Sequence[Prompt],
    out: str | Path,
    *,
    settings: "CaptureSettings",
    workers: Workers,
    dtype: str = "auto",
    part_mb: float = 512.0,
    block_prompts: int = BLOCK_PROMPTS,
    progress: bool = True,
) -> bool:
    """Capture prompts with several workers into one store.

    Its prompts, arrays and provenance are those of `interp.hooks.capture` in one process; parts end
    where blocks end, and the self-check is on prompts of the first block. A block whose worker is
    lost, or whose store is damaged before it is joined, is captured again. The same call again goes
    on with the blocks that are whole.

    Args:
        model: As in `interp.organisms.load_model`; every worker loads it.
        prompts: In the order in which the store keeps them.
        out: The store's folder, on a disk that all workers write to.
        settings: What to record.
        workers: How many, and where.
        dtype: As in `load_model`.
        part_mb: As in `capture`.
        block_prompts: Prompts of a block; what a lost worker loses at most.
        progress: Show a bar on stderr.

    Returns:
        Whether anything was captured; False if the store was already there.

    Raises:
        InputError: If there is no prompt, one cannot be rendered, or something else is at `out`.
        ModelError: If the self-check fails, or the worker of one block is lost again and again.
        StorageError: If there is no space left; blocks that are whole are kept.
    """
    from interp.hooks.batches import WINDOW
    from interp.hooks.capture import prompts_digest, source_licenses

    out = Path(out)
    if not prompts:
        raise InputError("there is no prompt to capture; give at least one")
    if block_prompts < 1 or block_prompts % WINDOW:
        raise InputError(
            f"block_prompts is {block_prompts}, expected a multiple of {WINDOW}, so that batches "
            "are those of one process"
        )
    folder = out.parent / f".{out.name}.blocks"
    blocks = [
        Block(prompts=tuple(prompts[start : start + block_prompts]), store=folder / f"{start}.moe")
        for start in range(0, len(prompts), block_prompts)
    ]
    make_worker = BlockCapture(
        model=model,
        dtype=dtype,
        settings=settings,
        prompts_sha256=prompts_digest(prompts),
        checked=blocks[0].prompts,
        source_licenses=source_licenses(prompts),
        part_mb=part_mb,
    )
    facts = make_worker.facts() | {"block_prompts": block_prompts}
    if _is_there(out, facts):
        return False
    with _locked(folder):
        _expect_same(folder, facts)
        _capture_all(make_worker, blocks, workers, progress=progress)
        join_stores(out, [block.store for block in blocks])
        shutil.rmtree(folder)
    return True


def _capture_all(
    make_worker: BlockCapture, blocks: Sequence[Block], workers: Workers, *, progress: bool
) -> None:
    """Until every block is whole on disk; one that is damaged since is captured again."""
    with tqdm(
        total=sum(len(block.prompts) for block in blocks),
        desc="capture",
        unit="prompt",
        disable=not progress,
    ) as bar:
        for _ in range(TRIES):
            left = [block for block in blocks if not is_whole(block.store)]
            bar.update(sum(len(block.prompts) for block in blocks if block not in left) - bar.n)
            if not left:
                return
            for block in left:
                _clear_damaged(block.store)
            for _, n_prompts in done_blocks(make_worker, left, workers=workers):
                bar.update(n_prompts)
    damaged = [str(block.store) for block in blocks if not is_whole(block.store)]
    if damaged:
        raise StoreError(
            f"{damaged[0]} was damaged after it was written, {TRIES} times; check the disk"
        )


def _clear_damaged(store: Path) -> None:
    """Remove a block that says it is finished and is not whole; one that was stopped goes on."""
    try:
        is_begun = store.exists() and read_unfinished(store)[0].get("complete") is not True
    except (InputError, StoreError):
        is_begun = False
    if not is_begun:
        shutil.rmtree(store, ignore_errors=True)


def _is_there(out: Path, facts: dict[str, Any]) -> bool:
    """Whether the store is at `out` already, as far as can be said without loading the model."""
    if not (out / MANIFEST_NAME).is_file():
        return False
    provenance = read_manifest(out)[0]["provenance"]
    names = ("settings", "prompts_sha256", "weights_sha256")
    differing = [name for name in names if facts[name] and provenance.get(name) != facts[name]]
    if differing:
        raise InputError(
            f"{out} holds another capture, which differs in {', '.join(differing)}; choose another "
            "path or delete it first"
        )
    return True


def _expect_same(folder: Path, facts: dict[str, Any]) -> None:
    """Blocks of another capture must not be taken for those of this one."""
    path = folder / FACTS_NAME
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != facts:
        raise InputError(
            f"{folder} holds blocks of another capture, begun with other prompts, weights or "
            "settings; delete it, or finish that capture first"
        )
    write_whole(path, canonical_json(facts).encode())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_NAME, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"another process is capturing into {folder}; wait for it, or choose another path"
        ) from error
    try:
        yield
    finally:
        lock.release()
