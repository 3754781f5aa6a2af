"""The questions that the report answers, a panel each, in the order of the page."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from interp.results import EXPERIMENT_TABLES, Results
from interp.sentences_experiments import own_sentences, second_sentences, slope_sentences
from interp.sentences_experts import expert_sentences
from interp.sentences_load import specialisation_sentence
from interp.sentences_probes import added_sentences, control_sentences, readout_sentences

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


def reasons(panel: Panel, absent: Mapping[str, str]) -> list[str]:
    """What is recorded as absent in a panel; a reason goes to the panel that names it closest."""
    others = [key for other in PANELS if other is not panel for key in other.absent]
    mine = [
        reason
        for name, reason in absent.items()
        if _closest(panel.absent, name) >= max(1, _closest(others, name))
    ]
    return list(dict.fromkeys(mine))


def _closest(keys: Iterable[str], name: str) -> int:
    """Length of the longest key that is the name or its beginning, 0 if none is."""
    return max((len(key) for key in keys if name == key or name.startswith(f"{key}_")), default=0)


OWN_PANELS = ("experiment_dose", "experiment_slope", "experiment_second_model")
"""Tables of experiments that have a panel of their own."""
BESIDE_FOUND = tuple(name for name in EXPERIMENT_TABLES if name not in OWN_PANELS)
"""The other tables of experiments."""
ASKED = {
    "experiment_candidates": "used more under benchmark",
    "experiment_matched": "matched random sets",
    "experiment_sufficiency": "does the set suffice?",
    "experiment_patches": "does the route alone matter?",
    "experiment_steering": "does the direction matter?",
    "experiment_behaviour": "does routing predict what is said?",
    "experiment_noise": "what is nothing?",
}
"""What stands in tables that no figure draws, or not as they are."""
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
        absent=("divergence_matched", "divergence_share"),
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
            *_of("probe_controls", control_sentences)(results),
            *_of("added", added_sentences)(results),
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
        tables=BESIDE_FOUND,
        absent=(*BESIDE_FOUND, "experiment_notes"),
        sentences=_of("experiments", own_sentences),
        is_optional=True,
    ),
    Panel(
        name="dose_response",
        heading="Does taking out more hurt more?",
        tables=("experiment_dose", "experiment_slope"),
        absent=("experiment_dose",),
        sentences=_of("experiment_slope", slope_sentences),
        is_optional=True,
    ),
    Panel(
        name="second_model",
        heading="Is it this model?",
        tables=("experiment_second_model",),
        absent=("experiment_second_model",),
        sentences=_of("experiment_second_model", second_sentences),
        caution="A second model differs in more than what is asked about, so a difference has many "
        "possible reasons.",
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
