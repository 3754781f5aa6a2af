"""What taking the found experts out does, beside matched random sets and placebo contrasts."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp.figure_style import (
    BLUE,
    GREY,
    MINUS,
    MUTED,
    OCHRE,
    VERMILLION,
    lay_out,
    translucent,
)
from interp.figures_tables import (
    NothingToDrawError,
    column,
    interval,
    model_of,
    numeric,
    plain,
    table_of,
)
from interp.results import Results

UNITS = {
    "content": "nats per token",
    "answer": "nats per token",
    "own_answer": "nats per token",
    "option": "share of prompts",
    "letter": "share of prompts",
    "greedy": "share of prompts",
}
"""Unit of each outcome."""
WIDEST_LABEL = 24
GOLDEN = 0.6180339887
"""Steps that never meet, so that points of a strip lie side by side without chance."""
CAUTION = (
    "No effect is not no role, since a twin expert may hide it, and the interval speaks of other "
    "prompts like these, not of other models or other ways to take an expert out."
)


def interventions(results: Results) -> go.Figure:
    """Interaction of the found set beside matched random sets and placebo contrasts.

    The interaction is the damage to benchmark prompts less that to organic ones when the experts
    are taken out; above 0 the experts matter more for benchmark prompts.

    Args:
        results: With an experiment; reads the tables `experiments` and `experiment_matched`.

    Raises:
        InputError: If no experiment was run, or none of its contrasts found an expert.
    """
    table = table_of(results, "experiments").reset_index(drop=True)
    main, placebos = table[table["role"] == "main"], table[table["role"] != "main"]
    matched = numeric(results.experiment_matched)
    if main.empty:
        raise NothingToDrawError("The table experiments has no row of the main contrast.")
    found = main.iloc[0]
    if not (table["n_found"] > 0).any() and matched.empty:
        raise NothingToDrawError(_none_found(placebos))
    names = [
        f"found set<br>({found.n_found:.0f} experts)",
        f"{len(matched) or 'no'} matched<br>random sets",
        *map(_label, placebos["contrast"].astype(str), placebos["interaction"].notna()),
    ]
    taken_out = main[main["n_found"] > 0]
    traces = [*_strip(matched), *_placebos(placebos), *_found(taken_out)]
    figure = go.Figure(traces)
    lay_out(
        figure,
        title="Taking the found experts out, beside controls",
        subtitle=f"{model_of(results)} · {_n_items(found)}, {len(matched)} sets, "
        f"{len(placebos)} placebos · {found.outcome}, {found.intervention} · bars: 95 %",
        summary=_summary(found, matched, placebos),
        caution=CAUTION,
    )
    _frame(figure, names, unit_of(found.outcome))
    return figure


def _n_items(found: pd.Series) -> str:
    return f"n = {found.n_items:,.0f} items" if found.n_found else "no expert found"


def unit_of(outcome: object) -> str:
    """Unit of damage by this outcome."""
    return UNITS.get(str(outcome), "unit of the outcome")


def _label(contrast: str, is_run: bool) -> str:
    """A contrast on two lines if it is long, its sides joined by a minus."""
    name = plain(contrast) + ("" if is_run else " (not run)")
    if len(name) <= WIDEST_LABEL:
        return name.replace(" - ", f" {MINUS} ")
    return name.replace(" - ", f"<br>{MINUS} ")


def _found(main: pd.DataFrame) -> list[go.Scatter]:
    if main.empty:
        return []
    return [
        go.Scatter(
            x=main["interaction"],
            y=[0.0],
            name="found set",
            showlegend=False,
            mode="markers",
            marker={"color": VERMILLION, "symbol": "star", "size": 14},
            error_x=interval(main, "interaction", low="interaction_low", high="interaction_high"),
            customdata=_sets(main, "interaction_low", "interaction_high"),
            hovertemplate="<b>found set</b> %{customdata[2]}<br>interaction %{x:.4f} "
            "(%{customdata[3]:.4f} to %{customdata[4]:.4f})<extra></extra>",
        )
    ]


def _strip(matched: pd.DataFrame) -> list[go.Scatter]:
    """A point for each matched set, and a line at the 95 % quantile that the verdict asks for."""
    if matched.empty:
        return []
    value = column(matched, "interaction")
    spread = 0.6 * (np.arange(len(value)) * GOLDEN % 1 - 0.5)
    high = float(np.nanquantile(value, 0.95))
    return [
        go.Scatter(
            x=value,
            y=1 + spread,
            name="matched random sets",
            showlegend=False,
            mode="markers",
            marker={"color": translucent(GREY, 0.6), "symbol": "circle", "size": 6},
            customdata=_sets(matched, "usage_ratio"),
            hovertemplate="matched set %{customdata[2]}<br>interaction %{x:.4f}<extra></extra>",
        ),
        go.Scatter(
            x=[high, high],
            y=[0.6, 1.4],
            name="95 % of matched sets",
            mode="lines",
            line={"color": GREY, "width": 2.5, "dash": "dot"},
            hovertemplate=f"95 % quantile: {high:.4f}<extra></extra>",
        ),
    ]


def _placebos(placebos: pd.DataFrame) -> list[go.Scatter]:
    """What each placebo contrast found by itself, and the main set under that contrast."""
    if placebos.empty:
        return []
    place = 2.0 + np.arange(len(placebos))
    has_found = column(placebos, "n_found") > 0
    of_main = column(placebos, "interaction_of_main_set")
    traces = [
        go.Scatter(
            x=of_main,
            y=place + 0.16,
            name="found set under placebo",
            mode="markers",
            marker={"color": OCHRE, "symbol": "x", "size": 8},
            hovertemplate="found set under this contrast: %{x:.4f}<extra></extra>",
        ),
        go.Scatter(
            x=placebos["interaction"],
            y=place - 0.16,
            name="placebo's set (open: none found)",
            mode="markers",
            marker={
                "color": BLUE,
                "symbol": np.where(has_found, "diamond", "diamond-open").tolist(),
                "size": 9,
            },
            error_x=interval(
                placebos, "interaction", low="interaction_low", high="interaction_high"
            ),
            customdata=_sets(placebos, "n_found"),
            hovertemplate="placebo: %{customdata[3]:.0f} experts found %{customdata[2]}<br>"
            "interaction %{x:.4f}<extra></extra>",
        ),
    ]
    return traces if np.isfinite(of_main).any() else traces[1:]


def _sets(rows: pd.DataFrame, *columns: str) -> list[list[float | str | None]]:
    """Layer and expert where a set is one expert, nothing where it is more; its text; columns."""
    more = [column(rows, name) for name in columns]
    sets = [str(text or "").split() for text in rows["experts"]]
    return [
        [*(map(int, each[0].split(":")) if len(each) == 1 else (None, None)), " ".join(each), *rest]
        for each, *rest in zip(sets, *more, strict=True)
    ]


def _frame(figure: go.Figure, names: list[str], unit: str) -> None:
    figure.update_layout(
        hovermode="closest", height=232 + 36 * len(names), margin={"t": 140, "b": 92}
    )
    figure.update_layout(legend={"traceorder": "normal"})
    figure.update_xaxes(
        title_text=f"Interaction: damage to<br>benchmark {MINUS} organic<br>({unit})",
        zeroline=True,
        zerolinecolor=MUTED,
        zerolinewidth=1.5,
    )
    figure.update_yaxes(
        title_text="What is taken out",
        tickvals=np.arange(len(names)),
        ticktext=names,
        tickfont={"size": 11},
        range=[len(names) - 0.4, -0.6],
        showgrid=False,
    )
    figure.add_hline(y=1.5, line={"color": MUTED, "width": 1, "dash": "dot"})


def _summary(found: pd.Series, matched: pd.DataFrame, placebos: pd.DataFrame) -> str:
    if not found.n_found:
        return "The experiment found no expert, so nothing was taken out."
    none = "no matched random sets were taken out"
    below = (
        none
        if matched.empty
        else f"above that of {100 * found.share_below:.0f} % of {len(matched)} matched random sets"
    )
    return (
        f"Taking out the {found.n_found:.0f} found experts has an interaction of "
        f"{found.interaction:.4f} {unit_of(found.outcome)} (95 % interval "
        f"{found.interaction_low:.4f} to {found.interaction_high:.4f}), {below}"
        f"{_beside_placebos(placebos)}."
    )


def _beside_placebos(placebos: pd.DataFrame) -> str:
    """The largest interaction of placebos that found experts, and how many did."""
    if placebos.empty:
        return ""
    run = placebos[placebos["interaction"].notna()]
    if run.empty:
        return "; no placebo contrast could be run"
    few = f" ({len(run)} of {len(placebos)} could be run)" * (len(run) < len(placebos))
    own = run[run["n_found"] > 0]
    if own.empty:
        return f"; none of {len(run)} placebo contrasts{few} found an expert"
    found = f"{len(own)} of {len(run)} placebo contrasts{few} found experts"
    return f"; {found}, the largest with {own['interaction'].max():.4f}"


def _none_found(placebos: pd.DataFrame) -> str:
    return (
        f"The main contrast found no expert and none of {len(placebos)} placebo contrasts did, so "
        "nothing was taken out and there is nothing to draw."
    )
