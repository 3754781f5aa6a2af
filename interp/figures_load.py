"""Plotly figures of how experts share the work: load by layer, and what a token id decides."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp.figure_style import (
    CONDITIONS,
    GREEN,
    GREY,
    MUTED,
    lay_out,
    layer_axis,
)
from interp.figures_tables import column, listed, model_of, on_layers, table_of
from interp.results import Results
from interp.sentences_load import load_sentence, vocabulary_sentence

LOAD_CAUTION = (
    "Few tokens look unbalanced by themselves, and tokens are pooled, so that one long prompt can "
    "be the imbalance; there is no null."
)
VOCABULARY_CAUTION = (
    "Rare token ids look specialised by chance, which the shuffle shows, and special tokens of a "
    "chat template occur in one place only."
)


def load(results: Results) -> go.Figure:
    """Entropy of the load by layer under each condition, beside that of an even load.

    Args:
        results: Of a study; reads the table `load`.

    Raises:
        InputError: If no load was counted.
    """
    rows = table_of(results, "load").sort_values("layer")
    n_experts = int(results.run["n_experts"])
    layers = np.unique(rows["layer"].to_numpy(dtype=float))
    figure = go.Figure([_level(layers, float(np.log2(n_experts)), name="even load")])
    for condition in CONDITIONS:
        if len(part := rows[rows["condition"] == condition]):
            figure.add_trace(_entropy(part, condition))
    counts = rows.groupby("condition")["n_slots"].first()
    slots = listed([(count, str(name)) for name, count in counts.items()])
    lay_out(
        figure,
        title="Load entropy by layer",
        subtitle=f"{model_of(results)} · n = {slots} routed slots a layer",
        summary=load_sentence(rows, n_experts=n_experts),
        caution=LOAD_CAUTION,
    )
    layer_axis(figure, layers)
    figure.update_yaxes(title_text="Entropy of usage (bits)")
    return figure


def _entropy(rows: pd.DataFrame, condition: str) -> go.Scatter:
    color, symbol, dash = CONDITIONS[condition]
    return go.Scatter(
        x=rows["layer"],
        y=rows["entropy_bits"],
        name=condition,
        mode="lines+markers",
        line={"color": color, "width": 2.5, "dash": dash},
        marker={"symbol": symbol, "size": 8},
        customdata=on_layers(rows, "gini"),
        hovertemplate=f"{condition}: %{{y:.3f}} bits, Gini %{{customdata[2]:.2f}}<extra></extra>",
    )


def vocabulary(results: Results) -> go.Figure:
    """Share of a token id's tokens that its favourite expert serves, and after a shuffle.

    Args:
        results: Of a study; reads the table `vocabulary`.

    Raises:
        InputError: If no token id has enough tokens.
    """
    rows = table_of(results, "vocabulary").sort_values("layer")
    lines = [
        ("shuffled_share", "ids shuffled", GREY, "circle-open", "dot"),
        ("share", "as it is", GREEN, "circle", "solid"),
    ]
    figure = go.Figure(
        [
            go.Scatter(
                x=rows["layer"],
                y=column(rows, name),
                name=label,
                mode="lines+markers",
                line={"color": color, "width": 2.5, "dash": dash},
                marker={"symbol": symbol, "size": 8},
                customdata=on_layers(rows),
                hovertemplate=f"{label}: %{{y:.3f}}<extra></extra>",
            )
            for name, label, color, symbol, dash in lines
        ]
    )
    first = rows.iloc[0]
    lay_out(
        figure,
        title="Vocabulary specialisation by layer",
        subtitle=f"{model_of(results)} · n = {first.n_ids:,.0f} token ids with "
        f"{first.min_tokens:,.0f} tokens or more",
        summary=vocabulary_sentence(rows),
        caution=VOCABULARY_CAUTION,
    )
    layer_axis(figure, rows["layer"].to_numpy(dtype=float))
    figure.update_yaxes(title_text="Share of an id's tokens (0 to 1)", range=[0, 1.02])
    return figure


def _level(layers: np.ndarray, value: float, *, name: str) -> go.Scatter:
    ends = [float(layers.min()) - 0.4, float(layers.max()) + 0.4]
    return go.Scatter(
        x=ends,
        y=[value, value],
        name=name,
        mode="lines",
        line={"color": MUTED, "width": 1.6, "dash": "dot"},
        hovertemplate=f"{name}: {value:.3f} bits<extra></extra>",
    )
