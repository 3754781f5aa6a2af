"""A sealed part, opened for reading; every fault in it is told with its name."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, Int

from interp.cache.bfloat16 import is_bfloat16, read_bits, widen
from interp.cache.errors import StoreError
from interp.cache.manifest import PartEntry, check_version
from interp.cache.part import FORMAT, attribute_text, read_layout
from interp.cache.records import PROMPT_FIELDS, Layout


@dataclass(frozen=True, kw_only=True)
class SealedPart:
    """One part, and what of it was read when the store was opened."""

    path: Path
    n_tokens: int
    layout: Layout
    provenance: dict[str, Any]
    prompts: dict[str, list[str]]
    n_tokens_of_prompt: np.ndarray


@contextmanager
def opened_part(path: Path) -> Iterator[h5py.File]:
    """Open a part for reading, and name it in whatever fails in it.

    Parts never change and locks fail on some network disks, so there is no lock.

    Raises:
        StoreError: If the part, or what the body reads of it, cannot be read.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise StoreError(
            f"{path} cannot be read ({type(error).__name__}: {error}); it is damaged or no part "
            "of a store, so copy the store again"
        ) from error


def read_part(path: Path, entry: PartEntry) -> SealedPart:
    """Read what is needed of a part when its store is opened, and compare it with the manifest.

    Raises:
        StoreError: If it is damaged, or not the part that the manifest describes.
    """
    with opened_part(path) as file:
        if attribute_text(file, "format") != FORMAT:
            raise StoreError(f"{path} is no part of a store; copy the store again")
        check_version(str(path), attribute_text(file, "format_version"))
        offset = file["prompts/offset"][()]
        prompts = {name: list(file[f"prompts/{name}"].asstr()[()]) for name in PROMPT_FIELDS}
        n_tokens = len(file["tokens/token_id"])
        layout, provenance = read_layout(file), json.loads(attribute_text(file, "provenance"))
    lengths = {len(values) for values in prompts.values()} | {len(offset) - 1}
    if (
        lengths != {entry.n_prompts}
        or n_tokens != entry.n_tokens
        or not _partitions(offset, n_tokens)
    ):
        raise StoreError(
            f"{path} does not hold the {entry.n_prompts} prompts and {entry.n_tokens} tokens that "
            "the manifest says; copy the store again"
        )
    return SealedPart(
        path=path,
        n_tokens=n_tokens,
        layout=layout,
        provenance=provenance,
        prompts=prompts,
        n_tokens_of_prompt=np.diff(offset),
    )


def _partitions(offset: np.ndarray, n_tokens: int) -> bool:
    """Whether offsets rise from 0 to the number of tokens."""
    return bool(offset[0] == 0 and offset[-1] == n_tokens and (np.diff(offset) > 0).all())


def read_float32(dataset: h5py.Dataset) -> Float[np.ndarray, "rows d_model"]:
    """Residuals of a part; exact for all three dtypes that are stored."""
    if is_bfloat16(dataset):
        return widen(read_bits(dataset))
    return np.asarray(dataset[()], dtype=np.float32)


def read_resid_index(file: h5py.File, n_tokens: int) -> Int[np.ndarray, "rows"]:
    """Which tokens of the part have residuals."""
    if "resid/token_index" in file:
        return np.asarray(file["resid/token_index"][()])
    return np.arange(n_tokens, dtype=np.int64)
