"""What imports of traces share: which layers and tokens are kept, and how they are stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer

from interp.cache.checks import SUM_TOLERANCE
from interp.cache.errors import InputError
from interp.cache.reader import Store, open_store
from interp.cache.records import SEGMENTS, Layout, PromptActivations
from interp.cache.trace_checks import check_routing, refuse_constant_layers
from interp.cache.trace_facts import TraceFacts
from interp.cache.writer import StoreWriter, is_captured

NO_WEIGHTS = "not recorded; 1/top_k stands in"
NO_WEIGHTS_CAVEAT = (
    "Expert weights were not recorded: each is 1/top_k, so nothing that depends on them is a "
    "finding."
)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The recorded routing of one prompt, as its file has it; values are checked when stored."""

    where: str
    """File and line, for sentences."""
    key: str
    """Where in the record the routing is."""
    sha256: str
    """Of the record: the same record has the same digest."""
    prompt: Mapping[str, str]
    """The fields of `PROMPT_FIELDS`."""
    text: str
    token_id: Integer[np.ndarray, "tokens"]
    position: Integer[np.ndarray, "tokens"]
    generated: Bool[np.ndarray, "tokens"]
    logprob: Float[np.ndarray, "tokens"]
    segment: Integer[np.ndarray, "tokens"] | None = None
    """Positions in `SEGMENTS`; None where not recorded, and stored as `other`."""
    expert_indices: Integer[np.ndarray, "tokens layers top_k"]
    """-1 for all of a token's experts where its routing was not recorded."""
    expert_weights: Float[np.ndarray, "tokens layers top_k"] | None = None
    router_logits: Float[np.ndarray, "tokens layers experts"] | None = None


def store_traces(
    traces: Sequence[Trace], out: Path, *, facts: TraceFacts, provenance: Mapping[str, Any]
) -> Store:
    """Check traces and make a store of them; leave it as it is where it is there already.

    Args:
        traces: One per prompt.
        out: The store to make.
        facts: What the traces do not say.
        provenance: What is particular to this kind of trace, `caveats` among it; the rest is
            added here.

    Raises:
        InputError: Naming file, line and key of what cannot be used, or what differs at `out`.
    """
    if not traces:
        raise InputError("no record to import; the files hold none")
    _refuse_duplicates(traces)
    _expect_same_kind(traces)
    kept_layers = _layers(traces[0], facts)
    kept = [_kept(trace, facts, kept_layers) for trace in traces]
    refuse_constant_layers(
        {trace.where: (trace.token_id, trace.expert_indices) for trace in kept}, kept_layers
    )
    layout = _layout(kept, facts, kept_layers)
    described = _provenance(traces, kept, facts, particular=provenance)
    if not is_captured(out, layout=layout, provenance=described):
        with StoreWriter(out, layout=layout, provenance=described, vocab=facts.vocab) as writer:
            for trace in kept[writer.n_prompts :]:
                try:
                    writer.add(_activations(trace, layout))
                except ValueError as error:
                    raise InputError(f"{trace.where}: {error}") from error
    return open_store(out)


def _refuse_duplicates(traces: Sequence[Trace]) -> None:
    seen: dict[str, str] = {}
    for trace in traces:
        if trace.sha256 in seen:
            raise InputError(
                f"{trace.where} and {seen[trace.sha256]} hold the same record; give each once"
            )
        seen[trace.sha256] = trace.where


def _expect_same_kind(traces: Sequence[Trace]) -> None:
    """All traces have the same layers and experts per token, and the same optional arrays."""
    first = traces[0]
    for trace in traces:
        ours, theirs = trace.expert_indices.shape[1:], first.expert_indices.shape[1:]
        if ours != theirs:
            raise InputError(
                f"{trace.where}: {trace.key} has {ours[0]} layers of {ours[1]} experts, but "
                f"{first.where} has {theirs[0]} of {theirs[1]}; import other models on their own"
            )
        for name in ("expert_weights", "router_logits"):
            if (getattr(trace, name) is None) != (getattr(first, name) is None):
                raise InputError(
                    f"{name} is in only one of {first.where} and {trace.where}; give it in all "
                    "files or in none"
                )


