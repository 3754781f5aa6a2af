"""NumPy archives (.npz) from strangers: no pickle, sizes bounded, headers compared first."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format

from interp.cache.errors import InputError
from interp.cache.trace_arrays import NpyHeader, read_npy_header

MAX_NPZ_BYTES = 2**34
"""All arrays of an archive together, unpacked."""
TOKENS, PROMPTS = "tokens", "prompts"
AXES = {
    "token_id": ("iu", (TOKENS,)),
    "expert_indices": ("iu", (TOKENS, "layers", "top_k")),
    "expert_weights": ("f", (TOKENS, "layers", "top_k")),
    "router_logits": ("f", (TOKENS, "layers", "experts")),
    "generated": ("b", (TOKENS,)),
    "segment": ("iu", (TOKENS,)),
    "position": ("iu", (TOKENS,)),
    "logprob": ("f", (TOKENS,)),
    "prompt_offset": ("iu", ("prompts + 1",)),
    **dict.fromkeys(
        ("condition", "source", "domain", "item_id", "variant", "template", "text"),
        ("SU", (PROMPTS,)),
    ),
}
"""Kinds of dtype and axes of every key that is known."""
KEYS = tuple(AXES)
_KINDS = {
    "iu": "whole numbers",
    "f": "floats",
    "b": "booleans",
    "SU": "strings of fixed length",
}


def read_archive(file: Path) -> dict[str, np.ndarray]:
    """All arrays of an archive, after every header was found to be in order.

    Raises:
        InputError: If it is no archive, unpacks to more than `MAX_NPZ_BYTES`, or has a key or shape
            that does not fit, naming file and key.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            headers = _headers(file, archive)
            _check_shapes(file, headers)
            arrays = {}
            for key in headers:
                with archive.open(f"{key}.npy") as stream:
                    arrays[key] = npy_format.read_array(stream, allow_pickle=False)
            return arrays
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{file} cannot be read ({error}); give archives saved with numpy.savez"
        ) from error


def _headers(file: Path, archive: zipfile.ZipFile) -> dict[str, NpyHeader]:
    members = archive.infolist()
    n_bytes = sum(member.file_size for member in members)
    if n_bytes > MAX_NPZ_BYTES:
        raise InputError(
            f"{file} unpacks to {n_bytes:,} bytes, expected at most {MAX_NPZ_BYTES:,}; "
            "split it into several files"
        )
    headers: dict[str, NpyHeader] = {}
    for member in members:
        key = member.filename.removesuffix(".npy")
        if key not in AXES or key in headers or not member.filename.endswith(".npy"):
            why = "is there twice" if key in headers else f"is not among {', '.join(KEYS)}"
            raise InputError(f"{file}: key {key!r:.60} {why}; rename it or leave it out")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{file}: {key} is packed in a way that numpy.savez does not use")
        with archive.open(member) as stream:
            headers[key] = read_npy_header(stream, where=f"{file}: {key}", n_bytes=member.file_size)
    for key in ("token_id", "expert_indices"):
        if key not in headers:
            raise InputError(f"{file}: {key} is absent, expected it in every archive")
    return headers


def _check_shapes(file: Path, headers: Mapping[str, NpyHeader]) -> None:
    """Arrays that share an axis have it of the same size."""
    sizes: dict[str, int] = {PROMPTS: 1}
    if "prompt_offset" in headers and len(headers["prompt_offset"].shape) == 1:
        sizes = {PROMPTS: headers["prompt_offset"].shape[0] - 1}
    sizes["prompts + 1"] = sizes[PROMPTS] + 1
    for key, (kinds, axes) in AXES.items():
        if key not in headers:
            continue
        header = headers[key]
        if header.dtype.kind not in kinds:
            raise InputError(f"{file}: {key} has dtype {header.dtype}, expected {_KINDS[kinds]}")
        if len(header.shape) == len(axes):
            for axis, size in zip(axes, header.shape, strict=True):
                sizes.setdefault(axis, size)
        expected = tuple(sizes.get(axis, 0) for axis in axes)
        if header.shape != expected or 0 in expected:
            raise InputError(
                f"{file}: {key} has shape {header.shape}, expected axes {', '.join(axes)}"
                + (f" of sizes {expected}" if 0 not in expected else ", none of them empty")
            )
