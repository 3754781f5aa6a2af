"""Does it hold on sources never seen? One source of each condition is held out, over all pairs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from einops import rearrange
from jaxtyping import Float, Integer, Shaped

from interp.analyses.paired_auroc import auroc, mean_interval
from interp.analyses.probe_splits import Splits
from interp.analyses.routed_tokens import Prompts


@dataclass(frozen=True, kw_only=True)
class SourcePair:
    """A split: one benchmark and one organic source held out together."""

    benchmark_source: str
    """Held-out source of benchmark prompts."""
    organic_source: str
    """Held-out source of organic prompts."""
    held_out: Integer[np.ndarray, "held_out"]
    """Prompts of the two sources."""
    fitted: Integer[np.ndarray, "fitted"]
    """Prompts of all other sources, but for those that share an item with a held-out one."""


@dataclass(frozen=True, kw_only=True)
class SourcePairAuroc:
    """AUROC on sources never seen, pair by pair. See docs/sources.md."""

    auroc: float
    """Mean over pairs of sources; 0 to 1, 0.5 is chance; NaN where `reason` says why."""
    auroc_low: float
    """Lower end of the 95 % interval over sources; NaN where there is none."""
    auroc_high: float
    """Upper end."""
    benchmark_sources: tuple[str, ...]
    """Sources of benchmark prompts, in alphabetical order."""
    organic_sources: tuple[str, ...]
    """Sources of organic prompts, in alphabetical order."""
    auroc_of_pair: Float[np.ndarray, "benchmark_sources organic_sources"]
    """AUROC among the prompts of the two held-out sources."""
    degrees_of_freedom: float
    """Of the interval, after Satterthwaite; few sources give few."""
    reason: str
    """Why there is no AUROC; empty where there is one."""

    def to_frame(self) -> pd.DataFrame:
        """One row per pair of held-out sources; the mean and its interval are repeated."""
        n_organic = len(self.organic_sources)
        return pd.DataFrame(
            {
                "benchmark_source": np.repeat(
                    np.array(self.benchmark_sources, dtype=object), n_organic
                ),
                "organic_source": np.tile(
                    np.array(self.organic_sources, dtype=object), len(self.benchmark_sources)
                ),
                "auroc_of_pair": self.auroc_of_pair.ravel(),
                "auroc": self.auroc,
                "auroc_low": self.auroc_low,
                "auroc_high": self.auroc_high,
            }
        )


def held_out_source_pairs(prompts: Prompts) -> Iterator[SourcePair]:
    """Splits that hold out one source of each condition together, over all pairs.

    Held out alone, a source has prompts of one condition and no AUROC; and its scores cannot be
    pooled with those of another fold, whose probe has another zero.

    Args:
        prompts: Condition, source and item of each prompt.

    Yields:
        One split per pair, benchmark sources outermost, both in alphabetical order.

    Raises:
        ValueError: With the sentence of `why_no_source_pairs`.

    Example:
        >>> prompts = Prompts(
        ...     benchmark=np.array([True, True, False, False]),
        ...     source=np.array(["mmlu", "gpqa", "mail", "chat"]),
        ...     item=np.arange(4),
        ...     template=np.array([""] * 4),
        ... )
        >>> [(of.benchmark_source, of.organic_source) for of in held_out_source_pairs(prompts)]
        [('gpqa', 'chat'), ('gpqa', 'mail'), ('mmlu', 'chat'), ('mmlu', 'mail')]
    """
    reason = why_no_source_pairs(prompts)
    if reason:
        raise ValueError(reason)
    return _pairs(prompts)


def why_no_source_pairs(prompts: Prompts) -> str:
    """Why sources cannot be held out, in one sentence; empty if they can.

    A probe needs a source of each condition to learn from and one to be asked about.
    """
    benchmark, organic = _sources(prompts)
    both = sorted(set(benchmark) & set(organic))
    if both:
        return (
            f"source {both[0]!r} has prompts of both conditions, so holding it out tells nothing "
            "of the condition apart from the source; hold out its templates or items instead"
        )
    for name, sources in (("benchmark", benchmark), ("organic", organic)):
        if len(sources) < 2:
            found = f"source {sources[0]!r} is all of" if sources else "no source is of"
            return (
                f"{found} condition {name}, so none is left to learn from once it is held out; "
                "give at least 2 sources of each condition"
            )
    return _item_trouble(prompts)


def source_pair_splits(prompts: Prompts) -> Splits:
    """The splits of `held_out_source_pairs` as masks, in the same order, for a sweep of probes.

    Raises:
        ValueError: With the sentence of `why_no_source_pairs`.
    """
    pairs = list(held_out_source_pairs(prompts))
    everyone = np.arange(len(prompts.benchmark))
    return Splits(
        fitted=np.stack([np.isin(everyone, pair.fitted) for pair in pairs]),
        held_out=np.stack([np.isin(everyone, pair.held_out) for pair in pairs]),
    )


def auroc_over_source_pairs(
    score_held_out: Callable[[SourcePair], Float[np.ndarray, "held_out"]], *, prompts: Prompts
) -> SourcePairAuroc:
    """AUROC on unseen sources: per pair of sources, then averaged, never pooled.

    Args:
        score_held_out: Given a split, fits on `fitted` and gives a score to each prompt of
            `held_out`, higher for benchmark. Called once per pair.
        prompts: Condition, source and item of each prompt.

    Returns:
        As `over_source_pairs`; where sources cannot be held out, NaN and the reason.

    Raises:
        ValueError: If a score is not finite or their number is not that of the held-out prompts.
    """
    reason = why_no_source_pairs(prompts)
    if reason:
        return _nothing(reason, prompts)
    of_pair = []
    for pair in _pairs(prompts):
        score = score_held_out(pair)
        _check_scores(score, pair)
        of_pair.append(auroc(score, target=prompts.benchmark[pair.held_out]))
    return over_source_pairs(np.array(of_pair), prompts=prompts)


def over_source_pairs(
    auroc_of_pair: Float[np.ndarray, "pairs"], *, prompts: Prompts
) -> SourcePairAuroc:
    """Mean of the AUROCs of all pairs of sources, with an interval over sources.

    Every pair of sources counts the same, whatever its prompts. The AUROC of a pair shares its
    benchmark source with a row of others and its organic source with a column, so with row means
    `r_i` and column means `c_j` the variance of the grand mean is
    `var(r) / n_rows + var(c) / n_columns`: the form of DeLong, DeLong and Clarke-Pearson 1988
    (Comparing the areas under two or more correlated receiver operating characteristic curves),
    with sources for patients (ours). It counts what is peculiar to a pair twice, so it is rather
    too wide. Quantiles are of t with Satterthwaite's degrees of freedom, cut off at 0 and 1.

    Args:
        auroc_of_pair: In the order of `held_out_source_pairs`.
        prompts: Condition, source and item of each prompt.

    Raises:
        ValueError: If sources cannot be held out, or there is not one AUROC for each pair.
    """
    reason = why_no_source_pairs(prompts)
    if reason:
        raise ValueError(reason)
    benchmark, organic = _sources(prompts)
    if len(auroc_of_pair) != len(benchmark) * len(organic):
        raise ValueError(
            f"auroc_of_pair has {len(auroc_of_pair)} entries, but there are {len(benchmark)} x "
            f"{len(organic)} pairs of sources; give one for each"
        )
    of_pair = rearrange(auroc_of_pair, "(rows columns) -> rows columns", columns=len(organic))
    low, high, freedom = mean_interval(of_pair)
    return SourcePairAuroc(
        auroc=float(of_pair.mean()),
        auroc_low=max(0.0, low),
        auroc_high=min(1.0, high),
        benchmark_sources=benchmark,
        organic_sources=organic,
        auroc_of_pair=of_pair,
        degrees_of_freedom=freedom,
        reason="",
    )


def auroc_gain_interval(
    first: SourcePairAuroc, second: SourcePairAuroc
) -> tuple[float, float, float]:
    """How much higher the first AUROC is than the second on the same sources, with its interval.

    Taken pair by pair, so what makes a source easy for both cancels.

    Returns:
        Gain from -1 to 1, and the ends of its 95 % interval; as for `auroc_over_source_pairs`.

    Raises:
        ValueError: If the two were not made from the same sources.
    """
    one, other = ((of.benchmark_sources, of.organic_sources) for of in (first, second))
    if one != other:
        raise ValueError(
            f"first has the sources {one}, but second has {other}; give two AUROCs of the same "
            "prompts"
        )
    gain = first.auroc_of_pair - second.auroc_of_pair
    low, high, _ = mean_interval(gain)
    return float(gain.mean()), max(-1.0, low), min(1.0, high)


def _sources(prompts: Prompts) -> tuple[tuple[str, ...], tuple[str, ...]]:
    source = prompts.source.astype(str)
    return (
        tuple(np.unique(source[prompts.benchmark]).tolist()),
        tuple(np.unique(source[~prompts.benchmark]).tolist()),
    )


def _pairs(prompts: Prompts) -> Iterator[SourcePair]:
    source = prompts.source.astype(str)
    for benchmark_source, organic_source in _product(prompts):
        held_out = (source == benchmark_source) | (source == organic_source)
        fitted = ~held_out & ~np.isin(prompts.item, prompts.item[held_out])
        yield SourcePair(
            benchmark_source=benchmark_source,
            organic_source=organic_source,
            held_out=np.flatnonzero(held_out),
            fitted=np.flatnonzero(fitted),
        )


def _product(prompts: Prompts) -> list[tuple[str, str]]:
    benchmark, organic = _sources(prompts)
    return [(one, other) for one in benchmark for other in organic]


def _item_trouble(prompts: Prompts) -> str:
    for pair in _pairs(prompts):
        left = prompts.benchmark[pair.fitted]
        if left.all() or not left.any():
            return (
                f"with sources {pair.benchmark_source!r} and {pair.organic_source!r} and all "
                "prompts that share an item with them held out, a condition has none left to "
                "learn from; give sources with items of their own"
            )
    return ""


def _nothing(reason: str, prompts: Prompts) -> SourcePairAuroc:
    benchmark, organic = _sources(prompts)
    nan = float("nan")
    return SourcePairAuroc(
        auroc=nan,
        auroc_low=nan,
        auroc_high=nan,
        benchmark_sources=benchmark,
        organic_sources=organic,
        auroc_of_pair=np.full((len(benchmark), len(organic)), nan),
        degrees_of_freedom=nan,
        reason=reason,
    )


def _check_scores(score: Shaped[np.ndarray, "..."], pair: SourcePair) -> None:
    if score.shape != pair.held_out.shape or not np.isfinite(score).all():
        raise ValueError(
            f"score_held_out gave {score.shape} scores, {int((~np.isfinite(score)).sum())} of "
            f"them not finite, for {len(pair.held_out)} held-out prompts; give one number each"
        )
