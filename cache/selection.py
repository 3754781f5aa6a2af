"""Which layers of a store, and which rows of a part, are those that somebody asks for."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from interp.cache.opened import OpenedPart

PromptSelection = Sequence[int] | Sequence[bool] | np.ndarray
"""A mask over prompts, or rising positions."""
LayerSelection = Sequence[int] | np.ndarray
"""Numbers of layers in the model."""


def chosen_layers(layers: Any, *, stored: Sequence[int], where: str) -> tuple[int, ...]:
    """Numbers of layers, as they were asked for.

    Args:
        layers: A `LayerSelection`.
        stored: Numbers of the layers that are there.
        where: The store, for sentences.

    Raises:
        ValueError: If it is no list of whole numbers: a mask, text, or one number by itself; or
            one of them is not stored.
    """
    is_one_number = isinstance(layers, np.ndarray) and layers.ndim != 1
    if not isinstance(layers, Iterable) or isinstance(layers, str | bytes) or is_one_number:
        raise ValueError(
            f"layers is {_shown(layers)}, expected a list of layer numbers, such as [3, 7]"
        )
    given = list(layers)
    if any(isinstance(each, bool | np.bool_) for each in given):
        raise ValueError(
            "layers is a mask, expected layer numbers in the model, such as [3, 7]; "
            "np.array(store.layout.layer_indices)[mask] gives them"
        )
    numbers = tuple(_whole_number("one of layers", each) for each in given)
    for layer in numbers:
        if layer not in stored:
            raise ValueError(
                f"{where} holds no routing of layer {layer}, only of layers {_listed(stored)}; "
                "ask for one of these"
            )
    return numbers


def resid_layer(site: str, layer: Any, *, held: Mapping[str, Sequence[int]], where: str) -> int:
    """The number of a layer whose residuals are stored.

    Args:
        site: Of the residual stream.
        layer: As it was asked for.
        held: By site, the layers that are there.
        where: The store, for sentences.

    Raises:
        ValueError: If it is no whole number, or not stored.
    """
    number = _whole_number("layer", layer)
    if number not in held.get(site, ()):
        there = "; ".join(f"{name} of layers {_listed(each)}" for name, each in held.items())
        raise ValueError(
            f"{where} holds no {site} of layer {number}; it holds {there or 'no residuals'}, so "
            "capture that site and layer to read it"
        )
    return number


def chosen_prompts(prompts: Any, *, n_prompts: int) -> Int[np.ndarray, "chosen"]:
    """Positions of the chosen prompts, rising.

    Args:
        prompts: A `PromptSelection`.
        n_prompts: Of the store.

    Raises:
        ValueError: If it is neither, a mask has another length, or positions do not rise within
            the store.
    """
    given = _mask_or_positions(prompts)
    if given.dtype == np.bool_:
        if given.shape != (n_prompts,):
            raise ValueError(
                f"prompts is a mask of shape {given.shape}, but the store has {n_prompts} prompts"
            )
        return np.flatnonzero(given)
    if given.ndim != 1 or (given[1:] <= given[:-1]).any():
        raise ValueError("prompts must be a mask, or positions that rise; sort them first")
    if given.size and not 0 <= given[0] <= given[-1] < n_prompts:
        raise ValueError(
            f"prompts holds positions {given[0]} to {given[-1]}, expected 0 to {n_prompts - 1}"
        )
    return given.astype(np.int64)


def token_rows(offset: Int[np.ndarray, "_"], prompts: Int[np.ndarray, "chosen"]) -> list[slice]:
    """Tokens of some prompts of a part as slices; prompts that follow each other share one."""
    if not prompts.size:
        return []
    breaks = np.flatnonzero(np.diff(prompts) > 1)
    first = prompts[np.concatenate([[0], breaks + 1])]
    last = prompts[np.concatenate([breaks, [len(prompts) - 1]])]
    return [slice(int(offset[a]), int(offset[b + 1])) for a, b in zip(first, last, strict=True)]


def resid_rows(
    part: OpenedPart, tokens: Sequence[slice] | None
) -> tuple[list[slice] | None, Int[np.ndarray, "rows"]]:
    """Rows of the residuals of some tokens, and which token of the part each row is of."""
    if "resid/token_index" in part.source.shapes():
        index = part.source.read("resid/token_index")
    else:
        index = np.arange(part.n_tokens, dtype=np.int64)
    if tokens is None:
        return None, index
    bounds = [np.searchsorted(index, [each.start, each.stop]) for each in tokens]
    rows = [slice(int(start), int(stop)) for start, stop in bounds if start < stop]
    return rows, np.concatenate([index[:0], *(index[each] for each in rows)])


def _mask_or_positions(prompts: Any) -> np.ndarray:
    """A mask or whole numbers as an array; what is neither, such as a slice or text, is refused."""
    otherwise = (
        f"prompts is {_shown(prompts)}, which is neither a mask nor positions that rise; give one "
        "True or False for each prompt, or whole numbers within the store"
    )
    try:
        given = np.asarray(prompts)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(otherwise) from error
    if given.dtype.kind not in "iub" and given.shape == (0,):
        return np.empty(0, dtype=np.int64)
    mixes = (
        given.dtype.kind in "iu"
        and isinstance(prompts, Sequence)
        and any(isinstance(each, bool | np.bool_) for each in prompts)
    )
    if given.dtype.kind not in "iub" or mixes:
        raise ValueError(otherwise)
    return given


def _shown(value: Any) -> str:
    return " ".join(repr(value).split())[:80]


def _whole_number(name: str, value: Any) -> int:
    """A Python or NumPy integer as it is; 3.0 and True are none.

    Raises:
        ValueError: If it is anything else.
    """
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        raise ValueError(f"{name} is {_shown(value)}, expected a whole number")
    try:
        return operator.index(value)
    except TypeError as error:  # an array of several numbers, such as layers where one is asked for
        raise ValueError(f"{name} is {_shown(value)}, expected a whole number") from error


def _listed(layers: Sequence[int]) -> str:
    """Layers for a sentence: `0 to 23` or `3, 7, 11`."""
    if len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]} to {layers[-1]}"
    return ", ".join(str(layer) for layer in layers)
