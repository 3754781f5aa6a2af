"""What tests of expert effects cost on 215,000 tokens, as ratios to one pass over the slots.

Run `OMP_NUM_THREADS=1 python benchmarks/effects.py`; times are CPU seconds. The input has the
shape of gpt-oss-20b (24 layers, 32 experts, 4 chosen), 700 prompts in 20 sources and a vocabulary
with Zipf's frequencies.
"""

import resource
import time
from collections.abc import Callable

import numpy as np

from interp.analyses.cells import ClusterSums, token_adjusted_sums
from interp.analyses.effects import expert_effects
from interp.analyses.jackknife import cluster_jackknife
from interp.analyses.relabelling import max_t_test
from interp.analyses.routed_tokens import Prompts, RoutedTokens
from interp.analyses.surface import surface_adjusted_sums
from interp.analyses.usage import slots_by_prompt

N_TOKENS, N_PROMPTS, N_SOURCES, N_IDS = 215_000, 700, 20, 20_000


def made_up_study(rng: np.random.Generator) -> tuple[RoutedTokens, Prompts]:
    """Tokens without any effect; routing follows the token id."""
    frequency = 1.0 / np.arange(1, N_IDS + 1)
    token_id = rng.choice(N_IDS, N_TOKENS, p=frequency / frequency.sum())
    liked = rng.integers(0, 29, (N_IDS, 24))
    expert_indices = (liked[token_id] + rng.integers(0, 4, (N_TOKENS, 24)))[..., None]
    expert_indices = ((expert_indices + np.arange(4)) % 32).astype(np.uint8)
    prompt_index = np.sort(rng.integers(0, N_PROMPTS, N_TOKENS))
    tokens = RoutedTokens(
        expert_indices=expert_indices,
        token_id=token_id,
        previous_token_id=np.roll(token_id, 1),
        position=np.arange(N_TOKENS) % 307,
        logprob=np.log(rng.random(N_TOKENS)),
        prompt_index=prompt_index,
        n_experts=32,
        layer_indices=tuple(range(24)),
    )
    source = np.arange(N_PROMPTS) * N_SOURCES // N_PROMPTS
    prompts = Prompts(
        benchmark=source < N_SOURCES // 2,
        source=source,
        item=np.arange(N_PROMPTS),
        template=np.full(N_PROMPTS, ""),
    )
    return tokens, prompts


def seconds(run: Callable[[], object]) -> float:
    """CPU seconds: the best of three runs, or one run that takes longer than 3 s."""
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
        if best > 3:
            break
    return best


def main() -> None:
    """Print seconds, and each as a multiple of one count of the slots."""
    rng = np.random.default_rng(0)
    tokens, prompts = made_up_study(rng)
    benchmark, of_prompt = prompts.benchmark[tokens.prompt_index], tokens.prompt_index
    source = prompts.source[of_prompt]

    def adjusted(cluster: np.ndarray) -> ClusterSums:
        return token_adjusted_sums(
            tokens.expert_indices,
            benchmark=benchmark,
            cluster=cluster,
            token_id=tokens.token_id,
            n_experts=32,
        )

    by_source, by_prompt = adjusted(source), adjusted(of_prompt)
    by_64 = adjusted(of_prompt * 64 // N_PROMPTS)
    runs: dict[str, Callable[[], object]] = {
        "count the slots of each prompt": lambda: slots_by_prompt(
            tokens.expert_indices, prompt_index=of_prompt, n_prompts=N_PROMPTS, n_experts=32
        ),
        "token-adjusted sums, 20 sources": lambda: adjusted(source),
        "token-adjusted sums, 700 prompts": lambda: adjusted(of_prompt),
        "10,000 relabellings, 20 sources": lambda: max_t_test(by_source, rng=rng),
        "10,000 relabellings, 64 clusters": lambda: max_t_test(by_64, rng=rng),
        "10,000 sign flips, 700 prompts": lambda: max_t_test(by_prompt, rng=rng),
        "jackknife, 20 sources": lambda: cluster_jackknife(by_source),
        "surface-adjusted sums, 20 sources": lambda: surface_adjusted_sums(
            tokens.expert_indices,
            benchmark=benchmark,
            cluster=source,
            token_id=tokens.token_id,
            previous_token_id=tokens.previous_token_id,
            position=tokens.position,
            logprob=tokens.logprob,
            n_experts=32,
            rng=rng,
        ),
        "expert_effects, everything": lambda: expert_effects(
            tokens, prompts, cluster="source", rng=rng
        ),
    }
    unit = 0.0
    for name, run in runs.items():
        took = seconds(run)
        unit = unit or took
        print(f"{name:36} {took:8.2f} s {took / unit:8.1f} x")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"{'peak memory':36} {peak:8.2f} GB")


if __name__ == "__main__":
    main()
