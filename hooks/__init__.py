"""Capture: taps on routers and residual streams of transformers models.

Names load when first used, because torch and transformers take seconds.
"""

from typing import TYPE_CHECKING

from interp.cache.lazy import lazy_names

if TYPE_CHECKING:
    from interp.hooks.boosting import boost as boost
    from interp.hooks.doctor import examine as examine
    from interp.hooks.interventions import KNOCKOUTS as KNOCKOUTS
    from interp.hooks.interventions import renormalise as renormalise
    from interp.hooks.interventions import replay_routing as replay_routing
    from interp.hooks.interventions import reroute as reroute
    from interp.hooks.interventions import zero as zero
    from interp.hooks.load import LoadedModel as LoadedModel
    from interp.hooks.pass_records import PassRecords as PassRecords
    from interp.hooks.render import render_prompt as render_prompt
    from interp.hooks.router_space import router_weights as router_weights
    from interp.hooks.settings import CaptureSettings as CaptureSettings
    from interp.hooks.tap import RoutingTap as RoutingTap

_HOMES = {
    "CaptureSettings": "settings",
    "KNOCKOUTS": "interventions",
    "LoadedModel": "load",
    "PassRecords": "pass_records",
    "RoutingTap": "tap",
    "boost": "boosting",
    "examine": "doctor",
    "render_prompt": "render",
    "renormalise": "interventions",
    "replay_routing": "interventions",
    "reroute": "interventions",
    "router_weights": "router_space",
    "zero": "interventions",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
