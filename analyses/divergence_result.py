"""What is said of a divergence: the numbers by layer, the share explained, and why some are NaN."""

from dataclasses import dataclass, field, fields

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.analyses.estimates import Estimate
from interp.analyses.permutation import LeftOut

NO_OVERLAP = (
    "The benchmark and the organic tokens share no token, so nothing can be matched: the matched "
    "divergence and the share explained are not defined."
)
NO_SHARE = (
    "In {n} of {layers} layers the raw divergence is not above the 95 % quantile of its null, so "
    "no share explained by vocabulary is given."
)
NO_INTERVAL = (
    "Only one cluster has {condition} tokens, so it cannot be left out: there is no bias "
    "correction and no interval; give at least 2 clusters (prompts, items or sources) of each "
    "condition."
)
FRAIL = (
    "Without some of the clusters the conditions share no token or do not differ, so the matched "
    "divergence or the share explained has no interval; give more clusters."
)


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Divergence of usage between two conditions by layer. See docs/divergence.md."""

    layer: tuple[int, ...]
    """Numbers of the layers in the model."""
    raw_bits: Float[np.ndarray, "layers"]
    """Jensen-Shannon divergence of the two usages, tokens pooled; bits, 0 to 1, biased upward."""
    raw_corrected_bits: Float[np.ndarray, "layers"]
    """The same less its bias, by the jackknife over clusters."""
    raw_low_bits: Float[np.ndarray, "layers"]
    """Lower end of its 95 % interval, by the same jackknife."""
    raw_high_bits: Float[np.ndarray, "layers"]
    """Upper end."""
    raw_null_bits: Float[np.ndarray, "layers"]
    """Mean of `raw_bits` under labels permuted by cluster."""
    raw_null_high_bits: Float[np.ndarray, "layers"]
    """95 % quantile of the same."""
    p_value: Float[np.ndarray, "layers"]
    """Share of labellings whose raw divergence is as large; not corrected for many layers."""
    token_matched_bits: Float[np.ndarray, "layers"]
    """Divergence of the token-matched usages; NaN where the conditions share no token id."""
    token_matched_corrected_bits: Float[np.ndarray, "layers"]
    """The same less its bias, by the jackknife over clusters."""
    token_matched_low_bits: Float[np.ndarray, "layers"]
    """Lower end of its 95 % interval."""
    token_matched_high_bits: Float[np.ndarray, "layers"]
    """Upper end."""
    token_matched_null_bits: Float[np.ndarray, "layers"]
    """Mean of `token_matched_bits` under flipped signs of the clusters' contributions."""
    token_matched_null_high_bits: Float[np.ndarray, "layers"]
    """95 % quantile of the same."""
    token_matched_p_value: Float[np.ndarray, "layers"]
    """Share of flips whose divergence is as large; not corrected for many layers."""
    overlap: float
    """Share of tokens that can be matched, `sum_t min(a_t, b_t)`; 0 to 1."""
    share_explained_by_vocabulary: Float[np.ndarray, "layers"]
    """1 - matched / raw, each less its null; NaN unless raw is above `raw_null_high_bits`. At most
    about 1, below 0 where matching raises the divergence."""
    share_explained_low: Float[np.ndarray, "layers"]
    """Lower end of its 95 % interval, by the jackknife with both nulls held."""
    share_explained_high: Float[np.ndarray, "layers"]
    """Upper end."""
    n_tokens_benchmark: int
    """Tokens of the benchmark prompts."""
    n_tokens_organic: int
    """Tokens of the other prompts."""
    n_clusters: int
    """Clusters that have tokens: what is permuted, flipped and left out whole."""
    n_permutations: int
    """Labellings, and flips, drawn for the nulls."""
    absent: dict[str, str] = field(default_factory=dict)
    """Why columns are NaN, as sentences, by what is missing: `matched`, `interval`, `share`."""

    def to_frame(self) -> pd.DataFrame:
        """One row per layer; what belongs to all layers is repeated. `absent` is left out."""
        names = [each.name for each in fields(self) if each.name != "absent"]
        return pd.DataFrame({name: getattr(self, name) for name in names})


def share_explained(
    raw: Estimate, matched: Estimate, left_out: LeftOut | None
) -> tuple[Float[np.ndarray, "layers"], Float[np.ndarray, "layers"], Float[np.ndarray, "layers"]]:
    """`1 - matched / raw`, each less its null, with the jackknife's 95 % interval.

    NaN where raw is not above the 95 % quantile of its null: a ratio of two noises says nothing.
    """
    above = np.where(raw.bits > raw.null_high_bits, 1.0, np.nan)
    share = above * _share(raw.bits, matched.bits, raw, matched)
    low = high = np.full_like(share, np.nan)
    if left_out is not None and raw.replicates is not None and matched.replicates is not None:
        replicates = _share(raw.replicates, matched.replicates, raw, matched)
        _, low, high = left_out.corrected(share, replicates)
        reach = (high - low) / 2  # the nulls have taken the bias away already
        low, high = share - reach, share + reach
    return share, low, high


def _share(
    raw_bits: Float[np.ndarray, "*of layers"],
    matched_bits: Float[np.ndarray, "*of layers"],
    raw: Estimate,
    matched: Estimate,
) -> Float[np.ndarray, "*of layers"]:
    excess = raw_bits - raw.null_bits
    over = np.full_like(excess, np.nan)
    left = np.divide(matched_bits - matched.null_bits, excess, out=over, where=excess > 0)
    return np.asarray(1.0 - left)


def reasons(
    benchmark: Int[np.ndarray, "clusters"],
    organic: Int[np.ndarray, "clusters"],
    overlap: float,
    share: Float[np.ndarray, "layers"],
    low: Float[np.ndarray, "layers"],
) -> dict[str, str]:
    """A sentence for each thing that is NaN; `low` is of the share, or of the matched divergence
    where there is no share.
    """
    absent = {}
    unexplained = int(np.isnan(share).sum())
    if overlap == 0:
        absent["matched"] = NO_OVERLAP
    elif unexplained:
        absent["share"] = NO_SHARE.format(n=unexplained, layers=len(share))
    counts = {"benchmark": int((benchmark > 0).sum()), "organic": int((organic > 0).sum())}
    condition = min(counts, key=lambda name: counts[name])
    if counts[condition] < 2:
        absent["interval"] = NO_INTERVAL.format(condition=condition)
    elif overlap > 0 and np.isnan(low).any():
        absent["interval"] = FRAIL
    return absent
