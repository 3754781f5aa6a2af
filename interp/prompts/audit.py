"""What is known of a suite before any model reads it: lengths, words, endings, keys, templates."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from interp.analyses.paired_auroc import auroc
from interp.cache.records import Prompt

PIECES = re.compile(r"\w+|[^\w\s]+|\n+")
"""Runs of letters and digits, of other signs, and of line breaks: pieces much like a tokenizer's,
known without one."""


@dataclass(frozen=True, kw_only=True)
class SuiteAudit:
    """A suite counted."""

    n_items: int
    """Things asked."""
    n_prompts: int
    """All variants of all items."""
    prompts_by_variant: dict[str, int]
    """Such as `organic-chat`."""
    items_by_domain: dict[str, int]
    """Such as `code`."""
    pieces_by_variant: dict[str, float]
    """Median length of the whole message, in pieces (words, runs of signs, line breaks)."""
    length_auroc: dict[str, float]
    """Chance that a benchmark prompt has more pieces than an organic one, ties counting half, for
    `content`, `wrapper` and `message`. 0.5 tells nothing, 0 or 1 tells everything; NaN where a
    condition is missing."""
    vocabulary_overlap: dict[str, float]
    """`sum_t min(a_t, b_t)` over the shares of lower-case words under benchmark and organic, 0 to
    1, for `content` and `message`; `benchmark_sham` and `organic_sham`: content of a wording and
    of its sham."""
    endings_by_variant: dict[str, str]
    """How many different last pieces there are, and the most frequent one with its share."""
    keys_by_letter: dict[str, int]
    """Items by the letter of the right option; empty where `meta` names none."""
    key_length_ranks: tuple[int, ...]
    """Items whose key is the shortest, second, ... longest option; ties go to the shorter."""
    items_by_template: dict[str, int]
    """Items that wear each template in one of their variants or more."""
    proposed_right: float
    """Share of proposed answers that are right, over items; NaN where none is proposed."""


def audit_suite(prompts: Sequence[Prompt]) -> SuiteAudit:
    """Count a suite: balance, and how far its surface alone tells the conditions apart.

    Low numbers here do not make a suite matched: pieces are no tokens, and register shows in more
    than single words.

    Args:
        prompts: All of a suite, in any order.
    """
    items = {each.item_id: each for each in prompts}
    keys = [each.meta["answer"] for each in items.values() if "answer" in each.meta]
    return SuiteAudit(
        n_items=len(items),
        n_prompts=len(prompts),
        prompts_by_variant=dict(Counter(each.variant for each in prompts)),
        items_by_domain=dict(Counter(each.domain for each in items.values())),
        pieces_by_variant=_median_pieces(prompts),
        length_auroc={name: _length_auroc(prompts, text) for name, text in TEXTS.items()},
        vocabulary_overlap=_overlaps(prompts),
        endings_by_variant=_endings(prompts),
        keys_by_letter=dict(sorted(Counter(keys).items())),
        key_length_ranks=_key_length_ranks(items.values()),
        items_by_template={
            name: len({each.item_id for each in prompts if each.template == name})
            for name in sorted({each.template for each in prompts})
        },
        proposed_right=_proposed_right(prompts),
    )


def audit_facts(prompts: Sequence[Prompt]) -> dict[str, Any]:
    """The audit as plain values, shares rounded to three digits; what is not known is left out."""
    facts: dict[str, Any] = asdict(audit_suite(prompts))
    return {name: _plain(value) for name, value in facts.items() if value == value}  # NaN is not


def pieces(text: str) -> list[str]:
    """Words, runs of other signs and runs of line breaks, in their order.

    Example:
        >>> pieces("what's 2.5?")
        ['what', "'", 's', '2', '.', '5', '?']
    """
    return PIECES.findall(text)


def vocabulary_overlap(first: Sequence[str], second: Sequence[str]) -> float:
    """`sum_t min(a_t, b_t)` of the shares `a_t` and `b_t` of word t; 0 to 1, NaN without words."""
    if not first or not second:
        return float("nan")
    a, b = Counter(first), Counter(second)
    return sum(min(a[word] / len(first), b[word] / len(second)) for word in a)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items() if each == each}
    return round(value, 3) if isinstance(value, float) else value


def _content(prompt: Prompt) -> list[str]:
    return pieces(prompt.content or prompt.user_text)


def _message(prompt: Prompt) -> list[str]:
    return pieces(prompt.user_text)


def _wrapper(prompt: Prompt) -> list[str]:
    around = prompt.user_text.split(prompt.content, 1) if prompt.content else ()
    return [piece for text in around for piece in pieces(text)]


TEXTS: dict[str, Callable[[Prompt], list[str]]] = {
    "content": _content,
    "wrapper": _wrapper,
    "message": _message,
}
"""Parts of a prompt whose lengths are compared."""


def _median_pieces(prompts: Sequence[Prompt]) -> dict[str, float]:
    variants = dict.fromkeys(each.variant for each in prompts)
    return {
        name: float(median(len(_message(each)) for each in prompts if each.variant == name))
        for name in variants
    }


def _length_auroc(prompts: Sequence[Prompt], text: Callable[[Prompt], list[str]]) -> float:
    compared = [each for each in prompts if each.condition in ("benchmark", "organic")]
    lengths = np.array([len(text(each)) for each in compared], dtype=float)
    target = np.array([each.condition == "benchmark" for each in compared], dtype=bool)
    return auroc(lengths, target=target)


def _overlaps(prompts: Sequence[Prompt]) -> dict[str, float]:
    def overlap(text: Callable[[Prompt], list[str]], field: str, a: str, b: str) -> float:
        first, second = (_words(prompts, text, field, value) for value in (a, b))
        return vocabulary_overlap(first, second)

    sides = ("condition", "benchmark", "organic")
    return {
        "content": overlap(_content, *sides),
        "message": overlap(_message, *sides),
        "benchmark_sham": overlap(_content, "variant", "benchmark-exam", "benchmark-exam-sham"),
        "organic_sham": overlap(_content, "variant", "organic-chat", "organic-chat-sham"),
    }


def _words(
    prompts: Sequence[Prompt], text: Callable[[Prompt], list[str]], field: str, value: str
) -> list[str]:
    mine = [each for each in prompts if getattr(each, field) == value]
    return [piece.lower() for each in mine for piece in text(each) if piece[0].isalnum()]


def _endings(prompts: Sequence[Prompt]) -> dict[str, str]:
    lasts: dict[str, Counter[str]] = {}
    for each in prompts:
        lasts.setdefault(each.variant, Counter())[(_message(each) or [""])[-1]] += 1
    return {variant: _ending(count) for variant, count in lasts.items()}


def _ending(count: Counter[str]) -> str:
    ((piece, n),) = count.most_common(1)
    return f"{len(count)} different, most often {piece!r} ({n / count.total():.0%})"


def _key_length_ranks(items: Collection[Prompt]) -> tuple[int, ...]:
    """Of items whose options and key are known; numbers and names count as any other option."""
    ranks: Counter[int] = Counter()
    for each in items:
        options, key = each.meta.get("options", ()), each.meta.get("answer_text", "")
        if key in options:
            ranks[sum(len(option) < len(key) for option in options)] += 1
    return tuple(ranks[rank] for rank in range(max(ranks, default=-1) + 1))


def _proposed_right(prompts: Sequence[Prompt]) -> float:
    judged = {
        (each.item_id, each.template): each.meta["proposed"] == each.meta["answer_text"]
        for each in prompts
        if "proposed" in each.meta
    }
    return sum(judged.values()) / len(judged) if judged else float("nan")
