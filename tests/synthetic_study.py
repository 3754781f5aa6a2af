"""A made-up study for tests of the report: results of realistic size, and a small store."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp.cache.reader import Store, open_store
from interp.cache.records import SEGMENTS, Layout, PromptActivations
from interp.cache.writer import StoreWriter
from interp.results import Results

ROLE = "user"
TEXTS = {
    "benchmark": "Question: What is 7 times 8?\nA) 54\nB) 56\nC) 63\nD) 64\nAnswer:",
    "organic": "hey what is 7 times 8,\tits for my kid <script>document.title='x'</script>",
    "mixed": "Answer: hey so whats 7 times 8 again",
}


def synthetic_results(
    *, n_layers: int = 24, n_experts: int = 32, top_k: int = 4, seed: int = 0
) -> Results:
    """Tables with the columns of DESIGN.md; large enough to look at, with every kind of row."""
    rng = np.random.default_rng(seed)
    return Results(
        usage=_usage(rng, n_layers=n_layers, n_experts=n_experts),
        divergence=_divergence(rng, n_layers=n_layers),
        probes=_probes(rng, n_layers=n_layers),
        run={
            "model": "gpt-oss-20b",
            "revision": "6cee5e81ee83",
            "n_layers": n_layers,
            "n_experts": n_experts,
            "top_k": top_k,
            "d_model": 2880,
            "prompts": {"benchmark": 164, "organic": 158, "mixed": 120},
            "tokens": {"benchmark": 22140, "organic": 13003, "mixed": 9001},
            "sources": {"matched": 360, "human-eval": 82},
            "generated_only": False,
            "versions": {"moe-interp": "0.1.0", "numpy": "2.4.6", "python": "3.11.9"},
            "settings": {"n_permutations": 200, "folds": 5, "positions": "all"},
            "seed": seed,
        },
    )


def _usage(rng: np.random.Generator, *, n_layers: int, n_experts: int) -> pd.DataFrame:
    base = rng.dirichlet(np.full(n_experts, 3.0), size=n_layers)
    frames = []
    for condition, n_tokens, n_prompts in (("benchmark", 22140, 164), ("organic", 13003, 158)):
        shares = base * rng.lognormal(sigma=0.35, size=base.shape)
        shares /= shares.sum(axis=1, keepdims=True)
        layer, expert = np.indices(base.shape)
        columns = {"layer": layer.ravel(), "expert": expert.ravel(), "usage": shares.ravel()}
        frame = pd.DataFrame(columns).assign(condition=condition, usage_prompt_mean=shares.ravel())
        frames.append(frame.assign(n_tokens=n_tokens, n_prompts=n_prompts))
    return pd.concat(frames, ignore_index=True)


def _divergence(rng: np.random.Generator, *, n_layers: int) -> pd.DataFrame:
    layer = np.arange(n_layers)
    raw = 0.05 + 0.15 * np.exp(-(((layer - 0.5 * n_layers) / (0.2 * n_layers + 1)) ** 2))
    raw = raw * rng.lognormal(sigma=0.1, size=n_layers)
    null = np.full(n_layers, 0.0021) * rng.lognormal(sigma=0.1, size=n_layers)
    matched = raw * np.linspace(0.1, 0.65, n_layers)
    return pd.DataFrame(
        {
            "layer": layer,
            "raw_bits": raw,
            "raw_null_bits": null,
            "raw_null_high_bits": null * 1.5,
            "p_value": 1 / 201,
            "token_matched_bits": matched,
            "token_matched_null_bits": null * 1.8,
            "token_matched_null_high_bits": null * 2.5,
            "overlap": 0.54,
            "share_explained_by_vocabulary": 1 - (matched - null * 1.8) / (raw - null),
            "n_tokens_benchmark": 22140,
            "n_tokens_organic": 13003,
            "n_clusters": 322,
            "n_permutations": 200,
        }
    )


def _probes(rng: np.random.Generator, *, n_layers: int) -> pd.DataFrame:
    rows = [
        _probe("length", np.nan, 0.81, 0.04, "length"),
        _probe("bag_of_tokens", np.nan, 0.99, 0.006),
    ]
    for layer in range(n_layers):
        rise = 1 - np.exp(-(layer + 1) / 3)
        rows.append(_probe("resid_post", layer, 0.86 + 0.12 * rise, 0.015, ""))
        rows.append(_probe("routing", layer, 0.72 + 0.2 * rise, 0.03, ""))
        for site in ("resid_post", "routing"):
            rows.append(_probe(site, layer, 0.5 + rng.normal(scale=0.025), 0.05, "shuffled"))
    return pd.DataFrame(rows)


def _probe(
    site: str, layer: float, auroc: float, half_width: float, baseline: str = "bag_of_tokens"
) -> dict[str, Any]:
    return {
        "site": site,
        "layer": layer,
        "target": "condition",
        "split": "item",
        "auroc": auroc,
        "auroc_low": auroc - half_width,
        "auroc_high": min(1.0, auroc + half_width),
        "baseline": baseline,
        "n_prompts": 322,
        "n_clusters": 60,
    }


def write_synthetic_store(
    path: Path,
    *,
    n_layers: int = 24,
    n_experts: int = 32,
    top_k: int = 4,
    n_items: int = 5,
    repeats: int = 1,
    layer_indices: tuple[int, ...] | None = None,
) -> Store:
    """A store of random routing: one prompt per item and condition, the same at every call."""
    rng = np.random.default_rng(7)
    layout = Layout(
        n_layers=n_layers,
        layer_indices=layer_indices or tuple(range(n_layers)),
        n_experts=n_experts,
        top_k=top_k,
        d_model=64,
        weights_dtype="float16",
    )
    with StoreWriter(path, layout=layout, provenance={"model": "synthetic"}) as writer:
        for item in range(n_items):
            for condition, text in TEXTS.items():
                writer.add(_activations(rng, layout, item, condition, text * repeats))
    return open_store(path)


def _activations(
    rng: np.random.Generator, layout: Layout, item: int, condition: str, words: str
) -> PromptActivations:
    pieces = ["<|start|>", ROLE, "<|message|>", *split_pieces(words), "<|end|>"]
    n_tokens = len(pieces)
    scores = rng.random((n_tokens, layout.n_layers, layout.n_experts))
    weights = rng.dirichlet(np.ones(layout.top_k), size=(n_tokens, layout.n_layers))
    return PromptActivations(
        prompt={
            "prompt_id": f"{item:08x}{len(words):08x}",
            "condition": condition,
            "source": "matched",
            "domain": ("arithmetic", "code", "reading")[item % 3],
            "item_id": f"item-{item:02d}",
            "variant": f"{condition}-chat",
            "template": "plain",
        },
        text="".join(pieces),
        token_id=rng.integers(997, size=n_tokens).astype(np.int32),
        position=np.arange(n_tokens, dtype=np.int32),
        segment=np.array([_segment(piece) for piece in pieces], dtype=np.uint8),
        generated=np.zeros(n_tokens, dtype=bool),
        logprob=np.full(n_tokens, np.nan, dtype=np.float32),
        text_end=np.cumsum([len(piece.encode()) for piece in pieces]),
        expert_indices=np.argsort(-scores, axis=-1)[..., : layout.top_k].astype(np.uint8),
        expert_weights=-np.sort(-weights, axis=-1).astype(np.float16),
    )


def _segment(piece: str) -> int:
    special = piece.startswith("<|") or piece == ROLE
    return SEGMENTS.index("template" if special else "user")


def split_pieces(text: str) -> list[str]:
    """Four characters at most, a new piece before each space: much like a tokenizer's."""
    pieces: list[str] = []
    for letter in text:
        if pieces and len(pieces[-1]) < 4 and not letter.isspace():
            pieces[-1] += letter
        else:
            pieces.append(letter)
    return pieces
