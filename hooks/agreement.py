"""How far two recordings of the same tokens agree: decoded or in one pass, in a batch or alone.

They do the same sums in another order, so that they agree to rounding. Below float32 that changes
up to a fifth of the sets of experts in deep layers; a shift by one token changes most.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from interp.cache.errors import ModelError
from interp.cache.records import PromptActivations
from interp.hooks.batches import run_batch
from interp.hooks.generation import generate
from interp.hooks.render import RenderedPrompt
from interp.hooks.settings import CaptureSettings
from interp.hooks.tap import RoutingTap

LEAST_AGREEMENT = {"float32": 0.99, "less": 0.5}
"""Share of tokens and layers with the same experts; ours."""
LEAST_TOKENS = 4
"""Of an answer; in fewer, a shift by one token could pass for rounding, or rounding for a shift."""


@dataclass(frozen=True)
class RoutingAgreement:
    """How far two recordings of the same tokens agree."""

    n_choices: int
    """Tokens times layers that were compared."""
    same_experts: float
    """Share of them with the same set of experts, 0 to 1."""
    max_weight_difference: float
    """Largest difference of an expert's weight where the sets are the same."""


def routing_agreement(
    first: PromptActivations,
    second: PromptActivations,
    *,
    tokens: slice = slice(None),
) -> RoutingAgreement:
    """Compare the routing of two recordings, token by token and layer by layer.

    Args:
        first: One recording.
        second: Another one of the same tokens.
        tokens: Which of the tokens to compare.

    Raises:
        ValueError: If they are not of the same tokens.
    """
    if not np.array_equal(first.token_id, second.token_id):
        raise ValueError("the two recordings are of different tokens; record the same ones")
    indices = [each.expert_indices[tokens] for each in (first, second)]
    orders = [each.argsort(-1) for each in indices]
    experts = [np.take_along_axis(*pair, -1) for pair in zip(indices, orders, strict=True)]
    given = [each.expert_weights[tokens] for each in (first, second)]
    weights = [np.take_along_axis(*pair, -1) for pair in zip(given, orders, strict=True)]
    is_same = (experts[0] == experts[1]).all(-1)
    difference = np.abs(weights[0] - weights[1])[is_same]
    return RoutingAgreement(
        n_choices=is_same.size,
        same_experts=float(is_same.mean()),
        max_weight_difference=float(difference.max(initial=0.0)),
    )


def compare_decoding(
    model: Any,
    tokenizer: Any,
    batch: Sequence[RenderedPrompt],
    *,
    settings: CaptureSettings,
) -> dict[str, Any]:
    """Agreement of decoding with one pass over the same tokens, of the prompt that agrees least.

    Returns:
        Of `prompt` and of `answer`, which are recorded in different passes: a `RoutingAgreement`,
        or a sentence that says why they were not compared.

    Raises:
        ModelError: If they agree in fewer experts than rounding explains.
    """
    assert settings.generation is not None
    with RoutingTap(model, layers=settings.layers, sites=settings.sites) as tap:
        both = generate(
            model,
            tokenizer,
            tap,
            batch,
            settings=settings.generation,
            positions=settings.positions,
        )
        forced = run_batch(model, tap, [whole for whole, _ in both], settings.positions)
    found = [decoded for _, decoded in both]
    starts = [len(each.token_id) for each in batch]
    asked = [slice(0, start) for start in starts]
    answered = [slice(start, None) for start in starts]
    return {
        "prompt": least_agreement(
            model, found, forced, asked, "while decoding its answer, and again,"
        ),
        "answer": least_agreement(
            model, found, forced, answered, "while decoding, and in one pass,"
        ),
    }


def compare_batched(
    model: Any, batch: Sequence[RenderedPrompt], *, settings: CaptureSettings
) -> dict[str, Any] | str:
    """Agreement of the prompts in one batch, padded on the right, with each alone.

    Returns:
        A `RoutingAgreement` of the prompt that agrees least, or a sentence that says why they were
        not compared.

    Raises:
        ModelError: If they agree in fewer experts than rounding explains.
    """
    if len({len(each.token_id) for each in batch}) < 2:
        return "not compared: all prompts are of one length, so none was padded"
    with RoutingTap(model, layers=settings.layers, sites=settings.sites) as tap:
        together = run_batch(model, tap, batch, settings.positions)
        alone = [run_batch(model, tap, [each], settings.positions)[0] for each in batch]
    whole = [slice(0, None)] * len(batch)
    return least_agreement(model, together, alone, whole, "in a padded batch, and alone,")


def least_agreement(
    model: Any,
    first: Sequence[PromptActivations],
    second: Sequence[PromptActivations],
    tokens: Sequence[slice],
    what: str,
) -> dict[str, Any] | str:
    """Agreement of the recording that agrees least with another one of the same tokens.

    Args:
        model: That both were recorded of.
        first: Recordings.
        second: Others, one for each.
        tokens: Which tokens of each to compare.
        what: For the error: how the two were recorded.

    Returns:
        A `RoutingAgreement`, or a sentence that says why they were not compared.

    Raises:
        ModelError: If they agree in fewer experts than rounding explains.
    """
    pairs = zip(first, second, tokens, strict=True)
    long = [each for each in pairs if len(each[0].token_id[each[2]]) >= LEAST_TOKENS]
    if not long:
        return f"not compared: none has {LEAST_TOKENS} tokens that were put into the model"
    agreements = [routing_agreement(one, two, tokens=each) for one, two, each in long]
    least = min(agreements, key=lambda each: each.same_experts)
    expected = LEAST_AGREEMENT["float32" if model.dtype == torch.float32 else "less"]
    if least.same_experts < expected:
        raise ModelError(
            f"the same tokens, {what} have the same experts in only {least.same_experts:.1%} of "
            f"{least.n_choices} cases, expected {expected:.0%}; routing is not recorded rightly "
            "with this model"
        )
    return asdict(least)
