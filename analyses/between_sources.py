"""Do benchmark and organic differ more than one source differs from the next?

Permutational analysis of variance of prompts' usage, with prompts in sources in conditions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from interp.analyses.nested_variance import centroid_distances, nested_squares, nested_test
from interp.analyses.routed_tokens import Prompts, RoutedTokens
from interp.analyses.usage import check_layers, slots_by_prompt
from interp.analyses.usage_distances import Metric, distance_sums


@dataclass(frozen=True, kw_only=True)
class BetweenSources:
    """Condition against source in the variation of usage. See docs/sources.md.

    Rows are the layers and then all layers together, whose squared distance is the mean of theirs.
    """

    layer: Float[np.ndarray, "rows"]
    """Number of the layer in the model; NaN for all layers together."""
    pseudo_f: Float[np.ndarray, "rows"]
    """Mean square of condition over mean square between sources; from 0, about 1 where conditions
    differ as sources do."""
    p_value: Float[np.ndarray, "rows"]
    """Share of the labellings of whole sources with a pseudo-F as large; not corrected."""
    p_max: Float[np.ndarray, "rows"]
    """The same with the largest pseudo-F over layers: corrected for their number. For all layers
    together it is `p_value`."""
    share_of_condition: Float[np.ndarray, "rows"]
    """Share of the sum of squares that is between conditions; the three shares sum to 1."""
    share_of_source: Float[np.ndarray, "rows"]
    """Share that is between sources of a condition."""
    share_of_prompt: Float[np.ndarray, "rows"]
    """Share that is within sources."""
    sources: tuple[str, ...]
    """Names of the sources, in alphabetical order."""
    is_benchmark: Bool[np.ndarray, "sources"]
    """Condition of each source."""
    n_prompts: Int[np.ndarray, "sources"]
    """Prompts of each source that have tokens."""
    median_tokens: Float[np.ndarray, "sources"]
    """Median number of tokens of a prompt of each source: beware of short ones."""
    source_distance: Float[np.ndarray, "rows sources sources"]
    """Squared distance of two sources' centroids, free of the noise of their prompts: in bits for
    Jensen-Shannon; slightly below 0 by chance; NaN for a source of one prompt."""
    smallest_p: float
    """The smallest `p_value` that these sources could have given at all."""
    n_labellings: int
    """Labellings that the sources allow."""
    n_tried: int
    """Labellings that were tried: all, or as many as were drawn."""
    reason: str
    """Why there is no pseudo-F; empty where there is one."""

    def to_frame(self) -> pd.DataFrame:
        """One row per layer and one for all, with the mean distances of three kinds of pairs."""
        return pd.DataFrame(
            {
                "layer": self.layer,
                "pseudo_f": self.pseudo_f,
                "p_value": self.p_value,
                "p_max": self.p_max,
                "smallest_p": self.smallest_p,
                "share_of_condition": self.share_of_condition,
                "share_of_source": self.share_of_source,
                "share_of_prompt": self.share_of_prompt,
                **self.mean_distances(),
                "n_sources_benchmark": int(self.is_benchmark.sum()),
                "n_sources_organic": int((~self.is_benchmark).sum()),
                "reason": self.reason,
            }
        )

    def mean_distances(self) -> dict[str, Float[np.ndarray, "rows"]]:
        """Mean squared distance of sources across and within conditions, and the excess of it.

        `excess = across - (within_benchmark + within_organic) / 2` is the squared distance of the
        conditions themselves, free of the noise of sources; 0 where conditions are like sources.
        """
        first, second = np.triu_indices(len(self.sources), 1)
        distance = self.source_distance[:, first, second]
        kinds = self.is_benchmark[first].astype(int) + self.is_benchmark[second]
        across, organic, benchmark = (_mean(distance[:, kinds == kind]) for kind in (1, 0, 2))
        return {
            "across_conditions": across,
            "within_benchmark": benchmark,
            "within_organic": organic,
            "excess": across - (benchmark + organic) / 2,
        }

    def pairs_frame(self) -> pd.DataFrame:
        """One row per layer and pair of sources: "MMLU differs from GPQA" beside the rest."""
        first, second = np.triu_indices(len(self.sources), 1)
        names = np.array(self.sources, dtype=object)
        distance = self.source_distance[:, first, second]
        same = self.is_benchmark[first] == self.is_benchmark[second]
        return pd.DataFrame(
            {
                "layer": np.repeat(self.layer, len(first)),
                "source": np.tile(names[first], len(distance)),
                "other_source": np.tile(names[second], len(distance)),
                "same_condition": np.tile(same, len(distance)),
                "distance": distance.ravel(),
                "median_tokens": np.tile(self.median_tokens[first], len(distance)),
                "other_median_tokens": np.tile(self.median_tokens[second], len(distance)),
            }
        )


def between_source_variation(
    tokens: RoutedTokens,
    prompts: Prompts,
    *,
    rng: np.random.Generator,
    metric: Metric = "jensen_shannon",
    n_permutations: int = 9999,
) -> BetweenSources:
    """Condition against source in the variation of prompts' usage, per layer and over all.

    Anderson 2001 (A new method for non-parametric multivariate analysis of variance, Austral
    Ecology 26): sums of squares come from squared distances between prompts,
    `SS(set) = sum of d^2 over its pairs / its size`. Prompts are nested in sources, and sources in
    conditions, and sources are what a claim about conditions must hold beyond. So
    `F = (SS_condition / 1) / (SS_source / (sources - 2))`, the mean square between sources in
    the denominator, not the one between prompts; and labels are given to whole sources anew, all
    ways of it up to 20,000, else `n_permutations` drawn. The largest F over layers gives `p_max`.
    With sources of unequal size the expected F is not 1 under the null; the labellings are the
    yardstick, and they hold if the size of a source has nothing to do with its condition.

    Args:
        tokens: Routed tokens.
        prompts: Condition and source of each prompt; prompts without tokens play no part.
        rng: Source of chance for labellings that are drawn.
        metric: Squared distance of two prompts' usages. Under the first two a source of short
            prompts lies apart for that alone; below some 50 tokens use `euclidean`.
        n_permutations: Labellings to draw where there are too many to try all.

    Returns:
        Statistics by layer, and distances of all pairs of sources on the scale of `metric`.

    Raises:
        ValueError: If all prompts have one condition, or a source has prompts of both.
    """
    slots = slots_by_prompt(
        tokens.expert_indices,
        prompt_index=tokens.prompt_index,
        n_prompts=len(prompts.benchmark),
        n_experts=tokens.n_experts,
    )
    return source_variation_of_slots(
        slots,
        prompts,
        top_k=tokens.expert_indices.shape[2],
        layer_indices=tokens.layer_indices,
        rng=rng,
        metric=metric,
        n_permutations=n_permutations,
    )


def source_variation_of_slots(
    slots: Int[np.ndarray, "prompts layers experts"],
    prompts: Prompts,
    *,
    top_k: int,
    layer_indices: Sequence[int],
    rng: np.random.Generator,
    metric: Metric = "jensen_shannon",
    n_permutations: int = 9999,
) -> BetweenSources:
    """The same from the slots of each prompt (`slots_by_prompt`), whose parts can be concatenated.

    Args:
        slots: Routed slots by prompt; prompts without any play no part.
        prompts: Condition and source of each prompt.
        top_k: Slots of a token.
        layer_indices: Number in the model of each layer.
        rng: Source of chance for labellings that are drawn.
        metric: Squared distance of two prompts' usages.
        n_permutations: Labellings to draw where there are too many to try all.

    Raises:
        ValueError: As `between_source_variation`, or if a layer number is missing.
    """
    check_layers(layer_indices, slots.shape[1])
    n_slots = slots.sum(axis=2, keepdims=True)
    kept = n_slots[:, 0, 0] > 0
    names, index = np.unique(prompts.source[kept].astype(str), return_inverse=True)
    is_benchmark = condition_of_sources(prompts.benchmark[kept], index, names)
    usage = slots[kept] / n_slots[kept]
    sums = distance_sums(usage, source_index=index, n_sources=len(names), metric=metric)
    sums = np.concatenate([sums, sums.mean(axis=0, keepdims=True)])
    n_prompts = np.bincount(index)
    squares = nested_squares(sums, n_prompts, is_benchmark[None])[:, :, 0]
    shares = squares / np.where(squares.sum(axis=0) > 1e-20, squares.sum(axis=0), np.nan)
    test = nested_test(
        sums, n_prompts, is_benchmark=is_benchmark, rng=rng, n_permutations=n_permutations
    )
    return BetweenSources(
        layer=np.array([*layer_indices, np.nan], dtype=float),
        share_of_condition=shares[0],
        share_of_source=shares[1],
        share_of_prompt=shares[2],
        sources=tuple(names.tolist()),
        is_benchmark=is_benchmark,
        n_prompts=n_prompts,
        median_tokens=_median_by(n_slots[kept, 0, 0] / top_k, index),
        source_distance=centroid_distances(sums, n_prompts),
        **vars(test),
    )


def condition_of_sources(
    benchmark: Bool[np.ndarray, "prompts"],
    source_index: Int[np.ndarray, "prompts"],
    names: np.ndarray,
) -> Bool[np.ndarray, "sources"]:
    """Condition of each source.

    Raises:
        ValueError: If all prompts have one condition, or a source has prompts of both.
    """
    n_benchmark = np.bincount(source_index[benchmark], minlength=len(names))
    n_organic = np.bincount(source_index[~benchmark], minlength=len(names))
    both = np.flatnonzero((n_benchmark > 0) & (n_organic > 0))
    if len(both):
        raise ValueError(
            f"source {str(names[both[0]])!r} has prompts of both conditions, so sources are not "
            "nested in conditions; compare its items or templates instead"
        )
    if not n_benchmark.any() or not n_organic.any():
        raise ValueError(
            f"all {len(benchmark)} prompts have the same condition; give prompts of both"
        )
    return np.asarray(n_benchmark > 0)


def _median_by(
    value: Float[np.ndarray, "prompts"], source_index: Int[np.ndarray, "prompts"]
) -> Float[np.ndarray, "sources"]:
    kinds = np.unique(source_index)
    return np.array([float(np.median(value[source_index == each])) for each in kinds])


def _mean(distance: Float[np.ndarray, "rows pairs"]) -> Float[np.ndarray, "rows"]:
    if not distance.shape[1]:
        return np.full(len(distance), np.nan)
    return np.asarray(distance.mean(axis=1))
