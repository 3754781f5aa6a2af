"""Stores whose answer is known: layer 3 tells the conditions apart, layer 1 does not."""

from pathlib import Path
from typing import Any

import numpy as np

from interp.cache.reader import Store, open_store
from interp.cache.records import SEGMENTS, Layout, PromptActivations
from interp.cache.writer import StoreWriter

N_ITEMS, N_TOKENS, N_EXPERTS, D_MODEL = 24, 30, 8, 6
LAYOUT = Layout(
    n_layers=2,
    layer_indices=(1, 3),
    n_experts=N_EXPERTS,
    top_k=2,
    d_model=D_MODEL,
    resid_sites=("resid_post",),
)


def prompt(
    rng: np.random.Generator, item: int, condition: str, **replaced: Any
) -> PromptActivations:
    """Layer 1 routes alike under both conditions; layer 3 sends benchmark text to experts 0 and 1.

    The first two tokens are template and always go to expert 7; residuals of layer 3 tell the
    conditions apart, those of layer 1 do not.
    """
    indices = np.stack([rng.permuted(np.arange(N_EXPERTS - 1))[:2] for _ in range(2 * N_TOKENS)])
    indices = indices.reshape(N_TOKENS, 2, 2)
    if condition == "benchmark":
        indices[rng.random(N_TOKENS) < 0.5, 1] = [0, 1]
    indices[:2] = [7, 0]
    resid = {
        ("resid_post", layer): rng.normal(size=(1, D_MODEL)).astype(np.float32) for layer in (1, 3)
    }
    resid["resid_post", 3] += 3.0 * (condition == "benchmark")
    fields: dict[str, Any] = {
        "prompt": {
            "prompt_id": f"{condition}-{item}",
            "condition": condition,
            "source": "simulated",
            "domain": "",
            "item_id": f"item-{item}",
            "variant": "",
            "template": "",
        },
        "text": "a" * N_TOKENS,
        "token_id": rng.integers(0, 20, N_TOKENS).astype(np.int32),
        "position": np.arange(N_TOKENS, dtype=np.int32),
        "segment": np.array([0] * 2 + [SEGMENTS.index("user")] * (N_TOKENS - 2), dtype=np.uint8),
        "generated": np.zeros(N_TOKENS, dtype=bool),
        "logprob": np.full(N_TOKENS, np.nan, dtype=np.float32),
        "text_end": np.arange(1, N_TOKENS + 1),
        "expert_indices": indices,
        "expert_weights": np.full(indices.shape, 0.5, dtype=np.float32),
        "resid_token_index": np.array([N_TOKENS - 1]),
        "resid": resid,
    }
    return PromptActivations(**fields | replaced)


def stored(
    path: Path, conditions: tuple[str, ...] = ("benchmark", "organic"), **replaced: Any
) -> Store:
    rng = np.random.default_rng(0)
    with StoreWriter(path, layout=LAYOUT, provenance={"model": "simulated"}) as writer:
        for item in range(N_ITEMS):
            for condition in conditions:
                writer.add(prompt(rng, item, condition, **replaced))
    return open_store(path)
