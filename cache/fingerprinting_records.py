"""One record of the fingerprinting repository: read from JSON, trusted in nothing."""

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from interp.cache.checks import check_experts, check_weights
from interp.cache.errors import InputError
from interp.cache.records import Message, Prompt

CONDITION_OF_DATASET = {
    "mmlu_validation": "benchmark",
    "mmlu_pro_validation": "benchmark",
    "gpqa_extended": "benchmark",
    "Polyglot-or-Not_Fact-Completion": "benchmark",
    "sorry_bench_base": "organic",
    "tulu3_persona_if": "organic",
}
"""Multiple choice and completion of facts are benchmarks; open requests are the nearest thing to
organic, though many are refused, which is a confound of its own."""

N_LAYERS, N_EXPERTS, TOP_K, D_MODEL = 24, 32, 4, 2880
"""Sizes of gpt-oss-20b."""
_TOKEN_NAME = re.compile(r"token_[0-9]{1,9}")
_LAYER_NAMES = {f"layer_{layer}" for layer in range(N_LAYERS)}
MAX_RECORD_BYTES = 2**28
"""A record unpacks to about 2 MB; what unpacks to more than this is none."""

_RECORD_KEYS = {
    "row_index": int,
    "dataset": str,
    "category": str,
    "finished_successfully": bool,
    "has_repetition": bool,
    "original_prompt": str,
    "full_text": list,
    "router_data": list,
}


@dataclass(frozen=True, kw_only=True)
class Record:
    """One recorded generation."""

    file: Path
    sha256: str
    """Of the record as JSON, unpacked."""
    prompt: Prompt
    row_index: int
    finished_successfully: bool
    has_repetition: bool
    token_texts: tuple[str, ...]
    """Of prompt and generation."""
    position: Int[np.ndarray, "tokens"]
    """Where in `token_texts` the recorded tokens are."""
    expert_indices: Int[np.ndarray, "tokens layers top_k"]
    expert_weights: Float[np.ndarray, "tokens layers top_k"]


def read_record(file: Path) -> Record:
    """Read one record, plain or gzipped.

    Raises:
        InputError: Naming the file and the key that cannot be used.
    """
    raw = _read_json_bytes(file)
    record = _parse_object(file, raw)
    dataset = record["dataset"]
    if dataset not in CONDITION_OF_DATASET:
        known = ", ".join(CONDITION_OF_DATASET)
        raise InputError(f"{file}: dataset is {dataset!r}, expected one of {known}")
    token_texts = _token_texts(file, record)
    position, indices, weights = _routing(file, record)
    return Record(
        file=file,
        sha256=hashlib.sha256(raw).hexdigest(),
        prompt=_prompt(file, record),
        row_index=record["row_index"],
        finished_successfully=record["finished_successfully"],
        has_repetition=record["has_repetition"],
        token_texts=token_texts,
        position=position,
        expert_indices=indices,
        expert_weights=weights,
    )


def _read_json_bytes(file: Path) -> bytes:
    """The record unpacked, whether gzipped or not."""
    try:
        with file.open("rb") as packed:
            gzipped = packed.read(2) == b"\x1f\x8b"
        with gzip.open(file, "rb") if gzipped else file.open("rb") as stream:
            raw = stream.read(MAX_RECORD_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{file} cannot be read ({error}); give a record as .json or .json.gz"
        ) from error
    if len(raw) > MAX_RECORD_BYTES:
        raise InputError(
            f"{file} unpacks to more than {MAX_RECORD_BYTES >> 20} MB; that is no record"
        )
    return raw


def _parse_object(file: Path, raw: bytes) -> dict[str, Any]:
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is no JSON ({error}); give a record of the repository") from error
    if not isinstance(record, dict):
        raise InputError(f"{file} holds a {type(record).__name__}, expected one record (an object)")
    for key, kind in _RECORD_KEYS.items():
        if not isinstance(record.get(key), kind) or (kind is int and isinstance(record[key], bool)):
            found = type(record[key]).__name__ if key in record else "nothing"
            raise InputError(f"{file}: {key} is {found}, expected {kind.__name__}")
    return record


