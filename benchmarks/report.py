"""How large the report is and how soon it is seen, against the same page with all of plotly.js.

    python benchmarks/report.py                                       # made-up, of 20b's shape
    python benchmarks/report.py --store 20b.moe --results 20b.json --rounds 7

Both pages hold the same study and are opened in turns in one headless Chromium, each in a context
of its own. `painted` is the browser's first contentful paint, `verdict` the moment the page has the
verdict, `figure` the first figure drawn, `drawn` the last one; all in ms from the start of
navigation. Ratios are medians over pairs, with quartiles.
"""

import argparse
import gzip
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from playwright.sync_api import sync_playwright
from plotly.offline import get_plotlyjs

from interp import report
from interp.cache.reader import Store, open_store
from interp.report_bundle import plotly_script
from interp.results import Results, read_results
from tests.synthetic_study import synthetic_results, write_synthetic_store

FLAGS = ["--no-sandbox", "--disable-quic", "--disable-background-networking"]
WATCH = """
new MutationObserver((_, watching) => {
  const seen = (name, selector) => {
    if (!window[name] && document.querySelector(selector)) window[name] = performance.now();
  };
  seen("verdict", "#rung p");
  seen("figure", ".plot .main-svg");
  seen("drawn", "html[data-drawn]");
  if (window.drawn) watching.disconnect();
}).observe(document, { childList: true, subtree: true, attributes: true });
"""
MOMENTS = ("painted", "verdict", "figure", "drawn")


def measured(browser: Any, page_file: Path) -> dict[str, float]:
    """Moments of one opening, in ms."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.add_init_script(WATCH)
    page.goto(page_file.as_uri())
    page.wait_for_selector("html[data-drawn]", timeout=120_000)
    painted = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    moments = {name: page.evaluate(f"window.{name}") for name in MOMENTS[1:]}
    moments["painted"] = page.evaluate(painted)
    context.close()
    return moments


def with_all_of_plotly(results: Results, store: Store, out: Path) -> None:
    """The same page with the whole of plotly.js, and the policy that lets it run."""
    ours = report.plotly_script
    report.plotly_script = get_plotlyjs
    try:
        report.write_report(results, store, out)
    finally:
        report.plotly_script = ours


def study_of(arguments: argparse.Namespace, folder: Path) -> tuple[Results, Store]:
    """The study that was named, or one of the shape of gpt-oss-20b with 2,000 tokens a strip."""
    if arguments.store:
        return read_results(Path(arguments.results)), open_store(arguments.store)
    store = write_synthetic_store(folder / "made-up.moe", n_items=1, repeats=150)
    return synthetic_results(), store


def quartiles(values: list[float]) -> str:
    """Median with quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    """Print sizes and moments of both pages, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--store")
    parser.add_argument("--results")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="report-"))
    results, store = study_of(arguments, folder)
    pages = {"bundle": folder / "bundle.html", "all of plotly.js": folder / "all.html"}
    report.write_report(results, store, pages["bundle"])
    with_all_of_plotly(results, store, pages["all of plotly.js"])
    for name, script in (("bundle", plotly_script()), ("all of plotly.js", get_plotlyjs())):
        packed = len(gzip.compress(pages[name].read_bytes()))
        size = pages[name].stat().st_size
        print(
            f"{name}: page {size / 1e6:.2f} MB ({packed / 1e6:.2f} gzipped), of it plotly.js "
            f"{len(script.encode()) / 1e6:.2f} MB"
        )
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in pages}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        measured(browser, pages["bundle"])
        for _ in range(arguments.rounds):
            for name, path in pages.items():
                found[name].append(measured(browser, path))
        browser.close()
    for moment in MOMENTS:
        ours, theirs = ([each[moment] for each in found[name]] for name in pages)
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        print(
            f"{moment}: {statistics.median(ours):.0f} ms (at most {max(ours):.0f}), all of "
            f"plotly.js {statistics.median(theirs):.0f} ms, ratio {quartiles(ratios)}"
        )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
