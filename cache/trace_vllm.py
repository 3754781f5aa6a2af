"""Import of the routed experts that vLLM and SGLang return with a response, one response a line.

Both hold expert ids only, no weights. Two layouts are in use. Joined: `routed_experts` has a row
for each token that was put in, of prompt and answer; the last of the answer never was. Split (vLLM
0.21): `prompt_routed_experts` beside it, and `routed_experts` for the answer alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from interp.cache.errors import InputError
from interp.cache.reader import Store
from interp.cache.trace_facts import TraceFacts, prompt_fields, read_vocab
from interp.cache.trace_lines import Line, described_files, read_lines, whole_numbers
from interp.cache.trace_routing import routing_array
from interp.cache.traces import Trace, store_traces

CAVEATS = [
    "Experts are in the order in which the server gave them, which need not be by weight.",
    "Kernels, batching and dtype of the server can change close choices.",
]


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """One answer of a response: where its fields may be, best place first."""

    where: str
    sha256: str
    response: Mapping[str, Any]
    places: Sequence[tuple[str, Mapping[str, Any]]]
    """Name of the place, as it stands before a key; and what is there."""

    def find(self, *names: str) -> tuple[str, Any]:
        """Key and value of the first of these that is there and not null; None where none is."""
        for place, values in self.places:
            for name in names:
                if values.get(name) is not None:
                    return place + name, values[name]
        return names[0], None

    def token_ids(self, *names: str) -> Integer[np.ndarray, "tokens"]:
        key, found = self.find(*names)
        if found is None:
            raise InputError(
                f"{self.where}: {' and '.join(names)} are absent; ask the server for token ids "
                "(return_token_ids), or add those that you sent to the line"
            )
        return whole_numbers(f"{self.where}: {key}", found, n_dims=1)


def import_vllm(
    files: Sequence[Path],
    out: Path,
    *,
    model: str,
    n_experts: int,
    revision: str | None = None,
    condition: str | None = None,
    layers: Sequence[int] | None = None,
    top_k: int | None = None,
    prompt_start: int = 0,
    vocab: Path | None = None,
) -> Store:
    """Make a store of responses of vLLM or SGLang that hold routed experts.

    Each answer of a response becomes a prompt of the store; its prompt tokens and its answer keep
    apart in `generated`. The same files again leave an existing store as it is.

    Args:
        files: JSON lines, plain or gzipped, one response each.
        out: The store to make, such as `run.moe`.
        model: Name of the model that was served.
        n_experts: Experts in a layer, chosen or not; the responses do not say.
        revision: Revision of the model; None where it is not known.
        condition: Condition of responses that name none: `benchmark`, `organic` or `mixed`.
        layers: Numbers in the model of its routed layers; needed where some are dense.
        top_k: Experts chosen per token; SGLang's form does not say, the others do.
        prompt_start: Leading tokens whose routing was left out of the response on request
            (`routed_experts_prompt_start` of vLLM, `routed_experts_start_len` of SGLang).
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
        _trace(answer, facts, source=Path(file).stem, top_k=top_k, start=prompt_start)
        for file in files
        for line in read_lines(Path(file))
        for answer in _answers(line)
    ]
    provenance = {
        "recorded_by": "vLLM or SGLang, as routed_experts of a response",
        "prompt_start": prompt_start,
        "caveats": CAVEATS,
        "files": described_files([Path(file) for file in files]),
    }
    return store_traces(traces, out, facts=facts, provenance=provenance)


def _answers(line: Line) -> Iterator[_Answer]:
    """One per choice of OpenAI's form, or the whole of SGLang's own."""
    response = line.values
    choices = response.get("choices", [response] if "meta_info" in response else None)
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise InputError(
            f"{line.where}: choices is {choices!r:.40}, expected the list of a response of vLLM or "
            "SGLang (SGLang's own form has meta_info in its place)"
        )
    for number, choice in enumerate(choices):
        own = "" if choice is response else f"choices[{number}]."
        nested = [
            (f"{place}{name}.", holder.get(name))
            for place, holder in ((own, choice), ("", response))
            for name in ("sgl_ext", "sglext", "meta_info")
            if holder is choice or len(choices) == 1
        ]
        found = [(place, values) for place, values in nested if isinstance(values, dict)]
        yield _Answer(
            where=line.where,
            sha256=f"{line.sha256}/{number}",
            response=response,
            places=[(own, choice), *found, ("", response)],
        )


