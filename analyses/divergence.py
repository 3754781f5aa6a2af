"""How far expert usage differs between benchmark and organic tokens, and how much is vocabulary."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from einops import rearrange
from jaxtyping import Bool, Float, Integer, Shaped
from scipy.special import entr

from interp.analyses.matching import TokenRows, gather_rows, matched_usages
from interp.analyses.permutation import permutation_p_value, permuted_labels
from interp.analyses.usage import check_layers, slots_by_prompt

BATCH = 25
"""Permutations computed at once; bounds the memory, has no effect on the result."""


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Divergence of usage between two conditions by layer. See docs/divergence.md."""

    layer: tuple[int, ...]
    """Numbers of the layers in the model."""
    raw_bits: Float[np.ndarray, "layers"]
    """Jensen-Shannon divergence of the two usages, tokens pooled; bits, 0 to 1."""
    raw_null_bits: Float[np.ndarray, "layers"]
    """Mean of the same under permuted labels."""
    raw_null_high_bits: Float[np.ndarray, "layers"]
    """95 % quantile of the same under permuted labels."""
    p_value: Float[np.ndarray, "layers"]
    """Share of labellings whose raw divergence is as large; not corrected for many layers."""
    token_matched_bits: Float[np.ndarray, "layers"]
    """Divergence of the token-matched usages; NaN where the conditions share no token id."""
    token_matched_null_bits: Float[np.ndarray, "layers"]
    """Mean of the same under permuted labels; each labelling is matched anew."""
    overlap: float
    """Share of tokens that can be matched, `sum_t min(a_t, b_t)`; 0 to 1."""
    share_explained_by_vocabulary: Float[np.ndarray, "layers"]
    """1 - matched / raw, each less its null; NaN where raw is not above its null. At most about
    1, below 0 where matching raises the divergence."""
    n_tokens_benchmark: int
    """Tokens of the benchmark prompts."""
    n_tokens_organic: int
    """Tokens of the other prompts."""
    n_units: int
    """Items that have tokens: the unit of the permutations."""
    n_permutations: int
    """Labellings drawn for the null."""

    def to_frame(self) -> pd.DataFrame:
        """One row per layer; what belongs to all layers is repeated."""
        return pd.DataFrame({field.name: getattr(self, field.name) for field in fields(self)})


def usage_divergence(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    *,
    benchmark: Bool[np.ndarray, "prompts"],
    token_id: Integer[np.ndarray, "tokens"],
    prompt_index: Integer[np.ndarray, "tokens"],
    item: Shaped[np.ndarray, "prompts"],
    n_experts: int,
    layer_indices: Sequence[int],
    rng: np.random.Generator,
    n_permutations: int = 200,
    progress: Callable[[int], None] | None = None,
) -> Divergence:
    """Divergence of expert usage between benchmark and organic prompts, beside its null.

    Raw: usages of the tokens of either condition, pooled. Token-matched: let `a_t`, `b_t` be the
    shares of token id t among the tokens of either condition and `w_t = min(a_t, b_t) / overlap`;
    the matched usage of a condition is `sum_t w_t * its usage on tokens with id t` (ours). Null:
    the same numbers under labels permuted by item (`permuted_labels`).

    `benchmark` and `item` are per prompt, everything else per token. To leave prompts out (those
    of condition `mixed`), drop their tokens: prompts to which no token points play no part. Every
    token that is given counts as benchmark or, where `benchmark` is False, as organic.

    Args:
        expert_indices: Experts chosen for each token.
        benchmark: True for a benchmark prompt, False for an organic one.
        token_id: Vocabulary id of each token.
        prompt_index: Which entry of `benchmark` and `item` each token belongs to.
        item: Item of each prompt; prompts that share one are permuted together.
        n_experts: Number of experts in a layer.
        layer_indices: Number in the model of each layer of `expert_indices`.
        rng: Source of chance for the permutations.
        n_permutations: Labellings to draw.
        progress: Called after each batch with the number of permutations in it.

    Returns:
        Divergences in bits, 0 to 1, one per layer.

    Raises:
        ValueError: If a condition has no token, there are fewer than two items, or an index is
            out of range.
    """
    check_layers(layer_indices, expert_indices.shape[1])
    if n_permutations < 1:
        raise ValueError(f"n_permutations is {n_permutations}, expected 1 or more")
    counts = slots_by_prompt(
        expert_indices, prompt_index=prompt_index, n_prompts=len(benchmark), n_experts=n_experts
    )
    present, prompt = np.unique(prompt_index, return_inverse=True)
    counts, observed, unit = counts[present], benchmark[present], item[present]
    labels = permuted_labels(observed, unit, rng=rng, n_permutations=n_permutations)
    n_tokens = np.bincount(prompt)
    rows = gather_rows(expert_indices, token_id=token_id, prompt=prompt, n_experts=n_experts)

    raw, matched, overlap = _divergences(counts, rows, n_tokens, observed[None])
    raw_null, matched_null = _null(counts, rows, n_tokens, labels, progress)
    matched_null_bits = _mean_of_defined(matched_null)
    return Divergence(
        layer=tuple(int(layer) for layer in layer_indices),
        raw_bits=raw[0],
        raw_null_bits=raw_null.mean(axis=0),
        raw_null_high_bits=np.quantile(raw_null, 0.95, axis=0),
        p_value=permutation_p_value(raw[0], raw_null),
        token_matched_bits=matched[0],
        token_matched_null_bits=matched_null_bits,
        overlap=float(overlap[0]),
        share_explained_by_vocabulary=share_explained(
            raw[0] - raw_null.mean(axis=0), matched[0] - matched_null_bits
        ),
        n_tokens_benchmark=int(n_tokens[observed].sum()),
        n_tokens_organic=int(n_tokens[~observed].sum()),
        n_units=len(np.unique(unit)),
        n_permutations=n_permutations,
    )


