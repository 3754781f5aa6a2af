"""What the descriptive measures of a study are computed from, put together once."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, Shaped

from interp.analyses.routed_tokens import Prompts, RoutedTokens
from interp.cache.errors import StoreError
from interp.cache.records import CONDITIONS, SEGMENTS
from interp.cache.views import Routing
from interp.compared import COMPARED, Compared
from interp.study_experts import prompts_of, routed_tokens
from interp.token_kinds import KINDS, token_kinds

PROMPTS_OF_A_GROUP = 5
"""Domains or sources with fewer prompts are in no table by group: their experts are chance."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """Routed tokens of the compared prompts, and what the prompts and tokens are."""

    of: Compared
    """The prompts and tokens themselves: of both conditions, or of what the store has."""
    seed: int
    """Seed of shuffles and permutations."""
    n_permutations: int
    """Relabellings behind a null."""

    @cached_property
    def tokens(self) -> RoutedTokens:
        """The tokens with their experts."""
        return routed_tokens(self.of)

    @cached_property
    def prompts(self) -> Prompts:
        """What each prompt is."""
        return prompts_of(self.of)

    @cached_property
    def routing(self) -> Routing:
        """Weights, and logits and norms where they are stored, of these tokens."""
        whole, token = self.of.store.router(), self.of.token
        names = ("expert_indices", "expert_weights", "router_logits", "expert_output_norms")
        found = {name: getattr(whole, name) for name in names}
        kept: dict[str, Any] = {
            name: None if each is None else each[token] for name, each in found.items()
        }
        return Routing(layer_indices=whole.layer_indices, **kept)

    @cached_property
    def is_pair(self) -> bool:
        """Whether there are prompts of both conditions."""
        return set(COMPARED) <= set(self.of.condition)

    @cached_property
    def groups(self) -> tuple[str, Shaped[np.ndarray, "prompts"]]:
        """What the prompts are grouped by, and the group of each; empty for one of too few.

        Domains where at least two have enough prompts, else sources; empty where neither has.
        """
        for over in ("domain", "source"):
            names = self.of.table[over].to_numpy(dtype=str)
            found, place, count = np.unique(names, return_inverse=True, return_counts=True)
            enough = (count >= PROMPTS_OF_A_GROUP) & (found != "")
            if enough.sum() >= 2:
                return over, np.where(enough[place], names, "")
        return "", np.full(len(self.of.prompt), "", dtype=str)

    @cached_property
    def segments(self) -> Int[np.ndarray, "tokens"]:
        """Segment of each token, as a place in `SEGMENTS`."""
        return np.asarray(self.of.store.segment[self.of.token].astype(np.int64))

    @cached_property
    def kinds(self) -> Int[np.ndarray, "tokens"] | None:
        """Class of each token's text, as a place in `KINDS`; None where texts are not known."""
        try:
            return token_kinds(self.of.store, self.of.token)
        except StoreError:
            return None

    def classes(self) -> dict[str, tuple[Int[np.ndarray, "tokens"], tuple[str, ...]]]:
        """Ways to put tokens in classes: the class of each token, and the names of classes."""
        found: dict[str, Any] = {}
        found["segment"] = self.segments, SEGMENTS
        if self.kinds is not None:
            found["token_class"] = self.kinds, KINDS
        return found

    def by_condition(self) -> Iterator[tuple[str, Bool[np.ndarray, "prompts"]]]:
        """Each condition that is there, with its prompts."""
        for name in CONDITIONS:
            chosen = self.of.condition == name
            if chosen.any():
                yield name, chosen

    def tokens_among(self, prompts: Bool[np.ndarray, "prompts"]) -> RoutedTokens:
        """The tokens of some of the prompts, which keep their numbers.

        Raises:
            ValueError: If none is left.
        """
        kept = prompts[self.tokens.prompt_index]
        names = ("expert_indices", "token_id", "previous_token_id", "position", "logprob")
        chosen: dict[str, Any] = {
            name: getattr(self.tokens, name)[kept] for name in (*names, "prompt_index")
        }
        return replace(self.tokens, **chosen)


def best_rows(
    table: pd.DataFrame, column: str, *, by: list[str], n: int, absolute: bool = False
) -> pd.DataFrame:
    """The rows of each group with the `n` largest values of a column, in the order of the groups.

    Rows without a value are left out; of equal values the earlier row goes first.
    """
    known = table[table[column].notna()]
    size = known[column].abs() if absolute else known[column]
    ranked = known.loc[size.sort_values(ascending=False, kind="stable").index]
    return ranked.groupby(by, sort=False).head(n).sort_values(by, kind="stable", ignore_index=True)
