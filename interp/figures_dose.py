"""More and more of the found experts taken out: damage by the size of the set."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Bool

from interp.figure_style import BLUE, GREEN, GREY, MUTED, VERMILLION, lay_out, translucent
from interp.figures_experiments import unit_of
from interp.figures_tables import NothingToDrawError, column, interval, model_of, numeric, table_of
from interp.results import Results

CAUTION = (
    "Damage grows with any set that is taken out, and large sets leave a model that was never "
    "trained, so read the line against the matched band only."
)
WITHOUT_BAND = (
    "Damage grows with any set that is taken out, and large sets leave a model that was never "
    "trained; without matched sets of these sizes the line does not say that these experts matter "
    "more than others would."
)
NONE_FOUND = "No expert was found to take out, so there is nothing of which to take out more."


def dose_response(results: Results) -> go.Figure:
    """Damage to either condition and their interaction as more of the found experts are taken out.

    Args:
        results: With an experiment; reads the tables `experiment_dose` and `experiments`.

    Raises:
        InputError: If no doses were tried, or no expert was found to take out.
    """
    main = numeric(results.experiments)
    main = main[main["role"] == "main"] if len(main) else main
    if results.experiment_dose.empty and len(main) and not column(main, "n_found").any():
        raise NothingToDrawError(NONE_FOUND)
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
        caution=CAUTION if _has_band(rows).any() else WITHOUT_BAND,
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


def _has_band(rows: pd.DataFrame) -> Bool[np.ndarray, "rows"]:
    """Sizes of which matched sets were taken out."""
    ends = column(rows, "matched_low"), column(rows, "matched_high")
    return np.asarray(np.isfinite(ends).all(axis=0))


def _matched_band(rows: pd.DataFrame) -> list[go.Scatter]:
    """Between the 5 % and 95 % quantiles of the interactions of matched sets of the same sizes."""
    if not _has_band(rows).any():
        return []
    low, high = column(rows, "matched_low"), column(rows, "matched_high")
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
    known = rows[np.isfinite(column(rows, "interaction"))]
    if known.empty:
        return "No interaction is known at any size."
    top = known.iloc[int(known["interaction"].to_numpy().argmax())]
    return (
        f"The interaction is largest with {top['size']:.0f} experts out: {top.interaction:.3f} "
        f"{unit} (95 % interval {top.interaction_low:.3f} to {top.interaction_high:.3f}); "
        f"{_against_matched(known)}."
    )


def _against_matched(rows: pd.DataFrame) -> str:
    """At how many of the sizes that have matched sets the interaction lies above their quantile."""
    compared = rows[_has_band(rows)]
    if compared.empty:
        return "no matched sets of these sizes were taken out"
    above = int((compared["interaction"] > compared["matched_high"]).sum())
    have = "" if len(compared) == len(rows) else " that have them"
    return (
        f"it lies above the 95 % quantile of matched sets at {above} of {len(compared)} sizes{have}"
    )
