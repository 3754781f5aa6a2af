"""Reading a store: prompts at once, activations when asked for, no file left open."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Integer, UInt8

from interp.cache.errors import StoreError
from interp.cache.manifest import read_manifest, same_layout
from interp.cache.part import read_texts, resid_path
from interp.cache.records import PROMPT_FIELDS
from interp.cache.sealed import SealedPart, opened_part, read_float32, read_part, read_resid_index


@dataclass(frozen=True, kw_only=True)
class Routing:
    """The router's choices for all tokens of a store, for some of its layers."""

    layer_indices: tuple[int, ...]
    """Numbers in the model of the layers along axis 1."""
    expert_indices: Integer[np.ndarray, "tokens layers top_k"]
    """By descending weight."""
    expert_weights: Float[np.ndarray, "tokens layers top_k"]
    router_logits: Float[np.ndarray, "tokens layers experts"] | None
    """None where the store has none."""
    expert_output_norms: Float[np.ndarray, "tokens layers top_k"] | None
    """Euclidean norm of each chosen expert's output, before its weight; None likewise."""


@dataclass(frozen=True, kw_only=True)
class Residuals:
    """The residual stream at one site and layer."""

    values: Float[np.ndarray, "rows d_model"]
    """float32; exact also where bfloat16 is stored."""
    token_index: Int[np.ndarray, "rows"]
    """Which token of the store each row belongs to."""


