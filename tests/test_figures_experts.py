"""The heatmaps and the volcano draw the numbers of their tables, each at its layer and expert."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from interp.cache.errors import InputError
from interp.figures import usage, volcano
from interp.results import Results
from tests.figure_samples import LAYERS, OBJECTS, sample_results

RESULTS = sample_results()
EFFECTS = {
    "Raw": ("effect", "effect", "raw_q_bh"),
    "Token": ("adjusted_effect", "adjusted", "q_bh"),
    "Surface": ("surface_adjusted_effect", "surface_adjusted", "surface_adjusted_q_bh"),
}


def shown(figure: go.Figure) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.visible]


def cells(trace: go.Heatmap) -> dict[tuple[int, int], float]:
    """Each value by the layer and expert of its customdata."""
    return {
        (int(layer), int(expert)): float(trace.z[row][place])
        for row, line in enumerate(trace.customdata)
        for place, (layer, expert, *_) in enumerate(line)
    }


@pytest.mark.parametrize("view", EFFECTS)
def test_a_difference_is_the_effect_of_the_table_in_points(view: str) -> None:
    drawn = cells(shown(usage(RESULTS, view=view))[0])
    expected = {
        (row.layer, row.expert): 100 * getattr(row, EFFECTS[view][0])
        for row in RESULTS.experts.itertuples()
    }
    assert drawn == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("view", EFFECTS)
def test_outlined_are_the_experts_below_the_fdr_and_no_others(view: str) -> None:
    heat, outline = shown(usage(RESULTS, view=view))
    corners = np.stack([outline.x, outline.y]).reshape(2, -1, 6)[:, :, :4]
    drawn = {
        (LAYERS[round(y)], round(x)) for x, y in corners.mean(axis=-1).T
    }  # the middle of each square, whose y is the place of its layer
    q = EFFECTS[view][2]
    expected = {
        (row.layer, row.expert) for row in RESULTS.experts.itertuples() if getattr(row, q) <= 0.05
    }
    assert drawn == expected
    assert np.ptp(corners, axis=-1) == pytest.approx(1)
    assert list(heat.y) == [0, 1, 2]


@pytest.mark.parametrize("condition", ["benchmark", "organic"])
def test_a_condition_is_its_usage_in_percent(condition: str) -> None:
    (heat,) = shown(usage(RESULTS, view=condition.capitalize()))
    expected = {}
    for row in RESULTS.usage.itertuples():
        if row.condition == condition:
            expected[row.layer, row.expert] = 100 * row.usage
    assert cells(heat) == pytest.approx(expected, abs=1e-4)


def test_colours_of_a_difference_are_centred_on_zero_and_of_both_shares_alike() -> None:
    heats = [trace for trace in usage(RESULTS).data if trace.type == "heatmap"]
    assert all(heat.zmin == -heat.zmax for heat in heats[:3])
    assert (heats[3].zmin, heats[3].zmax) == (heats[4].zmin, heats[4].zmax)
    assert heats[3].zmin == 0
    assert heats[3].colorbar.tickvals[1] == pytest.approx(100 / 6)
    assert heats[3].colorbar.ticktext[1] == "17 (even)"


def test_hover_over_the_raw_difference_tells_both_conditions() -> None:
    (heat, _) = shown(usage(RESULTS))
    told = {
        (layer, expert): [first, second]
        for line in heat.customdata
        for layer, expert, first, second in line
    }
    for row in RESULTS.usage.itertuples():
        place = ("benchmark", "organic").index(row.condition)
        assert told[row.layer, row.expert][place] == pytest.approx(100 * row.usage, abs=1e-3)


def test_layers_are_named_by_their_numbers_in_the_model() -> None:
    axis = usage(RESULTS).layout.yaxis
    assert (list(axis.tickvals), list(axis.ticktext)) == ([0, 1, 2], ["2", "3", "5"])


@pytest.mark.parametrize("draw", [usage, volcano])
def test_each_button_shows_its_own_view_and_no_other(draw: object) -> None:
    figure = draw(RESULTS)  # type: ignore[operator]
    (menu,) = figure.layout.updatemenus
    masks = np.array([button.args[0]["visible"] for button in menu.buttons])
    assert (masks.sum(axis=0) == 1).all()
    assert [bool(trace.visible) for trace in figure.data] == masks[menu.active].tolist()


def test_a_view_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="view is 'Nonsense', which is none of these: Raw, Token"):
        usage(RESULTS, view="Nonsense")


def test_without_tests_of_experts_the_raw_difference_has_no_outline() -> None:
    without = dataclasses.replace(RESULTS, experts=pd.DataFrame())
    (heat,) = shown(usage(without))
    wide = RESULTS.usage.pivot(index=["layer", "expert"], columns="condition", values="usage")
    expected = (100 * (wide["benchmark"] - wide["organic"])).to_dict()
    assert cells(heat) == pytest.approx(expected, abs=1e-4)
    assert "No test of single experts" in usage(without).layout.meta["summary"]


def test_one_condition_alone_is_drawn_by_itself() -> None:
    alone = dataclasses.replace(RESULTS, usage=RESULTS.usage.query("condition == 'organic'"))
    (heat,) = usage(alone).data
    assert heat.zmin == 0
    assert "of organic slots" in usage(alone).layout.meta["summary"]


def test_summary_of_usage_names_the_largest_difference_and_counts_what_the_fdr_lets_through() -> (
    None
):
    said = usage(RESULTS).layout.meta["summary"]
    wide = RESULTS.usage.pivot(index=["layer", "expert"], columns="condition", values="usage")
    largest = max(
        OBJECTS, key=lambda each: abs(wide.loc[each, "benchmark"] - wide.loc[each, "organic"])
    )
    assert f"expert {largest[1]} of layer {largest[0]}:" in said
    counts = [sum(RESULTS.experts[q] <= 0.05) for _, _, q in EFFECTS.values()]
    assert f"{counts[0]} as they are, {counts[1]} at the same token, and {counts[2]} beyond" in said


@pytest.mark.parametrize("view", EFFECTS)
def test_the_volcano_draws_every_expert_once_at_its_effect_and_q(view: str) -> None:
    effect, ends, q = EFFECTS[view]
    drawn = {}
    for trace in shown(volcano(RESULTS, view=view)):
        for x, y, (layer, expert, *rest) in zip(trace.x, trace.y, trace.customdata, strict=True):
            assert (layer, expert) not in drawn
            drawn[layer, expert] = (x, y, *rest)
    assert len(drawn) == len(OBJECTS)
    for row in RESULTS.experts.itertuples():
        x, y, low, high, shown_q = drawn[row.layer, row.expert]
        assert x == pytest.approx(100 * getattr(row, effect))
        assert 10**-y == pytest.approx(getattr(row, q))
        assert low == pytest.approx(100 * getattr(row, f"{ends}_low"), rel=1e-4)
        assert high == pytest.approx(100 * getattr(row, f"{ends}_high"), rel=1e-4)
        assert shown_q == pytest.approx(getattr(row, q))


def test_the_volcano_marks_the_significant_and_the_confirmed() -> None:
    groups = {trace.name: trace for trace in shown(volcano(RESULTS))}
    drawn = {
        name: {(layer, expert) for layer, expert, *_ in trace.customdata}
        for name, trace in groups.items()
    }
    assert drawn["confirmed"] == {OBJECTS[3], OBJECTS[8]}
    rows = RESULTS.experts.itertuples()
    below = {(row.layer, row.expert) for row in rows if row.surface_adjusted_q_bh <= 0.05}
    assert drawn["q at most 0.05"] == below - drawn["confirmed"]
    assert len({trace.marker.symbol for trace in groups.values()}) == 3


def test_intervals_of_the_volcano_reach_the_ends_of_the_table() -> None:
    (stars,) = [trace for trace in shown(volcano(RESULTS)) if trace.name == "confirmed"]
    rows = RESULTS.experts.iloc[[3, 8]]
    np.testing.assert_allclose(stars.x + stars.error_x.array, 100 * rows["surface_adjusted_high"])
    np.testing.assert_allclose(
        stars.x - stars.error_x.arrayminus, 100 * rows["surface_adjusted_low"]
    )


def test_lines_stand_at_the_margin_and_at_the_level_of_q() -> None:
    shapes = volcano(RESULTS).layout.shapes
    assert [shape.x0 for shape in shapes if shape.x0 == shape.x1] == [-2.0, 2.0]
    assert shapes[2].y0 == pytest.approx(-np.log10(0.05))


def test_a_q_of_zero_has_a_place() -> None:
    sure = RESULTS.experts.assign(surface_adjusted_q_bh=0.0)
    drawn = shown(volcano(dataclasses.replace(RESULTS, experts=sure)))
    assert max(max(trace.y) for trace in drawn if len(trace.y)) == pytest.approx(16)


def test_a_study_without_surface_adjusted_effects_shows_those_it_has() -> None:
    missing = RESULTS.experts.assign(surface_adjusted_effect=np.nan)
    figure = volcano(dataclasses.replace(RESULTS, experts=missing))
    labels = [button.label for button in figure.layout.updatemenus[0].buttons]
    assert labels == ["Raw", "Token"]
    assert figure.layout.meta["summary"] == "No surface-adjusted effect is in these results."


def test_a_view_without_any_q_is_left_out_where_another_has_one() -> None:
    untested = RESULTS.experts.assign(surface_adjusted_q_bh=np.nan)
    figure = volcano(dataclasses.replace(RESULTS, experts=untested))

    assert [button.label for button in figure.layout.updatemenus[0].buttons] == ["Raw", "Token"]
    none = untested.assign(raw_q_bh=np.nan, q_bh=np.nan)
    with pytest.raises(InputError, match="not the same as that none was found"):
        volcano(dataclasses.replace(RESULTS, experts=none))


def summary(draw: Callable[[Results], go.Figure], **columns: object) -> str:
    changed = dataclasses.replace(RESULTS, experts=RESULTS.experts.assign(**columns))
    return str(draw(changed).layout.meta["summary"])


def test_experts_that_were_not_tested_are_not_counted_as_none_found() -> None:
    said = summary(usage, surface_adjusted_q_bh=np.nan, q_bh=np.nan)
    assert said.endswith(
        " as they are. They were not tested at the same token and beyond the surface."
    )
    said = summary(usage, raw_q_bh=np.nan, surface_adjusted_q_bh=np.nan, q_bh=np.nan)
    assert said.endswith("None of 18 experts was tested: no q is known.")
    assert "none of 18 experts was tested," in summary(volcano, surface_adjusted_q_bh=np.nan)


@pytest.mark.parametrize("draw", [usage, volcano])
def test_prompts_that_could_have_shown_no_expert_say_so_beside_the_count(
    draw: Callable[[Results], go.Figure],
) -> None:
    assert "these prompts could have shown none" in summary(draw, smallest_effect=1.01)
    assert "could have shown none" not in summary(draw, smallest_effect=0.99)
    assert "could have shown none" not in summary(draw, smallest_effect=np.nan)
