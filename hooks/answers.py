"""Answers as text: which tokens are which characters, and which segment of the prompt they are."""

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Integer

from interp.cache.harmony import harmony_spans, is_harmony
from interp.cache.records import SEGMENTS
from interp.hooks.render import RenderedPrompt, character_at


def with_answer(
    rendered: RenderedPrompt, answer: Integer[np.ndarray, "answer"], tokenizer: Any
) -> RenderedPrompt:
    """The prompt with its answer, whose last token is in the text but not among the tokens.

    In a Harmony text the channels say which segment a token of the answer belongs to; elsewhere
    all of it is `final`.
    """
    text, ends = decoded_text(tokenizer, answer)
    whole = rendered.text + text
    of_character = np.full(len(whole), SEGMENTS.index("final"), dtype=np.uint8)
    if is_harmony(rendered.text):
        of_character[:] = SEGMENTS.index("template")
        for name, start, end in harmony_spans(whole):
            of_character[start:end] = SEGMENTS.index(name)
    starts = [0, *ends[:-1]]
    n_before = len(rendered.text)
    segment = [
        of_character[min(character_at(whole, n_before + start, n_before + end), len(whole) - 1)]
        for start, end in zip(starts, ends, strict=True)
    ]
    byte_at = np.cumsum([0] + [len(character.encode()) for character in whole])
    kept = slice(0, len(answer) - 1)
    return replace(
        rendered,
        text=whole,
        token_id=np.concatenate([rendered.token_id, answer[kept].astype(np.int32)]),
        segment=np.concatenate([rendered.segment, np.array(segment, dtype=np.uint8)[kept]]),
        text_end=np.concatenate([rendered.text_end, byte_at[np.array(ends) + n_before][kept]]),
        generated=np.concatenate([rendered.generated, np.ones(len(answer) - 1, dtype=bool)]),
    )


def decoded_text(tokenizer: Any, token_id: Integer[np.ndarray, "tokens"]) -> tuple[str, list[int]]:
    """Text of some tokens, and where each ends in it, in characters.

    A token that ends within a character ends where that character begins; what is no UTF-8 at all
    becomes U+FFFD.
    """
    text, anchor, pending = "", list[int](), list[int]()
    ends: list[int] = []

    def decode(ids: list[int]) -> str:
        said = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(said)

    for index, token in enumerate(token_id.tolist()):
        pending.append(token)
        # Some tokenizers drop the space before the first token, so one goes before.
        piece = decode([*anchor, *pending])[len(decode(anchor)) if anchor else 0 :]
        if not piece.endswith("\ufffd") or index == len(token_id) - 1:
            text, anchor, pending = text + piece, pending[-1:], []
        ends.append(len(text))
    return text, ends
