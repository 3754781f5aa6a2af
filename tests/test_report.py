"""The report is whole, offline, honest about what is absent, and works in a browser."""

import base64
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from interp.cache.errors import InputError, StoreError
from interp.cache.reader import Store
from interp.report import render_report, write_report
from interp.results import TABLES, Results, read_results, write_results
from interp.token_view import shown_prompts, token_payload
from tests.synthetic_study import synthetic_results, write_synthetic_store

N_LAYERS, N_EXPERTS = 4, 32
PATIENCE_MS = 180_000
"""A busy machine may take a minute to start a browser and parse plotly."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("report") / "study.moe"
    return write_synthetic_store(path, n_layers=N_LAYERS, n_experts=N_EXPERTS)


@pytest.fixture(scope="module")
def results() -> Results:
    return synthetic_results(n_layers=N_LAYERS, n_experts=N_EXPERTS)


@pytest.fixture(scope="module")
def report(store: Store, results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(results, store, path)
    return path


def section_of(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">.*?</section>', page, re.DOTALL)
    assert found is not None
    return found.group()


def test_report_is_one_file_below_8_mb(report: Path) -> None:
    assert [path.name for path in report.parent.iterdir()] == ["report.html"]
    assert report.stat().st_size < 8e6


def test_report_says_what_was_compared_and_that_it_is_descriptive(report: Path) -> None:
    page = report.read_text(encoding="utf-8")
    assert "164 benchmark prompts (22,140 tokens) and for 158 organic prompts (13,003" in page
    assert "a difference in usage is not yet evidence of specialised circuits" in page
    assert "Generated tokens only" not in page


def test_generated_tokens_and_caveats_are_announced(store: Store, results: Results) -> None:
    run = results.run | {"generated_only": True, "caveats": ["Refusal is a <confound>."]}
    page = render_report(replace(results, run=run), store)
    assert "They come after the treatment" in page
    assert "<p>Refusal is a &lt;confound&gt;.</p>" in page


def test_a_reason_stands_in_the_place_of_the_missing_probe(store: Store, results: Results) -> None:
    reason = "The store holds no residuals, so no probe on resid_post was fitted."
    probes = results.probes.query("site != 'resid_post'")
    page = render_report(
        replace(results, probes=probes, absent={"probes_resid_post": reason}), store
    )
    assert reason in section_of(page, "probes")
    assert 'data-figure="probes-json"' in section_of(page, "probes")


def test_a_probe_missing_without_a_reason_is_said_to_be(store: Store, results: Results) -> None:
    probes = results.probes.query("site != 'resid_post'")
    page = render_report(replace(results, probes=probes), store)
    assert "no reason was recorded" in section_of(page, "probes")


def test_empty_tables_leave_a_reason_in_every_panel(store: Store, results: Results) -> None:
    absent = {name: f"No {name} here." for name in ("usage", "divergence", "probes", "other_panel")}
    empty = Results(
        usage=pd.DataFrame(),
        divergence=pd.DataFrame(),
        probes=pd.DataFrame(),
        run=results.run,
        absent=absent,
    )
    page = render_report(empty, store)
    assert "data-figure" not in page.split("<footer>")[0]
    for name in ("usage", "divergence", "probes"):
        assert f"No {name} here." in section_of(page, name)
    assert "other_panel: No other_panel here." in section_of(page, "absent")


def test_a_store_without_token_texts_says_so(
    store: Store, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(prompt: int) -> list[str]:
        raise StoreError("study.moe knows no texts of its tokens")

    monkeypatch.setattr(store, "token_texts", fail)
    assert "study.moe knows no texts of its tokens" in section_of(
        render_report(results, store), "tokens"
    )


def test_results_that_went_through_json_give_the_same_page(
    store: Store, results: Results, tmp_path: Path
) -> None:
    tables = {name: getattr(results, name).round(6) for name in TABLES}
    tables["divergence"]["share_explained_by_vocabulary"] = np.nan
    fresh = replace(results, **tables)
    write_results(fresh, tmp_path / "results.json")
    again = read_results(tmp_path / "results.json")
    same = render_report(again, store) == render_report(fresh, store)
    assert same, "a page from results.json differs from one made at once"


def own_part(page: str) -> str:
    """The page without plotly's own source, which is full of markup."""
    return page[: page.index("plotly.js v")]


def test_a_prompt_cannot_put_markup_into_the_page(report: Path) -> None:
    page = own_part(report.read_text(encoding="utf-8"))
    ours = re.sub(r'<script( type="application/json" id="[a-z-]+")?>', "", page)
    assert "<sc" not in ours
    assert "\\u003csc" in page


def test_a_name_cannot_put_markup_into_the_page(store: Store, results: Results) -> None:
    run = results.run | {"model": "<img src=x>", "settings": {"<img src=y>": "<img src=z>"}}
    page = own_part(render_report(replace(results, run=run), store))
    assert "<img" not in page
    assert "&lt;img src=x&gt;" in page
    assert "&lt;img src=z&gt;" in page


