"""One study: a store goes in, the tables of usage, divergence and probes come out."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm import tqdm

from interp.analyses.divergence import usage_divergence
from interp.analyses.features import (
    bag_of_tokens,
    length_features,
    mean_by_prompt,
    routing_features,
)
from interp.analyses.probe_gain import best_baseline, gain
from interp.analyses.probe_splits import cluster_splits
from interp.analyses.probes import ProbeScore, probe, shuffled_probe
from interp.analyses.usage import expert_usage
from interp.cache.reader import Store
from interp.cache.records import CONDITIONS
from interp.cache.versions import installed_versions
from interp.compared import (
    COMPARED,
    LEFT_OUT,
    Compared,
    compared,
    is_generated_only,
    without_tokens,
)
from interp.results import DIVERGENCE_COLUMNS, PROBE_COLUMNS, Results
from interp.study_experts import expert_tables, source_table
from interp.study_unseen import unseen_table


def analyze(
    store: Store,
    *,
    seed: int = 0,
    n_permutations: int = 200,
    n_resamples: int = 10_000,
    progress: bool = True,
) -> Results:
    """Usage by condition, divergence with its null, tests of experts, and probes with baselines.

    Args:
        store: From `open_store`.
        seed: Seed of permutations, folds and bootstraps.
        n_permutations: Relabellings behind each null of the divergence.
        n_resamples: Resamples behind each test of all experts at once.
        progress: Show a bar on stderr.

    Returns:
        Tables as described in `interp.results`; what could not be computed is named in `absent`.

    Raises:
        InputError: If the store has nothing to compare.
    """
    everything = compared(store, CONDITIONS)
    layers = store.layout.layer_indices
    n_probes = 2 * (2 * len(layers) + 2)
    n_steps = n_permutations + n_probes
    with tqdm(total=n_steps, desc="analyze", disable=not progress) as bar:
        usage = expert_usage(
            everything.expert_indices,
            condition=everything.condition,
            prompt_index=everything.prompt_index,
            n_experts=store.layout.n_experts,
            layer_indices=layers,
        )
        rng = np.random.default_rng(seed)
        absent = without_tokens(store, everything)
        divergence, probes = empty(DIVERGENCE_COLUMNS), empty(PROBE_COLUMNS)
        experts, sources = empty(()), empty(())
        tested: dict[str, Any] = {}
        if not set(COMPARED) <= set(everything.condition):
            only = " and ".join(sorted(set(everything.condition)))
            sentence = f"The store holds only {only} prompts, so there is nothing to compare with."
            absent |= dict.fromkeys(("divergence", "experts", "probes"), sentence)
        else:
            pair = compared(store, COMPARED)
            try:
                divergence, undefined = divergence_table(pair, rng, n_permutations, bar.update)
                absent |= undefined
            except ValueError as error:
                absent["divergence"] = too_few(pair, error)
            experts, tested = expert_tables(pair, rng, n_resamples=n_resamples)
            try:
                sources = source_table(pair, rng)
            except ValueError as error:
                absent["experts_sources"] = f"Condition against source: {error}."
            probes, unprobed = probe_tables(pair, rng, bar.update)
            absent |= unprobed
            unseen, reason = unseen_table(pair, rng, features=lambda: probe_features(pair))
            absent |= {"probes_unseen": reason} if reason else {}
            probes = pd.concat([probes, unseen], ignore_index=True) if len(unseen) else probes
        bar.update(n_steps - bar.n)
    run = run_facts(store, everything, seed=seed, n_permutations=n_permutations)
    return Results(
        usage=usage.to_frame(),
        divergence=divergence,
        experts=experts,
        sources=sources,
        probes=probes,
        run=run | {"experts": tested},
        absent=absent,
    )


def divergence_table(
    pair: Compared, rng: np.random.Generator, n_permutations: int, advance: Callable[[int], Any]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Divergence of benchmark and organic usage by layer, and why some columns are empty."""
    found = usage_divergence(
        pair.expert_indices,
        benchmark=pair.benchmark,
        token_id=pair.store.token_id[pair.token],
        prompt_index=pair.prompt_index,
        cluster=pair.item,
        n_experts=pair.store.layout.n_experts,
        layer_indices=pair.store.layout.layer_indices,
        rng=rng,
        n_permutations=n_permutations,
        progress=advance,
    )
    undefined = {f"divergence_{name}": reason for name, reason in found.absent.items()}
    return found.to_frame(), undefined


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


def run_facts(
    store: Store, everything: Compared, *, seed: int, n_permutations: int
) -> dict[str, Any]:
    """What a reader needs to judge the tables: model, counts, settings, versions, caveats."""
    provenance, layout, table = store.provenance, store.layout, everything.table
    present = [name for name in CONDITIONS if name in set(everything.condition)]
    tokens = pd.Series(everything.condition[everything.prompt_index]).value_counts()
    return {
        "store_sha256": store.sha256,
        "model": provenance.get("model", "unknown"),
        "revision": provenance.get("revision") or "",
        "n_layers": layout.n_layers,
        "n_experts": layout.n_experts,
        "top_k": layout.top_k,
        "d_model": layout.d_model,
        "prompts": table["condition"].value_counts()[present].to_dict(),
        "tokens": tokens[present].to_dict(),
        "sources": table["source"].value_counts().to_dict(),
        "generated_only": is_generated_only(store),
        "caveats": list(provenance.get("caveats", [])),
        "settings": {
            "n_permutations": n_permutations,
            "segments_left_out": ", ".join(LEFT_OUT),
            **{
                f"capture_{name}": ", ".join(map(str, each)) if isinstance(each, list) else each
                for name, each in provenance.get("settings", {}).items()
                if each is not None
            },
        },
        "versions": provenance.get("versions", {})
        | {"analysis": installed_versions(["moe-interp"])["moe-interp"]},
        "seed": seed,
    }
