"""The volcano of experts: how large the effect of the condition on each is, and how sure."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp.figure_style import (
    BLUE,
    GREY,
    MINUS,
    MUTED,
    VERMILLION,
    lay_out,
    show_views,
    translucent,
)
from interp.figures_tables import (
    NothingToDrawError,
    column,
    found_of,
    model_of,
    none_possible,
    on_experts,
    table_of,
)
from interp.results import Results

SIGNIFICANT = 0.05
SMALLEST_Q = 1e-16
"""Lower values of q are drawn here, so that 0 has a place."""
MOST_BARS = 60
"""No intervals are drawn where more experts than these would have one; hover gives them all."""
SURFACE_Q = "surface_adjusted_q_bh"
KINDS = {
    "Raw": ("effect", "effect_low", "effect_high", "raw_q_bh"),
    "Token": ("adjusted_effect", "adjusted_low", "adjusted_high", "q_bh"),
    "Surface": (
        "surface_adjusted_effect",
        "surface_adjusted_low",
        "surface_adjusted_high",
        SURFACE_Q,
    ),
}
"""Views by label: effect, the ends of its 90 % interval, and q."""
UNTESTED = (
    "No expert was tested: none has both an effect and a q, so none is drawn. That is not the "
    "same as that none was found."
)
CAUTION = (
    "An expert far out may still do nothing, the effects of those found are too large by the way "
    "they were found, and confirmation depends on one random split of the sources or templates."
)


def volcano(results: Results, *, view: str = "Surface") -> go.Figure:
    """Effect of the condition on every expert against q, with the verdict's margin.

    The verdict uses effects adjusted for the surface; the other views are raw, or adjusted for the
    token alone, and so show what of an effect is vocabulary.

    Args:
        results: Of a study; reads the table `experts`.
        view: The view that is seen first: Raw, Token or Surface.

    Raises:
        InputError: If no expert was tested.
    """
    experts = table_of(results, "experts")
    kinds = _drawn_kinds(experts)
    if not kinds:
        raise NothingToDrawError(UNTESTED)
    views = {label: _points(experts, *KINDS[label]) for label in kinds}
    figure = go.Figure()
    tested = results.run.get("experts", {})
    margin = 100 * float(tested.get("margin", 0.5 / float(results.run["n_experts"])))
    clusters = " and ".join(
        f"{count:,} {name}s" for name, count in tested.get("clusters", {}).items()
    )
    lay_out(
        figure,
        title="Effect of the condition on each expert",
        subtitle=f"{model_of(results)} · n = {len(experts):,} experts"
        + (f", {clusters}" if clusters else "")
        + " · bars: 90 % intervals",
        summary=_summary(experts, margin),
        caution=CAUTION,
    )
    show_views(figure, views, shown=view if view in views else next(reversed(views)))
    _axes(figure, margin)
    return figure


def _drawn_kinds(experts: pd.DataFrame) -> list[str]:
    """Those in which an expert has both an effect and a q."""
    return [
        label
        for label, (effect, *_, q) in KINDS.items()
        if np.isfinite(column(experts, effect) + column(experts, q)).any()
    ]


def _points(experts: pd.DataFrame, effect: str, low: str, high: str, q: str) -> list[go.Scatter]:
    """Experts in three groups: not told apart, below the FDR, and confirmed as well."""
    below = column(experts, q) <= SIGNIFICANT
    confirmed = column(experts, "is_confirmed") == 1
    groups: list[tuple[str, np.ndarray, dict[str, Any]]] = [
        ("q above 0.05", ~below & ~confirmed, {"color": GREY, "size": 6, "symbol": "circle-open"}),
        ("q at most 0.05", below & ~confirmed, {"color": BLUE, "size": 8, "symbol": "diamond"}),
        ("confirmed", confirmed, {"color": VERMILLION, "size": 11, "symbol": "star"}),
    ]
    return [
        _group(
            experts[chosen], (effect, low, high, q), name, marker, bars=chosen.sum() <= MOST_BARS
        )
        for name, chosen, marker in groups
    ]


def _group(
    rows: pd.DataFrame, columns: tuple[str, ...], name: str, marker: dict[str, Any], *, bars: bool
) -> go.Scatter:
    effect, low, high, q = (column(rows, each) for each in columns)
    reached = rows.assign(low=100 * low, high=100 * high, q=q)
    error = {
        "type": "data",
        "symmetric": False,
        "array": 100 * (high - effect),
        "arrayminus": 100 * (effect - low),
        "thickness": 1,
        "width": 0,
        "color": translucent(marker["color"], 0.45),
    }
    return go.Scatter(
        x=100 * effect,
        y=-np.log10(np.maximum(q, SMALLEST_Q)),
        name=name,
        mode="markers",
        showlegend=True,
        marker=marker,
        error_x=error if bars and marker["color"] != GREY else None,
        customdata=on_experts(reached, "low", "high", "q"),
        hovertemplate="<b>layer %{customdata[0]}, expert %{customdata[1]}</b><br>"
        "effect %{x:+.3f} points (%{customdata[2]:+.3f} to %{customdata[3]:+.3f})<br>"
        f"q = %{{customdata[4]:.2g}}, {name}<extra></extra>",
    )


def _axes(figure: go.Figure, margin: float) -> None:
    figure.update_layout(hovermode="closest", height=540, margin={"b": 96})
    figure.update_layout(legend={"y": -0.17, "yanchor": "top", "traceorder": "normal"})
    figure.update_xaxes(title_text=f"Usage, benchmark {MINUS} organic (points of slots)")
    figure.update_yaxes(title_text=f"{MINUS}log10 q (no unit; up is surer)", rangemode="tozero")
    for place in (-margin, margin):
        figure.add_vline(x=place, line={"color": MUTED, "width": 1.2, "dash": "dash"})
    figure.add_hline(y=-np.log10(SIGNIFICANT), line={"color": MUTED, "width": 1.2, "dash": "dot"})
    note = {"showarrow": False, "font": {"size": 11, "color": MUTED}}
    figure.add_annotation(
        x=margin, y=0, yref="paper", yanchor="bottom", xanchor="left", text=" margin", **note
    )
    figure.add_annotation(
        x=1,
        xref="paper",
        y=-np.log10(SIGNIFICANT),
        xanchor="right",
        yanchor="bottom",
        text="q = 0.05",
        **note,
    )


def _summary(experts: pd.DataFrame, margin: float) -> str:
    effect = 100 * column(experts, "surface_adjusted_effect")
    confirmed = column(experts, "is_confirmed") == 1
    if not np.isfinite(effect).any():
        return "No surface-adjusted effect is in these results."
    top = experts.iloc[int(np.nanargmax(np.abs(effect)))]
    n_experts = f"{len(experts):,} experts"
    n_found = found_of(experts, SURFACE_Q)
    found = f"q is at most 0.05 for {n_found} of {n_experts}"
    if n_found is None:
        found = f"none of {n_experts} was tested"
    return (
        f"Beyond the surface {found}, {(np.abs(effect) > margin).sum()} have an effect above the "
        f"margin of {margin:.2g} points in size, and {confirmed.sum()} are confirmed on sources or "
        f"templates not used to find them{none_possible(experts)}. The largest effect is "
        f"{np.nanmax(np.abs(effect)):.2g} points in size, of expert {top.expert:.0f} in layer "
        f"{top.layer:.0f}."
    )