def _layers(trace: Trace, facts: TraceFacts) -> tuple[int, ...]:
    """Numbers in the model of the layers to store."""
    n_layers = trace.expert_indices.shape[1]
    layers = tuple(range(n_layers)) if facts.layers is None else facts.layers
    if len(layers) != n_layers and layers[-1] >= n_layers:
        raise InputError(
            f"layers names {len(layers)} layers up to {layers[-1]}, but {trace.where} has "
            f"{n_layers}; name each of them, or those to keep by numbers below {n_layers}"
        )
    return layers


def _kept(trace: Trace, facts: TraceFacts, layers: tuple[int, ...]) -> Trace:
    """A trace without the layers and tokens that have no routing, checked."""
    n_layers = trace.expert_indices.shape[1]
    columns = list(range(n_layers) if len(layers) == n_layers else layers)
    indices = trace.expert_indices[:, columns]
    rows = ~(indices == -1).all(axis=(1, 2))
    if not rows.any():
        raise InputError(
            f"{trace.where}: {trace.key} has no routing of any token (-1 or nothing throughout); "
            "record it again, or leave this record out"
        )
    values = {"expert_indices": indices[rows]}
    for name in ("expert_weights", "router_logits"):
        if getattr(trace, name) is not None:
            values[name] = getattr(trace, name)[:, columns][rows]
    for name in ("token_id", "position", "generated", "logprob", "segment"):
        if getattr(trace, name) is not None:
            values[name] = getattr(trace, name)[rows]
    check_routing(
        values["expert_indices"],
        where=f"{trace.where}: {trace.key}",
        layers=layers,
        n_experts=facts.n_experts,
        token_id=values["token_id"],
    )
    return replace(trace, **values)


def _layout(traces: Sequence[Trace], facts: TraceFacts, layers: tuple[int, ...]) -> Layout:
    given = [
        array
        for trace in traces
        for array in (trace.expert_weights, trace.router_logits)
        if array is not None
    ]
    narrow = all(array.dtype == np.float16 for array in given)
    weights = [trace.expert_weights for trace in traces if trace.expert_weights is not None]
    sums = [float(np.abs(each.astype(np.float64).sum(axis=-1) - 1).max()) for each in weights]
    return Layout(
        n_layers=len(layers),
        layer_indices=layers,
        n_experts=facts.n_experts,
        top_k=traces[0].expert_indices.shape[2],
        d_model=0,
        weights_sum="one" if sums and max(sums) <= SUM_TOLERANCE else "family",
        weights_dtype="float16" if narrow else "float32",
        router_logits=traces[0].router_logits is not None,
        vocab_local=bool(facts.vocab),
    )


def _activations(trace: Trace, layout: Layout) -> PromptActivations:
    weights = trace.expert_weights
    if weights is None:
        even = np.asarray(1 / layout.top_k, dtype=layout.weights_dtype)
        weights = np.broadcast_to(even, trace.expert_indices.shape)
    segment = trace.segment
    if segment is None:
        segment = np.full(len(trace.token_id), SEGMENTS.index("other"))
    return PromptActivations(
        prompt=trace.prompt,
        text=trace.text,
        token_id=trace.token_id,
        position=trace.position,
        segment=segment,
        generated=trace.generated,
        logprob=trace.logprob,
        expert_indices=trace.expert_indices,
        expert_weights=weights,
        router_logits=trace.router_logits,
    )


def _provenance(
    traces: Sequence[Trace],
    kept: Sequence[Trace],
    facts: TraceFacts,
    *,
    particular: Mapping[str, Any],
) -> dict[str, Any]:
    n_tokens = sum(len(trace.token_id) for trace in traces)
    has_weights = traces[0].expert_weights is not None
    return {
        **particular,
        "caveats": ([] if has_weights else [NO_WEIGHTS_CAVEAT]) + particular["caveats"],
        "model": facts.model,
        "revision": facts.revision,
        "recorded": "elsewhere",
        "condition_where_unnamed": facts.condition,
        "token_ids": "local to this store" if facts.vocab else "of the model's vocabulary",
        "expert_weights": "recorded" if has_weights else NO_WEIGHTS,
        "segments": "recorded" if traces[0].segment is not None else "not recorded; all `other`",
        "tokens_without_routing": n_tokens - sum(len(trace.token_id) for trace in kept),
    }
