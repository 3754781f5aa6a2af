"""Features of prompts for probes: routing, residuals, and the surface that could explain them."""

import numpy as np
from einops import rearrange, reduce
from jaxtyping import Float, Integer

from interp.analyses.usage import received_by_prompt


def routing_features(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    *,
    prompt_index: Integer[np.ndarray, "tokens"],
    n_prompts: int,
    n_experts: int,
    expert_weights: Float[np.ndarray, "tokens layers top_k"] | None = None,
) -> Float[np.ndarray, "prompts layers experts"]:
    """Usage within each prompt; with `expert_weights`, each expert's share of routed weight.

    Returns:
        Shares that sum to 1 over experts; NaN for a prompt without tokens, which `probe` refuses.
    """
    received = received_by_prompt(
        expert_indices,
        expert_weights,
        prompt_index=prompt_index,
        n_prompts=n_prompts,
        n_experts=n_experts,
    )
    total = reduce(received, "prompts layers experts -> prompts layers 1", "sum")
    received /= np.where(total > 0, total, np.nan)
    return received


def length_features(
    prompt_index: Integer[np.ndarray, "tokens"], *, n_prompts: int
) -> Float[np.ndarray, "prompts 1"]:
    """Natural logarithm of each prompt's number of tokens; NaN for a prompt without tokens."""
    n_tokens = np.bincount(prompt_index, minlength=n_prompts).astype(float)
    n_tokens[n_tokens == 0] = np.nan
    return rearrange(np.log(n_tokens), "prompts -> prompts 1")


def mean_by_prompt(
    values: Float[np.ndarray, "rows d_model"],
    *,
    prompt_of_row: Integer[np.ndarray, "rows"],
    n_prompts: int,
) -> Float[np.ndarray, "prompts d_model"]:
    """Mean of the rows of each prompt, summed in float64.

    Returns:
        In the unit and dtype of `values`; NaN for a prompt without rows, which `probe` refuses.
    """
    means = np.full((n_prompts, values.shape[1]), np.nan, dtype=values.dtype)
    order = np.argsort(prompt_of_row, kind="stable")
    present, first = np.unique(prompt_of_row[order], return_index=True)
    for prompt, rows in zip(present, np.split(order, first)[1:], strict=True):
        means[prompt] = values[rows].mean(axis=0, dtype=np.float64)
    return means
