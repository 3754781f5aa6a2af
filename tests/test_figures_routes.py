"""Pairs and paths of experts are drawn with the numbers of their tables."""

import dataclasses
import re

import numpy as np
import plotly.graph_objects as go
import pytest

from interp.cache.errors import InputError
from interp.figures import coactivation, paths
from tests.figure_samples import sample_results

RESULTS = sample_results()


@pytest.mark.parametrize("condition", ["benchmark", "organic"])
def test_each_pair_is_a_point_near_its_layer(condition: str) -> None:
    (trace,) = [trace for trace in coactivation(RESULTS).data if trace.name == condition]
    drawn = {}
    for x, y, (layer, expert, other, together, foreseen) in zip(
        trace.x, trace.y, trace.customdata, strict=True
    ):
        assert abs(x - layer) < 0.5
        drawn[layer, expert, other] = (y, together, foreseen)
    assert drawn == {
        (row.layer, row.expert, row.other_expert): (row.association, 50, 30.25)
        for row in RESULTS.coactivation.itertuples()
        if row.condition == condition
    }


def test_conditions_differ_in_symbol_as_well_as_in_colour() -> None:
    markers = [trace.marker for trace in coactivation(RESULTS).data]
    assert len({marker.symbol for marker in markers}) == 2
    assert len({marker.color for marker in markers}) == 2


def test_the_closest_pair_of_each_layer_is_named_where_layers_are_few() -> None:
    (trace,) = [trace for trace in coactivation(RESULTS).data if trace.name == "organic"]
    named = {row[0]: text for row, text in zip(trace.customdata, trace.text, strict=True) if text}
    rows = [row for row in RESULTS.coactivation.itertuples() if row.condition == "organic"]
    for layer, text in named.items():
        best = max((row for row in rows if row.layer == layer), key=lambda row: row.association)
        assert text == f"0 + {best.other_expert}"
    assert set(named) == {2, 3, 5}


def test_every_path_is_a_link_of_its_share_under_either_condition() -> None:
    (sankey,) = paths(RESULTS).data
    nodes, link = sankey.node.customdata, sankey.link
    drawn = {}
    for start, stop, value in zip(link.source, link.target, link.value, strict=True):
        (layer, expert, condition), (next_layer, next_expert, same) = nodes[start], nodes[stop]
        assert condition == same
        drawn[f"{layer}:{expert} > {next_layer}:{next_expert}", condition] = value
    expected = {
        (row.path, side): 100 * getattr(row, f"share_{side}")
        for row in RESULTS.paths.itertuples()
        for side in ("benchmark", "organic")
    }
    assert drawn == pytest.approx(expected)


def test_nodes_carry_the_number_of_their_expert_and_lie_with_their_layer() -> None:
    node = paths(RESULTS).data[0].node
    across = {2: 0.001, 3: 0.5, 5: 0.999}
    for label, x, (layer, expert, _) in zip(node.label, node.x, node.customdata, strict=True):
        assert label == str(expert)
        assert x == pytest.approx(across[layer])


def test_benchmark_lies_above_organic_with_experts_in_the_same_order() -> None:
    node = paths(RESULTS).data[0].node
    half = len(node.y) // 2
    assert max(node.y[:half]) < min(node.y[half:])
    for layer in (2, 3, 5):
        for part in (slice(None, half), slice(half, None)):
            rows = zip(node.customdata[part], node.y[part], strict=True)
            places = [y for (at, _, _), y in rows if at == layer]
            assert places == sorted(places)


def test_a_path_is_coloured_only_where_it_is_specific_and_more_frequent() -> None:
    link = paths(RESULTS).data[0].link
    rows = {row.path: row for row in RESULTS.paths.itertuples()}
    for color, (*_, condition, path, p) in zip(link.color, link.customdata, strict=True):
        row = rows[path]
        assert p == row.p_max
        more = "benchmark" if row.share_benchmark > row.share_organic else "organic"
        red, green, blue, _ = map(float, re.findall(r"[\d.]+", color))
        is_grey = max(red, green, blue) - min(red, green, blue) < 40
        assert is_grey == (p > 0.05 or condition != more)


def test_the_layers_are_named_below() -> None:
    notes = [note.text for note in paths(RESULTS).layout.annotations]
    assert notes[:3] == ["2", "3", "5"]
    assert np.isin(["<b>benchmark</b>", "<b>organic</b>"], notes).all()


def with_paths(**columns: object) -> go.Figure:
    return paths(dataclasses.replace(RESULTS, paths=RESULTS.paths.assign(**columns)))


def test_paths_without_a_share_leave_no_link_and_no_node_that_plotly_would_drop() -> None:
    """Plotly drops these itself, and then draws the other nodes in the places of those dropped."""
    node, link = (
        getattr(with_paths(share_benchmark=[0.0, 0.02, np.nan, 0.03, 0.0]).data[0], part)
        for part in ("node", "link")
    )
    assert min(link.value) > 0
    used = set(link.source) | set(link.target)
    assert used == set(range(len(node.label)))
    assert len(node.x) == len(node.y) == len(node.color) == len(node.customdata) == len(used)
    kept = {(layer, expert) for layer, expert, name in node.customdata if name == "benchmark"}
    assert kept == {(2, 0), (3, 4), (5, 0)}
    for x, (layer, *_) in zip(node.x, node.customdata, strict=True):
        assert x == pytest.approx({2: 0.001, 3: 0.5, 5: 0.999}[layer])


def test_a_half_without_any_path_leaves_the_other() -> None:
    names = {name for *_, name in with_paths(share_organic=0.0).data[0].node.customdata}
    assert names == {"benchmark"}


def test_paths_without_any_share_are_refused() -> None:
    with pytest.raises(InputError, match="No path has a share under either condition"):
        with_paths(share_benchmark=0.0, share_organic=np.nan)


def test_no_path_is_called_specific_above_the_level() -> None:
    said = with_paths(p_max=0.61).layout.meta["summary"]
    assert "None is condition-specific: the least p is 0.61 (2:0 > 3:1)" in said
    assert "Most condition-specific" not in said
    assert "Most condition-specific is 2:0 > 3:1" in paths(RESULTS).layout.meta["summary"]


def test_paths_ranked_in_one_way_only_are_drawn() -> None:
    frequent = dataclasses.replace(RESULTS, paths=RESULTS.paths[:4])
    assert "condition-specific was not tested" in paths(frequent).layout.meta["summary"]
    specific = dataclasses.replace(RESULTS, paths=RESULTS.paths[4:].assign(p_max=0.2))
    assert paths(specific).layout.meta["summary"].startswith("None is condition-specific")
