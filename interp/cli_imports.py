"""The commands `interp import ...`: stores of traces that were recorded elsewhere."""

from pathlib import Path
from typing import Annotated, Any

from interp.cli_options import Json, Several, check_out, say


def fingerprinting(files: list[Path], /, *, out: Path, json: Json = False) -> None:
    """Import routing recorded by GPT-OSS-MoE-ExpertFingerprinting.

    Args:
        files: Its records, *.json or *.json.gz.
        out: The store to make, such as run.moe.
    """
    check_out(out, ".moe")
    from interp.cache.fingerprinting import import_fingerprinting

    say_imported(import_fingerprinting(files, out), json)


def vllm(
    files: list[Path],
    /,
    *,
    out: Path,
    model: str,
    n_experts: int,
    revision: str | None = None,
    condition: str | None = None,
    layers: Annotated[list[int] | None, Several] = None,
    top_k: int | None = None,
    prompt_start: int = 0,
    vocab: Path | None = None,
    json: Json = False,
) -> None:
    """Import routed experts that vLLM or SGLang returned, one response a line.

    Args:
        files: Responses as JSON lines, *.jsonl or *.jsonl.gz.
        out: The store to make, such as run.moe.
        model: Name of the model that was traced.
        n_experts: Experts in a layer, chosen or not.
        revision: Revision of the model, if you know it.
        condition: benchmark, organic or mixed, for records that name none.
        layers: Numbers in the model of its routed layers: as many as recorded name them, fewer say
            which to keep.
        top_k: Experts per token; SGLang's base64 form does not say.
        prompt_start: Leading tokens whose routing you asked the server to leave out.
        vocab: JSON list of the texts of tokens 0, 1, ...; ids then count in it.
    """
    check_out(out, ".moe")
    from interp.cache.trace_vllm import import_vllm

    store = import_vllm(
        files,
        out,
        model=model,
        n_experts=n_experts,
        revision=revision,
        condition=condition,
        layers=layers,
        top_k=top_k,
        prompt_start=prompt_start,
        vocab=vocab,
    )
    say_imported(store, json)


def olmoe(
    files: list[Path],
    /,
    *,
    out: Path,
    model: str = "allenai/OLMoE-1B-7B-0924",
    n_experts: int = 64,
    revision: str | None = None,
    condition: str | None = None,
    layers: Annotated[list[int] | None, Several] = None,
    vocab: Path | None = None,
    json: Json = False,
) -> None:
    """Import OLMoE's own routing analysis (JSON lines with exp_ids).

    Args:
        files: Its output, such as c4_results.jsonl.
        out: The store to make, such as run.moe.
        model: Name of the model that was traced.
        n_experts: Experts in a layer, chosen or not.
        revision: Revision of the model, if you know it.
        condition: benchmark, organic or mixed, for records that name none.
        layers: Numbers in the model of its routed layers: as many as recorded name them, fewer say
            which to keep.
        vocab: JSON list of the texts of tokens 0, 1, ...; ids then count in it.
    """
    check_out(out, ".moe")
    from interp.cache.trace_olmoe import import_olmoe

    store = import_olmoe(
        files,
        out,
        model=model,
        n_experts=n_experts,
        revision=revision,
        condition=condition,
        layers=layers,
        vocab=vocab,
    )
    say_imported(store, json)


def npz(
    files: list[Path],
    /,
    *,
    out: Path,
    model: str,
    n_experts: int | None = None,
    revision: str | None = None,
    condition: str | None = None,
    layers: Annotated[list[int] | None, Several] = None,
    vocab: Path | None = None,
    json: Json = False,
) -> None:
    """Import routing from NumPy archives; docs/imports.md lists the keys.

    Args:
        files: Archives saved with numpy.savez, *.npz.
        out: The store to make, such as run.moe.
        model: Name of the model that was traced.
        n_experts: Experts in a layer, chosen or not; known where there are router_logits.
        revision: Revision of the model, if you know it.
        condition: benchmark, organic or mixed, for records that name none.
        layers: Numbers in the model of its routed layers: as many as recorded name them, fewer say
            which to keep.
        vocab: JSON list of the texts of tokens 0, 1, ...; ids then count in it.
    """
    check_out(out, ".moe")
    from interp.cache.trace_npz import import_npz

    store = import_npz(
        files,
        out,
        model=model,
        n_experts=n_experts,
        revision=revision,
        condition=condition,
        layers=layers,
        vocab=vocab,
    )
    say_imported(store, json)


def say_imported(store: Any, as_json: bool) -> None:
    """Print what an import made."""
    facts = {"store": str(store.path), "prompts": len(store.prompts), "tokens": store.n_tokens}
    say(facts, as_json)
