"""Random routed tokens and prompts for tests of measures: prompts in sources in conditions."""

import numpy as np

from interp.analyses.routed_tokens import Prompts, RoutedTokens


def routed_tokens(
    rng: np.random.Generator,
    *,
    n_tokens: int = 60,
    n_layers: int = 3,
    n_experts: int = 6,
    top_k: int = 2,
    n_prompts: int = 5,
    n_ids: int = 7,
) -> RoutedTokens:
    """Tokens routed at random, unevenly; every prompt has at least one."""
    taste = rng.gumbel(size=(n_tokens, n_layers, n_experts)) + rng.normal(size=n_experts)
    return RoutedTokens(
        expert_indices=np.argsort(-taste, axis=-1)[..., :top_k].astype(np.uint8),
        token_id=rng.integers(0, n_ids, n_tokens),
        previous_token_id=rng.integers(-1, n_ids, n_tokens),
        position=np.arange(n_tokens),
        logprob=np.full(n_tokens, np.nan),
        prompt_index=np.sort(np.r_[np.arange(n_prompts), rng.integers(0, n_prompts, n_tokens)])[
            :: max(1, (n_prompts + n_tokens) // n_tokens)
        ][:n_tokens],
        n_experts=n_experts,
        layer_indices=tuple(range(10, 10 + n_layers)),
    )


def nested_prompts(n_sources: int, n_prompts: int) -> Prompts:
    """As many sources a condition, as many prompts a source, every prompt its own item."""
    source = np.repeat(np.arange(2 * n_sources), n_prompts)
    return Prompts(
        benchmark=source < n_sources,
        source=np.array([f"source-{each:02d}" for each in source]),
        item=np.arange(len(source)),
        template=np.full(len(source), ""),
    )


def nested_tokens(
    rng: np.random.Generator,
    *,
    prompts: Prompts,
    condition_effect: float = 0.0,
    source_spread: float = 0.0,
    n_tokens: int = 12,
    n_experts: int = 6,
    n_layers: int = 2,
    top_k: int = 2,
) -> RoutedTokens:
    """Tokens whose taste for experts varies by source, and for the first expert by condition."""
    _, source = np.unique(prompts.source, return_inverse=True)
    n_prompts = len(source)
    taste = source_spread * rng.normal(size=(source.max() + 1, n_layers, n_experts))[source]
    taste[:, :, 0] += condition_effect * prompts.benchmark[:, None]
    prompt_index = np.repeat(np.arange(n_prompts), n_tokens)
    scores = taste[prompt_index] + rng.gumbel(size=(len(prompt_index), n_layers, n_experts))
    return RoutedTokens(
        expert_indices=np.argsort(-scores, axis=-1)[..., :top_k].astype(np.uint8),
        token_id=np.zeros(len(prompt_index), dtype=int),
        previous_token_id=np.full(len(prompt_index), -1),
        position=np.tile(np.arange(n_tokens), n_prompts),
        logprob=np.full(len(prompt_index), np.nan),
        prompt_index=prompt_index,
        n_experts=n_experts,
        layer_indices=tuple(range(n_layers)),
    )


def renamed(
    tokens: RoutedTokens, rng: np.random.Generator
) -> tuple[RoutedTokens, np.ndarray, np.ndarray]:
    """The same tokens in another order with other names of experts, per layer, and both."""
    order = rng.permutation(len(tokens.token_id))
    n_layers, n_experts = tokens.expert_indices.shape[1], tokens.n_experts
    names = np.stack([rng.permutation(n_experts) for _ in range(n_layers)])
    expert_indices = names[np.arange(n_layers)[:, None], tokens.expert_indices][order]
    return (
        RoutedTokens(
            expert_indices=expert_indices,
            token_id=tokens.token_id[order],
            previous_token_id=tokens.previous_token_id[order],
            position=tokens.position[order],
            logprob=tokens.logprob[order],
            prompt_index=tokens.prompt_index[order],
            n_experts=n_experts,
            layer_indices=tokens.layer_indices,
        ),
        names,
        order,
    )
