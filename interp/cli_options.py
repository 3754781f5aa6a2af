"""What the commands share: options, checks of their values, and how they say what they found."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from interp.cache.errors import InputError

Json = Annotated[bool, Parameter(name="--json", negative="", help="One JSON object on stdout.")]
Several = Parameter(consume_multiple=True, negative="")


def check_out(out: Path, suffix: str) -> None:
    """Refuse an output path before any work is done.

    Raises:
        InputError: If its suffix is another, or its folder is not there.
    """
    if out.suffix != suffix:
        raise InputError(f"--out is {out}, expected a name that ends in {suffix}")
    if not out.absolute().parent.is_dir():
        raise InputError(f"the folder {out.absolute().parent} of --out is not there; make it first")
    if out.is_dir() and suffix != ".moe":
        raise InputError(f"--out is {out}, which is a folder; give the name of a file")


def check_number(name: str, value: int | None, *, least: int) -> None:
    """Refuse a number below `least` before any work is done."""
    if value is not None and value < least:
        raise InputError(f"--{name} is {value}, expected {least} or more")


def by_sentence(reasons: dict[str, str]) -> dict[str, str]:
    """Reasons for a reader: names that share one stand together before it."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return {", ".join(shared): reason for reason, shared in names.items()}


def say(facts: dict[str, Any], as_json: bool) -> None:
    """Print what a command found: one JSON object, or a line for each fact."""
    if as_json:
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            lines = "".join(f"\n  {key}: {each}" for key, each in value.items())
            sys.stdout.write(f"{name}:{lines or ' none'}\n")
        else:
            sys.stdout.write(f"{name}: {'none' if value == '' else value}\n")
