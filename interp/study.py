"""One study: a store goes in, the tables of usage, divergence and probes come out."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from interp.analyses.divergence import usage_divergence
from interp.analyses.evidence import Rule
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
from interp.study_probes import empty, probe_features, probe_tables, too_few
from interp.study_sham import sham_effect
from interp.study_unseen import unseen_table
from interp.verdict import verdict_facts, verdict_of


def analyze(
    store: Store,
    *,
    seed: int = 0,
    n_permutations: int = 200,
    n_resamples: int = 10_000,
    rule: Rule | None = None,
    progress: bool = True,
) -> Results:
    """Usage by condition, divergence with its null, tests of experts, and probes with baselines.

    Args:
        store: From `open_store`.
        seed: Seed of permutations, folds and bootstraps.
        n_permutations: Relabellings behind each null of the divergence.
        n_resamples: Resamples behind each test of all experts at once.
        rule: Thresholds of the verdict; those of DESIGN.md if None.
        progress: Show a bar on stderr.

    Returns:
        Tables as described in `interp.results`; what could not be computed is named in `absent`.

    Raises:
        InputError: If the store has nothing to compare.
    """
    everything, rule = compared(store, CONDITIONS), rule or Rule()
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
            experts, tested = expert_tables(
                pair, rng, n_resamples=n_resamples, margin=rule.margin(store.layout.n_experts)
            )
            tested["sham_effect"] = known(sham_effect(store, rng))
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
    results = Results(
        usage=usage.to_frame(),
        divergence=divergence,
        experts=experts,
        sources=sources,
        probes=probes,
        run=run | {"experts": tested, "rule": asdict(rule)},
        absent=absent,
    )
    if run["generated_only"]:  # they come after the treatment, and no verdict goes by them
        return results
    return replace(results, verdict=verdict_facts(verdict_of(results)))


def known(number: float) -> float | None:
    """The number, or None where it is NaN, for which JSON has no word."""
    return None if np.isnan(number) else number


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
