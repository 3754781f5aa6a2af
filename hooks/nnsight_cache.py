"""What nnsight's cache kept of one pass, read as routing and residual streams of its layers."""

from collections.abc import Mapping, Sequence
from typing import Any

from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from interp.cache.errors import InputError, ModelError
from interp.cache.records import RESID_SITES
from interp.hooks.blocks import RoutedBlock
from interp.hooks.expert_norms import given_choice
from interp.hooks.pass_records import Observed, is_varied, recompute
from interp.hooks.routing import Choice, router_output

SIDES = {"resid_pre": "input", "resid_mid": "input", "resid_post": "output"}
"""Which side of its module each residual site is."""


class Kept:
    """What a cache kept, by module and by side: `input`, `inputs` or `output`.

    Args:
        cache: What `tracer.cache` returned.
        paths: Names of the modules in nnsight, by their `id`.
    """

    def __init__(self, cache: Any, paths: Mapping[int, str]) -> None:
        self._cache, self._paths = cache, paths
        self._kept = frozenset(cache.keys())

    def times(self, module: nn.Module, side: str) -> int:
        """How often one side of a module was kept."""
        return len(self._values(module, side))

    def once(self, module: nn.Module, side: str) -> Any:
        """One side of a module that was kept once."""
        (value,) = self._values(module, side)
        return value

    def _values(self, module: nn.Module, side: str) -> list[Any]:
        path = self._paths[id(module)]
        if path not in self._kept:
            return []
        found = getattr(self._cache[path], side)
        values = found if len(self._cache[path]) > 1 else [found]
        return [each for each in values if each is not None]


def watched_modules(block: RoutedBlock, sites: Sequence[str]) -> list[nn.Module]:
    """The modules of one layer that the sites are read from."""
    resid = [_resid_module(block, site) for site in sites if site in SIDES]
    routed = [block.moe, block.router, block.experts] if has_routing(sites) else []
    return list(dict.fromkeys(resid + routed))


def has_routing(sites: Sequence[str]) -> bool:
    """Whether any of the sites is one of a router."""
    return bool(set(sites) - set(RESID_SITES))


def fired(
    blocks: Sequence[RoutedBlock], sites: Sequence[str], kept: Kept
) -> dict[tuple[str, int], int]:
    """How often each site of each layer was kept.

    Raises:
        InputError: If the cache holds more than one pass.
    """
    times = {
        (site, block.layer): kept.times(_resid_module(block, site), SIDES[site])
        if site in SIDES
        else kept.times(block.moe, "output")
        for block in blocks
        for site in sites
    }
    most = max(times.values())
    if most > 1:
        raise InputError(
            f"the cache holds {most} passes, expected one; give model.trace one batch, and for "
            "generation use interp.hooks.generate"
        )
    return times


def resid_rows(
    block: RoutedBlock, site: str, kept: Kept, rows: Int[Tensor, "rows"] | None
) -> Shaped[Tensor, "kept d_model"]:
    """A residual stream of one layer, `(batch pos)` flattened, copied; all rows if None."""
    found = kept.once(_resid_module(block, site), SIDES[site])
    hidden = _flat(found if isinstance(found, Tensor) else found[0])
    return hidden.clone() if rows is None else hidden[rows.to(hidden.device)]


def routing(block: RoutedBlock, kept: Kept, *, compare: bool, has_weights: bool) -> Observed:
    """Routing of one layer; logits and choice that were not kept are recomputed.

    Args:
        block: The layer.
        kept: What the cache kept of it.
        compare: Whether to recompute in any case, for the check of the first pass.
        has_weights: Whether the weights of the model are in this process.

    Raises:
        InputError: If the cache is that of an invoker.
        ModelError: If routing was not kept and cannot be recomputed without weights.
    """
    hidden, layer = _flat(kept.once(block.moe, "input")), block.layer
    seen = Observed(
        is_router_called=bool(kept.times(block.router, "output")),
        is_input_varied=not compare or is_varied(hidden),
    )
    if seen.is_router_called:
        logits, weights, indices = router_output(layer, kept.once(block.router, "output"))
        seen.logits, seen.choice = logits, Choice(weights, indices)
    if kept.times(block.experts, "inputs"):
        args, kwargs = kept.once(block.experts, "inputs")
        others = {name: each for name, each in kwargs.items() if name != "hidden_states"}
        seen.choice = given_choice(args[1:], others)
    _check_rows(layer, seen, n_rows=len(hidden))
    if not has_weights:
        _check_complete(layer, seen)
    elif compare or not seen.is_router_called:
        _recompute(block, seen, hidden, is_first=compare)
    return seen


def _resid_module(block: RoutedBlock, site: str) -> nn.Module:
    return block.resid_mid if site == "resid_mid" else block.decoder


def _recompute(
    block: RoutedBlock,
    seen: Observed,
    hidden: Float[Tensor, "tokens d_model"],
    *,
    is_first: bool,
) -> None:
    """As with a tap, but on the router's own device, for equal rounding."""
    own = Observed(is_router_called=seen.is_router_called)
    recompute(block, own, hidden.to(block.weight.device), is_first=is_first)
    assert own.recomputed_logits is not None
    assert own.recomputed is not None
    seen.recomputed_logits = own.recomputed_logits.cpu()
    seen.recomputed = _on_cpu(own.recomputed)
    if own.asked is not None:
        seen.asked = own.asked[0].cpu(), _on_cpu(own.asked[1])
    seen.logits = seen.recomputed_logits if seen.logits is None else seen.logits
    seen.choice = seen.choice or seen.recomputed


def _on_cpu(choice: Choice) -> Choice:
    return Choice(choice.expert_weights.cpu(), choice.expert_indices.cpu())


def _check_rows(layer: int, seen: Observed, *, n_rows: int) -> None:
    """Routing must be that of the rows that the block received."""
    found = [] if seen.logits is None else [len(seen.logits)]
    found += [] if seen.choice is None else [len(seen.choice.expert_indices)]
    if any(each != n_rows for each in found):
        raise InputError(
            f"layer {layer} received {n_rows} rows and routed {max(found)}: invokers share router "
            "rows in nnsight 0.8.1 (upstream PR #722); use one batch, as in "
            "model.trace([first, second])"
        )


def _check_complete(layer: int, seen: Observed) -> None:
    if seen.logits is None or seen.choice is None:
        raise ModelError(
            f"the router of layer {layer} was not called on the server, where a fused kernel went "
            "around it, and the weights to recompute its choice from are not here; load the model "
            "in this process and leave out remote"
        )


def _flat(hidden: Shaped[Tensor, "batch pos d_model"]) -> Shaped[Tensor, "rows d_model"]:
    return rearrange(hidden, "batch pos d_model -> (batch pos) d_model")
