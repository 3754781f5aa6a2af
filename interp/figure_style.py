"""What all figures share: colours, fonts, and the layout that carries title, n and summary."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
INK, MUTED, GRID = "#1f2937", "#5b6472", "#e5e7eb"
"""Text, lesser text and grid lines: what a dark page puts its own colours in place of."""
BLUE, VERMILLION, GREEN = "#0072b2", "#d55e00", "#009e73"
PURPLE, OCHRE, SKY = "#cc79a7", "#e69f00", "#56b4e9"
"""Of Okabe and Ito 2008 (Color Universal Design), which people with the common colour-vision
deficiencies tell apart, and which show on a light page and on a dark one; symbols differ too."""
GREY, NAVY = "#7a8494", "#1b3a5c"
CATEGORIES = (BLUE, VERMILLION, GREEN, PURPLE, OCHRE, SKY)
"""No more kinds than these have a colour; all others are grey."""
CONDITIONS = {
    "benchmark": (BLUE, "circle", "solid"),
    "organic": (VERMILLION, "diamond", "dash"),
    "mixed": (GREY, "square", "dot"),
}
"""Colour, symbol and dash of each condition, the same in every figure."""
SEQUENTIAL = ["#f7f9fb", "#c1d7e7", "#89b6d3", "#5b93be", "#2c71a5", "#1b507f", "#08305c"]
"""White to blue; each step is as much darker to the eye as the one before."""
DIVERGING = [
    *("#873300", "#c0550d", "#e38844", "#f6bf95", "#f8f8f6"),
    *("#aecfe5", "#62a6d0", "#337aae", "#114f89"),
]
"""Orange to blue through white: organic has more, benchmark has more; both ends are as dark."""

MINUS = "\u2212"
LAYER_TITLE = "Layer (number in the model)"


def translucent(color: str, alpha: float) -> str:
    """A `#rrggbb` colour with an opacity of 0 to 1."""
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {alpha})"


def layer_axis(figure: go.Figure, layers: Float[np.ndarray, "layers"]) -> None:
    """Title the x axis, and mark whole layers only."""
    figure.update_xaxes(
        title_text=LAYER_TITLE, hoverformat="d", unifiedhovertitle={"text": "layer %{x}"}
    )
    if len(layers):
        figure.update_xaxes(range=[layers.min() - 0.5, layers.max() + 0.5])
        figure.update_xaxes(dtick=1 if np.ptp(layers) < 12 else None)


def lay_out(
    figure: go.Figure, *, title: str, subtitle: str, summary: str, caution: str = ""
) -> None:
    """Set all that the figures have in common, in place.

    Args:
        figure: Figure with its traces.
        title: What is drawn.
        subtitle: Model and n; one line of a narrow figure holds about 105 letters.
        summary: What it shows, for readers who do not see it.
        caution: One sentence on how it can fool the reader.
    """
    figure.update_layout(
        template="none",
        title={"text": title, "x": 0.012, "xanchor": "left", "y": 0.985, "yanchor": "top"},
        title_font={"size": 17, "color": INK, "weight": 600},
        title_subtitle={"text": subtitle, "font": {"size": 12, "color": MUTED}},
        meta={"summary": summary, "caution": caution},
        font={"family": FONT, "size": 13, "color": INK},
        height=460,
        margin={"l": 64, "r": 16, "t": 104, "b": 56},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode="x unified",
        hoverlabel={
            "bgcolor": "#ffffff",
            "bordercolor": "#c5cad3",
            "font": {"size": 13, "color": INK},
        },
        legend={
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "yanchor": "bottom",
            "traceorder": "reversed",
            "font": {"size": 12},
        },
        modebar={"bgcolor": "rgba(255,255,255,0)", "color": "#9aa3b0", "activecolor": INK},
        dragmode=False,
    )
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": "#9aa3b0", "automargin": True}
    axis |= {"title": {"standoff": 10, "font": {"size": 13}}}
    figure.update_xaxes(**axis, ticks="outside", showline=True, showgrid=False, fixedrange=True)
    figure.update_yaxes(**axis, showline=False, fixedrange=True)


def show_views(figure: go.Figure, views: dict[str, list[Any]], *, shown: str) -> None:
    """Add the traces of each view, one view visible, and a button for each above the plot.

    Args:
        figure: Figure whose other traces are always visible.
        views: Traces by the label of their button.
        shown: Label of the view that is seen first.
    """
    always = len(figure.data)
    owners = [label for label, traces in views.items() for _ in traces]
    figure.add_traces([trace for traces in views.values() for trace in traces])
    for trace, owner in zip(figure.data[always:], owners, strict=True):
        trace.visible = owner == shown
    buttons = [
        {
            "label": label,
            "method": "restyle",
            "args": [{"visible": [True] * always + [owner == label for owner in owners]}],
        }
        for label in views
    ]
    figure.update_layout(updatemenus=[_menu(buttons, active=list(views).index(shown))])


def _menu(buttons: Sequence[dict[str, Any]], *, active: int) -> dict[str, Any]:
    return {
        "type": "buttons",
        "direction": "right",
        "buttons": list(buttons),
        "active": active,
        "x": 0,
        "xanchor": "left",
        "y": 1,
        "yanchor": "bottom",
        "pad": {"b": 8, "t": 0, "l": 0, "r": 0},
        "bgcolor": "#ffffff",
        "bordercolor": "#c5cad3",
        "font": {"size": 11, "color": "#1f2937"},
    }
