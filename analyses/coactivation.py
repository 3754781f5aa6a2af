"""Which experts serve the same tokens, beyond what their usage and a fixed `top_k` imply."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from einops import rearrange
from jaxtyping import Bool, Float, Int, Integer

from interp.analyses.usage import check_layers, check_routing

ROUNDS = 10_000
"""Steps after which the search for odds is given up; some tens are usual."""


@dataclass(frozen=True, kw_only=True)
class Coactivation:
    """How often two experts serve the same token. See docs/coactivation.md."""

    layer_indices: tuple[int, ...]
    """Numbers of the layers in the model."""
    n_tokens: int
    """Tokens behind the counts."""
    together: Int[np.ndarray, "layers experts experts"]
    """Tokens that chose both; on the diagonal, tokens that chose the expert."""
    conditional: Float[np.ndarray, "layers experts other"]
    """Share of the tokens of the first expert that chose the second too; NaN for an expert that
    is never chosen."""
    expected: Float[np.ndarray, "layers experts experts"]
    """Share of tokens that would choose both, had the choice no structure but usage and `top_k`."""
    association: Float[np.ndarray, "layers experts experts"]
    """-1 (as seldom together as usage allows) through 0 (as expected) to 1 (as often as usage
    allows); NaN on the diagonal and where usage leaves no choice."""

    def to_frame(self) -> pd.DataFrame:
        """One row per layer and pair, the lower number first."""
        n_layers, n_experts, _ = self.together.shape
        first, second = np.triu_indices(n_experts, 1)
        return pd.DataFrame(
            {
                "layer": np.repeat(self.layer_indices, len(first)),
                "expert": np.tile(first, n_layers),
                "other_expert": np.tile(second, n_layers),
                "tokens_together": self.together[:, first, second].ravel(),
                "expected_tokens": self.n_tokens * self.expected[:, first, second].ravel(),
                "share_of_expert": self.conditional[:, first, second].ravel(),
                "share_of_other": self.conditional[:, second, first].ravel(),
                "association": self.association[:, first, second].ravel(),
            }
        )


def coactivation_counts(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"], *, n_experts: int
) -> Int[np.ndarray, "layers experts experts"]:
    """Tokens that chose both of two experts, over all `top_k (top_k - 1) / 2` pairs of a token.

    Not only over experts of neighbouring rank: those are `top_k - 1` pairs of a token, and an
    order that OLMoE's published script depends on.

    Args:
        expert_indices: Experts chosen for each token, in any order within a token.
        n_experts: Number of experts in a layer.

    Returns:
        Symmetric counts, tokens of the expert on the diagonal; counts of parts add.

    Raises:
        ValueError: If there is no token, or an index is out of range.

    Example:
        >>> coactivation_counts(np.array([[[0, 1]], [[2, 1]]]), n_experts=3)[0]
        array([[1, 1, 0],
               [1, 2, 1],
               [0, 1, 1]])
    """
    n_tokens, n_layers, top_k = expert_indices.shape
    check_routing(expert_indices, np.zeros(n_tokens, dtype=int), n_prompts=1, n_experts=n_experts)
    counts = np.empty((n_layers, n_experts, n_experts), dtype=np.int64)
    for layer in range(n_layers):
        chosen = expert_indices[:, layer].astype(np.int64)
        cells = np.concatenate(
            [chosen[:, a] * n_experts + chosen[:, b] for a, b in combinations(range(top_k), 2)]
            or [np.empty(0, dtype=np.int64)]
        )
        one_way = rearrange(np.bincount(cells, minlength=n_experts**2), "(a b) -> a b", b=n_experts)
        alone = np.bincount(chosen.ravel(), minlength=n_experts)
        counts[layer] = one_way + one_way.T + np.diag(alone)
    return counts


def expert_coactivation(
    counts: Int[np.ndarray, "layers experts experts"],
    *,
    n_tokens: int,
    layer_indices: Sequence[int],
) -> Coactivation:
    """Co-activation of all pairs of experts, as it is and against independence.

    `conditional` is OLMoE's co-activation `N_ij / N_i` (Muennighoff et al. 2024,
    arXiv:2409.02060); an expert that every token uses has a high one with everybody. So
    `association` compares `N_ij / n_tokens` with what would be *expected* of independent choices
    with the same usage. Since a token chooses exactly `top_k` different experts, that is not
    `p_i p_j`, which two even experts fall short of by a factor
    `(top_k - 1) n_experts / (top_k (n_experts - 1))`, 0.77 for 4 of 32. It is the joint
    probability in the distribution of largest entropy among those that choose `top_k` experts
    with the given usage (`expected_together`). Departures are scaled by the largest that the two
    usages allow: `(p_ij - expected) / (min(p_i, p_j) - expected)` above expectation and
    `(p_ij - expected) / (expected - max(0, p_i + p_j - 1))` below, as in Cole 1949 (The
    measurement of interspecific association, Ecology 30).

    Args:
        counts: From `coactivation_counts`; those of parts add.
        n_tokens: Tokens behind the counts.
        layer_indices: Number in the model of each layer.

    Returns:
        Shares of tokens from 0 to 1, association from -1 to 1.

    Raises:
        ValueError: If `n_tokens` does not divide the counts on the diagonal, `top_k` is 1, or a
            layer number is missing.
    """
    check_layers(layer_indices, len(counts))
    alone = np.diagonal(counts, axis1=1, axis2=2)
    top_k = _top_k(alone, n_tokens)
    share = alone / n_tokens
    expected = np.stack([expected_together(of, top_k=top_k) for of in share])
    with np.errstate(invalid="ignore"):
        conditional = counts / np.where(alone > 0, alone, np.nan)[:, :, None]
    return Coactivation(
        layer_indices=tuple(int(layer) for layer in layer_indices),
        n_tokens=n_tokens,
        together=counts,
        conditional=conditional,
        expected=expected,
        association=_association(counts / n_tokens, share, expected),
    )


def expected_together(
    share: Float[np.ndarray, "experts"], *, top_k: int
) -> Float[np.ndarray, "experts experts"]:
    """Probability that a token chooses both of two experts, had it no preference for pairs.

    Among all ways to choose `top_k` different experts so that expert i is chosen with probability
    `share[i]`, the one of largest entropy has `P(set) ~ product of odds` (conditional Poisson
    sampling; Chen, Dempster and Liu 1994, Weighted finite population sampling to maximize entropy,
    Biometrika 81). The odds are found by iteration, sums over sets by a recursion over experts.

    Args:
        share: Share of tokens that choose each expert; sums to `top_k`.
        top_k: Experts that a token chooses.

    Returns:
        Symmetric; `share` on the diagonal.

    Raises:
        ValueError: If the shares do not sum to `top_k`, or no odds are found.

    Example:
        >>> expected_together(np.full(4, 0.5), top_k=2)[0, 1].round(4)
        np.float64(0.1667)
    """
    if abs(float(share.sum()) - top_k) > 1e-6:
        raise ValueError(f"share sums to {share.sum():.6g}, expected top_k, which is {top_k}")
    certain, never = share > 1 - 1e-9, share < 1e-9
    open_to = ~certain & ~never
    n_open = top_k - int(certain.sum())
    expected = np.where(certain[:, None], share[None, :], 0.0)
    expected = np.maximum(expected, expected.T)
    if open_to.any():
        odds = _odds(share[open_to], n_open)
        expected[np.ix_(open_to, open_to)] = _joint(odds, n_open)
    np.fill_diagonal(expected, share)
    return expected


def _odds(share: Float[np.ndarray, "experts"], size: int) -> Float[np.ndarray, "experts"]:
    """Odds under which each expert is in a set of `size` with probability `share`."""
    target = share / (1 - share)
    odds = target.copy()
    for _ in range(ROUNDS):
        others = _sums(odds, ~np.eye(len(odds), dtype=bool), size)
        inside = odds * others[:, size - 1]
        reached = inside / (inside + others[:, size])
        if np.abs(reached - share).max() < 1e-11:
            return np.asarray(odds)
        # Half of the way, in logarithms: the whole step goes to and fro for ever where one of two
        # experts is left to choose.
        odds = np.sqrt(odds * target * others[:, size] / others[:, size - 1])
        odds /= np.exp(np.log(odds).mean())  # the scale is free; this keeps sums in range
    raise ValueError(
        f"no odds give the shares after {ROUNDS} steps; the closest are "
        f"{np.abs(reached - share).max():.1e} away, so check that share is a share of tokens"
    )


def _joint(odds: Float[np.ndarray, "experts"], size: int) -> Float[np.ndarray, "experts experts"]:
    """Probability that both of two experts are in a set of `size`; 0 on the diagonal."""
    n_experts = len(odds)
    joint = np.zeros((n_experts, n_experts))
    if size < 2:
        return joint
    first, second = np.triu_indices(n_experts, 1)
    everyone = np.ones((1, n_experts), dtype=bool)
    allowed = np.ones((len(first), n_experts), dtype=bool)
    allowed[np.arange(len(first)), first] = allowed[np.arange(len(first)), second] = False
    without = _sums(odds, allowed, size - 2)[:, size - 2]
    total = float(_sums(odds, everyone, size)[0, -1])
    joint[first, second] = odds[first] * odds[second] * without / total
    return np.asarray(joint + joint.T)


def _sums(
    odds: Float[np.ndarray, "experts"], allowed: Bool[np.ndarray, "rows experts"], size: int
) -> Float[np.ndarray, "rows sizes"]:
    """Sum over sets of 0 to `size` allowed experts of the product of their odds."""
    sums: Float[np.ndarray, "rows sizes"] = np.zeros((len(allowed), size + 1))
    sums[:, 0] = 1.0
    for expert, value in enumerate(odds):
        sums[:, 1:] += value * allowed[:, expert, None] * sums[:, :-1]
    return sums


def _association(
    together: Float[np.ndarray, "layers experts experts"],
    share: Float[np.ndarray, "layers experts"],
    expected: Float[np.ndarray, "layers experts experts"],
) -> Float[np.ndarray, "layers experts experts"]:
    most = np.minimum(share[:, :, None], share[:, None, :])
    least = np.maximum(share[:, :, None] + share[:, None, :] - 1, 0.0)
    excess = together - expected
    room = np.where(excess >= 0, most - expected, expected - least)
    room[:, np.eye(room.shape[1], dtype=bool)] = np.nan
    scaled = excess / np.where(room > 1e-9, room, np.nan)
    return np.asarray(np.clip(scaled, -1.0, 1.0))


def _top_k(alone: Int[np.ndarray, "layers experts"], n_tokens: int) -> int:
    slots = alone.sum(axis=1)
    if n_tokens < 1 or (slots % n_tokens).any() or len(np.unique(slots)) > 1:
        raise ValueError(
            f"n_tokens is {n_tokens}, but the layers have {sorted(set(slots.tolist()))} routed "
            "slots, expected top_k times n_tokens in each; give the tokens behind counts"
        )
    if slots[0] == n_tokens:
        raise ValueError("a token has one expert, so no two serve it; co-activation needs top_k 2")
    return int(slots[0]) // n_tokens
