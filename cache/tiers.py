"""Tiers of sharing: what is left out of a copy, and what the copy still gives away.

A label that few prompts share describes these prompts, and so do facts that were written by hand:
what is kept is listed here. The copy is the same each time it is made, so that a second push finds
its parts where the first left them.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from interp.cache.durable import write_whole
from interp.cache.errors import InputError
from interp.cache.fingerprinting import CAVEATS as FINGERPRINTING_CAVEATS
from interp.cache.manifest import MANIFEST_NAME
from interp.cache.reader import Store
from interp.cache.records import PROMPT_FIELDS, PromptActivations
from interp.cache.share_files import TIERS
from interp.cache.small_counts import public_labels
from interp.cache.trace_olmoe import CAVEATS as OLMOE_CAVEATS
from interp.cache.trace_vllm import CAVEATS as VLLM_CAVEATS
from interp.cache.traces import NO_WEIGHTS_CAVEAT
from interp.cache.writer import StoreWriter

MINIMUM_COUNT = 5
BATCH_TOKENS = 2**16
LEAKS: Mapping[str, str] = {
    "full": "Tier full gives away everything: texts, token ids, log-probabilities and all that was "
    "recorded of them.",
    "no_text": "Tier no_text drops texts, token ids, log-probabilities and residual streams, yet "
    "published work recovered 91.2 % of the tokens from expert choices alone (Nuriyev and Kulp "
    "2026, arXiv:2602.04105), so pass it on only where you would pass on the text; the length, "
    "segments, shared labels and order of the prompts remain as well.",
    "aggregate": "Tier aggregate drops all tokens and keeps counts per prompt, layer and expert, "
    "which still tell how long a prompt is and what kind of text it holds, and let anyone "
    "who has a candidate text and the model test whether it is among the prompts.",
}
"""By tier, one sentence: what whoever has the copy can still learn."""

_ARRAYS = ("expert_indices", "expert_weights", "router_logits", "expert_output_norms")
_PUBLIC_FACTS = (
    "model",
    "revision",
    "weights_sha256",
    "config",
    "tokenizer_sha256",
    "chat_template_sha256",
    "dtype",
    "quantization",
    "experts_implementation",
    "versions",
    "recorded",
    "recorded_in",
    "license",
)
"""Of the provenance, what says nothing of single prompts."""
_REGISTERED = ("rule", "analysis", "experiments", "config_sha256")
"""What a study registers before its capture, all of it numbers and names of tests."""
_SETTINGS = ("sites", "layers", "positions", "batch_tokens", "today", "logprobs", "generation")
"""Of the settings, those of a capture; others may name anything."""
_CAVEATS = (NO_WEIGHTS_CAVEAT, *FINGERPRINTING_CAVEATS, *VLLM_CAVEATS, *OLMOE_CAVEATS)
"""Sentences that this package wrote; others may speak of single prompts."""


def check_tier(tier: str, *, held: str) -> None:
    """Refuse a tier that is none, or that gives more than the store holds.

    Raises:
        InputError: Naming both.
    """
    if tier not in TIERS:
        raise InputError(f"tier is {tier!r}, expected one of {', '.join(TIERS)}")
    if TIERS.index(tier) < TIERS.index(held):
        raise InputError(
            f"the store has the tier {held} and cannot be shared as {tier}; share it as {held}"
        )


def write_no_text(
    store: Store, out: Path, *, minimum_count: int = MINIMUM_COUNT, part_mb: float = 512.0
) -> Path:
    """Write a copy without texts, token ids, log-probabilities and residual streams.

    Token ids are all 0 and log-probabilities NaN, as the format wants both. Residual streams go
    since the first is a row of the embedding matrix, which names its token. Prompts and items are
    numbered: a prompt's own id is a hash of its words, which a guess can meet.

    Args:
        store: A store of the tier `full`.
        out: The folder to make.
        minimum_count: A label that fewer prompts share is left out.
        part_mb: As for `StoreWriter`.
    """
    layout = replace(store.layout, resid_sites=(), resid_dtype="float32", vocab_local=False)
    labels = public_labels(store.prompts, minimum_count=minimum_count)
    with StoreWriter(
        out,
        layout=layout,
        provenance=public_provenance(store, sources=set(labels["source"])),
        part_mb=part_mb,
        tier="no_text",
    ) as writer:
        for routing in prompt_routings(store):
            fields = {name: str(labels[name].iloc[routing.number]) for name in PROMPT_FIELDS}
            writer.add(_without_text(store, fields, routing))
    _keep_date(out, store)
    return out


def public_provenance(store: Store, *, sources: Collection[str]) -> dict[str, Any]:
    """Provenance without what names prompts, files or folders.

    Args:
        store: Whose provenance it is.
        sources: Those that the copy names; licences of others go.
    """
    given = store.provenance
    facts = {name: given[name] for name in _PUBLIC_FACTS if name in given}
    model = str(facts.get("model", ""))
    if _is_local(model) or model.count("/") > 1:
        facts["model"] = model.replace("\\", "/").rstrip("/").rpartition("/")[2]
    public: dict[str, Any] = _without_paths(facts)
    caveats = [each for each in _CAVEATS if each in _listed(given.get("caveats"))]
    chosen = {
        "settings": _chosen(given.get("settings"), _SETTINGS),
        "source_licenses": _chosen(given.get("source_licenses"), set(sources) - {""}),
        "caveats": caveats,
        "registered": _chosen(given.get("registered"), _REGISTERED),
    }
    return public | {name: value for name, value in chosen.items() if name in given}


def _chosen(values: object, names: Collection[str]) -> dict[str, Any]:
    given = values if isinstance(values, Mapping) else {}
    return {str(name): value for name, value in given.items() if name in names}


def _listed(values: object) -> list[Any]:
    return list(values) if isinstance(values, list | tuple) else []


def _without_paths(value: Any) -> Any:
    """A copy without private keys, such as `_name_or_path` of a config, and without local paths."""
    if isinstance(value, Mapping):
        return {
            name: _without_paths(each)
            for name, each in value.items()
            if not name.startswith("_") and not _is_local(each)
        }
    if isinstance(value, list | tuple):
        return [_without_paths(each) for each in value if not _is_local(each)]
    return value


def _is_local(value: object) -> bool:
    """Whether it begins as the path of a file or folder does."""
    if not isinstance(value, str):
        return False
    return value.startswith((".", "/", "~", "\\", "file:")) or value[1:3] in (":\\", ":/")


@dataclass(frozen=True, kw_only=True)
class PromptRouting:
    """The routing of one prompt, as views of what was read of several."""

    number: int
    """Row of `Store.prompts`."""
    tokens: slice
    """Its tokens in the store."""
    expert_indices: Integer[np.ndarray, "tokens layers top_k"]
    expert_weights: Float[np.ndarray, "tokens layers top_k"]
    router_logits: Float[np.ndarray, "tokens layers experts"] | None
    expert_output_norms: Float[np.ndarray, "tokens layers top_k"] | None


def prompt_routings(store: Store) -> Iterator[PromptRouting]:
    """The routing of every prompt in order; many are read at a time."""
    bounds = np.concatenate([[0], np.cumsum(store.prompts["n_tokens"].to_numpy())])
    first = 0
    while first < len(store.prompts):
        limit = np.searchsorted(bounds, bounds[first] + BATCH_TOKENS, side="right") - 1
        last = max(first + 1, int(limit))
        routing = store.router(prompts=np.arange(first, last))
        for number in range(first, last):
            tokens = slice(int(bounds[number]), int(bounds[number + 1]))
            own = slice(tokens.start - int(bounds[first]), tokens.stop - int(bounds[first]))
            arrays = {name: _cut(getattr(routing, name), own) for name in _ARRAYS}
            yield PromptRouting(number=number, tokens=tokens, **arrays)
        first = last


def _cut(values: np.ndarray | None, rows: slice) -> Any:
    return None if values is None else values[rows]


def _without_text(
    store: Store, fields: Mapping[str, str], routing: PromptRouting
) -> PromptActivations:
    rows = routing.tokens
    n_tokens = rows.stop - rows.start
    return PromptActivations(
        prompt=fields,
        text="",
        token_id=np.zeros(n_tokens, dtype=np.int32),
        position=store.position[rows],
        segment=store.segment[rows],
        generated=store.generated[rows],
        logprob=np.full(n_tokens, np.nan, dtype=np.float32),
        **{name: getattr(routing, name) for name in _ARRAYS},
    )


def _keep_date(out: Path, store: Store) -> None:
    """The copy is as old as its store, and so the same each time."""
    manifest = json.loads((out / MANIFEST_NAME).read_text(encoding="utf-8"))
    manifest["created"] = store.manifest["created"]
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    write_whole(out / MANIFEST_NAME, text.encode())
