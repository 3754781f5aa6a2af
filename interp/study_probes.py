"""The probes of a study: every site, layer and readout, with controls and baselines beside it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from interp.analyses.probe_choice import FeatureSource
from interp.analyses.probe_gain import best_baseline, gain
from interp.analyses.probe_splits import cluster_splits
from interp.analyses.probe_surface import surface_features
from interp.analyses.probes import ProbeScore, probe, shuffled_probe
from interp.compared import COMPARED, Compared
from interp.results import PROBE_COLUMNS
from interp.study_experts import prompts_of, routed_tokens
from interp.study_features import Reading, readings
from interp.study_probe_controls import Controls, usual_strength


def too_few(pair: Compared, error: ValueError) -> str:
    """Why nothing can be shuffled or split, as a sentence with the counts."""
    n_items = {name: len(set(pair.item[pair.condition == name])) for name in COMPARED}
    return (
        f"Nothing can be shuffled or split: {n_items['benchmark']} items have benchmark prompts "
        f"and {n_items['organic']} have organic ones, and more of each are needed ({error})."
    )


def probe_tables(
    pair: Compared,
    rng: np.random.Generator,
    advance: Callable[[int], Any],
    *,
    untrained: Compared | None = None,
    segment: str = "",
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Probes of the condition at every site and layer, each with its controls beside it.

    Those of routing and residuals have their gain over the best surface baseline. All real probes
    share one set of folds, so that layers and baselines can be compared.

    Args:
        pair: What is compared.
        rng: Source of chance.
        advance: Called with the number of probes done.
        untrained: The same prompts in a store of an untrained model, if there is one.
        segment: As for `readings`.

    Returns:
        The tables `probes` and `probe_controls`, and the panels that stay empty with their reason.
    """
    absent: dict[str, str] = {}
    try:
        splits = cluster_splits(pair.benchmark, pair.item, rng=rng)
        alike: dict[str, Any] = {"target": pair.benchmark, "cluster": pair.item, "rng": rng}
        baselines = {
            name: probe(each, splits=splits, **alike) for name, each in surface_of(pair).items()
        }
    except ValueError as error:
        return {}, {"probes": too_few(pair, error), "probe_controls": too_few(pair, error)}
    if "logprob" not in baselines:
        absent["probes_logprob"] = _no_logprob(pair)
    tables = [each.to_frame(site=name, baseline=name) for name, each in baselines.items()]
    best = best_baseline(baselines)
    controls = Controls.of(pair, untrained, absent=absent, segment=segment)
    rows = []
    for reading in readings(pair, cluster=pair.item, absent=absent, segment=segment):
        real = probe(reading.features, splits=splits, **alike)
        over = gain(real, baselines[best]).to_frame().assign(best_baseline=best)
        tables.append(pd.concat([_row(real, reading), over], axis=1))
        shuffled = _shuffled(reading.features, alike, usual_strength(real), absent)
        if shuffled is not None:
            tables.append(_row(shuffled, reading, baseline="shuffled"))
        rows.append(controls.row(reading, real=real, shuffled=shuffled, rng=rng))
        advance(1)
    found = {"probes": pd.concat(tables, ignore_index=True), "probe_controls": pd.DataFrame(rows)}
    return found, absent


def _no_logprob(pair: Compared) -> str:
    """Why there is no baseline of difficulty and familiarity."""
    known = np.isfinite(pair.store.logprob[pair.token])
    n_without = len(pair.prompt) - len(np.unique(pair.prompt_index[known]))
    return (
        f"{n_without} of {len(pair.prompt)} prompts have no token with a log-probability, so none "
        "of the surface baselines says how familiar a prompt is; capture with --logprobs."
    )


def surface_of(pair: Compared) -> Mapping[str, FeatureSource]:
    """Every surface baseline of some prompts."""
    return surface_features(routed_tokens(pair), prompts_of(pair))


def _row(found: ProbeScore, reading: Reading, baseline: str = "") -> pd.DataFrame:
    return found.to_frame(
        site=reading.site, layer=reading.layer, readout=reading.readout, baseline=baseline
    )


def _shuffled(
    features: FeatureSource, alike: Mapping[str, Any], strength: float, absent: dict[str, str]
) -> ProbeScore | None:
    """The shuffled control under the penalty of the real probe, unless a class is too small."""
    try:
        return shuffled_probe(features, strengths=[strength], **alike)
    except ValueError as error:
        absent["probes_shuffled"] = f"Shuffled labels left nothing to fit on: {error}."
        return None


def n_probes(pair: Compared) -> int:
    """How many readings the store has at most, for a bar of progress."""
    layout = pair.store.layout
    n_routing = layout.n_layers * (3 if layout.router_logits else 2)
    return n_routing + sum(len(layers) for layers in pair.store.resid_layers.values())


def empty(columns: Sequence[str] = PROBE_COLUMNS) -> pd.DataFrame:
    """A table without rows."""
    return pd.DataFrame(columns=list(columns))
