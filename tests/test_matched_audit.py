"""The audit of a suite, each count against a plain loop, and what it says of `matched`."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.cache.records import Message, Prompt
from interp.cli import main
from interp.prompts import matched_half_prompts, matched_prompts
from interp.prompts.audit import audit_facts, audit_suite, pieces, vocabulary_overlap

MATCHED = matched_prompts()
AUDIT = audit_suite(MATCHED)


def _prompt(lead: str, content: str, tail: str, condition: str, **more: Any) -> Prompt:
    said = Message(role="user", content=lead + content + tail)
    return Prompt(messages=(said,), content=content, condition=condition, source="own", **more)


OWN = [
    _prompt("Q: ", "two cats eat", "\nA:", "benchmark", item_id="1", variant="b", template="q"),
    _prompt("Q: ", "a dog", "\nA:", "benchmark", item_id="2", variant="b", template="q"),
    _prompt("hi ", "my cats eat", "", "organic", item_id="1", variant="o", template="hi"),
    _prompt("hi ", "my dog", "??", "organic", item_id="2", variant="o", template="hi"),
]
"""Content of 3 and 2 pieces against 3 and 2; wrappers of 5 (Q : newline A :) against 1 and 2."""


def _wins(first: Sequence[int], second: Sequence[int]) -> float:
    won = sum((a > b) + (a == b) / 2 for a in first for b in second)
    return won / (len(first) * len(second))


def _split(text: str) -> list[str]:
    """Pieces by a walk over the characters."""
    found: list[str] = []
    last = ""
    for character in text:
        is_word = character.isalnum() or character == "_"
        is_space = character.isspace() and character != "\n"
        kind = "word" if is_word else "line" if character == "\n" else "" if is_space else "sign"
        if kind and kind == last:
            found[-1] += character
        elif kind:
            found.append(character)
        last = kind
    return found


@pytest.mark.parametrize("prompt", MATCHED[::101], ids=lambda prompt: prompt.prompt_id)
def test_pieces_are_runs_of_one_kind_of_character(prompt: Prompt) -> None:
    assert pieces(prompt.user_text) == _split(prompt.user_text)


def test_lengths_of_a_case_by_hand() -> None:
    audit = audit_suite(OWN)
    assert audit.pieces_by_variant == {"b": 7.5, "o": 4.0}
    assert audit.length_auroc == {
        "content": _wins([3, 2], [3, 2]),
        "wrapper": 1.0,
        "message": _wins([8, 7], [4, 4]),
    }


@pytest.mark.parametrize("part", ["content", "wrapper", "message"])
def test_length_auroc_of_matched_is_the_share_of_pairs_won(part: str) -> None:
    lengths: dict[str, list[int]] = {"benchmark": [], "organic": [], "mixed": []}
    for prompt in MATCHED:
        lead, tail = prompt.user_text.split(prompt.content)
        around = len(_split(lead)) + len(_split(tail))
        within = len(_split(prompt.content))
        whole = len(_split(prompt.user_text))
        taken = {"content": within, "wrapper": around, "message": whole}[part]
        lengths[prompt.condition].append(taken)
    wins = _wins(lengths["benchmark"], lengths["organic"])
    assert AUDIT.length_auroc[part] == pytest.approx(wins, abs=1e-12)


def test_overlap_of_a_case_by_hand() -> None:
    overlap = audit_suite(OWN).vocabulary_overlap
    assert overlap["content"] == pytest.approx(1 / 5 + 1 / 5 + 1 / 5)
    assert overlap["message"] == pytest.approx(3 / 9)


@given(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=12),
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=12),
)
def test_overlap_is_a_loop_over_words_and_the_same_both_ways(a: list[str], b: list[str]) -> None:
    by_hand = sum(min(a.count(word) / len(a), b.count(word) / len(b)) for word in "abcd")
    assert vocabulary_overlap(a, b) == pytest.approx(by_hand)
    assert vocabulary_overlap(a, b) == pytest.approx(vocabulary_overlap(b, a))
    assert vocabulary_overlap(a, a) == pytest.approx(1)


def test_overlap_without_words_is_unknown() -> None:
    assert math.isnan(vocabulary_overlap([], ["a"]))


def test_endings_are_the_last_pieces() -> None:
    assert audit_suite(OWN).endings_by_variant == {
        "b": "1 different, most often ':' (100%)",
        "o": "2 different, most often 'eat' (50%)",
    }


def test_key_length_ranks_count_options_shorter_than_the_key() -> None:
    ranks = [0, 0, 0, 0]
    for item_id in dict.fromkeys(prompt.item_id for prompt in MATCHED):
        meta = next(prompt.meta for prompt in MATCHED if prompt.item_id == item_id)
        lengths = sorted(len(option) for option in meta["options"])
        ranks[lengths.index(len(meta["answer_text"]))] += 1
    assert AUDIT.key_length_ranks == tuple(ranks)
    assert sum(ranks) == 156


def test_items_of_templates_are_counted_once_each() -> None:
    worn: dict[str, set[str]] = {}
    for prompt in MATCHED:
        worn.setdefault(prompt.template, set()).add(prompt.item_id)
    assert AUDIT.items_by_template == {name: len(items) for name, items in worn.items()}
    assert {*AUDIT.items_by_template.values()} == {12, 14}


def test_matched_is_balanced_in_keys_and_proposals() -> None:
    assert AUDIT.keys_by_letter == dict.fromkeys("ABCD", 39)
    assert AUDIT.proposed_right == 0.5
    assert max(AUDIT.key_length_ranks[1:]) < 156 / 4


@pytest.mark.parametrize("prompts", [MATCHED, matched_half_prompts()], ids=["all", "half"])
def test_length_of_a_message_hardly_tells_the_conditions_apart(prompts: list[Prompt]) -> None:
    told = audit_suite(prompts).length_auroc
    assert 0.45 < told["message"] < 0.55
    assert 0.45 < told["wrapper"] < 0.55
    assert 0.42 < told["content"] < 0.58


def test_what_a_suite_does_not_have_is_left_out_of_its_facts() -> None:
    facts = audit_facts([prompt for prompt in OWN if prompt.condition == "organic"])
    assert facts["n_items"] == 2
    assert facts["length_auroc"] == {}
    assert "proposed_right" not in facts


def test_info_of_a_suite_says_its_audit(capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", "matched", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert (said["suite"], said["n_items"], said["n_prompts"]) == ("matched", 156, 936)
    assert said["length_auroc"]["message"] == round(AUDIT.length_auroc["message"], 3)


def test_a_folder_of_that_name_is_reached_by_its_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["info", str(tmp_path / "matched")])
    assert "does not exist" in capsys.readouterr().err
