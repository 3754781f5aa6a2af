"""The token view of the report: a few prompts, each token with its experts in every layer.

Experts and weights travel as base64 of little-endian integers, layers first: a fifth of the size
of the same numbers as JSON.
"""

import base64
import colorsys
from typing import Any

import numpy as np
import pandas as pd
from einops import rearrange
from jaxtyping import Shaped

from interp.cache.reader import Store
from interp.cache.records import CONDITIONS, SEGMENTS

PROMPTS_PER_CONDITION = 3
MAX_TOKENS = 400
"""Longer prompts are cut in the view, which says so."""
WEIGHT_STEPS = 1000
"""Weights are kept to a thousandth."""
GOLDEN_ANGLE = 137.508
"""Degrees; successive experts land far apart on the colour wheel."""
LIGHTNESS = (0.86, 0.74, 0.80)
"""Light enough for dark text on every hue; three steps keep neighbours in hue apart."""


def expert_colors(n_experts: int) -> list[str]:
    """One background colour per expert, all light enough for the report's dark text.

    No palette of 32 to 128 colours is safe for every eye, so the view names the expert on hover
    and dims all others on a click.
    """
    return [_expert_color(expert) for expert in range(n_experts)]


def _expert_color(expert: int) -> str:
    hue = (expert * GOLDEN_ANGLE % 360) / 360
    channels = colorsys.hls_to_rgb(hue, LIGHTNESS[expert % len(LIGHTNESS)], 0.72)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in channels)


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


def token_payload(store: Store) -> dict[str, Any]:
    """What the report's script needs to draw the view, as JSON values."""
    routing = store.router()
    prompts = [
        _prompt_payload(store, row, routing.expert_indices, routing.expert_weights)
        for row in shown_prompts(store.prompts)
    ]
    return {
        "layers": [int(layer) for layer in routing.layer_indices],
        "topK": store.layout.top_k,
        "expertBytes": _index_dtype(store.layout.n_experts).itemsize,
        "weightSteps": WEIGHT_STEPS,
        "colors": expert_colors(store.layout.n_experts),
        "prompts": prompts,
    }


def _index_dtype(n_experts: int) -> np.dtype[Any]:
    return np.dtype("<u1" if n_experts <= 256 else "<u2")


def _prompt_payload(
    store: Store,
    row: int,
    expert_indices: Shaped[np.ndarray, "tokens layers top_k"],
    expert_weights: Shaped[np.ndarray, "tokens layers top_k"],
) -> dict[str, Any]:
    tokens = np.flatnonzero(store.prompt_index == row)
    shown = tokens[:MAX_TOKENS]
    prompt = store.prompts.iloc[row]
    weights = np.round(expert_weights[shown].astype(np.float64) * WEIGHT_STEPS).clip(0, 65535)
    return {
        "condition": str(prompt["condition"]),
        "label": _label(prompt),
        "nTokens": len(tokens),
        "texts": list(store.token_texts(row))[:MAX_TOKENS],
        "ids": store.token_id[shown].tolist(),
        "positions": store.position[shown].tolist(),
        "segments": [SEGMENTS[segment] for segment in store.segment[shown]],
        "generated": store.generated[shown].astype(int).tolist(),
        "experts": _packed(expert_indices[shown], _index_dtype(store.layout.n_experts)),
        "weights": _packed(weights, np.dtype("<u2")),
    }


def _label(prompt: pd.Series) -> str:
    named = [str(prompt[field]) for field in ("source", "domain", "item_id", "variant")]
    return " · ".join(name[:40] for name in dict.fromkeys(named) if name)


def _packed(values: Shaped[np.ndarray, "tokens layers top_k"], dtype: np.dtype[Any]) -> str:
    layers_first = rearrange(values, "tokens layers top_k -> layers tokens top_k")
    return base64.b64encode(layers_first.astype(dtype).tobytes()).decode("ascii")
