"""The figure of probes holds each probe and control of its tables; the 2 x 2 all four cells."""

import dataclasses

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from interp.cache.errors import InputError
from interp.figures import probes, two_by_two
from tests.figure_samples import CELLS, LAYERS, SITES, sample_results

RESULTS = sample_results()
PANELS = {"item": "y", "template": "y2", "selectivity": "y3"}


def drawn(figure: go.Figure, panel: str, site: str, kind: str = "") -> dict[int, tuple[float, ...]]:
    """Height and the ends of the interval by layer, of one site in one panel."""
    (trace,) = [
        trace
        for trace in figure.data
        if trace.yaxis == panel and trace.meta == site and trace.legendgroup == (kind or site)
    ]
    return {row[0]: (float(y), *row[2:4]) for row, y in zip(trace.customdata, trace.y, strict=True)}


def expected(split: str, site: str, baseline: str) -> dict[int, tuple[float, ...]]:
    return {
        int(row.layer): (row.auroc, row.auroc_low, row.auroc_high)
        for row in RESULTS.probes.itertuples()
        if (row.split, row.site, row.baseline, row.target) == (split, site, baseline, "condition")
    }


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("split", ["item", "template"])
def test_each_way_of_holding_out_has_its_panel(split: str, site: str) -> None:
    found = drawn(probes(RESULTS), PANELS[split], site)
    assert found == expected(split, site, "")
    assert set(found) == set(LAYERS)


@pytest.mark.parametrize("site", SITES)
def test_shuffled_labels_stand_beside_the_probes_by_item(site: str) -> None:
    found = drawn(probes(RESULTS), "y", site, "shuffled")
    assert found == expected("item", site, "shuffled")


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(
    ("panel", "kind", "column"),
    [("y3", "", "selectivity"), ("y", "untrained model", "untrained_auroc")],
)
def test_controls_are_those_of_their_table(panel: str, kind: str, column: str, site: str) -> None:
    found = drawn(probes(RESULTS), panel, site, kind)
    rows = [row for row in RESULTS.probe_controls.itertuples() if row.site == site]
    assert {layer: each[0] for layer, each in found.items()} == pytest.approx(
        {row.layer: getattr(row, column) for row in rows}
    )


@pytest.mark.parametrize("panel", ["y", "y2"])
def test_the_best_surface_baseline_is_a_band_across_all_layers(panel: str) -> None:
    band, level = [
        trace
        for trace in probes(RESULTS).data
        if trace.legendgroup == "surface" and trace.yaxis == panel
    ]
    assert set(level.y) == {0.9}
    assert (min(band.y), max(band.y)) == pytest.approx((0.85, 0.93))
    assert (min(level.x), max(level.x)) == (1.6, 5.4)
    titles = [note.text for note in probes(RESULTS).layout.annotations]
    assert "Best surface baseline: bag of tokens, 0.90" in titles[0]


def test_points_lie_within_half_a_layer_of_theirs() -> None:
    for trace in probes(RESULTS).data:
        if trace.customdata is not None:
            off = [abs(x - row[0]) for x, row in zip(trace.x, trace.customdata, strict=True)]
            assert max(off) < 0.5


def test_a_target_other_than_the_condition_is_not_drawn() -> None:
    heights = [y for trace in probes(RESULTS).data for y in trace.y]
    assert 0.33 not in heights


def test_each_site_has_one_entry_in_the_legend() -> None:
    entries = [trace.name for trace in probes(RESULTS).data if trace.showlegend]
    assert sorted(entries) == sorted(
        [*SITES, "best surface baseline", "shuffled (open)", "untrained model (open)"]
    )


def test_controls_that_could_not_be_had_leave_no_empty_panel() -> None:
    none = RESULTS.probe_controls.assign(selectivity=None, untrained_auroc=None)
    figure = probes(dataclasses.replace(RESULTS, probe_controls=none))
    assert {trace.yaxis for trace in figure.data} == {"y", "y2"}
    without = dataclasses.replace(RESULTS, probe_controls=pd.DataFrame())
    assert probes(without).to_json() == figure.to_json()


def test_baselines_alone_are_no_figure() -> None:
    alone = RESULTS.probes[RESULTS.probes["layer"].isna()]
    with pytest.raises(InputError, match="no probe of the condition by layer"):
        probes(dataclasses.replace(RESULTS, probes=alone))


def test_the_two_by_two_draws_each_cell_of_each_probe() -> None:
    (tiles,) = two_by_two(RESULTS).data
    names = [each.split("<br>")[0] for each in two_by_two(RESULTS).layout.yaxis.ticktext]
    assert names == ["length", "routing", "resid_post"]
    for place, site in enumerate(names):
        for column, cell in enumerate(CELLS):
            (row,) = [
                row for row in RESULTS.grid.itertuples() if (row.site, row.cell) == (site, cell)
            ]
            assert tiles.z[place][column] == pytest.approx(100 * row.called_benchmark)
            layer, expert, low, high, auroc = tiles.customdata[place][column]
            assert (layer, expert) == (None if np.isnan(row.layer) else row.layer, None)
            ends = (row.called_benchmark_low, row.called_benchmark_high)
            assert (low, high) == pytest.approx(tuple(100 * end for end in ends))
            assert auroc == row.diagonal_auroc
            assert tiles.text[place][column].startswith(f"{100 * row.called_benchmark:.0f} %")


def test_the_two_by_two_is_centred_on_half_and_names_its_off_diagonal() -> None:
    figure = two_by_two(RESULTS)
    (tiles,) = figure.data
    assert tiles.zmax - 50 == 50 - tiles.zmin
    assert [note.text for note in figure.layout.annotations] == [
        "fitted on",
        "off the diagonal",
        "fitted on",
    ]


def test_the_order_of_cells_in_the_table_does_not_matter() -> None:
    turned = dataclasses.replace(RESULTS, grid=RESULTS.grid.iloc[::-1])
    assert sorted(map(tuple, two_by_two(turned).data[0].z)) == sorted(
        map(tuple, two_by_two(RESULTS).data[0].z)
    )
