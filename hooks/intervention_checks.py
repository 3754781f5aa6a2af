"""What an intervention on routing refuses before anything runs, with a sentence each."""

from collections.abc import Collection, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from interp.cache.errors import InputError
from interp.hooks.blocks import RoutedBlock, routed_blocks
from interp.hooks.routing import group_limits


def experts_by_block(
    model: nn.Module, experts: Collection[tuple[int, int]]
) -> list[tuple[RoutedBlock, frozenset[int]]]:
    """The experts by their layers, each of which is there."""
    blocks = {block.layer: block for block in routed_blocks(model)}
    pairs = {(int(layer), int(expert)) for layer, expert in experts}
    if not pairs:
        raise InputError("experts is empty, expected pairs of layer and expert such as (3, 17)")
    for layer, expert in sorted(pairs):
        if layer not in blocks:
            raise InputError(f"experts holds layer {layer}, but the routed layers are {[*blocks]}")
        n_experts = blocks[layer].n_experts
        if not 0 <= expert < n_experts:
            raise InputError(
                f"experts holds expert {expert} of layer {layer}, but the layer has only "
                f"{n_experts} experts (0 to {n_experts - 1})"
            )
    return [
        (blocks[layer], frozenset(expert for each, expert in pairs if each == layer))
        for layer in sorted({layer for layer, _ in pairs})
    ]


def refuse_too_few(block: RoutedBlock, experts: frozenset[int]) -> None:
    """With what is out already, every token must be left with `top_k` experts to choose from."""
    out = experts.union(*(edit.experts for edit in block.edits if edit.name == "reroute"))
    is_left = torch.tensor([expert not in out for expert in range(block.n_experts)])
    if block.bias is not None:
        is_left &= ~block.bias.detach().cpu().isneginf()
    n_left = int(is_left.sum())
    if n_left < block.top_k:
        raise InputError(
            f"experts leaves {n_left} of {block.n_experts} experts in layer {block.layer}, but "
            f"each token needs {block.top_k}; take fewer out"
        )
    limits = group_limits(block)
    if limits is not None:
        _refuse_too_few_in_groups(block, is_left, *limits)


def refuse_boosted(block: RoutedBlock, experts: frozenset[int]) -> None:
    """An expert cannot be taken out and made the first choice at the same time."""
    for edit in block.edits:
        if edit.name == "boost" and (both := experts & edit.experts):
            raise InputError(
                f"expert {min(both)} of layer {block.layer} is under boost already, which makes "
                "every token choose it; close that first, or leave the expert out"
            )


def _refuse_too_few_in_groups(
    block: RoutedBlock, is_left: Tensor, n_groups: int, n_kept: int
) -> None:
    """Whichever groups a token may choose from, there must be `top_k` experts in them."""
    of_groups = rearrange(is_left, "(groups expert) -> groups expert", groups=n_groups).sum(-1)
    sizes = sorted(int(each) for each in of_groups if each)
    least = 2 if block.spec.group_score == "sum_of_two" else 1
    if len(sizes) < n_kept or sizes[0] < least or sum(sizes[:n_kept]) < block.top_k:
        raise InputError(
            f"experts leaves groups of {sizes} experts in layer {block.layer}, of which each token "
            f"chooses {block.top_k} experts from {n_kept} groups with at least {least} in each; "
            "take fewer out, or whole groups"
        )


def check_records(
    block: RoutedBlock, layers: Sequence[int], indices: Tensor, weights: Tensor | None
) -> None:
    """Experts and weights, `[tokens layers top_k]`, are such as the layers could have run."""
    if len(set(layers)) < len(layers):
        raise InputError(f"layers holds {list(layers)}, expected each layer once")
    expected = (len(layers), block.top_k)
    if indices.ndim != 3 or indices.shape[1:] != expected or not len(indices):
        raise InputError(
            f"expert_indices has the shape {tuple(indices.shape)}, expected tokens, "
            f"{expected[0]} layers and {expected[1]} experts each; name other layers with layers="
        )
    if indices.min() < 0 or indices.max() >= block.n_experts:
        wrong = int(indices.min() if indices.min() < 0 else indices.max())
        raise InputError(
            f"expert_indices holds expert {wrong}, but the layers have only {block.n_experts} "
            f"experts (0 to {block.n_experts - 1})"
        )
    is_twice = indices.sort(-1).values.diff(dim=-1).eq(0).any(-1)
    if is_twice.any():
        token, column = is_twice.nonzero()[0].tolist()
        raise InputError(
            f"expert_indices holds an expert twice for token {token} in layer {layers[column]}: "
            f"{indices[token, column].tolist()}"
        )
    if weights is not None and weights.shape != indices.shape:
        raise InputError(
            f"expert_weights has the shape {tuple(weights.shape)}, expected that of "
            f"expert_indices, {tuple(indices.shape)}"
        )
    if weights is not None and not weights.isfinite().all():
        raise InputError("expert_weights holds NaN or infinity, expected weights that were run")


def check_rows(rows: Tensor | None, *, n_tokens: int) -> None:
    """Rows, `[tokens]`, name one place in the pass for each recorded token."""
    if rows is None:
        return
    if rows.shape != (n_tokens,):
        raise InputError(
            f"rows has the shape {tuple(rows.shape)}, expected one for each of the {n_tokens} "
            "tokens of expert_indices"
        )
    if rows.min() < 0 or len(rows.unique()) < n_tokens:
        raise InputError("rows holds a negative position or one twice, expected each row once")
