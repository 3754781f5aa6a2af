"""What is left out cannot be told from what is shown, by brute force over all that could be.

The reader of a copy is taken to know the rule and the length of each prompt. What is possible is
counted out: every table that there could have been is published, and those that look alike are
laid side by side.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest

from interp.cache.small_counts import public_labels, suppressed

NAMED = ("s", "t", "u")
"""Sources that the reader knows of; there can always be others."""


def layers_of(n_tokens: int, top_k: int, n_experts: int) -> np.ndarray:
    """All counts that a layer can have: each expert at most once per token."""
    grid = np.indices((n_tokens + 1,) * n_experts).reshape(n_experts, -1).T
    return grid[grid.sum(axis=1) == n_tokens * top_k]


SIZES = [
    (n_tokens, top_k, n_experts)
    for n_experts in (2, 3, 4, 5)
    for top_k in range(1, n_experts)
    for n_tokens in ((1, 2, 3, 4, 5, 7, 9) if n_experts == 5 else (1, 2, 3, 4, 5, 7, 9, 12))
]


@pytest.mark.parametrize("minimum_count", [2, 3, 5])
def test_every_small_value_is_possible_for_every_missing_count(minimum_count: int) -> None:
    for n_tokens, top_k, n_experts in SIZES:
        real = layers_of(n_tokens, top_k, n_experts)
        shown = suppressed(real, top_k=top_k, minimum_count=minimum_count)
        assert ((shown == 0) | (shown == real)).all()
        assert not ((shown > 0) & (real < minimum_count)).any()
        views, alike = np.unique(shown, axis=0, return_inverse=True)
        for number, view in enumerate(views):
            candidates = real[alike.ravel() == number]
            for expert in np.flatnonzero(view == 0):
                possible = set(candidates[:, expert].tolist())
                small = set(range(min(minimum_count - 1, n_tokens) + 1))
                assert small <= possible, (n_tokens, top_k, view, expert)


@pytest.mark.parametrize("seed", range(6))
def test_layers_of_one_prompt_do_not_tell_each_others_missing_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(4):
        n_experts, top_k = int(rng.integers(3, 6)), int(rng.integers(1, 3))
        n_tokens = int(rng.integers(6, 13 if n_experts < 5 else 10))
        minimum_count = int(rng.integers(2, 6))
        table = drawn(rng, n_tokens=n_tokens, top_k=top_k, n_experts=n_experts)
        shown = suppressed(table, top_k=top_k, minimum_count=minimum_count)
        for layer, found in possible_values(shown, n_tokens=n_tokens, top_k=top_k).items():
            small = set(range(min(minimum_count - 1, n_tokens) + 1))
            # Who leaves out one expert or none per token has its counts told by the length alone.
            if n_experts - top_k > 1:
                assert all(small <= values for values in found), (table, shown, layer)
            assert all(len(values) > 1 for values in found), (table, shown, layer)


def drawn(rng: np.random.Generator, *, n_tokens: int, top_k: int, n_experts: int) -> np.ndarray:
    """Counts of four layers, the first even and the others uneven, token by token."""
    table = np.zeros((4, n_experts), dtype=np.int64)
    for layer in range(4):
        share = rng.dirichlet(np.full(n_experts, 50.0 if layer == 0 else 0.4)) + 1e-9
        for _ in range(n_tokens):
            chosen = rng.choice(n_experts, size=top_k, replace=False, p=share / share.sum())
            table[layer, chosen] += 1
    return table


def possible_values(shown: np.ndarray, *, n_tokens: int, top_k: int) -> dict[int, list[set[int]]]:
    """By layer, what each missing count can be, to a reader without the rule.

    The length is taken from a layer that is shown whole; where there is none, it is told.
    """
    whole = [int(row.sum()) for row in shown if (row > 0).all()]
    assert all(total == n_tokens * top_k for total in whole)
    found = {}
    for layer, row in enumerate(shown):
        missing = np.flatnonzero(row == 0)
        if missing.size:
            grid = np.indices((n_tokens + 1,) * missing.size).reshape(missing.size, -1)
            fits = grid[:, grid.sum(axis=0) == n_tokens * top_k - row.sum()]
            found[layer] = [set(values.tolist()) for values in fits]
    return found


def test_an_even_layer_does_not_tell_that_experts_of_another_were_never_chosen() -> None:
    counts = np.array([[20, 20, 20, 20], [40, 40, 0, 0]])
    kept = suppressed(counts, top_k=2, minimum_count=5)
    np.testing.assert_array_equal(kept, [[20, 20, 20, 20], [0, 0, 0, 0]])


def test_what_goes_with_the_small_counts_by_hand() -> None:
    # 14 tokens and 4 experts: it is the turn of experts 2 and 3.
    counts = [[7, 7, 7, 7], [9, 7, 4, 8], [2, 14, 6, 6], [14, 14, 0, 0], [5, 0, 12, 11]]
    kept = [[7, 7, 7, 7], [9, 7, 0, 0], [0, 14, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    found = suppressed(np.array(counts), top_k=2, minimum_count=5)
    np.testing.assert_array_equal(found, kept)


def test_no_missing_count_depends_on_what_the_others_of_its_turn_hold() -> None:
    counts = np.array([[9, 7, 4, 8], [7, 9, 3, 9], [7, 9, 9, 3], [9, 5, 10, 4]])
    found = suppressed(counts, top_k=2, minimum_count=5)
    assert ((found == 0) == [False, False, True, True]).all()


# --- labels


def table(rows: list[tuple[str, ...]]) -> pd.DataFrame:
    """Prompts with an item each unless the row names one at its end."""
    names = ["condition", "source", "domain", "variant", "template", "item_id"]
    filled = [(*row, *[""] * (5 - len(row)), f"i{n}")[:6] for n, row in enumerate(rows)]
    return pd.DataFrame(filled, columns=names).assign(prompt_id="x")


def cells(frame: pd.DataFrame, *names: str) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(frame[name] for name in names), strict=True))


def partitions(total: int, largest: int) -> Iterator[tuple[int, ...]]:
    if total == 0:
        yield ()
    for first in range(min(total, largest), 0, -1):
        for rest in partitions(total - first, first):
            yield (first, *rest)


def stores_of(n_prompts: int) -> Iterator[dict[str, int]]:
    """All ways in which prompts of one condition can come from sources, named and unheard-of."""
    for named in product(range(n_prompts + 1), repeat=len(NAMED)):
        if sum(named) <= n_prompts:
            for rest in partitions(n_prompts - sum(named), n_prompts):
                others = {f"other {number}": size for number, size in enumerate(rest)}
                yield dict(zip(NAMED, named, strict=True)) | others


@pytest.mark.parametrize("n_prompts", [2, 4, 5, 6, 7])
def test_every_small_number_is_possible_for_every_missing_label(n_prompts: int) -> None:
    minimum_count = 3
    alike: dict[frozenset[tuple[str, int]], list[dict[str, int]]] = defaultdict(list)
    for sizes in stores_of(n_prompts):
        rows = [("organic", source) for source, size in sizes.items() for _ in range(size)]
        shown = cells(public_labels(table(rows), minimum_count=minimum_count), "source")
        assert all(size >= min(minimum_count, n_prompts) for size in shown.values())
        assert all(sizes[key[0]] == size for key, size in shown.items() if key[0])
        alike[frozenset((key[0], size) for key, size in shown.items())].append(sizes)
    for view, candidates in alike.items():
        names = {name for name, _ in view}
        if "" not in names or not names <= {"", *NAMED}:
            continue  # all is shown, or the numbers of the unheard-of stand in for names
        for name in set(NAMED) - names:
            possible = {sizes[name] for sizes in candidates}
            assert set(range(min(minimum_count - 1, n_prompts) + 1)) <= possible, view


@pytest.mark.parametrize("seed", range(8))
def test_no_table_of_several_labels_has_a_small_cell(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [
        (
            str(rng.choice(["benchmark", "organic", "mixed"], p=[0.6, 0.37, 0.03])),
            f"s{rng.geometric(0.4)}",
            f"d{rng.integers(3)}",
            f"v{rng.geometric(0.5)}",
            str(rng.choice(["", "t"])),
        )
        for _ in range(300)
    ]
    found = public_labels(table(rows), minimum_count=5)
    n_of = cells(found, "condition")
    names = ("condition", "source", "domain", "variant", "template")
    for size in (2, 3, 4, 5):
        for some in combinations(names, size):
            if some[0] == "condition":
                for key, n in cells(found, *some).items():
                    assert n >= min(5, n_of[key[:1]]), (some, key)
    assert (found["source"] != "").any()
    again = public_labels(found, minimum_count=5)
    pd.testing.assert_frame_equal(again, found)


def test_small_cells_of_condition_and_source_are_not_shown() -> None:
    rows = [("benchmark", "s")] * 40 + [("benchmark", "t")] * 9 + [("organic", "s")] * 6
    rows += [("organic", "t")] * 2 + [("organic", "u")] * 20
    found = public_labels(table(rows), minimum_count=5)
    assert cells(found, "condition", "source") == {
        ("benchmark", "s"): 40,
        ("benchmark", "t"): 9,
        ("organic", ""): 8,
        ("organic", "u"): 20,
    }


def test_a_missing_source_is_not_told_by_another_prompt_of_its_item() -> None:
    rows = [("benchmark", "s", "", "", "", f"pair {n}") for n in range(8)]
    rows += [("organic", "s", "", "", "", f"pair {n}") for n in range(3)]
    rows += [("organic", "t", "", "", "", f"own {n}") for n in range(6)]
    rows += [("benchmark", "u", "", "", "", f"other {n}") for n in range(6)]
    frame = table([row[:5] for row in rows]).assign(item_id=[row[5] for row in rows])
    found = public_labels(frame, minimum_count=5)
    for _, own in found.groupby("item_id"):
        assert len({source == "" for source in own["source"]}) == 1
    assert all(n >= 5 for n in cells(found, "condition", "source").values())
    assert ("benchmark", "u", 6) in [
        (*k, n) for k, n in cells(found, "condition", "source").items()
    ]
