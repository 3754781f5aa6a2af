"""Which segment each token of a Harmony conversation belongs to, from the texts of its tokens.

A message is `<|start|>ROLE<|channel|>CHANNEL<|message|>CONTENT<|end|>`; only CONTENT belongs to the
role or channel, all else is template.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from interp.cache.records import SEGMENTS

_START, _CHANNEL, _MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
_ENDS = ("<|end|>", "<|return|>", "<|call|>")
_ROLES = ("system", "developer", "user")
_CHANNELS = ("analysis", "commentary", "final")


def harmony_segments(token_texts: Sequence[str]) -> UInt8[np.ndarray, "tokens"]:
    """Positions in `SEGMENTS`, one per token.

    Content of a role or channel that has no segment of its own, and text outside of any message,
    is `other`.

    Example:
        >>> harmony_segments(["<|start|>", "user", "<|message|>", "Hi", "<|end|>"])
        array([0, 0, 0, 3, 0], dtype=uint8)
    """
    segments, header, within = [], "", "other"
    for text in token_texts:
        is_mark = text in (_START, _CHANNEL, _MESSAGE, *_ENDS)
        segments.append(SEGMENTS.index("template" if is_mark else within))
        if text == _START:
            header, within = "", "template"
        elif text == _CHANNEL:
            header, within = header.partition(_CHANNEL)[0] + _CHANNEL, "template"
        elif text == _MESSAGE:
            within = _segment_of(header)
        elif text in _ENDS:
            within = "other"
        elif within == "template":
            header += text
    return np.array(segments, dtype=np.uint8)


def _segment_of(header: str) -> str:
    """Segment of the content after a header such as `assistant<|channel|>commentary to=tool`."""
    role, _, channel = header.partition(_CHANNEL)
    first_word = (channel or role).split()[:1]
    known = _CHANNELS if channel else _ROLES
    return first_word[0] if first_word and first_word[0] in known else "other"
