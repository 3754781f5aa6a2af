"""Paths of tokens through the experts of neighbouring layers: which are common, which specific."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from einops import rearrange
from jaxtyping import Bool, Float, Int, Integer, Shaped
from scipy.sparse import csr_array

from interp.analyses.features import routing_features
from interp.analyses.permutation import permutation_p_value, permuted_labels
from interp.analyses.routed_tokens import RoutedTokens

BATCH = 100
"""Labellings tried at once; bounds the memory, has no effect on the result."""
MOST_CELLS = 1 << 24
"""Cells up to which paths are counted in an array of all that are conceivable; above, by sorting,
which is ten times slower."""


@dataclass(frozen=True, kw_only=True)
class ExpertPaths:
    """Paths through neighbouring layers and how they differ by condition. See docs/paths.md."""

    layers: Int[np.ndarray, "paths length"]
    """Numbers in the model of the layers that a path runs through."""
    experts: Int[np.ndarray, "paths length"]
    """Expert in each of them."""
    share: Float[np.ndarray, "paths"]
    """Share of the routed paths that are this one, mean over prompts; 0 to 1."""
    expected_share: Float[np.ndarray, "paths"]
    """Product of the experts' usage, mean over prompts: the share if layers were independent."""
    share_benchmark: Float[np.ndarray, "paths"]
    """Mean over benchmark prompts of the share within the prompt."""
    share_organic: Float[np.ndarray, "paths"]
    """Mean over the other prompts."""
    standardised_difference: Float[np.ndarray, "paths"]
    """Share under benchmark minus organic, in standard deviations over all prompts."""
    p_max: Float[np.ndarray, "paths"]
    """Share of labellings whose largest absolute standardised difference over all paths is as
    large: corrected for the number of paths."""
    n_permutations: int
    """Labellings drawn for the null."""
    n_clusters: int
    """Clusters that were relabelled whole."""

    def to_frame(self) -> pd.DataFrame:
        """One row per path, most frequent first; `path` reads `layer:expert > layer:expert`."""
        steps = [
            " > ".join(f"{layer}:{expert}" for layer, expert in zip(*pair, strict=True))
            for pair in zip(self.layers.tolist(), self.experts.tolist(), strict=True)
        ]
        frame = pd.DataFrame(
            {
                "path": steps,
                "share": self.share,
                "expected_share": self.expected_share,
                "share_benchmark": self.share_benchmark,
                "share_organic": self.share_organic,
                "standardised_difference": self.standardised_difference,
                "p_max": self.p_max,
                "n_permutations": self.n_permutations,
                "n_clusters": self.n_clusters,
            }
        )
        return frame.sort_values("share", ascending=False, ignore_index=True, kind="stable")

    def most_specific(self) -> pd.DataFrame:
        """The same rows, largest absolute standardised difference first."""
        frame = self.to_frame()
        order = np.argsort(-frame["standardised_difference"].abs().to_numpy(), kind="stable")
        return frame.iloc[order].reset_index(drop=True)


def transition_counts(
    first: Integer[np.ndarray, "tokens top_k"],
    second: Integer[np.ndarray, "tokens other_k"],
    *,
    n_experts: int,
) -> Int[np.ndarray, "experts experts"]:
    """Tokens that chose one expert in the first routing and another in the second.

    Returns:
        `counts[i, j]`; they sum to tokens x top_k x other_k. Counts of parts add.

    Example:
        >>> transition_counts(np.array([[0], [0], [1]]), np.array([[1], [1], [0]]), n_experts=2)
        array([[0, 2],
               [1, 0]])
    """
    cell = first.astype(np.int64)[:, :, None] * n_experts + second[:, None, :]
    counts = np.bincount(cell.ravel(), minlength=n_experts**2)
    return np.asarray(rearrange(counts, "(a b) -> a b", b=n_experts))


