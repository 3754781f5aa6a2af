"""One study: a store goes in; usage, divergence, tests, probes and measures come out."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from interp.analyses.divergence import usage_divergence
from interp.analyses.evidence import Rule
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
from interp.results import DIVERGENCE_COLUMNS, TABLES, Results
from interp.study_added import RouterWeights
from interp.study_described import Described
from interp.study_experts import expert_tables, source_table, untested
from interp.study_measures import MEASURES, measure_tables
from interp.study_probes import empty, too_few
from interp.study_probing import Probing, check_belonging, probe_study
from interp.study_progress import Steps
from interp.study_sham import sham_effect
from interp.study_usage import OTHER_KEYS, matched_table, usage_table
from interp.verdict import verdict_facts, verdict_of


def analyze(
    store: Store,
    *,
    seed: int = 0,
    n_permutations: int = 200,
    n_resamples: int = 10_000,
    rule: Rule | None = None,
    targets: tuple[str, ...] = ("condition",),
    segment: str = "",
    untrained: Store | None = None,
    router_weights: RouterWeights | None = None,
    progress: bool = True,
) -> Results:
    """Usage by condition, divergence with its null, tests of experts, and probes with baselines.

    The descriptive measures of the field stand beside them, a small table each.

    Args:
        store: From `open_store`.
        seed: Seed of permutations, folds and bootstraps.
        n_permutations: Relabellings behind each null of the divergence.
        n_resamples: Resamples behind each test of all experts at once.
        rule: Thresholds of the verdict; those of DESIGN.md if None.
        targets: Fields of the prompts for probes to tell apart; the condition always is.
        segment: Probes also read the mean over the tokens of this one, such as `wrapper`.
        untrained: The same prompts captured from an untrained model of the same shape.
        router_weights: Of the model, by layer, as `interp.hooks.router_weights` gives them.
        progress: Show a bar on stderr.

    Returns:
        Tables as described in `interp.results`; what could not be computed is named in `absent`.

    Raises:
        InputError: If the store has nothing to compare, a target or the segment is not known, or
            the untrained store or the router's weights are of another model.
    """
    probing = Probing(
        targets=targets, segment=segment, untrained=untrained, router_weights=router_weights
    )
    check_belonging(store, probing)
    everything, rule = compared(store, CONDITIONS), rule or Rule()
    absent = without_tokens(store, everything)
    of = Described(of=everything, seed=seed, n_permutations=n_permutations)
    tested: dict[str, Any] = {}
    with Steps(shares(store.layout.n_layers, n_permutations), show=progress) as steps:
        steps.start("usage")
        tables: dict[str, Any] = {"usage": usage_table(of)}
        tables |= dict.fromkeys(TABLES[1:], empty(()))
        if not of.is_pair:
            only = " and ".join(sorted(set(everything.condition)))
            sentence = f"The store holds only {only} prompts, so there is nothing to compare with."
            absent |= dict.fromkeys(("divergence", "experts"), sentence)
            n_sources = everything.table.groupby("condition")["source"].nunique()
            tested = {"n_sources": {name: int(n_sources.get(name, 0)) for name in COMPARED}}
        else:
            of, rng = replace(of, of=compared(store, COMPARED)), np.random.default_rng(seed)
            found, undefined = divergence_tables(of, rng, steps)
            judged, tested, untested = tests_of_experts(
                of, rng, steps, n_resamples=n_resamples, rule=rule
            )
            tables |= {**found, **judged}
            absent |= undefined | untested
        steps.start("probes")
        rng = np.random.default_rng((seed, 1))  # probes are the same whatever was tested before
        per_probe = 2 * max(1, n_permutations // 20)
        probes, unprobed = probe_study(
            store, rng, probing=probing, advance=lambda n: steps.advance(n * per_probe)
        )
        tables, absent = tables | probes, absent | unprobed
        measured, unmeasured = measure_tables(of, steps.start)
        tables, absent = tables | measured, absent | unmeasured
    run = run_facts(store, everything, seed=seed, n_permutations=n_permutations)
    run |= {"experts": tested, "rule": asdict(rule)}
    results = Results(**tables, run=run, absent=absent)
    if run["generated_only"]:  # they come after the treatment, and no verdict goes by them
        return results
    return replace(results, verdict=verdict_facts(verdict_of(results)))


def shares(n_layers: int, n_permutations: int) -> dict[str, int]:
    """The steps of a study in order, and roughly how much of its time each takes."""
    n_probes = 2 * (2 * n_layers + 2)
    unit = max(1, n_permutations // 20)
    return {
        "usage": unit,
        "divergence": n_permutations,
        "divergence_matched": len(OTHER_KEYS) * n_permutations,
        "experts": 20 * unit,
        "sources": 4 * unit,
        "probes": 3 * n_probes * unit,
        **dict.fromkeys(MEASURES, unit),
    }


def divergence_tables(
    of: Described, rng: np.random.Generator, steps: Steps
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Divergence of the conditions, matched by token and by other keys; why some of it is empty."""
    tables: dict[str, pd.DataFrame] = {}
    steps.start("divergence")
    try:
        tables["divergence"], absent = divergence_table(
            of.of, rng, of.n_permutations, steps.advance
        )
    except ValueError as error:
        return {"divergence": empty(DIVERGENCE_COLUMNS)}, {"divergence": too_few(of.of, error)}
    steps.start("divergence_matched")
    tables["divergence_matched"], undefined = matched_table(of, steps.advance)
    return tables, absent | undefined


def tests_of_experts(
    of: Described, rng: np.random.Generator, steps: Steps, *, n_resamples: int, rule: Rule
) -> tuple[dict[str, pd.DataFrame], dict[str, Any], dict[str, str]]:
    """Tests of single experts and of the condition against sources, facts, and what is missing."""
    steps.start("experts")
    margin = rule.margin(of.tokens.n_experts)
    experts, tested = expert_tables(of.of, rng, n_resamples=n_resamples, margin=margin)
    tested["sham_effect"] = known(sham_effect(of.of.store, rng))
    absent = untested(experts, tested["notes"])
    steps.start("sources")
    reason = ""
    try:
        sources = source_table(of.of, rng)
        reason = str(sources.loc[sources["layer"].isna(), "reason"].iloc[0])
    except ValueError as error:
        sources, reason = empty(()), str(error)
    if reason:
        absent["experts_sources"] = f"Condition against source: {reason}."
    return {"experts": experts, "sources": sources}, tested, absent


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
