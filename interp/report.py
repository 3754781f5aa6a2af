"""The report: one HTML file that needs no network, from the results of a study and its store."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from interp import __version__
from interp.cache.durable import write_whole
from interp.cache.errors import InputError
from interp.cache.reader import Store
from interp.figures_calibration import calibration
from interp.report_bundle import (
    content_security_policy,
    package_text,
    page_script,
    plotly_licences,
    plotly_script,
)
from interp.report_first import first_screen, summary_section
from interp.report_html import section, told
from interp.report_panels import DrawnPanel, calibration_section, drawn_panel
from interp.report_questions import PANELS, Panel
from interp.report_study import ReportedStudy
from interp.report_tables import tables_of
from interp.report_tokens import HEADING, token_view
from interp.results import TABLES, Results
from interp.sentences import compared_sentence

TEXT_COLUMNS = {"condition", "site", "target", "split", "baseline", "best_baseline", "reason"}
TEXT_COLUMNS |= {"by", "group", "over", "path", "ranked_by", "cluster", "matched_on", "token_class"}
TEXT_COLUMNS |= {"committee_over", "readout", "kind", "cell", "part", "added", "to", "method"}
TEXT_COLUMNS |= {"layers_chosen"}
TEXT_COLUMNS |= {"contrast", "experts", "notes", "role", "outcome", "intervention"}
TEXT_COLUMNS |= {"model", "second_model"}
TEXT_COLUMNS |= {"variation", "dtype", "shift", "shuffled", "sign"}
HINT = (
    '<p class="hint">Shown with five digits; the CSV has all that results.json has. Choose a '
    "heading to sort, or a row to choose its expert everywhere.</p>"
    '<noscript><p class="absent">These tables need JavaScript; results.json holds the same.</p>'
    "</noscript>"
)
TWO_STUDIES = (
    '<p class="hint">Two studies side by side. Scales and colours are each study\'s own, and an '
    "expert of one model has nothing to do with the expert of that number in another.</p>"
)

DrawnPanels = list[tuple[Panel, list[DrawnPanel | None]]]
"""Panels, each with its part of every study; None where a study has none."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A report that was drawn, and its figures for other uses."""

    page: str
    """The whole HTML file."""
    figures: dict[str, go.Figure]
    """Figures by the name of their panel, such as `usage`; those of a second study end in `-2`."""


def write_report(
    results: Results,
    store: Store,
    out: str | Path,
    *,
    beside: tuple[Results, Store] | None = None,
) -> Report:
    """Write the report of a study, or of two side by side, to one offline HTML file.

    Args:
        results: Tables of the study, as `analyze` gives them or `read_results` reads them.
        store: Store they were computed from; the token view shows a few of its prompts.
        out: File to write; one that is there is replaced once the new one is whole.
        beside: Tables and store of a second study.

    Returns:
        The page and its figures: `report.figures["usage"].write_image("usage.svg")`.

    Raises:
        InputError: If the folder of `out` is not there, or `out` is a folder.
    """
    out = Path(out)
    if not out.parent.is_dir() or out.is_dir():
        raise InputError(
            f"{out} cannot be written as a report; give a file name in a folder that exists"
        )
    report = draw_report(results, store, beside=beside)
    write_whole(out, report.page.encode())
    return report


def draw_report(
    results: Results, store: Store, *, beside: tuple[Results, Store] | None = None
) -> Report:
    """The report of one study or two; every text from results or store is escaped."""
    studies = [
        ReportedStudy(results=with_numbers(given), given=given, store=opened, suffix=suffix)
        for (given, opened), suffix in zip(
            filter(None, [(results, store), beside]), ("", "-2"), strict=False
        )
    ]
    drawn = _drawn_panels(studies)
    calibrated = calibration()
    sections = [
        *(_panel_section(panel, parts, studies) for panel, parts in drawn),
        section("tokens", HEADING, _beside(list(map(token_view, studies)), studies)),
        calibration_section(calibrated),
        section("tables", "All tables", HINT + _beside(list(map(tables_of, studies)), studies)),
    ]
    figures = {
        panel.name + study.suffix: part.figure
        for panel, parts in drawn
        for study, part in zip(studies, parts, strict=True)
        if part is not None and part.figure is not None
    }
    page = _page(studies, _findings(drawn), sections)
    return Report(page=page, figures=figures | {"calibration": calibrated})


