"""The sections of the report on descriptive measures: load, pairs, paths, specialisation."""

from html import escape

import pandas as pd

from interp.figures_load import load_figure, vocabulary_figure
from interp.report_html import figure_block, numbers_table, section
from interp.results import Results
from interp.sentences import absent_sentences
from interp.sentences_load import (
    coactivation_sentence,
    paths_sentence,
    specialisation_sentence,
)

MEASURED = ("load", "coactivation", "paths", "specialisation", "vocabulary")
"""How the keys of `Results.absent` begin, one panel each."""


def measure_sections(results: Results, model: str) -> str:
    """All of them, one after the other; nothing where results know nothing of any."""
    is_told = any(name.startswith(MEASURED) for name in results.absent)
    if not is_told and all(getattr(results, name).empty for name in MEASURED):
        return ""
    return "\n".join(
        [
            _load(results, model),
            _with_numbers(
                results,
                "coactivation",
                "Which experts serve the same tokens?",
                "" if results.coactivation.empty else coactivation_sentence(results.coactivation),
            ),
            _with_numbers(
                results,
                "paths",
                "Which paths through two layers are common?",
                "" if results.paths.empty else paths_sentence(results.paths),
            ),
            _specialisation(results, model),
        ]
    )


def _load(results: Results, model: str) -> str:
    reasons, drawn = absent_sentences(results.absent, "load"), ""
    if not results.load.empty:
        figure = load_figure(results.load, model=model, n_experts=int(results.run["n_experts"]))
        drawn = figure_block("load", figure) + _numbers(results.load)
    return section("load", "How evenly are experts used?", drawn, reasons)


def _specialisation(results: Results, model: str) -> str:
    reasons, drawn = absent_sentences(results.absent, "specialisation"), ""
    reasons += absent_sentences(results.absent, "vocabulary")
    if not results.specialisation.empty:
        drawn += f"<p>{escape(specialisation_sentence(results.specialisation))}</p>"
        drawn += _numbers(results.specialisation)
    if not results.vocabulary.empty:
        drawn += figure_block("vocabulary", vocabulary_figure(results.vocabulary, model=model))
        drawn += _numbers(results.vocabulary)
    return section("specialisation", "What do experts specialise in?", drawn, reasons)


def _with_numbers(results: Results, name: str, heading: str, sentence: str) -> str:
    table: pd.DataFrame = getattr(results, name)
    drawn = "" if table.empty else f"<p>{escape(sentence)}</p>{_numbers(table)}"
    return section(name, heading, drawn, absent_sentences(results.absent, name))


def _numbers(table: pd.DataFrame) -> str:
    return numbers_table(table, list(map(str, table)))
