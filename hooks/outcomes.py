"""How well a model does on each prompt: log-probability of its words, of an answer, or accuracy.

Texts are made and refused before any pass. The same texts in the same batches are then run under
each intervention, so that a prompt whose experts are left alone gives the same bits.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Integer

from interp.cache.errors import InputError
from interp.hooks.batches import PaddingSide, by_length, padded, row_starts
from interp.hooks.logprobs import check_unembedding, last_hidden_state, next_logprobs

OUTCOMES = ("content", "answer", "option", "letter", "greedy", "own_answer")
"""What can be measured; see docs/experiments.md."""
ACCURACIES = ("option", "letter", "greedy")
"""Of them, those that are right (1) or wrong (0); the others are nats per token."""


@dataclass(frozen=True, kw_only=True)
class ScoredText:
    """Tokens to put into a model, and which of them count."""

    prompt: int
    """Which of the prompts it belongs to."""
    candidate: int = 0
    """Which of the answers that are compared; 0 where only one is scored."""
    is_right: bool = True
    """Whether that answer is the right one."""
    token_id: Int[np.ndarray, "tokens"]
    scored: Integer[np.ndarray, "scored"]
    """Positions of the tokens whose log-probabilities are averaged; none is the first."""


def mean_logprobs(
    model: Any,
    texts: Sequence[ScoredText],
    *,
    batch_tokens: int = 4096,
    under: AbstractContextManager[Any] | None = None,
) -> Float[np.ndarray, "texts"]:
    """Mean log-probability of the scored tokens of each text, in batches of like length.

    Args:
        model: In evaluation mode.
        texts: From `interp.hooks.outcome_texts`.
        batch_tokens: Tokens per pass, padding included. Batches are part of a bfloat16 result.
        under: An intervention, open during all passes.

    Returns:
        Nats per token, 0 at most.
    """
    found = np.full(len(texts), np.nan)
    with torch.inference_mode(), under or nullcontext():
        for members in by_length([len(each.token_id) for each in texts], batch_tokens):
            found[members] = batch_logprobs(model, [texts[each] for each in members])
    return found


def batch_logprobs(
    model: Any, batch: Sequence[ScoredText], *, side: PaddingSide = "right"
) -> Float[np.ndarray, "batch"]:
    """`mean_logprobs` of one pass; open `torch.inference_mode()` around it."""
    starts, inputs = row_starts(batch, side=side), padded(batch, model, side=side)
    with last_hidden_state(model) as hidden:
        output = model(**inputs, use_cache=False, logits_to_keep=1)
    check_unembedding(model, hidden[0], output.logits)
    rows = [start + each.scored - 1 for start, each in zip(starts, batch, strict=True)]
    known = next_logprobs(model, hidden[0], inputs["input_ids"], rows=np.concatenate(rows))
    ends = np.cumsum([len(each) for each in rows])
    return np.array([part.mean(dtype=np.float64) for part in np.split(known, ends[:-1])])


def outcome_of_prompts(
    texts: Sequence[ScoredText], logprob: Float[np.ndarray, "texts"], *, n_prompts: int
) -> Float[np.ndarray, "prompts"]:
    """Outcome of each prompt: the log-probability, or 1 where the right candidate is the likeliest.

    Where candidates are level the first of them counts.

    Args:
        texts: As they were run.
        logprob: From `mean_logprobs`.
        n_prompts: Prompts that the texts belong to.

    Returns:
        NaN for a prompt without a text.
    """
    outcome = np.full(n_prompts, np.nan)
    best: dict[int, tuple[float, bool]] = {}
    n_candidates = np.bincount([each.prompt for each in texts], minlength=n_prompts)
    for text, value in zip(texts, logprob.tolist(), strict=True):
        if n_candidates[text.prompt] == 1:
            outcome[text.prompt] = value
        elif text.prompt not in best or value > best[text.prompt][0]:
            best[text.prompt] = (value, text.is_right)
    for prompt, (_, is_right) in best.items():
        outcome[prompt] = float(is_right)
    return outcome


def refuse_unscored(texts: Sequence[ScoredText], names: Sequence[str]) -> None:
    """Every text has tokens to score, and a token before the first of them.

    Raises:
        InputError: Naming the prompt.
    """
    for text in texts:
        if not len(text.scored) or text.scored.min() < 1:
            raise InputError(
                f"prompt {names[text.prompt]} has no token of its own that could be scored, "
                "expected words after the template; leave it out"
            )
