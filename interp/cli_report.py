"""The command `interp report`: one study, or two side by side, as one HTML file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from interp.cache.errors import InputError
from interp.cli_options import Json, Several, check_number, check_out, say

if TYPE_CHECKING:
    from interp.cache.reader import Store
    from interp.results import Results


def report(
    store: str,
    beside: str | None = None,
    /,
    *,
    out: Path,
    results: Annotated[list[Path] | None, Several] = None,
    seed: int = 0,
    json: Json = False,
) -> None:
    """Draw the interactive report of a study, or of two side by side, as one offline HTML file.

    Args:
        store: The store, such as run.moe, or the folder of a study, such as run.study.
        beside: Another one, to be shown beside it.
        out: The file to write, such as report.html.
        results: Tables that `interp analyze` wrote, a file for each store; computed anew if not
            given and the store is in no folder of a study.
        seed: Seed of the analysis, where it is computed anew.
    """
    check_out(out, ".html")
    check_number("seed", seed, least=0)
    stores = [store] if beside is None else [store, beside]
    if results and len(results) != len(stores):
        raise InputError(
            f"--results names {len(results)} file(s) for {len(stores)} store(s); give one for each"
        )
    from interp.report import write_report

    tables: Sequence[Path | None] = results or [None] * len(stores)
    first, *others = [
        _opened(each, file, seed=seed) for each, file in zip(stores, tables, strict=True)
    ]
    write_report(*first, out, beside=others[0] if others else None)
    say({"report": str(out)}, json)


def _opened(store: str, file: Path | None, *, seed: int) -> "tuple[Results, Store]":
    """Tables and store; both from the folder of a study where `store` is one."""
    from interp import study
    from interp.cache.reader import open_store
    from interp.results import read_results

    if Path(store, "study.moe").is_dir():
        store, file = f"{store}/study.moe", file or Path(store, "results.json")
    opened = open_store(store)
    tables = read_results(file) if file else study.analyze(opened, seed=seed)
    if tables.run.get("store_sha256") != opened.sha256:
        raise InputError(f"{file} was computed from another store than {store}; analyze it anew")
    return tables, opened
