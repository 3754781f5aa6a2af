"""The self-check on its own: does capture of this model see what the model does?"""

from typing import Any

from interp.cache.records import SITES, Message, Prompt
from interp.hooks.capture import CaptureSettings, self_check
from interp.hooks.load import LoadedModel, model_provenance
from interp.hooks.render import render_prompt

WORDS = ("What is the capital of Peru, and how far is it from the sea?", "two plus two")


def examine(loaded: LoadedModel) -> dict[str, Any]:
    """Pass two prompts of different length through the model with every site tapped.

    Returns:
        Model, what was checked, and the layers whose own router was called.

    Raises:
        ModelError: If a check fails; names the layer and the site.
    """
    has_chat = bool(getattr(loaded.tokenizer, "chat_template", None))
    prompts = [_prompt(words, has_chat) for words in WORDS]
    batch = [render_prompt(prompt, loaded.tokenizer) for prompt in prompts]
    checked = self_check(
        loaded.model, batch, settings=CaptureSettings(sites=SITES, positions="all")
    )
    provenance = model_provenance(loaded)
    unseen = sorted(set(checked["layers"]) - set(checked["layers_compared_with_router"]))
    result = "every site fired; the experts are those that the model's own router chose"
    if unseen:
        result = (
            f"every site fired; the router of layers {unseen} was not called, as under fused "
            "kernels, so there the recomputed choice was compared with nothing"
        )
    facts = {name: provenance[name] for name in ("dtype", "quantization", "experts_implementation")}
    return {"model": loaded.model_id} | facts | checked | {"result": result}


def _prompt(words: str, has_chat: bool) -> Prompt:
    if has_chat:
        return Prompt(messages=(Message(role="user", content=words),), condition="organic")
    return Prompt(text=words, condition="organic")
