"""Usage and divergence against pandas and a plain numpy way: ratios and seconds of one run.

Run as `python benchmarks/divergence_speed.py`. 215,000 tokens x 24 layers x 4 of 32 experts from
700 prompts, token ids from a Zipf law. The ways are run in turn, and figures are medians, by the
clock and of the processor. Then a growing number of tokens is streamed through
`divergence_of_parts`, with the peak of the memory that arrays took.
"""

import argparse
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from interp.analyses.divergence import divergence_of_parts, point_divergence, usage_divergence
from interp.analyses.estimates import jensen_shannon_bits
from interp.analyses.matching import match
from interp.analyses.permutation import delete_groups
from interp.analyses.shared_keys import SharedKeys
from interp.analyses.streaming import RoutedPart, count_cells, count_slots
from interp.analyses.usage import expert_usage

N_TOKENS, N_PROMPTS, N_LAYERS, N_EXPERTS, TOP_K = 215_000, 700, 24, 32, 4
VOCABULARY = 20_000


def routing(rng: np.random.Generator, n_tokens: int, n_layers: int, n_experts: int) -> np.ndarray:
    """Distinct experts at random, in little memory."""
    first = rng.integers(0, n_experts, (n_tokens, n_layers, 1), dtype=np.uint8)
    step = rng.integers(1, n_experts // TOP_K, (n_tokens, n_layers, 1), dtype=np.uint8)
    chosen = (first + step * np.arange(TOP_K, dtype=np.uint8)) % n_experts
    return chosen.astype(np.uint8)


def token_ids(rng: np.random.Generator, n_tokens: int, vocabulary: int) -> np.ndarray:
    """Frequent and rare ids, as in text."""
    return np.minimum(rng.zipf(1.25, n_tokens), vocabulary) - 1


def sample() -> dict[str, Any]:
    """The arrays of one study."""
    rng = np.random.default_rng(0)
    return {
        "expert_indices": routing(rng, N_TOKENS, N_LAYERS, N_EXPERTS),
        "benchmark": np.arange(N_PROMPTS) % 2 == 0,
        "token_id": token_ids(rng, N_TOKENS, VOCABULARY),
        "prompt_index": np.sort(rng.integers(0, N_PROMPTS, N_TOKENS)),
    }


def ours(arrays: dict[str, Any]) -> tuple[Any, ...]:
    """Usage with its prompt mean, raw and token-matched divergence."""
    condition = np.where(arrays["benchmark"], "benchmark", "organic")
    usage = expert_usage(
        arrays["expert_indices"],
        condition=condition,
        prompt_index=arrays["prompt_index"],
        n_experts=N_EXPERTS,
        layer_indices=range(N_LAYERS),
    )
    raw = jensen_shannon_bits(*usage.usage)
    matched, overlap = point_divergence(
        arrays["expert_indices"],
        benchmark=arrays["benchmark"][arrays["prompt_index"]],
        key=arrays["token_id"],
        n_experts=N_EXPERTS,
    )
    organic_first = (usage.usage[::-1], usage.usage_prompt_mean[::-1])
    return *organic_first, raw, matched, overlap


def with_pandas(arrays: dict[str, Any]) -> tuple[Any, ...]:
    """The same, layer by layer, with groupby on a long table."""
    usages, means, raws, matcheds = [], [], [], []
    side = arrays["benchmark"][arrays["prompt_index"]]
    n_side = np.bincount(side)
    ids = pd.DataFrame({"token": arrays["token_id"], "side": side})
    n = ids.groupby(["token", "side"]).size().unstack(fill_value=0)
    common = (n / n_side).min(axis=1)
    weight = (common / common.sum()).to_numpy()[:, None] / n.replace(0, np.nan)
    of_token = weight.stack().rename("weight")
    ids = ids.join(of_token, on=["token", "side"]).fillna({"weight": 0.0})
    for layer in range(N_LAYERS):
        long = pd.DataFrame(
            {
                "side": np.repeat(side, TOP_K),
                "prompt": np.repeat(arrays["prompt_index"], TOP_K),
                "weight": np.repeat(ids["weight"].to_numpy(), TOP_K),
                "expert": arrays["expert_indices"][:, layer].ravel(),
            }
        )
        counts = long.groupby(["side", "expert"]).size().unstack(fill_value=0).to_numpy()
        prompts = long.groupby(["side", "prompt", "expert"]).size().unstack(fill_value=0)
        shares = prompts.div(prompts.sum(axis=1), axis=0)
        means.append(shares.groupby("side").mean().to_numpy())
        usages.append(counts / counts.sum(axis=1, keepdims=True))
        raws.append(jensen_shannon_bits(*usages[-1]))
        mixed = long.groupby(["side", "expert"])["weight"].sum().unstack(fill_value=0) / TOP_K
        matcheds.append(jensen_shannon_bits(*mixed.to_numpy()))
    return np.stack(usages, 1), np.stack(means, 1), np.array(raws), np.array(matcheds), common.sum()


def with_add_at(arrays: dict[str, Any]) -> tuple[Any, ...]:
    """The same with `np.add.at` into dense arrays, the plain numpy way."""
    side = arrays["benchmark"][arrays["prompt_index"]].astype(int)
    n = np.zeros((VOCABULARY, 2))
    np.add.at(n, (arrays["token_id"], side), 1)
    common = (n / n.sum(axis=0)).min(axis=1)
    weight = np.divide(
        (common / common.sum())[:, None], n, out=np.zeros_like(n), where=common[:, None] > 0
    )
    of_token = weight[arrays["token_id"], side] / TOP_K
    prompts = np.zeros((N_PROMPTS, N_LAYERS, N_EXPERTS))
    mixed = np.zeros((2, N_LAYERS, N_EXPERTS))
    layer = np.arange(N_LAYERS)[None, :, None]
    chosen = arrays["expert_indices"]
    np.add.at(prompts, (arrays["prompt_index"][:, None, None], layer, chosen), 1.0)
    np.add.at(mixed, (side[:, None, None], layer, chosen), of_token[:, None, None])
    sides = [~arrays["benchmark"], arrays["benchmark"]]
    usage = np.stack([prompts[of].sum(axis=0) for of in sides])
    usage /= usage.sum(axis=-1, keepdims=True)
    shares = prompts / prompts.sum(axis=-1, keepdims=True)
    means = np.stack([shares[of].mean(axis=0) for of in sides])
    return usage, means, jensen_shannon_bits(*usage), jensen_shannon_bits(*mixed), common.sum()


def resampled(arrays: dict[str, Any]) -> np.ndarray:
    """200 matched usages, each with some clusters left out and matched anew, from the tokens on."""
    part = RoutedPart(
        expert_indices=arrays["expert_indices"],
        row=2 * arrays["prompt_index"] + arrays["benchmark"][arrays["prompt_index"]],
        key=arrays["token_id"].astype(np.int64),
    )
    shared = SharedKeys.of(count_cells(lambda: [part]), n_rows=2 * N_PROMPTS)
    sizes = {"n_rows": 2 * N_PROMPTS, "n_layers": N_LAYERS, "n_experts": N_EXPERTS}
    slots = count_slots(lambda: [part], shared.keys, **sizes)
    organic, benchmark = shared.row_tokens.reshape(-1, 2).T
    left_out = delete_groups(benchmark, organic, rng=np.random.default_rng(0), n_replicates=200)
    matched = match(lambda: [part], shared, slots, left_out=left_out, top_k=TOP_K)
    assert matched.replicates is not None
    return np.asarray(jensen_shannon_bits(matched.replicates[:, 0], matched.replicates[:, 1]))


def with_all_nulls(arrays: dict[str, Any]) -> Any:
    """Values, bias correction, intervals, 200 permutations and 200 flips."""
    return usage_divergence(
        **arrays,
        cluster=np.arange(N_PROMPTS),
        n_experts=N_EXPERTS,
        layer_indices=range(N_LAYERS),
        rng=np.random.default_rng(0),
    )


def seconds(run: Callable[[dict[str, Any]], Any], arrays: dict[str, Any]) -> tuple[float, float]:
    """That one call takes: by the clock on the wall, and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    run(arrays)
    return time.perf_counter() - wall, time.process_time() - processor


def peak_mb(run: Callable[[], Any]) -> float:
    """Most memory that the arrays made by one call took at once."""
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def stream(n_tokens: int, n_layers: int, n_experts: int) -> float:
    """Peak memory of the divergence of tokens that are made as they are asked for; none is kept."""
    n_clusters, batch = 100, 2**14

    def parts() -> Iterator[RoutedPart]:
        for start in range(0, n_tokens, batch):
            rng = np.random.default_rng(start)
            yield RoutedPart(
                expert_indices=routing(rng, batch, n_layers, n_experts),
                row=rng.integers(0, 2 * n_clusters, batch),
                key=token_ids(rng, batch, 2_000).astype(np.int64),
            )

    return peak_mb(
        lambda: divergence_of_parts(
            parts,
            n_clusters=n_clusters,
            n_experts=n_experts,
            layer_indices=range(n_layers),
            rng=np.random.default_rng(0),
            n_permutations=50,
        )
    )


def main() -> None:
    """Print the ratios, the seconds and the memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip-streaming", action="store_true")
    options = parser.parse_args()
    arrays = sample()
    expected = ours(arrays)
    for other in (with_pandas, with_add_at):
        for found, known in zip(other(arrays), expected, strict=True):
            np.testing.assert_allclose(found, known, atol=1e-9)
    ways = {"ours": ours, "pandas groupby": with_pandas, "np.add.at": with_add_at}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, way in ways.items():
            taken[name].append(seconds(way, arrays))
    print(f"usage, raw and token-matched divergence, {N_TOKENS:,} tokens x {N_LAYERS} x {TOP_K}:")
    for name, each in taken.items():
        wall, processor = np.median(each, axis=0)
        ratio = np.median(np.divide(each, taken["ours"])[:, 1])
        print(f"  {name:15s} {wall:7.3f} s, {processor:7.3f} s of processor   {ratio:5.1f} x ours")
    for said, run in (
        ("200 resamples of the matched divergence", resampled),
        ("all with nulls and intervals", with_all_nulls),
    ):
        wall, processor = seconds(run, arrays)
        print(f"{said}: {wall:.2f} s, {processor:.2f} s of processor")
    peak = peak_mb(lambda: with_all_nulls(arrays))
    print(f"its peak memory beside the input: {peak:,.0f} MB")
    if not options.skip_streaming:
        peaks: list[float] = []
        for n_tokens in (100_000, 400_000, 1_600_000):
            peak = stream(n_tokens, 6, 128)
            peaks.append(peak)
            print(f"streamed, 6 layers of 128 experts, {n_tokens:9,} tokens: peak {peak:,.0f} MB")
        if peaks[-1] > 2 * peaks[0]:
            sys.exit(f"16 times the tokens took {peaks[-1] / peaks[0]:.1f} times the memory")


if __name__ == "__main__":
    main()
