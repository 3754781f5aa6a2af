"""The report is one file, says no other number than the results, and is honest about the rest."""

import base64
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from interp.cache.errors import InputError, StoreError
from interp.cache.reader import Store
from interp.calibrated import CALIBRATED, RUNGS
from interp.figure_style import lay_out
from interp.figures import FIGURES
from interp.figures_calibration import calibration
from interp.report import draw_report, with_numbers, write_report
from interp.report_bundle import plotly_licences, plotly_script
from interp.report_html import figure_block, static_table, told, unpacked_bytes
from interp.results import TABLES, Results, read_results, write_results
from interp.token_view import MAX_TOKENS, WEIGHT_STEPS, shown_prompts, token_strips
from tests.figure_samples import LAYERS
from tests.report_samples import (
    HOSTILE,
    VERDICT,
    study_results,
    study_store,
    with_hostile_texts,
)
from tests.synthetic_study import synthetic_results, write_synthetic_store

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return study_store(tmp_path_factory.mktemp("report") / "study.moe")


@pytest.fixture(scope="module")
def results() -> Results:
    return study_results()


@pytest.fixture(scope="module")
def page(store: Store, results: Results) -> str:
    return draw_report(results, store).page


def section_of(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">.*?</section>', page, re.DOTALL)
    assert found is not None
    return found.group()


def own_part(page: str) -> str:
    """The page without plotly's source and licences, which are full of markup."""
    return page.replace(plotly_script(), "").replace(told(plotly_licences()), "")


def test_a_report_of_the_shape_of_gpt_oss_20b_with_2000_tokens_is_below_3_mb(
    tmp_path: Path,
) -> None:
    long = write_synthetic_store(tmp_path / "long.moe", n_items=1, repeats=150)
    assert long.prompts["n_tokens"].max() > MAX_TOKENS
    write_report(synthetic_results(), long, tmp_path / "report.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.moe", "report.html"]
    assert (tmp_path / "report.html").stat().st_size < 3e6


def test_the_first_screen_has_the_verdict_with_its_numbers_and_the_run(page: str) -> None:
    first = page[page.index("<header>") : page.index("</header>")]
    assert "Verdict: <strong>no difference</strong>" in first
    assert "No expert is used differently by more than &lt;0.02&gt;." in first
    for step in VERDICT["steps"]:
        assert f"<td>{step['asks']}</td><td>{step['found']}</td>" in first
    assert "30 benchmark prompts (1,200 tokens)" in first
    assert "6cee5e81ee83" in first
    assert "<tr><td>matched</td>" + '<td class="number">5</td>' * 3 in first
    assert "<b>grid_more</b>: No &lt;mixed&gt; prompts." in first


def test_without_a_verdict_the_report_says_that_it_is_descriptive(
    store: Store, results: Results
) -> None:
    said = draw_report(replace(results, verdict={}), store).page
    assert "a difference in usage is not yet evidence of specialised circuits" in said


def test_generated_tokens_and_caveats_are_announced(store: Store, results: Results) -> None:
    run = results.run | {"generated_only": True, "caveats": ["Refusal is a <confound>."]}
    said = draw_report(replace(results, run=run), store).page
    assert "They come after the treatment" in said
    assert "<p>Refusal is a &lt;confound&gt;.</p>" in said


def test_every_figure_is_in_the_page_with_its_caution_and_a_sentence(
    page: str, results: Results
) -> None:
    for name, draw in FIGURES.items():
        figure, panel = draw(with_numbers(results)), section_of(page, name)
        drawn = json.loads(unpacked_bytes(page, f"figure-{name}"))
        assert drawn == json.loads(figure.to_json())
        assert told(figure.layout.meta["caution"]) in panel
        assert told(figure.layout.meta["summary"]) in panel.replace("&nbsp;", " ")
        assert told(figure.layout.meta["summary"]) in section_of(page, "summary")


def test_the_figures_of_a_report_are_those_of_the_panels(store: Store, results: Results) -> None:
    figures = draw_report(results, store).figures
    assert set(figures) == {*FIGURES, "calibration"}
    assert figures["usage"].to_json() == FIGURES["usage"](results).to_json()


@pytest.mark.slow
def test_a_figure_of_a_report_is_written_as_a_picture(
    store: Store, results: Results, tmp_path: Path
) -> None:
    reason = "a picture needs kaleido and Chromium; install both to write one"
    pytest.importorskip("kaleido", reason=reason)
    if shutil.which("chromium") is None:
        pytest.skip(reason)
    report = write_report(results, store, tmp_path / "report.html")
    report.figures["usage"].write_image(tmp_path / "usage.svg")
    assert "tiny-moe" in (tmp_path / "usage.svg").read_text(encoding="utf-8")


def test_the_tables_of_the_page_are_those_of_the_results(
    page: str, results: Results, tmp_path: Path
) -> None:
    write_results(results, tmp_path / "results.json")
    document = json.loads((tmp_path / "results.json").read_text())
    tables = json.loads(unpacked_bytes(page, "tables-json"))
    assert set(tables) == {name for name in TABLES if document[name]}
    for name, columns in tables.items():
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        assert rows == document[name]


def test_results_that_went_through_json_give_the_same_page(
    store: Store, results: Results, tmp_path: Path, page: str
) -> None:
    write_results(results, tmp_path / "results.json")
    same = draw_report(read_results(tmp_path / "results.json"), store).page == page
    assert same, "a page from results.json differs from one made at once"


def test_empty_tables_leave_a_reason_in_every_panel(store: Store, results: Results) -> None:
    names = ("usage", "divergence", "probes", "other")
    empty = Results(
        usage=pd.DataFrame(),
        divergence=pd.DataFrame(),
        probes=pd.DataFrame(),
        run=results.run,
        absent={name: f"No {name} here." for name in names},
    )
    said = draw_report(empty, store).page
    assert re.findall('data-figure="([a-z_]+)"', said) == ["calibration"]
    for name in ("usage", "divergence", "probes"):
        assert f"No {name} here." in section_of(said, name)
    assert "compute it with: interp analyze" in section_of(said, "volcano")
    assert "<b>other</b>: No other here." in section_of(said, "left-out")
    assert '<section id="interventions">' not in said


def test_a_store_without_token_texts_says_so(
    store: Store, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(prompt: int) -> list[str]:
        raise StoreError("study.moe knows no texts of its tokens")

    monkeypatch.setattr(store, "token_texts", fail)
    said = draw_report(results, store).page
    assert "study.moe knows no texts of its tokens" in section_of(said, "tokens")


def test_no_text_of_a_stranger_becomes_markup(
    store: Store, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_hostile_texts(store, monkeypatch)
    settings = {f"<img src={n}>": text for n, text in enumerate(HOSTILE[:-1])}
    run = results.run | {"model": HOSTILE[0], "settings": settings}
    verdict = VERDICT | {"sentence": HOSTILE[1]}
    said = own_part(draw_report(replace(results, run=run, verdict=verdict), store).page)
    said.encode()
    assert "<img" not in said
    assert said.count("<script") == said.count("</script>")
    assert set(re.findall("<script([^>]*?)(?: id=.*?)?>", said)) == {
        "",
        ' type="application/x-deflate"',
    }
    assert "⟨U+202E⟩olleh⟨U+202C⟩" in said
    assert "\u202e" not in said


def test_the_policy_lets_only_the_two_scripts_of_the_page_run(page: str) -> None:
    policy = re.search('http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    scripts = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    assert policy[1].startswith("default-src 'none'; script-src ")
    assert re.findall("'sha256-([^']+)'", policy[1]) == digests
    assert "connect-src" not in policy[1]
    assert "unsafe-inline" not in policy[1].split("style-src")[0]


def test_the_static_rows_are_those_of_the_largest_effects(page: str, results: Results) -> None:
    """Readers without JavaScript see 12 rows; the first 12 of layer 0 say nothing."""
    table = pd.DataFrame({"expert": range(20), "effect": [*np.linspace(0, 0.1, 18), np.nan, -0.5]})
    told_there = re.findall("<tr><td[^>]*>(\\d+)</td>", static_table("experts", table))
    assert told_there == ["19", *map(str, range(17, 6, -1))]
    assert "12 of 20 rows, largest effect first" in static_table("experts", table)
    few = static_table("experts", table[:5])
    assert re.findall("<tr><td[^>]*>(\\d+)</td>", few) == ["0", "1", "2", "3", "4"]
    most = results.usage["usage_prompt_mean"].abs().max()
    assert f"{most:.4g}" in section_of(page, "usage").partition("<tbody>")[2].partition("</tr>")[0]


def test_without_javascript_no_figure_leaves_a_hole_without_a_word(page: str) -> None:
    head = page.partition("</head>")[0]
    assert "<noscript><style>.plot, .views, .saves { display: none }</style></noscript>" in head
    assert own_part(page).count("This figure needs JavaScript.") == page.count('class="plot"')


def test_a_title_that_asks_has_no_full_stop_behind_it() -> None:
    for title, shown in [("Wording or wrapper?", "Wording or wrapper?"), ("Usage", "Usage.")]:
        figure = go.Figure()
        lay_out(figure, title=title, subtitle="", summary="Nothing.", caution="")
        assert f"<strong>{shown}</strong>" in figure_block("grid", figure)
        assert f'aria-label="{shown} Nothing."' in figure_block("grid", figure)


def test_a_missing_folder_is_refused_and_nothing_is_written(
    store: Store, results: Results, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="give a file name in a folder that exists"):
        write_report(results, store, tmp_path / "nowhere" / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_two_studies_stand_side_by_side(store: Store, results: Results) -> None:
    other = replace(
        results,
        run=results.run | {"model": "other-moe"},
        experiments=pd.DataFrame(),
        experiment_matched=pd.DataFrame(),
        experiment_dose=pd.DataFrame(),
        load=results.load.assign(entropy_bits=1.25),
    )
    report = draw_report(results, store, beside=(other, store))
    assert report.figures["load-2"].data[1].y[0] == 1.25
    assert report.figures["load"].data[1].y[0] != 1.25
    panel = section_of(report.page, "load")
    assert panel.index("Study 1: tiny-moe") < panel.index("Study 2: other-moe")
    head = "<thead><tr><th>Question</th><th>Study 1: tiny-moe</th><th>Study 2: other-moe</th>"
    assert head in section_of(report.page, "summary")
    assert "Not in this study." in section_of(report.page, "interventions")
    ids = re.findall(' id="([^"]+)"', own_part(report.page))
    assert len(ids) == len(set(ids))


def strips_of(store: Store) -> tuple[list[np.ndarray[Any, Any]], list[np.ndarray[Any, Any]]]:
    """Experts and weights of each prompt of the view, unpacked by a plain loop."""
    strips = token_strips(store)
    shapes = [
        (len(strips.facts["layers"]), len(prompt["texts"]), strips.facts["topK"])
        for prompt in strips.facts["prompts"]
    ]
    n = sum(int(np.prod(shape)) for shape in shapes)
    raw = strips.routing
    assert len(raw) == 3 * n
    experts, weights, start = [], [], 0
    for shape in shapes:
        values = range(start, start + int(np.prod(shape)))
        experts.append(np.array([raw[i] for i in values]).reshape(shape))
        both = [raw[n + i] + 256 * raw[2 * n + i] for i in values]
        weights.append(np.array(both).reshape(shape) / WEIGHT_STEPS)
        start += int(np.prod(shape))
    return experts, weights


def test_the_token_view_carries_the_routing_of_the_store(store: Store) -> None:
    routing = store.router()
    experts, weights = strips_of(store)
    for place, row in enumerate(shown_prompts(store.prompts)):
        tokens = np.flatnonzero(store.prompt_index == row)
        for layer in range(len(LAYERS)):
            chosen = routing.expert_indices[tokens, layer]
            np.testing.assert_array_equal(experts[place][layer], chosen)
            stored = routing.expert_weights[tokens, layer]
            np.testing.assert_allclose(weights[place][layer], stored, atol=6e-4)
        texts = token_strips(store).facts["prompts"][place]["texts"]
        assert "".join(texts) == store.text(row)


def test_the_same_items_are_shown_under_every_condition(store: Store) -> None:
    shown = store.prompts.iloc[shown_prompts(store.prompts)]
    items = shown.groupby("condition")["item_id"].agg(list).to_dict()
    first = ["item-00", "item-01", "item-02"]
    assert items == {"benchmark": first, "organic": first, "mixed": first}


def test_the_calibration_is_that_of_its_page() -> None:
    page = (ROOT / "docs/calibration.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (.+) \| \d+ \| (\w+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", page, re.M
    )
    told_there = {name: (known, tuple(map(int, counts))) for name, known, *counts in rows}
    assert told_there == {cell.simulated: (cell.known, cell.verdicts) for cell in CALIBRATED}
    equal = sum(counts[1] for known, counts in told_there.values() if known not in RUNGS[:2])
    assert f"{equal} of 600 such studies said it" in page
    summary = calibration().layout.meta["summary"]
    assert f"Of these {equal} say no difference where vocabulary or position makes one" in summary
    drawn = {trace.name: list(trace.x) for trace in calibration().data}
    for place, rung in enumerate(RUNGS):
        shares = [cell.verdicts[place] / 2 for cell in CALIBRATED]
        assert drawn[rung.replace("_", " ")] == shares
