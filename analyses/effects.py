"""Does the condition change which experts are used? Every expert of every layer, three ways."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.analyses.cells import ClusterSums
from interp.analyses.confirmation import Confirmation
from interp.analyses.effects_parts import (
    PromptFields,
    activation_contrasts,
    confirmation_of,
    effect_sums,
    tokens_of_rows,
)
from interp.analyses.jackknife import Jackknife, cluster_jackknife, q_values
from interp.analyses.relabelling import MaxT, max_t_test
from interp.analyses.routed_tokens import Prompts, RoutedTokens
from interp.analyses.slot_tables import TABLE_BYTES
from interp.analyses.surface import SurfaceAdjustment
from interp.analyses.token_stream import TokenStream, stream_of

LEVEL = 0.9
"""Level of the intervals in the table: two one-sided tests at 5 % (Schuirmann 1987)."""


@dataclass(frozen=True, kw_only=True)
class TestedEffect:
    """One kind of effect on every column (layer, expert), with everything that tests it."""

    __test__ = False  # not a test, whatever pytest thinks of the name

    jackknife: Jackknife
    """Effects, standard errors, intervals of any level, p-values of single columns."""
    max_t: MaxT
    """Resampled test of all columns at once."""
    q_bh: Float[np.ndarray, "columns"]
    """Benjamini and Hochberg's q of the jackknife p-values, over all layers and experts."""

    @property
    def effect(self) -> Float[np.ndarray, "columns"]:
        """Difference in the share of routed slots, benchmark less organic."""
        return self.jackknife.effect


@dataclass(frozen=True, kw_only=True)
class ExpertEffects:
    """Effect of the condition on every expert of every layer. See docs/effects.md.

    Columns of the parts are (layer, expert), all experts of the first layer first.
    """

    layer_indices: tuple[int, ...]
    """Numbers of the layers in the model."""
    n_experts: int
    """Experts in a layer."""
    cluster: str
    """What was resampled: `source`, `item` or `template`."""
    n_clusters: int
    """Clusters that have tokens."""
    raw: TestedEffect
    """Usage under benchmark less usage under organic, tokens pooled: long prompts weigh more."""
    raw_prompt_mean: TestedEffect
    """The same of the means over prompts of the usage within each: every prompt weighs alike."""
    token_adjusted: TestedEffect
    """The difference at the same token id."""
    surface_adjusted: TestedEffect
    """The difference at the same token, neighbour, position and log-probability."""
    log_odds_ratio: Float[np.ndarray, "columns"]
    """Log of the odds that a benchmark token activates the expert over those of an organic one,
    tokens pooled, each count plus 1/2 (Haldane 1956, Anscombe 1956); nats."""
    risk_difference: Float[np.ndarray, "columns"]
    """Share of benchmark tokens that activate the expert less that of organic ones: the RD of
    SteerMoE (Fayyaz et al. 2025, arXiv:2509.09660), `top_k` times the raw effect; -1 to 1."""
    confirmation: Confirmation
    """Columns whose surface-adjusted effect was found in one half and held in the other."""
    adjusted_for: tuple[str, ...]
    """What the surface was."""
    notes: tuple[str, ...]
    """What could not be done and what must not be trusted, one sentence each."""

    def to_frame(self) -> pd.DataFrame:
        """One row per layer and expert, intervals of 90 % (for each expert by itself).

        `effect`, `log_odds_ratio` and `risk_difference` pool tokens; `_prompt_mean` does not.
        `p_max_t` and `q_bh` are those of the token-adjusted effect.
        """
        low_high = {
            name: tested.jackknife.interval(LEVEL)
            for name, tested in (
                ("raw", self.raw),
                ("prompt_mean", self.raw_prompt_mean),
                ("adjusted", self.token_adjusted),
                ("surface", self.surface_adjusted),
            )
        }
        return pd.DataFrame(
            {
                "layer": np.repeat(self.layer_indices, self.n_experts),
                "expert": np.tile(np.arange(self.n_experts), len(self.layer_indices)),
                "effect": self.raw.effect,
                "effect_low": low_high["raw"][0],
                "effect_high": low_high["raw"][1],
                "raw_p_max_t": self.raw.max_t.p_max_t,
                "raw_q_bh": self.raw.q_bh,
                "effect_prompt_mean": self.raw_prompt_mean.effect,
                "effect_low_prompt_mean": low_high["prompt_mean"][0],
                "effect_high_prompt_mean": low_high["prompt_mean"][1],
                "raw_p_max_t_prompt_mean": self.raw_prompt_mean.max_t.p_max_t,
                "adjusted_effect": self.token_adjusted.effect,
                "adjusted_low": low_high["adjusted"][0],
                "adjusted_high": low_high["adjusted"][1],
                "p_max_t": self.token_adjusted.max_t.p_max_t,
                "q_bh": self.token_adjusted.q_bh,
                "surface_adjusted_effect": self.surface_adjusted.effect,
                "surface_adjusted_low": low_high["surface"][0],
                "surface_adjusted_high": low_high["surface"][1],
                "surface_adjusted_p_max_t": self.surface_adjusted.max_t.p_max_t,
                "surface_adjusted_q_bh": self.surface_adjusted.q_bh,
                "log_odds_ratio": self.log_odds_ratio,
                "risk_difference": self.risk_difference,
                "is_confirmed": self.confirmation.is_confirmed,
            }
        )


