"""Fields of a layout as JSON has them, checked before one of them is used."""

from collections.abc import Mapping
from typing import Any

SIZES = ("n_layers", "n_experts", "top_k", "d_model")
TEXTS = ("weights_sum", "weights_dtype", "resid_dtype")
FLAGS = ("router_logits", "expert_output_norms", "vocab_local")
MOST = 2**31
"""No size and no number of a layer comes near it."""


def check_layout_types(values: object) -> None:
    """Refuse what is no layout, or has a field of another type than `Layout` has it.

    Fields that stores from before them lack may be missing.

    Raises:
        KeyError: If a field is missing.
        TypeError: If a field has another type.
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"layout is {_shown(values)}, expected an object")
    for name in SIZES:
        _expect(name, values[name], "a whole number from 0", holds=_is_size(values[name]))
    for name in set(TEXTS) & set(values):
        _expect(name, values[name], "text", holds=isinstance(values[name], str))
    for name in set(FLAGS) & set(values):
        _expect(name, values[name], "true or false", holds=isinstance(values[name], bool))
    layers, sites = values["layer_indices"], values["resid_sites"]
    _expect("layer_indices", layers, "a list of whole numbers from 0", holds=_all(layers, _is_size))
    _expect("resid_sites", sites, "a list of names", holds=_all(sites, _is_text))


def _expect(name: str, value: object, expected: str, *, holds: bool) -> None:
    if not holds:
        raise TypeError(f"layout.{name} is {_shown(value)}, expected {expected}")


def _all(values: object, holds: Any) -> bool:
    return isinstance(values, list) and all(holds(each) for each in values)


def _is_size(value: object) -> bool:
    """Whether it is a whole number; True is none."""
    return type(value) is int and 0 <= value < MOST


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _shown(value: object) -> str:
    return repr(value)[:80]
