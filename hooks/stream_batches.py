"""The batches of a streamed capture, and where each prompt's rows are among theirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Integer

from interp.hooks.batches import windows
from interp.hooks.capture import shortest_and_long
from interp.hooks.positions import kept_positions
from interp.hooks.render import RenderedPrompt
from interp.hooks.settings import CaptureSettings


@dataclass(frozen=True, kw_only=True)
class StreamBatches:
    """Which prompts go through the layers together; those of the check come first.

    A place is a number of a prompt in the order of the batches, where those of the check are again.
    """

    batches: tuple[tuple[RenderedPrompt, ...], ...]
    """In the order in which they go through every layer."""
    n_checks: int
    """Batches at the front that are there for the check alone."""
    place: tuple[int, ...]
    """Of each prompt of the store."""
    kept: tuple[Integer[np.ndarray, "_"], ...]
    """Positions whose residuals are kept, of each place."""

    @classmethod
    def of(cls, rendered: Sequence[RenderedPrompt], settings: CaptureSettings) -> "StreamBatches":
        """The batches of `interp.hooks.capture`, behind its shortest and a long prompt.

        These two go through together, and each alone where one of them is padded.
        """
        pair = shortest_and_long(rendered)
        is_padded = len({len(each.token_id) for each in pair}) > 1
        checks = [pair, *([[each] for each in pair] if is_padded else [])]
        lengths = [len(each.token_id) for each in rendered]
        members = [each for _, some in windows(lengths, settings.batch_tokens) for each in some]
        batches = [*checks, *([rendered[each] for each in some] for some in members)]
        place = np.empty(len(rendered), dtype=np.int64)
        place[np.concatenate(members)] = sum(map(len, checks)) + np.arange(len(rendered))
        return cls(
            batches=tuple(map(tuple, batches)),
            n_checks=len(checks),
            place=tuple(place.tolist()),
            kept=tuple(
                kept_positions(settings.positions, each.segment)
                for batch in batches
                for each in batch
            ),
        )

    @cached_property
    def prompts(self) -> tuple[RenderedPrompt, ...]:
        """The prompt of each place."""
        return tuple(each for batch in self.batches for each in batch)

    def kept_of(self, batch: int) -> tuple[Integer[np.ndarray, "_"], ...]:
        """Positions whose residuals are kept, of each prompt of a batch."""
        first = sum(map(len, self.batches[:batch]))
        return self.kept[first : first + len(self.batches[batch])]

    def tokens(self, place: int) -> slice:
        """The tokens of a place among all that the batches hold."""
        first, end = self._token_offset[place : place + 2].tolist()
        return slice(first, end)

    def rows(self, place: int) -> slice:
        """The residuals of a place among all that are kept."""
        first, end = self._row_offset[place : place + 2].tolist()
        return slice(first, end)

    @cached_property
    def _token_offset(self) -> Integer[np.ndarray, "_"]:
        return np.cumsum([0, *(len(each.token_id) for each in self.prompts)])

    @cached_property
    def _row_offset(self) -> Integer[np.ndarray, "_"]:
        return np.cumsum([0, *map(len, self.kept)])
