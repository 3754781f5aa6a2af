"""Paths against loops over tokens, a planted path, and the null."""

import dataclasses
from itertools import product

import numpy as np
import pytest

from interp.analyses.paths import expert_paths, path_counts, transition_counts
from interp.analyses.routed_tokens import RoutedTokens
from tests.measure_samples import nested_prompts, nested_tokens, renamed, routed_tokens


def test_transitions_are_those_of_a_loop() -> None:
    chosen = routed_tokens(np.random.default_rng(0)).expert_indices
    expected = np.zeros((6, 6), dtype=int)
    for token in chosen:
        for one in token[0]:
            for other in token[2]:
                expected[one, other] += 1
    np.testing.assert_array_equal(
        transition_counts(chosen[:, 0], chosen[:, 2], n_experts=6), expected
    )


@pytest.mark.parametrize(("length", "cells"), [(2, 1 << 24), (3, 1 << 24), (3, 0)])
def test_path_counts_are_those_of_a_loop(
    length: int, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp.analyses.paths.MOST_CELLS", cells)
    tokens = routed_tokens(np.random.default_rng(1))
    counts, experts = path_counts(
        tokens.expert_indices[:, :length],
        prompt_index=tokens.prompt_index,
        n_prompts=5,
        n_experts=6,
    )
    expected: dict[tuple[int, ...], int] = {}
    for token, prompt in zip(tokens.expert_indices, tokens.prompt_index, strict=True):
        for path in product(*token[:length].tolist()):
            expected[(int(prompt), *path)] = expected.get((int(prompt), *path), 0) + 1
    found = counts.toarray()
    for (prompt, *path), count in expected.items():
        column = np.flatnonzero((experts == path).all(axis=1)).item()
        assert found[prompt, column] == count
    assert found.sum() == sum(expected.values()) == 60 * 2**length


def test_shares_are_means_over_prompts_of_a_loop() -> None:
    tokens = routed_tokens(np.random.default_rng(2))
    benchmark = np.array([True, True, False, False, False])
    found = expert_paths(
        tokens,
        benchmark=benchmark,
        cluster=np.arange(5),
        rng=np.random.default_rng(0),
        n_permutations=5,
    )
    frame = found.to_frame().set_index("path")
    shares = np.zeros(5)
    usage = np.zeros((2, 5))
    for prompt in range(5):
        chosen = tokens.expert_indices[tokens.prompt_index == prompt]
        taken = [(a, b) for token in chosen for a in token[1] for b in token[2]]
        shares[prompt] = np.mean([path == (3, 0) for path in taken])
        usage[0, prompt] = np.mean([expert == 3 for token in chosen for expert in token[1]])
        usage[1, prompt] = np.mean([expert == 0 for token in chosen for expert in token[2]])
    row = frame.loc["11:3 > 12:0"]
    np.testing.assert_allclose(row["share"], shares.mean())
    np.testing.assert_allclose(row["expected_share"], (usage[0] * usage[1]).mean())
    difference = shares[:2].mean() - shares[2:].mean()
    np.testing.assert_allclose(row["share_benchmark"] - row["share_organic"], difference)
    np.testing.assert_allclose(row["standardised_difference"], difference / shares.std())
    totals = frame.groupby(frame.index.str[:2])["share"].sum()
    np.testing.assert_allclose(totals, 1.0)  # all paths from a layer, none left out


def with_planted_path(rng: np.random.Generator) -> tuple[RoutedTokens, np.ndarray]:
    """Benchmark tokens that choose expert 2 go on to expert 2; usage alone shows nothing."""
    prompts = nested_prompts(4, 5)
    tokens = nested_tokens(rng, prompts=prompts, n_tokens=20, n_experts=6, top_k=1)
    chosen = tokens.expert_indices.copy()
    planted = prompts.benchmark[tokens.prompt_index]
    chosen[planted, 1] = chosen[planted, 0]  # same usage of every expert, other pairs
    return (
        RoutedTokens(
            expert_indices=chosen,
            token_id=tokens.token_id,
            previous_token_id=tokens.previous_token_id,
            position=tokens.position,
            logprob=tokens.logprob,
            prompt_index=tokens.prompt_index,
            n_experts=6,
            layer_indices=(0, 1),
        ),
        prompts.benchmark,
    )


def test_planted_paths_are_the_most_specific_ones() -> None:
    tokens, benchmark = with_planted_path(np.random.default_rng(3))
    found = expert_paths(
        tokens, benchmark=benchmark, cluster=np.arange(40), rng=np.random.default_rng(0)
    )
    best = found.most_specific().iloc[:6]
    assert set(best["path"]) == {f"0:{expert} > 1:{expert}" for expert in range(6)}
    assert (best["p_max"] == 1 / 201).all()
    assert (best["share_benchmark"] > 3 * best["share_organic"]).all()
    assert found.n_clusters == 40


def test_paths_differ_by_chance_only_where_conditions_do_not() -> None:
    rng = np.random.default_rng(4)
    prompts = nested_prompts(4, 3)
    rejected = 0
    for _ in range(60):
        tokens = nested_tokens(rng, prompts=prompts, n_tokens=5, n_experts=4, source_spread=1.0)
        found = expert_paths(
            tokens,
            benchmark=prompts.benchmark,
            cluster=prompts.source,
            rng=rng,
            n_permutations=39,
        )
        rejected += int(found.p_max.min() <= 0.05)
    assert rejected <= 8  # 3 expected of 60; 9 or more in 0.4 % of the cases


def test_renamed_experts_and_reordered_tokens_change_nothing() -> None:
    rng = np.random.default_rng(5)
    tokens = routed_tokens(rng)
    other, names, _ = renamed(tokens, rng)
    benchmark = np.array([True, False, True, False, False])
    before, after = (
        expert_paths(
            each,
            benchmark=benchmark,
            cluster=np.arange(5),
            rng=np.random.default_rng(1),
            n_permutations=20,
        )
        for each in (tokens, other)
    )
    places = {
        (layers, experts): row
        for row, (layers, experts) in enumerate(
            zip(map(tuple, after.layers.tolist()), map(tuple, after.experts.tolist()), strict=True)
        )
    }
    for row, (layers, experts) in enumerate(
        zip(before.layers.tolist(), before.experts.tolist(), strict=True)
    ):
        image = tuple(int(names[layer - 10, e]) for layer, e in zip(layers, experts, strict=True))
        twin = places[(tuple(layers), image)]
        np.testing.assert_allclose(after.share[twin], before.share[row])
        np.testing.assert_allclose(after.p_max[twin], before.p_max[row])


def test_path_longer_than_the_model_is_refused() -> None:
    tokens = routed_tokens(np.random.default_rng(6))
    with pytest.raises(ValueError, match="length is 4, expected 2 to 3, the layers there are"):
        expert_paths(
            tokens,
            benchmark=np.arange(5) < 2,
            cluster=np.arange(5),
            rng=np.random.default_rng(0),
            length=4,
        )


def test_routing_of_one_layer_has_no_paths_and_the_sentence_says_so() -> None:
    tokens = routed_tokens(np.random.default_rng(6))
    one = dataclasses.replace(
        tokens, expert_indices=tokens.expert_indices[:, :1], layer_indices=tokens.layer_indices[:1]
    )
    with pytest.raises(ValueError, match="kept for 1 layer, and a path needs 2 or more"):
        expert_paths(
            one,
            benchmark=np.arange(5) < 2,
            cluster=np.arange(5),
            rng=np.random.default_rng(0),
        )


def test_paths_without_number_are_refused() -> None:
    with pytest.raises(ValueError, match="length is 10: too many paths of 128 experts"):
        path_counts(
            np.zeros((1, 10, 1), dtype=int),
            prompt_index=np.array([0]),
            n_prompts=1,
            n_experts=128,
        )
