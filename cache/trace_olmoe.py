"""Import of routing as OLMoE's `scripts/run_moe_analysis.py` writes it (allenai/OLMoE).

A line is one stretch of 2,048 tokens: `input_ids`, `predicted_token_ids` (the likeliest next token
at each place; not read) and `exp_ids`, whose axes are tokens, top_k, layers: layers come last.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from einops import rearrange

from interp.cache.errors import InputError
from interp.cache.reader import Store
from interp.cache.trace_facts import TraceFacts, prompt_fields, read_vocab
from interp.cache.trace_lines import Line, described_files, read_lines, whole_numbers
from interp.cache.traces import Trace, store_traces

MODEL, N_EXPERTS = "allenai/OLMoE-1B-7B-0924", 64
CAVEATS = [
    "A stretch is cut from documents laid end to end, so it may start within one and hold several.",
]


def import_olmoe(
    files: Sequence[Path],
    out: Path,
    *,
    model: str = MODEL,
    n_experts: int = N_EXPERTS,
    revision: str | None = None,
    condition: str | None = None,
    layers: Sequence[int] | None = None,
    vocab: Path | None = None,
) -> Store:
    """Make a store of OLMoE's own routing analysis, one prompt per stretch of tokens.

    No token is generated. `source` is the name of the file unless the line has one. The same files
    again leave an existing store as it is.

    Args:
        files: JSON lines, plain or gzipped, such as `c4_results.jsonl`.
        out: The store to make, such as `olmoe.moe`.
        model: Name of the model; the script also runs Mixtral.
        n_experts: Experts in a layer, chosen or not; 8 for Mixtral.
        revision: Revision of the model, which only the name of the file hints at.
        condition: Condition of lines that name none: `benchmark`, `organic` or `mixed`.
        layers: Numbers of the layers to keep; all if not given.
        vocab: A JSON list of token texts; None leaves ids as those of the model's vocabulary.

    Raises:
        InputError: If there is no file or one cannot be used, naming file, line and key; if routing
            is all zero or constant; or if something else is at `out`.
    """
    facts = TraceFacts(
        model=model,
        n_experts=n_experts,
        revision=revision,
        layers=None if layers is None else tuple(layers),
        condition=condition,
        vocab=read_vocab(vocab),
    )
    traces = [
        _trace(line, facts, source=Path(file).stem)
        for file in files
        for line in read_lines(Path(file))
    ]
    provenance = {
        "recorded_by": "scripts/run_moe_analysis.py of https://github.com/allenai/OLMoE",
        "caveats": CAVEATS,
        "files": described_files([Path(file) for file in files]),
    }
    return store_traces(traces, out, facts=facts, provenance=provenance)


def _trace(line: Line, facts: TraceFacts, *, source: str) -> Trace:
    for key in ("input_ids", "exp_ids"):
        if key not in line.values:
            raise InputError(
                f"{line.where}: {key} is absent, expected lines of OLMoE's run_moe_analysis.py"
            )
    token_id = whole_numbers(f"{line.where}: input_ids", line.values["input_ids"], n_dims=1)
    found = whole_numbers(f"{line.where}: exp_ids", line.values["exp_ids"], n_dims=3)
    n_tokens = len(token_id)
    if not n_tokens or len(found) != n_tokens:
        raise InputError(
            f"{line.where}: exp_ids has {len(found)} tokens, but input_ids has {n_tokens}"
        )
    return Trace(
        where=line.where,
        key="exp_ids (axes tokens, top_k, layers)",
        sha256=line.sha256,
        prompt=prompt_fields(
            line.values,
            where=line.where,
            facts=facts,
            source=source,
            prompt_token_id=token_id.tolist(),
        ),
        text="",
        token_id=token_id,
        position=np.arange(n_tokens),
        generated=np.zeros(n_tokens, dtype=np.bool_),
        logprob=np.full(n_tokens, np.nan, dtype=np.float32),
        expert_indices=rearrange(found, "tokens top_k layers -> tokens layers top_k"),
    )
