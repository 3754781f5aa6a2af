"""A made-up study with rows in every table that the report draws, and a browser to look at it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from interp.cache.reader import Store
from interp.results import Results
from tests.figure_samples import LAYERS, N_EXPERTS, sample_results
from tests.synthetic_study import write_synthetic_store

PATIENCE_MS = 180_000
"""A busy machine may take a minute to start a browser and parse plotly."""
FLAGS = ["--no-sandbox", "--disable-quic", "--disable-background-networking"]
VERDICT = {
    "rung": "no_difference",
    "sentence": "No expert is used differently by more than <0.02>.",
    "steps": [
        {"rung": "insufficient", "asks": "power", "found": "power is 91 %", "holds": True},
        {"rung": "no_difference", "asks": "the margin", "found": "18 of 18 inside", "holds": True},
    ],
}
HOSTILE = (
    "</script><script>document.title='ran'</script>",
    "<img src=x onerror=\"document.title='ran'\">",
    "\u202eolleh\u202c",
    "\ud800",
    "\u2028${document.title='ran'}`",
    "]]>-->",
    "x" * 100_000,
)


def study_results(**replaced: Any) -> Results:
    """Results with a verdict, a full run and something absent; tables by name replace others."""
    results = sample_results(verdict=VERDICT, absent={"grid_more": "No <mixed> prompts."})
    run = results.run | {
        "prompts": {"benchmark": 30, "organic": 30},
        "tokens": {"benchmark": 1200, "organic": 900},
        "revision": "6cee5e81ee83",
        "top_k": 2,
    }
    experts = results.experts.assign(
        raw_p_max_t=0.01,
        p_max_t=0.02,
        surface_adjusted_p_max_t=0.03,
        surface_adjusted_inside_margin=True,
        smallest_effect=0.02,
        power_at_margin=0.91,
    )
    sources = results.sources.assign(reason="", pseudo_f=1.5, p_value=0.2, smallest_p=0.01)
    controls = results.probe_controls.assign(
        compression=2.0, shuffled_compression=1.0, gain_over_untrained_low=0.1
    )
    tables = {"experts": experts, "sources": sources, "probe_controls": controls, "run": run}
    return replace(results, **tables | replaced)


def study_store(path: Path) -> Store:
    """A store of the same layers and experts, five items under three conditions."""
    return write_synthetic_store(
        path, n_layers=len(LAYERS), n_experts=N_EXPERTS, top_k=2, layer_indices=LAYERS
    )


def with_hostile_texts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first tokens of every prompt become what a stranger may have written."""
    texts = store.token_texts

    def hostile(prompt: int) -> list[str]:
        return [*HOSTILE, *texts(prompt)[len(HOSTILE) :]]

    monkeypatch.setattr(store, "token_texts", hostile)


@contextmanager
def launched() -> Iterator[Any]:
    """Debian's Chromium, or the test is skipped."""
    reason = "the browser test needs playwright and Chromium; install both to run it"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(reason)
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


def opened_page(browser: Any, report: Path, *, state: str = "", **context: Any) -> Any:
    """The page once everything is drawn; `complaints` and `requested` are what went wrong."""
    page = browser.new_page(**{"viewport": {"width": 1400, "height": 900}} | context)
    page.complaints, page.requested = [], []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda asked: page.requested.append(asked.url))
    page.set_default_timeout(PATIENCE_MS)
    page.goto(report.as_uri() + state, timeout=PATIENCE_MS)
    if context.get("java_script_enabled", True):
        page.wait_for_selector("html[data-drawn]")
    return page


def wait_until(page: Any, expression: str) -> None:
    """Ask again and again: the page's policy forbids playwright's own way, which evaluates text."""
    for _ in range(PATIENCE_MS // 100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never came true: {expression}")
