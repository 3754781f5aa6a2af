"""The token view of the report: a few prompts, each token with its experts in every layer.

Experts and weights travel as bytes, layers first: a fifth of the size of the same numbers as JSON.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from einops import rearrange
from jaxtyping import Int, Integer, Shaped

from interp.cache.reader import Store
from interp.cache.records import CONDITIONS, SEGMENTS

PROMPTS_PER_CONDITION = 3
MAX_TOKENS = 2000
"""Longer prompts are cut in the view, which says so."""
MAX_TOKENS_IN_ALL = 4000
"""Of all prompts in the view; where there are more, each gets an equal share."""
WEIGHT_STEPS = 1000
"""Weights are kept to a thousandth."""


def shown_prompts(prompts: pd.DataFrame) -> list[int]:
    """Rows of `Store.prompts` to show: up to three per condition.

    The same items under every condition come first, and one domain each, so that a reader can lay
    the wordings side by side.
    """
    ranked = prompts.assign(
        n_conditions=prompts.groupby("item_id")["condition"].transform("nunique"),
        n_before=prompts.groupby(["condition", "domain"])["item_id"].transform(
            lambda items: pd.factorize(items)[0]
        ),
    )
    ranked = ranked.drop_duplicates(["condition", "item_id"])
    ranked = ranked.sort_values(
        ["n_conditions", "n_before"], ascending=[False, True], kind="stable"
    )
    return [
        int(row)
        for condition in CONDITIONS
        for row in ranked.index[ranked["condition"] == condition][:PROMPTS_PER_CONDITION]
    ]


@dataclass(frozen=True, kw_only=True)
class TokenStrips:
    """What the page's script needs to draw the prompts of the view."""

    facts: dict[str, Any]
    """JSON values: `layers`, `topK`, `expertBytes`, `weightSteps`, and of each of `prompts` its
    condition, item, label, number of tokens, and the texts, ids, positions, segments shown."""
    routing: bytes
    """Experts of all prompts, then their weights: low bytes of all, then high bytes of all, which
    deflate better apart. Of each prompt: layers, tokens, `top_k`."""


def token_strips(store: Store) -> TokenStrips:
    """The prompts of the view with their routing."""
    routing, shown = store.router(), shown_prompts(store.prompts)
    most = _most_tokens(store.prompts.loc[shown, "n_tokens"].to_numpy())
    tokens = [np.flatnonzero(store.prompt_index == row)[:most] for row in shown]
    index_dtype = np.dtype("<u1" if store.layout.n_experts <= 256 else "<u2")
    experts = [_layers_first(routing.expert_indices[some]).astype(index_dtype) for some in tokens]
    weights = [_layers_first(routing.expert_weights[some]) for some in tokens]
    steps = [np.round(some.astype(np.float64) * WEIGHT_STEPS).clip(0, 65535) for some in weights]
    low_high = [
        (some.astype(np.uint16) >> shift & 255).astype(np.uint8)
        for shift in (0, 8)
        for some in steps
    ]
    facts = {
        "layers": [int(layer) for layer in routing.layer_indices],
        "topK": store.layout.top_k,
        "expertBytes": index_dtype.itemsize,
        "weightSteps": WEIGHT_STEPS,
        "prompts": [
            _prompt_facts(store, row, some) for row, some in zip(shown, tokens, strict=True)
        ],
    }
    return TokenStrips(
        facts=facts, routing=b"".join(each.tobytes() for each in [*experts, *low_high])
    )


def _most_tokens(n_tokens: Integer[np.ndarray, "prompts"]) -> int:
    """So many tokens of a prompt are shown."""
    if n_tokens.clip(max=MAX_TOKENS).sum() <= MAX_TOKENS_IN_ALL:
        return MAX_TOKENS
    return MAX_TOKENS_IN_ALL // len(n_tokens)


def _prompt_facts(store: Store, row: int, shown: Int[np.ndarray, "tokens"]) -> dict[str, Any]:
    prompt = store.prompts.iloc[row]
    return {
        "condition": str(prompt["condition"]),
        "item": str(prompt["item_id"]),
        "label": _label(prompt),
        "nTokens": int(prompt["n_tokens"]),
        "texts": list(store.token_texts(row))[: len(shown)],
        "ids": store.token_id[shown].tolist(),
        "positions": store.position[shown].tolist(),
        "segments": [SEGMENTS[segment] for segment in store.segment[shown]],
        "generated": store.generated[shown].astype(int).tolist(),
    }


def _label(prompt: pd.Series) -> str:
    named = [str(prompt[field]) for field in ("source", "domain", "item_id", "variant")]
    return " · ".join(name[:40] for name in dict.fromkeys(named) if name)


def _layers_first(values: Shaped[np.ndarray, "tokens layers top_k"]) -> np.ndarray:
    return rearrange(values, "tokens layers top_k -> layers tokens top_k")
