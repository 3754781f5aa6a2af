"""The descriptive measures of a study: a small table each, or a sentence on why there is none."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Integer

from interp.analyses.margins import routing_margins
from interp.analyses.paths import expert_paths
from interp.analyses.saliency import reap_sums
from interp.analyses.saturation import saturation_over_depth
from interp.analyses.token_classes import class_npmi
from interp.study_described import PROMPTS_OF_A_GROUP, Described, best_rows
from interp.study_experts import clusters_to_test
from interp.study_load import (
    coactivation_table,
    load_table,
    relevance_table,
    specialisation_table,
    vocabulary_table,
)
from interp.study_usage import usage_by_table

PATHS_SHOWN = 20
"""Paths in the table `paths`: so many of the most frequent, and of the most condition-specific."""
SALIENT_SHOWN = 5
"""Experts of each condition and layer in the table `saliency`."""
CLASS_EXPERTS_SHOWN = 3
"""Experts of each class of tokens and layer in the table `token_classes`."""
AGREEMENT = 0.99
"""Share of tokens whose largest logits must be of the chosen experts, for margins to mean much."""


def measure_tables(
    of: Described, start: Callable[[str], Any]
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Every descriptive measure that these tokens allow.

    Args:
        of: What is described.
        start: Called with the name of each table before it is made.

    Returns:
        Tables by name, and by name why one is missing or has an empty column.
    """
    tables, absent = {}, {}
    for name, measure in MEASURES.items():
        start(name)
        try:
            tables[name] = measure(of)
        except ValueError as error:
            said = str(error)
            absent[name] = f"{said[0].upper()}{said[1:]}."
    without = tables["load"].loc[tables["load"]["committee_share"].isna(), "condition"].unique()
    if len(without):
        absent["load_committee"] = (
            "A standing committee is what several domains or sources have in common; the "
            f"{' and '.join(without)} prompts have no two with at least {PROMPTS_OF_A_GROUP} "
            "prompts, so they have none."
        )
    if of.kinds is None:
        sentence = (
            "The store does not know the texts of its tokens, so they are told apart by segment "
            "alone."
        )
        absent |= dict.fromkeys(("usage_by_texts", "token_classes_of_texts"), sentence)
    return tables, absent


def paths_table(of: Described) -> pd.DataFrame:
    """The most frequent paths through two neighbouring layers, and the most condition-specific.

    Raises:
        ValueError: If there is one condition or one layer, or nothing can be relabelled.
    """
    if not of.is_pair:
        raise ValueError(
            "paths are compared between benchmark and organic prompts, and the store lacks one"
        )
    cluster = clusters_to_test(of.prompts)[0][0]
    found = expert_paths(
        of.tokens,
        benchmark=of.prompts.benchmark,
        cluster=getattr(of.prompts, cluster),
        rng=np.random.default_rng(of.seed),
        n_permutations=of.n_permutations,
    )
    shown = {"share": found.to_frame(), "specific": found.most_specific()}
    tables = [each.head(PATHS_SHOWN).assign(ranked_by=name) for name, each in shown.items()]
    joined = pd.concat(tables, ignore_index=True).assign(cluster=cluster, n_paths=len(found.share))
    return joined[["ranked_by", *(name for name in joined if name != "ranked_by")]]


def saturation_table(of: Described) -> pd.DataFrame:
    """How far each layer sorts tokens as the last one does; the last is 1 by definition."""
    found = saturation_over_depth(of.tokens.expert_indices, n_experts=of.tokens.n_experts)
    return pd.DataFrame(
        {
            "layer": list(of.tokens.layer_indices),
            "saturation": found,
            "reference_layer": of.tokens.layer_indices[-1],
            "n_tokens": len(of.tokens.token_id),
        }
    )


def saliency_table(of: Described) -> pd.DataFrame:
    """REAP's most salient experts of each condition and layer.

    Raises:
        ValueError: If the store has no norms, or one is not finite.
    """
    routing = of.routing
    if routing.expert_output_norms is None:
        raise ValueError(
            "the store holds no norms of experts' outputs, so REAP's saliency cannot be computed; "
            "capture with the site expert_output_norms"
        )
    tables = []
    for condition, chosen in of.by_condition():
        kept = chosen[of.tokens.prompt_index]
        found = reap_sums(
            routing.expert_indices[kept],
            routing.expert_weights[kept],
            routing.expert_output_norms[kept],
            n_experts=of.tokens.n_experts,
        )
        layer, expert = np.indices(found.n_tokens.shape)
        numbers = {"layer": np.array(of.tokens.layer_indices)[layer.ravel()]}
        numbers |= {"expert": expert.ravel(), "saliency": found.saliency().ravel()}
        frame = pd.DataFrame(numbers | {"n_tokens": found.n_tokens.ravel()})
        tables.append(frame.assign(condition=condition))
    joined = pd.concat(tables, ignore_index=True)
    return best_rows(joined, "saliency", by=["condition", "layer"], n=SALIENT_SHOWN)


def class_table(of: Described) -> pd.DataFrame:
    """The experts that go most with each class of tokens: its segment, and what its text is.

    Raises:
        ValueError: If all tokens are of one class.
    """
    tables = []
    for kind, (number, names) in of.classes().items():
        if len(set(number.tolist())) > 1:
            found = class_npmi(of.tokens, token_class=number, class_names=names)
            tables.append(found.assign(by=kind, n_tokens=_class_sizes(number, found, len(names))))
    if not tables:
        raise ValueError("all tokens are of one class, so no expert can go with one of several")
    joined, by = pd.concat(tables, ignore_index=True), ["by", "token_class", "layer"]
    shown = best_rows(joined, "npmi", by=by, n=CLASS_EXPERTS_SHOWN)
    return shown[[*by, *(name for name in shown if name not in by)]]


def _class_sizes(
    number: Integer[np.ndarray, "tokens"], found: pd.DataFrame, n_classes: int
) -> Integer[np.ndarray, "rows"]:
    """Tokens of the class of each row; rows of a class follow each other."""
    return np.repeat(np.bincount(number, minlength=n_classes), len(found) // n_classes)


def margin_table(of: Described) -> pd.DataFrame:
    """Margin between the last chosen expert and the first left out, by layer.

    Raises:
        ValueError: If the store has no logits, or experts were not chosen by them.
    """
    logits, chosen = of.routing.router_logits, of.routing.expert_indices
    if logits is None:
        raise ValueError(
            "the store holds no router logits, so there is no routing margin; capture with the "
            "site router_logits"
        )
    top_k = chosen.shape[2]
    least_chosen = np.take_along_axis(logits, chosen.astype(np.int64), axis=2).min(axis=2)
    agree = float(((logits > least_chosen[..., None]).sum(axis=2) < top_k).mean())
    if agree < AGREEMENT:
        raise ValueError(
            f"the router chose the experts of the {top_k} largest logits for {100 * agree:.0f} % "
            "of tokens only, as where it ranks by corrected scores, so logits give no margin"
        )
    return routing_margins(
        logits.astype(np.float32), top_k=top_k, layer_indices=of.tokens.layer_indices
    ).to_frame()


MEASURES: Mapping[str, Callable[[Described], pd.DataFrame]] = {
    "usage_by": usage_by_table,
    "load": load_table,
    "coactivation": coactivation_table,
    "paths": paths_table,
    "specialisation": specialisation_table,
    "vocabulary": vocabulary_table,
    "saturation": saturation_table,
    "relevance": relevance_table,
    "saliency": saliency_table,
    "token_classes": class_table,
    "margins": margin_table,
}
"""By the name of its table in `results.json`."""
