"""Routed experts as servers send them: nested lists, base64 of an .npy, base64 of raw int32."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer

from interp.cache.errors import InputError
from interp.cache.trace_arrays import NPY_MAGIC, npy_from_bytes
from interp.cache.trace_lines import whole_numbers

_DTYPES = {"uint8": "<u1", "int16": "<i2", "uint16": "<u2", "int32": "<i4"}


def routing_array(
    found: Any, *, where: str, start: int, n_rows: Sequence[int], top_k: int | None
) -> tuple[Integer[np.ndarray, "tokens layers top_k"], int]:
    """Experts of each token from `start` on, and `start`, which an object may say of itself.

    Args:
        found: The value: a nested list; base64 of an .npy file (vLLM); base64 of little-endian
            int32 (SGLang); or an object of `data`, `shape`, `dtype` and perhaps `start` (Dynamo).
        where: File, line and key, for sentences.
        start: Tokens left out in front.
        n_rows: How many rows there may be with `start` at 0.
        top_k: Experts per token; needed for raw int32, and compared for the others.

    Raises:
        InputError: If it is none of these, or has another shape.
    """
    if isinstance(found, Mapping):
        start = _start(found, where=where, otherwise=start)
    if not 0 <= start < max(n_rows):
        raise InputError(
            f"{where}: the routing is said to start at token {start}, expected 0 to "
            f"{max(n_rows) - 1}; give --prompt-start as it was asked of the server"
        )
    expected = [rows - start for rows in n_rows]
    if isinstance(found, str):
        array = _from_base64(found, where=where, n_rows=expected[0], top_k=top_k)
    elif isinstance(found, Mapping):
        array = _from_object(found, where=where)
    else:
        array = whole_numbers(where, found, n_dims=3)
    if array.ndim != 3 or array.dtype.kind not in "iu" or 0 in array.shape[1:]:
        raise InputError(
            f"{where} has shape {array.shape} and dtype {array.dtype}, expected whole numbers "
            "along tokens, layers and top_k"
        )
    if len(array) not in expected:
        raise InputError(
            f"{where} has {len(array)} tokens, expected {' or '.join(map(str, expected))} (those "
            "of prompt and answer, without the last, which was never put in)"
        )
    if top_k not in (None, array.shape[2]):
        raise InputError(f"{where} has {array.shape[2]} experts per token, but top_k is {top_k}")
    return array, start


def _from_base64(text: str, *, where: str, n_rows: int, top_k: int | None) -> np.ndarray:
    raw = _decoded(text, where=where)
    if raw.startswith(NPY_MAGIC):
        return npy_from_bytes(raw, where=where)
    if top_k is None or top_k < 1:
        raise InputError(
            f"{where} is raw int32 as SGLang sends it, which does not say its shape; give --top-k"
        )
    n_layers, odd = divmod(len(raw), 4 * n_rows * top_k)
    if odd or not n_layers:
        raise InputError(
            f"{where} holds {len(raw)} bytes, expected int32 for {n_rows} tokens (those of prompt "
            f"and answer, without the last) with {top_k} experts at each layer; check --top-k and "
            "--prompt-start"
        )
    return np.frombuffer(raw, dtype="<i4").reshape(n_rows, n_layers, top_k)


def _from_object(found: Mapping[str, Any], *, where: str) -> np.ndarray:
    shape, dtype = found.get("shape"), found.get("dtype")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise InputError(f"{where}.dtype is {dtype!r:.40}, expected one of {', '.join(_DTYPES)}")
    if (
        not isinstance(shape, list)
        or len(shape) != 3
        or not all(type(size) is int and size > 0 for size in shape)
    ):
        raise InputError(f"{where}.shape is {shape!r:.40}, expected tokens, layers and top_k")
    if not isinstance(found.get("data"), str):
        raise InputError(f"{where}.data is {found.get('data')!r:.40}, expected base64")
    raw = _decoded(found["data"], where=f"{where}.data")
    n_bytes = shape[0] * shape[1] * shape[2] * np.dtype(_DTYPES[dtype]).itemsize
    if n_bytes != len(raw):
        raise InputError(
            f"{where}.data holds {len(raw)} bytes, expected {n_bytes} for {dtype} of shape {shape}"
        )
    return np.frombuffer(raw, dtype=_DTYPES[dtype]).reshape(shape)


def _start(found: Mapping[str, Any], *, where: str, otherwise: int) -> int:
    start = found.get("start", otherwise)
    if type(start) is not int:
        raise InputError(f"{where}.start is {start!r:.40}, expected a whole number")
    return start


def _decoded(text: str, *, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{where} is no base64 ({error}): {text!r:.40}") from error
