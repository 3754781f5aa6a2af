"""Every table of the results inside the page: sortable there, and to be saved as CSV."""

import json
import math
from typing import Any

import pandas as pd

from interp.report_html import packed_json, told
from interp.report_study import ReportedStudy
from interp.results import TABLES


def tables_of(study: ReportedStudy) -> str:
    """A closed entry for each table that has rows, filled by the page's script when it opens."""
    results, suffix = study.given, study.suffix
    held = {name: getattr(results, name) for name in TABLES if len(getattr(results, name))}
    entries = "".join(_entry(name, table, suffix) for name, table in held.items())
    empty = [name for name in TABLES if name not in held]
    without = f'<p class="hint">Without rows: {told(", ".join(empty))}.</p>' if empty else ""
    payload = {name: table_payload(table) for name, table in held.items()}
    return f'<div class="tables" data-suffix="{suffix}">{entries}{without}</div>' + packed_json(
        f"tables-json{suffix}", json.dumps(payload, separators=(",", ":"))
    )


def table_payload(table: pd.DataFrame) -> dict[str, list[Any]]:
    """Columns of a table as JSON values, with all the digits of results.json."""
    rows = json.loads(table.to_json(orient="split", double_precision=15))
    columns = zip(*rows["data"], strict=True)
    return {
        str(name): [_whole(value) for value in values]
        for name, values in zip(rows["columns"], columns, strict=True)
    }


def _whole(value: Any) -> Any:
    """Whole numbers without a fraction: half the letters, the same number."""
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    return value


def _entry(name: str, table: pd.DataFrame, suffix: str) -> str:
    return (
        f'<details class="table" id="table-{name}{suffix}" data-table="{name}"><summary>{name} '
        f'<span class="hint">{len(table):,} rows, {table.shape[1]} columns</span></summary>'
        "</details>"
    )
