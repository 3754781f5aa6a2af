"""Prompts from files: JSONL, CSV, Parquet and ShareGPT JSON.

In the first three the columns are the fields of `Prompt`. A field that is empty or null counts as
not given. Nothing is guessed: a column, role or condition that is not known is refused by name.
"""

import csv
import io
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from interp.cache.errors import InputError
from interp.cache.records import CONDITIONS, Prompt
from interp.prompts.rows import LABELS, kind_of, known_columns, meta_of, parse_json, prompt_of_row

SHAREGPT_ROLES = {"system": "system", "human": "user", "user": "user"} | dict.fromkeys(
    ("gpt", "assistant", "chatgpt", "bing"), "assistant"
)
CSV_FIELD_LIMIT = 2**31 - 1
"""Characters in one CSV field; Python's own limit of 131,072 is less than a long chat."""

Row = tuple[str, dict[str, Any]]
"""Where a row stands, such as `line 3`, and its fields."""


def read_prompt_file(
    path: Path, *, condition: str | None = None, source: str | None = None
) -> list[Prompt]:
    """Prompts of one file, in its order.

    Args:
        path: A file with a suffix of `READERS`.
        condition: Condition of the rows that name none.
        source: Source of the rows that name none; the file's name without suffix if None.

    Raises:
        InputError: If the file is missing, empty, damaged, or a row of it is no prompt.
    """
    defaults = {"condition": condition or "", "source": source or path.stem}
    if defaults["condition"] not in ("", *CONDITIONS):
        raise InputError(
            f"condition is {condition!r}, expected one of {', '.join(CONDITIONS)}; pick one"
        )
    rows = list(READERS[path.suffix.lower()](path))
    if not rows:
        raise InputError(f"{path} holds no prompts; give a file with one row or more")
    prompts = [prompt_of_row(fields, defaults, f"{path}, {place}") for place, fields in rows]
    _refuse_doubles(prompts, [place for place, _ in rows], path)
    return prompts


def _read_jsonl(path: Path) -> Iterator[Row]:
    # Only line feeds end a line here: str.splitlines would also cut at U+2028 inside a string.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            fields = parse_json(line, f"{path}, line {number}", "one JSON object per line")
            yield f"line {number}", known_columns(fields, f"{path}, line {number}")


def _read_csv(path: Path) -> Iterator[Row]:
    before = csv.field_size_limit(CSV_FIELD_LIMIT)
    try:
        lines = list(csv.reader(io.StringIO(_text(path), newline=""), strict=True))
    except csv.Error as error:
        raise InputError(
            f"{path} is no valid CSV ({error}); quote its cells and save again"
        ) from error
    finally:
        csv.field_size_limit(before)
    rows = [(number, cells) for number, cells in enumerate(lines) if cells]
    header = rows[0][1] if rows else []
    if len(set(header)) < len(header):
        raise InputError(f"{path} names a column twice in {header}; give every column one name")
    for number, cells in rows[1:]:
        if len(cells) != len(header):
            raise InputError(
                f"{path}, row {number} has {len(cells)} cells, its header has {len(header)}; "
                "quote cells that hold a comma or a line break"
            )
        fields = dict(zip(header, cells, strict=True))
        yield f"row {number}", known_columns(fields, f"{path}, header")


def _read_parquet(path: Path) -> Iterator[Row]:
    content = _bytes(path)
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError as error:
        raise InputError(f"{path} needs pyarrow; install it with: pip install pyarrow") from error
    try:
        rows = parquet.read_table(io.BytesIO(content)).to_pylist()
    except (ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is no valid Parquet file ({reason}); write it again") from error
    for number, fields in enumerate(rows, start=1):
        yield f"row {number}", known_columns(fields, f"{path}, header")


def _read_sharegpt(path: Path) -> Iterator[Row]:
    chats = parse_json(_text(path), str(path), "a list of ShareGPT conversations")
    if not isinstance(chats, list):
        raise InputError(
            f"{path} holds {kind_of(chats)}, expected a list of ShareGPT conversations; "
            "put one JSON object per line into a .jsonl file instead"
        )
    for number, chat in enumerate(chats, start=1):
        yield f"row {number}", _sharegpt_fields(chat, f"{path}, row {number}")


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".json": _read_sharegpt,
}
"""By suffix, in lower case."""


def _bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there; give the path of a prompt file") from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); give a readable file"
        ) from error
    if not content.strip():
        raise InputError(f"{path} is empty; give a file with one prompt or more")
    return content


def _text(path: Path) -> str:
    try:
        text = _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not valid UTF-8 (byte {error.start} is {error.object[error.start]:#04x}); "
            "save it as UTF-8"
        ) from error
    if not text.strip():
        raise InputError(f"{path} is empty; give a file with one prompt or more")
    return text


def _sharegpt_fields(chat: Any, place: str) -> dict[str, Any]:
    """The fields of one conversation, up to and with its last human turn.

    What the assistant said after that turn is left out: it is an answer, not part of the question.
    """
    turns = chat.get("conversations") if isinstance(chat, dict) else None
    if not isinstance(turns, list):
        raise InputError(
            f'{place} has no list "conversations"; expected ShareGPT, see docs/prompts.md'
        )
    messages = [_turn(turn, place) for turn in turns]
    humans = [index for index, message in enumerate(messages) if message["role"] == "user"]
    if not humans:
        raise InputError(f"{place} has no human turn; remove it or add one")
    fields = {name: chat[name] for name in (*LABELS, "meta") if name in chat}
    known = {"id", "conversations", *fields}
    rest = {name: value for name, value in chat.items() if name not in known}
    if rest:
        fields["meta"] = meta_of(fields.get("meta"), place) | rest
    own_id = {"item_id": chat.get("id")} if not fields.get("item_id") else {}
    return {**fields, **own_id, "messages": messages[: humans[-1] + 1]}


def _turn(turn: Any, place: str) -> dict[str, Any]:
    speaker = turn.get("from") if isinstance(turn, dict) else None
    if not isinstance(speaker, str) or speaker not in SHAREGPT_ROLES:
        raise InputError(
            f'{place} has a turn "from" {speaker!r}, expected one of {", ".join(SHAREGPT_ROLES)}; '
            "rename or remove that turn"
        )
    return {"role": SHAREGPT_ROLES[speaker], "content": turn.get("value")}


def _refuse_doubles(prompts: list[Prompt], places: list[str], path: Path) -> None:
    seen: dict[tuple[str, str, str], str] = {}
    for prompt, place in zip(prompts, places, strict=True):
        first = seen.setdefault((prompt.prompt_id, prompt.item_id, prompt.variant), place)
        if first != place:
            raise InputError(
                f"{path} holds the same prompt in {first} and {place} (same words, item_id and "
                "variant); remove one of them, or give each its own item_id"
            )
