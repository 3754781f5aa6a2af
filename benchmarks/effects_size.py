"""How often the max-T test rejects where nothing but the surface differs: table of docs/effects.md.

Run `OMP_NUM_THREADS=1 python benchmarks/effects_size.py [studies]`. Level 5 %, seed 0 for each row.
"""

import sys
from dataclasses import dataclass

import numpy as np

from interp.analyses.cells import token_adjusted_sums
from interp.analyses.relabelling import max_t_test
from interp.analyses.surface import surface_adjusted_sums

N_IDS, N_EXPERTS, TOP_K = 40, 8, 2


@dataclass(frozen=True, kw_only=True)
class Surface:
    """What differs between the conditions and what routing reads; sizes on the scale of logits."""

    n_sources: int = 5
    """Sources a condition."""
    n_prompts: int = 8
    """Prompts a source."""
    vocabulary: float = 0.0
    """Standard deviation of the difference in log frequency of a token id."""
    previous: float = 0.0
    """Standard deviation of what the previous token adds to an expert's logit."""
    position: float = 0.0
    """Standard deviation of the slope of an expert's logit in log(1 + position)."""
    is_longer: bool = False
    """Whether benchmark prompts are twice as long."""


ROWS = {
    "sources": Surface(),
    "vocabulary": Surface(vocabulary=1.5),
    "vocabulary, and routing reads the previous token": Surface(vocabulary=1.5, previous=1.0),
    "the same with 10 + 10 sources of 5 prompts": Surface(
        n_sources=10, n_prompts=5, vocabulary=1.5, previous=1.0
    ),
    "length, and routing reads the position": Surface(position=0.7, is_longer=True),
    "all of these": Surface(vocabulary=1.0, previous=1.0, position=0.5, is_longer=True),
}


def made_up_study(surface: Surface, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Arrays of one study without an effect; sources and prompts differ by chance."""
    n_prompts = 2 * surface.n_sources * surface.n_prompts
    source = np.arange(n_prompts) // surface.n_prompts
    benchmark = source < surface.n_sources
    common, taste = rng.normal(size=N_IDS), surface.vocabulary * rng.normal(size=N_IDS)
    length = rng.integers(30, 50, n_prompts) * np.where(benchmark & surface.is_longer, 2, 1)
    prompt = np.repeat(np.arange(n_prompts), length)
    log_frequency = common + np.outer([0.0, 1.0], taste)
    frequency = np.exp(log_frequency) / np.exp(log_frequency).sum(axis=1, keepdims=True)
    token = np.empty(len(prompt), dtype=int)
    for side in (False, True):
        among = benchmark[prompt] == side
        token[among] = rng.choice(N_IDS, among.sum(), p=frequency[int(side)])
    position = np.arange(len(prompt)) - (np.cumsum(length) - length)[prompt]
    before = np.where(position == 0, -1, np.roll(token, 1))
    logits = rng.normal(size=(N_IDS, N_EXPERTS))[token]
    after = surface.previous * rng.normal(size=(N_IDS, N_EXPERTS))
    logits += np.where(before[:, None] >= 0, after[before], 0.0)
    slope = surface.position * rng.normal(size=N_EXPERTS)
    logits += slope * np.log1p(position)[:, None]
    logits += (0.3 * rng.normal(size=(source[-1] + 1, N_EXPERTS)))[source[prompt]]
    logits += (0.3 * rng.normal(size=(n_prompts, N_EXPERTS)))[prompt]
    logits += rng.gumbel(size=logits.shape)
    return {
        "expert_indices": np.argsort(-logits, axis=-1)[:, None, :TOP_K],
        "benchmark": benchmark[prompt],
        "cluster": source[prompt],
        "token_id": token,
        "previous_token_id": before,
        "position": position,
        "logprob": np.log(frequency[benchmark[prompt].astype(int), token]),
    }


def main(n_studies: int = 500) -> None:
    """Print the table."""
    print(f"{n_studies} studies a row\n\n| what differs | token-adjusted | surface-adjusted |")
    print("|---|---|---|")
    for name, surface in ROWS.items():
        rng = np.random.default_rng(0)
        rejected = np.zeros(2)
        for _ in range(n_studies):
            study = made_up_study(surface, rng)
            short = {k: study[k] for k in ("expert_indices", "benchmark", "cluster", "token_id")}
            every = (
                token_adjusted_sums(**short, n_experts=N_EXPERTS),
                surface_adjusted_sums(**study, n_experts=N_EXPERTS, rng=rng).sums,
            )
            rejected += [max_t_test(s, rng=rng, n_resamples=999).p_value <= 0.05 for s in every]
        plain, adjusted = 100 * rejected / n_studies
        print(f"| {name} | {plain:.1f} % | {adjusted:.1f} % |", flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
