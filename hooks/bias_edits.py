"""How experts are taken out through the bias of their router, and proof that it is followed.

Also a fused kernel that never calls the router goes by the bias, and a compiled model does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from einops import rearrange
from torch import Tensor, nn

from interp.cache.errors import ModelError
from interp.hooks.blocks import RoutedBlock, attribute
from interp.hooks.expert_norms import given_choice, unrecorded_forward
from interp.hooks.router_hook import among
from interp.hooks.routing import choose, router_logits


@dataclass(kw_only=True)
class RemovedBias:
    """The bias of an expert that is at `-inf` for now."""

    bits: Tensor
    """What to put back."""
    n_open: int = 0
    """How many interventions have taken this expert out and are still open."""


REMOVED: WeakKeyDictionary[nn.Module, dict[int, RemovedBias]] = WeakKeyDictionary()
"""By router and expert, so that interventions which share an expert may be closed in any order."""


@contextmanager
def removed_by_bias(block: RoutedBlock, experts: frozenset[int]) -> Iterator[None]:
    """The bias of the experts at `-inf`, and afterwards the bits that it had."""
    removed = REMOVED.setdefault(block.router, {})
    with torch.no_grad():
        for expert in experts:
            bits = _bias(block)[expert].clone()
            _bias(block)[expert] = float("-inf")
            removed.setdefault(expert, RemovedBias(bits=bits)).n_open += 1
    try:
        yield
    finally:
        with torch.no_grad():
            for expert in experts:
                removed[expert].n_open -= 1
                if not removed[expert].n_open:
                    _bias(block)[expert].copy_(removed.pop(expert).bits)


@contextmanager
def seen_to_be_out(block: RoutedBlock, experts: frozenset[int]) -> Iterator[None]:
    """See in the first pass that the bias is followed; hooks that change nothing.

    Where the module of the experts is called, none of them may be given a token. Where a fused
    kernel runs them unseen, tokens that would go there must come out otherwise than with the bias
    as it was, for which the block runs once more.

    Raises:
        ModelError: In a pass, if they are still chosen or nothing came out otherwise.
    """
    watch = _Watch(block, experts)
    handles = (
        block.moe.register_forward_pre_hook(watch.start),
        block.experts.register_forward_pre_hook(watch.on_experts, with_kwargs=True),
        block.moe.register_forward_hook(watch.end, with_kwargs=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def has_bias(block: RoutedBlock) -> bool:
    """Whether the router has a bias that can be changed: one that is offloaded cannot."""
    return bool(block.spec.bias) and not attribute(block.router, block.spec.bias).is_meta


class _Watch:
    """Asks of each pass whether the experts are out, until one has answered."""

    def __init__(self, block: RoutedBlock, experts: frozenset[int]) -> None:
        self._block, self._experts = block, experts
        self._is_checked = False
        self._is_called = False

    def start(self, *_: Any) -> None:
        self._is_called = False

    def on_experts(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._is_called = True
        if self._is_checked:
            return
        others = {name: each for name, each in kwargs.items() if name != "hidden_states"}
        if among(given_choice(args[1:], others).expert_indices, self._experts).any():
            self._refuse("its experts are still given the tokens that chose them")
        self._is_checked = True

    def end(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._is_checked or self._is_called:
            return
        hidden = args[0] if args else kwargs["hidden_states"]
        with torch.no_grad(), _put_back(self._block, self._experts):
            had = _would_go_there(self._block, hidden, self._experts)
            if not had.any():
                return
            usual = _states(unrecorded_forward(self._block.moe)(*args, **kwargs))
        if torch.equal(_states(output)[had], usual[had]):
            self._refuse(
                "a fused kernel ran the experts and does not read the bias of their router"
            )
        self._is_checked = True

    def _refuse(self, why: str) -> None:
        raise ModelError(
            f"reroute had no effect on layer {self._block.layer}: {why}; load the model without "
            "that kernel"
        )


@contextmanager
def _put_back(block: RoutedBlock, experts: frozenset[int]) -> Iterator[None]:
    """The bias as it was, for a moment."""
    removed = REMOVED[block.router]
    for expert in experts:
        _bias(block)[expert].copy_(removed[expert].bits)
    try:
        yield
    finally:
        for expert in experts:
            _bias(block)[expert] = float("-inf")


def _would_go_there(block: RoutedBlock, hidden: Tensor, experts: frozenset[int]) -> Tensor:
    """Which rows of `(batch pos)` choose one of the experts, `[tokens]`."""
    rows = rearrange(hidden, "... d_model -> (...) d_model")
    chosen = choose(block, router_logits(block, rows), hidden_dtype=hidden.dtype)
    return among(chosen.expert_indices, experts).any(-1)


def _states(output: Any) -> Tensor:
    """What a routed block hands on, `[tokens d_model]`."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return rearrange(states, "... d_model -> (...) d_model")


def _bias(block: RoutedBlock) -> Tensor:
    assert block.bias is not None
    return block.bias
