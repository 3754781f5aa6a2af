"""What experts specialise in: domains and vocabulary."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from einops import rearrange
from jaxtyping import Float, Integer, Shaped

from interp.analyses.routed_tokens import RoutedTokens
from interp.analyses.usage import slots_by_prompt


@dataclass(frozen=True, kw_only=True)
class DomainSpecialisation:
    """Share of each domain's tokens that each expert serves. See docs/specialisation.md."""

    domains: tuple[str, ...]
    """Domains that have tokens, in alphabetical order."""
    layer_indices: tuple[int, ...]
    """Numbers of the layers in the model."""
    share: Float[np.ndarray, "domains layers experts"]
    """Share of the domain's tokens that chose the expert, 0 to 1; sums to `top_k`."""
    even_share: float
    """The same under an even load: `top_k / n_experts`."""
    n_tokens: Integer[np.ndarray, "domains"]
    """Tokens of each domain."""

    def to_frame(self) -> pd.DataFrame:
        """One row per domain, layer and expert."""
        n_domains, n_layers, n_experts = self.share.shape
        names = np.array(self.domains, dtype=object)
        return pd.DataFrame(
            {
                "domain": np.repeat(names, n_layers * n_experts),
                "layer": np.tile(np.repeat(self.layer_indices, n_experts), n_domains),
                "expert": np.tile(np.arange(n_experts), n_domains * n_layers),
                "share": self.share.ravel(),
                "even_share": self.even_share,
                "n_tokens": np.repeat(self.n_tokens, n_layers * n_experts),
            }
        )


@dataclass(frozen=True, kw_only=True)
class VocabularySpecialisation:
    """How far a token id decides the expert, by layer. See docs/vocabulary.md."""

    layer_indices: tuple[int, ...]
    """Numbers of the layers in the model."""
    share: Float[np.ndarray, "layers"]
    """Mean over token ids of the share of the id's tokens that its favourite expert serves."""
    shuffled_share: Float[np.ndarray, "layers"]
    """The same after one shuffle of the ids over the tokens: what few tokens per id give alone."""
    share_of_expert: Float[np.ndarray, "layers experts"]
    """The same mean over the ids whose favourite is this expert; NaN for none."""
    n_ids: int
    """Token ids that occur often enough to count."""
    min_tokens: int
    """How often that is."""

    def to_frame(self) -> pd.DataFrame:
        """One row per layer."""
        return pd.DataFrame(
            {
                "layer": list(self.layer_indices),
                "share": self.share,
                "shuffled_share": self.shuffled_share,
                "n_ids": self.n_ids,
                "min_tokens": self.min_tokens,
            }
        )


def domain_specialisation(
    tokens: RoutedTokens, *, domain: Shaped[np.ndarray, "prompts"]
) -> DomainSpecialisation:
    """Share of the tokens of each domain that each expert serves.

    `N_{E, D} / N_D`, tokens of domain D for which E is among the chosen experts over the tokens of
    D (Muennighoff et al. 2024, OLMoE, arXiv:2409.02060; all `top_k` chosen experts count). It is
    `top_k` times the usage within the domain, tokens pooled.

    Args:
        tokens: Routed tokens.
        domain: Of each prompt: its domain, source or condition.

    Returns:
        Shares from 0 to 1; compare with `even_share`.
    """
    names, of_prompt = np.unique(domain.astype(str), return_inverse=True)
    of_token = of_prompt[tokens.prompt_index]
    slots = slots_by_prompt(
        tokens.expert_indices,
        prompt_index=of_token,
        n_prompts=len(names),
        n_experts=tokens.n_experts,
    )
    n_tokens = np.bincount(of_token, minlength=len(names))
    kept = n_tokens > 0
    return DomainSpecialisation(
        domains=tuple(names[kept].tolist()),
        layer_indices=tokens.layer_indices,
        share=slots[kept] / n_tokens[kept][:, None, None],
        even_share=tokens.expert_indices.shape[2] / tokens.n_experts,
        n_tokens=n_tokens[kept],
    )


def vocabulary_specialisation(
    tokens: RoutedTokens, *, rng: np.random.Generator, min_tokens: int = 10
) -> VocabularySpecialisation:
    """How far a token id decides the expert: the share of its tokens that its favourite serves.

    `max_E N_{x, E} / N_x`, tokens with id x for which E is among the chosen experts over the
    tokens with id x (Muennighoff et al. 2024, OLMoE, arXiv:2409.02060), as a mean over ids. The
    published script averages over all ids; an id that occurs once is 100 % specialised in
    whatever it met, so ours leaves out those with fewer than `min_tokens` tokens, and shows the
    same mean with the ids shuffled over the tokens.

    Args:
        tokens: Routed tokens.
        rng: Source of chance for the shuffle.
        min_tokens: Tokens that an id needs to count.

    Returns:
        Shares from `top_k / n_experts` to 1.

    Raises:
        ValueError: If no id occurs `min_tokens` times.
    """
    _, of_token, count = np.unique(tokens.token_id, return_inverse=True, return_counts=True)
    kept = count >= min_tokens
    if not kept.any():
        raise ValueError(
            f"no token id occurs {min_tokens} times, the most frequent {count.max()} times; lower "
            "min_tokens"
        )
    shuffled = rng.permutation(of_token)
    found = [_favourites(tokens, layer, of_token, count, kept) for layer in _layers(tokens)]
    null = [_favourites(tokens, layer, shuffled, count, kept)[0] for layer in _layers(tokens)]
    return VocabularySpecialisation(
        layer_indices=tokens.layer_indices,
        share=np.array([share.mean() for share, _ in found]),
        shuffled_share=np.array([share.mean() for share in null]),
        share_of_expert=np.stack([_mean_by(*each, tokens.n_experts) for each in found]),
        n_ids=int(kept.sum()),
        min_tokens=min_tokens,
    )


def _layers(tokens: RoutedTokens) -> range:
    return range(tokens.expert_indices.shape[1])


def _favourites(
    tokens: RoutedTokens,
    layer: int,
    id_of_token: Integer[np.ndarray, "tokens"],
    count: Integer[np.ndarray, "ids"],
    kept: Shaped[np.ndarray, "ids"],
) -> tuple[Float[np.ndarray, "kept"], Integer[np.ndarray, "kept"]]:
    """Share and number of the expert that serves most tokens of each kept id."""
    chosen = tokens.expert_indices[:, layer].astype(np.int64)
    cell = (id_of_token[:, None] * tokens.n_experts + chosen).ravel()
    served = rearrange(
        np.bincount(cell, minlength=len(count) * tokens.n_experts),
        "(ids experts) -> ids experts",
        experts=tokens.n_experts,
    )[kept]
    return served.max(axis=1) / count[kept], served.argmax(axis=1)


def _mean_by(
    share: Float[np.ndarray, "ids"], expert: Integer[np.ndarray, "ids"], n_experts: int
) -> Float[np.ndarray, "experts"]:
    n_ids = np.bincount(expert, minlength=n_experts)
    total = np.bincount(expert, share, minlength=n_experts)
    return np.asarray(total / np.where(n_ids > 0, n_ids, np.nan))
