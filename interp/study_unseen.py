"""The headline of the probes: what they gain over the surface where sources were never seen."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from interp.analyses.held_out_sources import source_pair_splits, why_no_source_pairs
from interp.analyses.probe_gain import best_baseline, gain
from interp.analyses.probe_splits import Splits, cluster_splits
from interp.analyses.probe_surface import surface_features
from interp.analyses.probes import probe
from interp.analyses.routed_tokens import Prompts
from interp.compared import Compared
from interp.study_experts import prompts_of, routed_tokens

ENOUGH_TO_CHOOSE = 4
"""Sources or templates of a condition from which the penalty is chosen by leaving them out as well;
with fewer it is chosen by items."""
Features = Callable[[], Iterator[tuple[str, float, Any]]]


def unseen_table(
    pair: Compared, rng: np.random.Generator, *, features: Features
) -> tuple[pd.DataFrame, str]:
    """Probes held out by pairs of sources, or by template, beside every surface baseline.

    Args:
        pair: What is compared.
        rng: Source of chance.
        features: Gives site, layer and features of each probe; those without a layer are left out.

    Returns:
        Rows of the table `probes`, and why there are none, as a sentence that is empty if there
        are.
    """
    try:
        return _probes(pair, rng, features), ""
    except ValueError as error:
        return pd.DataFrame(), f"Nothing could be held out that a probe never saw: {error}."


def _probes(pair: Compared, rng: np.random.Generator, features: Features) -> pd.DataFrame:
    prompts = prompts_of(pair)
    split, splits, cluster = unseen_splits(prompts, rng)
    sides = (pair.benchmark, ~pair.benchmark)
    is_few = min(len(np.unique(cluster[side])) for side in sides) < ENOUGH_TO_CHOOSE
    alike: dict[str, Any] = {"target": pair.benchmark, "cluster": cluster, "splits": splits}
    alike["inner_cluster"] = prompts.item if is_few else cluster
    baselines = {
        name: probe(each, rng=rng, **alike)
        for name, each in surface_features(routed_tokens(pair), prompts).items()
    }
    best = best_baseline(baselines)
    tables = [
        each.to_frame(site=name, split=split, baseline=name) for name, each in baselines.items()
    ]
    for site, layer, each in features():
        if not np.isnan(layer):
            found = probe(each, rng=rng, **alike)
            over = gain(found, baselines[best]).to_frame().assign(best_baseline=best)
            tables.append(
                pd.concat([found.to_frame(site=site, layer=layer, split=split), over], axis=1)
            )
    return pd.concat(tables, ignore_index=True)


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
