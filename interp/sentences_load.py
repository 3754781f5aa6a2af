"""What the descriptive tables say, as sentences computed from their rows."""

import numpy as np
import pandas as pd

from interp.analyses.evidence import counted


def load_sentence(load: pd.DataFrame, *, n_experts: int) -> str:
    """Where the load is least even, and what the standing committee takes."""
    least = load.iloc[int(load["entropy_bits"].to_numpy(dtype=float).argmin())]
    said = (
        f"The load is least even at layer {least.layer:.0f} under {least.condition} prompts: "
        f"{least.entropy_bits:.2f} bits where an even load has {np.log2(n_experts):.2f}, Gini "
        f"coefficient {least.gini:.2f}."
    )
    known = load[load["committee_share"].notna() & (load["committee_members"] > 0)]
    if known.empty:
        return said
    top = known.iloc[int(known["committee_share"].to_numpy(dtype=float).argmax())]
    return (
        f"{said} The largest standing committee, {counted(top.committee_members, 'expert')} of "
        f"layer {top.layer:.0f} under {top.condition} prompts, takes "
        f"{100 * top.committee_share:.1f} % of the slots (mean over {top.committee_groups:.0f} "
        f"{top.committee_over}s; as many experts would take {100 * top.committee_even_share:.1f} % "
        "of an even load)."
    )


def coactivation_sentence(coactivation: pd.DataFrame) -> str:
    """The pair most often together against independence."""
    if coactivation.empty:
        return "No two experts are expected on enough tokens together."
    top = coactivation.iloc[int(coactivation["association"].to_numpy(dtype=float).argmax())]
    return (
        f"Most often together, against independent choices with the same usage: experts "
        f"{top.expert:.0f} and {top.other_expert:.0f} of layer {top.layer:.0f} under "
        f"{top.condition} prompts, on {top.tokens_together:,.0f} tokens where "
        f"{top.expected_tokens:,.0f} are expected (association {top.association:+.2f}, of at most "
        "1; tokens pooled, no null)."
    )


def paths_sentence(paths: pd.DataFrame) -> str:
    """The most frequent path and the most specific one, with its null."""
    frequent = paths[paths["ranked_by"] == "share"].iloc[0]
    top = paths[paths["ranked_by"] == "specific"].iloc[0]
    return (
        f"The most frequent path (layer:expert) is {frequent.path}, {100 * frequent.share:.2f} % "
        f"of all, where independent layers would give {100 * frequent.expected_share:.2f} %. Most "
        f"condition-specific is {top.path}: {100 * top.share_benchmark:.2f} % of benchmark paths "
        f"and {100 * top.share_organic:.2f} % of organic ones, p = {top.p_max:.2g} against the "
        f"largest of {top.n_paths:,.0f} paths in {top.n_permutations:,.0f} relabellings of "
        f"{top.n_clusters:,.0f} {top.cluster}s. Vocabulary alone can make a path specific."
    )


def specialisation_sentence(specialisation: pd.DataFrame) -> str:
    """The expert whose share of one group's tokens is furthest above that of the others."""
    excess = specialisation["share"] - specialisation["share_elsewhere"]
    top = specialisation.iloc[int(excess.to_numpy(dtype=float).argmax())]
    return (
        f"Of the experts that serve most tokens of a {top.over}, expert {top.expert:.0f} of layer "
        f"{top.layer:.0f} differs most between them: {100 * top.share:.0f} % of the tokens of "
        f"{top.group}, {100 * top.share_elsewhere:.0f} % elsewhere, "
        f"{100 * top.even_share:.1f} % under an even load. No null here."
    )


def vocabulary_sentence(vocabulary: pd.DataFrame) -> str:
    """The range over the layers, beside the shuffle."""
    share, shuffled = vocabulary["share"], vocabulary["shuffled_share"]
    return (
        f"The favourite expert of a token id serves {100 * share.min():.0f} to "
        f"{100 * share.max():.0f} % of its tokens, depending on the layer; with ids shuffled over "
        f"the tokens {100 * shuffled.min():.0f} to {100 * shuffled.max():.0f} %."
    )
