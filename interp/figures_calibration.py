"""How often the procedure behind the verdict is right, on simulated studies with a known answer."""

import numpy as np
import plotly.graph_objects as go
from scipy.stats import binomtest

from interp.calibrated import CALIBRATED, RUNGS, RUNS
from interp.figure_style import BLUE, GREEN, GREY, INK, OCHRE, lay_out

COLORS = dict(zip(RUNGS, (GREY, BLUE, OCHRE, GREEN), strict=True))
CAUTION = (
    "Simulated sources are more alike than real ones and as many in both conditions, so a verdict "
    "on real prompts can be wrong more often than these."
)


def calibration() -> go.Figure:
    """Verdicts on simulated studies of each kind, the true one named beside its row."""
    names = [_label(cell.simulated, cell.known) for cell in CALIBRATED]
    shares = 100 * np.array([cell.verdicts for cell in CALIBRATED]) / RUNS
    figure = go.Figure([_bars(rung, names, shares[:, place]) for place, rung in enumerate(RUNGS)])
    lay_out(
        figure,
        title="Verdicts on simulated studies, where the answer is known",
        subtitle=f"simulated router, 4 layers of 16 experts · n = {RUNS} studies a row, without "
        "experiments",
        summary=_summary(),
        caution=CAUTION,
    )
    figure.update_layout(
        barmode="stack",
        height=720,
        hovermode="closest",
        legend={"traceorder": "normal", "y": 1.0},
        bargap=0.5,
    )
    figure.update_xaxes(title_text="Share of studies (%)", range=[0, 100])
    figure.update_yaxes(
        title_text="What differs, and the highest true rung",
        autorange="reversed",
        showgrid=False,
        tickfont={"size": 11},
    )
    return figure


def _label(simulated: str, known: str) -> str:
    """Two lines, so that a narrow screen has room for the bars."""
    first, _, second = simulated.partition(", ")
    shown = f"{first},<br>{second}" if second else first
    return f"{shown}<br><i>{known.replace('_', ' ')}</i>"


def _bars(rung: str, names: list[str], share: np.ndarray) -> go.Bar:
    said = rung.replace("_", " ")
    return go.Bar(
        x=share,
        y=names,
        name=said,
        orientation="h",
        marker={"color": COLORS[rung], "line": {"color": INK, "width": 0.5}},
        hovertemplate=f"{said}: %{{x:.1f}} %<extra></extra>",
    )


def _summary() -> str:
    wrong, runs = sum(cell.too_high for cell in CALIBRATED), RUNS * len(CALIBRATED)
    high = 100 * binomtest(wrong, runs).proportion_ci(method="exact").high
    lower = sum(sum(cell.verdicts[: RUNGS.index(cell.known)]) for cell in CALIBRATED)
    equal = sum(cell.wrongly_equal for cell in CALIBRATED)
    return (
        f"{wrong} of {runs:,} verdicts claim more than is true (at most {high:.1f} %, exact 95 % "
        f"interval), and {lower:,} stand lower. Of these {equal} say no difference where "
        "vocabulary or position makes one: that too is a claim, that no expert differs by "
        "more than the margin. The rung causal needs experiments, and was not simulated."
    )
