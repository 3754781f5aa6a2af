"""Prompts as the model reads them: rendered text, token ids, and what each token belongs to."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer

from interp.cache.errors import InputError
from interp.cache.harmony import harmony_spans, is_harmony
from interp.cache.records import SEGMENTS, Prompt

STRFTIME_CALL = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
MARKED = re.compile("\ue000(\\d+)\ue001")
"""Stands for the words of a message while its place in the template is looked up."""
PINNED_DATE = date(2025, 8, 5)
"""The date that templates show instead of today's, unless another is given."""


@dataclass(frozen=True, kw_only=True)
class RenderedPrompt:
    """One prompt as the model reads it."""

    prompt: Prompt
    text: str
    """Rendered through the chat template, or the plain text as it stands."""
    token_id: Integer[np.ndarray, "tokens"]
    segment: Integer[np.ndarray, "tokens"]
    """Positions in `SEGMENTS`."""
    text_end: Integer[np.ndarray, "tokens"]
    """Where each token ends in `text`, in UTF-8 bytes."""
    generated: Bool[np.ndarray, "tokens"]
    """Whether the model wrote the token."""


def pin_date(chat_template: str, today: date) -> str:
    """The chat template with `today` in place of the clock.

    The Harmony template writes the date of the day into every system message, so the same prompt
    would give other tokens tomorrow.
    """
    return STRFTIME_CALL.sub(
        lambda call: f'strftime_now("{today.strftime(call[2])}")', chat_template
    )


def render_prompt(prompt: Prompt, tokenizer: Any, *, today: date = PINNED_DATE) -> RenderedPrompt:
    """Render and tokenise one prompt, up to where the model's answer would begin.

    Args:
        prompt: A chat, or plain text, which may be rendered already.
        tokenizer: A fast tokenizer of transformers; chats need its chat template.
        today: The date that the template shows.

    Raises:
        InputError: If the tokenizer has no chat template, the template leaves out or changes the
            words of a message, or these hold one of the tokenizer's control tokens, which the
            model would take for the template's.
    """
    text, spans = prompt.text, []
    if prompt.messages:
        _refuse_control_tokens(prompt, tokenizer)
        said = [message.content for message in prompt.messages]
        text = _chat_text(prompt, tokenizer, said, today)
        marks = [f"\ue000{index}\ue001" for index in range(len(said))]
        spans = message_spans(text, said, skeleton=_chat_text(prompt, tokenizer, marks, today))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    of_character = character_segments(text, prompt, spans)
    ends = [int(end) for _, end in encoded["offset_mapping"]]
    byte_at = np.cumsum([0] + [len(character.encode()) for character in text])
    token_spans = zip([0, *ends[:-1]], ends, strict=True)
    segment = [of_character[character_at(text, *span)] for span in token_spans]
    return RenderedPrompt(
        prompt=prompt,
        text=text,
        token_id=np.array(encoded["input_ids"], dtype=np.int32),
        segment=np.array(segment, dtype=np.uint8),
        text_end=byte_at[ends].astype(np.int64),
        generated=np.zeros(len(ends), dtype=bool),
    )


def message_spans(text: str, said: Sequence[str], *, skeleton: str) -> list[tuple[int, int]]:
    """Where the words of each message stand in the rendered text.

    Args:
        text: The chat, rendered.
        said: The words of each message.
        skeleton: The chat rendered with a mark in place of each message's words.

    Raises:
        InputError: If the template leaves a message out, or changes more than the white space
            around its words.
    """
    first, *rest = MARKED.split(skeleton)
    found, literals = [int(each) for each in rest[::2]], rest[1::2]
    spans, position = [], len(first)
    if text.startswith(first) and found == list(range(len(said))):
        for words, literal in zip(said, literals, strict=True):
            for kept in (words, words.strip()):
                end = position + len(kept)
                if text[position:end] == kept and text[end:].startswith(literal):
                    spans.append((position, end))
                    position = end + len(literal)
                    break
    if len(spans) == len(said) and position == len(text):
        return spans
    at = len(spans) if found == list(range(len(said))) else min(set(range(len(said))) - set(found))
    raise InputError(
        f"the chat template leaves out or changes the words of message {at + 1} "
        f"({said[min(at, len(said) - 1)][:40]!r}), so its tokens cannot be told from the "
        "template's; give the prompt as text, already rendered"
    )


