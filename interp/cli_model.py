"""How the commands load a model: by its name or directory, without the notices of transformers."""

from typing import Any


def load(model: str, *, dtype: str) -> Any:
    """The model by its name or directory, without the notices of transformers."""
    from interp.organisms import load_model

    quiet_transformers()
    return load_model(model, dtype=dtype)


def routers_of(model: str) -> Any:
    """What the routers of a model read, by layer."""
    from interp.hooks.router_space import router_weights

    return router_weights(load(model, dtype="auto").model)


def quiet_transformers() -> None:
    """Keep the libraries' own notices out of the command's output."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    hub_logging.set_verbosity_error()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
