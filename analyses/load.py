"""How evenly experts are used: entropy, Gini coefficient, and experts that serve everywhere."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Integer, Shaped
from scipy.special import entr

from interp.analyses.routed_tokens import RoutedTokens
from interp.analyses.usage import check_layers, slots_by_prompt


@dataclass(frozen=True, kw_only=True)
class ExpertLoad:
    """How evenly the slots of each layer are spread over its experts. See docs/load.md."""

    layer_indices: tuple[int, ...]
    """Numbers of the layers in the model."""
    entropy_bits: Float[np.ndarray, "layers"]
    """Entropy of usage in bits, from `log2(top_k)` to `log2(n_experts)`."""
    gini: Float[np.ndarray, "layers"]
    """Gini coefficient of usage, from 0 (even) to `1 - top_k / n_experts`."""
    n_slots: Integer[np.ndarray, "layers"]
    """Routed slots behind each row."""

    def to_frame(self) -> pd.DataFrame:
        """One row per layer."""
        return pd.DataFrame(
            {
                "layer": list(self.layer_indices),
                "entropy_bits": self.entropy_bits,
                "gini": self.gini,
                "n_slots": self.n_slots,
            }
        )


@dataclass(frozen=True, kw_only=True)
class StandingCommittee:
    """Experts that rank high, and alike, in every domain. See docs/committee.md."""

    layer_indices: tuple[int, ...]
    """Numbers of the layers in the model."""
    domains: tuple[str, ...]
    """Domains that were compared, in alphabetical order."""
    member: Bool[np.ndarray, "layers experts"]
    """True for an expert of the committee."""
    mean_rank: Float[np.ndarray, "layers experts"]
    """Mean over domains of an expert's rank, 1 for the most used, `n_top + 1` from there on."""
    rank_variance: Float[np.ndarray, "layers experts"]
    """Variance of that rank over domains, divided by their number."""
    share: Float[np.ndarray, "layers domains"]
    """Usage that the members take together, by domain; 0 to 1, 0 where there is no member."""
    even_share: Float[np.ndarray, "layers"]
    """What as many experts would take under an even load: members / `n_experts`."""
    jaccard: Float[np.ndarray, "layers"]
    """Jaccard similarity of the domains' `n_top` experts, mean over pairs of domains; 0 to 1."""
    n_top: int
    """How many of the most used experts of a domain are ranked."""

    def to_frame(self) -> pd.DataFrame:
        """One row per layer and domain; what belongs to the layer is repeated."""
        n_layers, n_domains = self.share.shape
        return pd.DataFrame(
            {
                "layer": np.repeat(self.layer_indices, n_domains),
                "domain": np.tile(np.array(self.domains, dtype=object), n_layers),
                "n_members": np.repeat(self.member.sum(axis=1), n_domains),
                "share": self.share.ravel(),
                "even_share": np.repeat(self.even_share, n_domains),
                "jaccard": np.repeat(self.jaccard, n_domains),
                "n_top": self.n_top,
            }
        )


def load_entropy_bits(slots: Shaped[np.ndarray, "*of experts"]) -> Float[np.ndarray, "*of"]:
    """Entropy of the share of routed slots that each expert receives.

    `H = -sum_e f_e log2 f_e`, where `f_e` is the share of the slots that went to expert `e` (the
    `f` of Fedus et al. 2022, arXiv:2101.03961, eq. 5, over slots instead of tokens; the entropy is
    Shannon's, 1948). A router that picks the same `top_k` experts for every token gives
    `log2(top_k)`, the least it can. Counted from few slots it is too low.

    Args:
        slots: Counts or shares of each expert; those never chosen count 0. Counts of parts add.

    Returns:
        Bits, from `log2(top_k)` to `log2(n_experts)`; NaN where nothing was routed.

    Raises:
        ValueError: If a count is negative.

    Example:
        >>> load_entropy_bits(np.array([[1, 1, 1, 1], [5, 5, 0, 0]]))
        array([2., 1.])
    """
    return np.asarray(entr(_shares(slots)).sum(axis=-1) / np.log(2.0))


def load_gini(slots: Shaped[np.ndarray, "*of experts"]) -> Float[np.ndarray, "*of"]:
    """Gini coefficient of the share of routed slots that each expert receives.

    `G = sum_i sum_j |f_i - f_j| / (2 n_experts)`, half the mean absolute difference over the mean
    (Gini 1912, Variabilità e mutabilità), computed from the sorted shares.

    Args:
        slots: Counts or shares of each expert; those never chosen count 0. Counts of parts add.

    Returns:
        From 0, an even load, to `1 - top_k / n_experts`, where the same experts take every token;
        NaN where nothing was routed.

    Raises:
        ValueError: If a count is negative.

    Example:
        >>> load_gini(np.array([[1, 1, 1, 1], [4, 4, 0, 0]]))
        array([0. , 0.5])
    """
    shares = np.sort(_shares(slots), axis=-1)
    n_experts = shares.shape[-1]
    rank = 2.0 * np.arange(1, n_experts + 1) - n_experts - 1
    return np.asarray((shares @ rank) / n_experts)


