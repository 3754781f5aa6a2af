"""What holds for every figure: titles, n, summary, caution, and a sentence where it is absent."""

import contextlib
import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import interp
from interp.cache.errors import InputError
from interp.figure_style import CATEGORIES, DIVERGING, SEQUENTIAL
from interp.figures import FIGURES
from interp.results import Results, read_results, write_results
from tests.figure_samples import LAYERS, N_EXPERTS, sample_results

Draw = Callable[[Results], go.Figure]
RESULTS = sample_results()
TABLES = {
    "usage": "usage",
    "volcano": "experts",
    "divergence": "divergence",
    "vocabulary_share": "divergence",
    "probes": "probes",
    "two_by_two": "grid",
    "coactivation": "coactivation",
    "paths": "paths",
    "interventions": "experiments",
    "dose_response": "experiment_dose",
    "load": "load",
    "vocabulary": "vocabulary",
}
"""The table without which a figure cannot be."""
every_figure = pytest.mark.parametrize("name", FIGURES)


def test_the_figures_stand_in_the_order_of_the_page() -> None:
    assert list(FIGURES) == list(TABLES)


@every_figure
def test_every_figure_has_a_title_model_n_and_axis_titles(name: str) -> None:
    layout = FIGURES[name](RESULTS).layout
    assert layout.title.text
    assert layout.title.subtitle.text.startswith("tiny-moe · n = ")
    if name == "paths":  # no axes: the layers are named below, the width in the subtitle
        notes = [each.text for each in layout.annotations]
        assert "Layer (number in the model)" in notes
        assert "width: share of paths (%)" in layout.title.subtitle.text
        return
    titles = [layout[axis].title.text for axis in layout if axis.startswith("yaxis")]
    bottom = [layout[axis].title.text for axis in layout if axis.startswith("xaxis")]
    assert all(titles)
    assert any(bottom)


@every_figure
def test_a_subtitle_fits_on_one_line_of_700_pixels(name: str) -> None:
    assert len(FIGURES[name](RESULTS).layout.title.subtitle.text) <= 100


@every_figure
def test_every_figure_says_what_it_shows_and_in_one_sentence_how_it_fools(name: str) -> None:
    said = FIGURES[name](RESULTS).layout.meta
    assert said["summary"].endswith(".")
    assert said["caution"].endswith(".")
    assert ". " not in said["caution"]


@every_figure
def test_a_figure_without_its_table_is_refused_with_a_sentence(name: str) -> None:
    table = TABLES[name]
    command = "experiment" if table.startswith("experiment") else "analyze"
    without = dataclasses.replace(RESULTS, **{table: pd.DataFrame()})
    with pytest.raises(InputError, match=f"table {table} has no row to draw.*interp {command}"):
        FIGURES[name](without)


@every_figure
@pytest.mark.parametrize("kind", ["no number", "no text", "one row"])
def test_an_odd_table_is_drawn_or_refused_with_a_sentence(name: str, kind: str) -> None:
    """It costs its own panel at most, never the report."""
    table = getattr(RESULTS, TABLES[name])
    keys = ("layer", "expert", "other_expert", "condition", "cell", "path", "ranked_by", "size")
    values = {"no number": np.nan, "no text": None}
    chosen = {
        column: values[kind]
        for column in table
        if kind in values and column not in keys
        if (kind == "no number") == pd.api.types.is_numeric_dtype(table[column])
    }
    odd = table[:1] if kind == "one row" else table.assign(**chosen)
    said = "One sentence."
    with contextlib.suppress(InputError):
        figure = FIGURES[name](dataclasses.replace(RESULTS, **{TABLES[name]: odd}))
        said = figure.layout.meta["summary"]
    assert said.endswith(".")


@every_figure
def test_the_sentence_of_an_absent_figure_is_the_reason_that_was_recorded(name: str) -> None:
    table = TABLES[name]
    absent = {table: "Nobody asked for it.", f"{table}_part": "Another part."}
    without = dataclasses.replace(RESULTS, **{table: pd.DataFrame()}, absent=absent)
    with pytest.raises(InputError, match=r"no row to draw: Nobody asked for it\.$"):
        FIGURES[name](without)


@every_figure
def test_results_that_were_written_and_read_give_the_same_figure(name: str, tmp_path: Path) -> None:
    write_results(RESULTS, tmp_path / "results.json")
    again = FIGURES[name](read_results(tmp_path / "results.json"))
    assert again.to_json() == FIGURES[name](RESULTS).to_json()


