"""Reading a store: prompts at once, activations when asked for, no file left open."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, UInt8

from interp.cache.bfloat16 import widen
from interp.cache.errors import StoreError
from interp.cache.opened import OpenedPart
from interp.cache.part import resid_path, resid_place, split_texts
from interp.cache.records import PROMPT_FIELDS, Layout
from interp.cache.selection import (
    LayerSelection,
    PromptSelection,
    chosen_layers,
    chosen_prompts,
    resid_layer,
    resid_rows,
    token_rows,
)
from interp.cache.sources import StoreSource, store_source
from interp.cache.token_batches import token_batches
from interp.cache.views import Residuals, Routing, TokenBatch, routing_of, routing_paths

if TYPE_CHECKING:
    import xarray

BATCH_TOKENS = 2**16


class Store:
    """A finished store, as `open_store` gives it. Parts are read when asked for."""

    def __init__(self, source: StoreSource) -> None:
        self.path = source.path
        self.manifest: dict[str, Any] = source.manifest
        self.layout: Layout = source.layout
        self.provenance: dict[str, Any] = source.provenance
        self._parts = source.parts
        fields = {name: [v for p in self._parts for v in p.fields[name]] for name in PROMPT_FIELDS}
        lengths = np.concatenate([np.diff(part.offset) for part in self._parts])
        self.prompts = pd.DataFrame(fields).assign(n_tokens=lengths)
        self.n_tokens = int(lengths.sum())
        self._token_starts = np.cumsum([0] + [part.n_tokens for part in self._parts])
        self._prompt_starts = np.cumsum([0] + [len(part.offset) - 1 for part in self._parts])

    def __repr__(self) -> str:
        layout = self.layout
        return (
            f"Store({str(self.path)!r}: {len(self.prompts):,} prompts, {self.n_tokens:,} tokens, "
            f"{layout.n_layers} layers, {layout.top_k} of {layout.n_experts} experts)"
        )

    def _repr_html_(self) -> str:
        from interp.cache.exports import store_html

        return store_html(self)

    @property
    def sha256(self) -> str:
        """Digest of the digests of all parts, as the manifest has them: names this very store."""
        digests = "\n".join(part["sha256"] for part in self.manifest["parts"])
        return hashlib.sha256(digests.encode()).hexdigest()

    @cached_property
    def resid_layers(self) -> dict[str, tuple[int, ...]]:
        """By residual site, the numbers of the layers that are stored."""
        found: dict[str, list[int]] = {site: [] for site in self.layout.resid_sites}
        for path in self._parts[0].source.shapes():
            site, layer = resid_place(path)
            if site in found:
                found[site].append(layer)
        return {site: tuple(sorted(layers)) for site, layers in found.items()}

    @cached_property
    def token_id(self) -> Int[np.ndarray, "tokens"]:
        """Ids in the model's vocabulary, or in the store's own where `layout.vocab_local`."""
        return self._gather("tokens/token_id")

    @cached_property
    def position(self) -> Int[np.ndarray, "tokens"]:
        """Position in its sequence, from 0."""
        return self._gather("tokens/position")

    @cached_property
    def segment(self) -> UInt8[np.ndarray, "tokens"]:
        """Positions in `interp.cache.records.SEGMENTS`."""
        return self._gather("tokens/segment")

    @cached_property
    def generated(self) -> Bool[np.ndarray, "tokens"]:
        """True where the model wrote the token itself."""
        return self._gather("tokens/generated")

    @cached_property
    def logprob(self) -> Float[np.ndarray, "tokens"]:
        """Log-probability in nats of this token given those before; NaN where not recorded."""
        return self._gather("tokens/logprob")

    @cached_property
    def prompt_index(self) -> Int[np.ndarray, "tokens"]:
        """Which row of `prompts` each token belongs to."""
        return np.repeat(np.arange(len(self.prompts), dtype=np.int64), self.prompts["n_tokens"])

    def router(
        self, layers: LayerSelection | None = None, *, prompts: PromptSelection | None = None
    ) -> Routing:
        """Routing of all tokens, or of those of some prompts.

        Args:
            layers: By their numbers in the model; all if None.
            prompts: A mask over the rows of `prompts`, or rising positions in it; all if None.

        Raises:
            ValueError: If the store does not hold one of the layers or prompts.
            StoreError: If a part is damaged.
        """
        wanted, columns = self._columns(layers)
        rows = self._rows(prompts)
        found = {
            name: self._gather(path, rows=rows, columns=columns)
            for name, path in self._routing_paths.items()
        }
        return routing_of(wanted, found)

    def resid(self, site: str, layer: int, *, prompts: PromptSelection | None = None) -> Residuals:
        """The residual stream at one site and layer, as float32.

        Args:
            site: `resid_pre`, `resid_mid` or `resid_post`.
            layer: By its number in the model.
            prompts: A mask over the rows of `prompts`, or rising positions in it; all if None.

        Raises:
            ValueError: If the store does not hold that site, layer or prompt.
            StoreError: If a part is damaged.
        """
        layer = resid_layer(site, layer, held=self.resid_layers, where=self.path.name)
        values, indices = [], []
        for part, start, tokens in zip(
            self._parts, self._token_starts, self._rows(prompts), strict=False
        ):
            rows, index = resid_rows(part, tokens)
            values.append(part.source.read(resid_path(site, layer), rows=rows))
            indices.append(start + index)
        joined = values[0] if len(values) == 1 else np.concatenate(values)
        return Residuals(values=_as_float32(joined), token_index=np.concatenate(indices))

    def iter_tokens(
        self, *, batch: int = BATCH_TOKENS, layers: LayerSelection | None = None
    ) -> Iterator[TokenBatch]:
        """All tokens in order, so many at a time, however large the store is.

        Args:
            batch: Tokens of a batch, at most; a batch also ends where a part does.
            layers: As in `router`.

        Raises:
            ValueError: If `batch` is below 1, or the store does not hold one of the layers.
            StoreError: If a part is damaged.
        """
        if batch < 1:
            raise ValueError(f"batch is {batch}, expected 1 or more")
        wanted, columns = self._columns(layers)
        yield from token_batches(
            self._parts, self._routing_paths, batch=batch, layers=wanted, columns=columns
        )

    def text(self, prompt: int) -> str:
        """The rendered text of a prompt, by its row in `prompts`."""
        return self._text_bytes(prompt).decode(errors="replace")

    def token_texts(self, prompt: int) -> list[str]:
        """The text of each stored token of a prompt; bytes of a split character become U+FFFD.

        Raises:
            StoreError: If the store knows neither ends of tokens nor a vocabulary.
        """
        part, within = self._at(prompt)
        tokens = [slice(int(part.offset[within]), int(part.offset[within + 1]))]
        if self.layout.vocab_local:
            ids = part.source.read("tokens/token_id", rows=tokens)
            return [self._vocab[token].decode(errors="replace") for token in ids]
        if "tokens/text_end" not in part.source.shapes():
            raise StoreError(
                f"{self.path} does not say where tokens end in the text, so their texts cannot be "
                "told apart; read text(prompt) instead"
            )
        text, stops = self._text_bytes(prompt), part.source.read("tokens/text_end", rows=tokens)
        starts = np.concatenate([[0], stops[:-1]])
        return [text[a:b].decode(errors="replace") for a, b in zip(starts, stops, strict=True)]

    def to_xarray(self) -> "xarray.Dataset":
        """Tokens with their routing, in memory, with named axes and coordinates.

        `prompt_index` is the row of `prompts` that a token belongs to. Texts and residuals are
        left out.
        """
        from interp.cache.exports import store_dataset

        return store_dataset(self)

    def to_parquet(self, folder: str | Path) -> None:
        """Write `prompts.parquet` and `routing.parquet`, one row per token and layer, to a folder.

        All that is recorded of tokens and routing is in them; texts and residuals are left out.
        Both files are renamed into place once they are whole.

        Raises:
            InputError: If the folder holds one of them, or pyarrow is not installed.
        """
        from interp.cache.exports import write_parquet

        write_parquet(self, Path(folder))

    @cached_property
    def _routing_paths(self) -> dict[str, str]:
        return routing_paths(self.layout)

    @cached_property
    def _vocab(self) -> list[bytes]:
        read = self._parts[0].source.read
        return split_texts(read("vocab/text"), read("vocab/text_offset"))

    def _text_bytes(self, prompt: int) -> bytes:
        part, within = self._at(prompt)
        start, stop = part.source.read(
            "prompts/text_offset", rows=[slice(within, within + 2)]
        ).tolist()
        return part.source.read("prompts/text", rows=[slice(start, stop)]).tobytes()

    def _at(self, prompt: int) -> tuple[OpenedPart, int]:
        """The part of a prompt, and its row there."""
        if not 0 <= prompt < len(self.prompts):
            raise ValueError(f"prompt is {prompt}, expected 0 to {len(self.prompts) - 1}")
        number = int(np.searchsorted(self._prompt_starts, prompt, side="right")) - 1
        return self._parts[number], int(prompt - self._prompt_starts[number])

    def _columns(self, layers: Any) -> tuple[tuple[int, ...], list[int] | None]:
        """Numbers of the wanted layers, and their places along the axis; None if it is all."""
        stored = self.layout.layer_indices
        if layers is None:
            return stored, None
        wanted = chosen_layers(layers, stored=stored, where=self.path.name)
        return wanted, [stored.index(layer) for layer in wanted]

    def _rows(self, prompts: Any) -> list[list[slice] | None]:
        """For each part, the tokens of the chosen prompts; None if it is all."""
        if prompts is None:
            return [None] * len(self._parts)
        chosen = chosen_prompts(prompts, n_prompts=len(self.prompts))
        return [
            token_rows(part.offset, chosen[(start <= chosen) & (chosen < stop)] - start)
            for part, (start, stop) in zip(self._parts, pairwise(self._prompt_starts), strict=True)
        ]

    def _gather(
        self,
        path: str,
        *,
        rows: Sequence[list[slice] | None] | None = None,
        columns: Sequence[int] | None = None,
    ) -> np.ndarray:
        """One dataset of all parts, end to end."""
        of_parts = rows or [None] * len(self._parts)
        blocks = [
            part.source.read(path, rows=of_part, columns=columns)
            for part, of_part in zip(self._parts, of_parts, strict=True)
        ]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def open_store(
    path: str | Path,
    *,
    trusted: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Store:
    """Open a finished store: a folder, a single part, or a URL (`hf://`, `s3://`, `https://`).

    The manifest is compared with its own digest, and with sizes and layout of the parts; digests of
    parts are not computed: `interp verify` does that.

    Args:
        path: Such as `run.moe`, `run.moe/part-00003.h5` or `hf://datasets/USER/NAME@REVISION`.
        trusted: Whether HDF5 may open the parts in this process without an audit in another one.
            If None, it may for what was captured or imported here, and not for what was pulled.
            Of a URL nothing but checked chunks is decoded, and never by HDF5.
        storage_options: What fsspec needs for the URL, such as keys.

    Raises:
        InputError: If nothing is at `path`.
        StoreError: If it is no store, is unfinished or damaged, its format is not known here, or a
            part does not pass the audit.
    """
    return Store(store_source(path, trusted=trusted, storage_options=storage_options))


def _as_float32(values: np.ndarray) -> Float[np.ndarray, "rows d_model"]:
    """Exact for all three dtypes that are stored; raw bits are bfloat16."""
    return widen(values) if values.dtype == np.uint16 else values.astype(np.float32, copy=False)
