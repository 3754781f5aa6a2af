"""What every figure takes from the tables of a study: rows as numbers, names that are safe."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.cache.errors import InputError
from interp.results import Results

LONGEST_NAME = 34
SIGNIFICANT = 0.05


class NothingToDrawError(InputError):
    """Results were computed and hold nothing that a figure could draw; the sentence says why."""


def table_of(results: Results, name: str) -> pd.DataFrame:
    """One table of the results, with missing numbers as NaN, which JSON turned into None.

    Raises:
        InputError: If it has no rows.
    """
    table = getattr(results, name)
    if table.empty:
        raise empty_table(results, name)
    return numeric(table)


def empty_table(results: Results, name: str) -> InputError:
    """The sentence for a table that holds nothing to draw, with the reason where one was given."""
    if name in results.absent:
        return InputError(f"The table {name} has no row to draw: {results.absent[name]}")
    command = "interp experiment" if name.startswith("experiment") else "interp analyze"
    return InputError(f"The table {name} has no row to draw; compute it with: {command}")


def numeric(table: pd.DataFrame) -> pd.DataFrame:
    """The same table; columns of numbers and None become columns of floats."""
    mixed = [name for name in table if table[name].dtype == object]
    numbers = [
        name
        for name in mixed
        if all(value is None or isinstance(value, (int, float)) for value in table[name])
    ]
    return table.astype(dict.fromkeys(numbers, float))


def column(rows: pd.DataFrame, name: str) -> Float[np.ndarray, "rows"]:
    """A column as floats; NaN all along where the table lacks it."""
    if name not in rows:
        return np.full(len(rows), np.nan)
    return rows[name].to_numpy(dtype=float)


def interval(
    rows: pd.DataFrame, value: str, *, low: str, high: str, scale: float = 1.0
) -> dict[str, object] | None:
    """Error bars from columns of ends; None where the table has no interval."""
    middle = scale * column(rows, value)
    above, below = scale * column(rows, high) - middle, middle - scale * column(rows, low)
    if not np.isfinite(above).any():
        return None
    bars = {"array": above, "arrayminus": below, "thickness": 1.2, "width": 3}
    return {"type": "data", "symmetric": False, **bars}


def model_of(results: Results) -> str:
    """Name of the model for the subtitle, its middle left out if it is long."""
    name = plain(str(results.run["model"]))
    if len(name) <= LONGEST_NAME:
        return name
    half = LONGEST_NAME // 2
    return f"{name[:half]}…{name[-half:]}"


def plain(text: str) -> str:
    """Text in which Plotly sees no markup and no placeholder."""
    return text.replace("<", "\u2039").replace(">", "\u203a").replace("%{", "% {")


def found_of(experts: pd.DataFrame, q: str) -> int | None:
    """How many experts have a `q` of at most 0.05; None where no expert has a `q`."""
    known = column(experts, q)
    return int((known <= SIGNIFICANT).sum()) if np.isfinite(known).any() else None


def none_possible(experts: pd.DataFrame) -> str:
    """A clause where not even an effect of all slots would be found, in the median expert."""
    smallest = column(experts, "smallest_effect")
    if not np.isfinite(smallest).any() or np.nanmedian(smallest) <= 1:
        return ""
    return "; these prompts could have shown none, not even an effect of all slots"


def even_share(results: Results) -> float:
    """Usage of every expert under an even load, 0 to 1."""
    return 1 / float(results.run["n_experts"])


def on_layers(rows: pd.DataFrame, *columns: str) -> list[list[float | None]]:
    """Layer, nothing in the place of the expert, and further columns: `customdata` of points."""
    more = [column(rows, name) for name in columns]
    return [
        [int(layer), None, *values]
        for layer, *values in zip(rows["layer"].to_numpy(), *more, strict=True)
    ]


def on_experts(rows: pd.DataFrame, *columns: str) -> list[list[float]]:
    """Layer, expert, and further columns (5 digits) of each row: `customdata` of points."""
    more = [[float(f"{value:.5g}") for value in column(rows, name)] for name in columns]
    pairs = zip(rows["layer"].astype(int), rows["expert"].astype(int), *more, strict=True)
    return [list(each) for each in pairs]


def listed(counts: Sequence[tuple[float, str]]) -> str:
    """Counts with their nouns, as `1,200 benchmark and 900 organic`."""
    return " and ".join(f"{count:,.0f} {noun}" for count, noun in counts)


def percent(share: float) -> str:
    """A share of 0 to 1 as percent."""
    return f"{100 * share:.3g} %"
