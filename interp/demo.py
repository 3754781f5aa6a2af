"""The demo: the toy model on half of `matched`, from prompts to report, in about a minute."""

from pathlib import Path

from interp import study
from interp.cache.errors import InputError
from interp.cache.reader import open_store
from interp.hooks.capture import capture
from interp.hooks.settings import CaptureSettings
from interp.organisms import load_model
from interp.prompts import load_prompts
from interp.report import write_report
from interp.results import write_results

SUITE = "matched-half"
"""Half of the suite `matched`, as balanced as all of it, so that the demo takes about a minute."""


def run_demo(out: Path) -> dict[str, str]:
    """Capture, analyse and report into `out`; a store that is there already is used again.

    Returns:
        The suite and its number of prompts, and the paths of `store`, `results` and `report`.

    Raises:
        InputError: If `out` is a file, or another store is at `out/demo.moe`.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out is {out}, which is a file; give the name of a folder")
    store_path, report_path = out / "demo.moe", out / "report.html"
    results_path = out / "results.json"
    loaded, prompts = load_model("toy"), load_prompts(SUITE)
    out.mkdir(parents=True, exist_ok=True)
    capture(loaded, prompts, store_path, settings=CaptureSettings(logprobs=True))
    store = open_store(store_path)
    results = study.analyze(store)
    write_results(results, results_path)
    write_report(results, store, report_path)
    made = {"store": str(store_path), "results": str(results_path), "report": str(report_path)}
    return {"suite": SUITE, "prompts": str(len(prompts))} | made
