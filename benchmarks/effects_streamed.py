"""Memory and time of all effects of experts on a stream of tokens made up as they are read.

Run `OMP_NUM_THREADS=1 python benchmarks/effects_streamed.py TOKENS [LAYERS]`, once for each number
of tokens: the peak is that of the process. The model has the shape of gpt-oss-120b (36 layers, 128
experts, 4 chosen), the prompts are 1,000 in 20 sources, and 20,000 token ids have Zipf's
frequencies. No token is held: every part is drawn from its own seed whenever it is gone over. Fewer
layers take less time and about the same memory, since two layers at a time fill the tables.
"""

import resource
import sys
import time
from collections.abc import Iterator

import numpy as np

from interp.analyses.effects import streamed_expert_effects
from interp.analyses.routed_tokens import Prompts
from interp.analyses.token_stream import TokenPart, TokenStream

N_EXPERTS, TOP_K, N_IDS = 128, 4, 20_000
N_PROMPTS, N_SOURCES, PART = 1_000, 20, 2**16


def made_up_stream(n_tokens: int, n_layers: int) -> TokenStream:
    """Tokens without any effect; routing follows the token id and has noise."""
    cumulative = np.cumsum(1.0 / np.arange(1, N_IDS + 1))
    liked = np.random.default_rng(0).integers(0, N_EXPERTS, (N_IDS, n_layers), dtype=np.uint8)

    def parts(layers: slice) -> Iterator[TokenPart]:
        for start in range(0, n_tokens, PART):
            n = min(PART, n_tokens - start)
            rng = np.random.default_rng(start)
            token_id = np.searchsorted(cumulative, rng.random(n, dtype=np.float32) * cumulative[-1])
            place = np.arange(start, start + n)
            yield TokenPart(
                expert_indices=routed(liked[:, layers], token_id, rng),
                row=place * N_PROMPTS // n_tokens,
                token_id=token_id,
                previous_token_id=np.append(-1, token_id[:-1]),
                position=place % 1000,
                logprob=np.log(rng.random(n, dtype=np.float32) + np.float32(1e-6)),
            )

    return TokenStream(
        parts=parts, layer_indices=tuple(range(n_layers)), n_experts=N_EXPERTS, top_k=TOP_K
    )


def routed(liked: np.ndarray, token_id: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Four neighbours of the expert that the id likes, or of the one after it."""
    first = liked[token_id] + rng.integers(0, 3, (len(token_id), 1), dtype=np.uint8)
    return (first[..., None] + np.arange(TOP_K, dtype=np.uint8)) % N_EXPERTS


def main(n_tokens: int, n_layers: int = 36) -> None:
    """Print the time of making the tokens once, and time and peak memory of the effects."""
    stream = made_up_stream(n_tokens, n_layers)
    start = time.process_time()
    for _ in stream.parts(slice(0, n_layers)):
        pass
    made = time.process_time() - start
    source = np.arange(N_PROMPTS) * N_SOURCES // N_PROMPTS
    prompts = Prompts(
        benchmark=source < N_SOURCES // 2,
        source=source,
        item=np.arange(N_PROMPTS),
        template=np.full(N_PROMPTS, ""),
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    start = time.process_time()
    effects = streamed_expert_effects(
        stream, prompts, cluster="source", rng=np.random.default_rng(0)
    )
    took = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"{n_tokens:,} tokens, {n_layers} layers: {took:.1f} CPU s, peak {peak:.2f} GB")
    print(f"making all tokens once takes {made:.1f} CPU s; {before:.2f} GB before")
    print(f"least p-value at the same surface: {effects.surface_adjusted.max_t.p_value:.3f}")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
