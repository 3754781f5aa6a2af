"""The index of a part: where each chunk lies in the file, and its SHA-256.

With it, a part on a server is read in ranges that are checked before they are decoded, and without
any code of HDF5.
"""

import json
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import h5py

from interp.cache.bfloat16 import is_bfloat16
from interp.cache.memory_file import Digests, MemoryFile

INDEX_FORMAT = "moe-interp-index"
INDEX_VERSION = "1.0"
FILTER_NAMES = {
    h5py.h5z.FILTER_SHUFFLE: "shuffle",
    h5py.h5z.FILTER_DEFLATE: "deflate",
    h5py.h5z.FILTER_FLETCHER32: "fletcher32",
}


def index_name(part: str) -> str:
    """File name of the index of a part."""
    return f"{part.removesuffix('.h5')}.index.json"


def index_text(name: str, content: memoryview, datasets: dict[str, Any], *, sha256: str) -> str:
    """The index as it stands in its file.

    Args:
        name: File name of the part.
        content: The bytes of the part.
        datasets: From `indexed_datasets`.
        sha256: Digest of the part.
    """
    document = {
        "format": INDEX_FORMAT,
        "format_version": INDEX_VERSION,
        "part": name,
        "bytes": len(content),
        "sha256": sha256,
        "datasets": datasets,
    }
    return json.dumps(document, separators=(",", ":")) + "\n"


def indexed_datasets(file: MemoryFile) -> dict[str, Any]:
    """Shape, dtype, filters and chunks of every dataset of a part, by its path."""
    with h5py.File(file, "r") as part:
        return described_datasets(part, file.digests)


def described_datasets(
    part: h5py.File, digests_at: Callable[[int, int], Digests]
) -> dict[str, Any]:
    """As `indexed_datasets`, of any open part; `digests_at` takes offset and length of a chunk."""
    return {path: _described(dataset, digests_at) for path, dataset in _datasets(part)}


def dtype_name(dataset: h5py.Dataset) -> str:
    """Name of a dtype as the index has it, such as `<u1`, `bfloat16`, `bool` or `S12`."""
    if is_bfloat16(dataset):
        return "bfloat16"
    dtype = dataset.dtype
    if dtype.kind == "b":
        return "bool"
    if dtype.kind in "SO":
        return f"S{dataset.id.get_type().get_size()}"
    return f"<{dtype.str[1:]}"


def _datasets(group: h5py.Group, prefix: str = "") -> Iterator[tuple[str, h5py.Dataset]]:
    for name in sorted(group):
        item = group[name]
        if isinstance(item, h5py.Group):
            yield from _datasets(item, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", item


def _described(dataset: h5py.Dataset, digests_at: Callable[[int, int], Digests]) -> dict[str, Any]:
    settings = dataset.id.get_create_plist()
    filters = [settings.get_filter(index)[0] for index in range(settings.get_nfilters())]
    chunks = _chunks(dataset)
    digests = [digests_at(offset, length) for offset, length in chunks]
    return {
        "shape": list(dataset.shape),
        "dtype": dtype_name(dataset),
        "chunks": None if dataset.chunks is None else list(dataset.chunks),
        "filters": [FILTER_NAMES[each] for each in filters],
        "offset": [offset for offset, _ in chunks],
        "length": [length for _, length in chunks],
        "sha256": [each.sha256 for each in digests],
        "crc32": [each.crc32 for each in digests],
    }


def _chunks(dataset: h5py.Dataset) -> list[tuple[int, int]]:
    """Offset and length of each chunk in the file, in C order over the grid of chunks."""
    if dataset.chunks is None:
        return []
    found: dict[tuple[int, ...], tuple[int, int]] = {}

    def keep(chunk: Any) -> None:
        if chunk.filter_mask:
            raise ValueError(f"{dataset.name} has a chunk that skipped a filter")
        found[tuple(chunk.chunk_offset)] = (chunk.byte_offset, chunk.size)

    dataset.id.chunk_iter(keep)
    sides = zip(dataset.shape, dataset.chunks, strict=True)
    return [found[corner] for corner in product(*(range(0, n, step) for n, step in sides))]
