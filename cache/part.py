"""One part of a store as HDF5: its root attributes and datasets, written and read.

`docs/format.md` is the law of what stands here. A part is built in memory, since many small writes
to a file are slow on a laptop and slower on a shared disk.
"""

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import h5py
import numpy as np

from interp.cache.bfloat16 import create_bfloat16, is_bfloat16
from interp.cache.records import PROMPT_FIELDS, SEGMENTS, Layout
from interp.cache.stored import Stored

FORMAT = "moe-interp"
FORMAT_VERSION = "1.0"
LIBRARY_VERSIONS = ("v110", "v110")
"""The oldest library that can read a part; newer ones all can."""

CHUNK_TOKENS = 16384
CHUNK_ROWS = 256
CHUNK_BYTES = 2**20
GZIP_LEVEL = 4


def part_name(number: int) -> str:
    """File name of a part, counted from 0."""
    return f"part-{number:05d}.h5"


def resid_path(site: str, layer: int) -> str:
    """Where the residuals of a site and layer are; the layer as numbered in the model."""
    return f"resid/{site}/layer_{layer:02d}"


def build_part(
    prompts: Sequence[Stored], *, layout: Layout, provenance: str, vocab: Sequence[bytes]
) -> memoryview:
    """The bytes of one part that holds these prompts. The same prompts give the same bytes."""
    file = io.BytesIO()
    with h5py.File(file, "w", libver=LIBRARY_VERSIONS) as part:
        _write_attributes(part, layout, provenance)
        _write_prompts(part.create_group("prompts"), prompts)
        tokens = part.create_group("tokens")
        _write_tokens(tokens, prompts)
        _write_routing(part.create_group("router"), [stored.router for stored in prompts])
        if layout.expert_output_norms:
            _write_routing(part.create_group("experts"), [stored.experts for stored in prompts])
        if layout.resid_sites:
            _write_resid(part, prompts, bfloat16=layout.resid_dtype == "bfloat16")
        if layout.vocab_local:
            _write_texts(part.create_group("vocab"), vocab)
    return file.getbuffer()


def read_layout(part: h5py.File) -> Layout:
    """The layout of a part, from its root attributes and its datasets.

    Raises:
        KeyError: If an attribute or dataset is missing.
        ValueError: If they contradict each other.
    """
    resid = part.get("resid", {})
    sites = tuple(sorted(site for site in resid if site != "token_index"))
    first = next(iter(resid[sites[0]].values())) if sites else None
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


def attribute_text(part: h5py.File, name: str) -> str:
    """A root attribute that holds text: fixed-length UTF-8 or the uint8 of UTF-8.

    Raises:
        KeyError: If it is missing.
        ValueError: If it is not UTF-8.
    """
    value = part.attrs[name]
    return value.tobytes().decode() if isinstance(value, np.ndarray) else bytes(value).decode()


def read_texts(group: h5py.Group) -> list[bytes]:
    """The UTF-8 of texts that are stored end to end, with their offsets."""
    joined, offsets = group["text"][()].tobytes(), group["text_offset"][()]
    return [joined[start:stop] for start, stop in pairwise(offsets)]


def _float_name(dataset: h5py.Dataset | None) -> str:
    if dataset is None:
        return "float32"
    return "bfloat16" if is_bfloat16(dataset) else str(dataset.dtype)


def _write_attributes(part: h5py.File, layout: Layout, provenance: str) -> None:
    for name, value in (
        ("format", FORMAT),
        ("format_version", FORMAT_VERSION),
        ("weights_sum", layout.weights_sum),
    ):
        part.attrs.create(name, _fixed_length([value.encode()])[0])
    for name in ("n_layers", "n_experts", "top_k", "d_model"):
        part.attrs.create(name, getattr(layout, name), dtype="<i8")
    part.attrs.create("layer_indices", layout.layer_indices, dtype="<i8")
    part.attrs.create("provenance", np.frombuffer(provenance.encode(), dtype="<u1"))


