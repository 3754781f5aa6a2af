"""Traces as JSON lines: read one by one, plain or gzipped, trusted in nothing."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from interp.cache.errors import InputError

MAX_LINE_BYTES = 2**28
"""A response of 100,000 tokens at 60 layers takes about 65 MB as base64; longer lines are none."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One record of a file."""

    where: str
    """File and number of the line, for sentences: `a.jsonl line 3`."""
    sha256: str
    """Of the line as it stands, without white space around it."""
    values: Mapping[str, Any]


def read_lines(file: Path) -> Iterator[Line]:
    """The records of a file in order; blank lines are none.

    Raises:
        InputError: If the file cannot be read, or a line is too long or no JSON object.
    """
    try:
        with _opened(file) as stream:
            for number, raw in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b""), 1):
                if raw.strip():
                    yield _line(f"{file} line {number}", raw)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{file} cannot be read ({error}); give JSON lines, plain or gzipped"
        ) from error


def described_files(files: Sequence[Path]) -> list[dict[str, str]]:
    """Names and digests of files that were read, for provenance."""
    return [{"name": file.name, "sha256_unpacked": _unpacked_sha256(file)} for file in files]


def whole_numbers(where: str, found: object, *, n_dims: int) -> Int[np.ndarray, "..."]:
    """A JSON list, nested `n_dims` deep, as an array; `where` names file, line and key.

    Raises:
        InputError: If it is ragged, of another depth, or holds anything but whole numbers.
    """
    axes = {1: "token ids", 3: "expert ids, nested three deep"}[n_dims]
    try:
        array = np.array(found if isinstance(found, list) else None)
        if array.ndim == n_dims and array.size and array.dtype.kind == "i":
            return array.astype(np.int32) if abs(array).max() < 2**31 else array
        if found == []:
            return np.zeros((0,) * n_dims, dtype=np.int32)
    except (ValueError, OverflowError):
        pass
    raise InputError(f"{where} is {found!r:.60}, expected a list of {axes} (whole numbers)")


def _unpacked_sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with _opened(file) as stream:
        for block in iter(lambda: stream.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()


def _opened(file: Path) -> gzip.GzipFile | BufferedReader:
    """The file unpacked, for the caller to close."""
    with file.open("rb") as packed:
        gzipped = packed.read(2) == b"\x1f\x8b"
    return gzip.open(file, "rb") if gzipped else file.open("rb")


def _line(where: str, raw: bytes) -> Line:
    if len(raw) > MAX_LINE_BYTES:
        raise InputError(f"{where} is longer than {MAX_LINE_BYTES >> 20} MB; that is no record")
    try:
        values = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON ({error}); give one record a line") from error
    if not isinstance(values, dict):
        raise InputError(
            f"{where} holds a {type(values).__name__}, expected one record (an object)"
        )
    return Line(where=where, sha256=hashlib.sha256(raw.strip()).hexdigest(), values=values)
