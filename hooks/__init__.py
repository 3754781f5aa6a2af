"""Capture: taps on routers and residual streams of transformers models.

Names load when first used, because torch and transformers take seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.hooks.capture import CaptureSettings as CaptureSettings
    from interp.hooks.doctor import examine as examine
    from interp.hooks.load import LoadedModel as LoadedModel
    from interp.hooks.render import render_prompt as render_prompt
    from interp.hooks.tap import PassRecords as PassRecords
    from interp.hooks.tap import RoutingTap as RoutingTap

_HOME = {
    "CaptureSettings": "capture",
    "LoadedModel": "load",
    "PassRecords": "tap",
    "RoutingTap": "tap",
    "examine": "doctor",
    "render_prompt": "render",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOME)
