"""What is no routing: zeros, constants, experts that cannot be; named by file, token and layer."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Integer

from interp.cache.errors import InputError

MIN_REPEATED_CHOICES = 8
"""Ours: so many choices must have been repeated by further, different tokens before routing counts
as constant. Fewer can be chance, as where two tokens each choose one expert of two."""

_UNREPORTED = (
    "vLLM returns this when the kernel in use does not report routing (record again with "
    "--moe-backend triton), and servers fill dense layers so (name the routed ones with --layers)"
)


def check_routing(
    indices: Integer[np.ndarray, "tokens layers top_k"],
    *,
    where: str,
    layers: Sequence[int],
    n_experts: int,
    token_id: Integer[np.ndarray, "tokens"],
) -> None:
    """Refuse what a router cannot have chosen.

    Args:
        indices: Experts of each token.
        where: File, line and key, for sentences.
        layers: Numbers in the model of the layers along axis 1.
        n_experts: Experts in a layer.
        token_id: Which token each row is of.

    Raises:
        InputError: If a layer is all zero or all -1, an index is out of range, a token names one
            expert twice, or all tokens choose alike in every layer.
    """
    for value, name in ((0, "zero"), (-1, "-1")):
        filled = (indices == value).all(axis=(0, 2))
        if filled.any() and (value or indices.shape[2] > 1):
            raise InputError(
                f"{where}: routing of layers {_named(filled, layers)} is all {name}; {_UNREPORTED}"
            )
    off = (indices < 0) | (indices >= n_experts)
    if off.any():
        token, column, slot = np.argwhere(off)[0]
        raise InputError(
            f"{where}: token {token} at layer {layers[column]} chose expert "
            f"{indices[token, column, slot]}, but the layer has only {n_experts} experts "
            f"(0 to {n_experts - 1})"
        )
    ranked = np.sort(indices, axis=-1)
    twice = (ranked[..., 1:] == ranked[..., :-1]).any(axis=-1)
    if twice.any():
        token, column = np.argwhere(twice)[0]
        raise InputError(
            f"{where}: token {token} at layer {layers[column]} names one expert twice, in "
            f"{indices[token, column].tolist()}; that is no routing"
        )
    alike = (indices == indices[0]).all(axis=(0, 2))
    if alike.all() and _n_further(token_id) * alike.size * indices.shape[2] >= MIN_REPEATED_CHOICES:
        _refuse_constant(where, alike, layers, indices)


def refuse_constant_layers(
    traces: Mapping[str, tuple[np.ndarray, np.ndarray]], layers: Sequence[int]
) -> None:
    """Refuse layers in which all tokens of all traces choose alike.

    Args:
        traces: Token ids, and experts of each token, by the name of the trace.
        layers: Numbers in the model of the layers.

    Raises:
        InputError: Naming the layers and the first trace.
    """
    where, (_, first) = next(iter(traces.items()))
    alike = np.ones(first.shape[1], dtype=np.bool_)
    for _, indices in traces.values():
        alike &= (indices == first[0]).all(axis=(0, 2))
    token_id = np.concatenate([tokens for tokens, _ in traces.values()])
    if alike.any() and _n_further(token_id) * first.shape[2] >= MIN_REPEATED_CHOICES:
        _refuse_constant(f"{where} and all else that was given", alike, layers, first)


def _n_further(token_id: np.ndarray) -> int:
    """Different tokens beyond the first; the same token again may well be routed alike."""
    return len(np.unique(token_id)) - 1


def _refuse_constant(
    where: str, alike: np.ndarray, layers: Sequence[int], indices: np.ndarray
) -> None:
    column = int(np.argmax(alike))
    raise InputError(
        f"{where}: routing of layers {_named(alike, layers)} is the same for every token "
        f"({indices[0, column].tolist()} at layer {layers[column]}), so it records none; "
        f"{_UNREPORTED}"
    )


def _named(which: Bool[np.ndarray, "layers"], layers: Sequence[int]) -> list[int]:
    return [layers[int(column)] for column in np.flatnonzero(which)]