@pytest.mark.parametrize("name", sorted({*FIGURES} - {"interventions", "probes", "two_by_two"}))
def test_the_order_of_rows_changes_no_text(name: str) -> None:
    """But for contrasts and probes, which are drawn in the order of their table."""
    shuffled = getattr(RESULTS, TABLES[name]).sample(frac=1, random_state=5)
    again = FIGURES[name](dataclasses.replace(RESULTS, **{TABLES[name]: shuffled}))
    assert again.layout.meta == FIGURES[name](RESULTS).layout.meta


@every_figure
def test_names_from_a_study_are_never_markup(name: str) -> None:
    hostile = RESULTS.run | {"model": "<b>%{x}</b>"}
    contrasts = RESULTS.experiments.assign(contrast="<a href='x'>a</a> - <i>b</i>")
    results = dataclasses.replace(RESULTS, run=hostile, experiments=contrasts)
    drawn = FIGURES[name](results).to_json()
    assert "\\u003ca" not in drawn
    assert "<a" not in drawn
    assert "%{x}\\u003c" not in drawn


@every_figure
def test_only_trace_types_of_the_bundle_are_used(name: str) -> None:
    kinds = {trace.type for trace in FIGURES[name](RESULTS).data}
    assert kinds <= {"scatter", "bar", "heatmap", "sankey", "box"}


@every_figure
def test_customdata_begins_with_a_layer_and_an_expert_that_are_there(name: str) -> None:
    for trace in FIGURES[name](RESULTS).data:
        given = trace.node.customdata if trace.type == "sankey" else trace.customdata
        rows = [] if given is None else np.asarray(given, dtype=object).reshape(-1, len(given[0]))
        if trace.type == "heatmap":
            rows = [cell for line in given for cell in line]
        for layer, expert, *_ in rows:
            assert layer in (*LAYERS, None)
            assert expert in (*range(N_EXPERTS), None)


def test_a_long_name_of_a_model_loses_its_middle() -> None:
    run = RESULTS.run | {"model": "/somewhere/deep/down/" + "x" * 80 + "/checkpoint-900"}
    subtitle = FIGURES["load"](dataclasses.replace(RESULTS, run=run)).layout.title.subtitle.text
    assert "…" in subtitle
    assert subtitle.index(" · ") <= 35


def lightness(color: str) -> float:
    """CIE lightness, 0 to 100, of a colour of sRGB (IEC 61966-2-1)."""
    return float(116 * np.cbrt(linear(color) @ [0.2126, 0.7152, 0.0722]) - 16)


def linear(color: str) -> np.ndarray:
    parts = np.array([int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def test_sequential_colours_darken_evenly() -> None:
    steps = np.diff([lightness(color) for color in SEQUENTIAL])
    assert (steps < 0).all()
    np.testing.assert_allclose(steps, steps.mean(), atol=1.0)


def test_diverging_colours_darken_alike_on_both_sides_of_a_light_middle() -> None:
    levels = np.array([lightness(color) for color in DIVERGING])
    np.testing.assert_allclose(levels, levels[::-1], atol=3.0)
    assert levels.argmax() == len(DIVERGING) // 2
    assert levels.max() > 95


PROTAN = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
DEUTAN = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]
"""Of Machado, Oliveira and Fernandes 2009, severity 1, on linear sRGB."""


@pytest.mark.parametrize("matrix", [np.eye(3), PROTAN, DEUTAN], ids=["usual", "protan", "deutan"])
def test_categorical_colours_differ_for_every_eye(matrix: list[list[float]]) -> None:
    assert len(CATEGORIES) <= 7
    seen = [np.clip(np.array(matrix) @ linear(color), 0, 1) for color in CATEGORIES]
    assert min(np.linalg.norm(np.sqrt(a) - np.sqrt(b)) for a, b in combinations(seen, 2)) > 0.19


def test_the_package_of_figures_needs_no_torch_and_loads_when_it_is_asked_for() -> None:
    code = (
        "import sys, interp; assert 'plotly' not in sys.modules; interp.figures.FIGURES; "
        "print(sorted({'torch', 'plotly', 'h5py', 'sklearn'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "['plotly']"


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["svg", "png"])
def test_a_figure_is_written_as_a_picture(ending: str, tmp_path: Path) -> None:
    reason = "a picture needs kaleido and Chromium; install both to write one"
    pytest.importorskip("kaleido", reason=reason)
    if shutil.which("chromium") is None:
        pytest.skip(reason)
    out = tmp_path / f"usage.{ending}"
    interp.figures.usage(RESULTS).write_image(out)
    start = out.read_bytes()[:8]
    assert start.startswith(b"<svg" if ending == "svg" else b"\x89PNG")


@every_figure
def test_the_page_on_figures_tells_how_each_can_fool(name: str) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "figures.md").read_text("utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    assert f"`{TABLES[name]}`" in row
    assert row.endswith(f"| {FIGURES[name](RESULTS).layout.meta['caution']} |")
