"""Parts of the effects of experts: what each token's prompt is, and the sums of every effect."""

from dataclasses import dataclass

import numpy as np
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int, Shaped

from interp.analyses.cells import ClusterSums, mean_difference_sums
from interp.analyses.confirmation import Confirmation, confirm, discovery_half, nothing_confirmed
from interp.analyses.routed_tokens import Prompts, RoutedTokens
from interp.analyses.surface import SurfaceAdjustment, surface_adjusted_sums


@dataclass(frozen=True, kw_only=True)
class TokenFields:
    """What the prompt of each token is."""

    benchmark: Bool[np.ndarray, "tokens"]
    """True for a token of a benchmark prompt."""
    cluster: Shaped[np.ndarray, "tokens"]
    """What is resampled."""
    split_by: Shaped[np.ndarray, "tokens"]
    """What is kept whole in the halves of the confirmation."""

    @classmethod
    def gather(cls, tokens: RoutedTokens, prompts: Prompts, cluster: str) -> "TokenFields":
        """Look up the prompt of each token."""
        benchmark = prompts.benchmark[tokens.prompt_index]
        split = cluster
        if cluster == "item":  # never by item: items of one source share what is to be held out
            is_paired = bool(
                np.isin(prompts.item[prompts.benchmark], prompts.item[~prompts.benchmark]).any()
            )
            split = "template" if is_paired else "source"
        return cls(
            benchmark=benchmark,
            cluster=getattr(prompts, cluster)[tokens.prompt_index],
            split_by=getattr(prompts, split)[tokens.prompt_index],
        )


def surface_of_tokens(
    tokens: RoutedTokens,
    benchmark: Bool[np.ndarray, "tokens"],
    cluster: Shaped[np.ndarray, "tokens"],
    rng: np.random.Generator,
    among: Bool[np.ndarray, "tokens"] | slice = slice(None),
) -> SurfaceAdjustment:
    """Surface-adjusted sums of all tokens, or of some that know nothing of the others."""
    return surface_adjusted_sums(
        tokens.expert_indices[among],
        benchmark=benchmark[among],
        cluster=cluster[among],
        token_id=tokens.token_id[among],
        previous_token_id=tokens.previous_token_id[among],
        position=tokens.position[among],
        logprob=tokens.logprob[among],
        n_experts=tokens.n_experts,
        rng=rng,
    )


def prompt_mean_sums(
    slots: Int[np.ndarray, "prompts layers experts"], prompts: Prompts, cluster: str
) -> ClusterSums:
    """Sums for the difference of mean usages, one row a prompt that has tokens."""
    total = reduce(slots, "prompts layers experts -> prompts layers 1", "sum")
    has_tokens = total[:, 0, 0] > 0
    share = slots[has_tokens] / total[has_tokens]
    return mean_difference_sums(
        rearrange(share, "prompts layers experts -> prompts (layers experts)"),
        benchmark=prompts.benchmark[has_tokens],
        cluster=getattr(prompts, cluster)[has_tokens],
    )


def activation_contrasts(
    slots: Int[np.ndarray, "prompts layers experts"],
    benchmark: Bool[np.ndarray, "prompts"],
    top_k: int,
) -> tuple[Float[np.ndarray, "columns"], Float[np.ndarray, "columns"]]:
    """Log odds ratio and risk difference of a token activating each expert."""
    log_odds, risk = [], []
    for side in (benchmark, ~benchmark):
        active = slots[side].sum(axis=0).ravel().astype(float)
        n_tokens = slots[side][:, 0].sum() / top_k
        log_odds.append(np.log(active + 0.5) - np.log(n_tokens - active + 0.5))
        risk.append(active / (n_tokens or np.nan))
    missing = np.isnan(risk[0] + risk[1])
    return np.where(missing, np.nan, log_odds[0] - log_odds[1]), risk[0] - risk[1]


def confirmation_of(
    tokens: RoutedTokens, of: TokenFields, rng: np.random.Generator
) -> Confirmation:
    """Surface-adjusted effects of either half, each residualised without the other."""
    half, reason = discovery_half(of.benchmark, of.split_by, rng=rng)
    if reason:
        return nothing_confirmed(len(tokens.layer_indices) * tokens.n_experts, reason)
    return confirm(
        surface_of_tokens(tokens, of.benchmark, of.split_by, rng, half).sums,
        surface_of_tokens(tokens, of.benchmark, of.split_by, rng, ~half).sums,
    )
