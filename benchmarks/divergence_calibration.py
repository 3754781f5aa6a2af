"""Size, bias and coverage of the divergence and its nulls, on simulated prompts.

Run as `python benchmarks/divergence_calibration.py`: the tables of docs/divergence.md, seeds 0 to
199. 16 experts, 4 a token; experts depend on the token, a taste of each prompt, and where it is
said on the condition. Vocabularies are Zipf laws that run in opposite directions.
"""

import argparse
from typing import Any

import numpy as np

from interp.analyses.divergence import Divergence, usage_divergence

DESIGNS = {
    "40 x 80, no tastes, 30 ids": {"n_prompts": 40, "n_tokens": 80, "n_ids": 30, "taste": 0.0},
    "40 x 80, 30 ids": {"n_prompts": 40, "n_tokens": 80, "n_ids": 30},
    "40 x 80, 30 ids, steeper": {"n_prompts": 40, "n_tokens": 80, "n_ids": 30, "zipf": 1.3},
    "40 x 80, 300 ids": {"n_prompts": 40, "n_tokens": 80, "n_ids": 300, "zipf": 0.7},
    "16 x 60, 100 ids": {"n_prompts": 16, "n_tokens": 60, "n_ids": 100, "zipf": 0.7},
}
"""Vocabulary is the only difference in each."""


def simulated(
    seed: int,
    *,
    n_prompts: int,
    n_tokens: int = 80,
    n_ids: int = 30,
    taste: float = 0.3,
    zipf: float = 1.0,
    shift: float = 0.0,
    vocabulary_differs: bool = True,
) -> dict[str, Any]:
    """Arrays for `usage_divergence`; preferences of tokens are the same for every seed."""
    fixed = np.random.default_rng(7)
    preference, push = fixed.normal(size=(n_ids, 16)), fixed.normal(size=16)
    rng = np.random.default_rng(seed)
    benchmark = np.arange(n_prompts) < n_prompts // 2
    share = 1 / np.arange(1, n_ids + 1) ** zipf
    share /= share.sum()
    shares = [share if of or not vocabulary_differs else share[::-1] for of in benchmark]
    token_id = np.stack([rng.choice(n_ids, n_tokens, p=each) for each in shares])
    scores = preference[token_id] + taste * rng.normal(size=(n_prompts, 1, 16))
    scores += shift * push * benchmark[:, None, None] + rng.gumbel(size=scores.shape)
    return {
        "expert_indices": np.argsort(-scores, axis=-1)[..., :4].reshape(-1, 1, 4),
        "benchmark": benchmark,
        "token_id": token_id.ravel(),
        "prompt_index": np.repeat(np.arange(n_prompts), n_tokens),
        "cluster": np.arange(n_prompts),
    }


def diverged(n_permutations: int, seed: int, **design: Any) -> Divergence:
    """Of one simulated study."""
    return usage_divergence(
        **simulated(seed, **design),
        n_experts=16,
        layer_indices=[0],
        rng=np.random.default_rng(seed),
        n_permutations=n_permutations,
    )


def column(runs: list[Divergence], name: str) -> np.ndarray:
    """One number of each run."""
    return np.array([np.ravel(getattr(run, name))[0] for run in runs])


def nulls(n_runs: int) -> None:
    """Share explained (1 is right) and size of the matched test where only vocabulary differs."""
    for name, design in DESIGNS.items():
        runs = [diverged(200, seed, **design) for seed in range(n_runs)]
        share = column(runs, "share_explained_by_vocabulary")
        low, middle, high = np.nanquantile(share, [0.05, 0.5, 0.95])
        print(
            f"{name}: overlap {column(runs, 'overlap').mean():.2f}, share {middle:.2f} "
            f"({low:.2f} to {high:.2f}), undefined {np.isnan(share).mean():.1%}, "
            f"p <= 0.05 in {(column(runs, 'token_matched_p_value') <= 0.05).mean():.1%}"
        )


def coverage(n_runs: int) -> None:
    """Plug-in and corrected values against the truth, and how often the interval holds it."""
    for n_prompts in (20, 60):
        for shift, differs in ((0.0, False), (0.0, True), (0.6, True)):
            design = {"shift": shift, "vocabulary_differs": differs}
            large = [diverged(1, 10**6 + seed, n_prompts=2000, **design) for seed in range(2)]
            runs = [diverged(20, seed, n_prompts=n_prompts, **design) for seed in range(n_runs)]
            for kind in ("raw", "token_matched"):
                truth = float(column(large, f"{kind}_corrected_bits").mean())
                if not shift and (kind == "token_matched" or not differs):
                    truth = 0.0
                low, high = (column(runs, f"{kind}_{end}_bits") for end in ("low", "high"))
                print(
                    f"{n_prompts} prompts, shift {shift}, vocabulary differs {differs}, {kind}: "
                    f"truth {truth:.4f}, plug-in {column(runs, f'{kind}_bits').mean():.4f}, "
                    f"corrected {column(runs, f'{kind}_corrected_bits').mean():.4f}, "
                    f"held in {((low <= truth) & (truth <= high)).mean():.1%}"
                )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    options = parser.parse_args()
    nulls(options.runs)
    coverage(options.runs)


if __name__ == "__main__":
    main()
