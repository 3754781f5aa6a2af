"""Figures of experiments draw the found set, its controls and the doses as tables have them."""

import dataclasses

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from interp.cache.errors import InputError
from interp.figures import dose_response, interventions
from tests.figure_samples import sample_results

RESULTS = sample_results()
MATCHED = RESULTS.experiment_matched


def named(figure: go.Figure, name: str) -> go.Scatter:
    (trace,) = [trace for trace in figure.data if trace.name == name]
    return trace


def test_the_found_set_has_its_interaction_and_interval() -> None:
    found = named(interventions(RESULTS), "found set")
    assert list(found.x) == [0.2]
    assert found.x[0] + found.error_x.array[0] == pytest.approx(0.31)
    assert found.x[0] - found.error_x.arrayminus[0] == pytest.approx(0.12)
    assert found.customdata[0][:3] == [None, None, "2:1 5:3"]


def test_each_matched_set_is_a_point_of_the_strip() -> None:
    strip = named(interventions(RESULTS), "matched random sets")
    np.testing.assert_array_equal(strip.x, MATCHED["interaction"])
    assert [row[2] for row in strip.customdata] == list(MATCHED["experts"])
    assert (np.abs(np.array(strip.y) - 1) < 0.4).all()


def test_a_set_of_one_expert_stands_for_that_expert() -> None:
    strip = named(interventions(RESULTS), "matched random sets")
    assert [row[:2] for row in strip.customdata] == [
        [None, None],
        [None, None],
        [2, 5],
        [None, None],
    ]
    own = named(interventions(RESULTS), "placebo's set (open: none found)")
    assert [row[:2] for row in own.customdata] == [[3, 0], [None, None]]


def test_the_line_stands_at_the_quantile_that_the_verdict_asks_for() -> None:
    line = named(interventions(RESULTS), "95 % of matched sets")
    ordered = sorted(MATCHED["interaction"])
    foreseen = ordered[2] + 0.85 * (ordered[3] - ordered[2])  # 0.95 * (4 - 1) = 2.85
    assert list(line.x) == pytest.approx([foreseen, foreseen])


def test_placebos_have_their_own_set_and_the_found_set() -> None:
    figure = interventions(RESULTS)
    own = named(figure, "placebo's set (open: none found)")
    assert list(own.x) == [0.03, 0.0]
    assert list(own.marker.symbol) == ["diamond", "diamond-open"]
    assert list(named(figure, "found set under placebo").x) == [-0.02, 0.01]
    assert [round(float(y)) for y in own.y] == [2, 3]


def test_rows_are_named_by_what_is_taken_out() -> None:
    labels = interventions(RESULTS).layout.yaxis.ticktext
    assert labels[0] == "found set<br>(2 experts)"
    assert labels[1] == "4 matched<br>random sets"
    assert labels[2] == "domain: code \u2212 reading"
    assert labels[3] == "wording: benchmark-exam<br>\u2212 benchmark-exam-sham"


@pytest.mark.parametrize(
    ("outcome", "unit"), [("content", "nats per token"), ("letter", "share of")]
)
def test_the_axis_has_the_unit_of_the_outcome(outcome: str, unit: str) -> None:
    other = RESULTS.experiments.assign(outcome=outcome)
    results = dataclasses.replace(RESULTS, experiments=other)
    assert unit in interventions(results).layout.xaxis.title.text
    assert unit in dose_response(results).layout.yaxis.title.text


def test_an_experiment_that_found_nothing_says_so() -> None:
    nothing = RESULTS.experiments[:1].assign(n_found=0, experts="", interaction=0.0)
    none = dataclasses.replace(RESULTS, experiments=nothing, experiment_matched=pd.DataFrame())
    with pytest.raises(InputError, match="found no expert and none of 0 placebo contrasts did"):
        interventions(none)
    placebo = RESULTS.experiments.assign(n_found=[0, 1, 0], interaction_of_main_set=None)
    figure = interventions(dataclasses.replace(none, experiments=placebo))
    assert figure.layout.meta["summary"].startswith("The experiment found no expert")
    assert [trace.name for trace in figure.data] == ["placebo's set (open: none found)"]
    assert figure.layout.yaxis.ticktext[1] == "no matched<br>random sets"


