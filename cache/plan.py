"""How large a store will be, before anything is captured."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from interp.cache.memory_file import MemoryFile
from interp.cache.part_builder import PartBuilder, arrays_of
from interp.cache.records import Layout
from interp.cache.sizes import Sizes, dataset_bytes
from interp.cache.stored import Stored


@dataclass(frozen=True, kw_only=True)
class StorePlan:
    """What a store will take on disk; without answers exact to about 1 %, with them an upper bound.

    Parts alone: their indexes come to 0.02 to 1 % of them, most where there is routing alone.
    """

    n_prompts: int
    n_tokens: int
    n_parts: int
    bytes_by_dataset: Mapping[str, int]
    """By the group of datasets that a site is: `router/expert_indices`, `resid/resid_post`; texts,
    tokens and what HDF5 adds are under `prompts and tokens`."""

    @property
    def n_bytes(self) -> int:
        """Of all parts together."""
        return sum(self.bytes_by_dataset.values())


def planned(
    prompts: Iterable[Stored], *, layout: Layout, provenance: str, part_bytes: int
) -> StorePlan:
    """Go through what will be stored, part by part as the writer does, and add up its bytes.

    Args:
        prompts: With texts and tokens as they will be; of router and residual arrays only shape
            and dtype count, so that `shape_only` will do.
        layout: Sizes and dtypes.
        provenance: As it will stand in every part.
        part_bytes: The most that a part has.
    """
    totals = _Totals(layout, provenance)
    fixed = 2 * len(provenance.encode())
    sizes = Sizes(fixed=fixed)
    n_prompts = n_tokens = 0
    for stored in prompts:
        if totals.has_open_part and sizes.with_one_more(stored) > part_bytes:
            totals.seal()
            sizes = Sizes(fixed=fixed)
        sizes.add(stored)
        totals.add(stored)
        n_prompts, n_tokens = n_prompts + 1, n_tokens + stored.n_tokens
    if totals.has_open_part:
        totals.seal()
    totals.close()
    return StorePlan(
        n_prompts=n_prompts,
        n_tokens=n_tokens,
        n_parts=totals.n_parts,
        bytes_by_dataset=totals.bytes_by_dataset,
    )


def shape_only(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array of any size that takes no memory; only its shape and dtype are of use."""
    return np.broadcast_to(np.zeros((), dtype=dtype), shape)


class _Totals:
    """Texts and tokens are really compressed; of all else the rows are counted."""

    def __init__(self, layout: Layout, provenance: str) -> None:
        self._layout, self._provenance = layout, provenance
        self._file = MemoryFile(2**20)
        self._builder: PartBuilder | None = None
        self._rows: dict[str, int] = {}
        self._like: dict[str, np.ndarray] = {}
        self.n_parts = 0
        self.bytes_by_dataset: dict[str, int] = {"prompts and tokens": 0}

    @property
    def has_open_part(self) -> bool:
        return self._builder is not None

    def add(self, stored: Stored) -> None:
        if self._builder is None:
            bare = replace(
                self._layout, resid_sites=(), router_logits=False, expert_output_norms=False
            )
            self._builder = PartBuilder(
                self._file, layout=bare, provenance=self._provenance, vocab=()
            )
        plain = replace(stored, router={}, experts={}, resid_token_index=None, resid={})
        self._builder.add(plain)
        for path, values in arrays_of(stored).items():
            if not path.startswith(("prompts/", "tokens/")):
                self._rows[path] = self._rows.get(path, 0) + len(values)
                self._like.setdefault(path, values[:0])
        if stored.resid_token_index is not None:
            path = "resid/token_index"
            self._rows[path] = self._rows.get(path, 0) + len(stored.resid_token_index)
            self._like.setdefault(path, stored.resid_token_index[:0])

    def close(self) -> None:
        self._file.close()

    def seal(self) -> None:
        assert self._builder is not None
        n_tokens = self._builder.n_tokens
        self.bytes_by_dataset["prompts and tokens"] += len(self._builder.finish())
        for path, like in self._like.items():
            if path == "resid/token_index" and self._rows[path] == n_tokens:
                continue
            site = path.rpartition("/layer_")[0] or path
            taken = dataset_bytes(path, like, n_rows=self._rows[path])
            self.bytes_by_dataset[site] = self.bytes_by_dataset.get(site, 0) + taken
        self._file.clear()
        self._builder, self._rows, self._like = None, {}, {}
        self.n_parts += 1
