"""Divergence against scipy and loops over tokens, and against data whose answer is known."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from interp.analyses.divergence import Divergence, jensen_shannon_bits, usage_divergence
from interp.analyses.permutation import permuted_labels

RECORDS = Path(__file__).resolve().parents[2] / "shared" / "data" / "gpt-oss-20b-routing"


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
        "item": np.arange(40),
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
        "item": np.array(["a", "a", "b", "c", "d", "e"]),
    }


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_experts=st.integers(1, 40))
def test_jensen_shannon_bits_is_the_squared_distance_of_scipy(seed: int, n_experts: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.dirichlet(np.full(n_experts, 0.3), 2)
    ours = float(jensen_shannon_bits(a, b))
    assert 0 <= ours <= 1
    assert ours == pytest.approx(jensenshannon(a, b, base=2) ** 2, abs=1e-9)


def test_raw_and_matched_divergence_and_their_nulls_agree_with_loops_over_tokens() -> None:
    arrays = small(4)
    divergence = diverge(arrays, n_experts=5, n_permutations=30)
    drawn = permuted_labels(
        arrays["benchmark"], arrays["item"], rng=np.random.default_rng(0), n_permutations=30
    )
    raw, matched = looped(arrays, arrays["benchmark"], 5)
    null = np.array([looped(arrays, label, 5) for label in drawn])
    np.testing.assert_allclose(divergence.raw_bits, raw)
    np.testing.assert_allclose(divergence.token_matched_bits, matched)
    np.testing.assert_allclose(divergence.raw_null_bits, null[:, 0].mean(axis=0))
    np.testing.assert_allclose(divergence.token_matched_null_bits, null[:, 1].mean(axis=0))
    np.testing.assert_allclose(
        divergence.raw_null_high_bits, [np.percentile(of, 95) for of in null[:, 0].T]
    )


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
        item=np.arange(2),
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
    assert np.isnan(divergence.share_explained_by_vocabulary).all()


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


def test_prompts_whose_tokens_are_dropped_play_no_part() -> None:
    arrays = small(6)
    kept = arrays["prompt_index"] != 5
    dropped = {
        name: values[kept] if len(values) == 60 else values for name, values in arrays.items()
    }
    fewer = dropped | {"benchmark": arrays["benchmark"][:5], "item": arrays["item"][:5]}
    frames = [diverge(of, n_experts=5).to_frame() for of in (dropped, fewer)]
    assert frames[0].equals(frames[1])
    assert frames[0]["n_units"].tolist() == [4, 4]


def test_frame_names_the_columns_of_the_design() -> None:
    frame = diverge(small(7), n_experts=5).to_frame()
    assert frame.columns.tolist() == [
        "layer",
        "raw_bits",
        "raw_null_bits",
        "raw_null_high_bits",
        "p_value",
        "token_matched_bits",
        "token_matched_null_bits",
        "overlap",
        "share_explained_by_vocabulary",
        "n_tokens_benchmark",
        "n_tokens_organic",
        "n_units",
        "n_permutations",
    ]
    assert (frame["n_tokens_benchmark"] + frame["n_tokens_organic"]).tolist() == [60, 60]


def test_progress_adds_up_to_the_permutations() -> None:
    seen: list[int] = []
    diverge(small(8), n_experts=5, n_permutations=60, progress=seen.append)
    assert seen == [25, 25, 10]


def test_tokens_of_one_condition_are_refused() -> None:
    arrays = small(9) | {"benchmark": np.ones(6, dtype=bool)}
    with pytest.raises(ValueError, match="all 6 prompts have the same label"):
        diverge(arrays, n_experts=5)


def test_no_permutation_is_refused() -> None:
    with pytest.raises(ValueError, match="n_permutations is 0, expected 1 or more"):
        diverge(small(10), n_experts=5, n_permutations=0)


def read_records(names: list[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    chosen, words, prompt_index, sources = [], [], [], []
    for number, name in enumerate(names):
        with gzip.open(RECORDS / name, "rt", encoding="utf-8") as file:
            record = json.load(file)
        sources.append(record["dataset"])
        for entry in record["router_data"]:
            ((place, layers),) = entry.items()
            words.append(record["full_text"][int(place.removeprefix("token_"))])
            chosen.append([layers[f"layer_{layer}"]["selected_experts"] for layer in range(24)])
            prompt_index.append(number)
    token_id = np.unique(np.array(words), return_inverse=True)[1]
    arrays = {
        "expert_indices": np.array(chosen, dtype=np.uint8),
        "token_id": token_id,
        "prompt_index": np.array(prompt_index),
        "item": np.array(names),
    }
    return arrays, sources


@pytest.mark.slow
@pytest.mark.skipif(
    not RECORDS.is_dir(), reason=f"the recorded routing of gpt-oss-20b is not at {RECORDS}"
)
def test_recorded_routing_of_gpt_oss_20b_diverges_as_measured_before() -> None:
    with (RECORDS / "MANIFEST.tsv").open(encoding="utf-8") as manifest:
        names = sorted(row["file"] for row in csv.DictReader(manifest, delimiter="\t"))[::2]
    arrays, sources = read_records(names)
    open_request = np.isin(sources, ["sorry_bench_base", "tulu3_persona_if"])
    divergence = diverge(arrays | {"benchmark": ~open_request}, n_experts=32, n_permutations=50)
    assert divergence.p_value.max() < 0.05
    assert np.all((divergence.raw_bits > 0.03) & (divergence.raw_bits < 0.35))
    assert divergence.share_explained_by_vocabulary[0] > 0.8
    assert divergence.share_explained_by_vocabulary[11:14].max() < 0.6