def path_counts(
    expert_indices: Integer[np.ndarray, "tokens length top_k"],
    *,
    prompt_index: Integer[np.ndarray, "tokens"],
    n_prompts: int,
    n_experts: int,
) -> tuple[csr_array, Int[np.ndarray, "paths length"]]:
    """How often each path is taken within each prompt, all combinations of a token counted.

    A token that chooses `top_k` experts in each of `length` layers takes `top_k ** length` paths.

    Args:
        expert_indices: Experts chosen in the layers of the path, in any order within a token.
        prompt_index: Which prompt each token belongs to.
        n_prompts: Number of prompts.
        n_experts: Number of experts in a layer.

    Returns:
        [prompts paths] counts and the experts of each path that occurs.

    Raises:
        ValueError: If there are too many conceivable paths to number them.
    """
    length = expert_indices.shape[1]
    if n_experts**length * n_prompts >= 2**63:
        raise ValueError(f"length is {length}: too many paths of {n_experts} experts to number")
    codes = prompt_index.astype(np.int64)[:, None]
    for step in range(length):
        chosen = expert_indices[:, step].astype(np.int64)
        codes = rearrange(
            codes[:, :, None] * n_experts + chosen[:, None, :], "tokens paths k -> tokens (paths k)"
        )
    code, count = _tally(codes, n_experts**length * n_prompts)
    prompt, path = np.divmod(code, n_experts**length)
    found, column = _numbered(path, n_experts**length)
    counts = csr_array((count, (prompt, column)), shape=(n_prompts, len(found)))
    digits = n_experts ** np.arange(length - 1, -1, -1)
    return counts, found[:, None] // digits % n_experts


def _tally(
    codes: Int[np.ndarray, "tokens paths"], n_codes: int
) -> tuple[Int[np.ndarray, "found"], Int[np.ndarray, "found"]]:
    """Codes that occur, rising, and how often; counted in cells where these are few."""
    if n_codes > MOST_CELLS:
        return np.unique(codes, return_counts=True)
    counts = np.bincount(codes.ravel(), minlength=n_codes)
    found = np.flatnonzero(counts)
    return found, counts[found]


def _numbered(
    path: Int[np.ndarray, "rows"], n_paths: int
) -> tuple[Int[np.ndarray, "found"], Int[np.ndarray, "rows"]]:
    """Paths that occur, rising, and the place of each row's among them."""
    if n_paths > MOST_CELLS:
        return np.unique(path, return_inverse=True)
    found = np.flatnonzero(np.bincount(path, minlength=n_paths))
    place = np.zeros(n_paths, dtype=np.int64)
    place[found] = np.arange(len(found))
    return found, place[path]


def expert_paths(
    tokens: RoutedTokens,
    *,
    benchmark: Bool[np.ndarray, "prompts"],
    cluster: Shaped[np.ndarray, "prompts"],
    rng: np.random.Generator,
    length: int = 2,
    n_frequent: int = 1000,
    n_permutations: int = 200,
) -> ExpertPaths:
    """The most frequent paths from each layer on, and how condition-specific they are.

    A path is one expert in each of `length` neighbouring layers; its share within a prompt is its
    share of the `top_k ** length` paths that each token takes, so that no order of experts within
    a token plays a part. Frequency alone says little: `expected_share` is what the experts' usage
    gives if layers were independent. Specificity is the difference of the conditions' mean shares
    in standard deviations over all prompts; its null relabels whole clusters (`permuted_labels`)
    and takes the largest absolute value over all paths (Westfall and Young 1993,
    Resampling-based multiple testing). Paths are chosen by frequency over all prompts, without
    a look at the labels. Statistic and selection are ours.

    A path can be specific because one of its experts is: compare with the usage of that expert.

    Args:
        tokens: Routed tokens.
        benchmark: True for a benchmark prompt, False for an organic one.
        cluster: What is relabelled whole: item, source or template of each prompt.
        rng: Source of chance for the permutations.
        length: Layers of a path, 2 or more.
        n_frequent: Paths to keep from each first layer.
        n_permutations: Labellings to draw.

    Returns:
        One entry per kept path, from the first layer to the last.

    Raises:
        ValueError: If there are fewer layers than `length`, or labels cannot be permuted.
    """
    n_layers = tokens.expert_indices.shape[1]
    if not 2 <= length <= n_layers:
        raise ValueError(_too_few(n_layers, length))
    present, prompt = np.unique(tokens.prompt_index, return_inverse=True)
    observed, unit = benchmark[present], cluster[present]
    labels = permuted_labels(observed, unit, rng=rng, n_permutations=n_permutations)
    found = [
        _from_layer(tokens, prompt, observed, labels, start, length, n_frequent)
        for start in range(n_layers - length + 1)
    ]
    columns = {name: np.concatenate([each[name] for each in found]) for name in found[0]}
    null = np.max([each["null"] for each in found], axis=0)
    del columns["null"]
    difference = columns["standardised_difference"]
    p_max = permutation_p_value(
        np.abs(difference), np.broadcast_to(null[:, None], (len(null), len(difference)))
    )
    return ExpertPaths(
        p_max=p_max,
        n_permutations=n_permutations,
        n_clusters=len(np.unique(unit)),
        **columns,
    )


