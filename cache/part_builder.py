"""Building a part in memory, prompt by prompt; many small writes to a disk would be slow."""

from collections.abc import Mapping, Sequence

import h5py
import numpy as np

from interp.cache.growing import GrowingDataset
from interp.cache.memory_file import MemoryFile
from interp.cache.part import (
    LIBRARY_VERSIONS,
    fixed_length,
    offsets,
    resid_path,
    write_attributes,
)
from interp.cache.records import PROMPT_FIELDS, SEGMENTS, Layout
from interp.cache.stored import Stored

CHUNK_TOKENS = 16384
"""Tokens of a chunk of routing, which is of one layer."""
CHUNK_ROWS = 256
"""Rows of a chunk of residuals."""
CHUNK_BYTES = 2**20
"""Of a chunk of texts, and of anything with one number a token."""
LOGITS_PER_CHUNK = 2**16
"""Of router_logits, which are as many as there are experts."""


class PartBuilder:
    """One part while it is being built; the same prompts give the same bytes.

    Args:
        file: Where the bytes go; must be clear.
        layout: Sizes and dtypes of the store.
        provenance: As it stands in the attribute.
        vocab: Texts of local token ids.
    """

    def __init__(
        self, file: MemoryFile, *, layout: Layout, provenance: str, vocab: Sequence[bytes]
    ) -> None:
        self._file, self._layout, self._vocab = file, layout, vocab
        self._part = h5py.File(file, "w", libver=LIBRARY_VERSIONS)
        write_attributes(self._part, layout, provenance)
        self._datasets: dict[str, GrowingDataset] = {}
        self._fields: dict[str, list[bytes]] = {name: [] for name in PROMPT_FIELDS}
        self._n_tokens: list[int] = []
        self._n_text: list[int] = []
        self._resid_index: list[np.ndarray] = []

    @property
    def n_prompts(self) -> int:
        """Prompts added so far."""
        return len(self._n_tokens)

    @property
    def n_tokens(self) -> int:
        """Tokens added so far."""
        return sum(self._n_tokens)

    def add(self, stored: Stored) -> None:
        """Add one prompt at the end."""
        for path, values in arrays_of(stored).items():
            if path not in self._datasets:
                self._datasets[path] = self._created(path, values)
            self._datasets[path].append(values)
        if stored.resid_token_index is not None:
            self._resid_index.append(self.n_tokens + stored.resid_token_index)
        for name, values_of in self._fields.items():
            values_of.append(stored.fields[name])
        self._n_tokens.append(stored.n_tokens)
        self._n_text.append(len(stored.text))

    def abandon(self) -> None:
        """Let go of the file; HDF5 must not come back to it later."""
        self._part.close()

    def finish(self) -> memoryview:
        """The bytes of the part; valid until the memory is used again."""
        for dataset in self._datasets.values():
            dataset.finish()
        prompts = self._part["prompts"]
        for name, values in self._fields.items():
            _write(prompts, name, fixed_length(values))
        _write(prompts, "offset", offsets(self._n_tokens))
        _write(prompts, "text_offset", offsets(self._n_text))
        names = fixed_length([name.encode() for name in SEGMENTS])
        self._part["tokens/segment"].attrs.create("names", names, dtype=names.dtype)
        if self._layout.vocab_local:
            self._write_vocab()
        self._write_resid_index()
        self._part.close()
        return self._file.content()

    def _write_resid_index(self) -> None:
        """Which tokens have residuals, where not all of them have."""
        if self._resid_index:
            index = np.concatenate(self._resid_index)
            if len(index) != self.n_tokens:
                _write(self._part["resid"], "token_index", index)

    def _write_vocab(self) -> None:
        group = self._part.create_group("vocab")
        _write(group, "text", np.frombuffer(b"".join(self._vocab), dtype="<u1"), gzip=True)
        _write(group, "text_offset", offsets([len(text) for text in self._vocab]))

    def _created(self, path: str, values: np.ndarray) -> GrowingDataset:
        group, _, name = path.rpartition("/")
        return GrowingDataset(
            self._part.require_group(group),
            name,
            dtype=values.dtype,
            row_shape=values.shape[1:],
            chunk_rows=chunk_rows(path, values),
            per_column=values.ndim == 3,
            gzip=is_gzipped(path, values),
            bfloat16=group.partition("/")[0] == "resid" and values.dtype == np.uint16,
        )


def arrays_of(stored: Stored) -> dict[str, np.ndarray]:
    """The arrays of a prompt by the path of their dataset, in which prompts follow each other."""
    arrays = {"prompts/text": np.frombuffer(stored.text, dtype="<u1")}
    for group in ("tokens", "router", "experts"):
        arrays |= {f"{group}/{name}": each for name, each in getattr(stored, group).items()}
    for site, layer in sorted(stored.resid):
        arrays[resid_path(site, layer)] = stored.resid[site, layer]
    return arrays


def is_gzipped(path: str, values: np.ndarray) -> bool:
    """Whether a dataset is compressed: texts and what there is one integer of for each token.

    Routing hardly shrinks, and is read most often; without compression the size of a store is
    known before it is captured.
    """
    return values.ndim == 1 and values.dtype.kind != "f"


def chunk_rows(path: str, values: np.ndarray) -> int:
    """Rows of a whole chunk of the dataset at `path` that holds rows such as these."""
    if path == "router/router_logits":
        return min(max(LOGITS_PER_CHUNK // int(values.shape[2]), 1), CHUNK_TOKENS)
    if values.ndim == 3:
        return CHUNK_TOKENS
    return CHUNK_ROWS if values.ndim == 2 else max(CHUNK_BYTES // int(values.itemsize), 1)


def _write(group: h5py.Group, name: str, values: np.ndarray, *, gzip: bool = False) -> None:
    """A dataset whose values are all known, with a checksum per chunk."""
    settings: Mapping[str, object] = (
        {"compression": "gzip", "compression_opts": 4, "shuffle": True} if gzip else {}
    )
    if values.size == 0:
        group.create_dataset(name, data=values)
        return
    chunks = (min(len(values), max(CHUNK_BYTES // values.itemsize, 1)),)
    group.create_dataset(name, data=values, chunks=chunks, fletcher32=True, **settings)
