"""Which segment each part of a Harmony conversation belongs to.

A message is `<|start|>ROLE<|channel|>CHANNEL<|message|>CONTENT<|end|>`; only CONTENT belongs to the
role or channel, all else is template.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
from jaxtyping import UInt8

from interp.cache.records import SEGMENTS

_WORDS = r"(?:(?!<\|).)*"
_MESSAGE = re.compile(
    rf"(?:<\|start\|>(?P<role>{_WORDS}))?(?:<\|channel\|>(?P<channel>{_WORDS}))?"
    rf"(?:<\|constrain\|>{_WORDS})?<\|message\|>(?P<content>.*?)"
    r"(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL,
)
_ROLES = ("system", "developer", "user")
_CHANNELS = ("analysis", "commentary", "final")


def is_harmony(text: str) -> bool:
    """Whether a rendered text has Harmony's markup."""
    return "<|start|>" in text and "<|message|>" in text


def harmony_spans(text: str) -> Iterator[tuple[str, int, int]]:
    """Segment, first character and end of the content of each message, in order.

    An assistant's message without a channel is `final`; content of a role or channel that has no
    segment of its own is `other`.
    """
    for match in _MESSAGE.finditer(text):
        name = _segment_of(match["role"], match["channel"])
        yield name, *match.span("content")


def harmony_segments(token_texts: Sequence[str]) -> UInt8[np.ndarray, "tokens"]:
    """Positions in `SEGMENTS`, one per token, by the token's first character.

    Example:
        >>> harmony_segments(["<|start|>", "user", "<|message|>", "Hi", "<|end|>"])
        array([0, 0, 0, 3, 0], dtype=uint8)
    """
    text = "".join(token_texts)
    of_character = np.full(len(text) + 1, SEGMENTS.index("template"), dtype=np.uint8)
    for name, start, end in harmony_spans(text):
        of_character[start:end] = SEGMENTS.index(name)
    starts = [0, *accumulate(len(each) for each in token_texts)][: len(token_texts)]
    return np.asarray(of_character[starts])


def _segment_of(role: str | None, channel: str | None) -> str:
    """Segment of the content after a header such as `assistant<|channel|>commentary to=tool`."""
    first_word = (channel or role or "").split()[:1]
    if channel is None and first_word == ["assistant"]:
        return "final"
    known = _CHANNELS if channel else _ROLES
    return first_word[0] if first_word and first_word[0] in known else "other"
