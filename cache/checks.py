"""What layouts and arrays must be before they enter a store.

The writer never rounds: a value that the stored dtype cannot hold is refused, so that what is read
is what was added. Cast first where a smaller dtype is wanted.
"""

from typing import Any

import numpy as np

from interp.cache.records import RESID_SITES, Layout

SUM_TOLERANCE = 4e-3
"""bfloat16 keeps 8 bits: 4 weights of a softmax rounded to it sum to 1 only this closely."""
ORDER_TOLERANCE = 1e-3
LOGPROB_TOLERANCE = 1e-3
RESID_DTYPES = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}


def check_layout(layout: Layout) -> None:
    """Refuse a layout that no store can have.

    Raises:
        ValueError: Naming the field, what was found and what was expected.
    """
    _expect_one_of("weights_sum", layout.weights_sum, ("one", "family"))
    _expect_one_of("weights_dtype", layout.weights_dtype, ("float16", "float32"))
    _expect_one_of("resid_dtype", layout.resid_dtype, tuple(RESID_DTYPES))
    for site in layout.resid_sites:
        _expect_one_of("resid_sites", site, RESID_SITES)
    if (
        layout.n_layers < 1
        or (np.diff(layout.layer_indices) <= 0).any()
        or layout.layer_indices[0] < 0
    ):
        raise ValueError(
            f"layer_indices is {layout.layer_indices}, expected rising numbers from 0 or more"
        )
    if layout.n_experts > 2**16:
        raise ValueError(f"n_experts is {layout.n_experts}, expected at most {2**16}")
    if layout.d_model < (1 if layout.resid_sites else 0):
        raise ValueError(f"d_model is {layout.d_model}, expected the width of the residual stream")


def _expect_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(known)}")


def exact(name: str, values: Any, dtype: str) -> np.ndarray:
    """The values in the stored dtype; a copy only where they were in another.

    Raises:
        ValueError: If the values are not numbers of this kind, or one of them would change.
    """
    given = np.asarray(values)
    kinds = {"f": "f", "b": "b"}.get(np.dtype(dtype).kind, "iu")
    if given.dtype.kind not in kinds:
        raise ValueError(
            f"{name} has dtype {given.dtype}, expected one that becomes {np.dtype(dtype)}"
        )
    with np.errstate(over="ignore", under="ignore"):
        stored = np.ascontiguousarray(given, dtype=dtype)
    if stored.dtype != given.dtype and not np.array_equal(stored, given, equal_nan=kinds == "f"):
        raise ValueError(
            f"{name} holds {given.dtype} values that {stored.dtype} would change; "
            "choose a wider dtype in the layout, or cast them first"
        )
    return stored


def expect_shape(name: str, array: np.ndarray, shape: tuple[int, ...], axes: str) -> None:
    """Refuse an array of any other shape."""
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape} ({axes})")


def check_experts(indices: np.ndarray, *, n_experts: int) -> None:
    """Refuse indices out of range, and one expert twice for one token and layer."""
    if indices.min() < 0 or indices.max() >= n_experts:
        odd = indices.min() if indices.min() < 0 else indices.max()
        raise ValueError(
            f"expert_indices holds expert {odd}, but the layer has only {n_experts} experts "
            f"(0 to {n_experts - 1})"
        )
    ranked = np.sort(indices, axis=-1)
    if (ranked[..., 1:] == ranked[..., :-1]).any():
        raise ValueError("expert_indices names one expert twice for one token and layer")


def check_weights(weights: np.ndarray, *, weights_sum: str) -> None:
    """Refuse weights that are not finite, not descending, or do not sum as they should."""
    wide = weights.astype(np.float64)
    if not np.isfinite(wide).all() or (wide < 0).any():
        raise ValueError("expert_weights must be finite and not negative; some are not")
    if (np.diff(wide, axis=-1) > ORDER_TOLERANCE).any():
        raise ValueError("expert_weights must descend along top_k; sort experts by weight first")
    off = float(np.abs(wide.sum(axis=-1) - 1).max())
    if weights_sum == "one" and off > SUM_TOLERANCE:
        raise ValueError(
            f"expert_weights sum to 1 only within {off:.2g}, expected {SUM_TOLERANCE:g}; "
            "a family whose weights do not sum to 1 has weights_sum='family'"
        )


def check_norms(norms: np.ndarray) -> None:
    """Refuse norms that are none: negative, infinite or NaN."""
    if not np.isfinite(norms).all() or (norms < 0).any():
        raise ValueError(
            "expert_output_norms must be finite and not negative; the capture went wrong before "
            "the store"
        )


def index_dtype(n_experts: int) -> str:
    """The dtype of expert_indices: uint8 as long as every index fits."""
    return "<u1" if n_experts <= 256 else "<u2"
