"""A table of usage (tier `aggregate`), compared with its manifest and with itself."""

from pathlib import Path
from typing import Any

import pandas as pd

from interp.cache.errors import StoreError
from interp.cache.manifest import DIGEST_FIELD, content_digest, layout_from_json
from interp.cache.records import Layout
from interp.cache.share_files import USAGE_NAME
from interp.cache.usage_table import COLUMNS, read_usage

NUMBERS = ("layer", "expert", "count")


def check_usage(folder: Path, manifest: dict[str, Any]) -> None:
    """Refuse a table that is not what its manifest says, or that no store has.

    Args:
        folder: Of the store.
        manifest: As `usage_manifest` gives it.

    Raises:
        StoreError: Naming what is wrong.
    """
    said = manifest.get(DIGEST_FIELD, ...)
    if said is not ... and said != content_digest(manifest):
        raise StoreError(f"{folder}: {DIGEST_FIELD} is not that of the manifest; copy it again")
    table = read_usage(folder)
    minimum = manifest["usage"].get("minimum_count")
    if type(minimum) is not int or minimum < 1:
        raise StoreError(f"{folder}: minimum_count is {minimum!r}; copy it again")
    fault = _fault(
        table,
        layout=layout_from_json(manifest["layout"]),
        n_prompts=int(manifest["n_prompts"]),
        minimum_count=minimum,
    )
    if fault:
        raise StoreError(f"{folder}/{USAGE_NAME}: {fault}; the table holds what no push gives")


def _fault(table: pd.DataFrame, *, layout: Layout, n_prompts: int, minimum_count: int) -> str:
    """What is wrong, as a part of a sentence; empty where nothing is."""
    if tuple(table.columns) != COLUMNS:
        return f"its columns are {', '.join(map(str, table.columns))}"
    if len(table) and any(table[name].dtype.kind not in "iu" for name in NUMBERS):
        return "a layer, expert or count is no whole number"
    n_named = table["prompt"].nunique()
    odd = ~table["layer"].isin(layout.layer_indices) | ~table["expert"].isin(
        range(layout.n_experts)
    )
    if odd.any():
        row = table[odd].iloc[0]
        return f"it holds expert {row['expert']} of layer {row['layer']}, which the layout has not"
    if (table["count"] < minimum_count).any():
        return f"it holds a count below {minimum_count}"
    if table.duplicated(["prompt", "layer", "expert"]).any():
        return "it holds a cell twice"
    if n_named > n_prompts:
        return f"it names {n_named} prompts, and the manifest says {n_prompts}"
    return ""