def character_segments(
    text: str, prompt: Prompt, spans: Sequence[tuple[int, int]] = ()
) -> Integer[np.ndarray, "characters"]:
    """What each character of the rendered text belongs to, as positions in `SEGMENTS`.

    In a Harmony text the markup says it, elsewhere the role of the message; what belongs to no
    message is `template`. The last user message is split by `prompt.content`.

    Args:
        text: The prompt as the model reads it.
        prompt: What was rendered.
        spans: Where each message's words stand, from `message_spans`.

    Raises:
        InputError: If the template changed `prompt.content`.
    """
    named = list(harmony_spans(text)) if is_harmony(text) else _named(text, prompt, spans)
    segments = np.full(len(text), SEGMENTS.index("template"), dtype=np.uint8)
    for name, start, end in named:
        segments[start:end] = SEGMENTS.index(name)
    of_user = [(start, end) for name, start, end in named if name == "user"]
    if prompt.content:
        start, end = of_user[-1] if of_user else (0, 0)
        content = text.find(prompt.content, start, end)
        if content < 0:
            raise InputError(
                f"the chat template changed the content {prompt.content[:40]!r}, so the item's "
                "words cannot be told from their wrapper; give it without white space around it"
            )
        segments[start:content] = SEGMENTS.index("wrapper")
        segments[content + len(prompt.content) : end] = SEGMENTS.index("wrapper")
    return segments


def _named(
    text: str, prompt: Prompt, spans: Sequence[tuple[int, int]]
) -> list[tuple[str, int, int]]:
    """Segment and span of each message by its role; of the whole text where it is no chat."""
    if not prompt.messages:
        return [("user", 0, len(text))]
    names = {"assistant": "final"} | {name: name for name in ("system", "developer", "user")}
    roles = [names.get(message.role, "other") for message in prompt.messages]
    return [(name, *span) for name, span in zip(roles, spans, strict=True)]


def character_at(text: str, start: int, end: int) -> int:
    """The character that decides a token's segment: its first that is not white space.

    Later bytes of a character have no width of their own and belong to the character before.
    """
    if start == end:
        return max(0, start - 1)
    token = text[start:end]
    return start + len(token) - len(token.lstrip()) if token.strip() else start


def _chat_text(prompt: Prompt, tokenizer: Any, said: Sequence[str], today: date) -> str:
    """The rendered chat, with `said` as the words of its messages."""
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"{tokenizer.name_or_path or 'the tokenizer'} has no chat template; "
            "give the prompts as text, or a tokenizer that has one"
        )
    pairs = zip(prompt.messages, said, strict=True)
    return str(
        tokenizer.apply_chat_template(
            [{"role": message.role, "content": words} for message, words in pairs],
            chat_template=pin_date(tokenizer.get_chat_template(), today),
            tokenize=False,
            add_generation_prompt=True,
        )
    )


def _refuse_control_tokens(prompt: Prompt, tokenizer: Any) -> None:
    spoken = "\n".join(message.content for message in prompt.messages)
    # Not all_special_tokens: gpt-oss names there only three of its control tokens.
    added = [token for token in tokenizer.added_tokens_decoder.values() if token.special]
    held = [token.content for token in added if token.content in spoken]
    if held:
        raise InputError(
            f"prompt {prompt.prompt_id} of source {prompt.source!r} holds the control token "
            f"{held[0]}, which the model would take for the template's own; remove it or leave the "
            "prompt out"
        )
