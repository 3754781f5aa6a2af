"""Which rows of a batch hold tokens of chosen segments."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer

from interp.cache.errors import InputError
from interp.cache.records import SEGMENTS
from interp.hooks.batches import PaddingSide, row_starts
from interp.hooks.render import RenderedPrompt


def rows_of_segments(
    batch: Sequence[RenderedPrompt],
    segments: Sequence[str] = ("user",),
    *,
    side: PaddingSide = "right",
) -> Integer[np.ndarray, "rows"]:
    """Rows of the tokens of some segments, when `(batch pos)` of a padded batch is flattened.

    Args:
        batch: In the order in which they are padded, as by `interp.hooks.batches.padded`.
        segments: Of `interp.cache.records.SEGMENTS`; the item's own words if not given.
        side: On which side the batch is padded.

    Raises:
        InputError: If a segment is not known, or no token of the batch is in one of them.
    """
    unknown = [each for each in segments if each not in SEGMENTS]
    if unknown or not segments:
        raise InputError(
            f"segments holds {unknown or 'nothing'}, expected some of {', '.join(SEGMENTS)}"
        )
    wanted = [SEGMENTS.index(each) for each in segments]
    starts = row_starts(batch, side=side)
    rows = [
        start + np.flatnonzero(np.isin(each.segment, wanted))
        for start, each in zip(starts, batch, strict=True)
    ]
    found: Integer[np.ndarray, rows] = np.concatenate(rows)
    if not found.size:
        raise InputError(
            f"no token of the {len(batch)} prompts is in the segments {', '.join(segments)}; name "
            "others"
        )
    return found
