"""What all figures share: colours, fonts, and the layout that carries title, n and summary."""

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
INK, MUTED, GRID = "#1f2937", "#5b6472", "#e5e7eb"
NAVY, GREEN, BLUE = "#1b3a5c", "#009e73", "#0072b2"
VERMILLION, PURPLE, OCHRE = "#d55e00", "#8e3b76", "#b7791f"
"""After Okabe and Ito, which people with the common colour-vision deficiencies tell apart; lines
differ in dash and marker too."""

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


def lay_out(figure: go.Figure, *, title: str, subtitle: str, summary: str) -> None:
    """Set all that the figures have in common, in place."""
    figure.update_layout(
        template="none",
        title={"text": title, "subtitle": {"text": subtitle}, "x": 0, "xanchor": "left"},
        meta={"summary": summary},
        font={"family": FONT, "size": 13, "color": INK},
        height=460,
        margin={"l": 64, "r": 16, "t": 90, "b": 56},
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
        },
        modebar={"bgcolor": "rgba(255,255,255,0)", "color": "#9aa3b0", "activecolor": INK},
        dragmode=False,
    )
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": "#9aa3b0", "title": {"standoff": 10}}
    figure.update_xaxes(**axis, ticks="outside", showline=True, showgrid=False, fixedrange=True)
    figure.update_yaxes(**axis, showline=False, fixedrange=True)