def jensen_shannon_bits(
    a: Float[np.ndarray, "*of experts"], b: Float[np.ndarray, "*of experts"]
) -> Float[np.ndarray, "*of"]:
    """Jensen-Shannon divergence of two usages: `H((a + b) / 2) - (H(a) + H(b)) / 2`.

    Lin 1991 (doi:10.1109/18.61115), with even weights and logarithms to base 2. The square of
    `scipy.spatial.distance.jensenshannon(a, b, base=2)`.

    Args:
        a: Shares that sum to 1 over experts.
        b: Likewise.

    Returns:
        Bits, from 0 (the same) to 1 (no expert in common).

    Example:
        >>> jensen_shannon_bits(np.array([1.0, 0.0]), np.array([0.0, 1.0])).item()
        1.0
    """
    nats = entr((a + b) / 2) - (entr(a) + entr(b)) / 2
    return np.asarray(np.clip(nats.sum(axis=-1) / np.log(2), 0.0, 1.0))


def share_explained(
    raw_excess: Float[np.ndarray, "layers"], matched_excess: Float[np.ndarray, "layers"]
) -> Float[np.ndarray, "layers"]:
    """`1 - matched / raw`, of divergences less their nulls; NaN where raw is not above its null."""
    above = np.where(raw_excess > 0, raw_excess, np.nan)
    return np.asarray(1.0 - matched_excess / above)


def _null(
    counts: Integer[np.ndarray, "prompts layers experts"],
    rows: TokenRows,
    n_tokens: Integer[np.ndarray, "prompts"],
    labels: Bool[np.ndarray, "permutations prompts"],
    progress: Callable[[int], None] | None,
) -> tuple[Float[np.ndarray, "permutations layers"], Float[np.ndarray, "permutations layers"]]:
    """Raw and token-matched divergence under each permutation."""
    raw, matched = [], []
    for start in range(0, len(labels), BATCH):
        batch = labels[start : start + BATCH]
        batch_raw, batch_matched, _ = _divergences(counts, rows, n_tokens, batch)
        raw.append(batch_raw)
        matched.append(batch_matched)
        if progress is not None:
            progress(len(batch))
    return np.concatenate(raw), np.concatenate(matched)


def _divergences(
    counts: Integer[np.ndarray, "prompts layers experts"],
    rows: TokenRows,
    n_tokens: Integer[np.ndarray, "prompts"],
    labels: Bool[np.ndarray, "labellings prompts"],
) -> tuple[
    Float[np.ndarray, "labellings layers"],
    Float[np.ndarray, "labellings layers"],
    Float[np.ndarray, "labellings"],
]:
    """Raw and token-matched divergence, and overlap, under each labelling."""
    raw = jensen_shannon_bits(_pooled(counts, labels), _pooled(counts, ~labels))
    *usages, overlap = matched_usages(rows, n_tokens, labels)
    split = "(layers experts) labellings -> labellings layers experts"
    a, b = (rearrange(usage, split, layers=counts.shape[1]) for usage in usages)
    matched = jensen_shannon_bits(a, b)
    matched[overlap == 0] = np.nan  # nothing to compare: not the same as no difference
    return raw, matched, overlap


def _pooled(
    counts: Integer[np.ndarray, "prompts layers experts"],
    members: Bool[np.ndarray, "labellings prompts"],
) -> Float[np.ndarray, "labellings layers experts"]:
    slots = np.tensordot(members.astype(np.float64), counts.astype(np.float64), axes=1)
    return np.asarray(slots / slots.sum(axis=-1, keepdims=True))


def _mean_of_defined(null: Float[np.ndarray, "permutations layers"]) -> Float[np.ndarray, "layers"]:
    defined = ~np.isnan(null[:, 0])
    return null[defined].mean(axis=0) if defined.any() else np.full(null.shape[1], np.nan)
