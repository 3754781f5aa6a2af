"""One way in: the name of a suite or the path of a file, and prompts come out."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from interp.cache.errors import InputError
from interp.cache.records import CONDITIONS, Prompt
from interp.prompts.files import READERS, read_prompt_file
from interp.prompts.matched import matched_half_prompts, matched_prompts
from interp.prompts.packages import PACKAGE_SUITES

SUITES: dict[str, Callable[[], list[Prompt]]] = {
    "matched": matched_prompts,
    **PACKAGE_SUITES,
    "matched-half": matched_half_prompts,
}
"""Names that `load_prompts` takes in place of a path."""


def load_prompts(
    spec: str | Path,
    *,
    condition: str | None = None,
    source: str | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[Prompt]:
    """Prompts of a built-in suite or a file.

    Args:
        spec: One of `SUITES`, or the path of a .jsonl, .csv, .parquet or .json (ShareGPT) file.
            A suite's name wins over a file of that name; write `./matched` for the file.
        condition: Condition of those rows of a file that name none. Suites name their own.
        source: Source of those rows of a file that name none; the file's name if None.
        limit: At most so many items, each with all of its variants; see `sample_items`.
        seed: Seed of that sample.

    Raises:
        InputError: If the suite or file cannot be used; names the file and the row.
        ValueError: If `limit` is below 1.
    """
    if condition is not None and condition not in CONDITIONS:
        raise InputError(f"condition is {condition!r}, expected one of {', '.join(CONDITIONS)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}, expected 1 or more items; leave it out to take all")
    if str(spec) in SUITES and isinstance(spec, str):
        prompts = SUITES[spec]()
    elif Path(spec).suffix.lower() in READERS:
        prompts = read_prompt_file(Path(spec), condition=condition, source=source)
    else:
        raise InputError(
            f"prompts {str(spec)!r} are neither a suite ({', '.join(SUITES)}) "
            f"nor a file with a suffix of {', '.join(READERS)}; give one of these"
        )
    return prompts if limit is None else sample_items(prompts, limit=limit, seed=seed)


def load_several(
    specs: Sequence[str | Path], *, condition: str | None = None, limit: int | None = None
) -> list[Prompt]:
    """Prompts of several suites and files, one after the other; `limit` holds for each.

    Raises:
        InputError: As `load_prompts`; also if two of them hold the same prompt, or use one item_id
            for what need not be one item.
    """
    prompts: list[Prompt] = []
    home: dict[str, str | Path] = {}
    for spec in specs:
        loaded = load_prompts(spec, condition=condition, limit=limit)
        shared = [prompt.item_id for prompt in loaded if prompt.item_id in home]
        if shared:
            raise InputError(
                f"item_id {shared[0]!r} occurs in {home[shared[0]]} and in {spec}, and prompts "
                "that share it count as variants of one item; give each item an id of its own, "
                "or put the variants into one file"
            )
        home |= {prompt.item_id: spec for prompt in loaded}
        prompts += loaded
    return prompts


def sample_items(prompts: list[Prompt], *, limit: int, seed: int = 0) -> list[Prompt]:
    """All variants of `limit` items, spread evenly over the list and in its order.

    The items are cut into `limit` stretches of as equal a length as can be, and one item is drawn
    from each; so a list that is sorted by domain or alphabet keeps its spread.
    """
    items = list(dict.fromkeys(prompt.item_id for prompt in prompts))
    if limit >= len(items):
        return prompts
    rng = np.random.default_rng(seed)
    edges = np.linspace(0, len(items), limit + 1).round().astype(int)
    drawn = {items[rng.integers(low, high)] for low, high in pairwise(edges)}
    return [prompt for prompt in prompts if prompt.item_id in drawn]
