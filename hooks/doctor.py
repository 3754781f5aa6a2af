"""The self-check on its own: does capture of this model see what the model does?"""

from dataclasses import asdict
from typing import Any

from interp.cache.errors import ModelError
from interp.cache.records import SITES, Message, Prompt
from interp.hooks.blocks import routed_blocks
from interp.hooks.load import LoadedModel, model_provenance
from interp.hooks.render import RenderedPrompt, render_prompt
from interp.hooks.self_check import self_check
from interp.hooks.settings import CaptureSettings, GenerationSettings
from interp.hooks.stability import RoutingStability, routing_stability

WORDS = (
    "What is the capital of Peru, and how far is it from the sea?",
    "two plus two",
    "my cat won't eat her food, what should i do",
    "def add(a, b):\n    return a + b",
)
N_ANSWER = 8
"""Tokens that the model decodes to compare decoding with one pass."""
WITHOUT_NORMS = tuple(site for site in SITES if site != "expert_output_norms")


def diagnosis(loaded: LoadedModel) -> dict[str, Any]:
    """What `examine` finds, with `is_sound`; a failed check is in `result` and raises nothing."""
    try:
        return {"is_sound": True} | examine(loaded)
    except ModelError as error:
        return {"is_sound": False, "model": loaded.model_id, "result": str(error)}


def examine(loaded: LoadedModel) -> dict[str, Any]:
    """Pass a few prompts of different length through the model with every site tapped.

    Returns:
        Plain values: the model and its family, what was checked as `self_check` says, how far
        routing depends on the batch as `routing_stability` says, and the result in a sentence.

    Raises:
        ModelError: If a check fails; names the layer and the site.
    """
    has_chat = bool(getattr(loaded.tokenizer, "chat_template", None))
    batch = [render_prompt(_prompt(words, has_chat), loaded.tokenizer) for words in WORDS]
    settings = CaptureSettings(
        sites=_visible_sites(loaded.model, batch[0]),
        positions="all",
        generation=GenerationSettings(max_new_tokens=N_ANSWER),
    )
    checked = self_check(loaded.model, loaded.tokenizer, batch, settings=settings)
    stability = routing_stability(loaded.model, batch)
    provenance = model_provenance(loaded)
    facts = {name: provenance[name] for name in ("dtype", "quantization", "experts_implementation")}
    family = routed_blocks(loaded.model)[0].spec.family
    return (
        {"model": loaded.model_id, "family": family}
        | facts
        | checked
        | {"stability": asdict(stability), "result": _result(checked, stability)}
    )


def _visible_sites(model: Any, rendered: RenderedPrompt) -> tuple[str, ...]:
    """All sites; without norms where a fused kernel runs the experts, which hides their outputs."""
    checked = self_check(
        model, None, [rendered], settings=CaptureSettings(sites=WITHOUT_NORMS, positions="all")
    )
    is_all_called = checked["layers"] == checked["layers_compared_with_router"]
    return SITES if is_all_called else WITHOUT_NORMS


def _result(checked: dict[str, Any], stability: RoutingStability) -> str:
    unseen = sorted(set(checked["layers"]) - set(checked["layers_compared_with_router"]))
    flips = f"{max(stability.flip_rate):.1%}"
    batches = f"another batch changes the experts of up to {flips} of tokens in a layer"
    if unseen:
        return (
            f"every site fired; the model did not call the router of layers {unseen}, as under "
            f"fused kernels: recomputed there, and the router says the same when asked; {batches}"
        )
    return "every site fired; the experts are those that the model's own router chose; " + batches


def _prompt(words: str, has_chat: bool) -> Prompt:
    if has_chat:
        return Prompt(messages=(Message(role="user", content=words),), condition="organic")
    return Prompt(text=words, condition="organic")
