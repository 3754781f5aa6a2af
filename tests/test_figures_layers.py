"""Figures with a line for each quantity by layer draw the columns of their tables."""

import dataclasses

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from interp.cache.errors import InputError
from interp.figures import divergence, load, vocabulary, vocabulary_share
from tests.figure_samples import LAYERS, sample_results

RESULTS = sample_results()


def named(figure: go.Figure, name: str) -> go.Scatter:
    (trace,) = [trace for trace in figure.data if trace.name == name]
    assert [row[:2] for row in trace.customdata] == [[layer, None] for layer in LAYERS]
    assert list(trace.x) == list(LAYERS)
    return trace


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("raw", "raw_bits"),
        ("token-matched", "token_matched_bits"),
        ("raw null, 95 %", "raw_null_high_bits"),
        ("token-matched null, 95 %", "token_matched_null_high_bits"),
    ],
)
def test_divergence_draws_the_columns_of_its_table(name: str, column: str) -> None:
    drawn = named(divergence(RESULTS), name)
    np.testing.assert_array_equal(drawn.y, RESULTS.divergence[column])


@pytest.mark.parametrize("kind", ["raw", "token_matched"])
def test_divergence_intervals_reach_the_ends_of_the_table(kind: str) -> None:
    """They are those of the estimate less its bias, and stand at that point and no other."""
    name, table = kind.replace("_", "-"), RESULTS.divergence
    assert named(divergence(RESULTS), name).error_y.array is None
    drawn = named(divergence(RESULTS), f"{name}, bias-corrected")
    np.testing.assert_array_equal(drawn.y, table[f"{kind}_corrected_bits"])
    np.testing.assert_allclose(drawn.y + drawn.error_y.array, table[f"{kind}_high_bits"])
    np.testing.assert_allclose(drawn.y - drawn.error_y.arrayminus, table[f"{kind}_low_bits"])


def test_sources_of_one_condition_and_of_two_are_the_reference() -> None:
    figure, table = divergence(RESULTS), RESULTS.sources[:3]
    np.testing.assert_array_equal(
        named(figure, "two of different conditions").y, table["across_conditions"]
    )
    within = [
        (row.within_benchmark + row.within_organic) / 2 for row in table.itertuples(index=False)
    ]
    np.testing.assert_allclose(named(figure, "two sources of one condition").y, within)


def test_a_condition_of_one_source_leaves_the_reference_to_the_other() -> None:
    alone = RESULTS.sources.assign(within_organic=np.nan)
    figure = divergence(dataclasses.replace(RESULTS, sources=alone))
    drawn = named(figure, "two sources of one condition").y
    np.testing.assert_array_equal(drawn, alone["within_benchmark"][:3])


def test_a_corrected_divergence_below_zero_is_drawn_at_zero_and_told_as_it_is() -> None:
    below = RESULTS.divergence.assign(raw_corrected_bits=-0.01, raw_low_bits=0.0, raw_high_bits=0.0)
    drawn = named(divergence(dataclasses.replace(RESULTS, divergence=below)), "raw, bias-corrected")
    assert list(drawn.y) == [0, 0, 0]
    assert list(drawn.error_y.array) == list(drawn.error_y.arrayminus) == [0, 0, 0]
    assert [row[4] for row in drawn.customdata] == [-0.01] * 3


def test_a_table_without_corrected_estimates_has_no_bars() -> None:
    older = RESULTS.divergence.drop(columns=["raw_corrected_bits", "token_matched_corrected_bits"])
    figure = divergence(dataclasses.replace(RESULTS, divergence=older))
    assert all(trace.error_y.array is None for trace in figure.data)


def test_conditions_of_one_source_each_have_no_line_within_and_no_word_of_it() -> None:
    alone = RESULTS.sources.assign(within_benchmark=np.nan, within_organic=np.nan)
    figure = divergence(dataclasses.replace(RESULTS, sources=alone))
    assert "two sources of one condition" not in {trace.name for trace in figure.data}
    assert "two of different conditions" in {trace.name for trace in figure.data}
    assert "sources of one condition" not in figure.layout.meta["caution"]
    assert "sources of one condition" in divergence(RESULTS).layout.meta["caution"]


