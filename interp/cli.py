"""The command `interp`: progress and sentences on stderr, results on stdout."""

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter, UnknownCommandError, UnusedCliTokensError

from interp import __version__
from interp.cache.errors import InputError, InterpError, ModelError
from interp.cli_experiment import experiment
from interp.cli_imports import fingerprinting, npz, olmoe, vllm
from interp.cli_options import Json, Several, by_sentence, check_number, check_out, say
from interp.cli_report import report
from interp.cli_sharing import diff, pull, push, usage_facts, verify
from interp.cli_study import run

app = App(
    name="interp",
    help="Ask what mixture-of-experts routers do.",
    version=f"moe-interp {__version__}",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
CAPTURE_PACKAGES = (
    "accelerate",
    "huggingface_hub",
    "jinja2",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)
"""What the extra `capture` installs and a command may find missing."""
importing = App(name="import", help="Make a store of traces recorded elsewhere.")
app.command(importing)
for trace in (fingerprinting, vllm, olmoe, npz):
    importing.command(trace)

Prompts = Annotated[
    list[str],
    Parameter(
        consume_multiple=True,
        negative="",
        help="Built-in suite (matched, matched-half), an installed suite (human-eval, gsm8k, "
        "google-queries, health-search, knghtbrd), or a JSONL, CSV, Parquet or ShareGPT JSON file.",
    ),
]


@app.command
def demo(*, out: Path = Path("demo"), json: Json = False) -> None:
    """Capture the toy model on half of the matched suite, analyse it and draw the report.

    Args:
        out: Folder for demo.moe, results.json and report.html.
    """
    from interp.demo import run_demo

    quiet_transformers()
    say(run_demo(out), json)


@app.command
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
    check_sampling(max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    if not 0 < part_mb < float("inf"):
        raise InputError(f"--part-mb is {part_mb:g}, expected a number of MB above 0")
    from interp.cache.reader import open_store
    from interp.prompts.loading import load_several

    chosen = load_several(prompts, condition=condition, limit=limit)
    if not chosen:
        raise InputError("--prompts names no suite and no file; give one or more, such as matched")
    from interp.hooks.capture import capture as run_capture
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
    loaded = load(model, dtype=dtype)
    was_captured = run_capture(loaded, chosen, out, settings=settings, part_mb=part_mb)
    check = open_store(out).manifest["self_check"]
    facts = {"store": str(out), "prompts": len(chosen), "captured": was_captured}
    compared = f"{len(check['layers_compared_with_router'])} of {len(check['layers'])}"
    say(facts | {"layers_compared_with_router": compared}, json)


for command in (run, experiment, verify, push, pull, diff):
    app.command(command)


@app.command
def info(store: str, /, *, json: Json = False) -> None:
    """Say what a store holds, or how balanced a suite of prompts is.

    Args:
        store: The store, such as run.moe or hf://datasets/USER/NAME; or a suite, such as matched.
    """
    from interp.prompts.loading import SUITES, load_prompts

    if store in SUITES:
        from interp.prompts.audit import audit_facts

        say({"suite": store} | audit_facts(load_prompts(store)), json)
        return
    from dataclasses import asdict

    from interp.cache.reader import open_store

    table = usage_facts(store)
    if table is not None:
        say(table, json)
        return
    opened = open_store(store)
    prompts = opened.prompts
    kinds = Counter(zip(prompts["condition"], prompts["source"], strict=True))
    facts = {
        "store": str(store),
        "model": opened.provenance.get("model", "unknown"),
        "prompts": len(prompts),
        "tokens": opened.n_tokens,
        "prompts_by_condition_and_source": {
            f"{condition} / {source}": n for (condition, source), n in sorted(kinds.items())
        },
    }
    say(facts | asdict(opened.layout), json)


@app.command
def analyze(
    store: str,
    /,
    *,
    out: Path,
    permutations: int = 200,
    seed: int = 0,
    target: Annotated[list[str] | None, Several] = None,
    segment: str = "",
    untrained: str | None = None,
    router: str | None = None,
    json: Json = False,
) -> None:
    """Compare expert usage, probe the condition, describe routing; write the tables as JSON.

    Args:
        store: The store, such as run.moe.
        out: The file to write, such as results.json.
        permutations: Relabellings behind each null.
        seed: Seed of permutations, folds and bootstraps.
        target: Fields of the prompts, such as domain, that probes tell apart beside the condition.
        segment: Probes also read the mean over the tokens of this one, such as wrapper.
        untrained: Store of the same prompts and an untrained model of the same shape.
        router: The model of the store, whose routers split the residual stream in two.
    """
    check_out(out, ".json")
    check_number("permutations", permutations, least=1)
    check_number("seed", seed, least=0)
    from interp import study
    from interp.cache.reader import open_store
    from interp.results import write_results
    from interp.study_directions import write_directions_beside

    opened = open_store(store)
    results = study.analyze(
        opened,
        seed=seed,
        n_permutations=permutations,
        targets=tuple(target or ()),
        segment=segment,
        untrained=None if untrained is None else open_store(untrained),
        router_weights=None if router is None else routers_of(router),
    )
    write_results(results, out)
    directions = write_directions_beside(out, opened, segment=segment)
    absent = results.absent if json else by_sentence(results.absent)
    say({"results": str(out)} | directions | {"absent": absent}, json)


app.command(report)


@app.command
def doctor(
    model: str, /, *, dtype: str = "auto", out: Path | None = None, json: Json = False
) -> None:
    """Run the capture's self-check on a model and say what was seen; exit code 1 if it fails.

    Args:
        model: toy, a hub name or a directory.
        dtype: auto for the checkpoint's own, or a name such as float32.
        out: A file to write what was seen to, such as doctor.json; also if the check fails.
    """
    if out is not None:
        check_out(out, ".json")
    from interp.hooks.doctor import diagnosis

    found = diagnosis(load(model, dtype=dtype))
    if out is not None:
        write_json(out, found)
    if json or found["is_sound"]:
        say(found, json)
    if not found["is_sound"]:
        raise ModelError(found["result"])


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


def load(model: str, *, dtype: str) -> Any:
    """The model by its name or directory, without the notices of transformers."""
    from interp.organisms import load_model

    quiet_transformers()
    return load_model(model, dtype=dtype)


def routers_of(model: str) -> Any:
    """What the routers of a model read, by layer."""
    from interp.hooks.router_space import router_weights

    return router_weights(load(model, dtype="auto").model)


def quiet_transformers() -> None:
    """Keep the libraries' own notices out of the command's output."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    hub_logging.set_verbosity_error()
    logging.set_verbosity_error()
    logging.disable_progress_bar()


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


def write_json(out: Path, facts: dict[str, Any]) -> None:
    """Write what a command found to a file."""
    out.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Run one command; what goes wrong on purpose is one sentence and an exit code."""
    try:
        app(arguments, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except CycloptsError as error:
        fail(usage_sentence(error), InputError.exit_code)
    except InterpError as error:
        fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in CAPTURE_PACKAGES:
            raise
        sentence = f"{package} is not installed, but this command needs it; install it with: "
        fail(f"{sentence}pip install 'moe-interp[capture]'", InputError.exit_code)
    except BrokenPipeError:
        # Its reader wants no more, as head does; what is left must not be flushed into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.filename is None:
            raise
        sentence = f"{error.filename} cannot be read or written ({error.strerror})"
        fail(f"{sentence}; check its folder, permissions and the space left", InputError.exit_code)
    except KeyboardInterrupt:
        fail("stopped; the same command again goes on where the last part of a store ended", 130)


def usage_sentence(error: CycloptsError) -> str:
    """What is wrong with the arguments, and where the right ones are explained."""
    said = str(error).strip(" .?").replace(". ", "; ")
    if isinstance(error, UnusedCliTokensError):
        said = f"there is no place for {' '.join(error.unused_tokens or ())}"
    if isinstance(error, UnknownCommandError):
        known = [name for name in error.app or app if not name.startswith("-")]
        said = said.partition(" Available")[0].rstrip(";?")
        said = f"{said}; the commands are {', '.join(known)}"
    command = " ".join((app.name[0], *(error.command_chain or ())))
    return f"{said}; see {command} --help"


def fail(sentence: str, exit_code: int) -> None:
    """Say on stderr, in one line, what went wrong, and leave with `exit_code`."""
    sys.stderr.write(f"interp: {' '.join(sentence.splitlines())}\n")
    sys.exit(exit_code)
