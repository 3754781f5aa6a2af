"""How the residual stream of a running pass is changed at one site of one layer.

`resid_pre` of a layer is `resid_post` of the one before it, so it is changed there, and taps see
the same at both. At `resid_mid` the states are changed in place: the layer reads them twice, once
through its norm and once to add what its experts give.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor, nn

from interp.cache.errors import InputError, ModelError
from interp.hooks.blocks import RoutedBlock, attribute
from interp.hooks.hook_order import put_first

RESIDUAL_EDITS = "interp_edits_residual"
"""Mark on the hooks of this module; its value says what they do."""
ORDER = ("patch_residual", "steer_residual")
"""What is put in the place of a state comes first, and directions are added to it."""
Change = Callable[[Tensor], Tensor]
"""Takes some rows of the stream, `[rows d_model]`, and gives them anew."""


@dataclass(frozen=True, kw_only=True)
class ResidualEdit:
    """What an intervention does at one site; the mark on its hook."""

    name: str
    """The function that opened it, of `ORDER`."""
    site: str
    """Where, of `RESID_SITES`."""
    layer: int
    """Number of the layer in the model."""
    rows: Int[Tensor, "rows"] | None
    """Positions in `(batch pos)` flattened; all if None."""


@contextmanager
def residual_hook(
    model: nn.Module, block: RoutedBlock, mark: ResidualEdit, change: Change
) -> Iterator[None]:
    """Change some rows of the stream in every pass, before anyone else sees them.

    Raises:
        ModelError: In a pass, if it has fewer tokens than `rows` names, or its model does not call
            the module at which the stream is changed.
    """
    was_called = False

    def changed(hidden: Tensor) -> Tensor:
        nonlocal was_called
        was_called = True
        flat = rearrange(hidden, "batch pos d_model -> (batch pos) d_model")
        rows = _rows_in_pass(mark, n_tokens=len(flat)).to(hidden.device)
        new = flat.index_copy(0, rows, change(flat[rows]).to(flat.dtype))
        return new.reshape(hidden.shape)

    def start(*_: Any) -> None:
        nonlocal was_called
        was_called = False

    def end(*_: Any) -> None:
        if not was_called:
            raise ModelError(
                f"{mark.name} had no effect on {mark.site} of layer {mark.layer}: a fused kernel "
                "goes around the module at which it is changed; load the model without that kernel"
            )

    handle = _register(model, block, mark, changed)
    handles = (
        handle,
        model.register_forward_pre_hook(start),
        model.register_forward_hook(end),
    )
    try:
        yield
    finally:
        for each in handles:
            each.remove()


def residual_edits(model: nn.Module) -> tuple[ResidualEdit, ...]:
    """The marks of the interventions that are open on the stream of a model."""
    return tuple(
        getattr(hook, RESIDUAL_EDITS)
        for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
        for hook in hooks.values()
        if hasattr(hook, RESIDUAL_EDITS)
    )


def refuse_patched(
    model: nn.Module, *, site: str, layer: int, rows: Int[Tensor, "rows"] | None
) -> None:
    """A state that is patched already cannot be patched with something else."""
    for edit in residual_edits(model):
        is_patch = edit.name == "patch_residual"
        if not is_patch or _place(edit.site, edit.layer) != _place(site, layer):
            continue
        both = rows if edit.rows is None else edit.rows
        if rows is not None and edit.rows is not None:
            both = rows[torch.isin(rows, edit.rows)]
        if both is None or len(both):
            row = "all rows" if both is None else f"row {int(both[0])}"
            raise InputError(
                f"{row} of {site} of layer {layer} is under patch_residual already, which puts "
                "other values there; close that first, or leave the row out"
            )


def _register(
    model: nn.Module, block: RoutedBlock, mark: ResidualEdit, changed: Callable[[Tensor], Tensor]
) -> Any:
    """Put the hook on the module whose input or output is the site; the first layer has none
    before it.
    """
    site, layer = _place(mark.site, mark.layer)
    if site == "resid_post":
        decoder = list(attribute(model, block.spec.layers).children())[layer]

        def on_output(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if isinstance(output, tuple):
                return (changed(output[0]), *output[1:])
            return changed(output)

        setattr(on_output, RESIDUAL_EDITS, mark)
        handle = decoder.register_forward_hook(on_output)
        put_first(decoder._forward_hooks, mark=RESIDUAL_EDITS, order=ORDER)
        return handle
    module = block.decoder if site == "resid_pre" else block.resid_mid

    def on_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        new = changed(hidden)
        if site == "resid_mid":
            hidden.copy_(new)
            return None
        return ((new, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": new})

    setattr(on_input, RESIDUAL_EDITS, mark)
    handle = module.register_forward_pre_hook(on_input, with_kwargs=True)
    put_first(module._forward_pre_hooks, mark=RESIDUAL_EDITS, order=ORDER)
    return handle


def _place(site: str, layer: int) -> tuple[str, int]:
    """One name for one place: what a layer hands on is what the next one receives."""
    return ("resid_post", layer - 1) if site == "resid_pre" and layer > 0 else (site, layer)


def _rows_in_pass(mark: ResidualEdit, *, n_tokens: int) -> Int[Tensor, "rows"]:
    if mark.rows is None:
        return torch.arange(n_tokens)
    if mark.rows.max() >= n_tokens:
        raise ModelError(
            f"rows holds {int(mark.rows.max())}, but {mark.site} of layer {mark.layer} has only "
            f"{n_tokens} tokens in this pass (0 to {n_tokens - 1})"
        )
    return mark.rows
