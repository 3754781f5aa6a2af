"""What a second model is captured with, and which one cannot stand beside the first."""

from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp import organisms
from interp.cache.errors import InputError, InterpError
from interp.cache.reader import Store
from interp.cache.records import RESID_SITES, Prompt
from interp.experiment_trials import ACCURACIES

if TYPE_CHECKING:
    from interp.hooks.settings import CaptureSettings


def second_capture(recorded: "CaptureSettings") -> "CaptureSettings":
    """The same capture, without residual streams and answers, which no search reads."""
    sites = tuple(each for each in recorded.sites if each not in RESID_SITES)
    return replace(recorded, sites=sites, generation=None)


def recorded_in(store: Store) -> "CaptureSettings":
    """What the capture of a store recorded; for one made elsewhere, its routing as it stands."""
    from interp.hooks.settings import CaptureSettings

    settings: dict[str, Any] = {**store.provenance.get("settings", {}), "generation": None}
    known = {each.name for each in fields(CaptureSettings)}
    values: dict[str, Any] = {
        name: tuple(each) if isinstance(each, list) else each
        for name, each in settings.items()
        if name in known
    }
    return CaptureSettings(**values)


def refuse_second(
    first: str,
    second: str,
    prompts: Sequence[Prompt],
    *,
    outcome: str,
    recorded: "CaptureSettings",
    dtype: str = "auto",
) -> None:
    """Refuse a second model that cannot be compared, before a weight of either is loaded.

    Nats per token are another unit under another tokenizer, so these need the same one; accuracies
    do not.

    Raises:
        InputError: If it is the first model, its tokenizer is another where that matters, it
            routes to no experts, lacks a layer, or a prompt cannot be rendered for it.
    """
    from interp.hooks.capture import model_layout
    from interp.hooks.plan import skeleton

    if identity(first) == identity(second):
        raise InputError(
            f"the second model {second} has the weights of {first}, expected another model; name "
            "one, such as untrained-router-0"
        )
    try:
        modules, tokenizer = skeleton(organisms.model_path(second), dtype=dtype)
        model_layout(modules, second_capture(recorded))
        _render(prompts, tokenizer, recorded)
    except (InterpError, ValueError) as error:
        raise InputError(f"the second model {second} cannot be used: {error}") from error
    _, own = skeleton(organisms.model_path(first), dtype=dtype)
    if outcome not in ACCURACIES and own.get_vocab() != tokenizer.get_vocab():
        raise InputError(
            f"the second model {second} has another tokenizer than {first}, so that nats per token "
            f"of the outcome {outcome!r} are another unit; give a model with the same tokenizer, "
            f"or measure one of {', '.join(ACCURACIES)}"
        )


def _render(prompts: Sequence[Prompt], tokenizer: Any, recorded: "CaptureSettings") -> None:
    from interp.hooks.render import render_prompt

    for prompt in prompts:
        render_prompt(prompt, tokenizer, today=date.fromisoformat(recorded.today))


def identity(model: str) -> str:
    """What tells a model from another before it is loaded: a digest, else its name."""
    from interp.hooks.load import weights_digest

    if model in organisms.ORGANISMS and model != organisms.BASE:
        return model
    place = Path(organisms.model_path(model))
    return (weights_digest(place) or str(place.resolve())) if place.is_dir() else model


def refuse_other_store(store: Store, model: str) -> None:
    """Refuse a store of other weights where that can be told before the model is loaded.

    It can be of organisms and directories; `interp.experiment_trials.refuse_other_model` is for
    what was loaded.

    Raises:
        InputError: If the store says that it was captured with other weights.
    """
    captured = str(store.provenance.get("weights_sha256") or "")
    is_stored = model in organisms.ORGANISMS or Path(model).is_dir()
    if not captured or not is_stored:
        return
    known, of_store = identity(model), (captured, str(store.provenance.get("model", "")))
    if known not in of_store and not Path(known).is_absolute():  # a directory without a digest
        raise InputError(
            f"{store.path.name} was captured with {of_store[1] or 'other weights'}, whose weights "
            f"are not those of {model}; give the model of the store as --model"
        )
