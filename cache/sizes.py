"""How many bytes a part has, from the sizes of its rows, before any of it is written."""

from collections.abc import Mapping

import numpy as np

from interp.cache.part_builder import arrays_of, chunk_rows
from interp.cache.records import PROMPT_FIELDS
from interp.cache.stored import Stored

CHUNK_OVERHEAD = 32
"""Bytes of a chunk beside its values: its checksum, and what HDF5 needs to find it; measured."""
DATASET_OVERHEAD = 600
"""Bytes of a dataset beside its chunks; measured."""
PART_OVERHEAD = 6000
"""Bytes of a part beside its datasets and attributes; measured."""


class Sizes:
    """The rows of a part, and the most bytes that it can have with them.

    Args:
        fixed: Bytes that do not depend on the prompts: provenance and vocabulary.
    """

    def __init__(self, *, fixed: int) -> None:
        self._fixed = fixed + PART_OVERHEAD
        self._n_prompts = 0
        self._n_index = 0
        self._longest = dict.fromkeys(PROMPT_FIELDS, 1)
        self._n_rows: dict[str, int] = {}
        self._like: dict[str, np.ndarray] = {}

    def add(self, stored: Stored) -> None:
        """Count the rows of one prompt."""
        self._n_prompts += 1
        self._n_index += _n_index(stored)
        self._longest = _longest(self._longest, stored)
        for path, values in arrays_of(stored).items():
            self._n_rows[path] = self._n_rows.get(path, 0) + len(values)
            self._like.setdefault(path, values[:0])

    def with_one_more(self, stored: Stored) -> int:
        """Bytes that the part takes at most when this prompt is added, without compression."""
        longest, n_prompts = _longest(self._longest, stored), self._n_prompts + 1
        fields = [(f"S{length}", n_prompts) for length in longest.values()]
        offsets = [("<i8", n_prompts + 1)] * 2
        index = [("<i8", self._n_index + _n_index(stored))]
        of_prompts = sum(
            dataset_bytes("prompts", np.empty(0, dtype), n_rows=n_rows)
            for dtype, n_rows in fields + offsets + index
        )
        of_arrays = sum(
            dataset_bytes(path, values, n_rows=self._n_rows.get(path, 0) + len(values))
            for path, values in arrays_of(stored).items()
        )
        return self._fixed + of_prompts + of_arrays


def dataset_bytes(path: str, like: np.ndarray, *, n_rows: int) -> int:
    """What a dataset takes without compression, the padding of its last chunk included.

    Args:
        path: In the part.
        like: Any rows of it; only their shape and dtype count.
        n_rows: Rows in the part.
    """
    per_chunk = chunk_rows(path, like)
    n_blocks = -(-n_rows // per_chunk)
    n_chunks = n_blocks * (like.shape[1] if like.ndim == 3 else 1)
    padded = n_rows if n_rows < per_chunk else n_blocks * per_chunk
    of_row = int(np.prod(like.shape[1:], dtype=int)) * like.itemsize
    return padded * of_row + n_chunks * CHUNK_OVERHEAD + DATASET_OVERHEAD


def _n_index(stored: Stored) -> int:
    return 0 if stored.resid_token_index is None else len(stored.resid_token_index)


def _longest(longest: Mapping[str, int], stored: Stored) -> dict[str, int]:
    return {name: max(longest[name], len(stored.fields[name])) for name in PROMPT_FIELDS}
