"""The panels of the report as HTML: a figure, what the tables say, what is missing, a caution."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from interp.cache.errors import InputError
from interp.calibrated import CALIBRATED, RUNGS
from interp.figures import FIGURES
from interp.figures_tables import NothingToDrawError
from interp.report_html import (
    UNRECORDED,
    absent_block,
    figure_block,
    prose,
    section,
    static_table,
    told,
)
from interp.report_questions import ASKED, Panel, reasons
from interp.results import Results

WIDE = 40
"""More experts than these do not fit a phone; the figure scrolls sideways there."""


@dataclass(frozen=True, kw_only=True)
class DrawnPanel:
    """A panel of one study as HTML, with what it says in a sentence."""

    figure: go.Figure | None
    """Its figure, where the results have one."""
    body: str
    """Figure, sentences, reasons for what is missing, and how it can fool the reader."""
    finding: str
    """What it says in short; the first reason where it holds nothing."""


def drawn_panel(panel: Panel, results: Results, *, suffix: str = "") -> DrawnPanel | None:
    """A panel of one study; None where it is optional and has nothing to say."""
    figure, failure = _figure(panel, results)
    said, missing = panel.sentences(results), reasons(panel, results.absent)
    if isinstance(failure, NothingToDrawError) and str(failure) not in missing:
        missing = [str(failure), *missing]
    if panel.is_optional and figure is None and not said and not missing:
        return None
    if figure is None and not said and not missing:
        recorded = [results.absent[name] for name in panel.tables if name in results.absent]
        missing = recorded or [str(failure or UNRECORDED)]
    said = [each for each in said if not _is_told(each, missing)]
    body = _body(panel, results, suffix, figure, said) + absent_block(missing)
    return DrawnPanel(
        figure=figure,
        body=body + _caution(figure, panel.caution if said else ""),
        finding=next(iter([*_summary(figure), *said, *missing])),
    )


def calibration_section(figure: go.Figure) -> str:
    """How often the procedure behind the verdict is right, where the answer is known."""
    rows = pd.DataFrame(
        [
            {"simulated": cell.simulated, "known": cell.known}
            | dict(zip(RUNGS, cell.verdicts, strict=True))
            for cell in CALIBRATED
        ]
    )
    body = figure_block("calibration", figure) + static_table("calibration", rows)
    return section("calibration", "How often is this procedure wrong?", body + _caution(figure))


def _body(
    panel: Panel, results: Results, suffix: str, figure: go.Figure | None, said: Sequence[str]
) -> str:
    held = {name: getattr(results, name) for name in panel.tables}
    held = {name: table for name, table in held.items() if len(table)}
    body = _subtitle(results, held) if figure is None else _block(panel.name + suffix, figure)
    body += "".join(f"<p>{told(each)}</p>" for each in said)
    body += "".join(static_table(name, table) for name, table in held.items())
    links = ", ".join(
        f'<a href="#table-{name}{suffix}">{name}</a>'
        + (f" ({ASKED[name]})" if name in ASKED else "")
        for name in held
    )
    return body + (f'<p class="hint tables-of">The numbers: {links}</p>' if links else "")


def _subtitle(results: Results, held: Mapping[str, pd.DataFrame]) -> str:
    """Model and n of a panel without a figure, from the first of its tables that knows them."""
    counted = [t.iloc[0] for t in held.values() if {"n_prompts", "n_clusters"} <= {*t}]
    if not counted:
        return ""
    n_prompts, n_items = counted[0]["n_prompts"], counted[0]["n_clusters"]
    n = f"n = {n_prompts:,.0f} prompts of {n_items:,.0f} items"
    return f'<p class="subtitle">{told(results.run["model"])} · {prose(n)}</p>'


def _caution(figure: go.Figure | None, otherwise: str = "") -> str:
    caution = otherwise if figure is None else str(figure.layout.meta["caution"])
    said = f'<p class="caution"><b>How this can fool you.</b> {told(caution)}</p>'
    return said if caution else ""


def _summary(figure: go.Figure | None) -> list[str]:
    return [] if figure is None else [str(figure.layout.meta["summary"])]


def _is_told(sentence: str, reasons: Sequence[str]) -> bool:
    """Whether what a sentence ends in stands among the reasons for what is missing."""
    end = sentence.rpartition(": ")[2]
    return any(end in reason for reason in reasons)


def _figure(panel: Panel, results: Results) -> tuple[go.Figure | None, InputError | None]:
    """The figure of a panel, or the error that says why there is none."""
    if panel.name not in FIGURES:
        return None, None
    try:
        return FIGURES[panel.name](results), None
    except InputError as error:
        return None, error


def _block(name: str, figure: go.Figure) -> str:
    n_experts = max((len(trace.x) for trace in figure.data if trace.type == "heatmap"), default=0)
    return figure_block(name, figure, wide=n_experts > WIDE)
