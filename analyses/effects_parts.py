"""Parts of the effects of experts: what each prompt counts to, and the sums of every effect."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from interp.analyses.cells import (
    ClusterSums,
    ColumnSums,
    column_sums,
    joined,
    row_contrast,
    shared_contrast,
)
from interp.analyses.cells_contrast import Units, number_units
from interp.analyses.confirmation import Confirmation, confirm, discovery_half, nothing_confirmed
from interp.analyses.routed_tokens import Prompts, RoutedTokens
from interp.analyses.slot_tables import cell_index, slot_tables
from interp.analyses.surface import SurfaceAdjustment, streamed_surface, surface_adjusted_sums
from interp.analyses.token_stream import TokenStream


@dataclass(frozen=True, kw_only=True)
class EffectSums:
    """Sums of every effect, columns are (layer, expert)."""

    raw: ClusterSums
    """Tokens pooled."""
    prompt_mean: ClusterSums
    """Means over prompts."""
    token_adjusted: ClusterSums
    """At the same token id."""
    surface: SurfaceAdjustment
    """At the same surface."""
    active: Int[np.ndarray, "2 columns"]
    """Tokens of organic and of benchmark prompts that activate the expert."""


@dataclass(frozen=True, kw_only=True)
class PromptFields:
    """What each prompt with tokens is; the others play no part."""

    prompts: Prompts
    """All prompts."""
    n_tokens: Int[np.ndarray, "prompts"]
    """Tokens of each."""

    @property
    def has_tokens(self) -> Bool[np.ndarray, "prompts"]:
        """Whether a prompt plays a part."""
        return np.asarray(self.n_tokens > 0)

    def split_by(self, cluster: str) -> Shaped[np.ndarray, "prompts"]:
        """What is kept whole in the halves of the confirmation."""
        prompts = self.prompts
        if cluster != "item":  # never by item: items of one source share what is to be held out
            return np.asarray(getattr(prompts, cluster))
        return prompts.template if prompts.is_paired else prompts.source

    def units(
        self, cluster: Shaped[np.ndarray, "prompts"], among: Bool[np.ndarray, "prompts"]
    ) -> tuple[Units, Int[np.ndarray, "prompts"]]:
        """Units of some prompts, and the unit of each prompt, -1 for none."""
        kept = among & self.has_tokens
        units = number_units(self.prompts.benchmark[kept], cluster[kept])
        unit_of_prompt = np.full(len(kept), -1, dtype=np.int64)
        unit_of_prompt[kept] = units.unit
        return units, unit_of_prompt


def tokens_of_rows(stream: TokenStream, n_rows: int) -> Int[np.ndarray, "rows"]:
    """Tokens of each prompt.

    Raises:
        ValueError: If a token points to no prompt.
    """
    total = np.zeros(n_rows, dtype=np.int64)
    for part in stream.parts(slice(0, 0)):
        if (highest := int(part.row.max())) >= n_rows:
            raise ValueError(
                f"prompt_index holds prompt {highest}, but the prompts are only {n_rows} "
                f"(0 to {n_rows - 1})"
            )
        total += np.bincount(part.row, minlength=n_rows)
    return total


def surface_of_tokens(
    tokens: RoutedTokens,
    benchmark: Bool[np.ndarray, "tokens"],
    cluster: Shaped[np.ndarray, "tokens"],
    rng: np.random.Generator,
) -> SurfaceAdjustment:
    """Surface-adjusted sums of tokens in memory."""
    return surface_adjusted_sums(
        tokens.expert_indices,
        benchmark=benchmark,
        cluster=cluster,
        token_id=tokens.token_id,
        previous_token_id=tokens.previous_token_id,
        position=tokens.position,
        logprob=tokens.logprob,
        n_experts=tokens.n_experts,
        rng=rng,
    )


def surface_of_stream(
    stream: TokenStream,
    of: PromptFields,
    cluster: Shaped[np.ndarray, "prompts"],
    rng: np.random.Generator,
    among: Bool[np.ndarray, "prompts"],
    *,
    table_bytes: int,
) -> SurfaceAdjustment:
    """Surface-adjusted sums of some prompts that know nothing of the others."""
    units, unit_of_prompt = of.units(cluster, among)
    chosen = stream.rows(unit_of_prompt)
    return streamed_surface(chosen, units, cell_index(chosen), rng=rng).adjustment(table_bytes)


def effect_sums(
    stream: TokenStream,
    of: PromptFields,
    cluster: Shaped[np.ndarray, "prompts"],
    *,
    rng: np.random.Generator,
    table_bytes: int,
) -> EffectSums:
    """Sums of every effect of all prompts, from the same passes over the tokens."""
    units, unit_of_prompt = of.units(cluster, of.has_tokens)
    by_unit = stream.rows(unit_of_prompt)
    cells = cell_index(by_unit)
    surface = streamed_surface(by_unit, units, cells, rng=rng)
    shared, by_id = shared_contrast(cells, units)
    rows = np.flatnonzero(of.has_tokens)
    n_tokens = of.n_tokens[rows].astype(float)
    fields = {"benchmark": of.prompts.benchmark[rows], "cluster": cluster[rows]}
    order, pooled = row_contrast(n_tokens, **fields)
    _, alike = row_contrast(np.ones(len(rows)), **fields)
    sides = np.stack([~of.prompts.benchmark, of.prompts.benchmark]).astype(np.int64)
    found: list[tuple[list[ColumnSums], ...]] = []
    active: list[Int[np.ndarray, "2 _"]] = []
    for table in slot_tables(
        stream,
        cells,
        unit_of_row=unit_of_prompt,
        count_rows=True,
        surface=surface.design.slots,
        table_bytes=table_bytes,
    ):
        share = table.rows[rows[order]] / table.top_k
        found.append(
            (
                [column_sums(share, pooled)],
                [column_sums(share / n_tokens[order, None], alike)],
                [column_sums(table.shares(each)[shared], by_id) for each in table.blocks()],
                list(surface.design.columns(table)),
            )
        )
        active.append(sides @ table.rows)
    columns = [
        [each for of_table in kind for each in of_table] for kind in zip(*found, strict=True)
    ]
    return EffectSums(
        raw=joined(columns[0], pooled),
        prompt_mean=joined(columns[1], alike),
        token_adjusted=joined(columns[2], by_id),
        surface=surface.of_columns(columns[3]),
        active=np.concatenate(active, axis=1),
    )


def activation_contrasts(
    active: Int[np.ndarray, "2 columns"], n_tokens: Int[np.ndarray, "2"]
) -> tuple[Float[np.ndarray, "columns"], Float[np.ndarray, "columns"]]:
    """Log odds ratio and risk difference of a token activating each expert, benchmark to organic.

    Args:
        active: Tokens of organic and of benchmark prompts that activate the expert.
        n_tokens: All tokens of either.
    """
    missing = (n_tokens == 0).any()
    risk = active / np.where(n_tokens > 0, n_tokens, np.nan)[:, None]
    log_odds = np.log(active + 0.5) - np.log(n_tokens[:, None] - active + 0.5)
    ratio = np.where(missing, np.nan, log_odds[1] - log_odds[0])
    return ratio, risk[1] - risk[0]


def confirmation_of(
    stream: TokenStream,
    of: PromptFields,
    cluster: str,
    rng: np.random.Generator,
    *,
    table_bytes: int,
) -> Confirmation:
    """Surface-adjusted effects of either half, each residualised without the other."""
    split_by, rows = of.split_by(cluster), np.flatnonzero(of.has_tokens)
    found, reason = discovery_half(of.prompts.benchmark[rows], split_by[rows], rng=rng)
    if reason:
        return nothing_confirmed(len(stream.layer_indices) * stream.n_experts, reason)
    half = np.zeros(len(of.n_tokens), dtype=bool)
    half[rows] = found
    sides = [
        surface_of_stream(stream, of, split_by, rng, among, table_bytes=table_bytes)
        for among in (half, ~half)
    ]
    return confirm(sides[0].sums, sides[1].sums)
