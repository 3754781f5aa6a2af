"""Divergence against scipy and loops over tokens, and against data whose answer is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import binom
from scipy.stats import t as student_t

from interp.analyses.divergence import (
    Divergence,
    jensen_shannon_bits,
    point_divergence,
    usage_divergence,
)
from interp.analyses.matched_on import KEYS, divergence_matched_on, match_key
from interp.analyses.permutation import delete_groups, flipped_signs, permuted_labels
from interp.analyses.routed_tokens import Prompts, RoutedTokens


def simulate(
    rng: np.random.Generator, *, vocabulary_differs: bool, condition_shift: float
) -> dict[str, np.ndarray]:
    """40 prompts of 80 tokens over 30 ids; experts depend on the id and maybe the condition."""
    benchmark = np.arange(40) < 20
    zipf = 1 / np.arange(1, 31)
    benchmark_ids, organic_ids = zipf / zipf.sum(), zipf[::-1] / zipf.sum()
    token_id = np.stack(
        [
            rng.choice(30, 80, p=benchmark_ids if of or not vocabulary_differs else organic_ids)
            for of in benchmark
        ]
    )
    preference = rng.normal(size=(30, 16))[token_id]
    shift = condition_shift * rng.normal(size=16) * benchmark[:, None]
    scores = preference + shift[:, None] + rng.gumbel(size=preference.shape)
    chosen = np.argsort(-scores, axis=-1)[..., :4].reshape(-1, 1, 4)
    return {
        "expert_indices": chosen,
        "benchmark": benchmark,
        "token_id": token_id.ravel(),
        "prompt_index": np.repeat(np.arange(40), 80),
        "cluster": np.arange(40),
    }


def diverge(arrays: dict[str, np.ndarray], **changes: object) -> Divergence:
    settings = {"n_experts": 16, "n_permutations": 60, "rng": np.random.default_rng(0)} | changes
    layers = range(arrays["expert_indices"].shape[1])
    return usage_divergence(**arrays, layer_indices=layers, **settings)


def looped(arrays: dict[str, np.ndarray], label: np.ndarray, n_experts: int) -> tuple[list, list]:
    """Raw and token-matched divergence by loops over tokens, straight from the definition."""
    chosen, ids = arrays["expert_indices"], arrays["token_id"]
    side = label[arrays["prompt_index"]]
    raw, matched = [], []
    for layer in range(chosen.shape[1]):
        pooled, by_id = np.zeros((2, n_experts)), {}
        for token in range(len(ids)):
            for expert in chosen[token, layer]:
                pooled[int(side[token]), expert] += 1
                cell = by_id.setdefault(int(ids[token]), np.zeros((2, n_experts)))
                cell[int(side[token]), expert] += 1
        raw.append(jensenshannon(*pooled, base=2) ** 2)
        n = [(~side).sum(), side.sum()]
        share = {
            one: min((ids[side] == one).sum() / n[1], (ids[~side] == one).sum() / n[0])
            for one in by_id
        }
        mixed = np.zeros((2, n_experts))
        for one, cell in by_id.items():
            if share[one] > 0:
                mixed += share[one] / sum(share.values()) * cell / cell.sum(axis=1, keepdims=True)
        matched.append(jensenshannon(*mixed, base=2) ** 2)
    return raw, matched


def small(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    n_tokens = 60
    return {
        "expert_indices": np.argsort(rng.random((n_tokens, 2, 5)), axis=-1)[..., :2],
        "benchmark": np.array([True, False, True, False, False, True]),
        "token_id": rng.integers(100, 109, n_tokens),
        "prompt_index": np.concatenate([np.arange(6), rng.integers(0, 6, n_tokens - 6)]),
        "cluster": np.array(["a", "a", "b", "c", "d", "e"]),
    }


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_experts=st.integers(1, 40))
def test_jensen_shannon_bits_is_the_squared_distance_of_scipy(seed: int, n_experts: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.dirichlet(np.full(n_experts, 0.3), 2)
    ours = float(jensen_shannon_bits(a, b))
    assert 0 <= ours <= 1
    assert ours == pytest.approx(jensenshannon(a, b, base=2) ** 2, abs=1e-9)


def looped_contributions(arrays: dict[str, np.ndarray], n_experts: int) -> np.ndarray:
    """What each cluster adds to matched benchmark - organic, by loops from the definition."""
    chosen, ids = arrays["expert_indices"], arrays["token_id"]
    n_tokens, n_layers, top_k = chosen.shape
    side = arrays["benchmark"][arrays["prompt_index"]]
    name = arrays["cluster"][arrays["prompt_index"]]
    clusters = sorted(set(name))
    total = {of: int((side == of).sum()) for of in (True, False)}
    of_id = {
        (one, of): [t for t in range(n_tokens) if ids[t] == one and side[t] == of]
        for one in set(ids)
        for of in (True, False)
    }
    common = {
        one: min(len(of_id[one, True]) / total[True], len(of_id[one, False]) / total[False])
        for one in set(ids)
    }
    found = np.zeros((len(clusters), n_layers, n_experts))
    for place, cluster in enumerate(clusters):
        for one in set(ids):
            if common[one] == 0:
                continue
            everywhere = of_id[one, True] + of_id[one, False]
            others = [t for t in everywhere if name[t] != cluster]
            mean = np.zeros((n_layers, n_experts))
            for t in others:
                for layer in range(n_layers):
                    mean[layer, chosen[t, layer]] += 1 / top_k / len(others)
            for t in everywhere:
                if name[t] == cluster:
                    share = np.zeros((n_layers, n_experts))
                    for layer in range(n_layers):
                        share[layer, chosen[t, layer]] += 1 / top_k
                    weight = common[one] / sum(common.values()) / len(of_id[one, bool(side[t])])
                    found[place] += (1 if side[t] else -1) * weight * (share - mean)
    return found


def looped_usages(arrays: dict[str, np.ndarray], n_experts: int) -> np.ndarray:
    """Matched usage of benchmark and organic, layer by layer, by loops."""
    chosen, ids = arrays["expert_indices"], arrays["token_id"]
    side = arrays["benchmark"][arrays["prompt_index"]]
    n = {of: int((side == of).sum()) for of in (True, False)}
    found = np.zeros((2, chosen.shape[1], n_experts))
    overlap = 0.0
    for one in set(ids):
        here = {of: np.flatnonzero((ids == one) & (side == of)) for of in (True, False)}
        common = min(len(here[of]) / n[of] for of in (True, False))
        overlap += common
        for row, of in enumerate((True, False)):
            for token in here[of] if common else ():
                for layer in range(chosen.shape[1]):
                    for expert in chosen[token, layer]:
                        found[row, layer, expert] += common / len(here[of]) / chosen.shape[2]
    return found / overlap


def draws(arrays: dict[str, np.ndarray], n: int) -> tuple[np.ndarray, np.ndarray]:
    """The labellings of prompts and the signs of clusters that `diverge` draws from seed 0."""
    rng = np.random.default_rng(0)
    _, number = np.unique(arrays["cluster"], return_inverse=True)
    tokens = [
        np.bincount(number[arrays["prompt_index"][side]], minlength=number.max() + 1)
        for side in (
            arrays["benchmark"][arrays["prompt_index"]],
            ~arrays["benchmark"][arrays["prompt_index"]],
        )
    ]
    delete_groups(*tokens, rng=rng, n_replicates=200)
    row = np.unique(2 * number + arrays["benchmark"])
    drawn = permuted_labels(row % 2 == 1, row // 2, rng=rng, n_permutations=n)
    labels = drawn[:, np.searchsorted(row, 2 * number + arrays["benchmark"])]
    return labels, flipped_signs(len(tokens[0]), rng=rng, n_flips=n)


def test_raw_and_matched_divergence_and_their_nulls_agree_with_loops_over_tokens() -> None:
    arrays = small(4)
    divergence = diverge(arrays, n_experts=5, n_permutations=30)
    labels, signs = draws(arrays, 30)
    raw, matched = looped(arrays, arrays["benchmark"], 5)
    raw_null = np.array([looped(arrays, label, 5)[0] for label in labels])
    np.testing.assert_allclose(divergence.raw_bits, raw)
    np.testing.assert_allclose(divergence.token_matched_bits, matched)
    np.testing.assert_allclose(divergence.raw_null_bits, raw_null.mean(axis=0))
    np.testing.assert_allclose(
        divergence.raw_null_high_bits, [np.percentile(of, 95) for of in raw_null.T]
    )
    middle = looped_usages(arrays, 5).mean(axis=0)
    each = looped_contributions(arrays, 5)
    matched_null = np.zeros((30, 2))
    for draw, sign in enumerate(signs):
        half = sum(s * c for s, c in zip(sign, each, strict=True)) / 2
        for layer in range(2):
            a, b = (
                np.maximum(middle[layer] + half[layer], 0),
                np.maximum(middle[layer] - half[layer], 0),
            )
            matched_null[draw, layer] = jensenshannon(a, b, base=2) ** 2
    np.testing.assert_allclose(divergence.token_matched_null_bits, matched_null.mean(axis=0))
    np.testing.assert_allclose(
        divergence.token_matched_p_value, (1 + (matched_null >= matched).sum(axis=0)) / 31
    )


def test_correction_and_interval_are_the_jackknife_of_a_loop_that_drops_clusters() -> None:
    arrays = small(4)
    divergence = diverge(arrays, n_experts=5, n_permutations=30)
    name = arrays["cluster"][arrays["prompt_index"]]
    values = np.array(looped(arrays, arrays["benchmark"], 5))
    without = {}
    for cluster in "abcde":
        kept = name != cluster
        dropped = {k: v[kept] if len(v) == 60 else v for k, v in arrays.items()}
        without[cluster] = np.array(looped(dropped, arrays["benchmark"], 5))
    # Cluster a has both conditions and is alone in that: it goes with b and e, benchmark only.
    corrected, variance, fourth = values.copy(), np.zeros((2, 2)), np.zeros((2, 2))
    for stratum in ("abe", "cd"):
        of = np.array([without[cluster] for cluster in stratum])
        n = len(of)
        corrected += (n - 1) * (values - of.mean(axis=0))
        part = (n - 1) / n * ((of - of.mean(axis=0)) ** 2).sum(axis=0)
        variance += part
        fourth += part**2 / (n - 1)
    reach = student_t.ppf(0.975, variance**2 / fourth) * np.sqrt(variance)
    low, high = np.clip(corrected - reach, 0, 1), np.clip(corrected + reach, 0, 1)
    for row, kind in enumerate(("raw", "token_matched")):
        np.testing.assert_allclose(getattr(divergence, f"{kind}_corrected_bits"), corrected[row])
        np.testing.assert_allclose(getattr(divergence, f"{kind}_low_bits"), low[row])
        np.testing.assert_allclose(getattr(divergence, f"{kind}_high_bits"), high[row])


def test_contributions_of_the_clusters_sum_to_the_matched_difference_where_keys_are_common() -> (
    None
):
    # One key that all clusters have alike: leaving one out inflates each residual by G / (G - 1).
    rng = np.random.default_rng(0)
    arrays = small(0) | {"token_id": np.zeros(60, dtype=int), "prompt_index": np.arange(60) % 6}
    arrays |= {"cluster": np.arange(6), "expert_indices": rng.integers(0, 5, (60, 2, 1))}
    a, b = looped_usages(arrays, 5)
    np.testing.assert_allclose(
        looped_contributions(arrays, 5).sum(axis=0), (a - b) * 6 / 5, atol=1e-15
    )


def test_quick_value_is_the_one_with_all_the_rest() -> None:
    arrays = small(3)
    divergence = diverge(arrays, n_experts=5)
    side = arrays["benchmark"][arrays["prompt_index"]]
    for factor in (1, 2**40):  # small keys are counted in place, large ones are numbered first
        bits, overlap = point_divergence(
            arrays["expert_indices"],
            benchmark=side,
            key=arrays["token_id"].astype(np.int64) * factor,
            n_experts=5,
        )
        np.testing.assert_allclose(bits, divergence.token_matched_bits)
        assert overlap == pytest.approx(divergence.overlap)


def test_matched_divergence_of_a_case_by_hand() -> None:
    # Benchmark: id 0 on experts 0, 0, 1 and id 1 on 1. Organic: ids 0 and 1 on 1, id 2 twice on 0.
    # Shares (3/4, 1/4, 0) and (1/4, 1/4, 1/2): overlap 1/2, w = (1/2, 1/2, 0).
    # Matched usage: ((2/3 + 0) / 2, (1/3 + 1) / 2) = (1/3, 2/3), and (0, 1).
    # Divergence: H(1/6) - H(1/3) / 2 = 0.650022 - 0.918296 / 2 bits.
    divergence = usage_divergence(
        np.array([0, 0, 1, 1, 1, 1, 0, 0])[:, None, None],
        benchmark=np.array([True, False]),
        token_id=np.array([0, 0, 0, 1, 0, 1, 2, 2]),
        prompt_index=np.repeat([0, 1], 4),
        cluster=np.arange(2),
        n_experts=2,
        layer_indices=[3],
        rng=np.random.default_rng(0),
        n_permutations=5,
    )
    assert divergence.overlap == pytest.approx(0.5)
    assert divergence.token_matched_bits[0] == pytest.approx(0.650022 - 0.918296 / 2, abs=1e-6)
    assert divergence.raw_bits[0] == pytest.approx(0.0, abs=1e-12)  # usage is even on both sides
    assert divergence.layer == (3,)


def test_no_common_token_leaves_nothing_to_match() -> None:
    arrays = small(5)
    arrays["token_id"] = arrays["prompt_index"] + 7
    divergence = diverge(arrays, n_experts=5)
    assert divergence.overlap == 0.0
    assert np.isnan(divergence.token_matched_bits).all()
    assert np.isnan(divergence.token_matched_p_value).all()
    assert np.isnan(divergence.share_explained_by_vocabulary).all()
    assert "share no token, so nothing can be matched" in divergence.absent["matched"]
    assert np.isfinite(divergence.raw_high_bits).all()


def test_vocabulary_alone_is_explained_by_vocabulary() -> None:
    arrays = simulate(np.random.default_rng(0), vocabulary_differs=True, condition_shift=0.0)
    divergence = diverge(arrays)
    assert divergence.p_value[0] == pytest.approx(1 / 61)
    assert divergence.raw_bits[0] > 10 * divergence.raw_null_bits[0]
    assert divergence.token_matched_bits[0] < 0.05 * divergence.raw_bits[0]
    assert divergence.share_explained_by_vocabulary[0] > 0.95


def test_an_effect_that_ignores_the_token_is_not_explained_by_vocabulary() -> None:
    arrays = simulate(np.random.default_rng(1), vocabulary_differs=False, condition_shift=0.6)
    divergence = diverge(arrays)
    assert divergence.p_value[0] == pytest.approx(1 / 61)
    assert divergence.overlap > 0.9
    assert abs(divergence.share_explained_by_vocabulary[0]) < 0.05


def test_half_and_half_lies_between() -> None:
    arrays = simulate(np.random.default_rng(2), vocabulary_differs=True, condition_shift=0.6)
    assert 0.2 < diverge(arrays).share_explained_by_vocabulary[0] < 0.9


def test_share_explained_is_undefined_where_raw_is_not_above_its_null() -> None:
    arrays = simulate(np.random.default_rng(3), vocabulary_differs=False, condition_shift=0.0)
    first = np.tile(arrays["expert_indices"][: 80 * 20], (2, 1, 1))  # both sides the very same
    arrays |= {"expert_indices": first, "token_id": np.tile(arrays["token_id"][: 80 * 20], 2)}
    divergence = diverge(arrays)
    assert divergence.raw_bits[0] == pytest.approx(0.0, abs=1e-12)
    assert divergence.p_value[0] == 1.0
    assert np.isnan(divergence.share_explained_by_vocabulary[0])
    assert "In 1 of 1 layers the raw divergence is not above" in divergence.absent["share"]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_renamed_experts_renamed_ids_and_reordered_tokens_change_nothing(seed: int) -> None:
    arrays = small(seed)
    rng = np.random.default_rng(seed)
    order, expert, ids = rng.permutation(60), rng.permutation(5), rng.permutation(200)
    changed = arrays | {
        "expert_indices": expert[arrays["expert_indices"]][order],
        "token_id": ids[arrays["token_id"]][order],
        "prompt_index": arrays["prompt_index"][order],
    }
    before, after = diverge(arrays, n_experts=5), diverge(changed, n_experts=5)
    np.testing.assert_allclose(
        before.to_frame().to_numpy(float), after.to_frame().to_numpy(float), atol=1e-10
    )
    assert np.all((before.raw_bits >= 0) & (before.raw_bits <= 1))
    assert np.all((before.p_value >= 1 / 61) & (before.p_value <= 1))
    assert 0 <= before.overlap <= 1
    assert np.all((before.token_matched_bits >= 0) & (before.token_matched_bits <= 1))


def test_prompts_whose_tokens_are_dropped_play_no_part() -> None:
    arrays = small(6)
    kept = arrays["prompt_index"] != 5
    dropped = {
        name: values[kept] if len(values) == 60 else values for name, values in arrays.items()
    }
    fewer = dropped | {"benchmark": arrays["benchmark"][:5], "cluster": arrays["cluster"][:5]}
    frames = [diverge(of, n_experts=5).to_frame() for of in (dropped, fewer)]
    assert frames[0].equals(frames[1])
    assert frames[0]["n_clusters"].tolist() == [4, 4]


def test_frame_names_the_columns_of_the_design() -> None:
    frame = diverge(small(7), n_experts=5).to_frame()
    of_each = ["bits", "corrected_bits", "low_bits", "high_bits", "null_bits", "null_high_bits"]
    assert frame.columns.tolist() == [
        "layer",
        *(f"raw_{kind}" for kind in of_each),
        "p_value",
        *(f"token_matched_{kind}" for kind in of_each),
        "token_matched_p_value",
        "overlap",
        "share_explained_by_vocabulary",
        "share_explained_low",
        "share_explained_high",
        "n_tokens_benchmark",
        "n_tokens_organic",
        "n_clusters",
        "n_permutations",
    ]
    assert (frame["n_tokens_benchmark"] + frame["n_tokens_organic"]).tolist() == [60, 60]


def test_progress_adds_up_to_the_permutations() -> None:
    seen: list[int] = []
    diverge(small(8), n_experts=5, n_permutations=60, progress=seen.append)
    assert seen == [25, 25, 10]


def test_tokens_of_one_condition_are_refused() -> None:
    arrays = small(9) | {"benchmark": np.ones(6, dtype=bool)}
    with pytest.raises(ValueError, match="60 benchmark and 0 organic tokens were given"):
        diverge(arrays, n_experts=5)


def test_one_cluster_is_refused() -> None:
    arrays = small(9) | {"cluster": np.full(6, "a")}
    with pytest.raises(ValueError, match="cluster names 1 cluster"):
        diverge(arrays, n_experts=5)


def test_a_source_that_is_all_of_a_condition_leaves_no_interval_and_says_so() -> None:
    arrays = simulate(np.random.default_rng(0), vocabulary_differs=True, condition_shift=0.0)
    arrays["cluster"] = np.where(arrays["benchmark"], "mmlu", np.arange(40) // 10)
    divergence = diverge(arrays)
    assert np.isnan(divergence.raw_corrected_bits).all()
    assert np.isnan(divergence.token_matched_high_bits).all()
    assert np.isnan(divergence.share_explained_low).all()
    assert divergence.absent["interval"].startswith("Only one cluster has benchmark tokens, so")
    assert divergence.raw_bits[0] > 0


def test_an_overlap_that_hangs_on_one_cluster_has_no_interval_and_says_so() -> None:
    arrays = simulate(np.random.default_rng(0), vocabulary_differs=True, condition_shift=0.0)
    alone = arrays["prompt_index"] == 25
    arrays["token_id"] += 100 * arrays["benchmark"][arrays["prompt_index"]]
    arrays["token_id"][alone] += 100
    divergence = diverge(arrays)
    assert divergence.overlap > 0
    assert np.isnan(divergence.token_matched_low_bits).all()
    assert np.isfinite(divergence.raw_low_bits).all()
    assert divergence.absent["interval"].startswith("Without some of the clusters the conditions")


def test_one_prompt_for_each_cluster_has_all_columns() -> None:
    arrays = simulate(np.random.default_rng(0), vocabulary_differs=True, condition_shift=0.0)
    divergence = diverge(arrays)
    assert not divergence.to_frame().isna().any(axis=None)
    assert divergence.absent == {}


def test_no_permutation_is_refused() -> None:
    with pytest.raises(ValueError, match="n_permutations is 0, expected 1 or more"):
        diverge(small(10), n_experts=5, n_permutations=0)


def little_overlap(seed: int) -> dict[str, np.ndarray]:
    """Vocabulary is the only difference, and little of it is shared."""
    rng = np.random.default_rng(seed)
    benchmark = np.arange(40) < 20
    zipf = 1 / np.arange(1, 31) ** 1.15
    zipf /= zipf.sum()
    token_id = np.stack([rng.choice(30, 80, p=zipf if of else zipf[::-1]) for of in benchmark])
    scores = np.random.default_rng(99).normal(size=(30, 16))[token_id]
    taste = 0.3 * rng.normal(size=(40, 1, 16))  # prompts differ, as real ones do
    chosen = np.argsort(-(scores + taste + rng.gumbel(size=scores.shape)), axis=-1)[..., :4]
    return {
        "expert_indices": chosen.reshape(-1, 1, 4),
        "benchmark": benchmark,
        "token_id": token_id.ravel(),
        "prompt_index": np.repeat(np.arange(40), 80),
        "cluster": np.arange(40),
    }


@pytest.mark.slow
def test_vocabulary_explains_all_where_it_is_all_also_at_little_overlap() -> None:
    found = [diverge(little_overlap(seed), n_permutations=100) for seed in range(100)]
    assert 0.2 < np.mean([of.overlap for of in found]) < 0.32
    share = np.array([of.share_explained_by_vocabulary[0] for of in found])
    assert abs(np.median(share) - 1) < 0.03  # relabelling prompts gave 0.87
    p = np.array([of.token_matched_p_value[0] for of in found])
    for level in (0.05, 0.25, 0.5):
        assert (p <= level).sum() <= binom.ppf(0.999, len(p), level)


def test_a_difference_beyond_vocabulary_is_found_by_the_flips() -> None:
    arrays = simulate(np.random.default_rng(2), vocabulary_differs=True, condition_shift=0.6)
    divergence = diverge(arrays)
    assert divergence.token_matched_p_value[0] == pytest.approx(1 / 61)
    assert divergence.token_matched_low_bits[0] > 0


def test_frame_of_several_keys_has_a_row_for_each_key_and_layer() -> None:
    arrays = simulate(np.random.default_rng(0), vocabulary_differs=True, condition_shift=0.0)
    ids, prompt = arrays["token_id"], arrays["prompt_index"]
    position = np.tile(np.arange(80), 40)
    tokens = RoutedTokens(
        expert_indices=arrays["expert_indices"],
        token_id=ids,
        previous_token_id=np.where(position == 0, -1, np.roll(ids, 1)),
        position=position,
        logprob=np.full(3200, np.nan),
        prompt_index=prompt,
        n_experts=16,
        layer_indices=(3,),
    )
    prompts = Prompts(
        benchmark=arrays["benchmark"],
        source=np.full(40, "s"),
        item=np.arange(40),
        template=np.full(40, ""),
    )
    matched = divergence_matched_on(
        tokens, prompts, cluster=prompts.item, rng=np.random.default_rng(0), n_permutations=60
    )
    frame = matched.to_frame()
    assert frame["matched_on"].tolist() == list(KEYS)
    assert frame["raw_null_bits"].nunique() == 1
    overlap = frame.set_index("matched_on")["overlap"]
    assert overlap["position_bin"] == pytest.approx(1.0)
    assert overlap["previous_and_token"] < overlap["position_bin_and_token"] < overlap["token"]
    # Position says nothing of these experts, so matching on it leaves the difference as it is.
    position_only = matched.by_key["position_bin"]
    assert position_only.token_matched_bits[0] == pytest.approx(position_only.raw_bits[0])


def test_pairs_of_tokens_are_matched_like_one_token_that_names_the_pair() -> None:
    previous, token = np.array([-1, 5, 5, 6]), np.array([5, 5, 6, 5])
    key = match_key(
        "previous_and_token", token_id=token, previous_token_id=previous, position=np.arange(4)
    )
    assert len(set(key.tolist())) == 4
    with pytest.raises(ValueError, match="the key to match on is 'bigram', expected one of token"):
        match_key("bigram", token_id=token, previous_token_id=previous, position=np.arange(4))
