"""Names, attributes and texts of a part: one HDF5 file, as `docs/format.md` has it."""

import re
from collections.abc import Sequence
from itertools import pairwise

import h5py
import numpy as np

from interp.cache.bfloat16 import is_bfloat16
from interp.cache.records import RESID_SITES, Layout

FORMAT = "moe-interp"
FORMAT_VERSION = "1.0"
LIBRARY_VERSIONS = ("v110", "v110")
"""The oldest library that can read a part; newer ones all can."""
_RESID = re.compile(rf"resid/({'|'.join(RESID_SITES)})/layer_([0-9]{{2}}|[1-9][0-9]{{2,8}})")


def part_name(number: int) -> str:
    """File name of a part, counted from 0."""
    return f"part-{number:05d}.h5"


def resid_path(site: str, layer: int) -> str:
    """Where the residuals of a site and layer are; the layer as numbered in the model."""
    return f"resid/{site}/layer_{layer:02d}"


def resid_place(path: str) -> tuple[str, int]:
    """Site and layer of the residuals at `path`; ("", -1) where it is the path of anything else."""
    found = _RESID.fullmatch(path)
    return ("", -1) if found is None else (found[1], int(found[2]))


def read_layout(part: h5py.File) -> Layout:
    """The layout of a part, from its root attributes and its datasets.

    Raises:
        KeyError: If an attribute or dataset is missing.
        ValueError: If they contradict each other.
    """
    paths = [
        f"resid/{site}/{name}" for site in RESID_SITES for name in part.get(f"resid/{site}", ())
    ]
    resid = [path for path in paths if resid_place(path)[0]]
    sites = tuple(sorted({resid_place(path)[0] for path in resid}))
    first = part[resid[0]] if resid else None
    return Layout(
        n_layers=int(part.attrs["n_layers"]),
        layer_indices=tuple(int(layer) for layer in part.attrs["layer_indices"]),
        n_experts=int(part.attrs["n_experts"]),
        top_k=int(part.attrs["top_k"]),
        d_model=int(part.attrs["d_model"]),
        weights_sum=attribute_text(part, "weights_sum"),
        weights_dtype=str(part["router/expert_weights"].dtype),
        resid_sites=sites,
        resid_dtype=_float_name(first),
        router_logits="router_logits" in part["router"],
        expert_output_norms="experts/expert_output_norms" in part,
        vocab_local="vocab" in part,
    )


def write_attributes(part: h5py.File, layout: Layout, provenance: str) -> None:
    """The root attributes of a part."""
    for name, value in (
        ("format", FORMAT),
        ("format_version", FORMAT_VERSION),
        ("weights_sum", layout.weights_sum),
    ):
        part.attrs.create(name, fixed_length([value.encode()])[0])
    for name in ("n_layers", "n_experts", "top_k", "d_model"):
        part.attrs.create(name, getattr(layout, name), dtype="<i8")
    part.attrs.create("layer_indices", layout.layer_indices, dtype="<i8")
    part.attrs.create("provenance", np.frombuffer(provenance.encode(), dtype="<u1"))


def attribute_text(part: h5py.File, name: str) -> str:
    """A root attribute that holds text: fixed-length UTF-8 or the uint8 of UTF-8.

    Raises:
        KeyError: If it is missing.
        ValueError: If it is not UTF-8.
    """
    value = part.attrs[name]
    return value.tobytes().decode() if isinstance(value, np.ndarray) else bytes(value).decode()


def split_texts(joined: np.ndarray, offsets: np.ndarray) -> list[bytes]:
    """The UTF-8 of texts that are stored end to end, with their offsets."""
    text = joined.tobytes()
    return [text[start:stop] for start, stop in pairwise(offsets)]


def offsets(lengths: Sequence[int]) -> np.ndarray:
    """Where each of some things that lie end to end starts, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths, dtype="<i8")]).astype("<i8")


def fixed_length(values: Sequence[bytes]) -> np.ndarray:
    """Texts as an array that HDF5 stores without variable length."""
    longest = max((len(value) for value in values), default=0)
    return np.array(values, dtype=h5py.string_dtype("utf-8", max(longest, 1)))


def _float_name(dataset: h5py.Dataset | None) -> str:
    if dataset is None:
        return "float32"
    return "bfloat16" if is_bfloat16(dataset) else str(dataset.dtype)