def _drawn_panels(studies: Sequence[ReportedStudy]) -> DrawnPanels:
    """Each panel that any of the studies has something to say in."""
    drawn = [
        (panel, [drawn_panel(panel, each.results, suffix=each.suffix) for each in studies])
        for panel in PANELS
    ]
    return [(panel, parts) for panel, parts in drawn if any(parts)]


def _page(
    studies: Sequence[ReportedStudy],
    findings: Sequence[tuple[str, str, Sequence[str]]],
    sections: Sequence[str],
) -> str:
    models = " and ".join(dict.fromkeys(study.model for study in studies))
    compared = [f'<p class="lead">{told(compared_sentence(s.results.run))}</p>' for s in studies]
    firsts = [text + first_screen(study) for text, study in zip(compared, studies, strict=True)]
    layouts = [study.store.layout for study in studies]
    layers = sorted({layer for layout in layouts for layer in layout.layer_indices})
    plotly, script = plotly_script(), page_script()
    return Template(package_text("report.html")).substitute(
        title=told(f"{models}: benchmark and organic prompts"),
        policy=content_security_policy(plotly, script),
        css=package_text("report.css"),
        kind="two" if len(studies) > 1 else "one",
        first=(TWO_STUDIES if len(studies) > 1 else "") + _beside(firsts, studies),
        layers="".join(f"<option>{layer}</option>" for layer in layers),
        experts="".join(f"<option>{e}</option>" for e in range(max(x.n_experts for x in layouts))),
        summary=summary_section(findings, _names(studies) if len(studies) > 1 else ()),
        sections="\n".join(sections),
        plotly=plotly,
        script=script,
        licences=told(plotly_licences()),
        version=__version__,
    )


def _panel_section(
    panel: Panel, parts: Sequence[DrawnPanel | None], studies: Sequence[ReportedStudy]
) -> str:
    bodies = ["<p>Not in this study.</p>" if part is None else part.body for part in parts]
    return section(panel.name, panel.heading, _beside(bodies, studies))


def _beside(bodies: Sequence[str], studies: Sequence[ReportedStudy]) -> str:
    """The same of each study, side by side where there are two."""
    if len(studies) == 1:
        return bodies[0]
    columns = "".join(
        f'<div class="study"><p class="kicker">{told(name)}</p>{body}</div>'
        for name, body in zip(_names(studies), bodies, strict=True)
    )
    return f'<div class="studies">{columns}</div>'


def _names(studies: Sequence[ReportedStudy]) -> list[str]:
    return [f"Study {place}: {study.model}" for place, study in enumerate(studies, start=1)]


def _findings(drawn: DrawnPanels) -> list[tuple[str, str, list[str]]]:
    return [
        (
            panel.name,
            panel.heading,
            ["Not in this study." if part is None else part.finding for part in parts],
        )
        for panel, parts in drawn
    ]


def with_numbers(results: Results) -> Results:
    """The same results with missing numbers as NaN, which JSON turned into None."""
    tables: dict[str, Any] = {name: _numeric(getattr(results, name)) for name in TABLES}
    positions = [name for name in ("layer", "expert") if name in tables["usage"]]
    tables["usage"] = tables["usage"].astype(dict.fromkeys(positions, int))
    return replace(results, **tables)


def _numeric(table: pd.DataFrame) -> pd.DataFrame:
    return table.astype({column: float for column in table.columns if column not in TEXT_COLUMNS})
