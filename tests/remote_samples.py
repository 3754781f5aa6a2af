"""Stores for tests of reading from afar: parts by plain h5py, indexed chunk by chunk.

Nothing here uses the writer or the index of the package, so it can say whether they are right.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np

NAMES = {1: "deflate", 2: "shuffle", 3: "fletcher32"}
N_TOKENS, N_LAYERS, TOP_K = 300, 24, 4


def bfloat16() -> Any:
    """The HDF5 type that docs/format.md describes, from its words."""
    kind = h5py.h5t.IEEE_F16LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_ebias(127)
    return kind


def sample_arrays(seed: int = 0, *, n_tokens: int = N_TOKENS) -> dict[str, np.ndarray]:
    """One array for every dtype of a part; bfloat16 as its bits, under a name that ends in bf16."""
    rng = np.random.default_rng(seed)
    words = np.array([f"prompt é {index}".encode() for index in range(7)], dtype="S20")
    logprob = -rng.random(n_tokens, dtype=np.float32)
    logprob[::7] = np.nan
    return {
        "prompts/prompt_id": words,
        "prompts/offset": np.linspace(0, n_tokens, 8).astype("<i8"),
        "tokens/token_id": rng.integers(0, 201_088, n_tokens, dtype="<i4"),
        "tokens/generated": rng.random(n_tokens) < 0.5,
        "tokens/logprob": logprob,
        "tokens/nothing": np.zeros(0, dtype="<i8"),
        "router/expert_indices": rng.integers(0, 32, (n_tokens, N_LAYERS, TOP_K), dtype="<u1"),
        "router/wide_indices": rng.integers(0, 512, (n_tokens, N_LAYERS, TOP_K), dtype="<u2"),
        "router/expert_weights": rng.random((n_tokens, N_LAYERS, TOP_K)).astype("<f2"),
        "router/odd": rng.integers(0, 9, (n_tokens, 7, 5), dtype="<i4"),
        "resid/resid_mid/bf16": rng.integers(0, 2**16, (n_tokens, 48), dtype="<u2"),
        "resid/empty/layer_00": np.zeros((0, 48), dtype="<f4"),
    }


CHUNKS = {
    "router/odd": (64, 3, 2),
    "resid/resid_mid/bf16": (64, 48),
    "tokens/logprob": (128,),
    "tokens/token_id": (128,),
}


def part_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A part that holds these arrays, with the filters of docs/format.md."""
    file = io.BytesIO()
    with h5py.File(file, "w", libver=("v110", "v110")) as part:
        for path, values in arrays.items():
            _create(part, path, values)
    return file.getvalue()


def index_document(content: bytes, name: str) -> dict[str, Any]:
    """The index of a part, asked of HDF5 one chunk at a time."""
    datasets: dict[str, Any] = {}

    def visit(path: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            datasets[path] = _described(item, content)

    with h5py.File(io.BytesIO(content), "r") as part:
        part.visititems(visit)
    return {
        "format": "moe-interp-index",
        "format_version": "1.0",
        "part": name,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "datasets": datasets,
    }


def store_files(parts: Sequence[bytes], *, folder: str = "/store.moe") -> dict[str, bytes]:
    """All files of a store that has these parts, by their path on a server."""
    names = [f"part-{number:05d}" for number in range(len(parts))]
    documents = [
        index_document(part, f"{name}.h5") for part, name in zip(parts, names, strict=True)
    ]
    return assembled(parts, documents, folder=folder)


def assembled(
    parts: Sequence[bytes], documents: Sequence[Any], *, folder: str = "/store.moe"
) -> dict[str, bytes]:
    """The files of a store with these indexes, whatever they hold."""
    files: dict[str, bytes] = {}
    entries = []
    for number, (part, document) in enumerate(zip(parts, documents, strict=True)):
        name = f"part-{number:05d}"
        index = json.dumps(document).encode()
        files[f"{folder}/{name}.h5"] = part
        files[f"{folder}/{name}.index.json"] = index
        entries.append(
            {
                "name": f"{name}.h5",
                "bytes": len(part),
                "sha256": hashlib.sha256(part).hexdigest(),
                "n_prompts": 7,
                "n_tokens": N_TOKENS,
                "index_bytes": len(index),
                "index_sha256": hashlib.sha256(index).hexdigest(),
            }
        )
    files[f"{folder}/manifest.json"] = json.dumps(manifest(entries)).encode()
    return files


def manifest(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """A manifest with these parts."""
    provenance = {"model": "toy", "revision": "é", "seed": 3}
    text = json.dumps(provenance, sort_keys=True, ensure_ascii=False)
    return {
        "format": "moe-interp",
        "format_version": "1.0",
        "complete": True,
        "provenance": provenance,
        "provenance_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "layout": {},
        "parts": entries,
    }


def _create(part: h5py.File, path: str, values: np.ndarray) -> None:
    if values.size == 0:
        part.create_dataset(path, data=values)
        return
    chunks = CHUNKS.get(path, (64, 1, TOP_K) if values.ndim == 3 else (len(values),))
    if path.endswith("bf16"):
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk(chunks)
        settings.set_fletcher32()
        group = part.require_group(path.rpartition("/")[0])
        space = h5py.h5s.create_simple(values.shape)
        name = path.rpartition("/")[2].encode()
        dataset = h5py.h5d.create(group.id, name, bfloat16(), space, settings)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, values, mtype=bfloat16())
        return
    packed = {"compression": "gzip", "shuffle": True} if values.dtype.kind in "iub" else {}
    part.create_dataset(path, data=values, chunks=chunks, fletcher32=True, **packed)


def _described(dataset: h5py.Dataset, content: bytes) -> dict[str, Any]:
    settings = dataset.id.get_create_plist()
    chunks = []
    if dataset.chunks is not None:
        found = [dataset.id.get_chunk_info(each) for each in range(dataset.id.get_num_chunks())]
        chunks = sorted(found, key=lambda chunk: chunk.chunk_offset)
    assert all(chunk.filter_mask == 0 for chunk in chunks)
    raw = [content[each.byte_offset : each.byte_offset + each.size] for each in chunks]
    return {
        "shape": list(dataset.shape),
        "dtype": _dtype_name(dataset),
        "chunks": list(dataset.chunks) if dataset.chunks else None,
        "filters": [NAMES[settings.get_filter(n)[0]] for n in range(settings.get_nfilters())],
        "offset": [chunk.byte_offset for chunk in chunks],
        "length": [chunk.size for chunk in chunks],
        "sha256": [hashlib.sha256(each).hexdigest() for each in raw],
    }


def _dtype_name(dataset: h5py.Dataset) -> str:
    stored = dataset.id.get_type()
    if stored.get_class() == h5py.h5t.STRING:
        return f"S{stored.get_size()}"
    if stored.get_class() == h5py.h5t.ENUM:
        return "bool"
    if stored.get_class() == h5py.h5t.FLOAT and stored.get_fields() == (15, 7, 8, 0, 7):
        return "bfloat16"
    letter = {"f": "f", "i": "i", "u": "u"}[dataset.dtype.kind]
    return f"<{letter}{stored.get_size()}"
