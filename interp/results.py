"""The tables of one study, as `interp analyze` writes them and the report reads them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from interp.cache.durable import write_whole
from interp.cache.errors import InputError

DIVERGENCE_COLUMNS = (
    "layer",
    "raw_bits",
    "raw_low_bits",
    "raw_high_bits",
    "raw_null_bits",
    "raw_null_high_bits",
    "p_value",
    "token_matched_bits",
    "token_matched_low_bits",
    "token_matched_high_bits",
    "token_matched_null_bits",
    "token_matched_null_high_bits",
    "token_matched_p_value",
    "overlap",
    "share_explained_by_vocabulary",
    "share_explained_low",
    "share_explained_high",
)
PROBE_COLUMNS = ("site", "layer", "target", "split", "auroc", "auroc_low", "auroc_high", "baseline")
MATCHED_COLUMNS = (
    "matched_on",
    "layer",
    "raw_bits",
    "matched_bits",
    "matched_low_bits",
    "matched_high_bits",
    "matched_null_bits",
    "matched_null_high_bits",
    "matched_p_value",
    "overlap",
    "share_explained",
    "n_clusters",
    "n_permutations",
)
MEASURES = (
    "divergence_matched",
    "usage_by",
    "load",
    "coactivation",
    "paths",
    "specialisation",
    "vocabulary",
    "saturation",
    "relevance",
    "saliency",
    "token_classes",
    "margins",
)
"""Tables that describe; those that judge come first in `TABLES`."""
PROBE_TABLES = (
    "probes",
    "probes_chosen",
    "probe_controls",
    "grid",
    "added",
    "router_split",
    "directions",
    "direction_cosines",
)
"""Tables of probes; see docs/probes.md."""
EXPERIMENT_TABLES = (
    "experiments",
    "experiment_candidates",
    "experiment_matched",
    "experiment_dose",
    "experiment_slope",
    "experiment_sufficiency",
    "experiment_patches",
    "experiment_steering",
    "experiment_behaviour",
    "experiment_noise",
    "experiment_second_model",
)
"""Tables of experiments on the live model; see docs/experiments.md."""
TABLES = (
    "usage",
    "divergence",
    "experts",
    "sources",
    *PROBE_TABLES,
    *MEASURES,
    *EXPERIMENT_TABLES,
)
OPTIONAL_TABLES = ("experiment_slope", "experiment_second_model")
"""Of them, those that a file of results may lack; they are empty then."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """What one study found. Every table names its columns as DESIGN.md does."""

    usage: pd.DataFrame
    """Rows: condition, layer, expert. Shares of routed slots: `usage_prompt_mean`, the one to show
    (mean over prompts), and `usage` (tokens pooled); `usage_weights*` count slots by weight."""
    divergence: pd.DataFrame
    """Rows: layer. Jensen-Shannon divergence of benchmark and organic usage, in bits."""
    probes: pd.DataFrame
    """Rows: site, layer, readout, target, split, baseline. AUROC, 0.5 is chance."""
    probes_chosen: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: site, readout. The layer is chosen within the fitted prompts of each split."""
    probe_controls: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: site, layer, readout. Control task, description length, untrained model."""
    grid: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: site, readout, cell of wording and wrapper. Share called benchmark."""
    added: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: readout, added, to. What usage adds to a residual stream, and the reverse."""
    router_split: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: layer, readout, part. Probes of what the router can read, and of what it cannot."""
    directions: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: site, layer, readout. Length, spread and cosines; vectors: `study_directions`."""
    direction_cosines: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: site, readout, method, layer, other_layer. Cosine, -1 to 1."""
    experts: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: layer, expert. Effect of the condition, raw, token-adjusted and surface-adjusted, as
    shares of routed slots, with intervals, tests, equivalence and power; see docs/effects.md."""
    sources: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: layer, and one for all (layer missing). Condition against source; docs/sources.md."""
    divergence_matched: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: matched_on, layer. Divergence matched on previous token and token, and on position."""
    usage_by: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: by (source, segment, token_class), group, condition, layer, expert. Usage as in
    `usage`, of the 5 experts with the largest prompt mean in each."""
    load: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: condition, layer. Entropy (bits) and Gini coefficient; standing committee's share."""
    coactivation: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: condition, layer, expert, other_expert: the 3 pairs with the largest `association` and
    the 3 with the least, against independence, of the pairs expected on 20 tokens or more."""
    paths: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: ranked_by, path: the 20 most frequent paths through two neighbouring layers, and the 20
    most specific to a condition, with their null."""
    specialisation: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: group, layer, expert: the 3 experts that serve most tokens of each domain, or source
    (`over`)."""
    vocabulary: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: layer. How far a token id decides the expert, beside the same with ids shuffled."""
    saturation: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: layer. How far it sorts tokens as the last layer does, 0 to 1."""
    relevance: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: condition, layer, expert: those that ESFT would choose, with both its scores."""
    saliency: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: condition, layer, expert: the 5 with the largest saliency of REAP."""
    token_classes: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: by (segment, token_class), token_class, layer, expert: the 3 experts that go most with
    each class, by normalised pointwise mutual information."""
    margins: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: layer. Margin (nats) between the last chosen expert and the first left out."""
    experiments: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: contrast, the main one first. Interaction of its found set, in the unit of the outcome,
    beside matched sets and placebos; missing where too few prompts let it be run. Beside it
    `interaction_of_main_set`, of the main found set under that contrast, which is no placebo."""
    experiment_candidates: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: layer, expert: those used more under benchmark. Own knockout in the discovery half."""
    experiment_matched: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: experts, one matched random set each, with its interaction."""
    experiment_dose: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: size of the set that is taken out."""
    experiment_slope: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row: what each further expert adds to the interaction, with its interval."""
    experiment_sufficiency: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row: the found set alone in its layers."""
    experiment_patches: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: target, the condition whose prompts are routed as their other wordings."""
    experiment_steering: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: site, layer, method, sign. Steering beside random directions of equal norm."""
    experiment_behaviour: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: shift, shuffled. Rank correlation over items with the change of the outcome; that of
    `within domains` is of ranks less the mean of their domain."""
    experiment_noise: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: variation. What runs differ by that should not."""
    experiment_second_model: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row: interaction in this model, in a second one, and the difference."""
    verdict: dict[str, Any] = field(default_factory=dict)
    """`rung`, `sentence` and `steps` of the ladder; see `interp.analyses.ladder`."""
    run: dict[str, Any]
    """Model, counts of prompts and tokens, settings, versions."""
    absent: dict[str, str] = field(default_factory=dict)
    """Panels that could not be computed, by name, each with the reason as a sentence."""


def write_results(results: Results, path: Path) -> None:
    """Write results as one JSON object; missing numbers become null."""
    tables = {
        name: json.loads(getattr(results, name).to_json(orient="records", double_precision=15))
        for name in TABLES
    }
    facts = {"verdict": results.verdict, "run": results.run, "absent": results.absent}
    document = tables | facts
    write_whole(path, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())


def read_results(path: Path) -> Results:
    """Read what `write_results` wrote.

    Raises:
        InputError: If the file is not there, or lacks a table.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        lacking = dict.fromkeys(OPTIONAL_TABLES, ())
        tables: dict[str, Any] = {name: pd.DataFrame((lacking | document)[name]) for name in TABLES}
        return Results(
            verdict=document["verdict"], run=document["run"], absent=document["absent"], **tables
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read as results ({type(error).__name__}: {error}); "
            "make it with: interp analyze STORE --out results.json"
        ) from error
