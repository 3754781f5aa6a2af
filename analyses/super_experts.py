"""Experts with rare extreme outputs, which hold up the whole model and are no fair comparison."""

import numpy as np
from einops import repeat
from jaxtyping import Bool, Float, Integer

from interp.analyses.slots import check_routing

PERCENTILE = 99.5
"""Of the largest outputs of all experts; Su et al. 2025."""
SHARE_OF_LARGEST = 0.1
"""Of the largest output of all; Su et al. 2025."""
TIMES_MEDIAN = 10.0
"""Ours."""


def largest_norms(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    expert_output_norms: Float[np.ndarray, "tokens layers top_k"],
    *,
    n_experts: int,
) -> Float[np.ndarray, "layers experts"]:
    """Largest norm of each expert's output over all its tokens; 0 where it has none.

    Parts of a store merge with `np.maximum`.
    """
    everything = np.zeros(len(expert_indices), dtype=int)
    check_routing(expert_indices, everything, n_prompts=1, n_experts=n_experts)
    n_tokens, n_layers, top_k = expert_indices.shape
    layer = repeat(np.arange(n_layers), "layers -> tokens layers k", tokens=n_tokens, k=top_k)
    largest = np.zeros((n_layers, n_experts))
    np.maximum.at(largest, (layer, expert_indices.astype(np.int64)), expert_output_norms)
    return largest


def flag_super_experts(
    largest: Float[np.ndarray, "layers experts"],
) -> Bool[np.ndarray, "layers experts"]:
    """Experts whose largest output is far beyond that of nearly all others.

    With `a` the largest outputs of all experts of all layers:

        a_le > percentile(a, 99.5)  and  a_le > max(a) / 10  and  a_le > 10 median(a)

    The first two are those of Su et al. 2025 (Unveiling super experts, arXiv:2507.23279), where
    taking out three of 6,144 experts broke Qwen3-30B-A3B. There, `a` is the largest absolute
    activation of `down_proj`, here the norm of the whole output, which stores hold. Their third
    condition, that the layer is one of those where massive activations form, needs the residual
    stream at every token; ours, ten times the median, takes its place: without a third one, every
    model has a super expert, since one is always the largest.

    Args:
        largest: From `largest_norms`; 0 for experts without a token, which play no part.

    Raises:
        ValueError: If a norm is not finite.
    """
    if not np.isfinite(largest).all():
        raise ValueError("largest holds norms that are not finite; capture them anew")
    used = largest[largest > 0]
    if not used.size:
        return np.zeros(largest.shape, dtype=bool)
    least = max(
        float(np.percentile(used, PERCENTILE)),
        SHARE_OF_LARGEST * float(used.max()),
        TIMES_MEDIAN * float(np.median(used)),
    )
    # The percentile of fewer than 200 experts is below the largest by interpolation alone.
    return np.asarray(largest > least)