def expert_effects(
    tokens: RoutedTokens,
    prompts: Prompts,
    *,
    cluster: Literal["source", "item", "template"],
    rng: np.random.Generator,
    n_resamples: int = 10_000,
    confirmation: Confirmation | None = None,
) -> ExpertEffects:
    """Effect of the condition on every expert: raw, token-adjusted and surface-adjusted.

    Formulas: `token_adjusted_sums`, `surface_adjusted_sums`, `max_t_test`, `cluster_jackknife`,
    `confirm`. To leave prompts out (those of condition `mixed`), drop their tokens. The halves for
    the confirmation are split by source, or by template where items have both conditions, and
    clustered by what they are split by.

    Args:
        tokens: Routed tokens, of prompts only: what the model writes comes after the treatment.
        prompts: What each prompt is.
        cluster: What is resampled. Sources that are not those of interest are the safe choice;
            items where each has both conditions; for paired suites report the larger p of items
            and templates.
        rng: Source of chance.
        n_resamples: Resamples of each max-T test, where not all can be computed.
        confirmation: That of another kind of cluster with the same halves, so that they are drawn
            once; drawn here if None.

    Returns:
        Effects as shares of routed slots. What cannot be computed is NaN, with a sentence in
        `notes`; no study stops here for want of clusters.

    Raises:
        ValueError: If `cluster` is another word, a token points to no prompt, or `n_resamples` is
            below 1.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> prompt_index = np.repeat(np.arange(20), 30)
        >>> tokens = RoutedTokens(
        ...     expert_indices=rng.integers(0, 4, (600, 1, 1)), token_id=rng.integers(0, 9, 600),
        ...     previous_token_id=rng.integers(0, 9, 600), position=np.tile(np.arange(30), 20),
        ...     logprob=np.full(600, np.nan), prompt_index=prompt_index, n_experts=4,
        ...     layer_indices=(0,),
        ... )
        >>> prompts = Prompts(
        ...     benchmark=np.arange(20) < 10, source=np.arange(20) // 2, item=np.arange(20),
        ...     template=np.full(20, ""),
        ... )
        >>> effects = expert_effects(tokens, prompts, cluster="source", rng=rng)
        >>> effects.surface_adjusted.max_t.recipe, effects.adjusted_for
        ('relabelled', ('token', 'previous_token', 'position'))
        >>> effects.to_frame().shape
        (4, 24)
    """
    _check(cluster, n_resamples)
    return streamed_expert_effects(
        stream_of(tokens),
        prompts,
        cluster=cluster,
        rng=rng,
        n_resamples=n_resamples,
        confirmation=confirmation,
    )


