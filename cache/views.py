"""What a store gives when it is read: arrays with their axes, nothing of a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, UInt8

from interp.cache.records import Layout


@dataclass(frozen=True, kw_only=True)
class Routing:
    """The router's choices for tokens of a store, for some of its layers."""

    layer_indices: tuple[int, ...]
    """Numbers in the model of the layers along axis 1."""
    expert_indices: Integer[np.ndarray, "tokens layers top_k"]
    """By descending weight."""
    expert_weights: Float[np.ndarray, "tokens layers top_k"]
    router_logits: Float[np.ndarray, "tokens layers experts"] | None
    """None where the store has none."""
    expert_output_norms: Float[np.ndarray, "tokens layers top_k"] | None
    """Euclidean norm of each chosen expert's output, before its weight; None likewise."""


@dataclass(frozen=True, kw_only=True)
class Residuals:
    """The residual stream at one site and layer."""

    values: Float[np.ndarray, "rows d_model"]
    """float32; exact also where bfloat16 is stored."""
    token_index: Int[np.ndarray, "rows"]
    """Which token of the store each row belongs to."""


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """Some tokens of a store that follow each other, with their routing."""

    start: int
    """Which token of the store is the first."""
    prompt_index: Int[np.ndarray, "tokens"]
    """Which row of `Store.prompts` each token belongs to."""
    token_id: Int[np.ndarray, "tokens"]
    position: Int[np.ndarray, "tokens"]
    """Position in its sequence, from 0."""
    segment: UInt8[np.ndarray, "tokens"]
    """Positions in `interp.cache.records.SEGMENTS`."""
    generated: Bool[np.ndarray, "tokens"]
    logprob: Float[np.ndarray, "tokens"]
    """In nats; NaN where not recorded."""
    routing: Routing


def routing_paths(layout: Layout) -> dict[str, str]:
    """By the name of each site of the router that is stored, the path of its dataset."""
    paths = {name: f"router/{name}" for name in ("expert_indices", "expert_weights")}
    if layout.router_logits:
        paths["router_logits"] = "router/router_logits"
    if layout.expert_output_norms:
        paths["expert_output_norms"] = "experts/expert_output_norms"
    return paths


def routing_of(layers: tuple[int, ...], found: Mapping[str, Any]) -> Routing:
    """Routing of these layers from the arrays of the sites that are stored, by their names."""
    optional: dict[str, Any] = dict.fromkeys(("router_logits", "expert_output_norms"))
    return Routing(layer_indices=layers, **{**optional, **found})
