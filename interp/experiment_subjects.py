"""What is known of the prompts of an experiment before it begins: routing, usage and norms."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from einops import rearrange
from jaxtyping import Bool, Float, Int, Integer, Shaped

from interp.analyses.jackknife import Jackknife, cluster_jackknife
from interp.analyses.routed_tokens import RoutedTokens
from interp.analyses.saliency import reap_sums
from interp.analyses.super_experts import flag_super_experts, largest_norms
from interp.analyses.surface import surface_adjusted_sums
from interp.analyses.usage import slots_by_prompt
from interp.cache.reader import Store
from interp.compared import COMPARED, compared
from interp.study_experts import routed_tokens

Expert = tuple[int, int]
NO_NORMS = (
    "The store holds no norms of expert outputs, so super experts are not known and random sets "
    "are matched on usage alone; capture with --sites expert_output_norms too."
)


@dataclass(frozen=True, kw_only=True)
class Subjects:
    """The prompts that are compared, in one order for every table of an experiment."""

    prompts: pd.DataFrame
    """Fields of each prompt, as `Store.prompts` has them."""
    row: Int[np.ndarray, "prompts"]
    """Row of each in `Store.prompts`."""
    tokens: RoutedTokens
    """Their tokens without template and instructions, and where these were routed."""
    weighted_norms: Float[np.ndarray, "tokens layers top_k"] | None = None
    """Weight of each chosen expert times the norm of its output; None where not stored."""
    super_experts: Bool[np.ndarray, "layers experts"] | None = None
    """Experts with extreme outputs; None where norms are not stored."""

    @classmethod
    def of_store(cls, store: Store) -> "Subjects":
        """Benchmark and organic prompts of a store.

        Super experts are looked for among all tokens of the store: their extreme outputs are often
        at the first token, which is template.
        """
        pair, routing = compared(store, COMPARED), store.router()
        norms, flagged, products = routing.expert_output_norms, None, None
        if norms is not None:
            n_experts = store.layout.n_experts
            flagged = flag_super_experts(
                largest_norms(routing.expert_indices, norms, n_experts=n_experts)
            )
            products = routing.expert_weights[pair.token].astype(np.float64) * norms[pair.token]
        return cls(
            prompts=pair.table.reset_index(drop=True),
            row=pair.prompt,
            tokens=routed_tokens(pair),
            weighted_norms=products,
            super_experts=flagged,
        )

    def take(
        self, rows: Integer[np.ndarray, "taken"], *, item_id: Shaped[np.ndarray, "taken"]
    ) -> "Subjects":
        """Some of the prompts, in this order; one that is taken twice is two prompts.

        For resampled studies. Give damages in the same order.

        Args:
            rows: Which prompts.
            item_id: Item of each, a new name for each copy of an item.
        """
        ends = np.searchsorted(self.tokens.prompt_index, np.arange(len(self.prompts) + 1))
        token = np.concatenate([np.arange(ends[row], ends[row + 1]) for row in rows])
        of_token = {
            name: getattr(self.tokens, name)[token]
            for name in ("expert_indices", "token_id", "previous_token_id", "position", "logprob")
        }
        index = np.repeat(np.arange(len(rows)), np.diff(ends)[rows])
        norms = None if self.weighted_norms is None else self.weighted_norms[token]
        return replace(
            self,
            prompts=self.prompts.iloc[rows].reset_index(drop=True).assign(item_id=item_id),
            row=self.row[rows],
            tokens=replace(self.tokens, prompt_index=index, **of_token),
            weighted_norms=norms,
        )

    @property
    def layer_indices(self) -> tuple[int, ...]:
        """Numbers of the layers in the model."""
        return self.tokens.layer_indices

    @cached_property
    def slots(self) -> Int[np.ndarray, "prompts layers experts"]:
        """Routed slots of each prompt."""
        return slots_by_prompt(
            self.tokens.expert_indices,
            prompt_index=self.tokens.prompt_index,
            n_prompts=len(self.prompts),
            n_experts=self.tokens.n_experts,
        )

    def usage(self, among: Bool[np.ndarray, "prompts"]) -> Float[np.ndarray, "layers experts"]:
        """Usage of some prompts, tokens pooled."""
        slots = self.slots[among].sum(axis=0).astype(np.float64)
        return np.asarray(slots / slots.sum(axis=-1, keepdims=True))

    def slots_per_token(
        self, experts: Sequence[Expert], *, among: Bool[np.ndarray, "prompts"]
    ) -> float:
        """Slots of a token of some prompts that go to a set of experts, summed over layers."""
        usage, top_k = self.usage(among), self.tokens.expert_indices.shape[2]
        place = {layer: index for index, layer in enumerate(self.layer_indices)}
        return float(sum(float(usage[place[at], expert]) for at, expert in experts) * top_k)

    def usage_effects(
        self,
        first: Bool[np.ndarray, "prompts"],
        *,
        among: Bool[np.ndarray, "prompts"],
        rng: np.random.Generator,
    ) -> Jackknife:
        """Surface-adjusted effect on every expert of being a prompt of the first side, by items.

        Args:
            first: The first side of a contrast.
            among: Prompts to use; the others are not looked at.
            rng: Source of chance, for the folds of the adjustment.
        """
        tokens, item = self.tokens, self.prompts["item_id"].to_numpy(dtype=str)
        kept = among[tokens.prompt_index]
        of = tokens.prompt_index[kept]
        adjusted = surface_adjusted_sums(
            tokens.expert_indices[kept],
            benchmark=first[of],
            cluster=item[of],
            token_id=tokens.token_id[kept],
            previous_token_id=tokens.previous_token_id[kept],
            position=tokens.position[kept],
            logprob=tokens.logprob[kept],
            n_experts=tokens.n_experts,
            rng=rng,
        )
        return cluster_jackknife(adjusted.sums)

    def saliency(
        self, among: Bool[np.ndarray, "prompts"]
    ) -> Float[np.ndarray, "layers experts"] | None:
        """REAP's saliency on some prompts; None without norms."""
        if self.weighted_norms is None:
            return None
        token = among[self.tokens.prompt_index]
        return reap_sums(
            self.tokens.expert_indices[token],
            np.ones_like(self.weighted_norms[token]),
            self.weighted_norms[token],
            n_experts=self.tokens.n_experts,
        ).saliency()

    def named(self, columns: Bool[np.ndarray, "columns"]) -> tuple[Expert, ...]:
        """Layer and expert of some columns."""
        where = np.argwhere(
            rearrange(columns, "(layers experts) -> layers experts", experts=self.tokens.n_experts)
        )
        return tuple((self.layer_indices[layer], int(expert)) for layer, expert in where)
