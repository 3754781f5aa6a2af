"""The ground floor: records, errors, and the store that everything else reads and writes.

    from interp.cache import open_store
    from interp.cache import StoreWriter

Names load when they are first asked for, and nothing here imports torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.cache.errors import InputError, InterpError, ModelError, StoreError
    from interp.cache.fingerprinting import import_fingerprinting
    from interp.cache.reader import Residuals, Routing, Store, open_store
    from interp.cache.records import Layout, Message, Prompt, PromptActivations
    from interp.cache.writer import StoreWriter, is_captured

_HOMES = {
    "InputError": "errors",
    "InterpError": "errors",
    "Layout": "records",
    "Message": "records",
    "ModelError": "errors",
    "Prompt": "records",
    "PromptActivations": "records",
    "Residuals": "reader",
    "Routing": "reader",
    "Store": "reader",
    "StoreError": "errors",
    "StoreWriter": "writer",
    "import_fingerprinting": "fingerprinting",
    "is_captured": "writer",
    "open_store": "reader",
}

__all__ = [
    "InputError",
    "InterpError",
    "Layout",
    "Message",
    "ModelError",
    "Prompt",
    "PromptActivations",
    "Residuals",
    "Routing",
    "Store",
    "StoreError",
    "StoreWriter",
    "import_fingerprinting",
    "is_captured",
    "open_store",
]


def __getattr__(name: str) -> Any:
    """Import the module that a public name lives in (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names, for completion."""
    return sorted(__all__)
