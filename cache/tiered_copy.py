"""A copy of a store in a smaller tier, made beside it for a push, and gone afterwards."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from interp.cache.errors import InputError, StorageError
from interp.cache.reader import Store
from interp.cache.sizes import dataset_bytes
from interp.cache.sources import store_source
from interp.cache.tiers import write_no_text
from interp.cache.usage_table import write_usage

ROW_BYTES = 80
"""Of the table of usage, about."""
INDEX_SHARE = 0.01
"""Bytes of the indexes, as a share of the parts, at most."""


@contextmanager
def tiered_copy(
    store: Path, tier: str, *, minimum_count: int, scratch: Path | None
) -> Iterator[Path]:
    """The folder of a copy of `store` in `tier`, as long as it is used.

    Args:
        store: A store of a larger tier.
        tier: `no_text` or `aggregate`.
        minimum_count: As `interp.cache.sharing.push` has it.
        scratch: Where the copy is made; beside the store if None.

    Raises:
        InputError: If nothing can be written there.
        StorageError: If there is no space for it; nothing is written then.
    """
    source = store_source(store, trusted=None, storage_options=None)
    opened = Store(source)
    if tier == "no_text":
        n_bytes = _bytes_without_text(opened, [part.source.shapes() for part in source.parts])
    else:
        n_bytes = _bytes_of_usage(opened, minimum_count=minimum_count)
    beside = store.resolve().parent if scratch is None else scratch
    folder = _made_in(beside)
    try:
        free = shutil.disk_usage(folder).free
        if n_bytes > free:
            raise StorageError(
                f"a copy in the tier {tier} needs {n_bytes:,} bytes for a while, and {beside} has "
                f"room for {free:,}; free some, or give a folder on another disk with --scratch"
            )
        write = write_no_text if tier == "no_text" else write_usage
        yield write(opened, folder / "copy.moe", minimum_count=minimum_count)
    finally:
        shutil.rmtree(folder)


def _made_in(beside: Path) -> Path:
    try:
        return Path(tempfile.mkdtemp(dir=beside, prefix=".push-"))
    except OSError as error:
        raise InputError(
            f"{beside} cannot take the copy that is shared ({error.strerror}); give a folder that "
            "can with --scratch"
        ) from error


def _bytes_without_text(store: Store, shapes: Sequence[Mapping[str, tuple[int, ...]]]) -> int:
    """Parts less their residuals, which are stored as they are; what else goes is little."""
    n_bytes = sum(part["bytes"] for part in store.manifest["parts"])
    kept = np.uint32 if store.layout.resid_dtype == "float32" else np.uint16
    resid = sum(
        dataset_bytes(path, np.empty((0, shape[1]), dtype=kept), n_rows=shape[0])
        for of_part in shapes
        for path, shape in of_part.items()
        if path.startswith("resid/") and len(shape) == 2
    )
    return int((n_bytes - resid) * (1 + INDEX_SHARE))


def _bytes_of_usage(store: Store, *, minimum_count: int) -> int:
    """A row for each cell that can reach the minimum count."""
    layout = store.layout
    cells = len(store.prompts) * layout.n_layers * layout.n_experts
    reached = store.n_tokens * layout.n_layers * layout.top_k // minimum_count
    return min(cells, reached) * ROW_BYTES
