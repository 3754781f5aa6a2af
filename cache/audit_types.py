"""What an audit asks of types: harmless kinds, and those that docs/format.md has for a dataset."""

import re
from typing import Any

from h5py import h5t

from interp.cache.bfloat16 import bfloat16_type
from interp.cache.errors import StoreError

MAX_TEXT = 2**16
"""Bytes of a fixed-length string."""

_NUMBERS = {
    f"<{kind}{size}": getattr(h5t, f"{name}{size * 8}LE")
    for kind, name, sizes in (
        ("i", "STD_I", (1, 2, 4, 8)),
        ("u", "STD_U", (1, 2, 4, 8)),
        ("f", "IEEE_F", (2, 4, 8)),
    )
    for size in sizes
} | {"bfloat16": bfloat16_type()}
_CLASSES = {
    h5t.TIME: "a time",
    h5t.BITFIELD: "bit fields",
    h5t.OPAQUE: "opaque bytes",
    h5t.COMPOUND: "a compound type",
    h5t.REFERENCE: "references",
    h5t.VLEN: "a type of variable length",
    h5t.ARRAY: "an array type",
}
_KNOWN = (
    (r"prompts/(prompt_id|condition|source|domain)", ("prompts",), ("string",)),
    (r"prompts/(item_id|variant|template)", ("prompts",), ("string",)),
    (r"prompts/(offset|text_offset)", ("prompts + 1",), ("<i8",)),
    (r"vocab/text_offset", ("ids + 1",), ("<i8",)),
    (r"prompts/text", ("prompt bytes",), ("<u1",)),
    (r"vocab/text", ("vocab bytes",), ("<u1",)),
    (r"tokens/(token_id|position|text_end)", ("tokens",), ("<i4",)),
    (r"tokens/segment", ("tokens",), ("<u1",)),
    (r"tokens/generated", ("tokens",), ("bool",)),
    (r"tokens/logprob", ("tokens",), ("<f4",)),
    (r"router/expert_indices", ("tokens", "n_layers", "top_k"), ("<u1", "<u2")),
    (r"router/expert_weights", ("tokens", "n_layers", "top_k"), ("<f2", "<f4")),
    (r"router/router_logits", ("tokens", "n_layers", "n_experts"), ("<f2", "<f4")),
    (r"experts/expert_output_norms", ("tokens", "n_layers", "top_k"), ("<f4",)),
    (r"resid/token_index", ("rows",), ("<i8",)),
    (r"resid/[^/]+/layer_\d+", ("rows", "d_model"), ("<f2", "<f4", "bfloat16")),
)
"""Datasets of docs/format.md: path, axes, types. Others are held to the rules for all parts."""


def printed(text: str) -> str:
    """Text from a stranger's file as a message may show it: short, and nothing but characters."""
    return "".join(each if each.isprintable() else "?" for each in text[:120])


def type_name(stored_type: Any, path: str) -> str:
    """Name of a type that a part may have: `<u1`, `bfloat16`, `bool`, `string` and the like.

    Never asks for a NumPy type: for some types that alone crashes.

    Raises:
        StoreError: If it is of any other kind.
    """
    kind = stored_type.get_class()
    if kind in _CLASSES:
        raise StoreError(f"{path} holds {_CLASSES[kind]}, expected numbers or fixed-length strings")
    if stored_type.committed():
        raise StoreError(f"{path} has a committed type, expected one of its own")
    if kind == h5t.STRING:
        return _string_name(stored_type, path)
    if kind == h5t.ENUM and _is_bool(stored_type):
        return "bool"
    for name, number in _NUMBERS.items():
        if kind in (h5t.INTEGER, h5t.FLOAT) and stored_type.equal(number):
            return name
    raise StoreError(f"{path} has an unknown kind of number, expected little-endian ones or bool")


def _string_name(stored_type: Any, path: str) -> str:
    if stored_type.is_variable_str():
        raise StoreError(f"{path} holds strings of variable length, expected a fixed one")
    if not 1 <= stored_type.get_size() <= MAX_TEXT:
        raise StoreError(f"{path} holds strings of {stored_type.get_size()} bytes")
    if stored_type.get_strpad() not in (h5t.STR_NULLTERM, h5t.STR_NULLPAD):
        raise StoreError(f"{path} holds strings padded with spaces, expected NULs")
    if stored_type.get_cset() not in (h5t.CSET_ASCII, h5t.CSET_UTF8):
        raise StoreError(f"{path} holds strings in an unknown encoding, expected UTF-8")
    return "string"


def _is_bool(stored_type: Any) -> bool:
    if stored_type.get_nmembers() != 2 or not stored_type.get_super().equal(h5t.STD_I8LE):
        return False
    members = {stored_type.get_member_name(at): stored_type.get_member_value(at) for at in (0, 1)}
    return members == {b"FALSE": 0, b"TRUE": 1}


def check_known(path: str, kind: str, shape: tuple[int, ...], axes: dict[str, int]) -> None:
    """A dataset that the format names has its type, and axes as long as elsewhere in the part.

    Args:
        path: Where it is in the part.
        kind: Its type, as `type_name` says it.
        shape: Its shape.
        axes: Lengths of the axes met so far, by name; those met here are added.

    Raises:
        StoreError: If it has not.
    """
    known = next((each for each in _KNOWN if re.fullmatch(each[0], path)), None)
    if known is None:
        return
    _, names, kinds = known
    if kind not in kinds or len(shape) != len(names):
        raise StoreError(
            f"{path} holds {kind} in {len(shape)} axes, expected {' or '.join(kinds)} "
            f"in {len(names)}"
        )
    for axis, length in zip(names, shape, strict=True):
        name, extra = axis.removesuffix(" + 1"), axis.endswith(" + 1")
        if axes.setdefault(name, length - extra) != length - extra:
            raise StoreError(f"{path} has {length} {axis}, which contradicts the rest of the part")
