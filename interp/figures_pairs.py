"""Which experts of a layer are chosen together, by layer and condition."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp.figure_style import (
    CONDITIONS,
    MUTED,
    lay_out,
    layer_axis,
    translucent,
)
from interp.figures_tables import listed, model_of, on_experts, table_of
from interp.results import Results
from interp.sentences_load import coactivation_sentence

CAUTION = (
    "Two experts that serve the same token ids are together without any link between them, rare "
    "pairs reach \u22121 easily, and there is no null."
)
ASIDE = {"benchmark": -0.2, "organic": 0.2}
NAMED_LAYERS = 8
"""In at most so many layers the pair most often together is named in the figure."""


def coactivation(results: Results) -> go.Figure:
    """Pairs of experts most often and most seldom together, by layer and condition.

    Args:
        results: Of a study; reads the table `coactivation`.

    Raises:
        InputError: If no pair is expected on enough tokens.
    """
    rows = table_of(results, "coactivation").sort_values(["layer", "association"])
    figure = go.Figure(
        [_pairs(part, name) for name in ASIDE if len(part := rows[rows["condition"] == name])]
    )
    counts = rows.groupby("condition")["n_tokens"].first()
    tokens = listed([(count, str(name)) for name, count in counts.items()])
    lay_out(
        figure,
        title="Experts that are chosen together",
        subtitle=f"{model_of(results)} · n = {tokens} tokens · 3 pairs at either end of each layer",
        summary=coactivation_sentence(rows),
        caution=CAUTION,
    )
    layer_axis(figure, np.unique(rows["layer"].to_numpy(dtype=float)))
    figure.update_layout(hovermode="closest", legend={"traceorder": "normal"})
    figure.update_yaxes(
        title_text="Association (0: independent, 1: always)",
        range=[-1.08, 1.12],
        zeroline=True,
        zerolinecolor=MUTED,
    )
    return figure


def _pairs(rows: pd.DataFrame, condition: str) -> go.Scatter:
    color, symbol, _ = CONDITIONS[condition]
    shown = ("other_expert", "tokens_together", "expected_tokens")
    is_above = rows["association"] > 0
    rank = rows.groupby(["layer", is_above]).cumcount() - 1
    top = rows.groupby("layer")["association"].transform("max") == rows["association"]
    named = top & (rows["layer"].nunique() <= NAMED_LAYERS)
    pairs = [f"{row.expert:.0f} + {row.other_expert:.0f}" for row in rows.itertuples()]
    return go.Scatter(
        x=rows["layer"] + ASIDE[condition] + 0.08 * rank,
        y=rows["association"],
        name=condition,
        mode="markers+text",
        text=np.where(named, pairs, ""),
        textposition="top left" if condition == "benchmark" else "bottom right",
        textfont={"size": 10, "color": MUTED},
        marker={"color": translucent(color, 0.75), "symbol": symbol, "size": 8},
        customdata=on_experts(rows, *shown),
        hovertemplate="<b>layer %{customdata[0]}, experts %{customdata[1]} and "
        f"%{{customdata[2]:.0f}}</b><br>{condition}: association %{{y:+.2f}}<br>together on "
        "%{customdata[3]:,.0f} tokens, %{customdata[4]:,.0f} expected<extra></extra>",
    )
