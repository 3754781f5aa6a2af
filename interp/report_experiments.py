"""The section of the report on experiments: what was taken out, who was hurt, and what else is."""

from html import escape

import pandas as pd

from interp.report_html import numbers_table, section
from interp.results import Results
from interp.sentences import absent_sentences
from interp.sentences_experiments import (
    experiment_sentences,
    second_sentences,
    slope_sentences,
)

PANEL = "experiment"
"""How the keys of `Results.absent` begin."""
HEADINGS = {
    "experiments": "The found set, beside matched sets and placebos",
    "experiment_second_model": "Is it this model?",
    "experiment_candidates": "Candidates: used more under benchmark",
    "experiment_matched": "Matched random sets",
    "experiment_dose": "Does more do more?",
    "experiment_slope": "By how much, for each further expert?",
    "experiment_sufficiency": "Does the set suffice?",
    "experiment_patches": "Does the route alone matter?",
    "experiment_steering": "Does the direction matter?",
    "experiment_behaviour": "Does routing predict what is said?",
    "experiment_noise": "What is nothing?",
}
"""Tables in their order."""


def experiment_section(results: Results) -> str:
    """Each table of the experiments with its sentence; nothing at all where none was made."""
    reasons, drawn = absent_sentences(results.absent, PANEL), ""
    for name, heading in HEADINGS.items():
        table = getattr(results, name)
        if not table.empty:
            said = "".join(f"<p>{escape(each)}</p>" for each in _sentences(name, table))
            drawn += f"<h3>{heading}</h3>{said}{numbers_table(table, list(table))}"
    if not drawn and not reasons:
        return ""
    return section("experiments", "Who is hurt when experts are taken out?", drawn, reasons)


def _sentences(name: str, table: pd.DataFrame) -> list[str]:
    told = {
        "experiments": experiment_sentences,
        "experiment_slope": slope_sentences,
        "experiment_second_model": second_sentences,
    }
    return told[name](table) if name in told else []
