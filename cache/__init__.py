"""The ground floor: records, errors, and the store that everything else reads and writes.

    from interp.cache import open_store
    from interp.cache import StoreWriter

Names load when they are first asked for, and nothing here imports torch.
"""

from typing import TYPE_CHECKING

from interp.cache.lazy import lazy_names

if TYPE_CHECKING:
    from interp.cache.errors import (
        InputError,
        InterpError,
        ModelError,
        StorageError,
        StoreError,
    )
    from interp.cache.fingerprinting import import_fingerprinting
    from interp.cache.reader import Store, open_store
    from interp.cache.records import Layout, Message, Prompt, PromptActivations
    from interp.cache.views import Residuals, Routing, TokenBatch
    from interp.cache.writer import StoreWriter, is_captured

_HOMES = {
    "InputError": "errors",
    "InterpError": "errors",
    "Layout": "records",
    "Message": "records",
    "ModelError": "errors",
    "Prompt": "records",
    "PromptActivations": "records",
    "Residuals": "views",
    "Routing": "views",
    "StorageError": "errors",
    "Store": "reader",
    "StoreError": "errors",
    "StoreWriter": "writer",
    "TokenBatch": "views",
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
    "StorageError",
    "Store",
    "StoreError",
    "StoreWriter",
    "TokenBatch",
    "import_fingerprinting",
    "is_captured",
    "open_store",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
