"""Tokens that two prompts share: which row of one run answers to which row of another."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, Integer

from interp.cache.errors import InputError

How = Literal["subsequence", "span"]


@dataclass(frozen=True, kw_only=True)
class SharedTokens:
    """Pairs of tokens with the same id, in the order of both prompts."""

    first: Int[np.ndarray, "shared"]
    """Positions in the first prompt, rising."""
    second: Int[np.ndarray, "shared"]
    """Positions in the second prompt, rising."""

    def __len__(self) -> int:
        """How many tokens are shared."""
        return len(self.first)


def find_shared_tokens(
    first: Integer[np.ndarray, "first_tokens"],
    second: Integer[np.ndarray, "second_tokens"],
    *,
    is_content_of_first: Bool[np.ndarray, "first_tokens"] | None = None,
    is_content_of_second: Bool[np.ndarray, "second_tokens"] | None = None,
    how: How = "subsequence",
) -> SharedTokens:
    """Align the content tokens of two prompts by their ids.

    `subsequence` is a longest common subsequence: as many pairs as there can be, in order, with
    gaps. Of several as long it is one whose pairs come late. `span` is the longest run of content
    that is the same in both without a gap; of several as long, the first in the first prompt, then
    in the second.

    How it fools you: a subsequence also pairs tokens that have nothing to do with each other, such
    as two commas. Where the wording was changed throughout, look at what was paired.

    Args:
        first: Token ids of the first prompt.
        second: Those of the second.
        is_content_of_first: Tokens that may be paired; all if None.
        is_content_of_second: The same of the second prompt.
        how: `subsequence` or `span`.

    Raises:
        InputError: If the prompts share no content token, or `how` is neither.

    Example:
        >>> shared = find_shared_tokens(np.array([7, 1, 2, 3]), np.array([1, 9, 2, 3, 8]))
        >>> shared.first.tolist(), shared.second.tolist()
        ([1, 2, 3], [0, 2, 3])
    """
    if how not in ("subsequence", "span"):
        raise InputError(f"how is {how!r}, expected subsequence or span")
    positions = [
        np.arange(len(ids)) if is_content is None else np.flatnonzero(is_content)
        for ids, is_content in ((first, is_content_of_first), (second, is_content_of_second))
    ]
    contents = first[positions[0]], second[positions[1]]
    align = _longest_subsequence if how == "subsequence" else _longest_span
    pairs = align(*contents)
    if not len(pairs):
        raise InputError(
            f"the prompts share none of their {len(contents[0])} and {len(contents[1])} content "
            "tokens, so no routing can be patched; give prompts with the same content, tokenised "
            "by the same tokenizer"
        )
    return SharedTokens(first=positions[0][pairs[:, 0]], second=positions[1][pairs[:, 1]])


def _longest_subsequence(
    first: Integer[np.ndarray, "_"], second: Integer[np.ndarray, "_"]
) -> Int[np.ndarray, "shared 2"]:
    """By dynamic programming over lengths of common subsequences of all beginnings."""
    lengths = np.zeros((len(first) + 1, len(second) + 1), dtype=np.int64)
    for row, token in enumerate(first, start=1):
        paired = lengths[row - 1, :-1] + (second == token)
        lengths[row, 1:] = np.maximum.accumulate(np.maximum(paired, lengths[row - 1, 1:]))
    pairs, row, column = [], len(first), len(second)
    while lengths[row, column]:
        if first[row - 1] == second[column - 1]:
            row, column = row - 1, column - 1
            pairs.append((row, column))
        elif lengths[row - 1, column] == lengths[row, column]:
            row -= 1
        else:
            column -= 1
    return np.array(pairs[::-1], dtype=np.int64).reshape(-1, 2)


def _longest_span(
    first: Integer[np.ndarray, "_"], second: Integer[np.ndarray, "_"]
) -> Int[np.ndarray, "shared 2"]:
    """The best of the runs that end at each pair of positions."""
    runs = np.zeros(len(second) + 1, dtype=np.int64)
    best = (0, 0, 0)
    for row, token in enumerate(first):
        runs[1:] = np.where(second == token, runs[:-1] + 1, 0)
        column = int(runs.argmax())
        if runs[column] > best[0]:
            best = (int(runs[column]), row + 1, column)
    length, end_of_first, end_of_second = best
    return np.arange(length)[:, None] + np.array(
        [end_of_first - length, end_of_second - length], dtype=np.int64
    )