def test_without_nested_sources_there_is_no_reference() -> None:
    figure = divergence(dataclasses.replace(RESULTS, sources=pd.DataFrame()))
    assert not [trace.name for trace in figure.data if "condition" in trace.name]


def test_share_explained_is_that_of_the_table_in_percent_with_its_interval() -> None:
    drawn = named(vocabulary_share(RESULTS), "explained by the token")
    table = RESULTS.divergence
    np.testing.assert_allclose(drawn.y, 100 * table["share_explained_by_vocabulary"])
    np.testing.assert_allclose(drawn.y + drawn.error_y.array, 100 * table["share_explained_high"])
    lows = drawn.y - drawn.error_y.arrayminus
    np.testing.assert_allclose(lows, 100 * table["share_explained_low"])


def test_the_overlap_stands_beside_the_share() -> None:
    assert set(named(vocabulary_share(RESULTS), "overlap: tokens that can be matched").y) == {60.0}
    assert "60 % of tokens" in vocabulary_share(RESULTS).layout.title.subtitle.text


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("previous_and_token", "by previous token and token"),
        ("position_bin", "by position"),
        ("position_bin_and_token", "by position and token"),
    ],
)
def test_other_keys_are_drawn_from_their_own_table(key: str, name: str) -> None:
    rows = [row for row in RESULTS.divergence_matched.itertuples() if row.matched_on == key]
    drawn = named(vocabulary_share(RESULTS), name)
    assert list(drawn.y) == pytest.approx([100 * row.share_explained for row in rows])


def test_a_share_at_no_token_is_said_and_has_no_empty_mark() -> None:
    none = RESULTS.divergence.assign(share_explained_by_vocabulary=np.nan)
    figure = vocabulary_share(dataclasses.replace(RESULTS, divergence=none))
    assert "No layer has a divergence above its null" in figure.layout.meta["summary"]
    assert "explained by the token" not in {trace.name for trace in figure.data}
    some = RESULTS.divergence_matched.copy()
    some.loc[some["matched_on"] == "position_bin", "share_explained"] = np.nan
    figure = vocabulary_share(dataclasses.replace(RESULTS, divergence_matched=some))
    assert "by position" not in {trace.name for trace in figure.data}


@pytest.mark.parametrize(
    ("absent", "reason"),
    [({}, "No layer has a divergence above its null"), ({"divergence_share": "Why."}, r"^Why\.$")],
)
def test_without_any_share_the_reason_stands_in_place_of_an_empty_figure(
    absent: dict[str, str], reason: str
) -> None:
    none = RESULTS.divergence.assign(share_explained_by_vocabulary=np.nan)
    matched = RESULTS.divergence_matched.assign(share_explained=np.nan)
    with pytest.raises(InputError, match=reason):
        vocabulary_share(
            dataclasses.replace(RESULTS, divergence=none, divergence_matched=matched, absent=absent)
        )


@pytest.mark.parametrize("condition", ["benchmark", "organic"])
def test_load_draws_the_entropy_of_each_condition(condition: str) -> None:
    drawn = named(load(RESULTS), condition)
    rows = [row for row in RESULTS.load.itertuples() if row.condition == condition]
    assert list(drawn.y) == [row.entropy_bits for row in rows]
    assert [row[2] for row in drawn.customdata] == [row.gini for row in rows]


def test_load_marks_the_entropy_of_an_even_load() -> None:
    (even,) = [trace for trace in load(RESULTS).data if trace.name == "even load"]
    assert set(even.y) == {np.log2(6)}


@pytest.mark.parametrize(
    ("name", "column"), [("as it is", "share"), ("ids shuffled", "shuffled_share")]
)
def test_vocabulary_draws_the_share_beside_the_shuffle(name: str, column: str) -> None:
    np.testing.assert_array_equal(named(vocabulary(RESULTS), name).y, RESULTS.vocabulary[column])
