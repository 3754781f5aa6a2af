"""What the tables of one study say, as sentences: computed from the rows, never written by hand."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

LADDER = {
    "insufficient": "too few prompts or sources to say",
    "no_difference": "inside a stated margin",
    "surface": "vocabulary, length, position or template explains it",
    "associational": "remains after that, also on sources never seen",
    "causal": "removing those experts hurts benchmark prompts more",
}
"""The rungs a claim can stand on, lowest first, and what each says."""


def compared_sentence(run: Mapping[str, Any]) -> str:
    """What was compared: the model and its experts, prompts and tokens per condition."""
    prompts, tokens = run.get("prompts", {}), run.get("tokens", {})
    sides = [
        f"{prompts.get(name, 0):,} {name} prompts ({tokens.get(name, 0):,} tokens)"
        for name in ("benchmark", "organic")
    ]
    others = [
        f"{count:,} {name} prompts"
        for name, count in prompts.items()
        if name not in ("benchmark", "organic")
    ]
    aside = f" A further {' and '.join(others)} are in the store." if others else ""
    return (
        f"Which experts does {run['model']} use, layer by layer, for {sides[0]} "
        f"and for {sides[1]}? It has {run['n_layers']} routed layers of {run['n_experts']} experts "
        f"and picks {run['top_k']} per token.{aside}"
    )


def divergence_sentence(divergence: pd.DataFrame) -> str:
    """The layer of largest raw divergence, against its null, and what vocabulary explains there."""
    top = divergence.iloc[int(np.nanargmax(divergence["raw_bits"]))]
    n_above = int((divergence["raw_bits"] > divergence["raw_null_high_bits"]).sum())
    times = f"{top.raw_bits / top.raw_null_bits:.3g} times" if top.raw_null_bits > 0 else "above"
    return (
        f"Raw divergence is largest at layer {top.layer:.0f}: {top.raw_bits:.3f} bits, {times} "
        f"its null mean of {top.raw_null_bits:.4f} (p = {top.p_value:.2g} "
        f"from {top.n_permutations:,.0f} shuffles). {_vocabulary_clause(top)} "
        f"In {n_above} of {len(divergence)} layers it lies above the 95 % quantile of its null, "
        "each layer tested by itself."
    )


def _vocabulary_clause(top: pd.Series) -> str:
    share = top.share_explained_by_vocabulary
    if pd.isna(share):
        return (
            "It does not rise above its null there, so there is nothing for vocabulary to explain."
        )
    if share < 0:
        return "Comparing the same tokens makes it larger there, so vocabulary explains none of it."
    return (
        f"Vocabulary explains {100 * share:.0f} % there: comparing the same tokens "
        f"leaves {top.token_matched_bits:.3f} bits."
    )


def usage_sentence(usage: pd.DataFrame) -> str:
    """The expert whose usage differs most between the conditions, or is largest if there is one."""
    wide = usage.pivot_table(index=["layer", "expert"], columns="condition", values="usage")
    percent = (100 * wide).reset_index()
    uniform = f"A uniform share would be {100 / usage['expert'].nunique():.2g} %."
    if not {"benchmark", "organic"} <= set(wide.columns):
        condition = str(wide.columns[0])
        top = percent.iloc[int(np.nanargmax(percent[condition]))]
        return (
            f"Expert {top.expert:.0f} of layer {top.layer:.0f} gets most, {top[condition]:.1f} % "
            f"of {condition} slots. {uniform}"
        )
    top = percent.iloc[int(np.nanargmax((percent["benchmark"] - percent["organic"]).abs()))]
    points = f"{top.benchmark - top.organic:+.1f}".replace("-", "\u2212")
    return (
        f"Usage differs most for expert {top.expert:.0f} of layer {top.layer:.0f}: "
        f"{top.benchmark:.1f} % of benchmark slots and {top.organic:.1f} % of organic ones "
        f"({points} points). {uniform}"
    )


def probe_sentence(probes: pd.DataFrame) -> str:
    """The best probe beside the bag-of-tokens baseline, and what its height can and cannot show."""
    real = probes[(probes["baseline"] == "") & probes["auroc"].notna()]
    bag = probes[(probes["baseline"] == "bag_of_tokens") & probes["auroc"].notna()]
    best = real.iloc[int(real["auroc"].to_numpy().argmax())] if len(real) else None
    said = [_best_clause(best), _bag_clause(bag, best), _shuffled_clause(probes)]
    return " ".join(clause for clause in said if clause)


def _best_clause(best: pd.Series | None) -> str:
    if best is None:
        return "No probe on the model's activations was fitted."
    return (
        f"The best probe reads the condition from {best.site} at layer {best.layer:.0f} with AUROC "
        f"{best.auroc:.2f} (95 % interval {best.auroc_low:.2f} to {best.auroc_high:.2f})."
    )


def _bag_clause(bag: pd.DataFrame, best: pd.Series | None) -> str:
    if bag.empty:
        return "Without a bag-of-tokens baseline it cannot be said how much of this is vocabulary."
    level = bag.iloc[0]
    reached = f"A bag of tokens alone reaches {level.auroc:.2f}"
    if best is None:
        return f"{reached}."
    if best.auroc_low > level.auroc_high:
        return (
            f"{reached}, below the best probe's interval; "
            "template and order of words remain possible explanations."
        )
    return f"{reached}: a probe at that height shows nothing beyond vocabulary."


def _shuffled_clause(probes: pd.DataFrame) -> str:
    shuffled = probes.loc[probes["baseline"] == "shuffled", "auroc"].dropna()
    if shuffled.empty:
        return ""
    return f"With shuffled labels the probes score {shuffled.min():.2f} to {shuffled.max():.2f}."


def absent_sentences(absent: dict[str, str], panel: str) -> list[str]:
    """Reasons recorded for a panel or a part of it (`probes`, `probes_resid_post`)."""
    return [
        reason for name, reason in absent.items() if name == panel or name.startswith(f"{panel}_")
    ]
