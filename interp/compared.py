"""Which tokens and prompts of a store a comparison uses."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, Integer, Shaped

from interp.cache.errors import InputError
from interp.cache.reader import Store
from interp.cache.records import SEGMENTS

COMPARED = ("benchmark", "organic")
LEFT_OUT = ("template", "system", "developer")
"""Segments that take no part: what surrounds the prompt and says nothing of it. Which of the two
instructions of a chat become is up to the model's template."""


@dataclass(frozen=True)
class Compared:
    """The tokens and prompts of a store that a comparison uses, and how they hang together."""

    store: Store
    token: Int[np.ndarray, "tokens"]
    """Tokens of the store that take part, rising."""
    prompt: Int[np.ndarray, "prompts"]
    """Rows of `store.prompts` that take part, rising."""
    prompt_index: Int[np.ndarray, "tokens"]
    """For each token, which entry of `prompt` it belongs to."""

    @cached_property
    def table(self) -> pd.DataFrame:
        """The prompts that take part."""
        return self.store.prompts.iloc[self.prompt]

    @cached_property
    def expert_indices(self) -> Integer[np.ndarray, "tokens layers top_k"]:
        """Experts chosen for each token that takes part, at all layers of the store."""
        return np.asarray(self.store.router().expert_indices[self.token])

    @cached_property
    def condition(self) -> Shaped[np.ndarray, "prompts"]:
        """Condition of each prompt."""
        return self.table["condition"].to_numpy(dtype=str)

    @cached_property
    def benchmark(self) -> Bool[np.ndarray, "prompts"]:
        """True for benchmark, False for organic."""
        return np.asarray(self.condition == "benchmark")

    @cached_property
    def item(self) -> Shaped[np.ndarray, "prompts"]:
        """The unit of tests and splits: the item that a prompt is a variant of."""
        return self.table["item_id"].to_numpy(dtype=str)


def compared(store: Store, conditions: tuple[str, ...]) -> Compared:
    """The tokens of these conditions that say something: no template, no instructions.

    Prompt tokens where the store has any; generated tokens only where it has nothing else, as in
    traces recorded elsewhere.

    Raises:
        InputError: If no token is left.
    """
    left_out = [SEGMENTS.index(name) for name in LEFT_OUT]
    of_condition = store.prompts["condition"].isin(conditions).to_numpy()
    used = ~np.isin(store.segment, left_out) & of_condition[store.prompt_index]
    if not is_generated_only(store):
        used &= ~store.generated
    if not used.any():
        raise InputError(
            f"{store.path.name} holds no token of the conditions {', '.join(conditions)} outside "
            "template and instructions; capture prompts that have user text"
        )
    token = np.flatnonzero(used)
    prompt, prompt_index = np.unique(store.prompt_index[token], return_inverse=True)
    return Compared(store, token, prompt, prompt_index)


def is_generated_only(store: Store) -> bool:
    """Whether every token of the store was written by the model."""
    return bool(store.generated.all())


def without_tokens(store: Store, everything: Compared) -> dict[str, str]:
    """A sentence on prompts that take no part because no token of theirs is left."""
    n_missing = len(store.prompts) - len(everything.prompt)
    if not n_missing:
        return {}
    return {
        "prompts": f"{n_missing} of {len(store.prompts)} prompts have no token outside "
        f"{', '.join(LEFT_OUT)}, and take no part."
    }
