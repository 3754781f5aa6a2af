"""Import of recorded routing from AmanPriyanshu/GPT-OSS-MoE-ExpertFingerprinting.

That repository (Apache-2.0) holds, for every token that gpt-oss-20b generated, the chosen experts
and their weights. What it does not hold: token ids, prompt tokens' routing, residuals, logits.
Token ids are therefore local to the store: one per distinct token text, by first appearance. Texts
of bytes that are no whole character came as U+FFFD, so different tokens of that kind share an id.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from interp.cache.errors import InputError
from interp.cache.fingerprinting_records import (
    D_MODEL,
    N_EXPERTS,
    N_LAYERS,
    TOP_K,
    Record,
    read_record,
)
from interp.cache.harmony import harmony_segments
from interp.cache.reader import Store, open_store
from interp.cache.records import Layout, PromptActivations
from interp.cache.writer import StoreWriter, is_captured

CAVEATS = [
    "The records are one per dataset, category and outcome, and so no random sample.",
    "The open requests that count as organic are mostly ones that the model refuses or hedges, so "
    "refusal is mixed up with the register.",
]
"""On every import; what a reader of the tables must know."""


def import_fingerprinting(files: Sequence[Path], out: Path) -> Store:
    """Make a store of recorded generations of gpt-oss-20b, one prompt per file.

    All stored tokens are generated ones, greedily decoded, at most 512 a prompt. The condition
    follows from the dataset; `source` is the dataset, `domain` its category, and records of the
    same prompt share an `item_id`. The same files again leave an existing store as it is.

    Args:
        files: JSON records, plain or gzipped.
        out: The store to make, such as `fingerprinting.moe`.

    Raises:
        InputError: If there is no file, or one cannot be used, naming the file and the key; or if
            something else is at `out`.
    """
    records = [read_record(Path(file)) for file in files]
    if not records:
        raise InputError(
            "no file to import; give the JSON records of the fingerprinting repository"
        )
    _refuse_duplicates(records)
    layout, provenance = _layout(records), _provenance(records)
    if not is_captured(out, layout=layout, provenance=provenance):
        _write(records, out, layout=layout, provenance=provenance)
    return open_store(out)


def _write(
    records: Sequence[Record], out: Path, *, layout: Layout, provenance: Mapping[str, Any]
) -> None:
    ids: dict[str, int] = {}
    items: dict[str, str] = {}
    token_ids = [_local_ids(record, ids) for record in records]
    vocab = list(ids)
    with StoreWriter(out, layout=layout, provenance=provenance, vocab=vocab) as writer:
        n_before = writer.n_prompts
        for number, (record, token_id) in enumerate(zip(records, token_ids, strict=True)):
            activations = _activations(record, token_id, items)
            if number < n_before:
                continue
            try:
                writer.add(activations)
            except ValueError as error:
                raise InputError(f"{record.file}: {error}") from error


def _local_ids(record: Record, ids: dict[str, int]) -> Int[np.ndarray, "tokens"]:
    texts = (record.token_texts[position] for position in record.position)
    return np.array([ids.setdefault(text, len(ids)) for text in texts])


def _activations(
    record: Record, token_id: Int[np.ndarray, "tokens"], items: dict[str, str]
) -> PromptActivations:
    prompt, n_tokens = record.prompt, len(token_id)
    own_item = f"{prompt.source}/{prompt.domain}/{record.row_index}"
    fields = {
        "prompt_id": prompt.prompt_id,
        "condition": prompt.condition,
        "source": prompt.source,
        "domain": prompt.domain,
        "item_id": items.setdefault(prompt.prompt_id, own_item),
        "variant": prompt.variant,
        "template": prompt.template,
    }
    return PromptActivations(
        prompt=fields,
        text="".join(record.token_texts),
        token_id=token_id,
        position=record.position,
        segment=harmony_segments(record.token_texts)[record.position],
        generated=np.ones(n_tokens, dtype=np.bool_),
        logprob=np.full(n_tokens, np.nan, dtype=np.float32),
        expert_indices=record.expert_indices,
        expert_weights=record.expert_weights,
    )


def _layout(records: Sequence[Record]) -> Layout:
    """Weights are bfloat16 values: float16 holds them unless one is very small."""
    narrow = all(_fits_float16(record.expert_weights) for record in records)
    return Layout(
        n_layers=N_LAYERS,
        layer_indices=tuple(range(N_LAYERS)),
        n_experts=N_EXPERTS,
        top_k=TOP_K,
        d_model=D_MODEL,
        weights_dtype="float16" if narrow else "float32",
        vocab_local=True,
    )


def _fits_float16(weights: Float[np.ndarray, "tokens layers top_k"]) -> bool:
    return bool(np.array_equal(weights.astype(np.float16), weights))


def _provenance(records: Sequence[Record]) -> dict[str, Any]:
    return {
        "model": "openai/gpt-oss-20b",
        "revision": None,
        "recorded": "elsewhere",
        "recorded_in": "https://github.com/AmanPriyanshu/GPT-OSS-MoE-ExpertFingerprinting",
        "license": "Apache-2.0",
        "decoding": "greedy, at most 512 tokens a prompt; generated tokens only",
        "token_ids": "local to this store, one per distinct token text",
        "caveats": CAVEATS,
        "files": [
            {
                "name": record.file.name,
                "sha256_unpacked": record.sha256,
                "dataset": record.prompt.source,
                "category": record.prompt.domain,
                "row_index": record.row_index,
                "finished_successfully": record.finished_successfully,
                "has_repetition": record.has_repetition,
            }
            for record in records
        ],
    }


def _refuse_duplicates(records: Sequence[Record]) -> None:
    seen: dict[str, Path] = {}
    for record in records:
        if record.sha256 in seen:
            raise InputError(
                f"{record.file} and {seen[record.sha256]} hold the same record; give each once"
            )
        seen[record.sha256] = record.file
