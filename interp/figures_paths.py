"""The paths of tokens from expert to expert through neighbouring layers, as a Sankey diagram."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp.figure_style import CONDITIONS, GREY, LAYER_TITLE, lay_out, translucent
from interp.figures_tables import NothingToDrawError, column, model_of, table_of
from interp.results import Results
from interp.sentences_load import paths_sentence

CAUTION = (
    "A path is specific as soon as one of its experts is, and vocabulary alone makes paths: "
    "nothing here is matched by token."
)
SIGNIFICANT = 0.05
PLOT_HEIGHT, FILLED = 486.0, 0.72
"""Pixels of the Sankey diagram, and the share of them that nodes fill in the fullest layer."""
HALVES = ("benchmark", "organic")
BOTTOM, TOP = 0.05, 0.95
"""Where the diagram lies in the height of the plot."""

Step = tuple[int, int]
"""Layer and expert."""
Node = tuple[str, int, int]
"""Condition, layer and expert."""


@dataclass(frozen=True)
class Places:
    """Where Plotly is to draw the nodes, those of benchmark first, then those of organic."""

    x: list[float]
    """0 to 1, layers from left to right."""
    y: list[float]
    """0 to 1, downwards."""
    pad: float
    """Pixels between the nodes of the layer that has most."""
    second_half: float
    """Where the half of organic begins, 0 to 1."""


def paths(results: Results) -> go.Figure:
    """The paths through neighbouring layers as a Sankey diagram, one half for each condition.

    Both halves have one order of experts and one scale. A path that a condition never takes is left
    out of its half, and so is an expert without a path there. A path is coloured in the half of the
    condition that takes it more, where it is specific (`p_max` of at most 0.05).

    Args:
        results: Of a study; reads the table `paths`.

    Raises:
        InputError: If no path was counted, or none has a share under either condition.
    """
    table = table_of(results, "paths")
    rows = table.drop_duplicates("path")
    links = _links(rows)
    if not links:
        raise NothingToDrawError("No path has a share under either condition, so none is drawn.")
    nodes = sorted(
        {link[end] for link in links for end in ("start", "stop")},
        key=lambda node: (HALVES.index(node[0]), *node[1:]),
    )
    places = _places(nodes, links)
    figure = go.Figure(_sankey(links, nodes, places))
    lay_out(
        figure,
        title="Expert paths from layer to layer",
        subtitle=f"{model_of(results)} · n = {len(rows)} of {rows['n_paths'].iloc[0]:,.0f} paths, "
        f"{rows['n_clusters'].iloc[0]:,.0f} {rows['cluster'].iloc[0]}s · width: share of paths (%)",
        summary=_summary(table),
        caution=CAUTION,
    )
    _name_layers(figure, sorted({layer for _, layer, _ in nodes}), places)
    return figure


def _steps(path: str) -> list[Step]:
    """Layer and expert of each step of a path such as `2:9 > 3:8`."""
    return [(int(layer), int(expert)) for layer, expert in re.findall(r"(\d+):(\d+)", path)]


def _links(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """A link for each step of each path under each condition that takes it.

    Plotly drops links of value 0 and nodes without links, and gives the places of those it dropped
    to others; so neither is handed to it.
    """
    links: list[dict[str, Any]] = []
    for condition in HALVES:
        shares = 100 * column(rows, f"share_{condition}")
        for share, row in zip(shares, rows.itertuples(), strict=True):
            links += [
                {
                    "start": (condition, *start),
                    "stop": (condition, *stop),
                    "value": share,
                    "color": _link_color(row, condition),
                    "customdata": [*start, *stop, condition, row.path, row.p_max],
                }
                for start, stop in pairwise(_steps(str(row.path)))
                if share > 0
            ]
    return links


def _link_color(row: Any, condition: str) -> str:
    """Coloured where the path is specific to this condition, else grey."""
    more = row.share_benchmark > row.share_organic
    is_here = row.p_max <= SIGNIFICANT and more == (condition == "benchmark")
    return translucent(CONDITIONS[condition][0] if is_here else GREY, 0.55 if is_here else 0.28)


def _sankey(links: Sequence[dict[str, Any]], nodes: Sequence[Node], places: Places) -> go.Sankey:
    """Nodes of benchmark above and of organic below."""
    place = {node: index for index, node in enumerate(nodes)}
    return go.Sankey(
        arrangement="fixed",
        domain={"x": [0, 1], "y": [BOTTOM, TOP]},
        node={
            "x": places.x,
            "y": places.y,
            "pad": places.pad,
            "thickness": 11,
            "line": {"width": 0},
            "color": [CONDITIONS[name][0] for name, *_ in nodes],
            "label": [str(expert) for *_, expert in nodes],
            "customdata": [[layer, expert, name] for name, layer, expert in nodes],
            "hovertemplate": "<b>layer %{customdata[0]}, expert %{customdata[1]}</b><br>"
            "%{customdata[2]}: %{value:.2f} % of paths, of those shown<extra></extra>",
        },
        link={
            "source": [place[link["start"]] for link in links],
            "target": [place[link["stop"]] for link in links],
            **{key: [link[key] for link in links] for key in ("value", "color", "customdata")},
            "hovertemplate": "<b>%{customdata[5]}</b> (layer:expert)<br>%{customdata[4]}: "
            "%{value:.3f} % of paths<br>p = %{customdata[6]:.2g}, all paths counted<extra></extra>",
        },
        textfont={"size": 11},
    )


def _places(nodes: Sequence[Node], links: Sequence[dict[str, Any]]) -> Places:
    """Places that leave gaps: experts of a layer downwards, in one order in both halves.

    Plotly makes the values of the fullest layer as high as the plot less `pad` between its nodes,
    so `pad` is what keeps `FILLED` of the plot for nodes and the rest for the gaps between them.
    """
    layers = sorted({layer for _, layer, _ in nodes})
    layer_of = np.array([layers.index(layer) for _, layer, _ in nodes])
    half = np.array([HALVES.index(name) for name, *_ in nodes])
    heights = _heights(links, nodes)
    totals = np.zeros((2, len(layers)))
    np.add.at(totals, (half, layer_of), heights)
    gaps = np.bincount(layer_of) - 1
    pad = (1 - FILLED) / max(1, gaps.max())
    scale = float(((1 - pad * gaps) / totals.sum(axis=0)).min())
    room = 0.92 * totals.max(axis=1) / totals.max(axis=1).sum()
    y = np.zeros(len(half))
    for side, top in enumerate((0.0, 1 - room[1])):
        for place in range(len(layers)):
            mine = np.flatnonzero((layer_of == place) & (half == side))
            y[mine] = top + _stacked(scale * heights[mine], float(room[side]))
    x = np.linspace(0.001, 0.999, len(layers))[layer_of]
    return Places(x.tolist(), y.tolist(), pad * PLOT_HEIGHT, float(1 - room[1]))


def _heights(links: Sequence[dict[str, Any]], nodes: Sequence[Node]) -> np.ndarray:
    """What goes in or out of each node, whichever is more."""
    place = {node: index for index, node in enumerate(nodes)}
    values = [link["value"] for link in links]
    ends = [[place[link[end]] for link in links] for end in ("start", "stop")]
    return np.maximum(*(np.bincount(end, values, minlength=len(nodes)) for end in ends))


def _stacked(heights: np.ndarray, room: float) -> np.ndarray:
    """Centres of nodes under each other, with equal gaps above, between and below them."""
    gap = max(0.0, room - heights.sum()) / (len(heights) + 1)
    centres = gap * np.arange(1, len(heights) + 1) + heights.cumsum() - heights / 2
    return np.asarray(centres)


def _name_layers(figure: go.Figure, layers: Sequence[int], places: Places) -> None:
    figure.update_layout(
        height=680, margin={"t": 84, "b": 62, "l": 20, "r": 36}, hovermode="closest"
    )
    note = {"showarrow": False, "xref": "paper", "yref": "paper"}
    for place, layer in zip(np.linspace(0, 1, len(layers)), layers, strict=True):
        figure.add_annotation(
            x=float(place), y=0.03, text=str(layer), yanchor="top", font={"size": 11}, **note
        )
    figure.add_annotation(x=0.5, y=-0.02, text=LAYER_TITLE, yanchor="top", **note)
    begins = (TOP, TOP - places.second_half * (TOP - BOTTOM))
    for condition, place in zip(HALVES, begins, strict=True):
        figure.add_annotation(
            x=0,
            y=place,
            xanchor="left",
            yanchor="bottom",
            text=f"<b>{condition}</b>",
            font={"color": CONDITIONS[condition][0]},
            **note,
        )


def _summary(table: pd.DataFrame) -> str:
    """The most frequent path and, where one is, the most specific; else that none is."""
    ranked = {name: table[table["ranked_by"] == name] for name in ("share", "specific")}
    frequent, specific = ranked["share"], ranked["specific"]
    if len(frequent) and len(specific) and specific["p_max"].iloc[0] <= SIGNIFICANT:
        return paths_sentence(table)
    said = ""
    if len(frequent):
        top = frequent.iloc[0]
        said = (
            f"The most frequent path (layer:expert) is {top.path}, {100 * top.share:.2f} % of all. "
        )
    return said + _none_specific(specific)


def _none_specific(specific: pd.DataFrame) -> str:
    """That no path is specific, with the least p; or that none was tested."""
    known = specific.dropna(subset="p_max")
    if known.empty:
        return "Whether a path is condition-specific was not tested."
    least = known.iloc[0]
    return (
        f"None is condition-specific: the least p is {least.p_max:.2g} ({least.path}) against the "
        f"largest of {least.n_paths:,.0f} paths in {least.n_permutations:,.0f} relabellings of "
        f"{least.n_clusters:,.0f} {least.cluster}s."
    )
