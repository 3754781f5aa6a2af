"""The self-check on its own: does capture of this model see what the model does?"""

from typing import Any

from interp.cache.records import SITES, Message, Prompt
from interp.hooks.capture import run_batch
from interp.hooks.load import LoadedModel, model_provenance
from interp.hooks.render import render_prompt
from interp.hooks.tap import RoutingTap

WORDS = ("What is the capital of Peru, and how far is it from the sea?", "two plus two")


def examine(loaded: LoadedModel) -> dict[str, Any]:
    """Pass two prompts of different length through the model with every site tapped.

    Returns:
        Model, what was checked, and whether the model's own router was called.

    Raises:
        ModelError: If a check fails; names the layer and the site.
    """
    has_chat = bool(getattr(loaded.tokenizer, "chat_template", None))
    prompts = [_prompt(words, has_chat) for words in WORDS]
    batch = [render_prompt(prompt, loaded.tokenizer) for prompt in prompts]
    with RoutingTap(loaded.model, sites=SITES) as tap:
        run_batch(loaded.model, tap, batch, "all")
    provenance = model_provenance(loaded)
    compared = (
        "the model's own router" if tap.router_called else "nothing: its router was not called"
    )
    return {
        "model": loaded.model_id,
        "dtype": provenance["dtype"],
        "experts_implementation": provenance["experts_implementation"],
        "routed_layers": [block.layer for block in tap.blocks],
        "sites": list(tap.sites),
        "choices_compared_with": compared,
        "result": "every site fired; routing is what the model itself did",
    }


def _prompt(words: str, has_chat: bool) -> Prompt:
    if has_chat:
        return Prompt(messages=(Message(role="user", content=words),), condition="organic")
    return Prompt(text=words, condition="organic")