def test_placebos_that_found_no_expert_are_not_counted_as_an_effect_of_zero() -> None:
    none = RESULTS.experiments.assign(n_found=[2, 0, 0], interaction=[0.2, 0.0, 0.0])
    said = interventions(dataclasses.replace(RESULTS, experiments=none)).layout.meta["summary"]
    assert said.endswith("; none of 2 placebo contrasts found an expert.")


def test_summary_compares_with_matched_sets_and_placebos() -> None:
    said = interventions(RESULTS).layout.meta["summary"]
    assert "interaction of 0.2000 nats per token (95 % interval 0.1200 to 0.3100)" in said
    assert "above that of 97 % of 4 matched random sets" in said
    assert "; 1 of 2 placebo contrasts found experts, the largest with 0.0300." in said


def test_a_placebo_that_was_not_run_is_no_point_at_zero() -> None:
    table = RESULTS.experiments.assign(interaction=[0.2, 0.03, np.nan])
    figure = interventions(dataclasses.replace(RESULTS, experiments=table))

    own = named(figure, "placebo's set (open: none found)")
    assert np.isfinite(own.x.astype(float)).tolist() == [True, False]
    assert figure.layout.yaxis.ticktext[3].endswith("benchmark-exam-sham (not run)")
    said = figure.layout.meta["summary"]
    assert "1 of 1 placebo contrasts (1 of 2 could be run) found experts" in said
    none = table.assign(interaction=[0.2, np.nan, np.nan])
    said = interventions(dataclasses.replace(RESULTS, experiments=none)).layout.meta["summary"]
    assert "no placebo contrast could be run" in said


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("interaction", "interaction"),
        ("damage, benchmark", "damage_benchmark"),
        ("damage, organic", "damage_organic"),
    ],
)
def test_doses_are_those_of_the_table(name: str, column: str) -> None:
    line = named(dose_response(RESULTS), name)
    assert list(line.x) == [1, 2, 3]
    np.testing.assert_array_equal(line.y, RESULTS.experiment_dose[column])


def test_the_interaction_of_a_dose_has_its_interval_and_the_matched_band() -> None:
    figure, table = dose_response(RESULTS), RESULTS.experiment_dose
    line = named(figure, "interaction")
    np.testing.assert_allclose(line.y + line.error_y.array, table["interaction_high"])
    np.testing.assert_allclose(line.y - line.error_y.arrayminus, table["interaction_low"])
    band = named(figure, "interaction of matched sets, 5 to 95 %")
    assert list(band.y) == [*table["matched_high"], *table["matched_low"][::-1]]


def test_doses_without_matched_sets_have_no_band() -> None:
    without = RESULTS.experiment_dose.assign(matched_low=None, matched_high=None)
    figure = dose_response(dataclasses.replace(RESULTS, experiment_dose=without))
    assert len(figure.data) == 3
    said = figure.layout.meta
    assert said["summary"].endswith("; no matched sets of these sizes were taken out.")
    assert "matched band" not in said["caution"]


def test_doses_are_compared_only_where_matched_sets_of_the_size_were_taken_out() -> None:
    some = RESULTS.experiment_dose.assign(matched_low=[-9.0, None, None], matched_high=[-9.0] * 3)
    figure = dose_response(dataclasses.replace(RESULTS, experiment_dose=some))
    assert "at 1 of 1 sizes that have them" in figure.layout.meta["summary"]


def test_an_experiment_that_found_no_expert_has_no_doses_and_says_why() -> None:
    nothing = RESULTS.experiments.assign(n_found=0)
    none = dataclasses.replace(RESULTS, experiments=nothing, experiment_dose=pd.DataFrame())
    with pytest.raises(InputError, match="No expert was found to take out"):
        dose_response(none)
