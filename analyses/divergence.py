"""How far expert usage differs between benchmark and organic tokens, and how much is vocabulary."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped

from interp.analyses.divergence_result import Divergence, reasons, share_explained
from interp.analyses.estimates import (
    Estimate,
    jensen_shannon_bits,
    matched_estimate,
    raw_estimate,
)
from interp.analyses.matching import match
from interp.analyses.permutation import delete_groups
from interp.analyses.shared_keys import SharedKeys, token_weights
from interp.analyses.slots import check_layers, check_routing, summed_slots
from interp.analyses.streaming import CellCounts, Parts, RoutedPart, count_cells, count_slots

__all__ = [
    "Divergence",
    "divergence_of_parts",
    "jensen_shannon_bits",
    "point_divergence",
    "usage_divergence",
]

N_REPLICATES = 200
"""Most times that clusters are left out for the jackknife; more clusters go in random groups."""
MOST_KEYS = 2**22
"""Keys below this are counted where they are; larger ones are numbered first, which sorts them."""


def usage_divergence(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    *,
    benchmark: Bool[np.ndarray, "prompts"],
    token_id: Integer[np.ndarray, "tokens"],
    prompt_index: Integer[np.ndarray, "tokens"],
    cluster: Shaped[np.ndarray, "prompts"],
    n_experts: int,
    layer_indices: Sequence[int],
    rng: np.random.Generator,
    n_permutations: int = 200,
    progress: Callable[[int], None] | None = None,
) -> Divergence:
    """Divergence of expert usage between benchmark and organic prompts, beside its null.

    Raw: usages of the tokens of either condition, pooled. Token-matched: let `a_t`, `b_t` be the
    shares of token id t among the tokens of either condition and `w_t = min(a_t, b_t) / overlap`;
    the matched usage of a condition is `sum_t w_t * its usage on tokens with id t` (ours). Null of
    the raw one: labels permuted by cluster (`permuted_labels`); of the matched one: signs of the
    clusters' contributions flipped (`matched_estimate`).

    `benchmark` and `cluster` are per prompt, everything else per token. To leave prompts out (those
    of condition `mixed`), drop their tokens: prompts to which no token points play no part. Every
    token that is given counts as benchmark or, where `benchmark` is False, as organic.

    Args:
        expert_indices: Experts chosen for each token.
        benchmark: True for a benchmark prompt, False for an organic one.
        token_id: Vocabulary id of each token, or any other key to match by (`matching_keys`).
        prompt_index: Which entry of `benchmark` and `cluster` each token belongs to.
        cluster: Item, source or template of each prompt; what shares one goes together.
        n_experts: Number of experts in a layer.
        layer_indices: Number in the model of each layer of `expert_indices`.
        rng: Source of chance for permutations, flips and random groups of clusters.
        n_permutations: Labellings, and flips, to draw.
        progress: Called after each batch with the number of permutations in it.

    Returns:
        Divergences in bits, 0 to 1, one per layer.

    Raises:
        ValueError: If a condition has no token, there are fewer than two clusters, or an index is
            out of range.

    Example:
        >>> chosen = np.array([0, 0, 1, 1, 0, 1, 1, 1])[:, None, None]
        >>> divergence = usage_divergence(chosen, benchmark=np.arange(4) < 2,
        ...     token_id=np.array([7, 7, 8, 8, 7, 7, 8, 8]), prompt_index=np.arange(8) // 2,
        ...     cluster=np.arange(4), n_experts=2, layer_indices=[0], rng=np.random.default_rng(0))
        >>> divergence.overlap, divergence.raw_bits.round(3).tolist()
        (1.0, [0.049])
    """
    check_layers(layer_indices, expert_indices.shape[1])
    check_routing(expert_indices, prompt_index, n_prompts=len(benchmark), n_experts=n_experts)
    used = np.unique(prompt_index)
    _, number = np.unique(cluster[used], return_inverse=True)
    row_of_prompt = np.zeros(len(benchmark), dtype=np.int64)
    row_of_prompt[used] = 2 * number + benchmark[used]
    part = RoutedPart(
        expert_indices=expert_indices,
        row=row_of_prompt[prompt_index],
        key=token_id.astype(np.int64),
    )
    return divergence_of_parts(
        lambda: [part],
        n_clusters=int(number.max()) + 1,
        n_experts=n_experts,
        layer_indices=layer_indices,
        rng=rng,
        n_permutations=n_permutations,
        progress=progress,
    )


def point_divergence(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    *,
    benchmark: Bool[np.ndarray, "tokens"],
    key: Integer[np.ndarray, "tokens"],
    n_experts: int,
) -> tuple[Float[np.ndarray, "layers"], float]:
    """Token-matched divergence without null or interval, and the overlap: one pass, quick.

    Args:
        expert_indices: Experts chosen for each token.
        benchmark: True for a token of a benchmark prompt.
        key: What tokens are matched by, such as the token id.
        n_experts: Number of experts in a layer.

    Returns:
        Bits by layer (NaN where no key is shared), and the overlap.
    """
    _check_conditions(int(benchmark.sum()), int((~benchmark).sum()))
    place = key.astype(np.int64)
    if place.min() < 0 or place.max() >= MOST_KEYS:
        _, place = np.unique(key, return_inverse=True)
    cell = 2 * place + benchmark
    n_tokens = np.bincount(cell, minlength=2 * (int(place.max()) + 1)).reshape(-1, 2).astype(float)
    weight, overlap = token_weights(n_tokens, n_tokens.sum(axis=0))
    usage = summed_slots(
        expert_indices,
        row=benchmark.astype(np.int64),
        n_rows=2,
        n_experts=n_experts,
        weight=weight.ravel()[cell] / expert_indices.shape[2],
    )
    undefined = np.full(expert_indices.shape[1], np.nan)
    return jensen_shannon_bits(*usage) if overlap > 0 else undefined, float(overlap)


def divergence_of_parts(
    parts: Parts,
    *,
    n_clusters: int,
    n_experts: int,
    layer_indices: Sequence[int],
    rng: np.random.Generator,
    n_permutations: int = 200,
    progress: Callable[[int], None] | None = None,
    cells: CellCounts | None = None,
) -> Divergence:
    """`usage_divergence` of tokens that come part by part; they are gone over three times.

    The memory does not grow with the tokens, only with `(clusters + shared keys) * layers *
    experts` and with the pairs of cluster and key that occur. See `store_divergence`.

    Args:
        parts: The tokens, from the start at each call.
        n_clusters: Numbers of clusters are below this; one without tokens plays no part.
        n_experts: Number of experts in a layer.
        layer_indices: Number in the model of each layer of the parts.
        rng: Source of chance.
        n_permutations: Labellings, and flips, to draw.
        progress: Called after each batch with the number of permutations in it.
        cells: `count_cells(parts)`, where it is known already.

    Raises:
        ValueError: If a condition has no token, there are fewer than two clusters, or
            `n_permutations` is below 1.
    """
    if n_permutations < 1:
        raise ValueError(f"n_permutations is {n_permutations}, expected 1 or more")
    cells = count_cells(parts) if cells is None else cells
    shared = SharedKeys.of(cells, n_rows=2 * n_clusters)
    organic, benchmark = shared.row_tokens.reshape(-1, 2).T
    _check_conditions(int(benchmark.sum()), int(organic.sum()))
    slots = count_slots(
        parts,
        shared.keys,
        n_rows=2 * n_clusters,
        n_layers=len(layer_indices),
        n_experts=n_experts,
    )
    top_k = int(slots.by_row[:, 0].sum() // shared.row_tokens.sum())
    left_out = delete_groups(benchmark, organic, rng=rng, n_replicates=N_REPLICATES)
    settings: dict[str, Any] = {
        "left_out": left_out,
        "rng": rng,
        "n_permutations": n_permutations,
    }
    raw = raw_estimate(slots.by_row, progress=progress, **settings)
    matched = match(parts, shared, slots, left_out=left_out, top_k=top_k)
    token_matched = matched_estimate(matched, **settings)
    share, low, high = share_explained(raw, token_matched, left_out)
    return Divergence(
        layer=tuple(int(layer) for layer in layer_indices),
        **_columns("raw", raw),
        p_value=raw.p_value,
        **_columns("token_matched", token_matched),
        token_matched_p_value=token_matched.p_value,
        overlap=matched.overlap,
        share_explained_by_vocabulary=share,
        share_explained_low=low,
        share_explained_high=high,
        n_tokens_benchmark=int(benchmark.sum()),
        n_tokens_organic=int(organic.sum()),
        n_clusters=int(((benchmark + organic) > 0).sum()),
        n_permutations=n_permutations,
        absent=reasons(
            benchmark,
            organic,
            matched.overlap,
            share,
            np.where(np.isnan(share), token_matched.low_bits, low),
        ),
    )


def _columns(name: str, estimate: Estimate) -> dict[str, Float[np.ndarray, "layers"]]:
    kinds = ("bits", "corrected_bits", "low_bits", "high_bits", "null_bits", "null_high_bits")
    return {f"{name}_{kind}": getattr(estimate, kind) for kind in kinds}


def _check_conditions(n_benchmark: int, n_organic: int) -> None:
    if not n_benchmark or not n_organic:
        raise ValueError(
            f"{n_benchmark} benchmark and {n_organic} organic tokens were given; give tokens of "
            "both conditions"
        )
