"""Effects of experts of a whole store, read part by part: no more is held than its pairs need."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool

from interp.analyses.effects import ExpertEffects, streamed_expert_effects
from interp.analyses.routed_tokens import Prompts
from interp.analyses.slot_tables import TABLE_BYTES
from interp.analyses.store_stream import CONDITIONS, store_stream

if TYPE_CHECKING:
    from interp.cache.reader import Store
    from interp.cache.views import TokenBatch


def store_expert_effects(
    store: "Store",
    *,
    cluster: Literal["source", "item", "template"],
    rng: np.random.Generator,
    n_resamples: int = 10_000,
    take: "Callable[[TokenBatch], Bool[np.ndarray, ' tokens']] | None" = None,
    table_bytes: int = TABLE_BYTES,
) -> ExpertEffects:
    """`expert_effects` of the benchmark and organic prompts of a store, read part by part.

    What is held does not grow with the tokens once their pairs do not: docs/effects.md.

    Args:
        store: From `open_store`.
        cluster: What is resampled.
        rng: Source of chance.
        n_resamples: Resamples of each max-T test.
        take: Which tokens of a batch take part; all of both conditions if None.
        table_bytes: Memory for the counts of slots that are held at once.

    Returns:
        As `expert_effects` of all these tokens at once.

    Raises:
        ValueError: If the store has no prompt of either condition, or as `expert_effects`.
    """
    condition = store.prompts["condition"].to_numpy(dtype=str)
    chosen = np.flatnonzero(np.isin(condition, CONDITIONS))
    table = store.prompts.iloc[chosen]
    row = np.full(len(condition), -1, dtype=np.int64)
    row[chosen] = np.arange(len(chosen))
    prompts = Prompts(
        benchmark=condition[chosen] == "benchmark",
        source=table["source"].to_numpy(dtype=str),
        item=table["item_id"].to_numpy(dtype=str),
        template=table["template"].to_numpy(dtype=str),
    )
    return streamed_expert_effects(
        store_stream(store, row=row, take=take),
        prompts,
        cluster=cluster,
        rng=rng,
        n_resamples=n_resamples,
        table_bytes=table_bytes,
    )
