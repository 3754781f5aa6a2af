"""Surface baselines and within-token usage against loops, scikit-learn and pandas."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from interp.analyses.probe_residual_usage import WithinTokenUsage
from interp.analyses.probe_surface import (
    bag_of_tokens,
    flag_features,
    logprob_features,
    one_against_rest,
    position_features,
    surface_features,
)
from interp.analyses.probes import probe
from interp.analyses.routed_tokens import Prompts, RoutedTokens


def tokens(seed: int = 0, n_prompts: int = 12) -> tuple[RoutedTokens, Prompts]:
    """Prompts of 5 to 20 tokens over 15 ids; half of them benchmark, items in pairs."""
    rng = np.random.default_rng(seed)
    length = rng.integers(5, 20, n_prompts)
    prompt_index = np.repeat(np.arange(n_prompts), length)
    n_tokens = len(prompt_index)
    position = np.arange(n_tokens) - np.repeat(np.cumsum(length) - length, length)
    token_id = rng.integers(0, 15, n_tokens)
    routed = RoutedTokens(
        expert_indices=np.argsort(rng.random((n_tokens, 1, 6)), axis=-1)[..., :2],
        token_id=token_id,
        previous_token_id=np.where(position == 0, -1, np.roll(token_id, 1)),
        position=position,
        logprob=np.where(position == 0, np.nan, -rng.random(n_tokens)),
        prompt_index=prompt_index,
        n_experts=6,
        layer_indices=(3,),
    )
    return routed, Prompts(
        benchmark=np.arange(n_prompts) % 2 == 0,
        source=np.array(["s"] * n_prompts),
        item=np.arange(n_prompts) // 2,
        template=np.array(["a", "b"] * (n_prompts // 2)),
    )


def test_the_bag_of_tokens_has_the_inner_products_of_exact_counts() -> None:
    routed, prompts = tokens()
    n_prompts = len(prompts.benchmark)
    texts = [
        " ".join(f"t{each}" for each in routed.token_id[routed.prompt_index == prompt])
        for prompt in range(n_prompts)
    ]
    counts = CountVectorizer(ngram_range=(1, 2)).fit_transform(texts).astype(float)
    exact = np.log1p(counts.toarray())
    hashed = bag_of_tokens(
        routed.token_id,
        routed.previous_token_id,
        prompt_index=routed.prompt_index,
        n_prompts=n_prompts,
    )
    assert hashed.nnz == counts.nnz  # 2**18 buckets for some 200 n-grams: none collide here
    np.testing.assert_allclose((hashed @ hashed.T).toarray(), exact @ exact.T)


def test_signs_let_collisions_cancel_on_average() -> None:
    rng = np.random.default_rng(0)
    ids = rng.choice(200_000, 4000, replace=False)
    halves = np.arange(4000) // 2000  # two prompts without a common token
    rows = bag_of_tokens(ids, np.full(4000, -1), prompt_index=halves, n_prompts=2, n_buckets=256)
    product = float((rows @ rows.T).toarray()[0, 1])
    norm = 2000 * np.log(2) ** 2
    assert abs(product) < 4 * norm / np.sqrt(256)  # unsigned, it would be 2000 / 256 norms


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_tokens_changes_no_surface_feature(seed: int) -> None:
    routed, prompts = tokens()
    order = np.random.default_rng(seed).permutation(len(routed.token_id))
    fields = ("token_id", "previous_token_id", "position", "logprob", "prompt_index")
    moved = RoutedTokens(
        expert_indices=routed.expert_indices[order],
        n_experts=6,
        layer_indices=(3,),
        **{name: getattr(routed, name)[order] for name in fields},
    )
    for one, other in zip(
        surface_features(routed, prompts, n_buckets=512).values(),
        surface_features(moved, prompts, n_buckets=512).values(),
        strict=True,
    ):
        np.testing.assert_allclose(
            one if isinstance(one, np.ndarray) else one.toarray(),
            other if isinstance(other, np.ndarray) else other.toarray(),
        )


def test_position_and_logprob_are_those_of_a_pandas_groupby() -> None:
    routed, prompts = tokens()
    n_prompts = len(prompts.benchmark)
    by_prompt = pd.Series(np.log1p(routed.position)).groupby(routed.prompt_index)
    where = {"prompt_index": routed.prompt_index, "n_prompts": n_prompts + 1}
    found = position_features(routed.position, **where)
    np.testing.assert_allclose(found[:n_prompts], by_prompt.agg(["min", "max", "mean"]))
    assert np.isnan(found[n_prompts]).all()
    found = logprob_features(routed.logprob, **where)
    expected = pd.Series(routed.logprob).groupby(routed.prompt_index).mean()
    np.testing.assert_allclose(found[:n_prompts, 0], expected)
    assert np.isnan(found[n_prompts, 0])


def test_surface_leaves_out_what_the_prompts_do_not_have() -> None:
    routed, prompts = tokens()
    assert list(surface_features(routed, prompts)) == [
        "length",
        "position",
        "bag_of_tokens",
        "template",
        "logprob",
    ]
    fields = ("expert_indices", "token_id", "previous_token_id", "position", "prompt_index")
    blind = RoutedTokens(
        logprob=np.full(len(routed.token_id), np.nan),
        n_experts=6,
        layer_indices=(3,),
        **{name: getattr(routed, name) for name in fields},
    )
    bare = Prompts(
        benchmark=prompts.benchmark,
        source=prompts.source,
        item=prompts.item,
        template=np.full(len(prompts.item), ""),
    )
    assert list(surface_features(blind, bare)) == ["length", "position", "bag_of_tokens"]


def test_flags_are_one_for_the_own_template() -> None:
    found = flag_features(np.array(["b", "a", "b"]))
    assert found.tolist() == [[0, 1], [1, 0], [0, 1]]


def test_one_against_rest_leaves_out_what_cannot_be_split() -> None:
    found = one_against_rest(np.array(["a", "a", "b", "b", "c"]))
    assert list(found) == ["a", "b"]
    assert found["a"].tolist() == [True, True, False, False, False]


def within(routed: RoutedTokens, prompts: Prompts) -> WithinTokenUsage:
    return WithinTokenUsage(
        routed.expert_indices[:, 0],
        token_id=routed.token_id,
        prompt_index=routed.prompt_index,
        cluster=prompts.item,
        n_experts=6,
    )


@pytest.mark.parametrize("seed", range(3))
def test_within_token_usage_is_that_of_a_loop_over_tokens(seed: int) -> None:
    routed, prompts = tokens(seed)
    n_prompts = len(prompts.item)
    fitted = np.random.default_rng(seed).random(n_prompts) < 0.6
    share = [np.bincount(each, minlength=6) / 2 for each in routed.expert_indices[:, 0]]
    expected = np.zeros((n_prompts, 6))
    for prompt in range(n_prompts):
        rests = []
        for token in np.flatnonzero(routed.prompt_index == prompt):
            others = [
                share[other]
                for other in range(len(share))
                if routed.token_id[other] == routed.token_id[token]
                and fitted[routed.prompt_index[other]]
                and prompts.item[routed.prompt_index[other]] != prompts.item[prompt]
            ]
            if others:
                rests.append(share[token] - np.mean(others, axis=0))
        if rests:
            expected[prompt] = np.mean(rests, axis=0)
    np.testing.assert_allclose(within(routed, prompts)(fitted), expected, atol=1e-12)


def test_routing_that_follows_the_token_alone_leaves_nothing() -> None:
    routed, prompts = tokens()
    experts = np.argsort(np.random.default_rng(1).random((15, 6)), axis=1)[:, :2]
    features = WithinTokenUsage(
        experts[routed.token_id],
        token_id=routed.token_id,
        prompt_index=routed.prompt_index,
        cluster=prompts.item,
        n_experts=6,
    )
    np.testing.assert_allclose(features(np.ones(12, dtype=bool)), 0, atol=1e-12)


def test_probe_learns_within_token_usage_inside_the_fold() -> None:
    routed, prompts = tokens(n_prompts=40)
    seen: list[np.ndarray] = []
    features = within(routed, prompts)

    def watched(fitted: np.ndarray) -> np.ndarray:
        seen.append(fitted)
        return features(fitted)

    found = probe(
        watched,
        target=prompts.benchmark,
        cluster=prompts.item,
        rng=np.random.default_rng(0),
        strengths=[1.0],
    )
    np.testing.assert_array_equal(np.array(seen), found.splits.fitted)
