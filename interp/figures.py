"""Plotly figures of one study: results in, a figure out; nothing is computed that is not drawn.

    interp.figures.usage(results).write_image("usage.svg")

Every figure carries its title, model and n (`layout.title`, whose subtitle is always filled), axis
titles with units, a text for readers who do not see it (`layout.meta["summary"]`) and one sentence
on how it can fool the reader (`layout.meta["caution"]`). What stands for an expert has `customdata`
that begins with its layer and number; what stands for a layer, with the layer and None.
"""

from collections.abc import Callable

import plotly.graph_objects as go

from interp.figures_calibration import calibration
from interp.figures_divergence import divergence, vocabulary_share
from interp.figures_dose import dose_response
from interp.figures_experiments import interventions
from interp.figures_experts import volcano
from interp.figures_grid import two_by_two
from interp.figures_load import load, vocabulary
from interp.figures_pairs import coactivation
from interp.figures_paths import paths
from interp.figures_probes import probes
from interp.figures_usage import usage
from interp.results import Results

FIGURES: dict[str, Callable[[Results], go.Figure]] = {
    "usage": usage,
    "volcano": volcano,
    "divergence": divergence,
    "vocabulary_share": vocabulary_share,
    "probes": probes,
    "two_by_two": two_by_two,
    "coactivation": coactivation,
    "paths": paths,
    "interventions": interventions,
    "dose_response": dose_response,
    "load": load,
    "vocabulary": vocabulary,
}
"""All figures by name, in the order of the page. Each takes `Results`; one whose table is empty
raises `InputError`."""

__all__ = [
    "FIGURES",
    "calibration",
    "coactivation",
    "divergence",
    "dose_response",
    "interventions",
    "load",
    "paths",
    "probes",
    "two_by_two",
    "usage",
    "vocabulary",
    "vocabulary_share",
    "volcano",
]
