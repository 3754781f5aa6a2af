"""Usage and divergence tables of a study beside those by condition and by token."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from interp.analyses.matched_on import KEYS, divergence_matched_on
from interp.analyses.usage import usage_by
from interp.results import MATCHED_COLUMNS
from interp.study_described import Described, best_rows

EXPERTS_SHOWN = 5
"""Experts of each group and layer in the table `usage_by`: those with the largest prompt mean."""
OTHER_KEYS = tuple(key for key in KEYS if key != "token")
"""The token itself has a table of its own."""
KEY_NAMES = {
    "previous_and_token": "pair of a token and the one before it",
    "position_bin": "bin of positions",
    "position_bin_and_token": "token in the same bin of positions",
}


def usage_table(of: Described) -> pd.DataFrame:
    """Usage of every expert under every condition: by slots and by weights, in both means."""
    return _usage(of, {"condition": of.of.condition[of.of.prompt_index]})


def usage_by_table(of: Described) -> pd.DataFrame:
    """Usage by source, segment and class of token under each condition: the busiest experts."""
    place = of.of.prompt_index
    condition = of.of.condition[place]
    groupings = {"source": of.of.table["source"].to_numpy(dtype=str)[place]}
    groupings |= {by: np.array(names)[number] for by, (number, names) in of.classes().items()}
    tables = [
        _usage(of, {"condition": condition, "group": group}).assign(by=by)
        for by, group in groupings.items()
    ]
    joined = pd.concat(tables, ignore_index=True)
    columns = ["by", "group", "condition", "layer"]
    found = best_rows(joined, "usage_prompt_mean", by=columns, n=EXPERTS_SHOWN)
    return found[[*columns, *(name for name in joined if name not in columns)]]


def _usage(of: Described, by: dict[str, Shaped[np.ndarray, "tokens"]]) -> pd.DataFrame:
    """Both means of both counts; `usage_weights` columns count a slot by its weight."""
    alike: dict[str, Any] = {
        "by": by,
        "prompt_index": of.of.prompt_index,
        "n_experts": of.tokens.n_experts,
        "layer_indices": of.tokens.layer_indices,
    }
    slots = usage_by(of.tokens.expert_indices, **alike).to_frame()
    weights = usage_by(
        of.tokens.expert_indices, expert_weights=of.routing.expert_weights, **alike
    ).to_frame()
    return slots.assign(
        usage_weights=weights["usage"], usage_weights_prompt_mean=weights["usage_prompt_mean"]
    )


def matched_table(
    of: Described, advance: Callable[[int], Any]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Divergence matched on the previous token and the token, and on bins of position.

    Returns:
        One row per key and layer, and keys that match nothing. What else is empty is so for the
        same reasons as in the table `divergence`.

    Raises:
        ValueError: As `divergence_matched_on`.
    """
    tables, absent = [], {}
    for key in OTHER_KEYS:
        found = divergence_matched_on(
            of.tokens,
            of.prompts,
            cluster=of.prompts.item,
            rng=np.random.default_rng(of.seed),
            n_permutations=of.n_permutations,
            keys=(key,),
        )
        tables.append(found.to_frame())
        if "matched" in found.by_key[key].absent:
            absent[f"divergence_{key}"] = (
                f"The conditions share no {KEY_NAMES[key]}, so the divergence matched on it is not "
                "defined."
            )
        advance(of.n_permutations)
    joined = pd.concat(tables, ignore_index=True)
    renamed = joined.rename(columns={"share_explained_by_vocabulary": "share_explained"})
    return renamed[list(MATCHED_COLUMNS)], absent
