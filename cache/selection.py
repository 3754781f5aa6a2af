"""Which rows of a part belong to some prompts."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from interp.cache.opened import OpenedPart

PromptSelection = Sequence[int] | Sequence[bool] | np.ndarray
"""A mask over prompts, or rising positions."""


def chosen_prompts(prompts: PromptSelection, *, n_prompts: int) -> Int[np.ndarray, "chosen"]:
    """Positions of the chosen prompts, rising.

    Raises:
        ValueError: If a mask has another length, or positions do not rise within the store.
    """
    given = np.asarray(prompts)
    if given.dtype == np.bool_:
        if given.shape != (n_prompts,):
            raise ValueError(
                f"prompts is a mask of shape {given.shape}, but the store has {n_prompts} prompts"
            )
        return np.flatnonzero(given)
    positions = given.astype(np.int64) if given.size else np.empty(0, dtype=np.int64)
    is_whole = given.size == 0 or given.dtype.kind in "iu"
    if not is_whole or positions.ndim != 1 or (np.diff(positions) <= 0).any():
        raise ValueError("prompts must be a mask, or positions that rise; sort them first")
    if positions.size and not 0 <= positions[0] <= positions[-1] < n_prompts:
        raise ValueError(
            f"prompts holds positions {positions[0]} to {positions[-1]}, expected 0 to "
            f"{n_prompts - 1}"
        )
    return positions


def token_rows(offset: Int[np.ndarray, "_"], prompts: Int[np.ndarray, "chosen"]) -> list[slice]:
    """Tokens of some prompts of a part as slices; prompts that follow each other share one."""
    if not prompts.size:
        return []
    breaks = np.flatnonzero(np.diff(prompts) > 1)
    first = prompts[np.concatenate([[0], breaks + 1])]
    last = prompts[np.concatenate([breaks, [len(prompts) - 1]])]
    return [slice(int(offset[a]), int(offset[b + 1])) for a, b in zip(first, last, strict=True)]


def resid_rows(
    part: OpenedPart, tokens: Sequence[slice] | None
) -> tuple[list[slice] | None, Int[np.ndarray, "rows"]]:
    """Rows of the residuals of some tokens, and which token of the part each row is of."""
    if "resid/token_index" in part.source.shapes():
        index = part.source.read("resid/token_index")
    else:
        index = np.arange(part.n_tokens, dtype=np.int64)
    if tokens is None:
        return None, index
    bounds = [np.searchsorted(index, [each.start, each.stop]) for each in tokens]
    rows = [slice(int(start), int(stop)) for start, stop in bounds if start < stop]
    return rows, np.concatenate([index[:0], *(index[each] for each in rows)])
