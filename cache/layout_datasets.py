"""What datasets a part of some layout has; a manifest from afar is held to it before it is used.

A part on this machine says its layout itself. Of one that lies elsewhere only the index is at
hand: it has paths, shapes and dtypes, and no attributes, so `layer_indices`, `weights_sum`, and
`d_model` where there are no residuals, rest on the digest of the manifest alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from interp.cache.checks import index_dtype
from interp.cache.chunk_table import ChunkedDataset
from interp.cache.errors import StoreError
from interp.cache.indexed_part import IndexedPart
from interp.cache.manifest import MANIFEST_NAME, PartEntry, layout_from_json
from interp.cache.part import resid_path, resid_place
from interp.cache.part_index import index_name
from interp.cache.records import PROMPT_FIELDS, Layout

RESID_DTYPES = {"float32": "<f4", "float16": "<f2", "bfloat16": "bfloat16"}
WEIGHT_DTYPES = {"float32": "<f4", "float16": "<f2"}
ANY = -1
"""A length that the manifest does not say."""

Expected = dict[str, tuple[tuple[int, ...], str]]
"""Shape and dtype by path; a dtype of `S` is any text."""


def compared_layout(
    manifest: Mapping[str, Any],
    entries: Sequence[PartEntry],
    parts: Sequence[IndexedPart],
    *,
    where: str,
) -> Layout:
    """The layout of a store that lies elsewhere, which is that of the indexes of all its parts.

    Args:
        manifest: Of the store.
        entries: What it says of the parts.
        parts: With their indexes.
        where: The store, for sentences.

    Raises:
        StoreError: Naming the field of the layout, or the dataset that it does not fit.
    """
    try:
        layout = layout_from_json(manifest["layout"])
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise StoreError(
            f"{where}/{MANIFEST_NAME} holds no layout that can be ({reason}); ask for the store to "
            "be published again"
        ) from error
    resid = _resid_places(parts[0].datasets) if parts else set()
    for part, entry in zip(parts, entries, strict=True):
        try:
            if _resid_places(part.datasets) != resid:
                raise ValueError(f"it has residuals of other layers than {parts[0].name}")
            _check_datasets(part.datasets, layout, entry)
        except ValueError as error:
            raise StoreError(
                f"{where}/{index_name(entry.name)} does not fit the layout in {MANIFEST_NAME}: "
                f"{error}; ask for the store to be published again"
            ) from error
    return layout


def _check_datasets(
    datasets: Mapping[str, ChunkedDataset], layout: Layout, entry: PartEntry
) -> None:
    """Datasets that a later 1.x added are passed over."""
    rows = _resid_rows(datasets, entry)
    expected = _of_prompts(entry) | _of_tokens(layout, entry) | _resid(datasets, layout, rows)
    if "tokens/text_end" in datasets and not layout.vocab_local:
        expected["tokens/text_end"] = ((entry.n_tokens,), "<i4")
    for path, (shape, dtype) in expected.items():
        if path not in datasets:
            raise ValueError(f"{path} is missing")
        found = datasets[path]
        if not _fits(found.shape, shape):
            raise ValueError(f"{path} has shape {found.shape}, expected {_shown(shape)}")
        if found.dtype != dtype and not (dtype == "S" and found.dtype.startswith("S")):
            raise ValueError(f"{path} has dtype {found.dtype}, expected {dtype}")
    surplus = sorted(path for path in datasets if path not in expected and _is_governed(path))
    if surplus:
        raise ValueError(f"{surplus[0]} is there, and the layout says that it is not")


def _of_prompts(entry: PartEntry) -> Expected:
    n_prompts = entry.n_prompts
    fields: Expected = {f"prompts/{name}": ((n_prompts,), "S") for name in PROMPT_FIELDS}
    offsets: Expected = {
        f"prompts/{name}": ((n_prompts + 1,), "<i8") for name in ("offset", "text_offset")
    }
    return fields | offsets | {"prompts/text": ((ANY,), "<u1")}


def _of_tokens(layout: Layout, entry: PartEntry) -> Expected:
    n_tokens = entry.n_tokens
    kinds = {"token_id": "<i4", "position": "<i4", "segment": "<u1"}
    kinds |= {"generated": "bool", "logprob": "<f4"}
    expected: Expected = {f"tokens/{name}": ((n_tokens,), kind) for name, kind in kinds.items()}
    chosen = (n_tokens, layout.n_layers, layout.top_k)
    weights = WEIGHT_DTYPES[layout.weights_dtype]
    expected["router/expert_indices"] = (chosen, index_dtype(layout.n_experts))
    expected["router/expert_weights"] = (chosen, weights)
    if layout.router_logits:
        shape = (n_tokens, layout.n_layers, layout.n_experts)
        expected["router/router_logits"] = (shape, weights)
    if layout.expert_output_norms:
        expected["experts/expert_output_norms"] = (chosen, "<f4")
    if layout.vocab_local:
        expected |= {"vocab/text": ((ANY,), "<u1"), "vocab/text_offset": ((ANY,), "<i8")}
    return expected


def _resid_rows(datasets: Mapping[str, ChunkedDataset], entry: PartEntry) -> int:
    """Rows of residuals: all tokens, or those that an index names."""
    index = datasets.get("resid/token_index")
    return entry.n_tokens if index is None else index.shape[0]


def _resid(datasets: Mapping[str, ChunkedDataset], layout: Layout, rows: int) -> Expected:
    """Every site of the layout with the layers that any site has; the manifest names no layers."""
    layers = sorted({layer for _, layer in _resid_places(datasets)})
    if layout.resid_sites and not layers:
        raise ValueError(f"resid/{layout.resid_sites[0]} is missing")
    kind = ((rows, layout.d_model), RESID_DTYPES[layout.resid_dtype])
    expected: Expected = {
        resid_path(site, layer): kind for site in layout.resid_sites for layer in layers
    }
    if "resid/token_index" in datasets:
        expected["resid/token_index"] = ((rows,), "<i8")
    return expected


def _resid_places(datasets: Mapping[str, ChunkedDataset]) -> set[tuple[str, int]]:
    """Site and layer of each dataset of residuals."""
    return {resid_place(path) for path in datasets} - {resid_place("")}


def _is_governed(path: str) -> bool:
    """Whether the layout says of this dataset whether it is there."""
    optional = ("router/router_logits", "experts/expert_output_norms", "tokens/text_end")
    is_vocab = path in ("vocab/text", "vocab/text_offset")
    return path in optional or is_vocab or resid_place(path)[0] != ""


def _fits(found: Sequence[int], expected: Sequence[int]) -> bool:
    return len(found) == len(expected) and all(
        wanted in (ANY, n) for n, wanted in zip(found, expected, strict=True)
    )


def _shown(shape: Sequence[int]) -> str:
    return "(" + ", ".join("any" if n == ANY else str(n) for n in shape) + ")"
