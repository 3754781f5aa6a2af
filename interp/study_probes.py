"""The probes of a study: every site and layer, with controls and baselines beside it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.analyses.features import (
    bag_of_tokens,
    length_features,
    mean_by_prompt,
    routing_features,
)
from interp.analyses.probe_gain import best_baseline, gain
from interp.analyses.probe_splits import cluster_splits
from interp.analyses.probes import ProbeScore, probe, shuffled_probe
from interp.compared import COMPARED, Compared
from interp.results import PROBE_COLUMNS


def too_few(pair: Compared, error: ValueError) -> str:
    """Why nothing can be shuffled or split, as a sentence with the counts."""
    n_items = {name: len(set(pair.item[pair.condition == name])) for name in COMPARED}
    return (
        f"Nothing can be shuffled or split: {n_items['benchmark']} items have benchmark prompts "
        f"and {n_items['organic']} have organic ones, and more of each are needed ({error})."
    )


def probe_tables(
    pair: Compared, rng: np.random.Generator, advance: Callable[[int], Any]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Probes of the condition at every site and layer, each with shuffled labels beside it.

    Those of routing and residuals have their gain over the best baseline, which come first.

    All real probes share one set of folds, so that layers and baselines can be compared.

    Returns:
        The table, and the panels that stay empty with their reason.
    """
    absent = {}
    reason = no_resid(pair)
    if reason:
        absent["probes_resid_post"] = reason
    try:
        splits = cluster_splits(pair.benchmark, pair.item, rng=rng)
    except ValueError as error:
        return empty(PROBE_COLUMNS), absent | {"probes": too_few(pair, error)}
    tables: list[pd.DataFrame] = []
    baselines: dict[str, ProbeScore] = {}
    for site, layer, features in probe_features(pair):
        is_baseline = np.isnan(layer)
        labels: dict[str, Any] = {"target": pair.benchmark, "cluster": pair.item, "rng": rng}
        row: dict[str, Any] = {"site": site, "layer": layer}
        real = probe(features, splits=splits, **labels)
        shuffled = shuffled_probe(features, **labels)
        if is_baseline:
            baselines[site] = real
            tables.append(real.to_frame(**row, baseline=site))
        else:
            over = gain(real, baselines[best_baseline(baselines)])
            tables.append(pd.concat([real.to_frame(**row), over.to_frame()], axis=1))
        tables.append(shuffled.to_frame(**row, baseline="shuffled"))
        advance(2)
    return pd.concat(tables, ignore_index=True), absent


def probe_features(pair: Compared) -> Iterator[tuple[str, float, Any]]:
    """Site, layer (NaN for a baseline) and `[prompts d]` features of every probe."""
    store, n_prompts = pair.store, len(pair.prompt)
    of_prompt: dict[str, Any] = {"prompt_index": pair.prompt_index, "n_prompts": n_prompts}
    yield "length", np.nan, length_features(**of_prompt)
    yield "bag_of_tokens", np.nan, bag_of_tokens(store.token_id[pair.token], **of_prompt)
    usage = routing_features(pair.expert_indices, n_experts=store.layout.n_experts, **of_prompt)
    for column, layer in enumerate(store.layout.layer_indices):
        yield "routing", layer, usage[:, column]
    if not no_resid(pair):
        for layer in store.layout.layer_indices:
            yield "resid_post", layer, resid_features(pair, layer)


def no_resid(pair: Compared) -> str:
    """Why there can be no probe on `resid_post`, as a sentence; empty if there can."""
    layout = pair.store.layout
    if "resid_post" not in layout.resid_sites:
        return (
            "The store holds no residual streams (resid_post), so no probe can be trained on them."
        )
    without = np.isnan(resid_features(pair, layout.layer_indices[0])).all(axis=1)
    if not without.any():
        return ""
    return (
        f"{int(without.sum())} of {len(without)} prompts kept no residual stream (resid_post) of a "
        "token that takes part, so no probe is trained on it; capture with positions last_content."
    )


def resid_features(pair: Compared, layer: int) -> Float[np.ndarray, "prompts d_model"]:
    """Mean of `resid_post` over the captured positions of each prompt that take part.

    Returns:
        NaN for a prompt without such a position.
    """
    residuals = pair.store.resid("resid_post", layer)
    place = np.searchsorted(pair.token, residuals.token_index)
    place[place == len(pair.token)] = 0
    used = pair.token[place] == residuals.token_index
    return mean_by_prompt(
        residuals.values[used],
        prompt_of_row=pair.prompt_index[place[used]],
        n_prompts=len(pair.prompt),
    )


def empty(columns: Sequence[str]) -> pd.DataFrame:
    """A table without rows."""
    return pd.DataFrame(columns=list(columns))
