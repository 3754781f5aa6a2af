"""The built-in suite `matched`: the same thing asked in two wordings and two wrappers.

The items stand in `matched_<domain>.jsonl`, written for this project and published nowhere else.
Each has a benchmark wording, an organic wording, and a second wording (sham) in each of the two
registers.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from interp.cache.records import Message, Prompt
from interp.prompts.wrappers import (
    CHAT,
    EXAM,
    LETTERS,
    PROPOSING,
    Surroundings,
    reference_reply,
    template_at,
)

LICENSE = "Apache-2.0"
"""Of the items, as of moe-interp."""
FIRST_DOMAINS = ("arithmetic", "science", "code", "commonsense", "reading", "advice")
DOMAINS = (*FIRST_DOMAINS, "knowledge")
BLOCKS = (*FIRST_DOMAINS, *DOMAINS)
"""Domains of the blocks of 12 items in the suite's order; a block is the next 12 of its domain."""
BLOCK = 12
ROUND = 6
"""Items in a row that wear each template of their set once."""

CELLS = {
    "benchmark-exam": "benchmark",
    "benchmark-chat": "mixed",
    "organic-exam": "mixed",
    "organic-chat": "organic",
    "benchmark-exam-sham": "benchmark",
    "organic-chat-sham": "organic",
}
"""Variant and condition: the diagonal of wording and wrapper is benchmark or organic."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing to ask, in four wordings."""

    id: str
    """Such as `arithmetic-03`."""
    domain: str
    """One of `DOMAINS`."""
    benchmark: str
    """As a benchmark would write it."""
    benchmark_sham: str
    """The same in the same register, in other words."""
    organic: str
    """As a person would type it to a chatbot."""
    organic_sham: str
    """The same in the same register, in other words."""
    options: tuple[str, ...]
    """Four answers as they stand within a sentence; for code, Python expressions."""
    answer: str
    """Letter of the right option, `A` to `D`."""
    entities: tuple[str, ...]
    """Words that must stand in all four wordings; a guard of the same content."""
    stub: str = ""
    """Code only: the first line of the function that is asked for."""
    cases: tuple[tuple[list[Any], Any], ...] = ()
    """Code only: arguments and the value that the right expression gives for them."""

    def wording(self, variant: str) -> str:
        """The item's words in this variant, before any wrapper."""
        register = "benchmark" if variant.startswith("benchmark") else "organic"
        return str(getattr(self, f"{register}_sham" if variant.endswith("-sham") else register))

    @property
    def answer_text(self) -> str:
        """The right option."""
        return self.options[LETTERS.index(self.answer)]


@cache
def matched_items() -> tuple[Item, ...]:
    """The items of the suite in their order: 12 of each of `BLOCKS`, one block after the other."""
    waiting = {domain: _read(domain) for domain in DOMAINS}
    return tuple(next(waiting[domain]) for domain in BLOCKS for _ in range(BLOCK))


def matched_prompts() -> list[Prompt]:
    """Every item in its six variants: four cells of wording x wrapper, and two shams.

    A sham wears the template of its sibling, so that the two differ in their words alone; how far
    apart they come is the noise level of the comparison. Order: by item, then as in `CELLS`.

    Example:
        >>> [prompt.variant for prompt in matched_prompts()[:2]]
        ['benchmark-exam', 'benchmark-chat']
    """
    numbered = enumerate(matched_items())
    return [_prompt(item, number, variant) for number, item in numbered for variant in CELLS]


def matched_half_prompts() -> list[Prompt]:
    """The prompts of every other round of six items: 78 items, as balanced as the whole suite.

    Each template of a block's set is worn by one of its items. Second and first rounds take turns
    from block to block, so that a proposed answer is right in 6 of 13 rounds.
    """
    prompts = matched_prompts()
    return [each for at, each in enumerate(prompts) if is_in_half(at // len(CELLS))]


def is_in_half(number: int) -> bool:
    """Whether item `number` of the suite is one of its balanced half."""
    block, place = divmod(number, BLOCK)
    return place // ROUND != block % 2


def _read(domain: str) -> Iterator[Item]:
    text = files(__package__).joinpath(f"matched_{domain}.jsonl").read_text(encoding="utf-8")
    return (_item(json.loads(line)) for line in text.splitlines())


def _item(row: dict[str, Any]) -> Item:
    listed = {"options": tuple(row["options"]), "entities": tuple(row["entities"])}
    cases = tuple((arguments, value) for arguments, value in row.get("cases", ()))
    return Item(**(row | listed | {"cases": cases}))


def _prompt(item: Item, number: int, variant: str) -> Prompt:
    template = template_at(variant.split("-")[1], number)
    proposed = _proposed(item, number)
    around = _surroundings(item, proposed)
    lead, tail = (EXAM | CHAT)[template](around)
    content = item.wording(variant)
    meta: dict[str, Any] = {
        "options": list(item.options),
        "answer": item.answer,
        "answer_text": item.answer_text,
        "reference": reference_reply(template, around, right=LETTERS.index(item.answer)),
        "license": LICENSE,
    }
    return Prompt(
        messages=(Message(role="user", content=lead + content + tail),),
        condition=CELLS[variant],
        source="matched",
        domain=item.domain,
        item_id=f"matched/{item.id}",
        variant=variant,
        template=template,
        content=content,
        meta=meta | ({"proposed": proposed} if template in PROPOSING else {}),
    )


def _proposed(item: Item, number: int) -> str:
    """Right in every other round of six items, so that each template proposes both evenly."""
    wrong_by = (number // ROUND) % 2
    return item.options[(LETTERS.index(item.answer) + wrong_by) % len(LETTERS)]


def _surroundings(item: Item, proposed: str) -> Surroundings:
    bare = Surroundings(
        domain=item.domain,
        options=item.options,
        proposed=proposed,
        signature=item.stub or "def answer() -> str:",
        doctest=("", ""),
    )
    doctest = _code_doctest(item) if item.stub else _plain_doctest(bare.choices)
    return Surroundings(**(vars(bare) | {"doctest": doctest}))


def _plain_doctest(choices: tuple[str, ...]) -> tuple[str, str]:
    return f"answer() in {list(choices)!r}", "True"


def _code_doctest(item: Item) -> tuple[str, str]:
    arguments, value = item.cases[0]
    name = item.stub.removeprefix("def ").split("(")[0]
    return f"{name}({', '.join(map(repr, arguments))})", repr(value)
