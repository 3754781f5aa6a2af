"""Interventions on the routing of a live model, as context managers that leave it as it was.

How it is done: `bias_edits`, `router_edits` and `weight_edits`. What the interventions mean and how
they fool you: docs/interventions.md.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from interp.hooks.attach import is_compiled, refuse_compiled
from interp.hooks.bias_edits import has_bias, removed_by_bias, seen_to_be_out
from interp.hooks.intervention_checks import (
    check_records,
    check_rows,
    experts_by_block,
    refuse_boosted,
    refuse_too_few,
)
from interp.hooks.router_edits import Recorded, refuse_edited, removed_by_hook, replayed
from interp.hooks.tap import chosen_blocks
from interp.hooks.weight_edits import refuse_none_left, renormalised, zeroed

Array = Tensor | np.ndarray
"""Records come from a tap as tensors and from a store as arrays."""
Knockout = Callable[[nn.Module, Collection[tuple[int, int]]], AbstractContextManager[None]]
"""Takes experts out of a model while it is open: `reroute`, `zero` or `renormalise`."""


@contextmanager
def reroute(model: nn.Module, experts: Collection[tuple[int, int]]) -> Iterator[None]:
    """Take experts out: for every token that would go there, the next best take their places.

    Their logits are `-inf` before the family's rule is applied, so each token still has `top_k`
    experts, and weights are computed among those that are left. May be nested, also with experts
    in common, and closed in any order.

    Args:
        model: A transformers model of one of the families in `interp.hooks.spec.SPECS`.
        experts: Pairs of a layer, by its number in the model, and an expert.

    Raises:
        InputError: If there is no such layer or expert, a token could not be given `top_k` experts,
            the routing of the layer is being replayed, or the router has no bias and the model was
            compiled.
        ModelError: In a pass, if the router has no bias and the model does not call it, or one of
            the experts is run all the same.

    Example:
        >>> from interp import organisms
        >>> from interp.hooks import RoutingTap
        >>> model, tokenizer = organisms.load("toy")
        >>> inputs = tokenizer("two plus two", return_tensors="pt")
        >>> with RoutingTap(model, sites=("expert_indices",)) as tap:
        ...     _ = model(**inputs)
        ...     best = int(tap.take().expert_indices[0, 2, 0])
        ...     with reroute(model, [(2, best)]):
        ...         _ = model(**inputs)
        ...     rerouted = tap.take().expert_indices[:, 2]
        >>> bool((rerouted == best).any()), rerouted.shape[1]
        (False, 4)
    """
    removed = experts_by_block(model, experts)
    if not all(has_bias(block) for block, _ in removed):
        refuse_compiled(model)
    for block, out in removed:
        refuse_edited(block, "reroute")
        refuse_boosted(block, out)
        refuse_too_few(block, out)
    with ExitStack() as stack:
        for block, out in removed:
            remove = removed_by_bias if has_bias(block) else removed_by_hook
            stack.enter_context(remove(block, out))
            if has_bias(block) and not is_compiled(model):
                stack.enter_context(seen_to_be_out(block, out))
        yield


@contextmanager
def zero(model: nn.Module, experts: Collection[tuple[int, int]]) -> Iterator[None]:
    """Silence experts: the choice stays, and those chosen get the weight 0 in the place of theirs.

    Nothing takes over: the weights of the others stay, so a token adds as much less to the residual
    stream as these experts would have added. That is also what an expert whose output is 0 does.
    May be nested, and closed in any order; not in one layer with `renormalise`.

    Args:
        model: A transformers model of one of the families in `interp.hooks.spec.SPECS`.
        experts: Pairs of a layer, by its number in the model, and an expert; may be all of a layer.

    Raises:
        InputError: If there is no such layer or expert, a layer is under `renormalise`, or the
            model was compiled.
        ModelError: In a pass, if the model does not call its router or its experts, or its experts
            do not go by the weights that they are given.

    Example:
        >>> from interp import organisms
        >>> from interp.hooks import RoutingTap
        >>> model, tokenizer = organisms.load("toy")
        >>> inputs = tokenizer("two plus two", return_tensors="pt")
        >>> with RoutingTap(model) as tap:
        ...     _ = model(**inputs)
        ...     usual = tap.take()
        ...     with zero(model, [(2, int(usual.expert_indices[0, 2, 0]))]):
        ...         _ = model(**inputs)
        ...     weights = tap.take().expert_weights[0, 2]
        >>> torch.equal(weights[:3], usual.expert_weights[0, 2, 1:]), float(weights[3])
        (True, 0.0)
    """
    silenced = experts_by_block(model, experts)
    refuse_compiled(model)
    for block, _ in silenced:
        refuse_edited(block, "zero")
    with ExitStack() as stack:
        for block, out in silenced:
            stack.enter_context(zeroed(block, out))
        yield


@contextmanager
def renormalise(model: nn.Module, experts: Collection[tuple[int, int]]) -> Iterator[None]:
    """Silence experts, and scale the weights of the others chosen to the sum they all had.

        weight'[e] = 0 if e in R, else weight[e] * sum(all chosen) / sum(chosen not in R)

    computed in float32 and rounded to the dtype of the router. A token that has none of `R` keeps
    its bits. **A token whose chosen experts are all in `R` gets 0 for each of them**, as under
    `zero`: there is nothing to scale, and no other expert was chosen. May be nested, and closed in
    any order; not in one layer with `zero`.

    Args:
        model: A transformers model of one of the families in `interp.hooks.spec.SPECS`.
        experts: Pairs of a layer, by its number in the model, and an expert.

    Raises:
        InputError: If there is no such layer or expert, all experts of a layer are in the set, a
            layer is under `zero`, or the model was compiled.
        ModelError: As in `zero`.

    Example:
        >>> from interp import organisms
        >>> from interp.hooks import RoutingTap
        >>> model, tokenizer = organisms.load("toy")
        >>> inputs = tokenizer("two plus two", return_tensors="pt")
        >>> with RoutingTap(model) as tap:
        ...     _ = model(**inputs)
        ...     best = int(tap.take().expert_indices[0, 2, 0])
        ...     with renormalise(model, [(2, best)]):
        ...         _ = model(**inputs)
        ...     weights = tap.take().expert_weights[0, 2]
        >>> round(float(weights.sum()), 3), float(weights[-1])
        (1.0, 0.0)
    """
    silenced = experts_by_block(model, experts)
    refuse_compiled(model)
    for block, out in silenced:
        refuse_edited(block, "renormalise")
        refuse_none_left(block, out)
    with ExitStack() as stack:
        for block, out in silenced:
            stack.enter_context(renormalised(block, out))
        yield


KNOCKOUTS: dict[str, Knockout] = {"reroute": reroute, "zero": zero, "renormalise": renormalise}
"""The three ways to take experts out, by name; docs/interventions.md says what each removes."""


@contextmanager
def replay_routing(
    model: nn.Module,
    *,
    expert_indices: Integer[Array, "tokens layers top_k"],
    expert_weights: Float[Array, "tokens layers top_k"] | None = None,
    layers: Sequence[int] | None = None,
    rows: Integer[Array, "tokens"] | None = None,
) -> Iterator[None]:
    """Send tokens to the experts that were recorded, whatever the router would choose.

    Without `expert_weights` this is routing replay as in Ma et al. 2025 (arXiv:2510.11370, R3):
    recorded experts, weights by the family's rule from the logits of the running pass. With them,
    nothing of the router is left. Logits stay what they are.

    Args:
        model: A transformers model of one of the families in `interp.hooks.spec.SPECS`.
        expert_indices: From `PassRecords` or `Store.router()`; in any order within a token.
        expert_weights: Given to the experts as they are, in the dtype that the router returns.
        layers: Numbers in the model of the layers along axis 1; all routed layers if None.
        rows: Positions of the recorded tokens in `(batch pos)` flattened, in every pass; all others
            route themselves. If None, every pass must have exactly the recorded tokens.

    Raises:
        InputError: If the records do not fit the model, hold an expert twice for a token or weights
            that are not finite, a layer is under another intervention, or the model was compiled.
        ModelError: In a pass, if it has other tokens than the records, or the model does not call
            its router.

    Example:
        >>> from interp import organisms
        >>> from interp.hooks import RoutingTap
        >>> model, tokenizer = organisms.load("toy")
        >>> inputs = tokenizer("two plus two", return_tensors="pt")
        >>> with RoutingTap(model) as tap:
        ...     usual = model(**inputs).logits
        >>> records = tap.take()
        >>> with replay_routing(model, expert_indices=records.expert_indices):
        ...     again = model(**inputs).logits
        >>> torch.equal(usual, again)
        True
    """
    blocks = {block.layer: block for block in chosen_blocks(model, layers)}
    numbers = tuple(blocks) if layers is None else tuple(layers)
    indices, weights = _tensor(expert_indices).long(), _tensor(expert_weights)
    token_rows = None if rows is None else _tensor(rows).long()
    check_records(blocks[numbers[0]], numbers, indices, weights)
    check_rows(token_rows, n_tokens=len(indices))
    for block in blocks.values():
        refuse_edited(block, "replay_routing")
    with ExitStack() as stack:
        for column, layer in enumerate(numbers):
            recorded = Recorded(
                expert_indices=indices[:, column],
                expert_weights=None if weights is None else weights[:, column],
                rows=token_rows,
            )
            stack.enter_context(replayed(blocks[layer], recorded))
        yield


def _tensor(array: Array | None) -> Any:
    """As a tensor; integers as int64, because torch cannot compute with all that NumPy has."""
    if array is None or isinstance(array, Tensor):
        return array
    return torch.from_numpy(array.astype(np.int64) if array.dtype.kind in "iu" else array.copy())