def test_the_run_table_counts_prompts_by_source(report: Path) -> None:
    table = section_of(report.read_text(encoding="utf-8"), "run")
    assert "<tr><td>matched</td>" + '<td class="number">5</td>' * 3 in table
    assert "6cee5e81ee83" in table


def test_a_missing_folder_is_refused_and_nothing_is_written(
    store: Store, results: Results, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="give a file name in a folder that exists"):
        write_report(results, store, tmp_path / "nowhere" / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_the_token_view_carries_the_routing_of_the_store(store: Store) -> None:
    payload = token_payload(store)
    row = shown_prompts(store.prompts)[1]
    tokens = np.flatnonzero(store.prompt_index == row)
    shape = (N_LAYERS, len(tokens), store.layout.top_k)
    raw = base64.b64decode(payload["prompts"][1]["experts"])
    experts = np.frombuffer(raw, dtype=np.uint8).reshape(shape)
    weights = np.frombuffer(
        base64.b64decode(payload["prompts"][1]["weights"]), dtype="<u2"
    ).reshape(shape)
    routing = store.router()
    for layer in range(N_LAYERS):
        np.testing.assert_array_equal(experts[layer], routing.expert_indices[tokens, layer])
        np.testing.assert_allclose(
            weights[layer] / 1000, routing.expert_weights[tokens, layer], atol=6e-4
        )
    assert "".join(payload["prompts"][1]["texts"]) == store.text(row)


def test_the_same_items_are_shown_under_every_condition(store: Store) -> None:
    shown = store.prompts.iloc[shown_prompts(store.prompts)]
    items = shown.groupby("condition")["item_id"].agg(list).to_dict()
    first = ["item-00", "item-01", "item-02"]
    assert items == {"benchmark": first, "organic": first, "mixed": first}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    reason = "the browser test needs playwright and Chromium; install both to run it"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(reason)
    flags = ["--no-sandbox", "--disable-quic", "--disable-background-networking"]
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module", params=[1400, 420])
def page(browser: Any, report: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": request.param, "height": 900})
    opened.complaints, opened.requested = [], []
    opened.on("console", lambda message: opened.complaints.append(message.text))
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.on("request", lambda asked: opened.requested.append(asked.url))
    opened.set_default_timeout(PATIENCE_MS)
    opened.goto(report.as_uri(), timeout=PATIENCE_MS)
    opened.wait_for_selector("html[data-drawn]")
    yield opened
    opened.close()


def test_browser_draws_all_figures_without_complaint(page: Any) -> None:
    assert page.locator(".plot").count() == 3
    for plot in page.locator(".plot").all():
        assert plot.locator(".main-svg").count() > 0
    assert page.locator("#divergence .scatterlayer .trace").count() == 5
    assert page.locator("#usage .heatmaplayer image").count() == 1
    assert page.complaints == []


def test_browser_asks_for_nothing_but_the_file(page: Any, report: Path) -> None:
    assert [url for url in page.requested if not url.startswith(("data:", "blob:"))] == [
        report.as_uri()
    ]


def test_page_is_no_wider_than_the_window(page: Any) -> None:
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= page.viewport_size["width"]


def test_choosing_a_layer_recolours_tokens_by_their_first_expert(page: Any, store: Store) -> None:
    first_experts = "[...document.querySelectorAll('.token')].map((t) => Number(t.dataset.expert))"
    row = shown_prompts(store.prompts)[4]
    tokens = store.prompt_index == row
    colors = []
    page.select_option("select[name=prompt]", "4")
    for layer in (0, 3):
        page.select_option("select[name=layer]", str(layer))
        chosen = store.router([layer]).expert_indices[tokens, 0, 0]
        assert page.evaluate(first_experts) == chosen.tolist()
        colors.append(page.locator(".token").nth(5).evaluate("(t) => t.style.backgroundColor"))
    assert colors[0] != colors[1]


def test_markup_in_a_prompt_is_shown_as_text(page: Any) -> None:
    page.select_option("select[name=prompt]", "3")
    shown = page.locator(".tokens").inner_text().replace("·", " ").replace("\n", "")
    assert "<script>document.title='x'</script>" in shown
    assert page.title() == "gpt-oss-20b: benchmark and organic prompts"


def test_clicking_a_token_shows_its_experts_and_lights_those_alike(page: Any) -> None:
    page.keyboard.press("Escape")
    token = page.locator(".token").nth(8)
    token.click()
    expert = token.get_attribute("data-expert")
    assert f"expert {expert}" in page.locator("#token-tip li").first.inner_text()
    lit = page.locator(".token.chosen")
    assert {each.get_attribute("data-expert") for each in lit.all()} == {expert}
    token.click()
    assert lit.count() == 0


def test_buttons_of_the_heatmap_change_the_view(page: Any) -> None:
    assert "Benchmark \u2212 organic" in page.locator("#usage .infolayer").inner_html()
    page.locator("#usage .updatemenu-button").nth(1).click()
    page.wait_for_function(
        "document.querySelector('#usage .infolayer').innerHTML.includes('Share of routed slots')"
    )
