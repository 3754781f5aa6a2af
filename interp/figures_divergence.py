"""Divergence of the conditions by layer, and what of it vocabulary explains."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp.figure_style import (
    BLUE,
    GREEN,
    GREY,
    OCHRE,
    PURPLE,
    SKY,
    VERMILLION,
    lay_out,
    layer_axis,
    translucent,
)
from interp.figures_tables import (
    NothingToDrawError,
    column,
    interval,
    listed,
    model_of,
    numeric,
    on_layers,
    table_of,
)
from interp.results import Results
from interp.sentences import divergence_sentence

DIVERGENCE_CAUTION = (
    "A line is above 0 even where nothing differs, so read its distance to its null{within}, not "
    "its height; the points with bars have that bias taken off, so no null here is theirs, and "
    "layers are tested one by one."
)
WITHIN = " and to the sources of one condition"
SHARE_CAUTION = (
    "It speaks only of the tokens that both conditions have (the overlap), and what is left over "
    "may still be the token before, the position or the template."
)
NO_SHARE = "No layer has a divergence above its null of which vocabulary could explain a share."
WITHIN_NAME = "two sources of one condition"
MATCHED_ON = {
    "previous_and_token": ("previous token and token", PURPLE, "square"),
    "position_bin": ("position", OCHRE, "triangle-up"),
    "position_bin_and_token": ("position and token", VERMILLION, "cross"),
}
"""Other keys than the token on which tokens are matched."""


def divergence(results: Results) -> go.Figure:
    """Divergence of benchmark and organic usage by layer, raw and token-matched, with references.

    The references: either null up to its 95 % quantile, and, where conditions have sources of their
    own, the mean divergence of two sources of one condition and of two of different conditions.
    Lines are the plain estimates, which the nulls are of; the 95 % intervals are those of the
    estimates less their bias (jackknife), which are points of their own, cut at 0 as the ends are.

    Args:
        results: Of a study; reads the tables `divergence` and, where it is there, `sources`.

    Raises:
        InputError: If no divergence was computed.
    """
    rows = table_of(results, "divergence").sort_values("layer")
    sources = _source_lines(results)
    figure = go.Figure(
        [
            *sources,
            _band(rows, "token_matched_null_high_bits", "token-matched null, 95 %", GREEN),
            _band(rows, "raw_null_high_bits", "raw null, 95 %", BLUE),
            *_corrected(rows, "token_matched", "token-matched", GREEN, "diamond-open"),
            *_corrected(rows, "raw", "raw", BLUE, "circle-open"),
            _bits(rows, "token_matched", "token-matched", GREEN, "diamond"),
            _bits(rows, "raw", "raw", BLUE, "circle"),
        ]
    )
    first = rows.iloc[0]
    tokens = [(first.n_tokens_benchmark, "benchmark"), (first.n_tokens_organic, "organic tokens")]
    lay_out(
        figure,
        title="Divergence of expert usage by layer",
        subtitle=f"{model_of(results)} · n = {listed(tokens)} of {first.n_clusters:,.0f} items · "
        "bars: 95 %, bias-corrected",
        summary=divergence_sentence(rows),
        caution=DIVERGENCE_CAUTION.format(
            within=WITHIN if any(each.name == WITHIN_NAME for each in sources) else ""
        ),
    )
    layer_axis(figure, rows["layer"].to_numpy(dtype=float))
    figure.update_layout(margin={"t": 154})
    figure.update_yaxes(title_text="Jensen-Shannon divergence (bits)", rangemode="tozero")
    return figure


def _bits(rows: pd.DataFrame, kind: str, name: str, color: str, symbol: str) -> go.Scatter:
    return go.Scatter(
        x=rows["layer"],
        y=rows[f"{kind}_bits"],
        name=name,
        mode="lines+markers",
        line={"color": color, "width": 2.5},
        marker={"symbol": symbol, "size": 6},
        customdata=on_layers(rows, f"{kind}_null_high_bits"),
        hovertemplate=f"{name}: %{{y:.4f}} bits (its null up to %{{customdata[2]:.4f}})"
        "<extra></extra>",
    )


def _corrected(
    rows: pd.DataFrame, kind: str, name: str, color: str, symbol: str
) -> list[go.Scatter]:
    """The estimate less its bias with its interval; both end at 0, as no divergence is below."""
    low, high, bits = f"{kind}_low_bits", f"{kind}_high_bits", f"{kind}_corrected_bits"
    value = column(rows, bits)
    if not np.isfinite(value).any():
        return []
    drawn = rows.assign(drawn=np.maximum(value, 0))
    return [
        go.Scatter(
            x=rows["layer"],
            y=drawn["drawn"],
            name=f"{name}, bias-corrected",
            mode="markers",
            marker={"symbol": symbol, "size": 11, "color": color, "line": {"width": 1.6}},
            error_y=interval(drawn, "drawn", low=low, high=high),
            customdata=on_layers(rows, low, high, bits),
            hovertemplate=f"{name}, bias-corrected: %{{customdata[4]:.4f}} bits "
            "(%{customdata[2]:.4f} to %{customdata[3]:.4f}, cut at 0)<extra></extra>",
        )
    ]


def _band(rows: pd.DataFrame, high: str, name: str, color: str) -> go.Scatter:
    """From 0 to the 95 % quantile: 95 of 100 values of the null lie in it."""
    return go.Scatter(
        x=rows["layer"],
        y=column(rows, high),
        name=name,
        mode="lines",
        line={"color": translucent(color, 0.7), "width": 1, "dash": "dot"},
        fill="tozeroy",
        fillcolor=translucent(color, 0.2),
        customdata=on_layers(rows),
        hoverinfo="skip",
    )


def _source_lines(results: Results) -> list[go.Scatter]:
    """Mean divergence of two sources, of one condition and of two, where sources are nested."""
    if results.sources.empty:
        return []
    table = numeric(results.sources)
    rows = table[table["layer"].notna()].sort_values("layer")
    pairs = np.stack([column(rows, "within_benchmark"), column(rows, "within_organic")])
    n_pairs = np.isfinite(pairs).sum(axis=0)
    within = np.where(n_pairs, np.nansum(pairs, axis=0), np.nan) / np.maximum(n_pairs, 1)
    lines = [
        (WITHIN_NAME, within, GREY, "dash", "x-thin"),
        (
            "two of different conditions",
            column(rows, "across_conditions"),
            SKY,
            "dot",
            "cross-thin",
        ),
    ]
    return [
        go.Scatter(
            x=rows["layer"],
            y=values,
            name=name,
            mode="lines+markers",
            line={"color": color, "width": 1.8, "dash": dash},
            marker={"symbol": symbol, "size": 7, "line": {"width": 1.5, "color": color}},
            customdata=on_layers(rows),
            hovertemplate=f"{name}: %{{y:.4f}} bits<extra></extra>",
        )
        for name, values, color, dash, symbol in lines
        if np.isfinite(values).any()
    ]


def vocabulary_share(results: Results) -> go.Figure:
    """Share of the divergence that comparing the same tokens takes away, with the overlap.

    Args:
        results: Of a study; reads the tables `divergence` and `divergence_matched`.

    Raises:
        InputError: If no divergence was computed, or none is above its null, so that no share is.
    """
    rows = table_of(results, "divergence").sort_values("layer")
    shares = [*_other_keys(results), *_explained(rows)]
    if not shares:
        raise NothingToDrawError(results.absent.get("divergence_share", NO_SHARE))
    figure = go.Figure([_overlap(rows), *shares])
    first = rows.iloc[0]
    lay_out(
        figure,
        title="Share of the divergence that vocabulary explains",
        subtitle=f"{model_of(results)} · n = {first.n_clusters:,.0f} items, "
        f"{100 * first.overlap:.0f} % of tokens matched · bars: 95 % intervals",
        summary=_share_summary(rows),
        caution=SHARE_CAUTION,
    )
    layer_axis(figure, rows["layer"].to_numpy(dtype=float))
    figure.update_layout(margin={"t": 134})
    figure.update_yaxes(
        title_text="Share explained, or of tokens (%)", zeroline=True, zerolinecolor=GREY
    )
    return figure


def _explained(rows: pd.DataFrame) -> list[go.Bar]:
    name, low, high = "share_explained_by_vocabulary", "share_explained_low", "share_explained_high"
    if not np.isfinite(column(rows, name)).any():
        return []
    return [
        go.Bar(
            x=rows["layer"],
            y=100 * rows[name],
            name="explained by the token",
            width=0.7,
            marker={"color": translucent(GREEN, 0.75)},
            error_y=interval(rows, name, low=low, high=high, scale=100),
            customdata=on_layers(
                rows.assign(low=100 * column(rows, low), high=100 * column(rows, high)),
                "low",
                "high",
            ),
            hovertemplate="explained by the token: %{y:.0f} % (%{customdata[2]:.0f} to "
            "%{customdata[3]:.0f})<extra></extra>",
        )
    ]


def _overlap(rows: pd.DataFrame) -> go.Scatter:
    return go.Scatter(
        x=rows["layer"],
        y=100 * rows["overlap"],
        name="overlap: tokens that can be matched",
        mode="lines",
        line={"color": GREY, "width": 1.8, "dash": "dot"},
        customdata=on_layers(rows),
        hovertemplate="overlap: %{y:.0f} % of tokens<extra></extra>",
    )


def _other_keys(results: Results) -> list[go.Scatter]:
    if results.divergence_matched.empty:
        return []
    table = numeric(results.divergence_matched).sort_values("layer")
    return [
        go.Scatter(
            x=rows["layer"],
            y=100 * rows["share_explained"],
            name=f"by {name}",
            mode="markers",
            marker={"color": color, "symbol": symbol, "size": 9},
            customdata=on_layers(rows, "overlap"),
            hovertemplate=f"by {name}: %{{y:.0f}} % (overlap %{{customdata[2]:.2f}})"
            "<extra></extra>",
        )
        for key, (name, color, symbol) in MATCHED_ON.items()
        if np.isfinite(column(rows := table[table["matched_on"] == key], "share_explained")).any()
    ]


def _share_summary(rows: pd.DataFrame) -> str:
    share = 100 * column(rows, "share_explained_by_vocabulary")
    known = np.isfinite(share)
    if not known.any():
        return NO_SHARE
    least, most = rows.iloc[int(np.nanargmin(share))], rows.iloc[int(np.nanargmax(share))]
    return (
        f"Comparing the same tokens takes away {np.nanmin(share):.0f} % (layer {least.layer:.0f}) "
        f"to {np.nanmax(share):.0f} % (layer {most.layer:.0f}) of the divergence above its null; "
        f"{100 * rows['overlap'].iloc[0]:.0f} % of tokens can be compared, and {known.sum()} of "
        f"{len(rows)} layers have a share."
    )
