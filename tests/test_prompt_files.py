"""Prompt files: what is written with plain json, csv and pandas comes back as the same prompts."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from interp.cache.errors import InputError
from interp.cache.records import Message, Prompt
from interp.prompts import files, load_prompts

COLUMNS = [
    "messages",
    "text",
    "condition",
    "source",
    "domain",
    "item_id",
    "variant",
    "template",
    "content",
    "meta",
]
PLAIN = {"text": "hi there", "condition": "organic"}

CHAT = Prompt(
    messages=(
        Message(role="system", content="Be brief."),
        Message(role="user", content='Q: "2, 3"\u2028or\nNaN? ☃\nA:'),
    ),
    condition="mixed",
    source="NA",
    domain="null",
    item_id="007",
    variant="organic-exam",
    template="exam-short",
    content='"2, 3"\u2028or\nNaN? ☃',
    meta={"answer": 3, "seen": [1.5, None, True], "by": {"name": "Zoë"}},
)
TEXT = Prompt(text="1e5", condition="benchmark", source="None", item_id="1.0", domain="nan")
BOTH = [CHAT, TEXT]


def _row(prompt: Prompt, *, as_text: bool) -> dict[str, Any]:
    row = {name: getattr(prompt, name) for name in COLUMNS}
    row["messages"] = [{"role": m.role, "content": m.content} for m in prompt.messages] or None
    row["meta"] = dict(prompt.meta)
    nested = {"messages", "meta"} if as_text else set()
    return row | {name: json.dumps(row[name]) if row[name] else "" for name in nested}


def _jsonl(path: Path, rows: Sequence[Any], *, encoding: str = "utf-8") -> Path:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding=encoding)
    return path


def _csv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _refusal(path: Path, **settings: str) -> str:
    with pytest.raises(InputError, match=r"^[^\n]+$") as caught:
        load_prompts(path, **settings)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
    return str(caught.value)


def _refused_row(tmp_path: Path, row: Any) -> str:
    return _refusal(_jsonl(tmp_path / "rows.jsonl", [PLAIN, row]))


def test_jsonl_gives_back_what_was_written(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "p.jsonl", [_row(prompt, as_text=False) for prompt in BOTH])
    assert load_prompts(path) == BOTH


def test_csv_gives_back_what_was_written(tmp_path: Path) -> None:
    path = _csv(tmp_path / "p.csv", [_row(prompt, as_text=True) for prompt in BOTH])
    assert load_prompts(path) == BOTH


def test_parquet_with_json_text_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pd.DataFrame([_row(prompt, as_text=True) for prompt in BOTH]).to_parquet(path)
    assert load_prompts(path) == BOTH


def test_parquet_with_nested_messages_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    frame = pd.DataFrame([_row(prompt, as_text=False) for prompt in BOTH])
    frame["meta"] = [json.dumps(dict(prompt.meta)) for prompt in BOTH]
    frame.to_parquet(path)
    assert load_prompts(path) == BOTH


def test_a_long_chat_fits_into_a_csv_cell(tmp_path: Path) -> None:
    path = _csv(tmp_path / "p.csv", [PLAIN | {"text": "word " * 100_000}])
    before = csv.field_size_limit()
    assert len(load_prompts(path)[0].text) == 500_000
    assert csv.field_size_limit() == before


def test_the_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    assert load_prompts(str(_jsonl(tmp_path / "P.JSONL", [PLAIN])))[0].text == "hi there"


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_byte_order_mark_is_survived(tmp_path: Path, suffix: str) -> None:
    write = {"jsonl": _jsonl, "csv": _csv}[suffix]
    path = write(tmp_path / f"p.{suffix}", [PLAIN])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_prompts(path)[0].text == "hi there"


def test_defaults_fill_only_rows_that_name_none(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "mine.jsonl", [{"text": "a"}, PLAIN | {"source": "forum"}])
    loaded = load_prompts(path, condition="benchmark", source="exams")
    assert [(p.condition, p.source) for p in loaded] == [
        ("benchmark", "exams"),
        ("organic", "forum"),
    ]


def test_the_source_is_the_name_of_the_file_where_nothing_else_is_given(tmp_path: Path) -> None:
    assert load_prompts(_jsonl(tmp_path / "mine.jsonl", [PLAIN]))[0].source == "mine"


def test_whole_numbers_are_taken_as_ids_and_other_numbers_refused(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "p.jsonl", [PLAIN | {"item_id": 12}])
    assert load_prompts(path)[0].item_id == "12"
    assert "line 2: item_id is a number (12.0), expected text" in _refused_row(
        tmp_path, PLAIN | {"item_id": 12.0}
    )


def test_sharegpt_runs_up_to_the_last_human_turn(tmp_path: Path) -> None:
    turns = [
        {"from": "system", "value": "Be kind."},
        {"from": "human", "value": "hello"},
        {"from": "gpt", "value": "Hi! How can I help?"},
        {"from": "human", "value": "why is my tea cold"},
        {"from": "gpt", "value": "It stood too long."},
    ]
    path = tmp_path / "chats.json"
    path.write_text(json.dumps([{"id": "c1", "conversations": turns, "model": "m"}]))
    (prompt,) = load_prompts(path, condition="organic")
    assert [(message.role, message.content) for message in prompt.messages] == [
        ("system", "Be kind."),
        ("user", "hello"),
        ("assistant", "Hi! How can I help?"),
        ("user", "why is my tea cold"),
    ]
    assert (prompt.item_id, prompt.source, prompt.meta) == ("c1", "chats", {"model": "m"})


@pytest.mark.parametrize(
    ("chats", "sentence"),
    [
        ([{"id": "a"}], 'row 1 has no list "conversations"'),
        ([{"conversations": [{"from": "tool", "value": "x"}]}], "row 1 has a turn \"from\" 'tool'"),
        ([{"conversations": [{"from": "gpt", "value": "x"}]}], "row 1 has no human turn"),
        ([{"conversations": [{"from": "human"}]}], "content of a message is null, expected text"),
        ({"conversations": []}, "holds an object, expected a list of ShareGPT conversations"),
        ([], "holds no prompts"),
    ],
)
def test_a_chat_that_is_no_sharegpt_is_refused(tmp_path: Path, chats: Any, sentence: str) -> None:
    path = tmp_path / "chats.json"
    path.write_text(json.dumps(chats))
    assert sentence in _refusal(path, condition="organic")


def test_sharegpt_without_a_condition_says_where_to_give_one(tmp_path: Path) -> None:
    path = tmp_path / "chats.json"
    path.write_text(json.dumps([{"conversations": [{"from": "human", "value": "hey"}]}]))
    assert "row 1 names no condition; add a column condition" in _refusal(path)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (["a"], "line 2 holds a list, expected an object"),
        (PLAIN | {"prompt": "x"}, "line 2 has the column 'prompt', expected only messages, text"),
        ({"condition": "organic"}, "line 2 has neither messages nor text"),
        ({"text": "a"}, "line 2 names no condition"),
        (PLAIN | {"condition": "Organic"}, "line 2: condition is 'Organic', expected one of"),
        (PLAIN | {"text": "  \n"}, "line 2: the prompt is empty"),
        (PLAIN | {"text": 5}, "line 2: text is a number (5), expected text"),
        (PLAIN | {"content": "bye"}, "line 2: content 'bye' occurs 0 times"),
        (PLAIN | {"meta": [1]}, "line 2: meta is a list, expected a JSON object"),
        (PLAIN | {"meta": "{"}, "line 2: meta is no valid JSON"),
        (PLAIN | {"messages": [{"role": "user", "content": "x"}]}, "line 2: a prompt has either"),
        ({"condition": "organic", "messages": "[1"}, "line 2: messages is no valid JSON"),
        (
            {"condition": "organic", "messages": {}},
            "line 2: messages is an object, expected a list",
        ),
        ({"condition": "organic", "messages": ["x"]}, "line 2: a message is 'x', expected"),
        (
            {"condition": "organic", "messages": [{"role": "bot", "content": "x"}]},
            "line 2: role is 'bot', expected one of system",
        ),
        (PLAIN | {"prompt_id": "mine"}, "line 2 has prompt_id 'mine', but its words give"),
        (PLAIN, "holds the same prompt in line 1 and line 2"),
    ],
)
def test_a_row_that_is_no_prompt_is_refused_by_its_line(
    tmp_path: Path, row: Any, sentence: str
) -> None:
    assert sentence in _refused_row(tmp_path, row)


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"condition": "organic", "text": "oh \\ud83d"}\n')
    assert "line 1 holds half of a surrogate pair" in _refusal(path)


def test_the_same_words_under_two_item_ids_are_two_prompts(tmp_path: Path) -> None:
    rows = [PLAIN | {"item_id": "a"}, PLAIN | {"item_id": "b"}]
    assert len(load_prompts(_jsonl(tmp_path / "p.jsonl", rows))) == 2


def test_a_prompt_id_that_fits_its_words_is_accepted(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "p.jsonl", [_row(TEXT, as_text=False) | {"prompt_id": TEXT.prompt_id}])
    assert load_prompts(path) == [TEXT]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("p.jsonl", b"", "is empty; give a file"),
        ("p.jsonl", b"\xef\xbb\xbf\n", "is empty; give a file"),
        ("p.csv", b"text,condition\n", "holds no prompts; give a file"),
        ("p.jsonl", b'{"text": "a", "condition": "organic"}\n{"text"\n', "line 2 is no valid JSON"),
        (
            "p.jsonl",
            b'{"text": "caf\xe9"}',
            "is not valid UTF-8 (byte 13 is 0xe9); save it as UTF-8",
        ),
        ("p.json", b"[", "is no valid JSON"),
        ("p.csv", b"text,text\na,b\n", "names a column twice"),
        ("p.csv", b"text,condition\na\n", "row 1 has 1 cells, its header has 2"),
        ("p.csv", b'text,condition\n"a,organic\n', "is no valid CSV"),
        ("p.csv", b"text,label\na,b\n", "header has the column 'label', expected only"),
        ("p.csv", b"text,condition\na,organic\n,organic\n", "row 2 has neither messages nor text"),
        ("p.parquet", b"PAR2nonsense", "is no valid Parquet file"),
        ("p.xlsx", b"x", "are neither a suite"),
    ],
)
def test_a_damaged_file_is_refused_with_a_sentence(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert sentence in _refusal(path)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet", "json"])
def test_a_missing_file_is_named(tmp_path: Path, suffix: str) -> None:
    assert f"gone.{suffix} is not there" in _refusal(tmp_path / f"gone.{suffix}")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").mkdir()
    assert "p.jsonl cannot be read (Is a directory)" in _refusal(tmp_path / "p.jsonl")


def test_a_condition_for_the_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "p.jsonl", [PLAIN])
    assert "condition is 'real', expected one of benchmark" in _refusal(path, condition="real")


def test_parquet_without_pyarrow_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    path = tmp_path / "p.parquet"
    pd.DataFrame([PLAIN]).to_parquet(path)
    monkeypatch.setattr(files, "import_module", absent)
    assert "needs pyarrow; install it with: pip install pyarrow" in _refusal(path)
