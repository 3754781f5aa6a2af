"""Probes by layer with their controls, and the 2 x 2 of wording and wrapper."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.cache.errors import InputError
from interp.figure_style import (
    BLUE,
    GREEN,
    GREY,
    MUTED,
    OCHRE,
    PURPLE,
    SKY,
    VERMILLION,
    lay_out,
    layer_axis,
    translucent,
)
from interp.figures_tables import column, interval, model_of, numeric, on_layers, table_of
from interp.results import Results
from interp.sentences import SURFACE, probe_sentence

SITES = {
    "routing": (VERMILLION, "diamond"),
    "routing_within_token": (PURPLE, "square"),
    "router_logits": (OCHRE, "cross"),
    "resid_pre": (GREEN, "triangle-down"),
    "resid_mid": (SKY, "triangle-up"),
    "resid_post": (BLUE, "circle"),
}
"""Colour and symbol of each site; others are grey."""
ASIDE = 0.11
"""Sites are drawn so far beside each other, in layers, that intervals do not hide each other."""
SPLITS = {
    "item": "Items that the probe never saw",
    "source_pair": "Sources that the probe never saw",
    "template": "Templates that the probe never saw",
}
CAUTION = (
    "A probe finds whatever differs, so one that is no better than the best surface baseline shows "
    "nothing beyond it, and the best of many layers looks better than it is."
)


def probes(results: Results) -> go.Figure:
    """AUROC of the probes of the condition by layer, above their controls.

    A panel for each way of holding prompts out, with the best surface baseline as a band; shuffled
    labels and an untrained model by item; below, selectivity (Hewitt and Liang 2019).

    Args:
        results: Of a study; reads the tables `probes` and, where it is there, `probe_controls`.

    Raises:
        InputError: If the condition was not probed.
    """
    rows = first_readouts(table_of(results, "probes").query("target == 'condition'"))
    by_layer = rows[rows["layer"].notna()]
    splits = [name for name in SPLITS if (by_layer["split"] == name).any()]
    if not splits:
        raise InputError(
            "The table probes holds no probe of the condition by layer to draw; capture routing or "
            "residuals, and compute it with: interp analyze"
        )
    controls = _controls(results)
    titles = [_panel_title(rows, name) for name in splits]
    titles += ["Beyond what memory of the items gives"] * bool(len(controls))
    figure = make_subplots(
        rows=len(titles),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.4 / len(titles) ** 1.2,
        subplot_titles=titles,
    )
    for place, split in enumerate(splits, start=1):
        of_split = rows[rows["split"] == split]
        for trace in [*_surface(of_split), *_lines(of_split), *_untrained(controls, split)]:
            trace.showlegend = bool(trace.showlegend) and _is_new(figure, trace)
            figure.add_trace(trace, row=place, col=1)
    if len(controls):
        figure.add_traces(_selectivity(controls), rows=len(titles), cols=1)
    _draw_aside(figure)
    _lay_out_panels(figure, rows, results, n_auroc=len(splits), n_panels=len(titles))
    return figure


def first_readouts(rows: pd.DataFrame) -> pd.DataFrame:
    """One curve for each site: the readout that comes first, such as the last of the content."""
    if "readout" not in rows:
        return rows
    return rows[rows["readout"] == rows.groupby("site")["readout"].transform("first")]


def _draw_aside(figure: go.Figure) -> None:
    """Move the points of each site a little to the side, the same in every panel."""
    sites = [trace.meta for trace in figure.data if trace.meta is not None]
    order = list(dict.fromkeys(sites))
    for trace in figure.data:
        if trace.meta is not None:
            trace.x = np.asarray(trace.x) + ASIDE * (order.index(trace.meta) - (len(order) - 1) / 2)


def _panel_title(rows: pd.DataFrame, split: str) -> str:
    best = _best_surface(rows[rows["split"] == split])
    if best is None:
        return SPLITS[split]
    name = str(best.baseline).replace("_", " ")
    return f"{SPLITS[split]}<br>Best surface baseline: {name}, {best.auroc:.2f}"


def _best_surface(rows: pd.DataFrame) -> pd.Series | None:
    known = rows[rows["baseline"].isin(list(SURFACE)) & rows["auroc"].notna()]
    return None if known.empty else known.iloc[int(known["auroc"].to_numpy().argmax())]


def _is_new(figure: go.Figure, trace: go.Scatter) -> bool:
    return trace.legendgroup not in [each.legendgroup for each in figure.data if each.showlegend]


def _lines(rows: pd.DataFrame) -> list[go.Scatter]:
    """Each site, with its interval; shuffled labels thin and dotted."""
    of_layers = rows[rows["layer"].notna()].sort_values("layer")
    sites = [name for name in dict.fromkeys(rows["site"]) if (of_layers["site"] == name).any()]
    lines = []
    for site in sites:
        part = of_layers[of_layers["site"] == site]
        shuffled = part[part["baseline"] == "shuffled"]
        lines += [_line(shuffled, site, "auroc", kind="shuffled")] if len(shuffled) else []
        lines += [_line(part[part["baseline"] == ""], site, "auroc", kind="")]
    return lines


def _line(rows: pd.DataFrame, site: str, value: str, *, kind: str) -> go.Scatter:
    """A line of one site; of a kind of control where that is given, which has one entry."""
    color, symbol = SITES.get(site, (GREY, "x"))
    label = f"{site}, {kind}" if kind else site
    return go.Scatter(
        x=rows["layer"],
        y=rows[value],
        name=f"{kind} (open)" if kind else site,
        legendgroup=kind or site,
        meta=site,
        showlegend=True,
        mode="lines+markers",
        line={
            "color": translucent(color, 0.6) if kind else color,
            "width": 1.2 if kind else 2.4,
            "dash": "dot" if kind else "solid",
        },
        marker={"symbol": f"{symbol}-open" if kind else symbol, "size": 6 if kind else 8},
        error_y=None if kind else interval(rows, value, low=f"{value}_low", high=f"{value}_high"),
        customdata=on_layers(rows, f"{value}_low", f"{value}_high"),
        hovertemplate=f"<b>layer %{{customdata[0]}}</b><br>{label}: %{{y:.3f}} "
        "(%{customdata[2]:.3f} to %{customdata[3]:.3f})<extra></extra>",
    )


def _surface(rows: pd.DataFrame) -> list[go.Scatter]:
    """The best surface baseline as a level with its interval over the whole width."""
    best, layers = _best_surface(rows), rows["layer"].dropna()
    if best is None or layers.empty:
        return []
    name = str(best.baseline).replace("_", " ")
    start, stop = float(layers.min()) - 0.4, float(layers.max()) + 0.4
    band = go.Scatter(
        x=[start, stop, stop, start],
        y=[best.auroc_low] * 2 + [best.auroc_high] * 2,
        fill="toself",
        fillcolor=translucent(GREY, 0.22),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        legendgroup="surface",
    )
    level = np.linspace(start, stop, 60)
    line = go.Scatter(
        x=level,
        y=np.full(60, best.auroc),
        name="best surface baseline",
        mode="lines",
        line={"color": GREY, "width": 2, "dash": "dash"},
        showlegend=True,
        legendgroup="surface",
        hovertemplate=f"{name} alone: {best.auroc:.3f} ({best.auroc_low:.3f} to "
        f"{best.auroc_high:.3f})<extra></extra>",
    )
    return [band, line]


def _controls(results: Results) -> pd.DataFrame:
    if results.probe_controls.empty:
        return results.probe_controls
    table = first_readouts(numeric(results.probe_controls))
    known = np.isfinite(column(table, "selectivity")) | np.isfinite(
        column(table, "untrained_auroc")
    )
    of_condition = table["target"].to_numpy() == "condition"
    return table.iloc[np.flatnonzero(of_condition & known)].sort_values("layer")


def _untrained(controls: pd.DataFrame, split: str) -> list[go.Scatter]:
    if controls.empty or not np.isfinite(column(controls, "untrained_auroc")).any():
        return []
    part = controls[controls["split"] == split]
    return [
        _line(part[part["site"] == site], site, "untrained_auroc", kind="untrained model").update(
            line_dash="longdash"
        )
        for site in dict.fromkeys(part["site"])
    ]


def _selectivity(controls: pd.DataFrame) -> list[go.Scatter]:
    return [
        _line(controls[controls["site"] == site], site, "selectivity", kind="").update(
            showlegend=False
        )
        for site in dict.fromkeys(controls["site"])
    ]


def _lay_out_panels(
    figure: go.Figure, rows: pd.DataFrame, results: Results, *, n_auroc: int, n_panels: int
) -> None:
    first = rows.iloc[0]
    lay_out(
        figure,
        title="Probes of the condition by layer",
        subtitle=f"{model_of(results)} · n = {first.n_prompts:,.0f} prompts of "
        f"{first.n_clusters:,.0f} items · bars and bands: 95 % intervals",
        summary=probe_sentence(rows[rows["split"] == first.split]),
        caution=CAUTION,
    )
    layer_axis(figure, rows["layer"].dropna().to_numpy(dtype=float))
    figure.update_xaxes(title_text=None)
    figure.update_xaxes(title_text="Layer (number in the model)", row=n_panels)
    for place in range(1, n_auroc + 1):
        figure.update_yaxes(title_text="AUROC", range=[0, 1.05], row=place)
        figure.update_yaxes(tickvals=[0, 0.25, 0.5, 0.75, 1], row=place)
        figure.update_yaxes(ticktext=["0", "0.25", "chance", "0.75", "1"], row=place)
        figure.add_hline(y=0.5, line={"color": MUTED, "width": 1}, row=place, col=1)
    if n_panels > n_auroc:
        title = "Selectivity<br>(accuracy)"
        figure.update_yaxes(title_text=title, zeroline=True, zerolinecolor=MUTED, row=n_panels)
    figure.update_annotations(font={"size": 12}, xanchor="left", x=0, align="left")
    figure.update_layout(height=190 + 215 * n_panels, margin={"t": 165}, hovermode="closest")
    top = {"y": 1 + 46 / (215 * n_panels), "traceorder": "normal"}
    figure.update_layout(legend=top)