def expert_load(
    slots: Integer[np.ndarray, "layers experts"], *, layer_indices: Sequence[int]
) -> ExpertLoad:
    """Entropy and Gini coefficient of each layer.

    Args:
        slots: Routed slots of each expert, as `slots_by_prompt` counts them and summed over the
            prompts of interest; slots of parts add up.
        layer_indices: Number in the model of each layer.

    Raises:
        ValueError: If a layer number is missing or a count is negative.
    """
    check_layers(layer_indices, len(slots))
    return ExpertLoad(
        layer_indices=tuple(int(layer) for layer in layer_indices),
        entropy_bits=load_entropy_bits(slots),
        gini=load_gini(slots),
        n_slots=slots.sum(axis=1),
    )


def standing_committee(
    tokens: RoutedTokens,
    *,
    domain: Shaped[np.ndarray, "prompts"],
    n_top: int | None = None,
    presence: float = 0.8,
) -> StandingCommittee:
    """Experts that serve everywhere, and the usage that they take.

    The "standing committee" of Wang et al. 2026 (arXiv:2601.03425). In each domain the `n_top`
    most used experts have ranks 1 to `n_top`, all others `n_top + 1`. Of the experts that have a
    rank in at least a share `presence` of the domains, the committee is the Pareto set: no other
    has both a mean rank and a variance of the rank that are as low, and one of them lower. `share`
    is their coverage. We rank by usage, tokens pooled, where they rank by the mean gate value; of
    experts with equal usage the lower number ranks first.

    Args:
        tokens: Routed tokens.
        domain: Of each prompt: its domain, source or condition.
        n_top: Most used experts to rank in each domain; `top_k` if None.
        presence: Least share of domains in which a member has a rank; 0.8 is theirs.

    Returns:
        Members and their share of usage; compare it with `even_share`.

    Raises:
        ValueError: If fewer than two domains have tokens, `n_top` is not between 1 and
            `n_experts`, or `presence` not above 0 and at most 1.
    """
    n_top = tokens.expert_indices.shape[2] if n_top is None else n_top
    if not 1 <= n_top <= tokens.n_experts:
        raise ValueError(f"n_top is {n_top}, expected 1 to {tokens.n_experts}, the experts")
    if not 0 < presence <= 1:
        raise ValueError(f"presence is {presence}, expected a share above 0 and at most 1")
    names, usage = _usage_by_domain(tokens, domain)
    order = np.argsort(-usage, axis=-1, kind="stable")
    rank = np.minimum(np.argsort(order, axis=-1) + 1, n_top + 1)
    mean_rank, rank_variance = rank.mean(axis=0), rank.var(axis=0)
    is_present = (rank <= n_top).mean(axis=0) >= presence - 1e-12
    member = is_present & ~_is_dominated(mean_rank, rank_variance, is_present)
    return StandingCommittee(
        layer_indices=tokens.layer_indices,
        domains=names,
        member=member,
        mean_rank=mean_rank,
        rank_variance=rank_variance,
        share=np.stack([(each * member).sum(axis=-1) for each in usage], axis=1),
        even_share=member.sum(axis=1) / tokens.n_experts,
        jaccard=_mean_jaccard(rank <= n_top),
        n_top=n_top,
    )


def _is_dominated(
    mean: Float[np.ndarray, "layers experts"],
    variance: Float[np.ndarray, "layers experts"],
    rival: Bool[np.ndarray, "layers experts"],
) -> Bool[np.ndarray, "layers experts"]:
    """Whether a rival in the layer is as low in both, and lower in one; 1e-9 counts as equal."""
    lower_mean = mean[:, None, :] - mean[:, :, None]
    lower_variance = variance[:, None, :] - variance[:, :, None]
    as_low = (lower_mean < 1e-9) & (lower_variance < 1e-9)
    lower = (lower_mean < -1e-9) | (lower_variance < -1e-9)
    return np.asarray((as_low & lower & rival[:, None, :]).any(axis=-1))


def _usage_by_domain(
    tokens: RoutedTokens, domain: Shaped[np.ndarray, "prompts"]
) -> tuple[tuple[str, ...], Float[np.ndarray, "domains layers experts"]]:
    present = np.bincount(tokens.prompt_index, minlength=len(domain)) > 0
    names, of_prompt = np.unique(domain.astype(str), return_inverse=True)
    kept = np.unique(of_prompt[present])
    if len(kept) < 2:
        raise ValueError(
            f"domain names {len(kept)} domain(s) that have tokens; a committee is what several "
            "have in common, so give at least 2"
        )
    slots = slots_by_prompt(
        tokens.expert_indices,
        prompt_index=of_prompt[tokens.prompt_index],
        n_prompts=len(names),
        n_experts=tokens.n_experts,
    )
    return tuple(names[kept].tolist()), _shares(slots[kept])


def _mean_jaccard(
    is_top: Bool[np.ndarray, "domains layers experts"],
) -> Float[np.ndarray, "layers"]:
    """Over pairs of domains: experts in common / experts in either."""
    first, second = np.triu_indices(len(is_top), 1)
    both = (is_top[first] & is_top[second]).sum(axis=-1)
    either = (is_top[first] | is_top[second]).sum(axis=-1)
    return np.asarray((both / either).mean(axis=0))


def _shares(slots: Shaped[np.ndarray, "*of experts"]) -> Float[np.ndarray, "*of experts"]:
    if slots.size and slots.min() < 0:
        raise ValueError(f"slots holds {slots.min()}, expected counts or shares from 0")
    total = slots.sum(axis=-1, keepdims=True, dtype=float)
    return np.asarray(slots / np.where(total > 0, total, np.nan))
