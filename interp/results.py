"""The tables of one study, as `interp analyze` writes them and the report reads them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from interp.cache.durable import write_whole
from interp.cache.errors import InputError

DIVERGENCE_COLUMNS = (
    "layer",
    "raw_bits",
    "raw_low_bits",
    "raw_high_bits",
    "raw_null_bits",
    "raw_null_high_bits",
    "p_value",
    "token_matched_bits",
    "token_matched_low_bits",
    "token_matched_high_bits",
    "token_matched_null_bits",
    "token_matched_null_high_bits",
    "token_matched_p_value",
    "overlap",
    "share_explained_by_vocabulary",
    "share_explained_low",
    "share_explained_high",
)
PROBE_COLUMNS = ("site", "layer", "target", "split", "auroc", "auroc_low", "auroc_high", "baseline")
TABLES = ("usage", "divergence", "experts", "sources", "probes")


@dataclass(frozen=True, kw_only=True)
class Results:
    """What one study found. Every table names its columns as DESIGN.md does."""

    usage: pd.DataFrame
    """Rows: condition, layer, expert. Columns usage, usage_prompt_mean (shares of routed slots)."""
    divergence: pd.DataFrame
    """Rows: layer. Jensen-Shannon divergence of benchmark and organic usage, in bits."""
    probes: pd.DataFrame
    """Rows: site, layer, target, split, baseline. AUROC, 0.5 is chance."""
    experts: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: layer, expert. Effect of the condition, raw, token-adjusted and surface-adjusted, as
    shares of routed slots, with intervals, tests, equivalence and power; see docs/effects.md."""
    sources: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows: layer, and one for all (layer missing). Condition against source; docs/sources.md."""
    run: dict[str, Any]
    """Model, counts of prompts and tokens, settings, versions."""
    absent: dict[str, str] = field(default_factory=dict)
    """Panels that could not be computed, by name, each with the reason as a sentence."""


def write_results(results: Results, path: Path) -> None:
    """Write results as one JSON object; missing numbers become null."""
    tables = {
        name: json.loads(getattr(results, name).to_json(orient="records", double_precision=15))
        for name in TABLES
    }
    document = tables | {"run": results.run, "absent": results.absent}
    write_whole(path, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())


def read_results(path: Path) -> Results:
    """Read what `write_results` wrote.

    Raises:
        InputError: If the file is not there, or lacks a table.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        tables = {name: pd.DataFrame(document[name]) for name in TABLES}
        return Results(**tables, run=document["run"], absent=document["absent"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read as results ({type(error).__name__}: {error}); "
            "make it with: interp analyze STORE --out results.json"
        ) from error
