"""Norms of what each chosen expert puts out, in the same pass and without running any expert twice.

The experts of transformers return their weighted sum only. While norms are recorded, each token is
handed to them once per chosen expert, as a token of its own with the weight 1; what comes back are
the outputs one by one, which are then weighted and summed in the order of the implementation in
use, so that the sum has the same bits.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.cache.errors import ModelError
from interp.hooks.blocks import RoutedBlock
from interp.hooks.routing import Choice

Keep = Callable[[int, Tensor], None]
"""Takes the number of the layer and the norms of a pass, `[tokens top_k]`."""


class OneByOne:
    """The forward of one layer's experts while somebody wants norms; see `record_norms`."""

    def __init__(self, block: RoutedBlock) -> None:
        self._block, self._experts = block, block.experts
        self._had_own_forward = "forward" in vars(self._experts)
        self.usual = self._experts.forward
        self._keeps: list[Keep] = []

    @classmethod
    def on(cls, block: RoutedBlock) -> "OneByOne":
        """That of the layer, which is put there if there is none yet."""
        own = vars(block.experts).get("forward")
        if isinstance(own, cls):
            return own
        forward = cls(block)
        vars(block.experts)["forward"] = forward
        return forward

    def add(self, keep: Keep) -> None:
        """From now on, `keep` is given the norms of each pass as well."""
        self._keeps.append(keep)

    def remove(self, keep: Keep) -> None:
        """End that; the experts run as before once nobody is left."""
        self._keeps.remove(keep)
        own = vars(self._experts)
        # What somebody put around this meanwhile stays, and goes through it to the usual forward.
        if self._keeps or own.get("forward") is not self:
            return
        del own["forward"]
        if self._had_own_forward:
            own["forward"] = self.usual

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the experts give, and the norms to everybody who wants them."""
        if not self._keeps:
            return cast(Tensor, self.usual(hidden_states, *args, **kwargs))
        output, norms = run_one_by_one(
            self.usual, hidden_states, args, kwargs, is_eager=is_eager(self._block)
        )
        for keep in self._keeps:
            keep(self._block.layer, norms)
        return output

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the model has experts of its own, and nobody wants norms of them."""
        return copy.deepcopy(self.usual, memo)


def unrecorded_forward(module: nn.Module) -> Callable[..., Any]:
    """The forward of a module past those who record its calls: norms, and traces of nnsight."""
    forward = module.forward
    forward = forward.usual if isinstance(forward, OneByOne) else forward
    if type(forward).__module__.partition(".")[0] == "nnsight":
        return partial(type(module).forward, module)
    return forward


def record_norms(block: RoutedBlock, keep: Keep) -> Callable[[], None]:
    """Run one layer's experts in a way that shows the norm of each output.

    May be called several times for a layer, whose experts then still run once.

    Args:
        block: The layer whose experts to run so.
        keep: Called in each pass with norms in the router's own order.

    Returns:
        What ends it; in any order where there are several.
    """
    forward = OneByOne.on(block)
    forward.add(keep)
    return partial(forward.remove, keep)


def is_eager(block: RoutedBlock) -> bool:
    """Whether the experts run one after the other in a loop, which fixes the order of the sum."""
    return block.experts_implementation == "eager"


def run_one_by_one(
    experts: Callable[..., Tensor],
    hidden: Float[Tensor, "tokens d_model"],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    is_eager: bool,
) -> tuple[Float[Tensor, "tokens d_model"], Float[Tensor, "tokens top_k"]]:
    """Output of the experts as `experts(hidden, *args, **kwargs)` gives it, and their norms.

    Args:
        experts: The usual forward of the experts.
        hidden: What the routed block received.
        args: Expert indices and weights, by position.
        kwargs: The same, by name.
        is_eager: Whether `experts` loops over experts, each of which sees its tokens ordered by
            rank first, and adds outputs in the order of the experts; else tokens are ordered by
            token first, and outputs are summed in the order of ranks.
    """
    choice = given_choice(args, kwargs)
    top_k = choice.expert_indices.shape[-1]
    order = "(top_k tokens)" if is_eager else "(tokens top_k)"

    def of_slots(given: Any) -> Any:
        if not isinstance(given, Tensor):
            return given
        own = rearrange(given, f"tokens top_k -> {order} 1").contiguous()
        return torch.ones_like(own) if own.is_floating_point() else own

    outputs = rearrange(
        experts(
            repeat(hidden, f"tokens d_model -> {order} d_model", top_k=top_k),
            *map(of_slots, args),
            **{name: of_slots(given) for name, given in kwargs.items()},
        ),
        f"{order} d_model -> tokens top_k d_model",
        top_k=top_k,
    )
    norms = torch.linalg.vector_norm(outputs.detach(), dim=-1, dtype=torch.float32)
    weighted = outputs * rearrange(choice.expert_weights, "tokens top_k -> tokens top_k 1")
    if is_eager:
        return _summed_by_expert(weighted.to(hidden.dtype), choice.expert_indices), norms
    return reduce(weighted, "tokens top_k d_model -> tokens d_model", "sum").to(hidden.dtype), norms


def given_choice(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Choice:
    """Expert indices and weights among the arguments of a call of the experts after the first.

    Their names and order differ between families and versions; integers are indices. Weights are as
    they were given, so that what is computed from them has their gradient.
    """
    given = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
    indices = [each for each in given if not each.is_floating_point()]
    weights = [each for each in given if each.is_floating_point()]
    if len(indices) != 1 or len(weights) != 1 or indices[0].shape != weights[0].shape:
        shapes = [tuple(each.shape) for each in given]
        raise ModelError(
            f"the experts were called with tensors of shapes {shapes} after the hidden states, "
            "expected indices and weights, both [tokens, top_k]; this version of transformers is "
            "not supported"
        )
    return Choice(weights[0], indices[0])


def _summed_by_expert(
    weighted: Float[Tensor, "tokens top_k d_model"], expert_indices: Int[Tensor, "tokens top_k"]
) -> Float[Tensor, "tokens d_model"]:
    """The sum over slots, added one by one from the lowest expert to the highest."""
    order = expert_indices.argsort(dim=-1)
    rows = torch.arange(len(weighted), device=weighted.device)
    total = torch.zeros_like(weighted[:, 0])
    for rank in range(weighted.shape[1]):
        total = total + weighted[rows, order[:, rank]]
    return total