class Store:
    """A finished store, as `open_store` gives it. Parts are opened when asked for, and closed."""

    def __init__(self, path: Path, manifest: dict[str, Any], parts: Sequence[SealedPart]) -> None:
        self.path = path
        self.manifest = manifest
        self.layout = parts[0].layout
        self.provenance: dict[str, Any] = parts[0].provenance
        self._parts = tuple(parts)
        fields = {name: [v for part in parts for v in part.prompts[name]] for name in PROMPT_FIELDS}
        lengths = np.concatenate([part.n_tokens_of_prompt for part in parts])
        self.prompts = pd.DataFrame(fields).assign(n_tokens=lengths)
        self.n_tokens = int(lengths.sum())

    def __repr__(self) -> str:
        layout = self.layout
        return (
            f"Store({str(self.path)!r}: {len(self.prompts):,} prompts, {self.n_tokens:,} tokens, "
            f"{layout.n_layers} layers, {layout.top_k} of {layout.n_experts} experts)"
        )

    @property
    def sha256(self) -> str:
        """Digest of the digests of all parts, as the manifest has them: names this very store."""
        digests = "\n".join(part["sha256"] for part in self.manifest["parts"])
        return hashlib.sha256(digests.encode()).hexdigest()

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

    def router(self, layers: Sequence[int] | None = None) -> Routing:
        """Routing at the given layers, by their numbers in the model; at all of them if None.

        Raises:
            ValueError: If the store does not hold one of the layers.
            StoreError: If a part is damaged.
        """
        wanted = (
            self.layout.layer_indices if layers is None else tuple(int(layer) for layer in layers)
        )
        columns = [self._column(layer) for layer in wanted]

        def select(dataset: h5py.Dataset) -> np.ndarray:
            if layers is None:
                return np.asarray(dataset[()])
            picked = [dataset[:, column, :] for column in columns]
            return np.stack(picked, axis=1) if picked else np.asarray(dataset[:, :0, :])

        return Routing(
            layer_indices=wanted,
            expert_indices=self._gather("router/expert_indices", select),
            expert_weights=self._gather("router/expert_weights", select),
            router_logits=(
                self._gather("router/router_logits", select) if self.layout.router_logits else None
            ),
            expert_output_norms=(
                self._gather("experts/expert_output_norms", select)
                if self.layout.expert_output_norms
                else None
            ),
        )

    def resid(self, site: str, layer: int) -> Residuals:
        """The residual stream at one site and layer, as float32.

        Raises:
            ValueError: If the store does not hold that site and layer.
            StoreError: If a part is damaged.
        """
        self._expect_resid(site, layer)
        starts = np.cumsum([0] + [part.n_tokens for part in self._parts])
        values, indices = [], []
        for part, start in zip(self._parts, starts, strict=False):
            with opened_part(part.path) as file:
                values.append(read_float32(file[resid_path(site, layer)]))
                indices.append(start + read_resid_index(file, part.n_tokens))
        return Residuals(values=np.concatenate(values), token_index=np.concatenate(indices))

    def text(self, prompt: int) -> str:
        """The rendered text of a prompt, by its row in `prompts`."""
        return self._text_bytes(prompt).decode(errors="replace")

    def token_texts(self, prompt: int) -> list[str]:
        """The text of each stored token of a prompt; bytes of a split character become U+FFFD.

        Raises:
            StoreError: If the store knows neither ends of tokens nor a vocabulary.
        """
        text = self._text_bytes(prompt)
        ours = self.prompt_index == prompt
        if self.layout.vocab_local:
            return [self._vocab[token].decode(errors="replace") for token in self.token_id[ours]]
        stops = self._text_ends[ours]
        starts = np.concatenate([[0], stops[:-1]])
        return [text[a:b].decode(errors="replace") for a, b in zip(starts, stops, strict=True)]

    @cached_property
    def _vocab(self) -> list[bytes]:
        with opened_part(self._parts[0].path) as file:
            return read_texts(file["vocab"])

    @cached_property
    def _text_ends(self) -> np.ndarray:
        with opened_part(self._parts[0].path) as file:
            known = "text_end" in file["tokens"]
        if not known:
            raise StoreError(
                f"{self.path} does not say where tokens end in the text, so their texts cannot be "
                "told apart; read text(prompt) instead"
            )
        return self._gather("tokens/text_end")

    @cached_property
    def _all_texts(self) -> list[bytes]:
        texts = []
        for part in self._parts:
            with opened_part(part.path) as file:
                texts += read_texts(file["prompts"])
        return texts

    def _text_bytes(self, prompt: int) -> bytes:
        if not 0 <= prompt < len(self.prompts):
            raise ValueError(f"prompt is {prompt}, expected 0 to {len(self.prompts) - 1}")
        return self._all_texts[prompt]

    def _column(self, layer: int) -> int:
        if layer not in self.layout.layer_indices:
            raise ValueError(
                f"{self.path.name} holds no routing of layer {layer}, only of layers "
                f"{_listed(self.layout.layer_indices)}; ask for one of these"
            )
        return self.layout.layer_indices.index(layer)

    def _expect_resid(self, site: str, layer: int) -> None:
        with opened_part(self._parts[0].path) as file:
            held = {
                name: sorted(int(key[6:]) for key in file[f"resid/{name}"])
                for name in self.layout.resid_sites
            }
        if layer not in held.get(site, []):
            there = "; ".join(
                f"{name} of layers {_listed(layers)}" for name, layers in held.items()
            )
            raise ValueError(
                f"{self.path.name} holds no {site} of layer {layer}; it holds "
                f"{there or 'no residuals'}, so capture that site and layer to read it"
            )

    def _gather(
        self,
        name: str,
        select: Callable[[h5py.Dataset], np.ndarray] = lambda dataset: np.asarray(dataset[()]),
    ) -> np.ndarray:
        """One dataset of all parts, end to end."""
        blocks = []
        for part in self._parts:
            with opened_part(part.path) as file:
                blocks.append(select(file[name]))
        return np.concatenate(blocks)


def open_store(path: str | Path) -> Store:
    """Open a finished store.

    Sizes of the parts are compared with the manifest, digests are not: that takes a full read.

    Raises:
        InputError: If nothing is at `path`.
        StoreError: If it is no store, is unfinished or damaged, or its format is not known here.
    """
    folder = Path(path)
    manifest, entries = read_manifest(folder)
    parts = [read_part(folder / entry.name, entry) for entry in entries]
    for part in parts:
        first = parts[0]
        if (
            same_layout(part.layout) != same_layout(first.layout)
            or part.provenance != first.provenance
        ):
            raise StoreError(
                f"{part.path} has another layout or provenance than {first.path.name}; "
                "its parts are of different stores, so copy the store again"
            )
    return Store(folder, manifest, parts)


def _listed(layers: Sequence[int]) -> str:
    """Layers for a sentence: `0 to 23` or `3, 7, 11`."""
    if len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]} to {layers[-1]}"
    return ", ".join(str(layer) for layer in layers)
