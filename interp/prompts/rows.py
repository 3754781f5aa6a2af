"""One row of a prompt file: its fields checked, one by one, and made into a `Prompt`."""

import json
from collections.abc import Mapping
from typing import Any

from interp.cache.errors import InputError
from interp.cache.records import CONDITIONS, Message, Prompt

WORDS = ("messages", "text")
LABELS = ("condition", "source", "domain", "item_id", "variant", "template")
COLUMNS = (*WORDS, *LABELS, "content", "meta", "prompt_id")
"""What a row may hold; `prompt_id` is checked against the words, never taken."""

ROLES = ("system", "developer", "user", "assistant")


def prompt_of_row(fields: Mapping[str, Any], defaults: Mapping[str, str], place: str) -> Prompt:
    """One prompt.

    Args:
        fields: What the row holds, by column of `COLUMNS`.
        defaults: `condition` and `source` for a row that names none; may be empty.
        place: Where the row stands, for the error.

    Raises:
        InputError: If the fields make no prompt.
    """
    labels = {name: _label(fields.get(name), name, place) for name in LABELS}
    labels |= {name: labels[name] or default for name, default in defaults.items()}
    if not labels["condition"]:
        raise InputError(
            f"{place} names no condition; add a column condition ({', '.join(CONDITIONS)}), "
            "or give one for the whole file"
        )
    messages = _messages(fields.get("messages"), place)
    text = _string(fields.get("text"), "text", place)
    if not messages and not text:
        raise InputError(f"{place} has neither messages nor text; give one of them")
    content = _string(fields.get("content"), "content", place)
    meta = meta_of(fields.get("meta"), place)
    try:
        prompt = Prompt(messages=messages, text=text, content=content, meta=meta, **labels)
        prompt_id = prompt.prompt_id
    except UnicodeEncodeError as error:
        raise InputError(
            f"{place} holds half of a surrogate pair, which is no character; remove it"
        ) from error
    except ValueError as error:
        raise InputError(f"{place}: {error}") from error
    if fields.get("prompt_id") not in (None, "", prompt_id):
        raise InputError(
            f"{place} has prompt_id {fields['prompt_id']!r}, but its words give {prompt_id!r}; "
            "leave the column out and put ids of your own into item_id"
        )
    return prompt


def _label(value: Any, name: str, place: str) -> str:
    """A short field; a whole number, such as an item's, is taken as its digits."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if whole else _string(value, name, place)


def _string(value: Any, name: str, place: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(
            f"{place}: {name} is {kind_of(value)} ({value!r}), expected text; quote it"
        )
    return value


def _messages(value: Any, place: str) -> tuple[Message, ...]:
    parsed = _unquoted(value, f"{place}: messages", "a list")
    if parsed is None:
        return ()
    if not isinstance(parsed, list):
        raise InputError(
            f"{place}: messages is {kind_of(parsed)}, expected a list of role and content"
        )
    return tuple(_message(entry, place) for entry in parsed)


def _message(entry: Any, place: str) -> Message:
    if not isinstance(entry, dict) or set(entry) != {"role", "content"}:
        raise InputError(
            f"{place}: a message is {entry!r}, expected an object with role and content"
        )
    if entry["role"] not in ROLES:
        raise InputError(f"{place}: role is {entry['role']!r}, expected one of {', '.join(ROLES)}")
    if not isinstance(entry["content"], str):
        raise InputError(
            f"{place}: content of a message is {kind_of(entry['content'])}, expected text"
        )
    return Message(role=entry["role"], content=entry["content"])


def _unquoted(value: Any, place: str, expected: str) -> Any:
    """The value itself, or what its JSON text says; None where nothing is given."""
    if value in (None, ""):
        return None
    return parse_json(value, place, expected) if isinstance(value, str) else value


def meta_of(value: Any, place: str) -> dict[str, Any]:
    """The object `meta`, given as such or as JSON text; empty where nothing is given."""
    parsed = _unquoted(value, f"{place}: meta", "an object")
    if parsed is None:
        return {}
    if not isinstance(parsed, dict):
        raise InputError(f"{place}: meta is {kind_of(parsed)}, expected a JSON object")
    return parsed


def known_columns(fields: Any, place: str) -> dict[str, Any]:
    """The fields of a row, if it is an object and every column of it is one of `COLUMNS`."""
    if not isinstance(fields, dict):
        raise InputError(f"{place} holds {kind_of(fields)}, expected an object with Prompt fields")
    unknown = [column for column in fields if column not in COLUMNS]
    if unknown:
        raise InputError(
            f"{place} has the column {unknown[0]!r}, expected only {', '.join(COLUMNS)}; "
            "rename it or move it into meta"
        )
    return fields


def parse_json(text: str, place: str, expected: str) -> Any:
    """What a JSON text says; `place` and `expected` stand in the error."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is no valid JSON ({error}); expected {expected}") from error


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    kinds = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "a truth value",
        type(None): "null",
    }
    return kinds.get(type(value), "a number")
