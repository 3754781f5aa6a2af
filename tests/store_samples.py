"""Random but valid activations, and the independent check of stores, for the tests."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.cache.records import PROMPT_FIELDS, SEGMENTS, Layout, PromptActivations
from interp.cache.writer import StoreWriter

CHECK_STORE = Path(__file__).resolve().parents[2] / "shared" / "tools" / "check_store.py"
PROVENANCE: Mapping[str, Any] = {"model": "toy", "revision": "r1", "versions": {"numpy": "2"}}
LAYOUT = Layout(n_layers=2, layer_indices=(3, 7), n_experts=8, top_k=2, d_model=4)
NORMS_LAYOUT = replace(LAYOUT, expert_output_norms=True)
RESID_LAYOUT = Layout(
    n_layers=2,
    layer_indices=(3, 7),
    n_experts=8,
    top_k=2,
    d_model=4,
    resid_sites=("resid_mid", "resid_post"),
)


def sample(
    layout: Layout = LAYOUT,
    *,
    seed: int = 0,
    n_tokens: int = 5,
    n_rows: int | None = None,
    text: str | None = None,
    **replaced: Any,
) -> PromptActivations:
    """Activations of one prompt; `n_rows` residual rows, or one per token where it is None."""
    rng = np.random.default_rng(seed)
    fields = {name: f"{name} {seed}" for name in PROMPT_FIELDS} | {"condition": "organic"}
    text = text if text is not None else "é" * n_tokens
    ends = np.linspace(0, len(text.encode()), n_tokens + 1)[1:].astype(np.int32)
    arrays: dict[str, Any] = {
        "prompt": fields,
        "text": text,
        "token_id": rng.integers(0, 50, n_tokens),
        "position": np.arange(n_tokens),
        "segment": rng.integers(0, len(SEGMENTS), n_tokens),
        "generated": rng.random(n_tokens) < 0.5,
        "logprob": -rng.random(n_tokens).astype(np.float32),
        "text_end": None if layout.vocab_local else ends,
    }
    arrays |= routing(layout, n_tokens=n_tokens, rng=rng)
    if layout.resid_sites:
        arrays |= residuals(layout, n_tokens=n_tokens, n_rows=n_rows, rng=rng)
    return PromptActivations(**arrays | replaced)


def forged(activations: PromptActivations, **replaced: Any) -> PromptActivations:
    """A copy with other values, past all checks that run when it is made in the ordinary way."""
    forgery = copy(activations)
    for name, value in replaced.items():
        object.__setattr__(forgery, name, value)
    return forgery


def routing(layout: Layout, *, n_tokens: int, rng: np.random.Generator) -> dict[str, Any]:
    """Softmax routing in the dtype of the layout, and norms of the chosen experts' outputs."""
    logits = rng.normal(size=(n_tokens, layout.n_layers, layout.n_experts))
    indices = np.argsort(-logits, axis=-1)[..., : layout.top_k]
    chosen = np.exp(np.take_along_axis(logits, indices, axis=-1))
    weights = chosen / chosen.sum(axis=-1, keepdims=True)
    norms = rng.exponential(size=weights.shape).astype(np.float32)
    stored_logits = logits.astype(layout.weights_dtype) if layout.router_logits else None
    return {
        "expert_indices": indices,
        "expert_weights": weights.astype(layout.weights_dtype),
        "router_logits": stored_logits,
        "expert_output_norms": norms if layout.expert_output_norms else None,
    }


def residuals(
    layout: Layout, *, n_tokens: int, n_rows: int | None, rng: np.random.Generator
) -> dict[str, Any]:
    """Random bits as residuals of layers 3 and 12, so NaN and infinities are among them."""
    n_rows = n_tokens if n_rows is None else min(n_rows, n_tokens)
    index = np.sort(rng.choice(n_tokens, size=n_rows, replace=False))
    bits = {"float32": np.uint32, "float16": np.uint16, "bfloat16": np.uint16}[layout.resid_dtype]
    kept = np.uint16 if layout.resid_dtype == "bfloat16" else layout.resid_dtype
    values = {
        (site, layer): rng.integers(
            0, np.iinfo(bits).max, (n_rows, layout.d_model), dtype=bits, endpoint=True
        ).view(kept)
        for site in layout.resid_sites
        for layer in (3, 12)
    }
    return {"resid": values, "resid_token_index": None if n_rows == n_tokens else index}


def write(
    path: Path, prompts: Sequence[PromptActivations], layout: Layout = LAYOUT, **options: Any
) -> Path:
    """A store of these prompts."""
    options = {"provenance": PROVENANCE} | options
    with StoreWriter(path, layout=layout, **options) as writer:
        for activations in prompts:
            writer.add(activations)
    return path


def as_float32(values: np.ndarray) -> np.ndarray:
    """bfloat16 bits by hand; other floats by NumPy."""
    if values.dtype == np.uint16:
        pairs = np.stack([np.zeros_like(values), values], axis=-1)
        return pairs.view("<f4")[..., 0]
    return values.astype(np.float32)


def expect_valid(*stores: Path) -> None:
    """Run the independent check; skip the test where the checkout has no `../shared` beside it."""
    if not CHECK_STORE.exists():
        pytest.skip(f"{CHECK_STORE.name} lies beside the repository, and is not there")
    command = [sys.executable, str(CHECK_STORE), *map(str, stores)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
