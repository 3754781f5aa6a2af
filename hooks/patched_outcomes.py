"""The outcome of one prompt whose shared words are routed as in another prompt."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool

from interp.cache.errors import InputError
from interp.hooks.outcomes import ScoredText, batch_logprobs
from interp.hooks.routing_patch import RecordedRouting, patch_routing
from interp.hooks.shared_tokens import SharedTokens, find_shared_tokens


def patched_logprob(
    model: Any,
    text: ScoredText,
    *,
    records: RecordedRouting | None = None,
    shared: SharedTokens | None = None,
) -> float:
    """Mean log-probability of the scored tokens in a pass of this text alone, patched or not.

    Args:
        model: In evaluation mode.
        text: The prompt whose outcome it is.
        records: Routing of the other prompt, of all its tokens; None for the usual run.
        shared: Which tokens the two share; `second` are those of `text`.
    """
    under: Any = nullcontext()
    if records is not None and shared is not None:
        under = patch_routing(model, records, shared)
    with torch.inference_mode(), under:
        return float(batch_logprobs(model, [text])[0])


def shared_content(source: ScoredText, target: ScoredText) -> SharedTokens | None:
    """Tokens that the scored words of two texts share, in order; None where there are none."""
    try:
        return find_shared_tokens(
            source.token_id.astype(np.int64),
            target.token_id.astype(np.int64),
            is_content_of_first=_is_scored(source),
            is_content_of_second=_is_scored(target),
        )
    except InputError:
        return None


def _is_scored(text: ScoredText) -> Bool[np.ndarray, "tokens"]:
    is_scored = np.zeros(len(text.token_id), dtype=bool)
    is_scored[text.scored] = True
    return is_scored
