"""Norms of what each chosen expert puts out, in the same pass and without running any expert twice.

The experts of transformers return their weighted sum only. While norms are recorded, each token is
handed to them once per chosen expert, as a token of its own with the weight 1; what comes back are
the outputs one by one, which are then weighted and summed in the order of the implementation in
use, so that the sum has the same bits.
"""

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Float, Int
from torch import Tensor

from interp.cache.errors import ModelError
from interp.hooks.blocks import RoutedBlock
from interp.hooks.routing import Choice

MARK = "interp_records_norms"


class NormsRecorder:
    """Runs one layer's experts in a way that shows the norm of each output; `undo` ends it.

    Args:
        block: The layer whose experts to run so.
        keep: Called in each pass with norms, `[tokens top_k]`, in the router's own order.

    Raises:
        ModelError: If norms of this layer are being recorded already.
    """

    def __init__(self, block: RoutedBlock, keep: Callable[[int, Tensor], None]) -> None:
        self._experts: Any = block.experts
        own = vars(self._experts)
        if hasattr(own.get("forward"), MARK):
            raise ModelError(
                f"expert_output_norms of layer {block.layer} are being recorded by another tap; "
                "close that one first"
            )
        self._had_own_forward, self._usual = "forward" in own, self._experts.forward

        def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            output, norms = run_one_by_one(
                self._usual, hidden_states, args, kwargs, is_eager=is_eager(block)
            )
            keep(block.layer, norms)
            return output

        setattr(forward, MARK, True)
        self._experts.forward = forward

    def undo(self) -> None:
        """Let the experts run as they did before."""
        if self._had_own_forward:
            self._experts.forward = self._usual
        else:
            del self._experts.forward


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
    norms = torch.linalg.vector_norm(outputs, dim=-1, dtype=torch.float32)
    weighted = outputs * rearrange(choice.expert_weights, "tokens top_k -> tokens top_k 1")
    if is_eager:
        return _summed_by_expert(weighted.to(hidden.dtype), choice.expert_indices), norms
    return reduce(weighted, "tokens top_k d_model -> tokens d_model", "sum").to(hidden.dtype), norms


def given_choice(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Choice:
    """Expert indices and weights among the arguments of a call of the experts after the first.

    Their names and order differ between families and versions; integers are indices.
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
    return Choice(weights[0].detach(), indices[0].detach())


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
