"""Which single experts are used more under one condition, and what this many prompts could show."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from einops import rearrange
from jaxtyping import Bool, Float

from interp.analyses.between_sources import between_source_variation
from interp.analyses.effects import ExpertEffects, TestedEffect, expert_effects
from interp.analyses.equivalence import two_one_sided_tests
from interp.analyses.evidence import counted
from interp.analyses.power import detectable_effects
from interp.analyses.routed_tokens import Prompts, RoutedTokens
from interp.analyses.usage import slots_by_prompt
from interp.compared import COMPARED, Compared

Cluster = Literal["source", "item", "template"]
LOW = ("_low", "_low_prompt_mean", "power_at_margin", "inside_margin")
HIGH = ("_high", "_high_prompt_mean", "smallest_effect", "p_max_t", "q_bh", "p_max_t_prompt_mean")
"""Ends of the columns whose cautious end is the lowest or the highest of several tests."""


def routed_tokens(pair: Compared) -> RoutedTokens:
    """The tokens that take part, each with the token before it in its prompt."""
    store, token = pair.store, pair.token
    is_first = np.r_[True, np.diff(store.prompt_index) != 0]
    before = np.where(is_first, -1, np.r_[-1, store.token_id[:-1]])
    return RoutedTokens(
        expert_indices=pair.expert_indices,
        token_id=store.token_id[token],
        previous_token_id=before[token],
        position=store.position[token],
        logprob=store.logprob[token],
        prompt_index=pair.prompt_index,
        n_experts=store.layout.n_experts,
        layer_indices=store.layout.layer_indices,
    )


def prompts_of(pair: Compared) -> Prompts:
    """What each prompt is, as tests and splits need it."""
    fields = {name: pair.table[name].to_numpy(dtype=str) for name in ("source", "template")}
    return Prompts(benchmark=pair.benchmark, item=pair.item, **fields)


def clusters_to_test(prompts: Prompts) -> tuple[tuple[Cluster, ...], str]:
    """What a test of these prompts resamples, and what it cannot say, as a sentence.

    Items under both conditions are pairs, and so are templates beside them: both are tested, and
    the larger p counts. Unless most are pairs (`Prompts.is_paired`), the sources are what a claim
    must hold beyond.

    Returns:
        The clusters, and a sentence that is empty if nothing is missing.
    """
    if prompts.is_paired:
        has_templates = len(set(prompts.template)) > 1
        return ("item", "template") if has_templates else ("item",), ""
    sides = (prompts.benchmark, ~prompts.benchmark)
    n_sources = [len(set(prompts.source[side])) for side in sides]
    if min(n_sources) >= 2:
        return ("source",), ""
    return ("item",), (
        f"benchmark has {counted(n_sources[0], 'source')} and organic {n_sources[1]}, and "
        "few or no items have both conditions: what is said of the conditions may be true of these "
        "sources alone. Add sources, or items in both wordings."
    )


def expert_tables(
    pair: Compared, rng: np.random.Generator, *, n_resamples: int, margin: float
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """`tested_experts` of the tokens and prompts that a study compares."""
    tokens, prompts = routed_tokens(pair), prompts_of(pair)
    return tested_experts(tokens, prompts, rng, n_resamples=n_resamples, margin=margin)


def tested_experts(
    tokens: RoutedTokens,
    prompts: Prompts,
    rng: np.random.Generator,
    *,
    n_resamples: int,
    margin: float,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Every expert's effect with its tests, its equivalence and the power to find it.

    Where two kinds of clusters are tested, the table has the larger p and the wider interval; the
    halves of the confirmation are drawn once (two draws, both of which must confirm, find less).
    `margin` is the largest effect that counts as none, as a share of routed slots.

    Returns:
        One row per layer and expert, and the facts that belong to all of them: clusters, margin,
        the ratio of between-cluster standard deviations of the surface-adjusted residuals (None
        where there is none), what was adjusted for, and notes on what cannot be trusted.
    """
    clusters, lacking = clusters_to_test(prompts)
    every: list[ExpertEffects] = []
    for each in clusters:  # items and templates share the halves, which are split by template
        known = every[0].confirmation if every else None
        every.append(
            expert_effects(
                tokens,
                prompts,
                cluster=each,
                rng=rng,
                n_resamples=n_resamples,
                confirmation=known,
            )
        )
    notes = [f"{found.cluster}: {note}" for found in every for note in found.notes]
    facts = {
        "clusters": {each.cluster: each.n_clusters for each in every},
        "recipe": {each.cluster: each.surface_adjusted.max_t.recipe for each in every},
        "sd_ratio": {each.cluster: _finite(each.surface_adjusted.max_t.sd_ratio) for each in every},
        "adjusted_for": sorted({name for each in every for name in each.adjusted_for}),
        "margin": margin,
        "n_sources": {
            name: len(set(prompts.source[prompts.benchmark == (name == "benchmark")]))
            for name in COMPARED
        },
        "is_paired": prompts.is_paired,
        "n_resamples": n_resamples,
        "notes": ([lacking] if lacking else []) + list(dict.fromkeys(notes)),
    }
    organic = usage_of(tokens, among=~prompts.benchmark)
    return larger_p([_frame(each, margin, organic) for each in every]), facts


