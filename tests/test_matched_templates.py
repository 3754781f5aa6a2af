"""The templates of the built-in suite: how they are spread, and what a right reply to each is."""

import ast
from collections import Counter
from statistics import median
from typing import Any

import pytest

from interp.cache.records import Prompt
from interp.prompts.matched import (
    BLOCKS,
    CELLS,
    DOMAINS,
    matched_half_prompts,
    matched_items,
    matched_prompts,
)
from interp.prompts.wrappers import CHAT, EXAM

ITEMS = matched_items()
PROMPTS = matched_prompts()


def _around(prompt: Prompt) -> tuple[str, str]:
    lead, tail = prompt.user_text.split(prompt.content)
    return lead, tail


def _set(items: Any, second: bool) -> Any:
    return items[72:] if second else items[:72]


def _prompts_of_set(second: bool) -> list[Prompt]:
    ids = {f"matched/{item.id}" for item in _set(ITEMS, second)}
    return [prompt for prompt in PROMPTS if prompt.item_id in ids]


SETS = pytest.mark.parametrize("second", [False, True], ids=["first", "second"])
"""The first 72 items wear six templates of a wrapper, the other 84 six others."""


@SETS
@pytest.mark.parametrize("wrapper", ["exam", "chat"])
def test_every_template_is_worn_by_two_items_of_every_block(wrapper: str, second: bool) -> None:
    frames = _set(list({"exam": EXAM, "chat": CHAT}[wrapper]), False)
    frames = frames[6:] if second else frames[:6]
    domains = BLOCKS[6:] if second else BLOCKS[:6]
    pairs = Counter(
        (p.domain, p.template) for p in _prompts_of_set(second) if p.variant == f"organic-{wrapper}"
    )
    assert pairs == {(domain, template): 2 for domain in domains for template in frames}


def _pairs(second: bool) -> Counter[tuple[str, str]]:
    worn = {(p.item_id, p.variant): p.template for p in PROMPTS}
    return Counter(
        (worn[f"matched/{item.id}", "organic-exam"], worn[f"matched/{item.id}", "organic-chat"])
        for item in _set(ITEMS, second)
    )


def test_every_exam_template_of_the_first_set_meets_every_chat_template_twice() -> None:
    assert _pairs(False) == {(exam, chat): 2 for exam in [*EXAM][:6] for chat in [*CHAT][:6]}


def test_every_exam_template_of_the_second_set_meets_every_chat_template_two_or_three_times() -> (
    None
):
    pairs = _pairs(True)
    assert pairs.keys() == {(exam, chat) for exam in [*EXAM][6:] for chat in [*CHAT][6:]}
    assert {*pairs.values()} == {2, 3}


@pytest.mark.parametrize(
    ("template", "n_right"),
    [("exam-true-false", 18), ("chat-friend", 18), ("exam-marked", 21), ("chat-agree", 21)],
)
def test_proposed_answers_are_right_in_half_of_the_prompts(template: str, n_right: int) -> None:
    worn = [p for p in PROMPTS if p.template == template]
    right = sum(p.meta["proposed"] == p.meta["answer_text"] for p in worn)
    assert (right, len(worn)) == (n_right, 2 * n_right)
    assert all(p.meta["proposed"].casefold() in p.user_text.casefold() for p in worn)


def test_true_keys_are_spread_evenly_within_every_exam_template() -> None:
    keys = Counter((p.template, p.meta["answer"]) for p in PROMPTS if p.variant == "organic-exam")
    assert {keys[template, letter] for template in [*EXAM][:6] for letter in "ABCD"} == {3}
    assert {keys[template, letter] for template in [*EXAM][6:] for letter in "ABCD"} == {3, 4}


def test_exam_and_chat_templates_list_options_equally_often() -> None:
    listing = Counter(
        p.variant
        for p in PROMPTS
        if p.domain == "science" and all(o.casefold() in _tail(p) for o in p.meta["options"])
    )
    assert len({listing[variant] for variant in CELLS}) == 1


def _tail(prompt: Prompt) -> str:
    return _around(prompt)[1].casefold()


REPLIES = {
    "exam-choices": "A",
    "exam-letter": "B",
    "exam-short": "58",
    "exam-true-false": "True",
    "exam-stub": "    return '92'",
    "exam-numbered": "2",
    "exam-problem": "3",
    "exam-best": "B",
    "exam-task": "70",
    "exam-marked": "correct",
    "exam-brief": "12",
    "exam-inline": "B",
}
"""What is to be replied to the first arithmetic item that wears each template."""


@pytest.mark.parametrize("template", EXAM)
def test_the_reference_is_what_the_template_asks_for(template: str) -> None:
    worn = [p for p in PROMPTS if (p.template, p.domain) == (template, "arithmetic")]
    assert worn[0].meta["reference"] == REPLIES[template]


def test_references_of_chats_are_the_right_option_as_it_stands() -> None:
    chats = [p for p in PROMPTS if p.template in CHAT]
    assert all(p.meta["reference"] == p.meta["answer_text"] for p in chats)


def test_a_wrong_proposal_is_referred_to_as_wrong() -> None:
    judged = [p for p in PROMPTS if p.template in ("exam-true-false", "exam-marked")]
    wrong = [p for p in judged if p.meta["proposed"] != p.meta["answer_text"]]
    assert {p.meta["reference"] for p in wrong} == {"False", "incorrect"}


def test_a_stub_of_a_code_item_is_completed_by_the_right_expression() -> None:
    stubs = [p for p in PROMPTS if (p.template, p.domain) == ("exam-stub", "code")]
    for prompt in stubs:
        body = ast.parse(prompt.user_text + prompt.meta["reference"]).body[0]
        assert isinstance(body, ast.FunctionDef)
        assert isinstance(body.body[-1], ast.Return)
        assert ast.unparse(body.body[-1]) == ast.unparse(
            ast.parse(f"return {prompt.meta['answer_text']}")
        )


def test_half_of_the_suite_keeps_the_spread_over_domains_templates_and_variants() -> None:
    half = matched_half_prompts()
    assert [p for p in PROMPTS if p in half] == half
    assert Counter(p.variant for p in half) == dict.fromkeys(CELLS, 78)
    exams = [p for p in half if p.variant == "organic-exam"]
    assert Counter(p.domain for p in exams) == dict.fromkeys(DOMAINS, 12) | {"knowledge": 6}
    assert {*Counter(p.template for p in exams).values()} == {6, 7}
    letters = Counter(p.meta["answer"] for p in exams)
    assert min(letters.values()) >= 17


def test_lead_ins_of_exam_and_chat_overlap_in_length() -> None:
    leads: dict[str, list[int]] = {"exam": [], "chat": []}
    for prompt in PROMPTS:
        if prompt.variant in ("organic-exam", "organic-chat"):
            leads[prompt.variant.split("-")[1]].append(len(_around(prompt)[0]))
    wins = [(a > b) + (a == b) / 2 for a in leads["exam"] for b in leads["chat"]]
    assert 0.4 < sum(wins) / len(wins) < 0.6
    assert min(leads["exam"]) < median(leads["chat"]) < max(leads["exam"])


def test_a_stub_of_a_code_item_shows_its_signature_and_a_case() -> None:
    prompt = next(
        p
        for p in PROMPTS
        if p.domain == "code" and (p.template, p.variant) == ("exam-stub", "benchmark-exam")
    )
    stub = ast.parse(prompt.user_text).body[0]
    assert isinstance(stub, ast.FunctionDef)
    assert prompt.content in (ast.get_docstring(stub) or "")
    assert f">>> {stub.name}(" in prompt.user_text
