"""What the report says of experiments, from tables written by hand."""

from typing import Any

import numpy as np
import pandas as pd

from interp.sentences_experiments import own_sentences, slope_sentences

MAIN: dict[str, Any] = {
    "contrast": "benchmark - organic",
    "role": "main",
    "n_found": 2,
    "interaction": 0.41,
    "interaction_low": 0.3,
    "interaction_high": 0.52,
    "n_matched": 100,
    "share_below": 0.97,
    "interaction_of_main_set": 0.41,
    "outcome": "content",
    "intervention": "reroute",
    "notes": "",
}


def contrasts(placebos: dict[str, float], *, under: float = np.nan, **main: Any) -> pd.DataFrame:
    rows = [
        {"contrast": name, "role": "placebo", "interaction": value}
        | {"interaction_of_main_set": under + place}
        for place, (name, value) in enumerate(placebos.items())
    ]
    return pd.DataFrame([MAIN | main, *[MAIN | row for row in rows]])


def test_the_found_set_under_a_placebo_contrast_is_said_to_be_no_placebo() -> None:
    (said,) = own_sentences(contrasts({"domain: a - b": 0.0, "domain: b - a": 0.0}, under=0.5))

    assert "an interaction of at most +1.5 (domain: b - a)" in said
    assert "is no placebo" in said
    assert own_sentences(contrasts({"domain: a - b": 0.0})) == []


def test_what_must_not_be_trusted_in_the_main_contrast_is_said() -> None:
    note = "benchmark - organic: expert 29 of layer 2 has 2 neighbours of 5 whose usage is off."
    table = contrasts({"domain: a - b": 0.0}, notes=note)
    table.loc[table["role"] == "placebo", "notes"] = "domain: a - b: nothing to take out."

    assert own_sentences(table) == [note]
    assert own_sentences(table.assign(notes=None)) == []
    assert own_sentences(table.drop(columns="notes")) == []


def test_a_slope_is_said_with_its_interval_and_beside_matched_sets() -> None:
    row: dict[str, Any] = {
        "n_sizes": 4,
        "slope": 0.05,
        "slope_low": -0.01,
        "slope_high": 0.11,
        "p_greater": 0.06,
        "n_matched": 10,
        "share_below": 0.9,
        "outcome": "letter",
    }

    (said,) = slope_sentences(pd.DataFrame([row]))
    (one,) = slope_sentences(pd.DataFrame([row | {"n_sizes": 1, "slope": np.nan}]))

    assert "Over 4 sizes" in said
    assert "adds +0.05 (share of right answers) to the interaction" in said
    assert "95 % interval -0.01 to +0.11 (one-sided p = 0.06)" in said
    assert said.endswith("90 % of 10 matched sets gain less with each expert.")
    assert one == "One size of the found set was taken out, so there is no slope."
