"""The tier `aggregate`: how often each prompt chose each expert, and nothing of any token."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int, Integer

from interp.cache.durable import write_whole
from interp.cache.errors import StoreError
from interp.cache.manifest import MANIFEST_NAME, same_layout
from interp.cache.part import FORMAT, FORMAT_VERSION
from interp.cache.reader import Store
from interp.cache.share_files import USAGE_NAME, has_content, listed_files, parsed_manifest
from interp.cache.small_counts import public_labels, suppressed
from interp.cache.tiers import MINIMUM_COUNT, prompt_routings, public_provenance

COLUMNS = ("prompt", "item", "condition", "source", "layer", "expert", "count")


def write_usage(store: Store, out: Path, *, minimum_count: int = MINIMUM_COUNT) -> Path:
    """Write usage counts per prompt, layer and expert; there are no parts.

    Args:
        store: A store of the tier `full` or `no_text`.
        out: The folder to make.
        minimum_count: Cells with a smaller count are left out, zeros too, and with them others of
            the same prompt and layer, as `interp.cache.small_counts.suppressed` says.
    """
    labels = public_labels(store.prompts, minimum_count=minimum_count)
    frames = list(_rows(store, labels, minimum_count=minimum_count))
    table = pd.concat(frames) if frames else pd.DataFrame(columns=list(COLUMNS))
    content = table.to_csv(index=False, lineterminator="\n").encode()
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / USAGE_NAME, content)
    manifest = _manifest(store, labels, content, minimum_count=minimum_count)
    write_whole(out / MANIFEST_NAME, (json.dumps(manifest, indent=1) + "\n").encode())
    return out


def read_usage(folder: Path) -> pd.DataFrame:
    """The counts of a store of the tier `aggregate`.

    Returns:
        Columns `prompt`, `item`, `condition`, `source`, `layer` (its number in the model), `expert`
        and `count` (routed slots, at least the minimum count). A cell that is missing was chosen
        less often, or never, or went with another of its prompt and layer.

    Raises:
        StoreError: If it is no such store, or damaged.
    """
    path = Path(folder) / MANIFEST_NAME
    if not path.is_file():
        raise StoreError(f"{folder} holds no {MANIFEST_NAME}; give the folder of a store")
    document = parsed_manifest(path.read_bytes(), str(folder))
    if document.get("tier") != "aggregate":
        raise StoreError(f"{folder} is no table of usage; read it with open_store")
    (file,) = listed_files(document, str(folder))
    if not has_content(Path(folder) / USAGE_NAME, file):
        raise StoreError(f"{folder}/{USAGE_NAME} is not what the manifest says; copy it again")
    return pd.read_csv(Path(folder) / USAGE_NAME, keep_default_na=False)


def expert_counts(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"], *, n_experts: int
) -> Int[np.ndarray, "layers experts"]:
    """Routed slots that each expert of each layer received."""
    n_layers = expert_indices.shape[1]
    shifted = expert_indices.astype(np.int64) + n_experts * np.arange(n_layers)[:, None]
    counts = np.bincount(shifted.ravel(), minlength=n_layers * n_experts)
    return counts.reshape(n_layers, n_experts)


def _rows(store: Store, labels: pd.DataFrame, *, minimum_count: int) -> Iterator[pd.DataFrame]:
    layers, top_k = np.asarray(store.layout.layer_indices), store.layout.top_k
    for routing in prompt_routings(store):
        counts = expert_counts(routing.expert_indices, n_experts=store.layout.n_experts)
        kept = suppressed(counts, top_k=top_k, minimum_count=minimum_count)
        layer, expert = np.nonzero(kept)
        label = labels.iloc[routing.number]
        constant = {
            "prompt": label["prompt_id"],
            "item": label["item_id"],
            "condition": label["condition"],
            "source": label["source"],
        }
        varying = {"layer": layers[layer], "expert": expert, "count": kept[layer, expert]}
        if layer.size:
            yield pd.DataFrame({**constant, **varying})


def _manifest(
    store: Store, labels: pd.DataFrame, content: bytes, *, minimum_count: int
) -> dict[str, Any]:
    kinds = labels.groupby(["condition", "source"]).size().reset_index(name="n")
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "complete": True,
        "created": store.manifest["created"],
        "tier": "aggregate",
        "n_prompts": len(store.prompts),
        "prompts_by_kind": kinds.to_numpy().tolist(),
        "layout": same_layout(store.layout),
        "provenance": public_provenance(store, sources=set(labels["source"])),
        "usage": {
            "name": USAGE_NAME,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "minimum_count": minimum_count,
        },
        "parts": [],
    }
