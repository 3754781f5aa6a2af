"""How near a token came to other experts: the margin between rank k and k + 1."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.analyses.usage import check_layers


@dataclass(frozen=True, kw_only=True)
class RoutingMargins:
    """Routing margins by layer. See docs/margins.md."""

    layer_indices: tuple[int, ...]
    """Numbers of the layers in the model."""
    median: Float[np.ndarray, "layers"]
    """Median over tokens, in the unit of what was ranked: nats for logits."""
    low: Float[np.ndarray, "layers"]
    """5 % quantile over tokens."""
    tie_rate: Float[np.ndarray, "layers"]
    """Share of tokens whose margin is exactly 0; 0 to 1."""
    n_tokens: int
    """Tokens behind each row."""

    def to_frame(self) -> pd.DataFrame:
        """One row per layer."""
        return pd.DataFrame(
            {
                "layer": list(self.layer_indices),
                "margin_median": self.median,
                "margin_low": self.low,
                "tie_rate": self.tie_rate,
                "n_tokens": self.n_tokens,
            }
        )


def routing_margin(
    router_logits: Float[np.ndarray, "tokens layers experts"], *, top_k: int
) -> Float[np.ndarray, "tokens layers"]:
    """How far the last chosen expert is ahead of the first one left out; 0 is an exact tie.

    The `selection_margin` of `interp.hooks`, from stored logits: logit of rank `top_k` minus that
    of rank `top_k + 1`. Right for families that rank experts by their logits (gpt-oss, Mixtral,
    OLMoE, Qwen); a family that ranks by corrected scores (DeepSeek-V3) needs those.

    Args:
        router_logits: With bias, before any softmax.
        top_k: Experts that a token chooses.

    Returns:
        Nats, from 0; infinite where `top_k` is the number of experts and none is left out.

    Raises:
        ValueError: If `top_k` is not between 1 and the number of experts.

    Example:
        >>> routing_margin(np.array([[[3.0, 0.5, 2.0, 1.5]]]), top_k=2)
        array([[0.5]])
    """
    n_experts = router_logits.shape[-1]
    if not 1 <= top_k <= n_experts:
        raise ValueError(f"top_k is {top_k}, expected 1 to {n_experts}, the experts")
    if top_k == n_experts:
        return np.full(router_logits.shape[:2], np.inf, dtype=router_logits.dtype)
    ranked = np.partition(router_logits, (-top_k - 1, -top_k), axis=-1)
    return np.asarray(ranked[..., -top_k] - ranked[..., -top_k - 1])


def routing_margins(
    router_logits: Float[np.ndarray, "tokens layers experts"],
    *,
    top_k: int,
    layer_indices: Sequence[int],
) -> RoutingMargins:
    """Median, 5 % quantile and rate of ties of the margin, by layer.

    Raises:
        ValueError: As `routing_margin`, or if there is no token or a layer number is missing.
    """
    check_layers(layer_indices, router_logits.shape[1])
    if not len(router_logits):
        raise ValueError("router_logits holds no token; give at least one")
    margin = routing_margin(router_logits, top_k=top_k).astype(float)
    low, median = np.quantile(margin, [0.05, 0.5], axis=0, method="lower")
    return RoutingMargins(
        layer_indices=tuple(int(layer) for layer in layer_indices),
        median=median,
        low=low,
        tie_rate=(margin == 0).mean(axis=0),
        n_tokens=len(margin),
    )
