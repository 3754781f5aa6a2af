"""An outcome that is ready to be measured again and again, under one intervention after another."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from interp.cache.records import Prompt
from interp.hooks.outcome_texts import (
    check_outcome,
    greedy_accuracy,
    greedy_answers,
    outcome_texts,
    own_answer_texts,
)
from interp.hooks.outcomes import ScoredText, mean_logprobs, outcome_of_prompts
from interp.hooks.render import PINNED_DATE, render_prompt

Under = AbstractContextManager[Any]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How to get the outcome of every prompt from a model; everything but the passes is done."""

    outcome: str
    """One of `interp.hooks.outcomes.OUTCOMES`."""
    n_prompts: int
    """Prompts."""
    digest: str
    """Of the tokens that are put in, those that count, and their batches."""
    shortest: ScoredText
    """The shortest text, to try an intervention on."""
    texts: tuple[ScoredText, ...] = ()
    """What is scored; empty where answers are decoded instead."""
    run: Callable[[Under | None], Float[np.ndarray, "prompts"]]
    """Gives the outcome of every prompt under an intervention; NaN where it has none."""


def measure_texts(
    model: Any,
    texts: Sequence[ScoredText],
    *,
    outcome: str,
    n_prompts: int,
    batch_tokens: int = 4096,
) -> Measure:
    """The measure of texts that are made already, such as those of a store."""

    def run(under: Under | None) -> Float[np.ndarray, "prompts"]:
        logprob = mean_logprobs(model, texts, batch_tokens=batch_tokens, under=under)
        return outcome_of_prompts(texts, logprob, n_prompts=n_prompts)

    return Measure(
        outcome=outcome,
        n_prompts=n_prompts,
        digest=_digest(texts, batch_tokens),
        shortest=min(texts, key=lambda each: len(each.token_id)),
        texts=tuple(texts),
        run=run,
    )


def measure_prompts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    outcome: str,
    batch_tokens: int = 4096,
    max_new_tokens: int = 32,
    today: date = PINNED_DATE,
) -> Measure:
    """The measure of an outcome of some prompts. All but `own_answer` are made without a pass.

    Args:
        model: In evaluation mode, with no intervention open.
        tokenizer: Its tokenizer.
        prompts: With answers in `meta`, where the outcome needs them.
        outcome: One of `interp.hooks.outcomes.OUTCOMES`.
        batch_tokens: Tokens per pass, padding included.
        max_new_tokens: Of a greedy answer.
        today: The date that chat templates show.

    Raises:
        InputError: If the outcome is not known, or a prompt has no answer though it is asked for.
    """
    check_outcome(prompts, outcome)
    if outcome not in ("greedy", "own_answer"):
        texts = outcome_texts(prompts, tokenizer, outcome=outcome, today=today)
        return measure_texts(
            model, texts, outcome=outcome, n_prompts=len(prompts), batch_tokens=batch_tokens
        )
    rendered = [render_prompt(prompt, tokenizer, today=today) for prompt in prompts]

    def answers(under: Under | None) -> list[Any]:
        with torch.inference_mode(), under or nullcontext():
            return greedy_answers(
                model,
                tokenizer,
                rendered,
                max_new_tokens=max_new_tokens,
                batch_tokens=batch_tokens,
            )

    if outcome == "own_answer":
        return measure_texts(
            model,
            own_answer_texts(answers(None)),
            outcome=outcome,
            n_prompts=len(prompts),
            batch_tokens=batch_tokens,
        )
    asked = [
        ScoredText(prompt=index, token_id=each.token_id, scored=np.array([len(each.token_id) - 1]))
        for index, each in enumerate(rendered)
    ]
    return Measure(
        outcome=outcome,
        n_prompts=len(prompts),
        digest=_digest(asked, batch_tokens, max_new_tokens),
        shortest=min(asked, key=lambda each: len(each.token_id)),
        run=lambda under: greedy_accuracy(prompts, rendered, answers(under)),
    )


def _digest(texts: Sequence[ScoredText], *settings: int) -> str:
    digest = hashlib.sha256(repr(settings).encode())
    for text in texts:
        head = (text.prompt, text.candidate, text.is_right, len(text.token_id), len(text.scored))
        digest.update(repr(head).encode())
        digest.update(text.token_id.astype(np.int64).tobytes())
        digest.update(text.scored.astype(np.int64).tobytes())
    return digest.hexdigest()
