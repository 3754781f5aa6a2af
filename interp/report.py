"""The report of one study: one HTML file that needs no network, from results and their store."""

from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
from plotly.offline import get_plotlyjs

from interp import __version__
from interp.cache.durable import write_whole
from interp.cache.errors import InputError
from interp.cache.reader import Store
from interp.report_experiments import experiment_section
from interp.report_experts import expert_section
from interp.report_measures import measure_sections
from interp.report_probes import probe_control_section
from interp.report_sections import (
    divergence_section,
    notices,
    other_absent,
    probe_section,
    run_section,
    token_section,
    usage_section,
)
from interp.results import TABLES, Results
from interp.sentences import compared_sentence

TEXT_COLUMNS = {"condition", "site", "target", "split", "baseline", "best_baseline", "reason"}
TEXT_COLUMNS |= {"by", "group", "over", "path", "ranked_by", "cluster", "matched_on", "token_class"}
TEXT_COLUMNS |= {"committee_over", "readout", "kind", "cell", "part", "added", "to", "method"}
TEXT_COLUMNS |= {"layers_chosen"}
TEXT_COLUMNS |= {"contrast", "experts", "notes", "role", "outcome", "intervention"}
TEXT_COLUMNS |= {"model", "second_model"}
TEXT_COLUMNS |= {"variation", "dtype", "shift", "shuffled", "sign"}


def write_report(results: Results, store: Store, out: str | Path) -> None:
    """Write the report of a study to one offline HTML file.

    Args:
        results: Tables of the study, as `analyze` gives them or `read_results` reads them.
        store: Store they were computed from; the token view shows a few of its prompts.
        out: File to write; one that is there is replaced once the new one is whole.

    Raises:
        InputError: If the folder of `out` is not there, or `out` is a folder.
    """
    out = Path(out)
    if not out.parent.is_dir() or out.is_dir():
        raise InputError(
            f"{out} cannot be written as a report; give a file name in a folder that exists"
        )
    page = render_report(results, store)
    write_whole(out, page.encode())


def render_report(results: Results, store: Store) -> str:
    """The whole page as text; every string from the results or the store is escaped."""
    results = with_numbers(results)
    model = str(results.run["model"])
    sections = [
        divergence_section(results, model),
        usage_section(results, model),
        expert_section(results),
        experiment_section(results),
        probe_section(results, model),
        probe_control_section(results),
        measure_sections(results, model),
        token_section(results, store),
        run_section(results, store),
        other_absent(results),
    ]
    return Template(_package_text("report.html")).substitute(
        title=escape(f"{model}: benchmark and organic prompts"),
        compared=escape(compared_sentence(results.run)),
        notices=notices(results),
        sections="\n".join(sections),
        css=_package_text("report.css"),
        script=_package_text("report.js"),
        plotly=get_plotlyjs(),
        version=__version__,
    )


def with_numbers(results: Results) -> Results:
    """The same results with missing numbers as NaN, which JSON turned into None."""
    tables: dict[str, Any] = {name: _numeric(getattr(results, name)) for name in TABLES}
    positions = [name for name in ("layer", "expert") if name in tables["usage"]]
    tables["usage"] = tables["usage"].astype(dict.fromkeys(positions, int))
    return replace(results, **tables)


def _numeric(table: pd.DataFrame) -> pd.DataFrame:
    return table.astype({column: float for column in table.columns if column not in TEXT_COLUMNS})


def _package_text(name: str) -> str:
    return files("interp").joinpath(name).read_text(encoding="utf-8")
