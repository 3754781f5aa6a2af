"""What a template may say about an item of the `matched` suite besides the item's own words."""

from collections.abc import Callable
from dataclasses import dataclass

LETTERS = "ABCD"

TOPICS = {
    "code": "Python",
    "commonsense": "common sense",
    "reading": "reading comprehension",
    "advice": "everyday life",
    "knowledge": "general knowledge",
}
"""Domains whose name does not read well within a sentence, and what an exam would call them."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a template may say about an item besides the item's own words."""

    domain: str
    """Such as `arithmetic`."""
    options: tuple[str, ...]
    """Four answers, of which one is right, as they stand within a sentence."""
    proposed: str
    """The option that a template puts up for judgement; right for half of the items."""
    signature: str
    """First line of a Python function, `def ...:`."""
    doctest: tuple[str, str]
    """A call of that function and what it prints."""

    @property
    def topic(self) -> str:
        """The domain as an exam names it in a sentence."""
        return TOPICS.get(self.domain, self.domain)

    @property
    def choices(self) -> tuple[str, ...]:
        """The options as an exam prints them: with a capital, code apart."""
        if self.domain == "code":
            return self.options
        return tuple(option[0].upper() + option[1:] for option in self.options)

    @property
    def proposed_choice(self) -> str:
        """The proposed option as an exam prints it."""
        return self.choices[self.options.index(self.proposed)]


Frame = Callable[[Surroundings], tuple[str, str]]
"""Gives the text before the item's words and the text after them."""


def lettered(around: Surroundings, pattern: str, *, between: str = "\n") -> str:
    """The choices, each put into a pattern with `{n}`, `{letter}` and `{choice}`."""
    numbered = enumerate(zip(LETTERS, around.choices, strict=True), start=1)
    return between.join(pattern.format(n=n, letter=a, choice=c) for n, (a, c) in numbered)
