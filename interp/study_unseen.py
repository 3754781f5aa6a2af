"""The headline of the probes: what they gain over the surface where sources were never seen."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from interp.analyses.held_out_sources import source_pair_splits, why_no_source_pairs
from interp.analyses.probe_choice import FeatureSource
from interp.analyses.probe_gain import best_baseline, gain
from interp.analyses.probe_splits import Splits, cluster_splits
from interp.analyses.probe_surface import surface_features
from interp.analyses.probes import ProbeScore, probe
from interp.analyses.routed_tokens import Prompts
from interp.compared import Compared
from interp.study_experts import prompts_of, routed_tokens
from interp.study_features import Reading, readings

ENOUGH_TO_CHOOSE = 4
"""Sources or templates of a condition from which the penalty is chosen by leaving them out as well;
with fewer it is chosen by items."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What is held out, and the surface baselines there."""

    split: str
    """`source_pair`, `template`, or `item` where neither can be held out."""
    cluster: Shaped[np.ndarray, "prompts"]
    """What stays whole."""
    alike: dict[str, Any]
    """What all probes are given: target, cluster, splits and inner cluster."""
    baselines: dict[str, ProbeScore]
    """Of the surface, by name."""
    best: str
    """The best of them."""
    reason: str
    """Why neither sources nor templates are held out; empty if they are."""


@dataclass(frozen=True, kw_only=True)
class Unseen:
    """Probes on what was held out."""

    probes: pd.DataFrame
    """Rows of the table `probes`, of `source_pair` or `template`; none where items are held out."""
    chosen: pd.DataFrame
    """The table `probes_chosen`: the layer chosen within the fitted prompts of each split."""
    layer_of: dict[tuple[str, str], int]
    """By site and readout, the layer chosen most often."""


def held_out(pair: Compared, rng: np.random.Generator) -> HeldOut:
    """Pairs of sources where there are some, else templates of paired items, else items.

    Raises:
        ValueError: If not even items can be held out.
    """
    prompts, reason = prompts_of(pair), ""
    try:
        split, splits, cluster = unseen_splits(prompts, rng)
    except ValueError as error:
        reason = f"Nothing could be held out that a probe never saw: {error}."
        split, cluster = "item", prompts.item
        splits = cluster_splits(pair.benchmark, prompts.item, rng=rng)
    sides = (pair.benchmark, ~pair.benchmark)
    is_few = min(len(np.unique(cluster[side])) for side in sides) < ENOUGH_TO_CHOOSE
    alike: dict[str, Any] = {"target": pair.benchmark, "cluster": cluster, "splits": splits}
    alike["inner_cluster"] = prompts.item if is_few else cluster
    baselines = {
        name: probe(each, rng=rng, **alike)
        for name, each in surface_features(routed_tokens(pair), prompts).items()
    }
    return HeldOut(
        split=split,
        cluster=cluster,
        alike=alike,
        baselines=baselines,
        best=best_baseline(baselines),
        reason=reason,
    )


def unseen_probes(
    pair: Compared, held: HeldOut, rng: np.random.Generator, *, segment: str = ""
) -> Unseen:
    """Probes of every reading on what was held out, beside every surface baseline.

    And one more for each site and readout, which chooses its layer within the fitted prompts.
    """
    tables = [
        each.to_frame(site=name, split=held.split, baseline=name)
        for name, each in held.baselines.items()
    ]
    layers: dict[tuple[str, str], dict[str, FeatureSource]] = {}
    for reading in readings(pair, cluster=held.cluster, absent={}, segment=segment):
        layers.setdefault(reading.key, {})[str(reading.layer)] = reading.features
        if held.split != "item":  # by items, the table has them already
            found = probe(reading.features, rng=rng, **held.alike)
            tables.append(_row(found, reading, held))
    chosen, layer_of = [], {}
    for (site, readout), named in layers.items():
        found = probe(named, rng=rng, **held.alike)
        names = [str(each) for each in found.candidate]
        layer = int(Counter(sorted(names, key=int)).most_common(1)[0][0])
        layer_of[site, readout] = layer
        reading = Reading(site=site, layer=layer, readout=readout, features=named[str(layer)])
        chosen.append(_row(found, reading, held).assign(layers_chosen=" ".join(names)))
    return Unseen(
        probes=pd.concat(tables if held.split != "item" else [pd.DataFrame()], ignore_index=True),
        chosen=pd.concat(chosen, ignore_index=True),
        layer_of=layer_of,
    )


def _row(found: ProbeScore, reading: Reading, held: HeldOut) -> pd.DataFrame:
    """With the gain over the best surface baseline."""
    labels: dict[str, Any] = {"site": reading.site, "layer": reading.layer, "split": held.split}
    over = gain(found, held.baselines[held.best]).to_frame().assign(best_baseline=held.best)
    return pd.concat([found.to_frame(readout=reading.readout, **labels), over], axis=1)


def unseen_splits(
    prompts: Prompts, rng: np.random.Generator
) -> tuple[str, Splits, Shaped[np.ndarray, "prompts"]]:
    """What is held out: one source of each condition together, or templates of paired items.

    Returns:
        The name of the split, its splits, and what stays whole in them.

    Raises:
        ValueError: If neither can be held out.
    """
    reason = why_no_source_pairs(prompts)
    if not reason:
        return "source_pair", source_pair_splits(prompts), prompts.source
    if len(np.unique(prompts.template)) < 4:
        raise ValueError(reason)
    return (
        "template",
        cluster_splits(prompts.benchmark, prompts.template, rng=rng),
        prompts.template,
    )
