"""Plotly figures of one study: results in, a figure out; nothing is computed that is not drawn.

    interp.figures.usage(results).write_image("usage.svg")

Every figure carries its title, model and n (`layout.title`, whose subtitle is always filled), axis
titles with units, a text for readers who do not see it (`layout.meta["summary"]`) and one sentence
on how it can fool the reader (`layout.meta["caution"]`). What stands for an expert has `customdata`
that begins with its layer and number; what stands for a layer, with the layer and None.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp.figure_style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    NAVY,
    OCHRE,
    PURPLE,
    VERMILLION,
    lay_out,
    layer_axis,
    translucent,
)
from interp.figures_divergence import divergence, vocabulary_share
from interp.figures_dose import dose_response
from interp.figures_experiments import interventions
from interp.figures_experts import volcano
from interp.figures_grid import two_by_two
from interp.figures_load import load, vocabulary
from interp.figures_pairs import coactivation
from interp.figures_paths import paths
from interp.figures_probes import probes
from interp.figures_usage import usage
from interp.heatmap import usage_figure
from interp.results import Results
from interp.sentences import SURFACE, divergence_sentence, probe_sentence

FIGURES: dict[str, Callable[[Results], go.Figure]] = {
    "usage": usage,
    "volcano": volcano,
    "divergence": divergence,
    "vocabulary_share": vocabulary_share,
    "probes": probes,
    "two_by_two": two_by_two,
    "coactivation": coactivation,
    "paths": paths,
    "interventions": interventions,
    "dose_response": dose_response,
    "load": load,
    "vocabulary": vocabulary,
}
"""All figures by name, in the order of the page. Each takes `Results`; one whose table is empty
raises `InputError`."""

__all__ = [
    "FIGURES",
    "coactivation",
    "divergence",
    "divergence_figure",
    "dose_response",
    "interventions",
    "load",
    "paths",
    "probe_figure",
    "probes",
    "two_by_two",
    "usage",
    "usage_figure",
    "vocabulary",
    "vocabulary_share",
    "volcano",
]


def divergence_figure(divergence: pd.DataFrame, *, model: str) -> go.Figure:
    """Divergence of benchmark and organic usage by layer, raw and token-matched, with their nulls.

    Args:
        divergence: Table of `Results.divergence`, at least one row.
        model: Name for the subtitle.
    """
    rows = divergence.sort_values("layer")
    figure = go.Figure(
        [
            _band(rows, high="raw_null_high_bits", name="raw null, 95 % of shuffles"),
            _line(rows, "raw_null_bits", name="raw null, mean", color=MUTED, dash="dot"),
            _line(
                rows,
                "token_matched_null_bits",
                name="token-matched null, mean",
                color=GREEN,
                dash="dot",
            ),
            _line(rows, "token_matched_bits", name="token-matched", color=GREEN, symbol="diamond"),
            _line(rows, "raw_bits", name="raw", color=NAVY, symbol="circle"),
        ]
    )
    first = rows.iloc[0]
    lay_out(
        figure,
        title="Divergence of expert usage by layer",
        subtitle=f"{model} · n = {first.n_tokens_benchmark:,.0f} benchmark and "
        f"{first.n_tokens_organic:,.0f} organic tokens · nulls: "
        f"{first.n_permutations:,.0f} shuffles (raw) and sign flips (token-matched) of "
        f"{first.n_clusters:,.0f} items",
        summary=divergence_sentence(divergence),
    )
    layer_axis(figure, rows["layer"].to_numpy())
    figure.update_yaxes(title_text="Jensen-Shannon divergence (bits)", rangemode="tozero")
    return figure


def _band(rows: pd.DataFrame, *, high: str, name: str) -> go.Scatter:
    """From 0 to the 95 % quantile: 95 of 100 values of the null lie in it."""
    return go.Scatter(
        x=rows["layer"],
        y=rows[high],
        name=name,
        mode="lines",
        line={"width": 0},
        fill="tozeroy",
        fillcolor="rgba(91, 100, 114, 0.22)",
        hovertemplate=f"{name}: up to %{{y:.4f}} bits<extra></extra>",
    )


def _line(
    rows: pd.DataFrame, column: str, *, name: str, color: str, symbol: str = "", dash: str = "solid"
) -> go.Scatter:
    return go.Scatter(
        x=rows["layer"],
        y=rows[column],
        name=name,
        mode="lines+markers" if symbol else "lines",
        line={"color": color, "width": 2.5 if symbol else 1.8, "dash": dash},
        marker={"symbol": symbol or "circle", "size": 7},
        hovertemplate=f"{name}: %{{y:.4f}} bits<extra></extra>",
    )


def probe_figure(probes: pd.DataFrame, *, model: str) -> go.Figure:
    """AUROC of the probes by layer with intervals, shuffled labels, and the surface baselines.

    Args:
        probes: Table of `Results.probes`, at least one row.
        model: Name for the subtitle.
    """
    layers = probes["layer"].dropna().to_numpy()
    ends = (layers.min() - 0.4, layers.max() + 0.4) if len(layers) else (0.0, 1.0)
    traces: list[go.Scatter] = []
    drawn = [("length", OCHRE, "dash"), ("bag_of_tokens", PURPLE, "longdashdot")]
    for site, color, dash in drawn + [(name, GREEN, "dot") for name in _best_other(probes)]:
        traces += _baseline_band(
            probes[probes["baseline"] == site], ends, site=site, color=color, dash=dash
        )
    for site, color, symbol in (("routing", VERMILLION, "diamond"), ("resid_post", BLUE, "circle")):
        traces += _probe_lines(
            probes[probes["site"] == site], site=site, color=color, symbol=symbol
        )
    figure = go.Figure(traces)
    first = probes.iloc[0]
    lay_out(
        figure,
        title="Probes of the condition by layer",
        subtitle=f"{model} · n = {first.n_prompts:,.0f} prompts in {first.n_clusters:,.0f} items; "
        "no item on both sides of a split · bars and bands: 95 % intervals",
        summary=probe_sentence(probes),
    )
    layer_axis(figure, layers)
    figure.update_yaxes(title_text="AUROC (0.5 = chance)", range=[0, 1.02], automargin=True)
    figure.update_yaxes(
        tickvals=[0, 0.25, 0.5, 0.75, 1], ticktext=["0", "0.25", "chance", "0.75", "1"]
    )
    figure.add_hline(y=0.5, line={"color": INK, "width": 1})
    return figure


def _best_other(probes: pd.DataFrame) -> list[str]:
    """The best surface baseline beside length and bag of tokens, if there is one."""
    others = probes[probes["baseline"].isin([*set(SURFACE) - {"length", "bag_of_tokens"}])]
    best = others["baseline"].iloc[int(others["auroc"].to_numpy().argmax())] if len(others) else ""
    return [str(best)] if best else []


def _baseline_band(
    rows: pd.DataFrame, ends: tuple[float, float], *, site: str, color: str, dash: str
) -> list[go.Scatter]:
    """A level line and its interval over the whole width; nothing where the baseline is missing."""
    if rows.empty:
        return []
    row, name = rows.iloc[0], site.replace("_", " ") + " alone"
    start, stop = ends
    band = go.Scatter(
        x=[start, stop, stop, start],
        y=[row.auroc_low, row.auroc_low, row.auroc_high, row.auroc_high],
        fill="toself",
        fillcolor=translucent(color, 0.16),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        legendgroup=site,
    )
    middle = np.linspace(start, stop, 60)
    level = go.Scatter(
        x=middle,
        y=np.full(60, row.auroc),
        name=name,
        mode="lines",
        line={"color": color, "width": 2, "dash": dash},
        legendgroup=site,
        hovertemplate=f"{name}: {row.auroc:.3f} "
        f"({row.auroc_low:.3f} to {row.auroc_high:.3f})<extra></extra>",
    )
    return [band, level]


def _probe_lines(rows: pd.DataFrame, *, site: str, color: str, symbol: str) -> list[go.Scatter]:
    traces = []
    for baseline, name in (("shuffled", f"{site}, shuffled"), ("", site)):
        part = rows[rows["baseline"] == baseline].sort_values("layer")
        if part.empty:
            continue
        real = baseline == ""
        traces.append(
            go.Scatter(
                x=part["layer"],
                y=part["auroc"],
                name=name,
                mode="lines+markers",
                line={
                    "color": color if real else translucent(color, 0.55),
                    "width": 2.5 if real else 1.4,
                    "dash": "solid" if real else "dot",
                },
                marker={"symbol": symbol if real else f"{symbol}-open", "size": 7 if real else 5},
                error_y=_interval(part) if real else None,
                customdata=part[["auroc_low", "auroc_high"]],
                hovertemplate=f"{name}: %{{y:.3f}} "
                "(%{customdata[0]:.3f} to %{customdata[1]:.3f})<extra></extra>",
            )
        )
    return traces


def _interval(part: pd.DataFrame) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": part["auroc_high"] - part["auroc"],
        "arrayminus": part["auroc"] - part["auroc_low"],
        "thickness": 1.2,
        "width": 3,
    }
