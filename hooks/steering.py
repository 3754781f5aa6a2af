"""Interventions on the residual stream of a live model: a direction added, or values put in."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from interp.cache.errors import InputError, ModelError
from interp.cache.records import RESID_SITES
from interp.hooks.attach import refuse_compiled
from interp.hooks.blocks import RoutedBlock
from interp.hooks.residual_edits import ResidualEdit, refuse_patched, residual_hook
from interp.hooks.tap import chosen_blocks

Array = Tensor | np.ndarray


@contextmanager
def steer_residual(
    model: nn.Module,
    direction: Float[Array, "d_model"],
    *,
    site: str,
    layer: int,
    scale: float = 1.0,
    rows: Integer[Array, "rows"] | None = None,
) -> Iterator[None]:
    """Add a direction to the residual stream, at one site of one layer.

        state'[row] = state[row] + scale * direction

    as in activation addition (Turner et al. 2023, arXiv:2308.10248). The direction is taken as it
    is, neither centred nor normalised; `scale * direction` is rounded to the dtype of the stream
    and added in it. Several add up; their sum may round otherwise in another order.

    Args:
        model: A transformers model of one of the families in `interp.hooks.spec.SPECS`.
        direction: In the units of the stream, such as a probe's weights or a difference of means.
        site: `resid_pre`, `resid_mid` or `resid_post`.
        layer: Number of a routed layer in the model.
        scale: What the direction is multiplied with; negative to steer the other way.
        rows: Positions in `(batch pos)` flattened, in every pass; see `rows_of_segments`. All
            rows, padding included, if None, also in every step of a generation.

    Raises:
        InputError: If the site, layer or rows cannot be, the direction is not as wide as the
            stream, it or the scale is not finite in the dtype of the stream, or the model was
            compiled.
        ModelError: In a pass, if it has fewer tokens than `rows` names.

    Example:
        >>> from interp import organisms
        >>> from interp.hooks import RoutingTap
        >>> model, tokenizer = organisms.load("toy")
        >>> inputs = tokenizer("two plus two", return_tensors="pt")
        >>> direction = torch.ones(model.config.hidden_size)
        >>> with RoutingTap(model, sites=("resid_post",)) as tap:
        ...     _ = model(**inputs)
        ...     usual = tap.take().resid["resid_post", 1]
        ...     with steer_residual(model, direction, site="resid_post", layer=1, scale=2.0):
        ...         _ = model(**inputs)
        ...     steered = tap.take().resid["resid_post", 1]
        >>> torch.equal(steered, usual + 2)
        True
    """
    block = _checked_block(model, site, layer)
    vector, at = _tensor(direction), _checked_rows(rows)
    if vector.shape != (block.d_model,):
        raise InputError(
            f"direction has the shape {tuple(vector.shape)}, but the residual stream of layer "
            f"{layer} is {block.d_model} wide; give one number for each of its dimensions"
        )
    step = (vector.to(torch.float32) * scale).to(_dtype(model))
    _refuse_not_finite(step, "direction times scale")
    mark = ResidualEdit(name="steer_residual", site=site, layer=layer, rows=at)
    with residual_hook(model, block, mark, lambda states: states + step.to(states)):
        yield


@contextmanager
def patch_residual(
    model: nn.Module,
    values: Float[Array, "rows d_model"],
    *,
    site: str,
    layer: int,
    rows: Integer[Array, "rows"] | None = None,
) -> Iterator[None]:
    """Put given values in the place of the residual stream, at one site of one layer.

    Activation patching: with the states of another run, what comes after goes on as if that run
    had got so far at these rows (Vig et al. 2020, arXiv:2004.12265; Heimersheim and Nanda 2024,
    arXiv:2404.15255). A direction that is steered at the same place is added to the values.

    Args:
        model: A transformers model of one of the families in `interp.hooks.spec.SPECS`.
        values: One row for each of `rows`, from `PassRecords.resid` or `Store.resid`; rounded to
            the dtype of the stream.
        site: `resid_pre`, `resid_mid` or `resid_post`.
        layer: Number of a routed layer in the model.
        rows: Positions in `(batch pos)` flattened, in every pass. If None, every pass must have
            exactly as many tokens as there are values.

    Raises:
        InputError: If the site, layer or rows cannot be, the values are not as wide as the stream
            or not finite, a row is patched already, or the model was compiled.
        ModelError: In a pass, if it has other tokens than there are values, or fewer than `rows`
            names.
    """
    block = _checked_block(model, site, layer)
    new, at = _tensor(values), _checked_rows(rows)
    if new.ndim != 2 or new.shape[1] != block.d_model or not len(new):
        raise InputError(
            f"values has the shape {tuple(new.shape)}, expected rows of the residual stream of "
            f"layer {layer}, which is {block.d_model} wide"
        )
    if at is not None and len(at) != len(new):
        raise InputError(
            f"rows has {len(at)} positions, expected one for each of the {len(new)} rows of values"
        )
    new = new.to(_dtype(model))
    _refuse_not_finite(new, "values")
    refuse_patched(model, site=site, layer=layer, rows=at)

    def change(states: Tensor) -> Tensor:
        if len(states) != len(new):
            raise ModelError(
                f"{site} of layer {layer} has {len(states)} tokens in this pass, padding included, "
                f"but values holds {len(new)}; pass the tokens that were recorded, or give rows"
            )
        return new.to(states)

    mark = ResidualEdit(name="patch_residual", site=site, layer=layer, rows=at)
    with residual_hook(model, block, mark, change):
        yield


def _checked_block(model: nn.Module, site: str, layer: int) -> RoutedBlock:
    refuse_compiled(model)
    if site not in RESID_SITES:
        raise InputError(f"site is {site!r}, expected one of {', '.join(RESID_SITES)}")
    return chosen_blocks(model, [layer])[0]


def _checked_rows(rows: Array | None) -> Tensor | None:
    if rows is None:
        return None
    at = _tensor(rows)
    if at.ndim != 1 or not len(at) or at.is_floating_point() or at.dtype == torch.bool:
        raise InputError(
            f"rows has the shape {tuple(at.shape)} and dtype {at.dtype}, expected positions, one "
            "after the other"
        )
    at = at.long()
    if at.min() < 0 or len(at.unique()) < len(at):
        raise InputError("rows holds a negative position or one twice, expected each row once")
    return at


def _refuse_not_finite(values: Tensor, name: str) -> None:
    if not values.isfinite().all():
        raise InputError(
            f"{name} holds NaN or infinity in {values.dtype}, the dtype of the residual stream; "
            "expected finite numbers"
        )


def _dtype(model: Any) -> torch.dtype:
    dtype: torch.dtype = model.dtype
    return dtype


def _tensor(array: Array) -> Tensor:
    """As a tensor; integers as int64, because torch cannot compute with all that NumPy has."""
    if isinstance(array, Tensor):
        return array.detach()
    return torch.from_numpy(array.astype(np.int64) if array.dtype.kind in "iu" else array.copy())