def _finite(number: float) -> float | None:
    """The number, or None where JSON has no word for it."""
    return number if np.isfinite(number) else None


def untested(experts: pd.DataFrame, notes: Sequence[str]) -> dict[str, str]:
    """Why kinds of effects have no test of all experts at once, from the notes of the tests."""
    kinds = {"raw_p_max_t": "raw", "p_max_t": "token-adjusted"}
    kinds["surface_adjusted_p_max_t"] = "surface-adjusted"
    missing = {kind for column, kind in kinds.items() if experts[column].isna().all()}
    said = []
    for note in notes:
        _, _, rest = note.partition(": ")
        of, _, reason = rest.partition(": ")
        if missing & set(of.split(", ")):
            said.append(f"No test of all experts at once ({of}): {reason}")
    return {"experts_tests": " ".join(dict.fromkeys(said))} if said else {}


def usage_of(
    tokens: RoutedTokens, *, among: Bool[np.ndarray, "prompts"]
) -> Float[np.ndarray, "layers experts"]:
    """Usage of some of the prompts, tokens pooled; each count plus 1/2, so that none is 0."""
    slots = (
        slots_by_prompt(
            tokens.expert_indices,
            prompt_index=tokens.prompt_index,
            n_prompts=len(among),
            n_experts=tokens.n_experts,
        )[among].sum(axis=0)
        + 0.5
    )
    return np.asarray(slots / slots.sum(axis=-1, keepdims=True))


def source_table(pair: Compared, rng: np.random.Generator) -> pd.DataFrame:
    """How much the conditions differ beside how much sources do, per layer and over all."""
    return between_source_variation(routed_tokens(pair), prompts_of(pair), rng=rng).to_frame()


def larger_p(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table of several tests of the same effects: the cautious end of each number."""
    first = frames[0].copy()
    for name in map(str, first):
        column = np.stack([frame[name].to_numpy() for frame in frames])
        if name.endswith(LOW):
            first[name] = np.fmin.reduce(column)
        elif name.endswith(HIGH):
            first[name] = np.fmax.reduce(column)
        elif name == "is_confirmed":
            first[name] = np.logical_and.reduce(column)
    return first


def _frame(
    effects: ExpertEffects, margin: float, organic: Float[np.ndarray, "layers experts"]
) -> pd.DataFrame:
    """The table of one kind of cluster, with equivalence and power."""
    table = effects.to_frame()
    raw, surface = effects.raw, effects.surface_adjusted
    for name, tested in (("inside_margin", raw), ("surface_adjusted_inside_margin", surface)):
        table[name] = two_one_sided_tests(
            *_by_layer(effects, tested), margin=margin, layer_indices=effects.layer_indices
        ).inside.ravel()
    _, standard_error, df = _by_layer(effects, surface)
    power = detectable_effects(
        standard_error,
        df,
        margin=margin,
        layer_indices=effects.layer_indices,
        usage=organic,
    )
    table["smallest_effect"] = power.smallest_effect.ravel()
    table["power_at_margin"] = power.power_at_margin.ravel()
    return table


def _by_layer(
    effects: ExpertEffects, tested: TestedEffect
) -> tuple[Float[np.ndarray, "layers experts"], ...]:
    """Effect, standard error and degrees of freedom."""
    found = tested.jackknife
    split = "(layers experts) -> layers experts"
    return tuple(
        rearrange(each, split, experts=effects.n_experts)
        for each in (found.effect, found.standard_error, found.df)
    )
