"""What analyses are given: the routed tokens of some prompts, and what each prompt is."""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped

from interp.analyses.usage import check_layers, check_routing


@dataclass(frozen=True, kw_only=True)
class RoutedTokens:
    """Tokens with the experts that were chosen for them, of one prompt after the other.

    Raises:
        ValueError: If there is no token, lengths differ, or an index is out of range.
    """

    expert_indices: Integer[np.ndarray, "tokens layers top_k"]
    """Experts chosen, in any order within a token."""
    token_id: Integer[np.ndarray, "tokens"]
    """Vocabulary id."""
    previous_token_id: Integer[np.ndarray, "tokens"]
    """Vocabulary id of the token before it in its sequence; -1 for the first."""
    position: Integer[np.ndarray, "tokens"]
    """Position in its sequence."""
    logprob: Float[np.ndarray, "tokens"]
    """Log-probability in nats; NaN where it is not known."""
    prompt_index: Integer[np.ndarray, "tokens"]
    """Which prompt each token belongs to, as in `Prompts`."""
    n_experts: int
    """Experts in a layer."""
    layer_indices: tuple[int, ...]
    """Number in the model of each layer."""

    def __post_init__(self) -> None:
        check_layers(self.layer_indices, self.expert_indices.shape[1])
        check_routing(
            self.expert_indices,
            self.prompt_index,
            n_prompts=int(self.prompt_index.max(initial=0)) + 1,
            n_experts=self.n_experts,
        )
        _check_lengths(self, len(self.expert_indices), "expert_indices has {} tokens", but=2)


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What each prompt is. A test resamples its *clusters*: one of the last three fields.

    Raises:
        ValueError: If there is no prompt, or lengths differ.
    """

    benchmark: Bool[np.ndarray, "prompts"]
    """True for a benchmark prompt, False for an organic one."""
    source: Shaped[np.ndarray, "prompts"]
    """Dataset or suite."""
    item: Shaped[np.ndarray, "prompts"]
    """Shared by the variants of one item."""
    template: Shaped[np.ndarray, "prompts"]
    """What the item was put into; empty for none."""

    def __post_init__(self) -> None:
        if not len(self.benchmark):
            raise ValueError("benchmark has no entry; give one for each prompt, and at least one")
        _check_lengths(self, len(self.benchmark), "benchmark has {} prompts", but=0)

    @property
    def is_paired(self) -> bool:
        """Whether half or more of a condition's prompts are of items that the other has too (ours).

        Not one item: sources that share a single one would be taken for pairs.
        """
        sides = (self.item[self.benchmark], self.item[~self.benchmark])
        shares = [
            np.isin(of, other).mean() if len(of) else 0.0 for of, other in (sides, sides[::-1])
        ]
        return bool(max(shares) >= 0.5)


def _check_lengths(of: object, n: int, sentence: str, *, but: int) -> None:
    """All fields of a dataclass are arrays as long as the first, the last few excepted."""
    names = [field.name for field in fields(of)]  # type: ignore[arg-type]
    for name in names[: len(names) - but]:
        if len(getattr(of, name)) != n:
            found = f"{name} has {len(getattr(of, name))} entries, but {sentence.format(n)}"
            raise ValueError(f"{found}; give one for each")
