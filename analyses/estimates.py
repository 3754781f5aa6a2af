"""Raw and matched divergence with bias correction, interval and null, from summed slots."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Integer
from scipy.special import entr

from interp.analyses.matching import Matched
from interp.analyses.permutation import LeftOut, flipped_signs, permutation_p_value, permuted_labels

BATCH = 25
"""Draws computed at once; bounds the memory, has no effect on the result."""


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


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A divergence by layer, in bits, with what says how sure it is. All NaN if undefined."""

    bits: Float[np.ndarray, "layers"]
    """Plug-in value: biased upward, 0 to 1."""
    corrected_bits: Float[np.ndarray, "layers"]
    """Less its bias, by the jackknife over clusters; can be a little below 0."""
    low_bits: Float[np.ndarray, "layers"]
    """Lower end of the 95 % interval of the corrected value, at least 0."""
    high_bits: Float[np.ndarray, "layers"]
    """Upper end."""
    null: Float[np.ndarray, "draws layers"]
    """The plug-in value where nothing but chance makes a difference."""
    replicates: Float[np.ndarray, "replicates layers"] | None
    """The plug-in value with some clusters left out; None where none can be."""

    @property
    def null_bits(self) -> Float[np.ndarray, "layers"]:
        """Mean of the null."""
        return np.asarray(self.null.mean(axis=0))

    @property
    def null_high_bits(self) -> Float[np.ndarray, "layers"]:
        """95 % quantile of the null."""
        return np.asarray(np.quantile(self.null, 0.95, axis=0))

    @property
    def p_value(self) -> Float[np.ndarray, "layers"]:
        """Share of the null that is as large; not corrected for many layers."""
        return permutation_p_value(self.bits, self.null)


def _estimate(
    bits: Float[np.ndarray, "layers"],
    null: Float[np.ndarray, "draws layers"],
    replicates: Float[np.ndarray, "replicates layers"] | None,
    left_out: LeftOut | None,
) -> Estimate:
    corrected = low = high = np.full_like(bits, np.nan)
    if left_out is not None and replicates is not None:
        corrected, low, high = left_out.corrected(bits, replicates)
    return Estimate(
        bits=bits,
        corrected_bits=corrected,
        low_bits=np.clip(low, 0.0, 1.0),
        high_bits=np.clip(high, 0.0, 1.0),
        null=null,
        replicates=replicates,
    )


def raw_estimate(
    by_row: Integer[np.ndarray, "rows layers experts"],
    *,
    left_out: LeftOut | None,
    rng: np.random.Generator,
    n_permutations: int,
    progress: Callable[[int], None] | None = None,
) -> Estimate:
    """Divergence of the usages of all tokens; null: labels permuted by cluster.

    Args:
        by_row: Slots of the organic and the benchmark tokens of each cluster in turn.
        left_out: Clusters of each replicate.
        rng: Source of chance.
        n_permutations: Labellings to draw.
        progress: Called after each batch with the number of permutations in it.
    """
    present = reduce(by_row, "rows layers experts -> rows", "sum") > 0
    row = np.flatnonzero(present)
    slots = by_row[present].astype(np.float64)
    benchmark = row % 2 == 1
    labels = permuted_labels(benchmark, row // 2, rng=rng, n_permutations=n_permutations)
    null = []
    for start in range(0, n_permutations, BATCH):
        batch = labels[start : start + BATCH]
        null.append(_raw_bits(slots, batch, ~batch))
        if progress is not None:
            progress(len(batch))
    replicates = None
    if left_out is not None:
        of_row = left_out.replicate[row // 2]
        kept = of_row != np.arange(len(left_out.stratum))[:, None]
        replicates = _raw_bits(slots, kept & benchmark, kept & ~benchmark)
    bits = _raw_bits(slots, benchmark[None], ~benchmark[None])[0]
    return _estimate(bits, np.concatenate(null), replicates, left_out)


def _raw_bits(
    slots: Float[np.ndarray, "rows layers experts"],
    a: Bool[np.ndarray, "draws rows"],
    b: Bool[np.ndarray, "draws rows"],
) -> Float[np.ndarray, "draws layers"]:
    """Divergence of the pooled rows of a and b."""
    pooled = (np.tensordot(side.astype(np.float64), slots, axes=1) for side in (a, b))
    return jensen_shannon_bits(*(each / each.sum(axis=-1, keepdims=True) for each in pooled))


def matched_estimate(
    matched: Matched,
    *,
    left_out: LeftOut | None,
    rng: np.random.Generator,
    n_permutations: int,
) -> Estimate:
    """Divergence of the matched usages; null: signs of the clusters' contributions flipped.

    Labels must not be permuted here: relabelled prompts share more vocabulary than real ones do,
    so the real comparison is noisier than that null. The token weights stay as they are instead;
    each cluster's contribution `c_g` to benchmark - organic gets a random sign, and the divergence
    is that of `(a + b) / 2 +- sum_g sign_g c_g / 2` (negative shares are cut off at 0).

    Args:
        matched: Usages and contributions.
        left_out: Clusters of each replicate, as `matched` has them.
        rng: Source of chance.
        n_permutations: Flips to draw.
    """
    organic, benchmark = matched.usage
    n_layers = organic.shape[0]
    if matched.overlap == 0:
        nan = np.full(n_layers, np.nan)
        return _estimate(nan, np.tile(nan, (n_permutations, 1)), None, None)
    middle = (organic + benchmark) / 2
    signs = flipped_signs(len(matched.contribution), rng=rng, n_flips=n_permutations)
    null = []
    for start in range(0, n_permutations, BATCH):
        half = np.tensordot(signs[start : start + BATCH], matched.contribution, axes=1) / 2
        null.append(jensen_shannon_bits(_cut_off(middle + half), _cut_off(middle - half)))
    replicates = None
    if matched.replicates is not None and matched.replicate_overlap is not None:
        sides = rearrange(matched.replicates, "replicates side ... -> side replicates ...")
        replicates = jensen_shannon_bits(*np.maximum(sides, 0.0))
        replicates[matched.replicate_overlap == 0] = np.nan
    bits = jensen_shannon_bits(benchmark, organic)
    return _estimate(bits, np.concatenate(null), replicates, left_out)


def _cut_off(usage: Float[np.ndarray, "*of experts"]) -> Float[np.ndarray, "*of experts"]:
    positive = np.maximum(usage, 0.0)
    return np.asarray(positive / positive.sum(axis=-1, keepdims=True))