def streamed_expert_effects(
    stream: TokenStream,
    prompts: Prompts,
    *,
    cluster: Literal["source", "item", "template"],
    rng: np.random.Generator,
    n_resamples: int = 10_000,
    table_bytes: int = TABLE_BYTES,
    confirmation: Confirmation | None = None,
) -> ExpertEffects:
    """`expert_effects` of tokens that come in parts, with the same result for any parts.

    Memory does not grow with the tokens once no new pairs of cluster, token id and previous token
    turn up; docs/effects.md says what it is made of. Passes over the tokens: about 17 that read no
    experts, and as many as the counts of all layers are larger than `table_bytes`, three times.

    Args:
        stream: The tokens; rows are prompts.
        prompts: As there.
        cluster: As there.
        rng: As there.
        n_resamples: As there.
        table_bytes: Memory for the counts of slots that are held at once.
        confirmation: As there.

    Returns:
        As `expert_effects`.

    Raises:
        ValueError: As `expert_effects`.
    """
    _check(cluster, n_resamples)
    of = PromptFields(prompts=prompts, n_tokens=tokens_of_rows(stream, len(prompts.benchmark)))
    sums = effect_sums(stream, of, getattr(prompts, cluster), rng=rng, table_bytes=table_bytes)
    every_sums = (sums.raw, sums.prompt_mean, sums.token_adjusted, sums.surface.sums)
    tested = [_tested(each, rng, n_resamples) for each in every_sums]
    sides = np.array([of.n_tokens[prompts.benchmark == side].sum() for side in (False, True)])
    odds, risk = activation_contrasts(sums.active, sides)
    if confirmation is None:
        confirmation = confirmation_of(stream, of, cluster, rng, table_bytes=table_bytes)
    return ExpertEffects(
        layer_indices=stream.layer_indices,
        n_experts=stream.n_experts,
        cluster=cluster,
        n_clusters=len(sums.raw.square),
        raw=tested[0],
        raw_prompt_mean=tested[1],
        token_adjusted=tested[2],
        surface_adjusted=tested[3],
        log_odds_ratio=odds,
        risk_difference=risk,
        confirmation=confirmation,
        adjusted_for=sums.surface.adjusted_for,
        notes=_notes(tested, sums.surface, confirmation),
    )


def _check(cluster: str, n_resamples: int) -> None:
    if cluster not in ("source", "item", "template"):
        raise ValueError(f"cluster is {cluster!r}, expected 'source', 'item' or 'template'")
    if n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples}, expected 1 or more")


def _tested(sums: ClusterSums, rng: np.random.Generator, n_resamples: int) -> TestedEffect:
    jackknife = cluster_jackknife(sums)
    return TestedEffect(
        jackknife=jackknife,
        max_t=max_t_test(sums, rng=rng, n_resamples=n_resamples),
        q_bh=q_values(jackknife.p_value),
    )


def _notes(
    tested: list[TestedEffect], surface: SurfaceAdjustment, confirmation: Confirmation
) -> tuple[str, ...]:
    names = ("raw", "prompt mean", "token-adjusted", "surface-adjusted")
    of_sentence: dict[str, list[str]] = {}
    for name, effect in zip(names, tested, strict=True):
        for sentence in (effect.max_t.insufficient, effect.max_t.warning):
            of_sentence.setdefault(sentence, []).append(name)
    notes = [f"{', '.join(of)}: {sentence}" for sentence, of in of_sentence.items() if sentence]
    confirmed = [f"confirmation: {confirmation.insufficient}"] if confirmation.insufficient else []
    return (*notes, *surface.left_out, *confirmed)
