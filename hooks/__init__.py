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
    from interp.hooks.measures import Measure as Measure
    from interp.hooks.measures import measure_prompts as measure_prompts
    from interp.hooks.noise_floor import NoiseFloor as NoiseFloor
    from interp.hooks.noise_floor import measure_noise_floor as measure_noise_floor
    from interp.hooks.outcomes import OUTCOMES as OUTCOMES
    from interp.hooks.outcomes import mean_logprobs as mean_logprobs
    from interp.hooks.pass_records import PassRecords as PassRecords
    from interp.hooks.render import render_prompt as render_prompt
    from interp.hooks.router_space import router_weights as router_weights
    from interp.hooks.routing_patch import patch_routing as patch_routing
    from interp.hooks.routing_patch import replay_stored as replay_stored
    from interp.hooks.segment_rows import rows_of_segments as rows_of_segments
    from interp.hooks.settings import CaptureSettings as CaptureSettings
    from interp.hooks.shared_tokens import SharedTokens as SharedTokens
    from interp.hooks.shared_tokens import find_shared_tokens as find_shared_tokens
    from interp.hooks.steering import patch_residual as patch_residual
    from interp.hooks.steering import steer_residual as steer_residual
    from interp.hooks.tap import RoutingTap as RoutingTap

_HOMES = {
    "CaptureSettings": "settings",
    "KNOCKOUTS": "interventions",
    "LoadedModel": "load",
    "Measure": "measures",
    "NoiseFloor": "noise_floor",
    "OUTCOMES": "outcomes",
    "PassRecords": "pass_records",
    "RoutingTap": "tap",
    "SharedTokens": "shared_tokens",
    "boost": "boosting",
    "examine": "doctor",
    "find_shared_tokens": "shared_tokens",
    "mean_logprobs": "outcomes",
    "measure_noise_floor": "noise_floor",
    "measure_prompts": "measures",
    "patch_residual": "steering",
    "patch_routing": "routing_patch",
    "render_prompt": "render",
    "renormalise": "interventions",
    "replay_routing": "interventions",
    "replay_stored": "routing_patch",
    "reroute": "interventions",
    "router_weights": "router_space",
    "rows_of_segments": "segment_rows",
    "steer_residual": "steering",
    "zero": "interventions",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
