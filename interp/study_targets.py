"""Probes of any field of the prompts: two values against each other, or each against the rest."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from interp.analyses.probe_choice import FeatureSource
from interp.analyses.probe_surface import surface_features
from interp.analyses.probe_targets import MacroScore, field_splits, macro_gain, macro_probe
from interp.analyses.probes import probe, shuffled_probe
from interp.cache.errors import InputError
from interp.cache.records import PROMPT_FIELDS
from interp.compared import Compared
from interp.study_experts import prompts_of, routed_tokens
from interp.study_features import readings

CONDITION = "condition"
"""The target that is always there, and has tables of its own."""


def check_targets(targets: tuple[str, ...]) -> tuple[str, ...]:
    """The targets beside the condition, each once.

    Raises:
        InputError: If one is no field of a prompt.
    """
    unknown = [name for name in targets if name not in PROMPT_FIELDS]
    if unknown:
        raise InputError(
            f"target is {unknown[0]}, expected a field of the prompts: {', '.join(PROMPT_FIELDS)}"
        )
    return tuple(name for name in dict.fromkeys(targets) if name != CONDITION)


def field_table(
    everything: Compared, name: str, rng: np.random.Generator, *, segment: str = ""
) -> tuple[pd.DataFrame, str]:
    """Rows of the table `probes` with a field of the prompts as target, items held out.

    Prompts of all conditions take part. The row `target=name` is the mean over values; where there
    are three values or more, rows `name=value` are each against the rest.

    Returns:
        The rows, and why there are none, as a sentence that is empty if there are.
    """
    field = everything.table[name].to_numpy(dtype=str)
    try:
        values = field_splits(field, everything.item, rng=rng)
        surface = surface_features(routed_tokens(everything), prompts_of(everything))
        baselines = {
            each: _macro(features, values, everything, rng) for each, features in surface.items()
        }
    except ValueError as error:
        return pd.DataFrame(), f"The field {name} cannot be probed: {error}."
    best = max(baselines, key=lambda each: baselines[each].estimate["auroc"].value)
    rows = [
        each.to_frame(site=site, target=name, baseline=site) for site, each in baselines.items()
    ]
    for reading in readings(everything, cluster=everything.item, absent={}, segment=segment):
        found = _macro(reading.features, values, everything, rng)
        labels: dict[str, Any] = {"site": reading.site, "layer": reading.layer, "target": name}
        labels["readout"] = reading.readout
        over = macro_gain(found, baselines[best]).to_frame().assign(best_baseline=best)
        rows.append(pd.concat([found.to_frame(**labels), over], axis=1))
        shuffled = _macro(reading.features, values, everything, rng, is_shuffled=True)
        rows.append(shuffled.to_frame(baseline="shuffled", **labels)[:1])
    return pd.concat(rows, ignore_index=True), ""


def _macro(
    features: FeatureSource,
    values: Mapping[str, Any],
    among: Compared,
    rng: np.random.Generator,
    *,
    is_shuffled: bool = False,
) -> MacroScore:
    def of(value: str) -> Any:
        target, splits = values[value]
        alike: dict[str, Any] = {"target": target, "cluster": among.item, "rng": rng}
        if is_shuffled:
            return shuffled_probe(features, **alike)
        return probe(features, splits=splits, **alike)

    return macro_probe(of, values=values)
