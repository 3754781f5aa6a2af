"""The built-in suite: its grid, and the content of its items."""

import ast
import doctest
import hashlib
import re
from collections import Counter
from statistics import median
from typing import Any

import pytest

from interp.cache.records import Prompt
from interp.prompts.matched import (
    BLOCKS,
    CELLS,
    DOMAINS,
    Item,
    matched_items,
    matched_prompts,
)

ITEMS = matched_items()
PROMPTS = matched_prompts()
WORDINGS = ("benchmark", "benchmark_sham", "organic", "organic_sham")
CODE = [item for item in ITEMS if item.domain == "code"]

ARITHMETIC_KEYS: dict[str, object] = {
    "arithmetic-01": (23 - 9) * 14,
    "arithmetic-02": 18 * 2.5 + 7,
    "arithmetic-03": 80 - 80 * 15 / 100 - 10,
    "arithmetic-04": (6 * 3 - 2 * 1) / 8,
    "arithmetic-05": 4 * 85 - (72 + 85 + 91),
    "arithmetic-06": 300 / 4 * 10,
    "arithmetic-07": 126 * 120 / 100 / 6,
    "arithmetic-09": 400 / 100 * 6.5 * 1.8,
    "arithmetic-10": (840 - 120) / 45,
    "arithmetic-11": 2 * (12 + 8) / 2,
    "arithmetic-12": 3 * 750 // 160,
    "arithmetic-13": -(-(27 + 26 + 31 + 6) // 36),
    "arithmetic-14": 240 / (15 - 3),
    "arithmetic-15": 180 - 5 * 12 - 2 * 25,
    "arithmetic-16": (7 - 7 // 3) * 4,
    "arithmetic-17": 42 / (5 + 2) * 2,
    "arithmetic-19": 360 / (12 + 8),
    "arithmetic-20": 120 / (6 + 9 + 15) * 9,
    "arithmetic-21": (9 + 9) / (9 / 6 + 9 / 18),
    "arithmetic-22": 100 * (1 - 126 / (12 * 14)),
    "arithmetic-23": (3.6 / 0.4) * (2.4 / 0.4),
    "arithmetic-24": 24 - (22 - 18 - 1) * 1.5,
}
"""Worked out from the items' words by hand; 08 and 18 are times of day, below."""

EXAM_WORDS = (
    r"\b(calculate|compute|determine|following|identify|passage|statement|options?|select"
    r"|according to|based on|which of)\b"
)


def _around(prompt: Prompt) -> tuple[str, str]:
    lead, tail = prompt.user_text.split(prompt.content)
    return lead, tail


def test_the_suite_has_24_items_in_each_of_six_domains_and_12_in_the_seventh() -> None:
    sizes = dict.fromkeys(DOMAINS, 24) | {"knowledge": 12}
    assert Counter(item.domain for item in ITEMS) == sizes


def test_items_come_in_blocks_of_twelve_of_a_domain() -> None:
    assert [item.domain for item in ITEMS] == [domain for domain in BLOCKS for _ in range(12)]
    assert [item.id for item in ITEMS[70:74]] == [
        "advice-11",
        "advice-12",
        "arithmetic-13",
        "arithmetic-14",
    ]


def test_the_words_of_the_first_72_items_are_as_they_were_first_published() -> None:
    said = "\n".join(getattr(item, wording) for item in ITEMS[:72] for wording in WORDINGS)
    assert hashlib.sha256(said.encode()).hexdigest().startswith("3833e7aa42636bde")


def test_ids_of_prompts_are_the_same_in_every_version() -> None:
    ids = "\n".join(prompt.prompt_id for prompt in PROMPTS)
    assert hashlib.sha256(ids.encode()).hexdigest().startswith("e4a92168f78c6685")


def test_every_item_has_four_cells_and_a_sham_in_each_register() -> None:
    for item in ITEMS:
        mine = [prompt for prompt in PROMPTS if prompt.item_id == f"matched/{item.id}"]
        assert {prompt.variant: prompt.condition for prompt in mine} == {
            "benchmark-exam": "benchmark",
            "benchmark-chat": "mixed",
            "organic-exam": "mixed",
            "organic-chat": "organic",
            "benchmark-exam-sham": "benchmark",
            "organic-chat-sham": "organic",
        }


def test_content_occurs_exactly_once_in_its_message() -> None:
    for prompt in PROMPTS:
        assert [message.role for message in prompt.messages] == ["user"]
        assert prompt.user_text.count(prompt.content) == 1


def test_wording_alone_sets_the_content() -> None:
    item = ITEMS[30]
    said = {p.variant: p.content for p in PROMPTS if p.item_id == f"matched/{item.id}"}
    assert said == {
        "benchmark-exam": item.benchmark,
        "benchmark-chat": item.benchmark,
        "organic-exam": item.organic,
        "organic-chat": item.organic,
        "benchmark-exam-sham": item.benchmark_sham,
        "organic-chat-sham": item.organic_sham,
    }


def test_cells_of_one_wrapper_differ_in_their_words_alone() -> None:
    for item in ITEMS:
        mine = [prompt for prompt in PROMPTS if prompt.item_id == f"matched/{item.id}"]
        for wrapper in ("exam", "chat"):
            around = {_around(p) for p in mine if p.variant.split("-")[1] == wrapper}
            assert len(around) == 1


def test_no_two_prompts_or_wordings_are_the_same() -> None:
    wordings = [getattr(item, wording).casefold() for item in ITEMS for wording in WORDINGS]
    assert len(set(wordings)) == len(wordings) == 4 * 156
    assert len({prompt.prompt_id for prompt in PROMPTS}) == len(PROMPTS) == 6 * 156


def test_the_order_is_the_same_every_time() -> None:
    assert matched_prompts() == PROMPTS


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.id)
def test_all_four_wordings_name_the_same_entities(item: Item) -> None:
    for wording in WORDINGS:
        text = getattr(item, wording).lower()
        assert [entity for entity in item.entities if entity.lower() not in text] == []


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.id)
def test_all_four_wordings_hold_the_same_numbers(item: Item) -> None:
    numbers = [set(re.findall(r"\d+(?:[.:]\d+)*", getattr(item, wording))) for wording in WORDINGS]
    assert numbers == [numbers[0]] * 4


