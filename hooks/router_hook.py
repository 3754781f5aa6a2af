"""The hook that changes what a router returns, and the proof that its experts go by it.

It runs before every other hook on the router, so that taps see what was run, whichever was opened
first. Where several interventions sit on one router, they run in the order of `ORDER`, so that it
does not matter which was opened first either.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from interp.cache.errors import ModelError
from interp.hooks.blocks import EDITS, RoutedBlock
from interp.hooks.expert_norms import given_choice, unrecorded_forward
from interp.hooks.hook_order import put_first
from interp.hooks.routing import Choice, router_output

ORDER = ("reroute", "boost", "replay_routing", "zero", "renormalise")
"""First what decides by logits, then what replaces the choice, then what changes its weights."""
EXCLUDED = {
    "reroute": {"replay_routing"},
    "boost": {"boost", "replay_routing"},
    "replay_routing": {"reroute", "boost", "replay_routing"},
    "zero": {"renormalise"},
    "renormalise": {"zero"},
}
"""By intervention, those that it cannot share a layer with: what comes out would depend on more
than what was asked for."""
PROBED_TOKENS = 8
"""Of a pass; more say nothing more about whether experts go by their weights."""

Change = Callable[[Tensor, Choice], tuple[Tensor, Choice]]
"""Takes the logits of all rows of a pass and the choice, and gives both anew."""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What an intervention does to one router; the mark on its hook."""

    name: str
    """The function that opened it, of `ORDER`."""
    experts: frozenset[int] = frozenset()
    """The experts that it was asked to change; none where it replays."""


PROBED: WeakKeyDictionary[nn.Module, set[tuple[str, int]]] = WeakKeyDictionary()
"""By module of experts, the implementations that were seen to go by the weights they are given."""


@contextmanager
def router_hook(
    block: RoutedBlock, mark: Edit, change: Change, *, holds: Callable[[Choice], bool]
) -> Iterator[None]:
    """Change what the router returns, before anyone else sees it.

    Args:
        block: The layer.
        mark: What is done, for others to see.
        change: Called in every pass with what the router returned.
        holds: Whether what the experts were given is as it was meant; asked in the first pass.

    Raises:
        ModelError: In a pass, at the block, if the router was not called: nothing was changed then.
            In the first one also if the experts were given something else than the router returned,
            or do not go by the weights that they are given.
    """
    watch = _Watch(block, mark, holds)

    def on_router(_: nn.Module, args: tuple[Any, ...], output: Any) -> tuple[Tensor, ...]:
        watch.is_router_called = True
        logits, weights, indices = router_output(block.layer, output)
        edited, choice = change(logits, Choice(weights, indices))
        return edited, choice.expert_weights, choice.expert_indices

    setattr(on_router, EDITS, mark)
    handles = (
        block.moe.register_forward_pre_hook(watch.start),
        block.router.register_forward_hook(on_router),
        block.experts.register_forward_pre_hook(watch.on_experts, with_kwargs=True),
        block.moe.register_forward_hook(watch.end),
    )
    put_first(block.router._forward_hooks, mark=EDITS, order=ORDER)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def among(
    expert_indices: Int[Tensor, "tokens top_k"], experts: frozenset[int]
) -> Bool[Tensor, "tokens top_k"]:
    """Which slots hold one of these experts."""
    return torch.isin(expert_indices, torch.tensor(sorted(experts), device=expert_indices.device))


class _Watch:
    """Sees in the passes of one layer that an intervention has the effect it is meant to have."""

    def __init__(self, block: RoutedBlock, mark: Edit, holds: Callable[[Choice], bool]) -> None:
        self._block, self._name, self._holds = block, mark.name, holds
        self._is_checked = False
        self.is_router_called = False

    def start(self, *_: Any) -> None:
        self.is_router_called = False

    def on_experts(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._is_checked or not self.is_router_called:
            return
        hidden = args[0] if args else kwargs["hidden_states"]
        others = {name: each for name, each in kwargs.items() if name != "hidden_states"}
        if not self._holds(given_choice(args[1:], others)):
            self._refuse("its experts were given something else than its router returned")
        if not follows_weights(self._block, hidden, args[1:], others):
            self._refuse("its experts do not go by the weights that they are given")
        self._is_checked = True

    def end(self, *_: Any) -> None:
        if not self.is_router_called:
            self._refuse("a fused kernel ran the experts and never called their router")
        if not self._is_checked:
            self._refuse("what ran its experts did not call their module, so nothing can be seen")

    def _refuse(self, why: str) -> None:
        raise ModelError(
            f"{self._name} had no effect on layer {self._block.layer}: {why}; load the model "
            "without that kernel"
        )


def follows_weights(
    block: RoutedBlock, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> bool:
    """Whether the experts give something else for a few tokens when all weights are 1 or 2.

    Nothing is said about experts that put out nothing at all. Asked once for an implementation.
    """
    forward = unrecorded_forward(block.experts)
    function = getattr(forward, "__func__", getattr(forward, "func", forward))
    key = (block.experts_implementation, id(function))
    if key in PROBED.setdefault(block.experts, set()):
        return True
    rows = slice(0, PROBED_TOKENS)

    def with_weight(value: float) -> Tensor:
        def given(each: Any) -> Any:
            if not isinstance(each, Tensor):
                return each
            return torch.full_like(each[rows], value) if each.is_floating_point() else each[rows]

        with torch.no_grad():
            named = {name: given(each) for name, each in kwargs.items()}
            output: Tensor = forward(hidden[rows], *map(given, args), **named)
        return output

    once, twice = with_weight(1.0), with_weight(2.0)
    follows = not torch.equal(once, twice) or not once.any()
    if follows:
        PROBED[block.experts].add(key)
    return follows
