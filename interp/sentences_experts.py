"""What the tests of single experts say, as sentences: what was found, what could have been."""

import pandas as pd

from interp.analyses.evidence import counted
from interp.results import Results

KINDS = {
    "raw": ("raw_p_max_t", "raw_q_bh"),
    "at the same token": ("p_max_t", "q_bh"),
    "beyond the surface": ("surface_adjusted_p_max_t", "surface_adjusted_q_bh"),
}


def expert_sentences(results: Results) -> list[str]:
    """Tests of single experts, and of the condition against the sources."""
    if results.experts.empty:
        return []
    facts = results.run.get("experts", {})
    return [
        *tested_sentences(results.experts),
        power_sentence(results.experts, float(facts.get("margin", float("nan")))),
        *sources_sentences(results.sources),
        *facts.get("notes", []),
    ]


def tested_sentences(experts: pd.DataFrame) -> list[str]:
    """How many experts differ, raw, at the same token, and beyond the surface."""
    said = []
    for kind, (p_max_t, q_bh) in KINDS.items():
        if experts[p_max_t].isna().all():
            said.append(f"{kind.capitalize()}: no test of all experts at once.")
            continue
        n_found = int((experts[q_bh] <= 0.05).sum())
        said.append(
            f"{kind.capitalize()}: {counted(n_found, 'expert')} of {len(experts):,} at a false "
            f"discovery rate of 5 %; smallest max-T p = {experts[p_max_t].min():.2g} "
            "(largest of all experts against resampled labels)."
        )
    n_confirmed = int(experts["is_confirmed"].sum())
    said.append(f"Confirmed on sources or templates not used to find it: {n_confirmed}.")
    return said


def power_sentence(experts: pd.DataFrame, margin: float) -> str:
    """What this many prompts and sources could have shown, and how many are inside the margin."""
    n_inside = int(experts["surface_adjusted_inside_margin"].sum())
    smallest = float(experts["smallest_effect"].median())
    if pd.isna(smallest):
        return "What effect these prompts and sources could have shown is not known."
    if smallest > 1:
        could = (
            "With so few prompts and sources no effect, not even of all slots, would have been "
            "found with a probability of 80 % (median over experts, beyond the surface)."
        )
    else:
        could = (
            f"An effect of {smallest:.3f} of the slots would have been found with a probability of "
            "80 % (median over experts, beyond the surface); for the margin of "
            f"{margin:.3f} it is {100 * experts['power_at_margin'].median():.0f} %."
        )
    inside = f"{counted(n_inside, 'expert')} of {len(experts):,} are shown to be inside the margin."
    return f"{could} {inside}"


def sources_sentences(sources: pd.DataFrame) -> list[str]:
    """Condition against the sources within it, over all layers."""
    if sources.empty:
        return []
    row = sources[sources["layer"].isna()].iloc[0]
    if row["reason"]:
        return [f"Condition against source: {row['reason']}"]
    return [
        f"Condition against source, all layers: pseudo-F {row['pseudo_f']:.2f} (about 1 where "
        f"conditions differ as sources do), p = {row['p_value']:.2g}; {row['smallest_p']:.2g} is "
        "the least that these sources could have given."
    ]
