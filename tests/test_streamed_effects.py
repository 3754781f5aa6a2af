"""Effects of tokens in parts are those of all at once; counts of parts add up to the same."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.analyses import slot_tables as tables_module
from interp.analyses.cells_contrast import number_units
from interp.analyses.effects import expert_effects, streamed_expert_effects
from interp.analyses.routed_tokens import Prompts, RoutedTokens
from interp.analyses.slot_tables import SlotTable, cell_index, slot_tables
from interp.analyses.store_effects import store_expert_effects
from interp.analyses.streamed_quantiles import quantiles_of_counts, streamed_quantiles
from interp.analyses.surface import streamed_surface
from interp.analyses.token_stream import TokenPart, TokenStream, stream_of
from interp.cache.reader import Store, open_store
from interp.cache.records import PROMPT_FIELDS
from tests.store_samples import sample, write


def study(rng: np.random.Generator, *, n_clusters: int = 10) -> tuple[RoutedTokens, Prompts]:
    n_prompts = 2 * n_clusters
    prompt_index = np.repeat(np.arange(n_prompts), rng.integers(1, 12, n_prompts))
    n = len(prompt_index)
    logprob = -rng.exponential(size=n).astype(np.float32)
    logprob[rng.random(n) < 0.2] = np.nan
    tokens = RoutedTokens(
        expert_indices=np.argsort(rng.random((n, 2, 5)), axis=-1)[..., :2].astype(np.uint8),
        token_id=rng.integers(0, 9, n),
        previous_token_id=rng.integers(-1, 7, n),
        position=rng.integers(0, 40, n),
        logprob=logprob,
        prompt_index=prompt_index,
        n_experts=5,
        layer_indices=(3, 8),
    )
    source = np.arange(n_prompts) // 2
    prompts = Prompts(
        benchmark=source < n_clusters // 2,
        source=source,
        item=np.arange(n_prompts),
        template=np.full(n_prompts, ""),
    )
    return tokens, prompts


def cut(tokens: RoutedTokens, at: list[int]) -> TokenStream:
    """The tokens as parts that end at these tokens."""
    whole = stream_of(tokens)
    edges = [0, *sorted({place % len(tokens.token_id) for place in at} - {0}), len(tokens.token_id)]

    def parts(layers: slice) -> Iterator[TokenPart]:
        (everything,) = whole.parts(layers)
        for start, stop in pairwise(edges):
            yield TokenPart(**{k: v[start:stop] for k, v in vars(everything).items()})

    return replace(whole, parts=parts)


@settings(max_examples=4, deadline=None)
@given(
    at=st.lists(st.integers(0, 10_000), max_size=6),
    seed=st.integers(0, 2**32 - 1),
    n_clusters=st.sampled_from([10, 70]),
    table_bytes=st.sampled_from([1, 20_000, 2**29]),
)
def test_any_parts_and_any_tables_give_the_effects_of_all_tokens_at_once(
    at: list[int], seed: int, n_clusters: int, table_bytes: int
) -> None:
    tokens, prompts = study(np.random.default_rng(seed), n_clusters=n_clusters)
    alike = {"cluster": "source", "n_resamples": 50}
    whole = expert_effects(tokens, prompts, rng=np.random.default_rng(seed), **alike)  # type: ignore[arg-type]
    streamed = streamed_expert_effects(
        cut(tokens, at),
        prompts,
        rng=np.random.default_rng(seed),
        table_bytes=table_bytes,
        **alike,  # type: ignore[arg-type]
    )
    first, second = whole.to_frame(), streamed.to_frame()
    for name in first:
        np.testing.assert_allclose(
            second[name].to_numpy(float), first[name].to_numpy(float), rtol=1e-9, atol=1e-11
        )
    assert streamed.notes == whole.notes


def counted(stream: TokenStream, prompts: Prompts, like: TokenStream) -> list[SlotTable]:
    """Tables of the tokens of one stream, with cells and surface of another."""
    units = number_units(prompts.benchmark, prompts.source)
    by_unit = like.rows(units.unit)
    cells = cell_index(by_unit)
    design = streamed_surface(by_unit, units, cells, rng=np.random.default_rng(0)).design
    return list(
        slot_tables(stream, cells, unit_of_row=units.unit, count_rows=True, surface=design.slots)
    )


@settings(max_examples=6, deadline=None)
@given(place=st.integers(1, 10_000), seed=st.integers(0, 2**32 - 1))
def test_counts_of_two_parts_add_up_to_the_integers_of_one_pass(place: int, seed: int) -> None:
    tokens, prompts = study(np.random.default_rng(seed))
    whole = stream_of(tokens)
    pair = list(cut(tokens, [1 + place % (len(tokens.token_id) - 1)]).parts(slice(None)))

    def half(part: TokenPart) -> TokenStream:
        return replace(
            whole,
            parts=lambda layers: [replace(part, expert_indices=part.expert_indices[:, layers])],
        )

    once = counted(whole, prompts, whole)
    halves = [counted(half(part), prompts, whole) for part in pair]
    for table, first, second in zip(once, *halves, strict=True):
        first += second
        for mine, others in zip(table.arrays, first.arrays, strict=True):
            if mine.dtype.kind == "i":
                np.testing.assert_array_equal(mine, others)
            else:
                np.testing.assert_allclose(mine, others, rtol=1e-12, atol=1e-12)


def test_counts_by_cell_and_prompt_are_those_of_a_loop() -> None:
    tokens, prompts = study(np.random.default_rng(1))
    units = number_units(prompts.benchmark, prompts.source)
    stream = stream_of(tokens)
    cells = cell_index(stream.rows(units.unit))
    found = list(slot_tables(stream, cells, unit_of_row=units.unit, count_rows=True))
    by_cell: dict[tuple[int, int, int, int], int] = {}
    by_prompt = np.zeros((20, 2, 5), dtype=int)
    for token in range(len(tokens.token_id)):
        prompt = tokens.prompt_index[token]
        for layer in range(2):
            for expert in tokens.expert_indices[token, layer].tolist():
                by_prompt[prompt, layer, expert] += 1
                key = (int(units.unit[prompt]), int(tokens.token_id[token]), layer, expert)
                by_cell[key] = by_cell.get(key, 0) + 1
    assert [table.layer for table in found] == [0, 1]
    for layer, table in enumerate(found):
        np.testing.assert_array_equal(table.rows, by_prompt[:, layer])
        for cell, (unit, token_place) in enumerate(zip(cells.unit, cells.token, strict=True)):
            for expert in range(5):
                key = (int(unit), int(cells.ids[token_place]), layer, expert)
                assert table.cells[cell, expert] == by_cell.get(key, 0)


def test_blocks_of_columns_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, prompts = study(np.random.default_rng(2))
    effects = [
        expert_effects(tokens, prompts, cluster="source", rng=np.random.default_rng(0))
        for block in (4_000_000, 100)
        if monkeypatch.setattr(tables_module, "BLOCK", block) is None
    ]
    np.testing.assert_allclose(
        effects[0].surface_adjusted.effect, effects[1].surface_adjusted.effect, atol=1e-12
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.floats(width=32, allow_infinity=False), max_size=6), min_size=1, max_size=4
    ),
    st.sampled_from([np.float32, np.float64]),
)
def test_streamed_quantiles_are_those_of_numpy(parts: list[list[float]], kind: type) -> None:
    arrays = [np.array(part, dtype=kind) for part in parts]
    known = np.concatenate(arrays).astype(float)
    known = known[~np.isnan(known)]
    shares = np.linspace(0, 1, 5)
    found = streamed_quantiles(lambda: arrays, shares)
    expected = np.quantile(known, shares) if len(known) else np.empty(0)
    np.testing.assert_array_equal(found, expected)
    if len(known):
        values, counts = np.unique(known, return_counts=True)
        np.testing.assert_array_equal(quantiles_of_counts(values, counts, shares), expected)


def written(path: Path) -> Store:
    """A store of 24 prompts in 12 sources, 3 of them mixed, in parts of a few prompts."""
    prompts = []
    for number in range(24):
        source = number // 2
        condition = ("organic", "benchmark")[source % 2] if source < 10 else "mixed"
        fields = {name: f"{name} {number}" for name in PROMPT_FIELDS}
        fields |= {"condition": condition, "source": f"source {source}"}
        prompts.append(sample(seed=number, n_tokens=15, prompt=fields))
    return open_store(write(path, prompts, part_mb=0.2))


def test_effects_of_a_store_are_those_of_its_tokens_in_memory(tmp_path: Path) -> None:
    store = written(tmp_path / "s.moe")
    condition = store.prompts["condition"].to_numpy(dtype=str)
    takes_part = (condition != "mixed")[store.prompt_index] & (store.position < 12)
    before = np.where(store.position == 0, -1, np.append(-1, store.token_id[:-1]))
    routed = RoutedTokens(
        expert_indices=store.router().expert_indices[takes_part],
        token_id=store.token_id[takes_part],
        previous_token_id=before[takes_part],
        position=store.position[takes_part],
        logprob=store.logprob[takes_part],
        prompt_index=store.prompt_index[takes_part],
        n_experts=store.layout.n_experts,
        layer_indices=store.layout.layer_indices,
    )
    fields = {name: store.prompts[name].to_numpy(dtype=str) for name in ("source", "template")}
    prompts = Prompts(
        benchmark=condition == "benchmark",
        item=store.prompts["item_id"].to_numpy(dtype=str),
        **fields,
    )
    alike = {"cluster": "source", "n_resamples": 40}
    whole = expert_effects(routed, prompts, rng=np.random.default_rng(0), **alike)  # type: ignore[arg-type]
    streamed = store_expert_effects(
        store,
        rng=np.random.default_rng(0),
        take=lambda batch: batch.position < 12,
        **alike,  # type: ignore[arg-type]
    )
    assert streamed.n_clusters == 10
    np.testing.assert_allclose(
        streamed.to_frame().astype(float), whole.to_frame().astype(float), atol=1e-10
    )
