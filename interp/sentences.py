"""What the tables of one study say, as sentences: computed from the rows, never written by hand."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from interp.analyses.evidence import counted

COMPARED = ("benchmark", "organic")
LADDER = {
    "insufficient": "too few prompts or sources to say",
    "no_difference": "inside a stated margin",
    "surface": "vocabulary, length, position or template explains it",
    "associational": "remains after that, also on sources never seen",
    "causal": "removing those experts hurts benchmark prompts more",
}
"""The rungs a claim can stand on, lowest first, and what each says."""
SURFACE = {
    "length": "prompt length",
    "position": "position",
    "bag_of_tokens": "a bag of tokens",
    "template": "the template",
    "logprob": "the mean log-probability",
}
"""Baselines that see only the surface of a prompt, and what the report calls them."""


def compared_sentence(run: Mapping[str, Any]) -> str:
    """What was compared: the model and its experts, prompts and tokens per condition."""
    prompts, tokens = run.get("prompts", {}), run.get("tokens", {})
    sides = [
        f"for {counted(prompts[name], f'{name} prompt')} ({counted(tokens.get(name, 0), 'token')})"
        for name in COMPARED
        if prompts.get(name)
    ]
    others = [
        counted(count, f"{name} prompt") for name, count in prompts.items() if name not in COMPARED
    ]
    aside = f" The store also holds {' and '.join(others)}." if others else ""
    return (
        f"Which experts does {run['model']} use, layer by layer, {' and '.join(sides)}? "
        f"It has {counted(run['n_layers'], 'routed layer')} of {run['n_experts']} experts "
        f"and picks {run['top_k']} per token.{aside}"
    )


def divergence_sentence(divergence: pd.DataFrame) -> str:
    """The largest raw divergence against its null, and in how many layers tokens leave some over.

    The share that vocabulary explains is not repeated here; `vocabulary_share` gives it.
    """
    rows = divergence[divergence["raw_bits"].notna()]
    if rows.empty:
        return "No divergence could be computed."
    top = rows.iloc[int(rows["raw_bits"].to_numpy().argmax())]
    above = rows[rows["raw_bits"] > rows["raw_null_high_bits"]]
    shuffles = f"{counted(top.n_permutations, 'shuffle')} of {counted(top.n_clusters, 'item')}"
    is_least = top.p_value <= 1.000001 / (top.n_permutations + 1)
    certainty = f"the least that {shuffles} can show" if is_least else f"from {shuffles}"
    return (
        f"Raw divergence is largest at layer {top.layer:.0f}: {top.raw_bits:.4f} bits, against "
        f"a null with mean {top.raw_null_bits:.4f} and 95 % quantile {top.raw_null_high_bits:.4f} "
        f"(p = {top.p_value:.2g}, {certainty}). In {len(above)} of {counted(len(rows), 'layer')} "
        f"it lies above that quantile, each layer tested by itself.{_matched_clause(rows)}"
    )


def _matched_clause(rows: pd.DataFrame) -> str:
    """In how many layers something is left over once tokens are matched, or why that is open."""
    if not (rows["overlap"] > 0).all():
        return " The conditions share no token, so vocabulary cannot be told from anything else."
    matched = rows[rows["token_matched_bits"].notna()]
    if matched.empty:
        return ""
    above = matched["token_matched_bits"] > matched["token_matched_null_high_bits"]
    return (
        f" Matched on tokens, the divergence lies above the 95 % quantile of its own null "
        f"(flipped signs) in {above.sum()} of {counted(len(matched), 'layer')}."
    )


def probe_sentence(probes: pd.DataFrame) -> str:
    """The best probe beside chance and the better surface baseline, and what that can show."""
    known = probes[probes["auroc"].notna()]
    real = known[known["baseline"] == ""]
    surface = known[known["baseline"].isin(list(SURFACE))]
    best, level = _highest(real), _highest(surface)
    said = [_best_clause(best, len(real)), _surface_clause(level, best), _shuffled_clause(known)]
    return " ".join(clause for clause in said if clause)


def unseen_sentence(probes: pd.DataFrame) -> str:
    """The largest gain over the best surface baseline; empty if nothing was held out."""
    rows = probes[probes["split"] != "item"] if "gain" in probes else probes[:0]
    gains = rows[rows["gain"].notna()] if len(rows) else rows
    if gains.empty:
        return ""
    top = gains.iloc[int(gains["gain"].to_numpy().argmax())]
    surface = rows[rows["baseline"] == top["best_baseline"]].iloc[0]
    unseen = {"source_pair": "sources", "template": "templates"}[str(top["split"])]
    n_above = int((gains["gain_low"] > 0).sum())
    return (
        f"On {unseen} that the probe never saw: the best of {len(gains)} probes, {top['site']} at "
        f"layer {top['layer']:.0f}, has AUROC {top['auroc']:.2f}, {top['gain']:+.2f} over "
        f"{top['best_baseline']} alone ({surface['auroc']:.2f}); 95 % interval of the gain "
        f"{top['gain_low']:+.2f} to {top['gain_high']:+.2f}, not corrected for choosing the best. "
        f"The interval of {n_above or 'none'} of them lies above 0."
    )


def _highest(probes: pd.DataFrame) -> pd.Series | None:
    return probes.iloc[int(probes["auroc"].to_numpy().argmax())] if len(probes) else None


def _best_clause(best: pd.Series | None, n_probes: int) -> str:
    if best is None:
        return "No probe on the model's activations was fitted."
    where = f"{best.site} at layer {best.layer:.0f}"
    reached = f"{best.auroc:.2f} (95 % interval {best.auroc_low:.2f} to {best.auroc_high:.2f})"
    if best.auroc_low <= 0.5:
        return (
            f"No probe is told from chance: the best of {n_probes}, {where}, has AUROC {reached}."
        )
    said = f"The best of {n_probes} probes reads the condition from {where} with AUROC {reached}."
    if best.auroc_low == best.auroc_high:
        said += f" An interval without width only says that all {best.n_clusters:,.0f} items agree."
    return said


def _surface_clause(level: pd.Series | None, best: pd.Series | None) -> str:
    if level is None:
        return "Without a surface baseline it cannot be said how much of this the model adds."
    name = SURFACE[level.baseline]
    if best is None or best.auroc_low <= 0.5:
        return f"{name.capitalize()} alone reaches {level.auroc:.2f}."
    if best.auroc <= level.auroc:
        return f"That is no higher than {name} alone, which reaches {level.auroc:.2f}."
    if best.auroc_low <= level.auroc_high:
        return (
            f"It cannot be told from {name} alone, which reaches {level.auroc:.2f}: "
            "the intervals overlap."
        )
    return (
        f"{name.capitalize()} alone reaches {level.auroc:.2f}, below that interval; template, "
        "order of words, topic and source remain possible explanations."
    )


def _shuffled_clause(known: pd.DataFrame) -> str:
    shuffled = known.loc[(known["baseline"] == "shuffled") & known["layer"].notna(), "auroc"]
    if shuffled.empty:
        return ""
    return f"With shuffled labels the probes score {shuffled.min():.2f} to {shuffled.max():.2f}."


def absent_sentences(absent: dict[str, str], panel: str) -> list[str]:
    """Reasons recorded for a panel or a part of it (`probes`, `probes_resid_post`)."""
    return [
        reason for name, reason in absent.items() if name == panel or name.startswith(f"{panel}_")
    ]
