"""Routed tokens in parts: what every statistic that streams goes over, as often as it needs."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from interp.analyses.routed_tokens import RoutedTokens
from interp.analyses.streaming import places

PART_TOKENS = 2**16
"""Tokens of a part of an array in memory; no effect on the result."""
MOST_LOOKED_UP = 2**24
"""Entries up to which pairs of row and id are looked up in an array; above, by bisection."""


@dataclass(frozen=True, kw_only=True)
class TokenPart:
    """Some tokens that follow each other, each with the row it counts to."""

    expert_indices: Integer[np.ndarray, "tokens layers top_k"]
    """Experts chosen, in the layers that were asked for."""
    row: Integer[np.ndarray, "tokens"]
    """Prompt, or any group of tokens, from 0."""
    token_id: Integer[np.ndarray, "tokens"]
    """Vocabulary id."""
    previous_token_id: Integer[np.ndarray, "tokens"]
    """Vocabulary id of the token before it; -1 for the first."""
    position: Integer[np.ndarray, "tokens"]
    """Position in its sequence."""
    logprob: Float[np.ndarray, "tokens"]
    """Log-probability in nats; NaN where it is not known."""

    def rows(self, row_of_row: Integer[np.ndarray, "rows"]) -> "TokenPart":
        """The tokens with their rows numbered anew; those of -1 are left out."""
        row = row_of_row[self.row]
        kept = np.flatnonzero(row >= 0)
        if len(kept) == len(row):
            return replace(self, row=row)
        return TokenPart(**{name: each[kept] for name, each in (vars(self) | {"row": row}).items()})


@dataclass(frozen=True, kw_only=True)
class TokenStream:
    """Tokens that can be gone over from the start again and again, some layers at a time."""

    parts: Callable[[slice], Iterable[TokenPart]]
    """Gives all parts in order, with the experts of these layers."""
    layer_indices: tuple[int, ...]
    """Number in the model of each layer."""
    n_experts: int
    """Experts in a layer."""
    top_k: int
    """Slots of a token in a layer."""

    def rows(self, row_of_row: Integer[np.ndarray, "rows"]) -> "TokenStream":
        """The same tokens with their rows numbered anew; those of -1 are left out."""

        def parts(layers: slice) -> Iterator[TokenPart]:
            for part in self.parts(layers):
                kept = part.rows(row_of_row)
                if len(kept.row):
                    yield kept

        return replace(self, parts=parts)


def stream_of(tokens: RoutedTokens) -> TokenStream:
    """Tokens in memory as a stream; rows are prompts."""
    return stream_of_arrays(
        tokens.expert_indices,
        row=tokens.prompt_index,
        token_id=tokens.token_id,
        previous_token_id=tokens.previous_token_id,
        position=tokens.position,
        logprob=tokens.logprob,
        n_experts=tokens.n_experts,
        layer_indices=tokens.layer_indices,
    )


def stream_of_arrays(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    *,
    n_experts: int,
    layer_indices: tuple[int, ...],
    **fields: Integer[np.ndarray, "tokens"] | Float[np.ndarray, "tokens"],
) -> TokenStream:
    """A stream of arrays in memory, named as in `TokenPart`."""
    n_tokens, _, top_k = expert_indices.shape

    def parts(layers: slice) -> Iterator[TokenPart]:
        for start in range(0, n_tokens, PART_TOKENS):
            of = slice(start, start + PART_TOKENS)
            yield TokenPart(
                expert_indices=expert_indices[of, layers],
                **{name: each[of] for name, each in fields.items()},
            )

    return TokenStream(parts=parts, layer_indices=layer_indices, n_experts=n_experts, top_k=top_k)


@dataclass(frozen=True, kw_only=True)
class CellIndex:
    """The pairs of unit and token id that occur, numbered by unit and then by id."""

    ids: Int[np.ndarray, "ids"]
    """Token ids, rising."""
    unit: Int[np.ndarray, "cells"]
    """Unit of each cell, rising."""
    token: Int[np.ndarray, "cells"]
    """Place in `ids` of each cell's token id, rising within a unit."""
    n_tokens: Int[np.ndarray, "cells"]
    """Tokens of each cell, at least 1."""

    def of(self, part: TokenPart) -> Int[np.ndarray, "tokens"]:
        """Cell of each token, whose row is its unit."""
        place, _ = places(self.ids, part.token_id)
        n_ids = len(self.ids)
        cell = np.searchsorted(self.unit * n_ids + self.token, part.row * n_ids + place)
        return np.asarray(cell)

    def finder(self) -> "Callable[[TokenPart], Int[np.ndarray, ' tokens']]":
        """`of`, by arrays where these are small enough."""
        n_ids, n_units = len(self.ids), int(self.unit.max(initial=-1)) + 1
        least, most = int(self.ids.min(initial=0)), int(self.ids.max(initial=0))
        if max(most - least, n_ids * n_units) >= MOST_LOOKED_UP:
            return self.of
        place = np.zeros(most - least + 1, dtype=np.int64)
        place[self.ids - least] = np.arange(n_ids)
        cell = np.zeros(n_ids * n_units, dtype=np.int32)
        cell[self.unit * n_ids + self.token] = np.arange(len(self.unit))
        return lambda part: np.asarray(
            cell[part.row * n_ids + place[part.token_id - least]], dtype=np.int64
        )


def in_both(label: Bool[np.ndarray, "units"], cells: CellIndex) -> Bool[np.ndarray, "cells"]:
    """Cells of the ids that occur under both conditions."""
    n_ids = len(cells.ids)
    has = [np.bincount(cells.token[label[cells.unit] == side], minlength=n_ids) for side in (0, 1)]
    return np.asarray(((has[0] > 0) & (has[1] > 0))[cells.token])
