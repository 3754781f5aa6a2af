"""moe-interp: what do mixture-of-experts routers do, and is what you see really there?

Names load when first used, so that `import interp` costs next to nothing and needs no torch.
"""

from typing import TYPE_CHECKING

from interp.cache.lazy import lazy_names

if TYPE_CHECKING:
    from interp import figures as figures
    from interp import organisms as organisms
    from interp.cache.reader import open_store as open_store
    from interp.cache.records import Prompt as Prompt
    from interp.hooks.capture import capture as capture
    from interp.hooks.settings import CaptureSettings as CaptureSettings
    from interp.hooks.tap import RoutingTap as RoutingTap
    from interp.organisms import load_model as load_model
    from interp.prompts import load_prompts as load_prompts
    from interp.report import write_report as write_report
    from interp.study import analyze as analyze

__version__ = "0.1.0"

_HOMES = {
    "CaptureSettings": "hooks.settings",
    "Prompt": "cache.records",
    "RoutingTap": "hooks.tap",
    "analyze": "study",
    "capture": "hooks.capture",
    "figures": "figures",
    "load_model": "organisms",
    "load_prompts": "prompts",
    "open_store": "cache.reader",
    "organisms": "organisms",
    "write_report": "report",
}
__all__ = ["__version__", *_HOMES]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