def test_organic_wordings_hold_no_exam_words() -> None:
    said = [text for item in ITEMS for text in (item.organic, item.organic_sham)]
    assert [text for text in said if re.search(EXAM_WORDS, text.lower())] == []


def test_every_item_has_four_distinct_options_and_one_key() -> None:
    for item in ITEMS:
        assert len({option.casefold() for option in item.options}) == 4
        assert item.answer in "ABCD"


def test_keys_are_spread_evenly_over_the_letters() -> None:
    for start in range(0, len(ITEMS), 12):
        letters = Counter(item.answer for item in ITEMS[start : start + 12])
        assert letters == dict.fromkeys("ABCD", 3)


@pytest.mark.parametrize("item_id", ARITHMETIC_KEYS)
def test_arithmetic_key_is_the_result_worked_out_by_hand(item_id: str) -> None:
    item = next(item for item in ITEMS if item.id == item_id)
    right = [
        option
        for option in item.options
        if float(option) == pytest.approx(ARITHMETIC_KEYS[item_id])
    ]
    assert right == [item.answer_text]


def test_film_ends_a_running_time_and_an_interval_after_its_start() -> None:
    item = next(item for item in ITEMS if item.id == "arithmetic-08")
    hours, minutes = divmod(19 * 60 + 40 + 135 + 15, 60)
    assert item.answer_text == f"{hours}:{minutes}"


def test_flight_lands_in_local_time_after_its_duration_and_the_shift_of_the_clocks() -> None:
    item = next(item for item in ITEMS if item.id == "arithmetic-18")
    hours, minutes = divmod((22 * 60 + 50 + 7 * 60 + 35 + 3 * 60) % (24 * 60), 60)
    assert item.answer_text == f"{hours:02d}:{minutes:02d}"


def test_every_arithmetic_key_is_recomputed() -> None:
    known = {*ARITHMETIC_KEYS, "arithmetic-08", "arithmetic-18"}
    assert {item.id for item in ITEMS if item.domain == "arithmetic"} == known


def _passes(option: str, item: Item, arguments: list[Any], value: Any) -> bool:
    """Whether a doctest of the option, given the arguments, prints the value."""
    stub = ast.parse(f"{item.stub} ...").body[0]
    assert isinstance(stub, ast.FunctionDef)
    names = dict(zip([argument.arg for argument in stub.args.args], arguments, strict=True))
    example = doctest.DocTestParser().get_doctest(
        f">>> {option}\n{value!r}\n", names, item.id, None, 0
    )
    return doctest.DocTestRunner(verbose=False).run(example, out=lambda line: None).failed == 0


@pytest.mark.parametrize("item", CODE, ids=lambda item: item.id)
def test_only_the_key_of_a_code_item_passes_its_cases(item: Item) -> None:
    right = [
        option
        for option in item.options
        if all(_passes(option, item, arguments, value) for arguments, value in item.cases)
    ]
    assert right == [item.answer_text]


@pytest.mark.parametrize("domain", DOMAINS)
def test_benchmark_and_organic_wordings_are_of_comparable_length(domain: str) -> None:
    mine = [item for item in ITEMS if item.domain == domain]
    ratios = [len(item.organic) / len(item.benchmark) for item in mine]
    sham_ratios = [len(item.organic_sham) / len(item.benchmark_sham) for item in mine]
    assert 0.7 < median(ratios) < 1.4
    assert 0.7 < median(sham_ratios) < 1.4


def test_length_of_the_wording_hardly_tells_benchmark_from_organic() -> None:
    wins = [
        (len(a.organic) > len(b.benchmark)) + (len(a.organic) == len(b.benchmark)) / 2
        for a in ITEMS
        for b in ITEMS
    ]
    assert 0.4 < sum(wins) / len(wins) < 0.6


def test_the_first_item_reads_as_a_person_would_expect() -> None:
    said = {p.variant: p.user_text for p in PROMPTS[: len(CELLS)]}
    assert said["benchmark-exam"].startswith("Question: A bakery packs 14 rolls in each bag.")
    assert said["benchmark-exam"].endswith("D. 210\nAnswer:")
    assert said["organic-chat"].startswith("hey, quick one: I help out at a bakery")
