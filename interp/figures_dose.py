"""More and more of the found experts taken out: damage by the size of the set."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp.figure_style import BLUE, GREEN, GREY, MUTED, VERMILLION, lay_out, translucent
from interp.figures_experiments import unit_of
from interp.figures_tables import column, interval, model_of, table_of
from interp.results import Results

CAUTION = (
    "Damage grows with any set that is taken out, and large sets leave a model that was never "
    "trained, so read the line against the matched band only."
)


def dose_response(results: Results) -> go.Figure:
    """Damage to either condition and their interaction as more of the found experts are taken out.

    Args:
        results: With an experiment; reads the tables `experiment_dose` and `experiments`.

    Raises:
        InputError: If no doses were tried.
    """
    rows = table_of(results, "experiment_dose").sort_values("size")
    outcome = results.experiments["outcome"].iloc[0] if len(results.experiments) else ""
    first = rows.iloc[0]
    figure = go.Figure(
        [
            *_matched_band(rows),
            _dose(rows, "damage_organic", "damage, organic", VERMILLION, "diamond-open"),
            _dose(rows, "damage_benchmark", "damage, benchmark", BLUE, "circle-open"),
            _dose(rows, "interaction", "interaction", GREEN, "square"),
        ]
    )
    lay_out(
        figure,
        title="More and more of the found experts taken out",
        subtitle=f"{model_of(results)} · n = {first.n_items:,.0f} items, {first.n_paired:,.0f} of "
        "them under both conditions · bars: 95 % intervals",
        summary=_dose_summary(rows, unit_of(outcome)),
        caution=CAUTION,
    )
    figure.update_layout(margin={"t": 124})
    figure.update_xaxes(title_text="Experts taken out (number, in order of discovery)")
    figure.update_xaxes(tickvals=rows["size"], unifiedhovertitle={"text": "%{x} taken out"})
    figure.update_yaxes(
        title_text=f"Damage ({unit_of(outcome)})", zeroline=True, zerolinecolor=MUTED
    )
    return figure


def _dose(rows: pd.DataFrame, name: str, label: str, color: str, symbol: str) -> go.Scatter:
    is_main = name == "interaction"
    return go.Scatter(
        x=rows["size"],
        y=rows[name],
        name=label,
        mode="lines+markers",
        line={
            "color": color,
            "width": 2.6 if is_main else 1.4,
            "dash": "solid" if is_main else "dot",
        },
        marker={"symbol": symbol, "size": 8},
        error_y=interval(rows, name, low=f"{name}_low", high=f"{name}_high"),
        hovertemplate=f"{label}: %{{y:.4f}}<extra></extra>",
    )


def _matched_band(rows: pd.DataFrame) -> list[go.Scatter]:
    """Between the 5 % and 95 % quantiles of the interactions of matched sets of the same sizes."""
    low, high = column(rows, "matched_low"), column(rows, "matched_high")
    if not np.isfinite(low).any():
        return []
    size = rows["size"].to_numpy()
    return [
        go.Scatter(
            x=[*size, *size[::-1]],
            y=[*high, *low[::-1]],
            name="interaction of matched sets, 5 to 95 %",
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=translucent(GREY, 0.3),
            hoverinfo="skip",
        )
    ]


def _dose_summary(rows: pd.DataFrame, unit: str) -> str:
    top = rows.iloc[int(rows["interaction"].to_numpy().argmax())]
    above = int((rows["interaction"] > column(rows, "matched_high")).sum())
    return (
        f"The interaction is largest with {top['size']:.0f} experts out: {top.interaction:.3f} "
        f"{unit} (95 % interval {top.interaction_low:.3f} to {top.interaction_high:.3f}); it lies "
        f"above the 95 % quantile of matched sets at {above} of {len(rows)} sizes."
    )
