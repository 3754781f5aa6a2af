"""Tables of a study on how experts share the work: load, pairs, domains, vocabulary, relevance."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from interp.analyses.coactivation import coactivation_counts, expert_coactivation
from interp.analyses.load import expert_load, standing_committee
from interp.analyses.saliency import expert_relevance, relevant_experts
from interp.analyses.specialisation import domain_specialisation, vocabulary_specialisation
from interp.analyses.usage import slots_by_prompt
from interp.study_described import PROMPTS_OF_A_GROUP, Described, best_rows

PAIRS_SHOWN = 3
"""Pairs of each condition and layer in the table `coactivation`: so many of those most often
together, and of those most seldom, against independence."""
LEAST_EXPECTED = 20.0
"""Tokens that a pair must be expected on together: rarer pairs are at -1 by chance."""
GROUP_EXPERTS_SHOWN = 3
"""Experts of each group and layer in the table `specialisation`."""
TOKENS_OF_AN_ID = 10
"""Tokens that an id needs to count in the table `vocabulary`."""
GATE_SHARE, RATIO_SHARE = 0.1, 0.2
"""Share of the gate score, and of the selection ratio, that ESFT's chosen experts reach."""


def load_table(of: Described) -> pd.DataFrame:
    """Entropy and Gini coefficient by condition and layer, and the standing committee's share."""
    slots = slots_by_prompt(
        of.tokens.expert_indices,
        prompt_index=of.tokens.prompt_index,
        n_prompts=len(of.of.prompt),
        n_experts=of.tokens.n_experts,
    )
    tables = []
    for condition, chosen in of.by_condition():
        load = expert_load(slots[chosen].sum(axis=0), layer_indices=of.tokens.layer_indices)
        frame = load.to_frame().join(committee(of, chosen).set_index("layer"), on="layer")
        tables.append(frame.assign(condition=condition))
    joined = pd.concat(tables, ignore_index=True)
    return joined[["condition", *(name for name in joined if name != "condition")]]


def committee(of: Described, among: Bool[np.ndarray, "prompts"]) -> pd.DataFrame:
    """The standing committee of some prompts, layer by layer; NaN for fewer than two groups.

    `committee_share` is the mean over the groups of what its members take together.
    """
    over, group = of.groups
    kept = among & (group != "")
    if len(set(group[kept])) < 2:
        numbers = ("members", "share", "even_share", "jaccard")
        blank: dict[str, Any] = {f"committee_{name}": np.nan for name in numbers}
        blank |= {"committee_groups": 0, "committee_over": ""}
        return pd.DataFrame({"layer": list(of.tokens.layer_indices)}).assign(**blank)
    found = standing_committee(of.tokens_among(kept), domain=group)
    return pd.DataFrame(
        {
            "layer": list(found.layer_indices),
            "committee_members": found.member.sum(axis=1),
            "committee_share": found.share.mean(axis=1),
            "committee_even_share": found.even_share,
            "committee_jaccard": found.jaccard,
            "committee_groups": len(found.domains),
            "committee_over": over,
        }
    )


def coactivation_table(of: Described) -> pd.DataFrame:
    """Pairs of experts that are most unlike independent choices, in either direction.

    `n_pairs` is the number of pairs that were ranked, by condition and layer.

    Raises:
        ValueError: If a token has one expert only.
    """
    tables = []
    for condition, chosen in of.by_condition():
        tokens = of.tokens_among(chosen)
        counts = coactivation_counts(tokens.expert_indices, n_experts=tokens.n_experts)
        found = expert_coactivation(
            counts, n_tokens=len(tokens.token_id), layer_indices=tokens.layer_indices
        )
        frame = found.to_frame()
        frame = frame[frame["expected_tokens"] >= LEAST_EXPECTED]
        frame = frame.assign(n_pairs=frame.groupby("layer")["expert"].transform("size"))
        above = frame["association"] > 0
        tables += [
            best_rows(side, "association", by=["layer"], n=PAIRS_SHOWN, absolute=True).assign(
                condition=condition, n_tokens=found.n_tokens
            )
            for side in (frame[above], frame[~above])
        ]
    joined = pd.concat(tables, ignore_index=True)
    order = ["condition", "layer", "association"]
    joined = joined.sort_values(order, ascending=[True, True, False], ignore_index=True)
    return joined[["condition", *(name for name in joined if name != "condition")]]


def specialisation_table(of: Described) -> pd.DataFrame:
    """The experts that serve most tokens of each domain (or source), beside the other groups.

    Raises:
        ValueError: If fewer than two domains and fewer than two sources have enough prompts.
    """
    over, group = of.groups
    if not over:
        raise ValueError(
            f"neither domains nor sources give two groups of at least {PROMPTS_OF_A_GROUP} "
            "prompts, so nothing can be specific to one; name domains or add prompts"
        )
    found = domain_specialisation(of.tokens_among(group != ""), domain=group)
    everywhere = np.average(found.share, axis=0, weights=found.n_tokens)
    total = found.n_tokens.sum()
    weight = (found.n_tokens / (total - found.n_tokens))[:, None, None]
    elsewhere = everywhere + weight * (everywhere - found.share)
    frame = found.to_frame().rename(columns={"domain": "group"})
    frame = frame.assign(share_elsewhere=elsewhere.ravel(), over=over)
    return best_rows(frame, "share", by=["group", "layer"], n=GROUP_EXPERTS_SHOWN)


def vocabulary_table(of: Described) -> pd.DataFrame:
    """How far a token id decides the expert, layer by layer.

    Raises:
        ValueError: If no id occurs often enough.
    """
    most = int(np.unique(of.tokens.token_id, return_counts=True)[1].max())
    if most < TOKENS_OF_AN_ID:
        raise ValueError(
            f"the most frequent token id occurs {most} times, and {TOKENS_OF_AN_ID} are needed to "
            "say how far an id decides the expert; add prompts"
        )
    rng = np.random.default_rng(of.seed)
    found = vocabulary_specialisation(of.tokens, rng=rng, min_tokens=TOKENS_OF_AN_ID)
    return found.to_frame()


def relevance_table(of: Described) -> pd.DataFrame:
    """ESFT's scores of the experts that it would choose under each condition."""
    tables = []
    for condition, chosen in of.by_condition():
        kept = chosen[of.tokens.prompt_index]
        found = expert_relevance(
            of.tokens.expert_indices[kept],
            of.routing.expert_weights[kept].astype(np.float64),
            prompt_index=of.tokens.prompt_index[kept],
            n_prompts=len(chosen),
            n_experts=of.tokens.n_experts,
            layer_indices=of.tokens.layer_indices,
        )
        frame = found.to_frame().assign(
            by_gate_score=relevant_experts(found.gate_score, share=GATE_SHARE).ravel(),
            by_selection_ratio=relevant_experts(found.selection_ratio, share=RATIO_SHARE).ravel(),
        )
        frame = frame[frame["by_gate_score"] | frame["by_selection_ratio"]]
        tables.append(frame.assign(condition=condition))
    joined = pd.concat(tables, ignore_index=True)
    return joined[["condition", *(name for name in joined if name != "condition")]]