def _prompt(file: Path, record: Mapping[str, Any]) -> Prompt:
    try:
        return Prompt(
            messages=(Message(role="user", content=record["original_prompt"]),),
            condition=CONDITION_OF_DATASET[record["dataset"]],
            source=record["dataset"],
            domain=record["category"],
        )
    except ValueError as error:
        raise InputError(f"{file}: original_prompt cannot be used ({error})") from error


def _token_texts(file: Path, record: Mapping[str, Any]) -> tuple[str, ...]:
    texts = record["full_text"]
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(
                f"{file}: full_text[{number}] is {text!r:.40}, expected the text of a token"
            )
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{file}: full_text is no valid Unicode ({error.reason})") from error
    return tuple(texts)


def _routing(file: Path, record: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, expert indices and expert weights of the recorded tokens."""
    entries = _entries(file, record["router_data"])
    position = np.array([token for token, _ in entries], dtype=np.int64)
    if (
        position.size == 0
        or (np.diff(position) <= 0).any()
        or position[-1] >= len(record["full_text"])
    ):
        raise InputError(
            f"{file}: router_data must hold at least one token, and tokens that rise within the "
            f"{len(record['full_text'])} of full_text"
        )
    indices = _stacked(file, entries, "selected_experts", kinds="iu")
    weights = _stacked(file, entries, "selected_probs", kinds="fiu").astype(np.float32)
    try:
        check_experts(indices, n_experts=N_EXPERTS)
        check_weights(weights, weights_sum="one")
    except ValueError as error:
        raise InputError(f"{file}: router_data cannot be used, since its {error}") from error
    if len(indices) > 1 and (indices == indices[0]).all():
        raise InputError(f"{file}: router_data routes every token alike, so it records no routing")
    return position, indices, weights


def _entries(file: Path, router_data: Sequence[Any]) -> list[tuple[int, list[Any]]]:
    """Position of each recorded token, and what it has for layers 0 to 23."""
    entries = []
    for number, entry in enumerate(router_data):
        name = next(iter(entry), None) if isinstance(entry, dict) and len(entry) == 1 else None
        if name is None or not _TOKEN_NAME.fullmatch(name):
            raise InputError(
                f"{file}: router_data[{number}] is {entry!r:.40}, expected one key token_<position>"
            )
        layers = entry[name]
        if not isinstance(layers, dict) or layers.keys() != _LAYER_NAMES:
            odd = sorted(set(layers) ^ _LAYER_NAMES)[:3] if isinstance(layers, dict) else "all"
            raise InputError(
                f"{file}: router_data[{number}].{name} must have layer_0 to "
                f"layer_{N_LAYERS - 1}; not so: {odd}"
            )
        entries.append((int(name[6:]), [layers[f"layer_{layer}"] for layer in range(N_LAYERS)]))
    return entries


def _stacked(
    file: Path, entries: Sequence[tuple[int, list[Any]]], key: str, *, kinds: str
) -> np.ndarray:
    """One field of all tokens and layers as an array; name the first that is not 4 numbers."""
    try:
        stacked = np.array([[chosen[key] for chosen in layers] for _, layers in entries])
        if stacked.shape[1:] == (N_LAYERS, TOP_K) and stacked.dtype.kind in kinds:
            return stacked
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    for token, layers in entries:
        for layer, chosen in enumerate(layers):
            found = chosen.get(key) if isinstance(chosen, dict) else chosen
            row = np.array(found, dtype=object)
            if row.shape != (TOP_K,) or np.array(found).dtype.kind not in kinds:
                raise InputError(
                    f"{file}: router_data token_{token} layer_{layer} {key} is {found!r:.60}, "
                    f"expected {TOP_K} numbers"
                )
    raise InputError(f"{file}: router_data {key} must be {TOP_K} numbers for every token and layer")
