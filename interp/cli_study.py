"""The command `interp run`: one study from its configuration to its verdict."""

from pathlib import Path

from interp.cli_options import Json, say


def run(config: Path, /, *, out: Path | None = None, json: Json = False) -> None:
    """Run a study from prompts to verdict: capture, analyse, judge, report.

    The same command again goes on where an earlier one was stopped, and does nothing twice.

    Args:
        config: The configuration, such as study.toml.
        out: Folder of the study; beside the configuration and named like it if not given.
    """
    from interp.study_run import run_study

    done = run_study(config, out)
    verdict = done.verdict
    facts = {
        "verdict": verdict.get("rung", ""),
        "sentence": verdict.get("sentence", ""),
        "changed": " ".join(done.changed),
        "store": str(done.store),
        "results": str(done.results),
        "report": str(done.report),
    }
    say(facts, json)
