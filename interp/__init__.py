"""moe-interp: what do mixture-of-experts routers do, and is what you see really there?

Names load when first used, so that `import interp` costs next to nothing and needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp import organisms as organisms
    from interp.cache.reader import open_store as open_store
    from interp.cache.records import Prompt as Prompt
    from interp.hooks.capture import CaptureSettings as CaptureSettings
    from interp.hooks.capture import capture as capture
    from interp.hooks.tap import RoutingTap as RoutingTap
    from interp.organisms import load_model as load_model
    from interp.prompts import load_prompts as load_prompts
    from interp.report import write_report as write_report
    from interp.study import analyze as analyze

__version__ = "0.1.0"

_HOMES = {
    "CaptureSettings": "interp.hooks.capture",
    "Prompt": "interp.cache.records",
    "RoutingTap": "interp.hooks.tap",
    "analyze": "interp.study",
    "capture": "interp.hooks.capture",
    "load_model": "interp.organisms",
    "load_prompts": "interp.prompts",
    "open_store": "interp.cache.reader",
    "organisms": "interp",
    "write_report": "interp.report",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'interp' has no attribute {name!r}")
    if name == "organisms":
        return import_module("interp.organisms")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
