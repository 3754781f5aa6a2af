"""How far outcomes and routing move when nothing is done: what an effect must be larger than."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Integer

from interp.cache.errors import InputError
from interp.hooks.batches import PaddingSide, by_length, row_starts, select_rows
from interp.hooks.outcomes import ScoredText, batch_logprobs
from interp.hooks.tap import RoutingTap


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """The same texts run in other ways that should make no difference. See docs/experiments.md."""

    dtype: str
    """Of the model."""
    variations: tuple[str, ...]
    """`repeat`, `alone` (one text a batch), `left` (padding before the texts), and `dtype: NAME`
    where a second copy of the model was given."""
    layer_indices: tuple[int, ...]
    """Numbers of the layers in the model."""
    flip_rate: Float[np.ndarray, "variations layers"]
    """Share of tokens whose set of experts is another one, 0 to 1."""
    change: Float[np.ndarray, "variations texts"]
    """Mean log-probability of the scored tokens less that of the usual run, nats per token."""

    def to_frame(self) -> pd.DataFrame:
        """One row per variation."""
        return pd.DataFrame(
            {
                "variation": list(self.variations),
                "dtype": self.dtype,
                "flip_rate_mean": self.flip_rate.mean(axis=1),
                "flip_rate_most": self.flip_rate.max(axis=1),
                "change_mean_nats": self.change.mean(axis=1),
                "change_spread_nats": self.change.std(axis=1),
                "change_most_nats": np.abs(self.change).max(axis=1),
                "n_texts": self.change.shape[1],
            }
        )


def measure_noise_floor(
    model: Any,
    texts: Sequence[ScoredText],
    *,
    batch_tokens: int = 4096,
    other_dtype: Any | None = None,
) -> NoiseFloor:
    """Run the same texts again, alone, padded on the left, and in another dtype, and compare.

    In float32 experts flip at near ties only. In bfloat16 sums round otherwise in a batch of
    another shape, experts flip, and later layers read what follows. An effect of a knockout that is
    no larger than `change` could be such a flip; experiments compare runs in the same batches, so
    `repeat` should be 0.

    Args:
        model: In evaluation mode.
        texts: From `interp.hooks.outcome_texts`.
        batch_tokens: As in the experiment.
        other_dtype: The same model loaded in another dtype.

    Raises:
        InputError: If there is no text.
    """
    if not texts:
        raise InputError("there is no text to run; give at least one")
    longest = max(len(each.token_id) for each in texts)
    usual, chosen = _observed(model, texts, batch_tokens, "right")
    ways: list[tuple[str, Any, int, PaddingSide]] = [
        ("repeat", model, batch_tokens, "right"),
        ("alone", model, 1, "right"),
        ("left", model, max(batch_tokens, longest), "left"),
    ]
    if other_dtype is not None:
        ways.append((f"dtype: {_dtype(other_dtype)}", other_dtype, batch_tokens, "right"))
    change, flips = [], []
    for _, which, size, side in ways:
        logprob, experts = _observed(which, texts, size, side)
        change.append(logprob - usual)
        flips.append(_flip_rate(chosen, experts))
    with RoutingTap(model, sites=("expert_indices",)) as tap:
        layers = tuple(block.layer for block in tap.blocks)
    return NoiseFloor(
        dtype=_dtype(model),
        variations=tuple(name for name, *_ in ways),
        layer_indices=layers,
        flip_rate=np.stack(flips),
        change=np.stack(change),
    )


def _observed(
    model: Any, texts: Sequence[ScoredText], batch_tokens: int, side: PaddingSide
) -> tuple[Float[np.ndarray, "texts"], list[Integer[np.ndarray, "tokens layers top_k"]]]:
    """Log-probability of each text, and its experts, sorted within a token."""
    logprob = np.full(len(texts), np.nan)
    experts: dict[int, Integer[np.ndarray, "tokens layers top_k"]] = {}
    with torch.inference_mode(), RoutingTap(model, sites=("expert_indices",)) as tap:
        for members in by_length([len(each.token_id) for each in texts], batch_tokens):
            batch = [texts[each] for each in members]
            lengths = [len(each.token_id) for each in batch]
            none = [np.arange(0)] * len(batch)
            select_rows(tap, row_starts(batch, side=side), lengths, none)
            logprob[members] = batch_logprobs(model, batch, side=side)
            found = tap.take().expert_indices
            assert found is not None
            parts = np.split(found.sort(-1).values.numpy(), np.cumsum(lengths)[:-1])
            experts |= zip(members, parts, strict=True)
    return logprob, [experts[each] for each in range(len(texts))]


def _flip_rate(
    first: Sequence[Integer[np.ndarray, "_ layers top_k"]],
    second: Sequence[Integer[np.ndarray, "_ layers top_k"]],
) -> Float[np.ndarray, "layers"]:
    is_other = (np.concatenate(first) != np.concatenate(second)).any(axis=-1)
    return np.asarray(is_other.mean(axis=0))


def _dtype(model: Any) -> str:
    return str(model.dtype).removeprefix("torch.")
