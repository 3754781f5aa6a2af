"""The heatmaps of expert usage by layer and expert: either condition, and their difference."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from interp.cache.errors import InputError
from interp.figure_style import DIVERGING, INK, LAYER_TITLE, MINUS, SEQUENTIAL, lay_out, show_views
from interp.figures_tables import (
    NothingToDrawError,
    empty_table,
    even_share,
    found_of,
    listed,
    model_of,
    none_possible,
    numeric,
    table_of,
)
from interp.results import Results

OUTLINE = "#111111"
DIFFERENCE_NAMES = {
    "Raw": "difference",
    "Token": "difference at the same token",
    "Surface": "difference beyond the surface",
}
SHOWN_QUANTILE = 0.99
"""Colours end at this quantile, so that one busy expert does not bleach the rest."""
SIGNIFICANT = 0.05
DIFFERENCES = {
    "Raw": ("effect", "raw_q_bh"),
    "Token": ("adjusted_effect", "q_bh"),
    "Surface": ("surface_adjusted_effect", "surface_adjusted_q_bh"),
}
"""Views of table `experts`: label, effect, and the q whose experts are outlined."""
DESCRIBED = {"Raw": "as they are", "Token": "at the same token", "Surface": "beyond the surface"}
CAUTION = (
    "Among hundreds of cells some differ by chance, so look at the outlined ones; tokens are "
    "pooled, so long prompts weigh more, and colours end at the 99 % quantile."
)

Grid = Float[np.ndarray, "layers experts"]


def usage(results: Results, *, view: str = "Raw") -> go.Figure:
    """Usage of every expert: difference of the conditions, raw and adjusted, and each by itself.

    Cells outlined in a difference have q of at most 0.05 (Benjamini and Hochberg over all experts).

    Args:
        results: Of a study; reads the tables `usage` and, where it is there, `experts`.
        view: The view that is seen first, and alone in a picture: the difference Raw, or
            adjusted for Token or Surface, or the usage under Benchmark or Organic.

    Raises:
        InputError: If no condition has usage, or the view is none of these.
    """
    shares = _shares(results)
    layers = next(iter(shares.values())).index.to_numpy()
    views = _differences(results, shares) | _conditions(results, shares)
    first = view if view in views else next(iter(views))
    if view not in views and view != "Raw":
        raise InputError(f"view is {view!r}, which is none of these: {', '.join(views)}.")
    figure = go.Figure()
    lay_out(
        figure,
        title="Expert usage by layer and expert",
        subtitle=f"{model_of(results)} · n = {_counted(results)} · even share "
        f"{100 * even_share(results):.3g} %",
        summary=_summary(results, shares),
        caution=CAUTION,
    )
    show_views(figure, views, shown=first)
    _frame(figure, layers)
    return figure


def _shares(results: Results) -> dict[str, pd.DataFrame]:
    """Usage in percent by layer and expert under each of the two conditions that has any."""
    table = table_of(results, "usage")
    found = {
        name: 100 * rows.pivot(index="layer", columns="expert", values="usage")
        for name in ("benchmark", "organic")
        if len(rows := table[table["condition"] == name])
    }
    if not found:
        raise empty_table(results, "usage")
    if not np.isfinite(sum(grid.to_numpy(dtype=float) for grid in found.values())).any():
        raise NothingToDrawError("No expert has usage that is a number, so none is drawn.")
    return found


def _differences(results: Results, shares: dict[str, pd.DataFrame]) -> dict[str, list[Any]]:
    """A heatmap for each kind of difference, with the outline of what the FDR lets through."""
    if len(shares) < 2:
        return {}
    if results.experts.empty:
        raw = shares["benchmark"] - shares["organic"]
        views = {"Raw": _view(raw, None, DIFFERENCE_NAMES["Raw"])}
        _tell_both(views["Raw"][0], shares)
        return views
    table, views = numeric(results.experts), {}
    for label, (effect, q) in DIFFERENCES.items():
        grid = 100 * table.pivot(index="layer", columns="expert", values=effect)
        below = table.pivot(index="layer", columns="expert", values=q)
        if grid.notna().any(axis=None):
            views[label] = _view(grid, below.to_numpy() <= SIGNIFICANT, DIFFERENCE_NAMES[label])
    if "Raw" in views:
        _tell_both(views["Raw"][0], shares)
    return views


def _tell_both(heat: go.Heatmap, shares: dict[str, pd.DataFrame]) -> None:
    """Add the usage under either condition to what is told on hover."""
    both = [np.round(shares[name].to_numpy(dtype=float), 3) for name in ("benchmark", "organic")]
    heat.customdata = [
        [[*map(int, where), first, second] for where, first, second in zip(*line, strict=True)]
        for line in zip(heat.customdata, *(each.tolist() for each in both), strict=True)
    ]
    told = "benchmark %{customdata[2]:.2f} %, organic %{customdata[3]:.2f} % of slots"
    heat.hovertemplate = heat.hovertemplate.replace("<extra>", f"<br>{told}<extra>")


def _view(grid: pd.DataFrame, found: np.ndarray | None, name: str) -> list[Any]:
    values = grid.to_numpy(dtype=float)
    reach = float(np.nanquantile(np.abs(values), SHOWN_QUANTILE)) or 1.0
    ends = {-reach: f"≤ {MINUS}{reach:.2g}", 0.0: "0", reach: f"≥ +{reach:.2g}"}
    bar = _color_bar(f"Benchmark {MINUS} organic (percentage points of slots)", ends)
    colors = {"colorscale": DIVERGING, "zmin": -reach, "zmax": reach, "colorbar": bar}
    heat = _heatmap(grid, f"{name}: %{{z:+.3f}} points", colors)
    return [heat] if found is None else [heat, _outline(found, grid.columns.to_numpy(dtype=float))]


def _conditions(results: Results, shares: dict[str, pd.DataFrame]) -> dict[str, list[Any]]:
    """A heatmap for each condition, both on one scale of colours that starts at 0."""
    top = float(np.nanquantile(np.stack(list(shares.values())), SHOWN_QUANTILE))
    even = 100 * even_share(results)
    ticks = {0.0: "0", even: f"{even:.2g} (even)", top: f"≥ {top:.2g}"}
    bar = _color_bar("Share of routed slots (%), tokens pooled", ticks)
    colors = {"colorscale": SEQUENTIAL, "zmin": 0.0, "zmax": top, "colorbar": bar}
    return {
        name.capitalize(): [_heatmap(grid, f"{name}: %{{z:.3f}} % of slots", colors)]
        for name, grid in shares.items()
    }


def _heatmap(grid: pd.DataFrame, hover: str, colors: dict[str, Any]) -> go.Heatmap:
    """Rows are places from 0 up, since the numbers of routed layers may have gaps."""
    layers, experts = grid.index.to_numpy(dtype=int), grid.columns.to_numpy(dtype=int)
    where = np.stack(np.meshgrid(layers, experts, indexing="ij"), axis=-1).astype(np.int16)
    return go.Heatmap(
        z=grid.to_numpy(dtype=np.float32),
        x=experts,
        y=np.arange(len(layers)),
        customdata=where,
        xgap=0.5,
        ygap=0.5,
        hovertemplate="<b>layer %{customdata[0]}, expert %{customdata[1]}</b><br>"
        + hover
        + "<extra></extra>",
        **colors,
    )


def _outline(found: np.ndarray, experts: np.ndarray) -> go.Scatter:
    """A square around each cell that is found, as one line with gaps."""
    rows, columns = np.nonzero(found)
    across = np.array([-0.5, 0.5, 0.5, -0.5, -0.5, np.nan])
    up = np.array([-0.5, -0.5, 0.5, 0.5, -0.5, np.nan])
    return go.Scatter(
        x=(experts[columns][:, None] + across).ravel().astype(np.float32),
        y=(rows[:, None] + up).ravel().astype(np.float32),
        mode="lines",
        line={"color": OUTLINE, "width": 1.5},
        hoverinfo="skip",
        showlegend=False,
        name="q at most 0.05",
    )


def _color_bar(title: str, ticks: dict[float, str]) -> dict[str, Any]:
    """Below the plot, where a narrow screen has room; an empty line keeps the title off the bar."""
    return {
        "orientation": "h",
        "x": 0.5,
        "xanchor": "center",
        "y": 0,
        "yref": "container",
        "yanchor": "bottom",
        "len": 0.92,
        "thickness": 12,
        "outlinewidth": 0,
        "title": {"text": title + "<br>&nbsp;", "side": "top", "font": {"size": 12, "color": INK}},
        "tickvals": list(ticks),
        "ticktext": list(ticks.values()),
        "tickfont": {"size": 12},
    }


def _frame(figure: go.Figure, layers: np.ndarray) -> None:
    n_layers = len(layers)
    height = float(np.clip(17 * n_layers, 180, 620))
    step = max(1, round(n_layers / (height / 22)))
    figure.update_layout(height=height + 226, margin={"t": 104, "b": 122})
    figure.update_layout(hovermode="closest", showlegend=False)
    figure.update_xaxes(title_text="Expert (index)", showline=False)
    figure.update_yaxes(
        title_text=LAYER_TITLE if n_layers > 10 else "Layer<br>(number in the model)",
        tickvals=np.arange(n_layers)[::step],
        ticktext=[str(int(layer)) for layer in layers[::step]],
        range=[-0.5, n_layers - 0.5],
        showgrid=False,
    )


def _counted(results: Results) -> str:
    """Tokens and prompts of each condition."""
    rows = numeric(results.usage).drop_duplicates("condition")
    rows = rows[rows["condition"].isin(["benchmark", "organic"])]
    prompts = listed(list(zip(rows["n_prompts"].tolist(), rows["condition"].tolist(), strict=True)))
    return f"{prompts} prompts ({rows['n_tokens'].sum():,.0f} tokens)"


def _summary(results: Results, shares: dict[str, pd.DataFrame]) -> str:
    """The cell of largest difference, and how many the FDR lets through with each adjustment."""
    grids = {name: grid.to_numpy(dtype=float) for name, grid in shares.items()}
    (name, first), *others = grids.items()
    differs = first - others[0][1] if others else first
    row, place = divmod(int(np.nanargmax(np.abs(differs))), differs.shape[1])
    expert = f"expert {shares[name].columns[place]} of layer {shares[name].index[row]}"
    if not others:
        return f"{expert.capitalize()} gets most: {first[row, place]:.1f} % of {name} slots."
    return (
        f"Usage differs most for {expert}: {first[row, place]:.1f} % of benchmark slots and "
        f"{others[0][1][row, place]:.1f} % of organic ones, tokens pooled. {_found(results)}"
    )


def _found(results: Results) -> str:
    if results.experts.empty:
        return "No test of single experts is in these results."
    table = numeric(results.experts)
    found = {DESCRIBED[label]: found_of(table, q) for label, (_, q) in DIFFERENCES.items()}
    tested = [f"{count} {words}" for words, count in found.items() if count is not None]
    untested = [words for words, count in found.items() if count is None]
    if not tested:
        return f"None of {len(table)} experts was tested: no q is known."
    said = f"Of {len(table)} experts q is at most 0.05 for {_and(tested)}{none_possible(table)}."
    return said + (f" They were not tested {_and(untested)}." if untested else "")


def _and(parts: Sequence[str]) -> str:
    """Parts of a sentence, as `a`, `a and b`, or `a, b, and c`."""
    if len(parts) < 3:
        return " and ".join(parts)
    return f"{', '.join(parts[:-1])}, and {parts[-1]}"
