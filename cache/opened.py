"""What is read of each part when its store is opened, and compared with the manifest."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from interp.cache.errors import StoreError
from interp.cache.manifest import PartEntry
from interp.cache.part_source import PartSource
from interp.cache.records import PROMPT_FIELDS


@dataclass(frozen=True, kw_only=True)
class OpenedPart:
    """One part, and whose tokens are in it."""

    source: PartSource
    n_tokens: int
    fields: dict[str, list[str]]
    """The short fields of its prompts, by name."""
    offset: Int[np.ndarray, "prompts_and_one"]
    """Prompt `i` has the tokens from `offset[i]` up to `offset[i + 1]` of the part."""


def opened(source: PartSource, entry: PartEntry) -> OpenedPart:
    """Read the prompts of a part.

    Raises:
        StoreError: If it is damaged, or not the part that the manifest describes.
    """
    shapes = source.shapes()
    try:
        n_tokens = shapes["tokens/token_id"][0]
        offset = source.read("prompts/offset")
        fields = {name: _texts(source.read(f"prompts/{name}")) for name in PROMPT_FIELDS}
    except (KeyError, IndexError, UnicodeDecodeError) as error:
        raise StoreError(
            f"{source.name} lacks a dataset or holds it wrongly ({error}); copy the store again"
        ) from error
    lengths = [len(values) for values in fields.values()] + [len(offset) - 1]
    is_whole = all(n == entry.n_prompts for n in lengths) and n_tokens == entry.n_tokens
    if not is_whole or not _partitions(offset, n_tokens):
        raise StoreError(
            f"{source.name} does not hold the {entry.n_prompts} prompts and {entry.n_tokens} "
            "tokens that the manifest says; copy the store again"
        )
    return OpenedPart(source=source, n_tokens=n_tokens, fields=fields, offset=offset)


def _texts(values: np.ndarray) -> list[str]:
    return [each.decode() for each in values.tolist()]


def _partitions(offset: np.ndarray, n_tokens: int) -> bool:
    """Whether offsets rise from 0 to the number of tokens."""
    return bool(offset[0] == 0 and offset[-1] == n_tokens and (np.diff(offset) > 0).all())
