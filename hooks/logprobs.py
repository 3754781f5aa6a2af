"""Log-probabilities of the tokens of a batch, from its last hidden state, some rows at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Integer
from torch import Tensor

from interp.cache.errors import ModelError

LOGITS_AT_ONCE = 2**26
"""Numbers; the vocabulary of gpt-oss is 201,088 wide, so all rows at once would take gigabytes."""
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""Of the largest logit; below float32 a product of other rows is rounded otherwise."""
TOLERANCE_OF_LESS = 2e-2


@contextmanager
def last_hidden_state(model: Any) -> Iterator[list[Tensor]]:
    """What the unembedding is given, `[batch pos d_model]`, of each pass in the body."""
    seen: list[Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        seen.append(output[0])

    hook = model.base_model.register_forward_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


def token_logprobs(
    model: Any,
    hidden: Float[Tensor, "batch pos d_model"],
    token_id: Integer[Tensor, "batch pos"],
    *,
    starts: Integer[np.ndarray, "batch"],
    lengths: Sequence[int],
    last_logits: Float[Tensor, "batch 1 vocab"],
) -> list[Float[np.ndarray, "_"]]:
    """Log-probability of each token of each prompt, given those before it.

    Args:
        model: With an unembedding.
        hidden: From `last_hidden_state`.
        token_id: As they were put in, with padding.
        starts: Row of each prompt's first token when `(batch pos)` is flattened.
        lengths: Tokens of each prompt.
        last_logits: The model's own at the last position, to compare with.

    Returns:
        Nats, 0 at most, one array for each prompt; NaN for its first token.

    Raises:
        ModelError: If the model makes other logits of its hidden state than its unembedding does.
    """
    check_unembedding(model, hidden, last_logits)
    rows = np.concatenate(
        [start + np.arange(n - 1) for start, n in zip(starts, lengths, strict=True)]
    )
    found = next_logprobs(model, hidden, token_id, rows=rows)
    known = np.split(found, np.cumsum([n - 1 for n in lengths])[:-1])
    return [np.concatenate([np.full(1, np.nan, dtype=np.float32), each]) for each in known]


def next_logprobs(
    model: Any,
    hidden: Float[Tensor, "batch pos d_model"],
    token_id: Integer[Tensor, "batch pos"],
    *,
    rows: Integer[np.ndarray, "rows"],
) -> Float[np.ndarray, "rows"]:
    """Log-probability, in nats, of the token that follows each row of `(batch pos)` flattened."""
    flat, ids = rearrange(hidden, "batch pos d -> (batch pos) d"), token_id.flatten()
    at_once = max(LOGITS_AT_ONCE // int(model.get_output_embeddings().weight.shape[0]), 1)
    found = [torch.empty(0)]
    for start in range(0, len(rows), at_once):
        row = torch.from_numpy(rows[start : start + at_once])
        logits = _logits(model, flat[row.to(flat.device)])
        following = ids[(row + 1).to(ids.device)].to(logits.device)
        chosen = logits.gather(-1, following[:, None])[:, 0]
        found.append((chosen - logits.logsumexp(-1)).cpu())
    return np.asarray(torch.cat(found).numpy())


def _logits(model: Any, hidden: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows vocab"]:
    """As the model makes them; those of granitemoe are divided by a number of its config."""
    logits: Tensor = model.get_output_embeddings()(hidden).float()
    return logits / getattr(model.config, "logits_scaling", 1.0)


def check_unembedding(model: Any, hidden: Tensor, last_logits: Tensor) -> None:
    """Refuse a model that makes other logits of its hidden state than its unembedding does."""
    ours, own = _logits(model, hidden[:, -1]), last_logits[:, -1].float()
    most = (ours - own.to(ours.device)).abs().max().item()
    allowed = TOLERANCE.get(hidden.dtype, TOLERANCE_OF_LESS) * own.abs().max().item()
    if not most <= allowed:
        raise ModelError(
            f"the model's logits differ by {most:.3g} from its unembedding of the last hidden "
            f"state, expected {allowed:.3g} at most: {type(model).__name__} does something between "
            "that is not known here; capture without logprobs"
        )
