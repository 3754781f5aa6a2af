"""The 2 x 2 of wording and wrapper: which of the two a probe of the condition reads."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp.figure_style import DIVERGING, INK, MUTED, lay_out
from interp.figures_tables import column, model_of, plain, table_of
from interp.results import Results

CELLS = {
    "organic-chat": "organic<br>words<br>in chat",
    "organic-exam": "organic<br>words<br>in exam",
    "benchmark-chat": "benchmark<br>words<br>in chat",
    "benchmark-exam": "benchmark<br>words<br>in exam",
}
"""Wording and wrapper of the columns; the probe is fitted on the first and the last."""
GROUPS = {0: "fitted on", 1.5: "off the diagonal", 3: "fitted on"}
CAUTION = (
    "A probe may read wording and wrapper both, and one that calls off-diagonal prompts half and "
    "half may as well be guessing, so look at its AUROC on the diagonal first."
)


def two_by_two(results: Results) -> go.Figure:
    """Share of prompts that each probe calls benchmark, in the four cells of wording and wrapper.

    Organic words in an exam called benchmark are false alarms of the wrapper. A probe that reads
    the wording gives 0 there and 100 beside it; one that reads the wrapper the reverse.

    Args:
        results: Of a study; reads the table `grid`.

    Raises:
        InputError: If there is no such table: it needs prompts of the condition `mixed`.
    """
    table = table_of(results, "grid")
    rows = _readers(table)
    names = [_name(part.iloc[0]) for part in rows]
    figure = go.Figure(_tiles(rows))
    lay_out(
        figure,
        title="Does the probe read the wording or the wrapper?",
        subtitle=f"{model_of(results)} · n = {table['n_clusters'].iloc[0]:,.0f} items not fitted "
        "on · cells: called benchmark (%), 95 % interval",
        summary=_summary(rows, names),
        caution=CAUTION,
    )
    _frame(figure, names)
    return figure


def _readers(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The four cells of each probe in the order of the columns; surface baselines come first."""
    keys = ["baseline", "site", "layer", "readout"]
    parts = [part.set_index("cell") for _, part in table.groupby(keys, dropna=False, sort=False)]
    of_surface = [part for part in parts if part["layer"].isna().all()]
    return [
        part.reindex(list(CELLS))
        for part in of_surface + [part for part in parts if part["layer"].notna().any()]
    ]


def _name(row: pd.Series) -> str:
    site = plain(str(row["site"])).replace("_within_token", "<br>within token")
    if pd.isna(row["layer"]):
        return f"{site.replace('_', ' ')}<br>alone"
    return f"{site}<br>layer {row['layer']:.0f}"


def _tiles(rows: list[pd.DataFrame]) -> go.Heatmap:
    shares = 100 * np.stack([column(part, "called_benchmark") for part in rows])
    low = 100 * np.stack([column(part, "called_benchmark_low") for part in rows])
    high = 100 * np.stack([column(part, "called_benchmark_high") for part in rows])
    layers = [int(part["layer"].iloc[0]) if part["layer"].notna().any() else None for part in rows]
    details = [
        [
            [layer, None, *map(float, ends), float(part["diagonal_auroc"].iloc[0])]
            for ends in zip(low_row, high_row, strict=True)
        ]
        for layer, part, low_row, high_row in zip(layers, rows, low, high, strict=True)
    ]
    return go.Heatmap(
        z=shares,
        x=np.arange(4),
        y=np.arange(len(rows)),
        zmin=-50,
        zmid=50,
        zmax=150,
        colorscale=DIVERGING,
        showscale=False,
        xgap=3,
        ygap=3,
        text=[
            [f"{share:.0f} %<br>{a:.0f} to {b:.0f}" for share, a, b in zip(*each, strict=True)]
            for each in zip(shares, low, high, strict=True)
        ],
        texttemplate="%{text}",
        textfont={"size": 11, "color": "#111111"},
        customdata=details,
        hovertemplate="called benchmark: %{z:.1f} % (%{customdata[2]:.1f} to %{customdata[3]:.1f})"
        "<br>AUROC on the diagonal %{customdata[4]:.2f}<extra></extra>",
    )


def _frame(figure: go.Figure, names: list[str]) -> None:
    figure.update_layout(
        hovermode="closest", height=48 * len(names) + 240, margin={"t": 96, "b": 110}
    )
    figure.update_xaxes(
        title_text="Wording and wrapper of the prompt",
        tickvals=np.arange(4),
        ticktext=list(CELLS.values()),
        tickangle=0,
        tickfont={"size": 11},
        showline=False,
        ticks="",
    )
    figure.update_yaxes(
        title_text="Probe",
        tickvals=np.arange(len(names)),
        ticktext=names,
        tickfont={"size": 12},
        showgrid=False,
    )
    for place in (0.5, 2.5):
        figure.add_vline(x=place, line={"color": INK, "width": 1.6})
    for place, text in GROUPS.items():
        figure.add_annotation(
            x=place,
            y=1,
            yref="paper",
            yanchor="bottom",
            text=text,
            showarrow=False,
            font={"size": 12, "color": MUTED},
        )


def _summary(rows: list[pd.DataFrame], names: list[str]) -> str:
    said = [
        f"{name.replace('<br>', ', ')}: {100 * shares[1]:.0f} % and {100 * shares[2]:.0f} %"
        for name, part in zip(names, rows, strict=True)
        if len(shares := column(part, "called_benchmark"))
    ]
    return (
        "Called benchmark, of organic words in an exam wrapper and of benchmark words in chat: "
        + "; ".join(said)
        + ". High and low means that the probe reads the wrapper, low and high the wording."
    )
