"""The command `interp`: progress and sentences on stderr, results on stdout."""

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, UnknownCommandError, UnusedCliTokensError

from interp import __version__
from interp.cache.errors import InputError, InterpError, ModelError
from interp.cli_capture import capture
from interp.cli_experiment import experiment
from interp.cli_imports import fingerprinting, npz, olmoe, vllm
from interp.cli_model import load, quiet_transformers, routers_of
from interp.cli_options import Json, Several, by_sentence, check_number, check_out, say
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


@app.command
def demo(*, out: Path = Path("demo"), json: Json = False) -> None:
    """Capture the toy model on half of the matched suite, analyse it and draw the report.

    Args:
        out: Folder for demo.moe, results.json and report.html.
    """
    from interp.demo import run_demo

    quiet_transformers()
    say(run_demo(out), json)


for command in (capture, run, experiment, verify, push, pull, diff):
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


@app.command
def report(
    store: str, /, *, out: Path, results: Path | None = None, seed: int = 0, json: Json = False
) -> None:
    """Draw the interactive report as one offline HTML file.

    Args:
        store: The store, such as run.moe.
        out: The file to write, such as report.html.
        results: Tables that `interp analyze` wrote; computed anew if not given.
        seed: Seed of the analysis, where it is computed anew.
    """
    check_out(out, ".html")
    check_number("seed", seed, least=0)
    from interp import study
    from interp.cache.reader import open_store
    from interp.report import write_report
    from interp.results import read_results

    opened = open_store(store)
    tables = read_results(results) if results else study.analyze(opened, seed=seed)
    if tables.run.get("store_sha256") != opened.sha256:
        raise InputError(f"{results} was computed from another store than {store}; analyze it anew")
    write_report(tables, opened, out)
    say({"report": str(out)}, json)


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
