"""The command `interp capture`: prompts go through a model, whole or layer by layer."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from interp.cache.errors import InputError
from interp.cli_model import load, quiet_transformers
from interp.cli_options import Json, Several, check_number, check_out, say

if TYPE_CHECKING:
    from interp.cache.records import Prompt
    from interp.hooks.settings import CaptureSettings

ENGINES = ("memory", "stream")
"""How a model is run: whole, or one layer at a time."""
Prompts = Annotated[
    list[str],
    Parameter(
        consume_multiple=True,
        negative="",
        help="Built-in suite (matched, matched-half), an installed suite (human-eval, gsm8k, "
        "google-queries, health-search, knghtbrd), or a JSONL, CSV, Parquet or ShareGPT JSON file.",
    ),
]


def capture(
    model: str,
    /,
    *,
    prompts: Prompts,
    out: Path,
    sites: Annotated[list[str] | None, Several] = None,
    layers: Annotated[list[int] | None, Several] = None,
    positions: str = "last_content",
    batch_tokens: int = 4096,
    part_mb: float = 512.0,
    dtype: str = "auto",
    engine: str = "memory",
    scratch: Path | None = None,
    condition: str | None = None,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    logprobs: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> None:
    """Run prompts through a model and store its routing and residual streams.

    The same command again goes on where an earlier one was stopped.

    Args:
        model: toy, a hub name such as openai/gpt-oss-20b, or a directory.
        prompts: Suites and files.
        out: The store to make, such as run.moe.
        sites: Of resid_pre, resid_mid, resid_post, expert_indices, expert_weights, router_logits,
            expert_output_norms.
        layers: Numbers of the layers to record; all if not given.
        positions: Tokens whose residuals are kept: all, last_content or every:n.
        batch_tokens: Tokens per forward pass, padding included.
        part_mb: Most MB of a part; what is in no part yet is done again after a stop.
        dtype: auto for the checkpoint's own, or a name such as float32.
        engine: memory runs the whole model at once; stream reads it from disk layer by layer, for a
            model that is larger than the memory.
        scratch: Folder for what the engine stream needs on disk until the store is whole; beside
            the store if not given.
        condition: benchmark or organic, for prompts that name none.
        limit: At most so many items of each suite or file, each with all of its variants.
        max_new_tokens: Let the model answer each prompt with at most so many tokens, and record it
            while it does; prompts alone if not given.
        temperature: Of the answers; 0 takes the most likely token each time.
        top_p: Answers are sampled among the most likely tokens that together have this probability.
        seed: Of the sampling.
        logprobs: Keep the log-probability of each token of a prompt, which the tests of experts
            adjust for.
        dry_run: Say how large the store will be, from the tokenizer and the config alone.
    """
    check_out(out, ".moe")
    check_number("limit", limit, least=1)
    check_engine(engine, scratch)
    check_sampling(max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    if not 0 < part_mb < float("inf"):
        raise InputError(f"--part-mb is {part_mb:g}, expected a number of MB above 0")
    from interp.cache.reader import open_store
    from interp.prompts.loading import load_several

    chosen = load_several(prompts, condition=condition, limit=limit)
    if not chosen:
        raise InputError("--prompts names no suite and no file; give one or more, such as matched")
    from interp.hooks.settings import DEFAULT_SITES, CaptureSettings, GenerationSettings

    generation = None
    if max_new_tokens is not None:
        generation = GenerationSettings(
            max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed
        )

    settings = CaptureSettings(
        sites=tuple(sites or DEFAULT_SITES),
        layers=tuple(layers) if layers else None,
        positions=positions,
        batch_tokens=batch_tokens,
        logprobs=logprobs,
        generation=generation,
    )
    if dry_run:
        say(dry(model, chosen, out, settings=settings, dtype=dtype, part_mb=part_mb), json)
        return
    was_captured = run_engine(
        engine,
        model,
        chosen,
        out,
        settings=settings,
        dtype=dtype,
        part_mb=part_mb,
        scratch=scratch,
    )
    check = open_store(out).manifest["self_check"]
    facts = {"store": str(out), "prompts": len(chosen), "captured": was_captured}
    compared = f"{len(check['layers_compared_with_router'])} of {len(check['layers'])}"
    say(facts | {"layers_compared_with_router": compared}, json)


def run_engine(
    engine: str,
    model: str,
    prompts: "Sequence[Prompt]",
    out: Path,
    *,
    settings: "CaptureSettings",
    dtype: str,
    part_mb: float,
    scratch: Path | None,
) -> bool:
    """Capture with one of the engines; whether anything was captured."""
    if engine == "memory":
        from interp.hooks.capture import capture as run_capture

        loaded = load(model, dtype=dtype)
        return run_capture(loaded, prompts, out, settings=settings, part_mb=part_mb)
    from interp.hooks.streamed_capture import capture_streamed
    from interp.organisms import checkpoint_path

    quiet_transformers()
    return capture_streamed(
        checkpoint_path(model),
        prompts,
        out,
        settings=settings,
        dtype=dtype,
        part_mb=part_mb,
        scratch=scratch,
    )


def check_engine(engine: str, scratch: Path | None) -> None:
    """Refuse an engine that there is not, and an option that it would not use."""
    if engine not in ENGINES:
        raise InputError(f"--engine is {engine!r}, expected {' or '.join(ENGINES)}")
    if scratch is not None and engine != "stream":
        raise InputError("--scratch is of --engine stream; add that, or leave --scratch out")


def dry(
    model: str, prompts: Any, out: Path, *, settings: Any, dtype: str, part_mb: float
) -> dict[str, Any]:
    """What a capture would write, and how much room there is."""
    from interp.hooks.plan import capture_plan, skeleton
    from interp.organisms import model_path

    quiet_transformers()
    modules, tokenizer = skeleton(model_path(model), dtype=dtype)
    plan = capture_plan(modules, tokenizer, prompts, out, settings=settings, part_mb=part_mb)
    per_token = {name: f"{n:.1f} bytes per token" for name, n in plan.bytes_per_token.items()}
    return {
        "prompts": plan.store.n_prompts,
        "tokens": plan.store.n_tokens,
        "parts": plan.store.n_parts,
        "sites": per_token,
        "bytes": plan.store.n_bytes,
        "free_bytes": plan.free_bytes,
    }


def check_sampling(
    max_new_tokens: int | None, *, temperature: float, top_p: float, seed: int
) -> None:
    """Refuse options of sampling where nothing is sampled, which would do nothing."""
    given = {"temperature": temperature != 0, "top-p": top_p != 1, "seed": seed != 0}
    idle = [f"--{name}" for name, is_given in given.items() if is_given]
    if max_new_tokens is None and idle:
        raise InputError(
            f"{', '.join(idle)} is for answers, and there are none; add --max-new-tokens"
        )
    if temperature == 0 and idle:
        raise InputError(
            f"{', '.join(idle)} is for sampled answers, and at temperature 0 none is sampled; add "
            "--temperature, such as 1"
        )
