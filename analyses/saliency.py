"""How much experts matter by published scores: ESFT's relevance, REAP's saliency."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from einops import reduce
from jaxtyping import Bool, Float, Int, Integer

from interp.analyses.features import routing_features
from interp.analyses.usage import check_layers, check_routing, received_by_prompt


@dataclass(frozen=True, kw_only=True)
class ExpertRelevance:
    """ESFT's two scores of how relevant experts are to a task. See docs/relevance.md."""

    layer_indices: tuple[int, ...]
    """Numbers of the layers in the model."""
    gate_score: Float[np.ndarray, "layers experts"]
    """Mean over prompts of the mean over tokens of the expert's weight, 0 where not chosen; sums
    to 1 over experts where the weights of a token do."""
    selection_ratio: Float[np.ndarray, "layers experts"]
    """Mean over prompts of the share of routed slots that went to the expert; sums to 1."""
    n_prompts: int
    """Prompts that have tokens."""

    def to_frame(self) -> pd.DataFrame:
        """One row per layer and expert."""
        n_layers, n_experts = self.gate_score.shape
        return pd.DataFrame(
            {
                "layer": np.repeat(self.layer_indices, n_experts),
                "expert": np.tile(np.arange(n_experts), n_layers),
                "gate_score": self.gate_score.ravel(),
                "selection_ratio": self.selection_ratio.ravel(),
                "n_prompts": self.n_prompts,
            }
        )


def expert_relevance(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    expert_weights: Float[np.ndarray, "tokens layers top_k"],
    *,
    prompt_index: Integer[np.ndarray, "tokens"],
    n_prompts: int,
    n_experts: int,
    layer_indices: Sequence[int],
) -> ExpertRelevance:
    """ESFT's average gate score and token selection ratio.

    With N_s samples of L_j tokens, `g_e = 1/N_s sum_j 1/L_j sum_t weight_{e, t}` and
    `r_e = 1/N_s sum_j 1/L_j sum_t [e is chosen] / top_k` (Wang et al. 2024, Let the expert stick
    to his last, arXiv:2407.01906). A sample is a prompt here. The selection ratio is the prompt
    mean of usage. The released script pools tokens instead; so do samples of one length.

    Args:
        expert_indices: Experts chosen for each token.
        expert_weights: Their weights.
        prompt_index: Which prompt each token belongs to.
        n_prompts: Number of prompts; those without tokens play no part.
        n_experts: Number of experts in a layer.
        layer_indices: Number in the model of each layer.

    Returns:
        Scores from 0 to 1.

    Raises:
        ValueError: If there is no token, an index is out of range, or layer numbers are missing.
    """
    check_layers(layer_indices, expert_indices.shape[1])
    weight = received_by_prompt(
        expert_indices,
        expert_weights,
        prompt_index=prompt_index,
        n_prompts=n_prompts,
        n_experts=n_experts,
    )
    n_tokens = np.bincount(prompt_index, minlength=n_prompts)
    kept = n_tokens > 0
    usage = routing_features(
        expert_indices, prompt_index=prompt_index, n_prompts=n_prompts, n_experts=n_experts
    )
    return ExpertRelevance(
        layer_indices=tuple(int(layer) for layer in layer_indices),
        gate_score=(weight[kept] / n_tokens[kept][:, None, None]).mean(axis=0),
        selection_ratio=usage[kept].mean(axis=0),
        n_prompts=int(kept.sum()),
    )


def relevant_experts(
    score: Float[np.ndarray, "layers experts"], *, share: float
) -> Bool[np.ndarray, "layers experts"]:
    """ESFT's choice: the fewest highest experts of each layer whose scores reach a share.

    Scores are added from the highest down until the sum is at least `share` (their p; 0.1 for the
    gate score and 0.2 for the selection ratio in the paper). Of equal scores the lower number goes
    first.

    Raises:
        ValueError: If `share` is not between 0 and 1.

    Example:
        >>> relevant_experts(np.array([[0.5, 0.1, 0.3, 0.1]]), share=0.7)
        array([[ True, False,  True, False]])
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}, expected 0 to 1")
    order = np.argsort(-score, axis=1, kind="stable")
    ordered = np.take_along_axis(score, order, axis=1)
    before = np.cumsum(ordered, axis=1) - ordered
    chosen = np.empty(score.shape, dtype=bool)
    np.put_along_axis(chosen, order, before < share - 1e-12, axis=1)
    return chosen


@dataclass(frozen=True, kw_only=True)
class ReapSums:
    """What REAP's saliency is computed from; sums of parts add with `+`."""

    weighted_norm: Float[np.ndarray, "layers experts"]
    """Sum over the tokens of an expert of its weight times the norm of its output."""
    n_tokens: Int[np.ndarray, "layers experts"]
    """Tokens of the expert."""

    def __add__(self, other: "ReapSums") -> "ReapSums":
        """The sums of two parts of one store."""
        return ReapSums(
            weighted_norm=self.weighted_norm + other.weighted_norm,
            n_tokens=self.n_tokens + other.n_tokens,
        )

    def saliency(self) -> Float[np.ndarray, "layers experts"]:
        """Mean over the tokens of an expert; in the unit of the residual, NaN for no token."""
        return np.asarray(self.weighted_norm / np.where(self.n_tokens > 0, self.n_tokens, np.nan))


def reap_sums(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    expert_weights: Float[np.ndarray, "tokens layers top_k"],
    expert_output_norms: Float[np.ndarray, "tokens layers top_k"],
    *,
    n_experts: int,
) -> ReapSums:
    """REAP's saliency of every expert, as sums that merge over parts.

    `S_e = 1 / |X_e| sum_{x in X_e} weight_e(x) ||output_e(x)||`, over the tokens `X_e` that are
    routed to e (Lasby et al. 2025, REAP the experts: why pruning prevails for one-shot MoE
    compression, arXiv:2510.13999). `weight` is the router's gate after it is normalised, as the
    model uses it; the norm is that of the output before its weight.

    Args:
        expert_indices: Experts chosen for each token.
        expert_weights: Their weights.
        expert_output_norms: Norms of their outputs, before the weight.
        n_experts: Number of experts in a layer.

    Returns:
        Sums; `saliency()` is their ratio.

    Raises:
        ValueError: If there is no token, an index is out of range, or a norm is not finite.

    Example:
        >>> chosen = np.array([[[0, 1]], [[1, 0]]])
        >>> weights, norms = np.array([[[0.75, 0.25]]] * 2), np.array([[[2.0, 4.0]]] * 2)
        >>> reap_sums(chosen, weights, norms, n_experts=2).saliency()
        array([[1.25, 1.25]])
    """
    if not np.isfinite(expert_output_norms).all():
        token = int(np.flatnonzero(~np.isfinite(expert_output_norms).all(axis=(1, 2)))[0])
        raise ValueError(
            f"expert_output_norms of token {token} are not finite; leave it out, or capture anew"
        )
    everything = np.zeros(len(expert_indices), dtype=int)
    check_routing(expert_indices, everything, n_prompts=1, n_experts=n_experts)
    products = expert_weights.astype(float) * expert_output_norms
    weighted, count = (
        received_by_prompt(
            expert_indices, of, prompt_index=everything, n_prompts=1, n_experts=n_experts
        )
        for of in (products, None)
    )
    return ReapSums(
        weighted_norm=reduce(weighted, "1 layers experts -> layers experts", "sum"),
        n_tokens=reduce(count, "1 layers experts -> layers experts", "sum").astype(np.int64),
    )
