"""Statistics of parts add up to those of one pass, whatever the parts are."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.analyses.divergence import usage_divergence
from interp.analyses.store_divergence import pooled_clusters, store_divergence
from interp.analyses.streaming import (
    CellCounts,
    RoutedPart,
    SlotCounts,
    count_cells,
    count_slots,
)
from interp.cache.fingerprinting import import_fingerprinting
from tests.test_fingerprinting import layers_of, saved


def some_tokens(rng: np.random.Generator, n_tokens: int) -> RoutedPart:
    return RoutedPart(
        expert_indices=np.argsort(rng.random((n_tokens, 3, 6)), axis=-1)[..., :2],
        row=rng.integers(0, 8, n_tokens),
        key=rng.integers(0, 5, n_tokens) * 2**33,
    )


def cut(part: RoutedPart, ends: list[int]) -> list[RoutedPart]:
    bounds = [0, *sorted(ends), len(part.row)]
    return [
        RoutedPart(expert_indices=part.expert_indices[a:b], row=part.row[a:b], key=part.key[a:b])
        for a, b in pairwise(bounds)
        if b > a
    ]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_tokens=st.integers(1, 60),
    ends=st.lists(st.integers(0, 60), max_size=6),
)
def test_integers_of_any_split_into_parts_are_those_of_one_pass(
    seed: int, n_tokens: int, ends: list[int]
) -> None:
    whole = some_tokens(np.random.default_rng(seed), n_tokens)
    parts = cut(whole, [min(end, n_tokens) for end in ends])
    one, many = count_cells(lambda: [whole]), count_cells(lambda: parts)
    keys = np.unique(whole.key)[:3]
    sizes = {"n_rows": 8, "n_layers": 3, "n_experts": 6}
    added = SlotCounts.none(keys, **sizes)
    for part in parts:
        added = added + count_slots(lambda part=part: [part], keys, **sizes)
    once = count_slots(lambda: [whole], keys, **sizes)
    for name in ("key", "row", "n_tokens"):
        np.testing.assert_array_equal(getattr(one, name), getattr(many, name))
    np.testing.assert_array_equal(once.by_row, added.by_row)
    np.testing.assert_array_equal(once.by_key, added.by_key)


def test_cells_and_slots_are_the_counts_of_a_loop() -> None:
    part = some_tokens(np.random.default_rng(0), 50)
    cells = count_cells(lambda: [part])
    expected = Counter(zip(part.key.tolist(), part.row.tolist(), strict=True))
    found = zip(cells.key.tolist(), cells.row.tolist(), cells.n_tokens.tolist(), strict=True)
    assert {(key, row): n for key, row, n in found} == expected
    keys = np.unique(part.key)[1:3]
    slots = count_slots(lambda: [part], keys, n_rows=8, n_layers=3, n_experts=6)
    by_key = np.zeros((2, 2, 3, 6), dtype=int)
    for token in range(50):
        for layer in range(3):
            for expert in part.expert_indices[token, layer]:
                for place in np.flatnonzero(keys == part.key[token]):
                    by_key[place, part.row[token] % 2, layer, expert] += 1
    np.testing.assert_array_equal(slots.by_key, by_key)


def test_addition_is_associative_and_has_a_zero() -> None:
    rng = np.random.default_rng(1)
    a, b, c = (CellCounts.of(rng.integers(0, 4, n), rng.integers(0, 3, n)) for n in (5, 9, 0))
    for name in ("key", "row", "n_tokens"):
        np.testing.assert_array_equal(getattr((a + b) + c, name), getattr(a + (c + b), name))
        np.testing.assert_array_equal(getattr(a + c, name), getattr(a, name))


def test_counts_of_other_keys_cannot_be_added() -> None:
    one, other = (
        SlotCounts.none(np.array(keys), n_rows=2, n_layers=1, n_experts=1) for keys in ([1], [2, 3])
    )
    with pytest.raises(ValueError, match="of 1 and 2 keys cannot be added, because their keys"):
        one + other


def test_a_store_read_in_parts_and_layer_blocks_gives_what_the_arrays_give(tmp_path: Path) -> None:
    files = []
    for number in range(8):
        layers = [{f"token_{p}": layers_of(p * (1 + number % 3))} for p in range(8, 14)]
        kind = {"original_prompt": f"Why {number}?"}
        kind |= {"dataset": "tulu3_persona_if"} if number % 2 else {}
        files.append(
            saved(tmp_path, f"{number}.json", row_index=number, router_data=layers, **kind)
        )
    store = import_fingerprinting(files, tmp_path / "s.moe")
    item = store.prompts["item_id"].to_numpy(dtype=str)
    settings_ = {"cluster": item, "n_permutations": 20}
    one = store_divergence(store, rng=np.random.default_rng(0), **settings_)
    blocks = store_divergence(store, rng=np.random.default_rng(0), table_bytes=4000, **settings_)
    rng = np.random.default_rng(0)
    arrays = usage_divergence(
        store.router().expert_indices,
        benchmark=store.prompts["condition"].to_numpy(dtype=str) == "benchmark",
        token_id=store.token_id,
        prompt_index=store.prompt_index,
        n_experts=store.layout.n_experts,
        layer_indices=store.layout.layer_indices,
        rng=np.random.default_rng(int(rng.integers(2**63))),
        **settings_,
    )
    for found in (one, blocks):
        np.testing.assert_allclose(found.to_frame(), arrays.to_frame(), atol=1e-12)
    some = store_divergence(
        store,
        rng=np.random.default_rng(0),
        take=lambda batch: batch.position < 12,
        match_on="previous_and_token",
        **settings_,
    )
    assert some.n_tokens_benchmark == some.n_tokens_organic == 4 * 4


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_prompts=st.integers(2, 60), at_most=st.integers(6, 30))
def test_pooled_clusters_stay_whole_and_keep_their_kind(
    seed: int, n_prompts: int, at_most: int
) -> None:
    rng = np.random.default_rng(seed)
    condition = rng.choice(["benchmark", "organic"], n_prompts)
    cluster = rng.integers(0, 40, n_prompts)
    pooled = pooled_clusters(condition, cluster, rng=rng, at_most=at_most)
    assert pooled.max() < at_most + 4  # two for each of three kinds, at least
    for name in np.unique(cluster):
        assert len(set(pooled[cluster == name])) == 1
    if len(np.unique(cluster)) > at_most:
        for name in np.unique(pooled):
            members = np.unique(cluster[pooled == name])
            kinds = {frozenset(condition[cluster == member]) for member in members}
            assert len(kinds) == 1


def test_a_cluster_for_each_prompt_is_asked_for(tmp_path: Path) -> None:
    store = import_fingerprinting([saved(tmp_path)], tmp_path / "s.moe")
    with pytest.raises(ValueError, match="cluster has 2 entries, but the store has 1 prompts"):
        store_divergence(store, cluster=np.arange(2), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="6 benchmark and 0 organic tokens were given"):
        store_divergence(store, cluster=np.arange(1), rng=np.random.default_rng(0))


def test_fewer_clusters_than_two_of_each_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="at_most is 5, expected 6 or more clusters"):
        pooled_clusters(
            np.array(["organic"]), np.array([0]), rng=np.random.default_rng(0), at_most=5
        )