def _write_prompts(group: h5py.Group, prompts: Sequence[Stored]) -> None:
    for name in PROMPT_FIELDS:
        _create(group, name, _fixed_length([stored.fields[name] for stored in prompts]))
    _create(group, "offset", _offsets([stored.n_tokens for stored in prompts]))
    _write_texts(group, [stored.text for stored in prompts])


def _write_texts(group: h5py.Group, texts: Sequence[bytes]) -> None:
    _create(group, "text", np.frombuffer(b"".join(texts), dtype="<u1"), gzip=True)
    _create(group, "text_offset", _offsets([len(text) for text in texts]))


def _write_tokens(group: h5py.Group, prompts: Sequence[Stored]) -> None:
    for name in prompts[0].tokens:
        values = np.concatenate([stored.tokens[name] for stored in prompts])
        _create(group, name, values, gzip=values.dtype.kind != "f")
    names = _fixed_length([name.encode() for name in SEGMENTS])
    group["segment"].attrs.create("names", names, dtype=names.dtype)


def _write_routing(group: h5py.Group, prompts: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Datasets `[tokens layers k]`, in chunks of one layer each."""
    for name in prompts[0]:
        values = np.concatenate([arrays[name] for arrays in prompts])
        chunks = (min(len(values), CHUNK_TOKENS), 1, values.shape[2])
        _create(group, name, values, gzip=values.dtype.kind != "f", chunks=chunks)


def _write_resid(part: h5py.File, prompts: Sequence[Stored], *, bfloat16: bool) -> None:
    index = _token_index(prompts)
    if not np.array_equal(index, np.arange(sum(stored.n_tokens for stored in prompts))):
        _create(part, "resid/token_index", index)
    for site, layer in sorted(prompts[0].resid):
        values = np.concatenate([stored.resid[site, layer] for stored in prompts])
        chunks = (min(len(values), CHUNK_ROWS), values.shape[1])
        group = part.require_group(f"resid/{site}")
        if bfloat16:
            create_bfloat16(
                group, f"layer_{layer:02d}", values, create_list=_create_list(values, chunks)
            )
        else:
            _create(group, f"layer_{layer:02d}", values, chunks=chunks)


def _token_index(prompts: Sequence[Stored]) -> np.ndarray:
    starts = _offsets([stored.n_tokens for stored in prompts])
    indices = [
        start + stored.resid_token_index
        for start, stored in zip(starts, prompts, strict=False)
        if stored.resid_token_index is not None
    ]
    return np.concatenate(indices)


def _offsets(lengths: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype="<i8")]).astype("<i8")


def _fixed_length(values: Sequence[bytes]) -> np.ndarray:
    longest = max((len(value) for value in values), default=0)
    return np.array(values, dtype=h5py.string_dtype("utf-8", max(longest, 1)))


def _create(
    group: h5py.Group,
    name: str,
    values: np.ndarray,
    *,
    gzip: bool = False,
    chunks: tuple[int, ...] | None = None,
) -> None:
    """A chunked dataset with a checksum per chunk; contiguous where it holds nothing."""
    if values.size == 0:
        group.create_dataset(name, data=values)
        return
    settings: Mapping[str, Any] = (
        {"compression": "gzip", "compression_opts": GZIP_LEVEL, "shuffle": True} if gzip else {}
    )
    per_chunk = max(1, CHUNK_BYTES // values.itemsize)
    whole = (min(len(values), per_chunk), *values.shape[1:])
    group.create_dataset(name, data=values, chunks=chunks or whole, fletcher32=True, **settings)


def _create_list(values: np.ndarray, chunks: tuple[int, ...]) -> Any:
    create_list = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    create_list.set_obj_track_times(False)
    if values.size:
        create_list.set_chunk(chunks)
        create_list.set_fletcher32()
    return create_list
