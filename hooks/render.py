"""Prompts as the model reads them: rendered text, token ids, and what each token belongs to."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import numpy as np
from jaxtyping import Integer

from interp.cache.errors import InputError
from interp.cache.records import SEGMENTS, Prompt

STRFTIME_CALL = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
HARMONY_MESSAGE = re.compile(
    r"<\|start\|>(?P<role>\w+)[^<]*(?:<\|channel\|>(?P<channel>\w+)[^<]*)?(?:<\|constrain\|>[^<]*)?"
    r"<\|message\|>(?P<content>.*?)(?=<\|(?:end|return|call|start)\|>|\Z)",
    re.DOTALL,
)
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
        prompt: A chat, or plain text.
        tokenizer: A fast tokenizer of transformers; chats need its chat template.
        today: The date that the template shows.

    Raises:
        InputError: If the tokenizer has no chat template, or the prompt's own words hold one of
            its control tokens, which the model would take for the template's.
    """
    _refuse_control_tokens(prompt, tokenizer)
    text = _chat_text(prompt, tokenizer, today) if prompt.messages else prompt.text
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    of_character = character_segments(text, prompt)
    ends = [int(end) for _, end in encoded["offset_mapping"]]
    spans = zip([0, *ends[:-1]], ends, strict=True)
    byte_at = np.cumsum([0] + [len(character.encode()) for character in text])
    segment = [of_character[_telling(text, *span)] for span in spans]
    return RenderedPrompt(
        prompt=prompt,
        text=text,
        token_id=np.array(encoded["input_ids"], dtype=np.int32),
        segment=np.array(segment, dtype=np.uint8),
        text_end=byte_at[ends].astype(np.int64),
    )


def character_segments(text: str, prompt: Prompt) -> Integer[np.ndarray, "characters"]:
    """What each character of the rendered text belongs to, as positions in `SEGMENTS`.

    In a Harmony text the markup says it. Elsewhere the messages are looked up one after the other;
    what belongs to none of them is `template`. The last user message is split by `prompt.content`.
    """
    if not prompt.messages:
        segments = np.full(len(text), SEGMENTS.index("user"), dtype=np.uint8)
        return _mark_wrapper(segments, text, prompt, (0, len(text)))
    segments = np.full(len(text), SEGMENTS.index("template"), dtype=np.uint8)
    harmony = "<|message|>" in text
    last_user = None
    for name, start, end in _harmony_spans(text) if harmony else _message_spans(text, prompt):
        segments[start:end] = SEGMENTS.index(name)
        last_user = (start, end) if name == "user" else last_user
    return _mark_wrapper(segments, text, prompt, last_user) if last_user else segments


def _harmony_spans(text: str) -> Iterator[tuple[str, int, int]]:
    for match in HARMONY_MESSAGE.finditer(text):
        role, channel = match["role"], match["channel"]
        name = (channel or "final") if role == "assistant" else role
        yield name if name in SEGMENTS else "other", *match.span("content")


def _message_spans(text: str, prompt: Prompt) -> Iterator[tuple[str, int, int]]:
    position = 0
    for message in prompt.messages:
        said = message.content.strip()
        start = text.find(said, position)
        if start < 0:
            raise InputError(
                f"the chat template changed the words of a {message.role} message "
                f"({said[:40]!r}), so its tokens cannot be told from the template's; "
                "give the prompt as text, already rendered"
            )
        position = start + len(said)
        name = "final" if message.role == "assistant" else message.role
        yield name if name in SEGMENTS else "other", start, position


def _mark_wrapper(
    segments: Integer[np.ndarray, "characters"], text: str, prompt: Prompt, span: tuple[int, int]
) -> Integer[np.ndarray, "characters"]:
    start = text.find(prompt.content, *span)
    if prompt.content and start >= 0:
        wrapper = SEGMENTS.index("wrapper")
        segments[span[0] : start] = wrapper
        segments[start + len(prompt.content) : span[1]] = wrapper
    return segments


def _telling(text: str, start: int, end: int) -> int:
    """The character that decides a token's segment: its first that is not white space."""
    token = text[start:end]
    return min(start + len(token) - len(token.lstrip()) if token.strip() else start, len(text) - 1)


def _chat_text(prompt: Prompt, tokenizer: Any, today: date) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"{tokenizer.name_or_path or 'the tokenizer'} has no chat template; "
            "give the prompts as text, or a tokenizer that has one"
        )
    return str(
        tokenizer.apply_chat_template(
            [asdict(message) for message in prompt.messages],
            chat_template=pin_date(tokenizer.get_chat_template(), today),
            tokenize=False,
            add_generation_prompt=True,
        )
    )


def _refuse_control_tokens(prompt: Prompt, tokenizer: Any) -> None:
    spoken = "\n".join(message.content for message in prompt.messages)
    held = [token for token in tokenizer.all_special_tokens if token in spoken]
    if held:
        raise InputError(
            f"prompt {prompt.prompt_id} of source {prompt.source!r} holds the control token "
            f"{held[0]}, which the model would take for the template's own; remove it or leave the "
            "prompt out"
        )
