"""The report in a browser: nothing is asked for, one choice is marked everywhere, links restore."""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.cache.reader import Store
from interp.report import write_report
from interp.results import Results, write_results
from interp.token_view import shown_prompts
from tests.figure_samples import LAYERS
from tests.report_samples import (
    launched,
    opened_page,
    study_results,
    study_store,
    wait_until,
    with_hostile_texts,
)

DARK_PAPER = "rgb(15, 20, 27)"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return study_store(tmp_path_factory.mktemp("report") / "study.moe")


@pytest.fixture(scope="module")
def results() -> Results:
    return study_results()


@pytest.fixture(scope="module")
def report(store: Store, results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(results, store, path)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def page(browser: Any, report: Path) -> Iterator[Any]:
    opened = opened_page(browser, report)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _nothing_chosen(request: pytest.FixtureRequest) -> None:
    if "page" in request.fixturenames:
        request.getfixturevalue("page").locator("button[name=clear]").click()


def marked(page: Any) -> dict[str, int]:
    """How much is marked in each figure, once it is."""
    page.wait_for_timeout(200)
    return {
        plot.get_attribute("data-figure"): int(plot.get_attribute("data-marked"))
        for plot in page.locator(".plot").all()
    }


@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_drawn_without_complaint_request_or_sideways_scroll(
    browser: Any, report: Path, width: int, scheme: str
) -> None:
    page = opened_page(
        browser, report, viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    assert page.complaints == []
    asked = [url for url in page.requested if not url.startswith(("data:", "blob:"))]
    assert asked == [report.as_uri()]
    assert page.locator(".plot").count() == 13
    for plot in page.locator(".plot").all():
        assert plot.locator(".main-svg").count() > 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == DARK_PAPER
    assert dark == (scheme == "dark")
    page.close()


def test_an_expert_chosen_in_a_figure_is_chosen_everywhere(page: Any) -> None:
    plot = page.locator('.plot[data-figure="usage"]')
    plot.scroll_into_view_if_needed()
    cell = plot.evaluate(
        """(plot) => {
          const { xaxis, yaxis } = plot._fullLayout;
          const box = plot.getBoundingClientRect();
          return [box.left + xaxis._offset + xaxis.d2p(4), box.top + yaxis._offset + yaxis.d2p(1)];
        }"""
    )
    page.mouse.click(*cell)
    wait_until(page, "location.hash.includes('expert=4')")
    assert "layer=3" in page.evaluate("location.hash")
    found = marked(page)
    assert {name for name, count in found.items() if count == 0} == {
        "calibration",
        "coactivation",
        "dose_response",
        "interventions",
    }
    assert found["two_by_two"] == 1  # the row of the layer, where no tile is of one expert
    assert page.locator("select[name=chosen-layer]").input_value() == "3"
    assert page.locator(".token-view select[name=layer]").input_value() == "3"
    assert "Layer 3, expert 4." in page.locator("#chosen-facts").inner_text()


def test_the_facts_of_an_expert_are_those_of_the_tables(page: Any, results: Results) -> None:
    page.select_option("select[name=chosen-layer]", "5")
    page.select_option("select[name=chosen-expert]", "2")
    wait_until(page, "document.getElementById('chosen-facts').textContent.includes('expert 2')")
    said = page.locator("#chosen-facts").inner_text()
    rows = results.usage.query("layer == 5 and expert == 2").set_index("condition")["usage"]
    assert f"{100 * rows['benchmark']:.2f} % of benchmark slots" in said
    assert f"{100 * rows['organic']:.2f} % of organic slots" in said
    (row,) = results.experts.query("layer == 5 and expert == 2").to_dict("records")
    assert f"{100 * row['surface_adjusted_effect']:+.2f} points" in said


def test_a_chosen_expert_is_lit_in_the_tokens_that_it_serves(page: Any, store: Store) -> None:
    page.select_option("select[name=chosen-layer]", str(LAYERS[1]))
    page.select_option("select[name=chosen-expert]", "1")
    page.select_option("select[name=prompt]", "0")
    lit = (
        "[...document.querySelectorAll('.strip:nth-child(%d) .token')]"
        ".map((token) => token.classList.contains('chosen'))"
    )
    shown = shown_prompts(store.prompts)
    for strip, row in ((1, shown[0]), (2, shown[3])):  # the same item under the other condition
        tokens = store.prompt_index == row
        serves = (store.router().expert_indices[tokens, 1] == 1).any(axis=1)
        assert page.evaluate(lit % strip) == serves.tolist()


def test_hovering_and_stepping_tell_the_experts_of_a_token(page: Any, store: Store) -> None:
    page.select_option(".token-view select[name=layer]", str(LAYERS[2]))
    page.select_option("select[name=prompt]", "1")
    row = shown_prompts(store.prompts)[1]
    tokens = store.prompt_index == row
    experts = store.router().expert_indices[tokens, 2]
    box = page.locator(".tokens").first
    box.locator(".token").nth(6).hover()
    told = page.locator("#token-tip li span:first-child").all_inner_texts()
    assert told == [f"expert {expert}" for expert in experts[6]]
    box.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    told = page.locator("#token-tip li span:first-child").all_inner_texts()
    assert told == [f"expert {expert}" for expert in experts[1]]
    page.keyboard.press("Enter")
    assert f"expert={experts[1][0]}" in page.evaluate("location.hash")


def test_the_keyboard_chooses_in_a_figure(page: Any) -> None:
    page.locator('.plot[data-figure="volcano"]').focus()
    for key in ("ArrowUp", "ArrowUp", "ArrowRight"):
        page.keyboard.press(key)
    selects = page.locator("select[name^=chosen]").all()
    assert [select.input_value() for select in selects] == ["3", "1"]
    page.keyboard.press("Escape")
    assert page.locator("select[name=chosen-layer]").input_value() == ""


@pytest.mark.slow
def test_a_link_opens_the_same_view(browser: Any, report: Path) -> None:
    first = opened_page(browser, report)
    first.select_option("select[name=chosen-layer]", "3")
    first.select_option("select[name=chosen-expert]", "1")
    first.select_option("select[name=prompt]", "4")
    first.select_option("select[name=theme]", "dark")
    first.locator("#usage .views button", has_text="Organic").click()
    first.locator('#experts a[href="#table-experts"], #volcano a[href="#table-experts"]').click()
    first.locator("#table-experts th button", has_text=re.compile("^effect$")).click()
    state = first.evaluate("location.hash")
    seen = look(first)
    first.close()
    second = opened_page(browser, report, state=state)
    second.wait_for_selector("#table-experts tbody tr")
    assert look(second) == seen
    assert second.evaluate("scrollY") > 1000
    assert second.complaints == []
    second.close()


def look(page: Any) -> dict[str, Any]:
    """What a reader sees of the state."""
    page.wait_for_timeout(300)
    rows = page.locator("#table-experts tbody tr td:nth-child(4)").all_inner_texts()
    assert rows == sorted(rows, key=float)
    return {
        "marked": marked(page),
        "rows": rows,
        "chosen": page.locator("#table-experts tr.chosen").inner_text(),
        "prompt": page.locator("select[name=prompt]").input_value(),
        "beside": page.locator("select[name=beside]").input_value(),
        "view": page.locator('#usage .views [aria-pressed="true"]').inner_text(),
        "paper": page.evaluate("getComputedStyle(document.body).backgroundColor"),
    }


def test_a_table_is_saved_as_csv_with_every_digit(
    page: Any, results: Results, tmp_path: Path
) -> None:
    write_results(results, tmp_path / "results.json")
    rows = json.loads((tmp_path / "results.json").read_text())["experts"]
    page.locator("#table-experts summary").click()
    with page.expect_download() as download:
        page.locator("#table-experts button", has_text="Save as CSV").click()
    assert download.value.suggested_filename == "experts.csv"
    saved = list(csv.DictReader(io.StringIO(download.value.path().read_text(), newline="")))
    assert [list(row) for row in saved] == [list(row) for row in rows]
    for row, line in zip(rows, saved, strict=True):
        for name, value in row.items():
            said = {True: "true", False: "false"}[value] if isinstance(value, bool) else None
            assert line[name] == said if said else float(line[name]) == value


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_figure_is_saved_as_a_picture(page: Any, ending: str) -> None:
    with page.expect_download() as download:
        page.locator("#load .saves button", has_text=ending.upper()).click()
    assert download.value.suggested_filename == f"load.{ending}"
    content = download.value.path().read_bytes()
    if ending == "png":
        assert content.startswith(b"\x89PNG")
    else:
        assert b"tiny-moe" in content
    assert len(content) > 5000


def test_the_view_of_a_figure_changes_with_its_button(page: Any) -> None:
    page.locator("#usage .views button", has_text="Benchmark").click()
    wait_until(
        page,
        "document.querySelector('#usage .infolayer').innerHTML.includes('Share of routed slots')",
    )
    assert "view.usage=" in page.evaluate("location.hash")


def test_hostile_prompts_are_text_and_nothing_else(
    browser: Any, store: Store, results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        with_hostile_texts(store, patched)
        write_report(results, store, tmp_path / "hostile.html")
    page = opened_page(browser, tmp_path / "hostile.html", viewport={"width": 420, "height": 900})
    title = "tiny-moe: benchmark and organic prompts"
    tokens = page.locator(".strip").first.locator(".token")
    assert tokens.nth(0).inner_text() == "</script><script>document.title='ran'</script>"
    assert tokens.nth(2).inner_text() == "⟨U+202E⟩olleh⟨U+202C⟩"
    assert tokens.nth(3).inner_text() == "⟨U+D800⟩"
    assert len(tokens.nth(6).inner_text()) == 100_000
    tokens.nth(1).hover()
    tokens.nth(6).scroll_into_view_if_needed()
    assert page.locator("#token-tip .piece img").count() == 0
    assert page.title() == title
    assert page.complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    page.close()


def test_without_javascript_sentences_and_first_rows_are_there(
    browser: Any, report: Path, results: Results
) -> None:
    page = opened_page(browser, report, java_script_enabled=False)
    assert "Verdict: no difference" in page.locator("#rung").inner_text()
    assert "Usage differs most for expert" in page.locator("#summary").inner_text()
    most = results.usage["usage_prompt_mean"].max()
    assert f"{most:.4g}" in page.locator("#usage table").first.inner_text()
    instead = page.locator("#usage figure noscript p")
    assert instead.is_visible()
    assert instead.inner_text().startswith("This figure needs JavaScript.")
    assert not any(plot.is_visible() for plot in page.locator(".plot").all())
    assert not page.locator("#chosen").is_visible()
    page.close()


@pytest.mark.slow
def test_two_studies_are_chosen_in_together(
    browser: Any, store: Store, results: Results, tmp_path: Path
) -> None:
    write_report(results, store, tmp_path / "two.html", beside=(results, store))
    page = opened_page(browser, tmp_path / "two.html", state="#layer=3&expert=4")
    found = marked(page)
    assert found["usage"] == found["usage-2"] == 1
    page.locator("#usage .views").nth(1).locator("button", has_text="Organic").click()
    pressed = page.locator('#usage .views [aria-pressed="true"]').all_inner_texts()
    assert pressed == ["Raw", "Organic"]
    page.select_option(".token-view[data-suffix='-2'] select[name=prompt]", "2")
    prompts = [each.input_value() for each in page.locator("select[name=prompt]").all()]
    assert prompts == ["0", "2"]
    assert page.complaints == []
    page.close()


def test_marks_lie_on_the_points_of_the_expert(page: Any, results: Results) -> None:
    page.select_option("select[name=chosen-layer]", "2")
    page.select_option("select[name=chosen-expert]", "3")
    marked(page)
    ring = page.locator(".plot[data-figure=volcano]").evaluate(
        "(plot) => plot.layout.shapes.filter((shape) => shape.type === 'circle')"
    )
    (row,) = results.experts.query("layer == 2 and expert == 3").to_dict("records")
    (shape,) = ring
    np.testing.assert_allclose(shape["xanchor"], 100 * row["surface_adjusted_effect"], rtol=1e-6)


def test_every_expert_of_the_paths_is_drawn_in_the_column_of_its_layer(page: Any) -> None:
    drawn = page.locator(".plot[data-figure=paths]").evaluate(
        """(plot) => [...plot.querySelectorAll(".sankey-node")].map((each) => [
          each.__data__.node.customdata[0],
          Math.round(each.querySelector(".node-rect").getBoundingClientRect().x)])"""
    )
    columns = {(layer, x) for layer, x in drawn}
    assert len(columns) == len(LAYERS)
    assert [layer for layer, _ in sorted(columns, key=lambda each: each[1])] == list(LAYERS)


def test_back_after_a_link_within_the_page_stays_in_the_report(browser: Any, report: Path) -> None:
    page = opened_page(browser, report)
    page.locator('#summary a[href="#usage"]').click()
    page.locator('#summary a[href="#volcano"]').click()
    assert "at=volcano" in page.evaluate("location.hash")
    page.evaluate("history.back()")
    wait_until(page, "location.hash.includes('at=usage')")
    page.evaluate("history.back()")
    wait_until(page, "!location.hash.includes('at=')")
    assert page.url.split("#")[0] == report.as_uri()
    page.close()


def test_a_link_that_means_nothing_chooses_nothing(browser: Any, report: Path) -> None:
    state = "#layer=%3Cimg%3E&expert=999&view.usage=77&prompt=9999&table=nope&at=%22%3E&x=1"
    page = opened_page(browser, report, state=state)
    assert page.locator("select[name^=chosen]").first.input_value() == ""
    assert page.locator("select[name=prompt]").input_value() == "0"
    assert set(marked(page).values()) == {0}
    assert page.complaints == []
    page.close()
