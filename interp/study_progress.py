"""The bar of `interp analyze`: it names the step at hand, and is quiet where nobody watches."""

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from tqdm import tqdm

SECONDS_IN_A_LOG = 10.0
"""Least time between two states of the bar where stderr is no terminal."""


class Steps:
    """Named steps of a study on one bar; a step may move on within its share of the bar."""

    def __init__(self, shares: Mapping[str, int], *, show: bool) -> None:
        """Open the bar.

        Args:
            shares: For each step, in order, its share of the bar in any unit.
            show: Whether there is a bar at all.
        """
        self._shares = dict(shares)
        self._watched = sys.stderr.isatty()
        self._place = self._end = 0
        self._bar = tqdm(
            total=sum(shares.values()),
            desc="analyze",
            disable=not show,
            file=sys.stderr,
            mininterval=0.1 if self._watched else SECONDS_IN_A_LOG,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
        )

    def start(self, name: str) -> None:
        """Begin a step: those before it are done, and its name is shown.

        Raises:
            ValueError: If no step has that name.
        """
        order = list(self._shares)
        done = sum(self._shares[each] for each in order[: order.index(name)])
        self._end = done + self._shares[name]
        self._move_to(done)
        self._bar.set_postfix_str(name, refresh=self._watched)

    def advance(self, n: int) -> None:
        """Move on within the step, at most to its end."""
        self._move_to(min(self._place + n, self._end))

    def _move_to(self, place: int) -> None:
        self._bar.update(max(0, place - self._place))
        self._place = max(place, self._place)

    def __enter__(self) -> Self:
        """The steps themselves."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Fill the bar where all went well, and leave it in place."""
        if error is None:
            self._bar.set_postfix_str("", refresh=False)
            self._move_to(sum(self._shares.values()))
        self._bar.close()
