"""How early routing is set: between checkpoints, and over the layers of one model."""

import numpy as np
from einops import reduce
from jaxtyping import Float, Integer

from interp.analyses.coactivation import coactivation_counts
from interp.analyses.paths import transition_counts


def router_saturation(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    final_indices: Integer[np.ndarray, "final_tokens final_layers final_k"],
) -> Float[np.ndarray, "layers"]:
    """Share of experts that a checkpoint and the final one choose alike, for the same tokens.

    Mean over tokens of `|E(t) & E(T)| / top_k` (Muennighoff et al. 2024, OLMoE,
    arXiv:2409.02060), layer by layer. Two routings of the same tokens through the *same* layers;
    it makes no sense between layers, where expert 3 of one is another than expert 3 of the next.

    Returns:
        From 0 to 1; `top_k / n_experts` by chance, with an even load.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> router_saturation(np.array([[[0, 1]], [[2, 3]]]), np.array([[[1, 2]], [[2, 3]]]))
        array([0.75])
    """
    if expert_indices.shape != final_indices.shape:
        raise ValueError(
            f"expert_indices has shape {expert_indices.shape}, but final_indices has "
            f"{final_indices.shape}; give the experts of the same tokens and layers"
        )
    same = expert_indices[:, :, :, None] == final_indices[:, :, None, :]
    in_common = reduce(same, "tokens layers one other -> layers", "sum")
    return np.asarray(in_common / (len(expert_indices) * expert_indices.shape[2]))


def saturation_over_depth(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    *,
    n_experts: int,
    reference: int = -1,
) -> Float[np.ndarray, "layers"]:
    """How far each layer already sorts tokens the way the last layer does.

    Ours: OLMoE's router saturation compares checkpoints, where experts have the same names. Over
    depth they do not, so the choices are compared by which *tokens* they put together: linear
    centred kernel alignment (Kornblith et al. 2019, arXiv:1905.00414) of the indicator matrices
    `[tokens experts]` X of a layer and Y of the last,
    `||X'Y||^2 / (||X'X|| ||Y'Y||)` after centring. Renaming experts in any layer changes nothing.

    Args:
        expert_indices: Experts chosen, in any order within a token.
        n_experts: Number of experts in a layer.
        reference: Which layer of `expert_indices` to compare with.

    Returns:
        From 0 (unrelated) to 1 (the same partition of the tokens); NaN for a layer that sends all
        tokens to the same experts. By chance about `n_experts / tokens`.

    Example:
        >>> chosen = np.array([[[0], [1]], [[1], [0]], [[0], [1]]])
        >>> saturation_over_depth(chosen, n_experts=2)
        array([1., 1.])
    """
    n_tokens = len(expert_indices)
    own_counts = coactivation_counts(expert_indices, n_experts=n_experts)
    alone = np.diagonal(own_counts, axis1=1, axis2=2)
    last = expert_indices[:, reference]
    with_last = np.stack(
        [
            transition_counts(layer, last, n_experts=n_experts)
            for layer in np.moveaxis(expert_indices, 1, 0)
        ]
    )
    own = _centred_norm(own_counts, alone, alone, n_tokens)
    shared = _centred_norm(with_last, alone, alone[reference][None], n_tokens)
    scale = np.sqrt(own * own[reference])
    return np.asarray(shared / np.where(scale > 1e-12, scale, np.nan))


def _centred_norm(
    joint: Integer[np.ndarray, "layers experts experts"],
    first: Integer[np.ndarray, "layers experts"],
    second: Integer[np.ndarray, "of experts"],
    n_tokens: int,
) -> Float[np.ndarray, "layers"]:
    """Squared norm of the cross-covariance of two indicator matrices, by layer."""
    product = first[:, :, None] * second[:, None, :] / n_tokens**2
    excess = joint / n_tokens - product
    return np.asarray(reduce(excess**2, "layers one other -> layers", "sum"))
