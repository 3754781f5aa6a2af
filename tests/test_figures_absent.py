"""Where a figure cannot be, its panel says why, once and in the panel it belongs to."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from interp.report_panels import DrawnPanel, drawn_panel
from interp.report_questions import PANELS
from interp.results import Results
from tests.report_samples import study_results

RESULTS = study_results()
NO_SHARE = {"divergence_share": "Nothing is there of which to give a share."}


def panel(name: str, results: Results) -> DrawnPanel:
    (asked,) = [each for each in PANELS if each.name == name]
    drawn = drawn_panel(asked, results)
    assert drawn is not None
    return drawn


def without_share() -> Results:
    divergence = RESULTS.divergence.assign(share_explained_by_vocabulary=np.nan)
    matched = RESULTS.divergence_matched.assign(share_explained=np.nan)
    return dataclasses.replace(
        RESULTS, divergence=divergence, divergence_matched=matched, absent=NO_SHARE
    )


def without_finding() -> Results:
    nothing = RESULTS.experiments.assign(n_found=0, interaction=0.0, interaction_of_main_set=np.nan)
    empty = pd.DataFrame()
    return dataclasses.replace(
        RESULTS, experiments=nothing, experiment_matched=empty, experiment_dose=empty
    )


def test_the_reason_for_no_share_stands_in_the_panel_of_the_share_and_in_no_other() -> None:
    share = panel("vocabulary_share", without_share())
    assert share.figure is None
    assert share.body.count("Nothing is there") == 1
    assert share.finding == NO_SHARE["divergence_share"]
    assert "Nothing is there" not in panel("divergence", without_share()).body


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("interventions", "The main contrast found no expert and none of 2 placebo contrasts did"),
        ("dose_response", "No expert was found to take out"),
    ],
)
def test_an_experiment_that_found_no_expert_has_sentences_in_place_of_figures(
    name: str, reason: str
) -> None:
    drawn = panel(name, without_finding())
    assert drawn.figure is None
    assert drawn.body.count(reason) == 1
    assert drawn.finding.startswith(reason)


def test_a_study_without_an_experiment_has_no_panel_of_doses() -> None:
    none = dataclasses.replace(RESULTS, experiments=pd.DataFrame(), experiment_dose=pd.DataFrame())
    (dose,) = [each for each in PANELS if each.name == "dose_response"]
    assert drawn_panel(dose, none) is None


@pytest.mark.parametrize("name", ["divergence", "vocabulary_share"])
def test_a_recorded_reason_is_told_without_the_name_of_a_table(name: str) -> None:
    empty = pd.DataFrame()
    absent = {"divergence": "The store holds one condition, so nothing is compared."}
    one = dataclasses.replace(RESULTS, divergence=empty, divergence_matched=empty, absent=absent)
    drawn = panel(name, one)
    assert drawn.finding == absent["divergence"]
    assert "no row to draw" not in drawn.body


def test_a_table_of_no_numbers_costs_its_own_panel_and_not_the_report() -> None:
    blank = RESULTS.usage.assign(usage=np.nan)
    drawn = panel("usage", dataclasses.replace(RESULTS, usage=blank))
    assert drawn.finding == "No expert has usage that is a number, so none is drawn."
