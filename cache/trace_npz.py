"""Import of routing from NumPy archives (.npz) with documented keys, for want of a format."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interp.cache.errors import InputError
from interp.cache.reader import Store
from interp.cache.trace_facts import TraceFacts, prompt_fields, read_vocab
from interp.cache.trace_npz_files import AXES, PROMPTS, TOKENS, read_archive
from interp.cache.traces import Trace, store_traces


def import_npz(
    files: Sequence[Path],
    out: Path,
    *,
    model: str,
    n_experts: int | None = None,
    revision: str | None = None,
    condition: str | None = None,
    layers: Sequence[int] | None = None,
    vocab: Path | None = None,
) -> Store:
    """Make a store of arrays that you saved with `numpy.savez`; see docs/imports.md for the keys.

    Args:
        files: Archives (.npz), each with one prompt or, with `prompt_offset`, several.
        out: The store to make, such as `run.moe`.
        model: Name of the model that was traced.
        n_experts: Experts in a layer, chosen or not; needed where there are no router_logits.
        revision: Revision of the model; None where it is not known.
        condition: Condition of prompts that name none: `benchmark`, `organic` or `mixed`.
        layers: Numbers in the model of the layers; 0, 1, ... if not given.
        vocab: A JSON list of token texts; None leaves ids as those of the model's vocabulary.

    Raises:
        InputError: If there is no file or one cannot be used, naming file and key; if routing is
            all zero or constant; or if something else is at `out`.
    """
    archives = [(Path(file), read_archive(Path(file))) for file in files]
    if not archives:
        raise InputError("no file to import; give archives saved with numpy.savez")
    facts = TraceFacts(
        model=model,
        n_experts=_n_experts(archives, n_experts),
        revision=revision,
        layers=None if layers is None else tuple(layers),
        condition=condition,
        vocab=read_vocab(vocab),
    )
    hashes = [_sha256(file) for file, _ in archives]
    traces = [
        trace
        for (file, arrays), sha256 in zip(archives, hashes, strict=True)
        for trace in _traces(file, arrays, facts, sha256=sha256)
    ]
    provenance = {
        "recorded_by": "whoever saved the .npz archives",
        "caveats": [],
        "files": [
            {"name": file.name, "sha256": sha256}
            for (file, _), sha256 in zip(archives, hashes, strict=True)
        ],
    }
    return store_traces(traces, out, facts=facts, provenance=provenance)


def _n_experts(archives: Sequence[tuple[Path, dict[str, np.ndarray]]], given: int | None) -> int:
    for file, arrays in archives:
        if "router_logits" in arrays:
            size = int(arrays["router_logits"].shape[2])
            if given not in (None, size):
                raise InputError(
                    f"{file}: router_logits has {size} experts, but n_experts is {given}"
                )
            given = size
    if given is None:
        raise InputError(
            f"{archives[0][0]}: the number of experts is not known without router_logits; "
            "give --n-experts"
        )
    return given


def _traces(
    file: Path, arrays: Mapping[str, np.ndarray], facts: TraceFacts, *, sha256: str
) -> Iterator[Trace]:
    n_tokens = len(arrays["token_id"])
    offset = arrays.get("prompt_offset", np.array([0, n_tokens]))
    if offset[0] != 0 or offset[-1] != n_tokens or (offset[1:] <= offset[:-1]).any():
        raise InputError(
            f"{file}: prompt_offset must rise from 0 to the {n_tokens} tokens, each prompt having "
            "at least one"
        )
    for number in range(len(offset) - 1):
        part = slice(int(offset[number]), int(offset[number + 1]))
        yield _trace(
            f"{file} prompt {number}",
            {key: array[part] for key, array in arrays.items() if AXES[key][1][0] == TOKENS},
            {
                key: _text(f"{file} prompt {number}: {key}", array[number])
                for key, array in arrays.items()
                if AXES[key][1][0] == PROMPTS
            },
            facts,
            sha256=f"{sha256}/{number}",
        )


def _trace(
    where: str,
    arrays: Mapping[str, np.ndarray],
    texts: Mapping[str, str],
    facts: TraceFacts,
    *,
    sha256: str,
) -> Trace:
    token_id = arrays["token_id"]
    n_tokens = len(token_id)
    generated = arrays.get("generated", np.zeros(n_tokens, dtype=np.bool_))
    asked = token_id if generated.all() else token_id[~generated]
    fields: Mapping[str, Any] = {key: text for key, text in texts.items() if key != "text"}
    return Trace(
        where=where,
        key="expert_indices",
        sha256=sha256,
        prompt=prompt_fields(
            fields,
            where=where,
            facts=facts,
            source=Path(where.rsplit(" prompt ", 1)[0]).stem,
            prompt_token_id=asked.tolist(),
        ),
        text=texts.get("text", ""),
        token_id=token_id,
        position=arrays.get("position", np.arange(n_tokens)),
        generated=generated,
        logprob=arrays.get("logprob", np.full(n_tokens, np.nan, dtype=np.float32)),
        segment=arrays.get("segment"),
        expert_indices=arrays["expert_indices"].astype(np.int64),
        expert_weights=arrays.get("expert_weights"),
        router_logits=arrays.get("router_logits"),
    )


def _text(where: str, value: Any) -> str:
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is no valid UTF-8 ({error.reason})") from error


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
