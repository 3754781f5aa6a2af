"""Which tokens of a prompt keep their residual streams."""

import numpy as np
from jaxtyping import Integer

from interp.cache.errors import InputError
from interp.cache.records import SEGMENTS

USER = SEGMENTS.index("user")


def check_positions(positions: str) -> str:
    """Return `positions` if it is `all`, `last_content` or `every:n`.

    Raises:
        InputError: If it is none of these.
    """
    name, _, step = positions.partition(":")
    if positions in ("all", "last_content") or (
        name == "every" and step.isdecimal() and int(step) > 0
    ):
        return positions
    raise InputError(
        f"positions is {positions!r}, expected all, last_content or every:n such as every:16"
    )


def kept_positions(
    positions: str, segment: Integer[np.ndarray, "tokens"]
) -> Integer[np.ndarray, "rows"]:
    """Positions of one prompt whose residuals are kept, rising.

    `last_content` is the last token of the item's own words: the end of the template is the same
    in every prompt, and what comes after the content is wrapper. Where a prompt has no user text,
    it is the last token. `every:n` keeps positions 0, n, 2n, ...
    """
    if positions == "all":
        return np.arange(len(segment))
    if positions == "last_content":
        content = np.flatnonzero(segment == USER)
        return content[-1:] if content.size else np.array([len(segment) - 1])
    return np.arange(0, len(segment), int(positions.removeprefix("every:")))
