"""The heatmap of expert usage by layer and expert, with a view for each condition."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from interp.figure_style import INK, LAYER_TITLE, MINUS, lay_out
from interp.sentences import usage_sentence

SEQUENTIAL = [
    [0.0, "#f7f9fb"],
    [0.25, "#cfe0ec"],
    [0.5, "#7fb0d0"],
    [0.75, "#2f77ab"],
    [1.0, "#08305c"],
]
DIVERGING = [
    [0.0, "#9c3f00"],
    [0.25, "#ec9a57"],
    [0.5, "#f8f8f6"],
    [0.75, "#6aaed6"],
    [1.0, "#08457e"],
]
"""Orange to blue through white: organic has more, benchmark has more."""

SHOWN_QUANTILE = 0.99
"""Colours of the heatmap end at this quantile, so that one busy expert does not bleach the rest."""


def usage_figure(usage: pd.DataFrame, *, model: str) -> go.Figure:
    """Heatmap of usage by layer and expert: the difference, and the share under each condition.

    Drawn is the prompt mean, so that long prompts do not outvote short ones.

    Args:
        usage: Table of `Results.usage`; rows of other conditions than these two are not drawn.
        model: Name for the subtitle.
    """
    grids = {
        condition: usage[usage["condition"] == condition].pivot_table(
            index="layer", columns="expert", values="usage_prompt_mean"
        )
        for condition in ("benchmark", "organic")
        if (usage["condition"] == condition).any()
    }
    n_layers, n_experts = next(iter(grids.values())).shape
    counts = usage.drop_duplicates("condition").set_index("condition")[["n_tokens", "n_prompts"]]
    views = _usage_views(grids, counts, n_experts=n_experts)
    figure = go.Figure([view["trace"] for view in views])
    lay_out(
        figure,
        title="Expert usage by layer and expert",
        subtitle=f"{model} · prompt mean, n = {_usage_counts(counts.loc[list(grids)])} · uniform "
        f"share 1/{n_experts} = {100 / n_experts:.3g} %",
        summary=usage_sentence(usage),
    )
    plot_height = float(np.clip(16 * n_layers, 200, 560))
    figure.update_layout(
        height=plot_height + 190, margin={"t": 58, "b": 132}, hovermode="closest", showlegend=False
    )
    figure.update_layout(updatemenus=[_view_buttons(views)])
    figure.update_xaxes(
        title_text="Expert (index)", showgrid=False, ticks="outside", zeroline=False
    )
    figure.update_yaxes(
        title_text=LAYER_TITLE if n_layers > 10 else "Layer<br>(number in the model)",
        type="category",
        showgrid=False,
    )
    return figure


def _usage_views(
    grids: dict[str, pd.DataFrame], counts: pd.DataFrame, *, n_experts: int
) -> list[dict[str, Any]]:
    """Label and trace of each view, the first one visible; both shares have one colour scale."""
    shares = np.stack([100 * grid.to_numpy() for grid in grids.values()])
    hover = _hover_text(counts.loc[list(grids)], n_experts=n_experts)
    first = next(iter(grids.values()))
    common = {
        "x": first.columns,
        "y": [str(layer) for layer in first.index],
        "customdata": _hover_shares(shares),
        "hovertemplate": hover,
        "xgap": 0.5 if n_experts <= 64 else 0,
        "ygap": 0.5,
    }
    views = []
    if len(grids) == 2:
        difference = shares[0] - shares[1]
        trace = go.Heatmap(z=difference, **_difference_colors(difference), **common)
        views.append({"label": "Difference", "trace": trace})
    colors = _share_colors(shares, uniform=100 / n_experts)
    for condition, share in zip(grids, shares, strict=True):
        trace = go.Heatmap(z=share, **colors, **common)
        views.append({"label": condition.capitalize(), "trace": trace})
    for view in views[1:]:
        view["trace"].visible = False
    return views


def _share_colors(
    shares: Float[np.ndarray, "conditions layers experts"], *, uniform: float
) -> dict[str, Any]:
    """White to blue; at least up to twice the uniform share, so that even usage looks even."""
    top = max(float(np.quantile(shares, SHOWN_QUANTILE)), 2 * uniform)
    bar = _color_bar(
        "Share of routed slots (%), prompt mean",
        {0.0: "0", uniform: f"{uniform:.2g} (uniform)", top: f"≥ {top:.2g}"},
    )
    return {"colorscale": SEQUENTIAL, "zmin": 0.0, "zmax": top, "colorbar": bar}


def _difference_colors(difference: Float[np.ndarray, "layers experts"]) -> dict[str, Any]:
    reach = float(np.quantile(np.abs(difference), SHOWN_QUANTILE)) or 1.0
    ends = {-reach: f"≤ {MINUS}{reach:.2g}", 0.0: "0", reach: f"≥ +{reach:.2g}"}
    bar = _color_bar(f"Benchmark {MINUS} organic (percentage points), prompt means", ends)
    return {"colorscale": DIVERGING, "zmin": -reach, "zmax": reach, "colorbar": bar}


def _hover_text(counts: pd.DataFrame, *, n_experts: int) -> str:
    lines = ["<b>layer %{y}, expert %{x}</b>"]
    for position, condition in enumerate(counts.index):
        n_prompts = f"mean of n = {counts.loc[condition, 'n_prompts']:,.0f} prompts"
        lines.append(f"{condition}: %{{customdata[{position}]:.2f}} % of slots ({n_prompts})")
    if len(counts) == 2:
        lines.append("difference: %{customdata[2]:+.2f} points")
    return "<br>".join([*lines, f"uniform: {100 / n_experts:.2f} %"]) + "<extra></extra>"


def _hover_shares(
    shares: Float[np.ndarray, "conditions layers experts"],
) -> Float[np.ndarray, "layers experts shown"]:
    """Shares under each condition, and their difference where there are two."""
    shown = [*shares, shares[0] - shares[1]] if len(shares) == 2 else [*shares]
    return np.round(np.stack(shown, axis=-1), 4)


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
        "thickness": 14,
        "outlinewidth": 0,
        "title": {"text": title + "<br>&nbsp;", "side": "top", "font": {"size": 13, "color": INK}},
        "tickvals": list(ticks),
        "ticktext": list(ticks.values()),
        "tickfont": {"size": 12},
    }


def _view_buttons(views: list[dict[str, Any]]) -> dict[str, Any]:
    buttons = [
        {
            "label": view["label"],
            "method": "restyle",
            "args": [{"visible": [other is view for other in views]}],
        }
        for view in views
    ]
    return {
        "type": "buttons",
        "direction": "right",
        "buttons": buttons,
        "x": 0,
        "xanchor": "left",
        "y": 1,
        "yanchor": "bottom",
        "pad": {"b": 10, "t": 0, "l": 0, "r": 0},
        "bgcolor": "#ffffff",
        "bordercolor": "#c5cad3",
        "font": {"size": 13, "color": INK},
    }


def _usage_counts(counts: pd.DataFrame) -> str:
    return ", ".join(
        f"{row.n_prompts:,.0f} {row.Index} prompts ({row.n_tokens:,.0f} tokens)"
        for row in counts.itertuples()
    )