def _trace(
    answer: _Answer, facts: TraceFacts, *, source: str, top_k: int | None, start: int
) -> Trace:
    prompt_ids = answer.token_ids("prompt_token_ids", "input_ids")
    answer_ids = answer.token_ids("token_ids", "output_ids")
    key, indices, start = _indices(answer, len(prompt_ids), len(answer_ids), top_k, start)
    position = np.arange(start, start + len(indices))
    n_prompt = len(prompt_ids)
    token_id = np.concatenate([prompt_ids, answer_ids])
    return Trace(
        where=answer.where,
        key=key,
        sha256=answer.sha256,
        prompt=prompt_fields(
            answer.response,
            where=answer.where,
            facts=facts,
            source=source,
            prompt_token_id=prompt_ids.tolist(),
        ),
        text=_text(answer),
        token_id=token_id[position],
        position=position,
        generated=position >= n_prompt,
        logprob=_logprob(answer, n_prompt, len(answer_ids))[position],
        expert_indices=indices,
    )


def _indices(
    answer: _Answer, n_prompt: int, n_answer: int, top_k: int | None, start: int
) -> tuple[str, Integer[np.ndarray, "tokens layers top_k"], int]:
    """Key of the routing, experts of the tokens from `start` on, and `start`."""
    key, found = answer.find("routed_experts")
    prompt_key, of_prompt = answer.find("prompt_routed_experts")
    if found is None and (of_prompt is None or n_answer > 1):
        raise InputError(
            f"{answer.where}: routed_experts is absent; serve with --enable-return-routed-experts "
            "(and, for SGLang, ask with return_routed_experts)"
        )
    if of_prompt is None:
        return key, *routing_array(
            found,
            where=f"{answer.where}: {key}",
            start=start,
            n_rows=(n_prompt + max(n_answer - 1, 0),),
            top_k=top_k,
        )
    parts: list[tuple[str, Any, Sequence[int]]] = [(prompt_key, of_prompt, (n_prompt,))]
    if found is not None and found != []:
        parts.append((key, found, (max(n_answer - 1, 0), n_answer)))
    arrays = [
        routing_array(each, where=f"{answer.where}: {name}", start=0, n_rows=rows, top_k=top_k)[0]
        for name, each, rows in parts
    ]
    if len(arrays) == 1 and n_answer > 1:
        raise InputError(f"{answer.where}: {key} is empty, expected {n_answer - 1} tokens")
    if len({array.shape[1:] for array in arrays}) > 1:
        shapes = " and ".join(str(array.shape) for array in arrays)
        raise InputError(
            f"{answer.where}: {prompt_key} and {key} have shapes {shapes}; expected equal layers "
            "and experts per token"
        )
    return f"{prompt_key} and {key}", np.concatenate(arrays), 0


def _text(answer: _Answer) -> str:
    """Prompt and answer where the response has both as they were tokenised, else nothing."""
    _, before = answer.find("prompt_text")
    _, after = answer.find("text")
    return before + after if isinstance(before, str) and isinstance(after, str) else ""


def _logprob(answer: _Answer, n_prompt: int, n_answer: int) -> Float[np.ndarray, "tokens"]:
    """Nats per token of prompt and answer; NaN where the response has none."""
    logprob = np.full(n_prompt + n_answer, np.nan, dtype=np.float32)
    key, found = answer.find("logprobs", "output_token_logprobs")
    if isinstance(found, dict):
        inner = "content" if found.get("content") is not None else "token_logprobs"
        key, found = f"{key}.{inner}", found.get(inner)
    if found is None:
        return logprob
    try:
        values = [_nats(each) for each in found]
    except (TypeError, KeyError, ValueError, IndexError, OverflowError) as error:
        raise InputError(
            f"{answer.where}: {key} is {found!r:.60}, expected log-probabilities"
        ) from error
    if len(values) not in (n_answer, n_prompt + n_answer):
        raise InputError(
            f"{answer.where}: {key} has {len(values)} entries, expected one for each of the "
            f"{n_answer} tokens of the answer"
        )
    logprob[len(logprob) - len(values) :] = values
    return logprob


def _nats(entry: Any) -> float:
    """A log-probability as completions (number), chats (object) and SGLang (list) have it."""
    if isinstance(entry, dict):
        entry = entry["logprob"]
    elif isinstance(entry, list):
        entry = entry[0]
    return float("nan") if entry is None else float(entry)
