"""Second models for "is it this model?": the toy's shape with weights, or routers, never trained.

Nothing is stored; the seed in the name gives the weights. `untrained-<seed>` has learnt nothing at
all. `untrained-router-<seed>` is the toy with its routers drawn anew: it still knows language, but
its experts get tokens that they were not trained for.
"""

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp import organisms

if TYPE_CHECKING:
    from interp.hooks.load import LoadedModel


def load_untrained(name: str) -> tuple[Any, Any]:
    """An untrained model of the toy's shape, or the toy with untrained routers, and its tokenizer.

    Weights are drawn as transformers draws them before training: in routers, weights and biases
    from a normal with the configuration's `initializer_range`. Then they are rounded to bfloat16.

    Args:
        name: One of `interp.organisms.UNTRAINED`.

    Raises:
        ValueError: If there is no such organism.
    """
    loaded = load_untrained_model(name, dtype="auto", device_map="cpu")
    return loaded.model, loaded.tokenizer


def load_untrained_model(name: str, *, dtype: str, device_map: str) -> "LoadedModel":
    """As `load_untrained`, with what provenance needs: its name, and a digest of its weights.

    Raises:
        ValueError: As `load_untrained`.
    """
    from interp.hooks.load import load_model

    if name not in organisms.UNTRAINED:
        known = ", ".join(organisms.UNTRAINED)
        raise ValueError(f"there is no untrained organism {name!r}; choose one of {known}")
    loaded = load_model(organisms.path(organisms.BASE), dtype=dtype, device_map=device_map)
    kind, seed = name.rsplit("-", 1)
    of = ".router." if kind.endswith("router") else ""
    drawn = drawn_weights(loaded.model, int(seed))
    with torch.no_grad():
        for key, parameter in loaded.model.named_parameters():
            if of in key:
                parameter.copy_(drawn[key].to(parameter))
    lines = f"{loaded.weights_sha256}\n{name}\n{_digest(drawn)}"
    digest = hashlib.sha256(lines.encode()).hexdigest()
    return replace(loaded, model_id=name, weights_sha256=digest)


def drawn_weights(model: Any, seed: int) -> dict[str, Tensor]:
    """Weights of an untrained model of the same configuration, in bfloat16 on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(model)._from_config(model.config, dtype=torch.float32)
    return {name: each.detach().to(torch.bfloat16) for name, each in fresh.named_parameters()}


def _digest(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()
