"""Divergence matched on more than the token: what came before it, and where it stands."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Int, Integer, Shaped

from interp.analyses.divergence import Divergence, usage_divergence
from interp.analyses.routed_tokens import Prompts, RoutedTokens

KEYS = ("token", "previous_and_token", "position_bin", "position_bin_and_token")
"""What tokens can be matched on."""
BITS = 32
"""Token ids are below 2 to this."""


@dataclass(frozen=True, kw_only=True)
class MatchedOn:
    """Divergence matched on one key after the other, from the same tokens."""

    by_key: dict[str, Divergence] = field(repr=False)
    """By name of the key; in each, `token_matched_*` and `overlap` are those of that key."""

    def to_frame(self) -> pd.DataFrame:
        """One row per key and layer; `token_matched_*` is named `matched_*` here."""
        frames = [
            each.to_frame().assign(matched_on=name).set_index("matched_on").reset_index()
            for name, each in self.by_key.items()
        ]
        joined = pd.concat(frames, ignore_index=True)
        return joined.rename(columns=lambda name: name.replace("token_matched_", "matched_"))


def divergence_matched_on(
    tokens: RoutedTokens,
    prompts: Prompts,
    *,
    cluster: Shaped[np.ndarray, "prompts"],
    rng: np.random.Generator,
    n_permutations: int = 200,
    keys: tuple[str, ...] = KEYS,
) -> MatchedOn:
    """`usage_divergence` matched on each of several keys: token, previous token, position.

    The finer the key, the less of the surface is left in the matched divergence, and the smaller
    the overlap that it speaks of. What is left over is what the key does not explain among the
    tokens that can be matched, not among all.

    Args:
        tokens: What was routed where.
        prompts: What each prompt is.
        cluster: Item, source or template of each prompt.
        rng: Source of chance; each key starts from the same state, so raw columns agree.
        n_permutations: Labellings, and flips, to draw.
        keys: Some of `KEYS`.

    Raises:
        ValueError: As `usage_divergence`, or if a key is unknown.
    """
    seed = int(rng.integers(2**63))
    found = {
        name: usage_divergence(
            tokens.expert_indices,
            benchmark=prompts.benchmark,
            token_id=match_key(
                name,
                token_id=tokens.token_id,
                previous_token_id=tokens.previous_token_id,
                position=tokens.position,
            ),
            prompt_index=tokens.prompt_index,
            cluster=cluster,
            n_experts=tokens.n_experts,
            layer_indices=tokens.layer_indices,
            rng=np.random.default_rng(seed),
            n_permutations=n_permutations,
        )
        for name in keys
    }
    return MatchedOn(by_key=found)


def match_key(
    name: str,
    *,
    token_id: Integer[np.ndarray, "tokens"],
    previous_token_id: Integer[np.ndarray, "tokens"],
    position: Integer[np.ndarray, "tokens"],
) -> Int[np.ndarray, "tokens"]:
    """One integer for each token; tokens are matched where it is the same.

    Positions go in bins that double: 0, 1 to 2, 3 to 6, 7 to 14 and so on.

    Args:
        name: One of `KEYS`.
        token_id: Vocabulary id.
        previous_token_id: Id of the token before; -1 for the first of a sequence.
        position: Position in its sequence, from 0.

    Raises:
        ValueError: If the name is unknown.

    Example:
        >>> zero = np.zeros(8, dtype=int)
        >>> match_key("position_bin", token_id=zero, previous_token_id=zero, position=np.arange(8))
        array([0, 1, 1, 2, 2, 2, 2, 3])
    """
    position_bin = np.frexp(position.astype(np.float64) + 1)[1].astype(np.int64) - 1
    token = token_id.astype(np.int64)
    if name == "token":
        return token
    if name == "previous_and_token":
        return ((previous_token_id.astype(np.int64) + 1) << BITS) + token
    if name == "position_bin":
        return position_bin
    if name == "position_bin_and_token":
        return (position_bin << BITS) + token
    raise ValueError(f"the key to match on is {name!r}, expected one of {', '.join(KEYS)}")
