"""A store as a stream of routed tokens, each with the token before it."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int

from interp.analyses.token_stream import TokenPart, TokenStream

if TYPE_CHECKING:
    from interp.cache.reader import Store
    from interp.cache.views import TokenBatch

CONDITIONS = ("organic", "benchmark")
BATCH_TOKENS = 2**16


def store_stream(
    store: "Store",
    *,
    row: Int[np.ndarray, "prompts"],
    take: "Callable[[TokenBatch], Bool[np.ndarray, ' tokens']] | None" = None,
    batch_tokens: int = BATCH_TOKENS,
) -> TokenStream:
    """The tokens of a store, in order, so many at a time.

    Args:
        store: From `open_store`.
        row: Row that the tokens of each prompt count to; -1 for a prompt that takes no part.
        take: Which tokens of a batch take part; all if None.
        batch_tokens: Tokens of a part, at most.
    """
    numbers = store.layout.layer_indices

    def parts(layers: slice) -> Iterator[TokenPart]:
        before = (-1, -1)  # prompt and id of the token before the batch
        wanted = list(numbers[layers])
        for batch in store.iter_tokens(batch=batch_tokens, layers=wanted or numbers[:1]):
            prompt = np.concatenate([[before[0]], batch.prompt_index])
            token = np.concatenate([[before[1]], batch.token_id])
            before = int(prompt[-1]), int(token[-1])
            used = row[batch.prompt_index] >= 0
            if take is not None:
                used &= take(batch)
            if used.any():
                yield TokenPart(
                    expert_indices=batch.routing.expert_indices[used, : len(wanted)],
                    row=row[batch.prompt_index[used]],
                    token_id=batch.token_id[used],
                    previous_token_id=np.where(prompt[1:] == prompt[:-1], token[:-1], -1)[used],
                    position=batch.position[used],
                    logprob=batch.logprob[used],
                )

    return TokenStream(
        parts=parts,
        layer_indices=numbers,
        n_experts=store.layout.n_experts,
        top_k=store.layout.top_k,
    )
