"""The panels of the report, each a question, its figure, and what the tables say in sentences."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from interp.cache.errors import InputError
from interp.calibrated import CALIBRATED, RUNGS
from interp.figures import FIGURES
from interp.report_html import (
    UNRECORDED,
    absent_block,
    figure_block,
    prose,
    section,
    static_table,
    told,
)
from interp.results import EXPERIMENT_TABLES, Results
from interp.sentences import absent_sentences
from interp.sentences_experiments import second_sentences
from interp.sentences_experts import expert_sentences
from interp.sentences_load import specialisation_sentence
from interp.sentences_probes import (
    added_sentences,
    control_sentences,
    readout_sentences,
)

WIDE = 40
"""More experts than these do not fit a phone; the figure scrolls sideways there."""

Sentences = Callable[[Results], list[str]]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel: `name` is its id in the page, and its figure's in `FIGURES` where it has one."""

    name: str
    """Id of the section."""
    heading: str
    """The question it answers."""
    tables: tuple[str, ...]
    """Tables it is made of; where all are empty it gives the reasons."""
    absent: tuple[str, ...]
    """How the keys of `Results.absent` that belong to it begin."""
    sentences: Sentences = lambda _: []
    """What else is said below the figure."""
    caution: str = ""
    """How it can fool the reader; a panel with a figure has the figure's."""
    is_optional: bool = False
    """Left out without a word where it has neither rows nor reasons."""


def _of(name: str, sentences: Callable[..., list[str]]) -> Sentences:
    """Sentences on one table, where it has rows."""

    def said(results: Results) -> list[str]:
        table = getattr(results, name)
        return [] if table.empty else sentences(table)

    return said


PANELS = (
    Panel(
        name="usage",
        heading="Which experts are used more?",
        tables=("usage", "experts"),
        absent=("usage",),
    ),
    Panel(
        name="volcano",
        heading="Which experts differ, and beyond what?",
        tables=("experts", "sources"),
        absent=("experts", "sources"),
        sentences=expert_sentences,
    ),
    Panel(
        name="divergence",
        heading="Where does routing differ?",
        tables=("divergence",),
        absent=("divergence",),
    ),
    Panel(
        name="vocabulary_share",
        heading="How much of it is vocabulary?",
        tables=("divergence", "divergence_matched"),
        absent=("divergence_matched",),
    ),
    Panel(
        name="probes",
        heading="Can the condition be read off?",
        tables=("probes", "probes_chosen"),
        absent=("probes",),
        sentences=readout_sentences,
    ),
    Panel(
        name="two_by_two",
        heading="Is it the wording or the wrapper?",
        tables=("grid",),
        absent=("grid",),
    ),
    Panel(
        name="probe_controls",
        heading="What would a probe find anyway?",
        tables=("probe_controls", "added", "router_split", "directions"),
        absent=("probe_controls", "added", "router_split", "directions"),
        sentences=lambda results: [
            *_of("added", added_sentences)(results),
            *_of("probe_controls", control_sentences)(results),
        ],
        caution="A small gain can mean that both say the same and not that one says nothing, and "
        "selectivity speaks of this kind of probe only.",
    ),
    Panel(
        name="coactivation",
        heading="Which experts serve the same tokens?",
        tables=("coactivation",),
        absent=("coactivation",),
    ),
    Panel(
        name="paths",
        heading="Which paths through two layers are common?",
        tables=("paths",),
        absent=("paths",),
    ),
    Panel(
        name="interventions",
        heading="Who is hurt when experts are taken out?",
        tables=EXPERIMENT_TABLES,
        absent=("experiment",),
        sentences=_of("experiment_second_model", second_sentences),
        is_optional=True,
    ),
    Panel(
        name="dose_response",
        heading="Does taking out more hurt more?",
        tables=("experiment_dose",),
        absent=("experiment_dose",),
        is_optional=True,
    ),
    Panel(name="load", heading="How evenly are experts used?", tables=("load",), absent=("load",)),
    Panel(
        name="vocabulary",
        heading="What do experts specialise in?",
        tables=("vocabulary", "specialisation"),
        absent=("specialisation", "vocabulary"),
        sentences=_of("specialisation", lambda table: [specialisation_sentence(table)]),
    ),
)


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
    said = panel.sentences(results)
    reasons = [each for key in panel.absent for each in absent_sentences(results.absent, key)]
    reasons = list(dict.fromkeys(reasons))
    if panel.is_optional and figure is None and not said and not reasons:
        return None
    if figure is None and not said and not reasons:
        reasons = [failure or UNRECORDED]
    said = [each for each in said if not _is_told(each, reasons)]
    return DrawnPanel(
        figure=figure,
        body=_body(panel, results, suffix, figure, said)
        + absent_block(reasons)
        + _caution(figure, panel.caution if said else ""),
        finding=next(iter([*_summary(figure), *said, *reasons])),
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
    links = ", ".join(f'<a href="#table-{name}{suffix}">{name}</a>' for name in held)
    return body + (f'<p class="hint tables-of">The numbers: {links}</p>' if links else "")


def _subtitle(results: Results, held: Mapping[str, pd.DataFrame]) -> str:
    """Model and n of a panel without a figure, from the first of its tables that knows them."""
    counted = [table.iloc[0] for table in held.values() if "n_prompts" in table]
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


def _figure(panel: Panel, results: Results) -> tuple[go.Figure | None, str]:
    """The figure of a panel, or the sentence that says why there is none."""
    if panel.name not in FIGURES:
        return None, ""
    try:
        return FIGURES[panel.name](results), ""
    except InputError as error:
        return None, str(error)


def _block(name: str, figure: go.Figure) -> str:
    n_experts = max((len(trace.x) for trace in figure.data if trace.type == "heatmap"), default=0)
    return figure_block(name, figure, wide=n_experts > WIDE)