def _too_few(n_layers: int, length: int) -> str:
    """Why no path of this length can be counted."""
    if n_layers < 2:
        return "routing is kept for 1 layer, and a path needs 2 or more"
    return f"length is {length}, expected 2 to {n_layers}, the layers there are"


def _from_layer(
    tokens: RoutedTokens,
    prompt: Integer[np.ndarray, "tokens"],
    observed: Bool[np.ndarray, "prompts"],
    labels: Bool[np.ndarray, "permutations prompts"],
    start: int,
    length: int,
    n_frequent: int,
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Columns of the paths that begin in one layer, and `null`, their largest difference."""
    chosen = tokens.expert_indices[:, start : start + length]
    counts, experts = path_counts(
        chosen, prompt_index=prompt, n_prompts=len(observed), n_experts=tokens.n_experts
    )
    total = np.asarray(counts.sum(axis=1), dtype=float)
    pooled = np.asarray((1 / total) @ counts) / len(observed)
    kept = np.sort(np.argsort(-pooled, kind="stable")[:n_frequent])
    shares = counts[:, kept].toarray() / total[:, None]
    spread = shares.std(axis=0)
    scale = np.where(spread > 1e-15, spread, np.inf)
    null = [
        np.abs(_differences(shares, labels[first : first + BATCH]) / scale).max(axis=1)
        for first in range(0, len(labels), BATCH)
    ]
    layers = np.array(tokens.layer_indices[start : start + length])
    return {
        "layers": np.tile(layers, (len(kept), 1)),
        "experts": experts[kept],
        "share": shares.mean(axis=0),
        "expected_share": _expected(chosen, prompt, len(observed), tokens.n_experts, experts[kept]),
        "share_benchmark": shares[observed].mean(axis=0),
        "share_organic": shares[~observed].mean(axis=0),
        "standardised_difference": _differences(shares, observed[None])[0] / scale,
        "null": np.concatenate(null),
    }


def _differences(
    shares: Float[np.ndarray, "prompts paths"], labels: Bool[np.ndarray, "permutations prompts"]
) -> Float[np.ndarray, "permutations paths"]:
    """Mean share of the prompts labelled True minus that of the others."""
    n_true = labels.sum(axis=1, keepdims=True)
    weight = np.where(labels, 1 / n_true, -1 / (labels.shape[1] - n_true))
    return np.asarray(weight @ shares)


def _expected(
    chosen: Integer[np.ndarray, "tokens length top_k"],
    prompt: Integer[np.ndarray, "tokens"],
    n_prompts: int,
    n_experts: int,
    experts: Int[np.ndarray, "paths length"],
) -> Float[np.ndarray, "paths"]:
    """Mean over prompts of the product of the experts' usage within the prompt."""
    usage = routing_features(chosen, prompt_index=prompt, n_prompts=n_prompts, n_experts=n_experts)
    steps = [usage[:, step, experts[:, step]] for step in range(experts.shape[1])]
    return np.asarray(np.prod(steps, axis=0).mean(axis=0))
