"""Surface baselines: what a probe could read off a prompt without any model."""

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float, Integer, Shaped
from scipy.sparse import csr_array

from interp.analyses.features import length_features
from interp.analyses.routed_tokens import Prompts, RoutedTokens

N_BUCKETS = 2**18
"""Columns that token ids and pairs of them are hashed into."""


def surface_features(
    tokens: RoutedTokens, prompts: Prompts, *, n_buckets: int = N_BUCKETS
) -> dict[str, Float[np.ndarray, "prompts d"] | csr_array]:
    """Every surface baseline of these prompts, by name.

    Returns:
        `length`, `position`, `bag_of_tokens` (its columns that are not empty), `template` (only
        where there are two or more) and `logprob` (only where it is known for a token of every
        prompt).
    """
    n_prompts = len(prompts.benchmark)
    bag = bag_of_tokens(
        tokens.token_id,
        tokens.previous_token_id,
        prompt_index=tokens.prompt_index,
        n_prompts=n_prompts,
        n_buckets=n_buckets,
    )
    found: dict[str, Float[np.ndarray, "prompts d"] | csr_array] = {
        "length": length_features(tokens.prompt_index, n_prompts=n_prompts),
        "position": position_features(
            tokens.position, prompt_index=tokens.prompt_index, n_prompts=n_prompts
        ),
        "bag_of_tokens": bag[:, np.unique(bag.indices)],
    }
    if len(np.unique(prompts.template)) > 1:
        found["template"] = flag_features(prompts.template)
    logprob = logprob_features(
        tokens.logprob, prompt_index=tokens.prompt_index, n_prompts=n_prompts
    )
    if np.isfinite(logprob).all():
        found["logprob"] = logprob
    return found


def bag_of_tokens(
    token_id: Integer[np.ndarray, "tokens"],
    previous_token_id: Integer[np.ndarray, "tokens"],
    *,
    prompt_index: Integer[np.ndarray, "tokens"],
    n_prompts: int,
    n_buckets: int = N_BUCKETS,
) -> csr_array:
    """Signed hashes of `log(1 + count)` of each token id and each pair (previous, token).

    Feature hashing (Weinberger et al. 2009, arXiv:0902.2206): a bucket holds the sum of its
    n-grams, each with a sign of its own, so that collisions cancel on average. Counts are exact
    and their logarithm is taken before they are hashed. Nothing is learnt, so nothing leaks.

    Args:
        token_id: Vocabulary id.
        previous_token_id: Id of the token before; below 0 for none, then there is no pair.
        prompt_index: Which prompt each token belongs to.
        n_prompts: Number of prompts; those without a token are 0 everywhere.
        n_buckets: Columns.

    Returns:
        [prompts buckets], sparse.

    Example:
        >>> once = np.array([7])
        >>> bag = bag_of_tokens(once, once - 8, prompt_index=once - 7, n_prompts=1)
        >>> bag.shape, bag.nnz, float(abs(bag).sum().round(3))
        ((1, 262144), 1, 0.693)
    """
    paired = previous_token_id >= 0
    single = token_id.astype(np.uint64)
    pair = (previous_token_id[paired].astype(np.uint64) + np.uint64(1)) << np.uint64(32)
    key = np.concatenate([single, pair | single[paired]])
    prompt = np.concatenate([prompt_index, prompt_index[paired]]).astype(np.int64)
    order = np.lexsort((key, prompt))
    key, prompt = key[order], prompt[order]
    new = (key[1:] != key[:-1]) | (prompt[1:] != prompt[:-1])
    first = np.flatnonzero(np.append(True, new)[: len(key)])
    count = np.diff(np.append(first, len(key)))
    mixed = _mixed(key[first])
    sign = np.where(mixed >> np.uint64(63), -1.0, 1.0)
    bucket = (mixed % np.uint64(n_buckets)).astype(np.int64)
    rows = csr_array(
        (sign * np.log1p(count), (prompt[first], bucket)), shape=(n_prompts, n_buckets)
    )
    rows.sum_duplicates()
    return rows


def position_features(
    position: Integer[np.ndarray, "tokens"],
    *,
    prompt_index: Integer[np.ndarray, "tokens"],
    n_prompts: int,
) -> Float[np.ndarray, "prompts 3"]:
    """`log(1 + position)` of the first token, the last, and on average; NaN without tokens."""
    depth = np.log1p(position.astype(np.float64))
    first, last = np.full(n_prompts, np.inf), np.full(n_prompts, -np.inf)
    np.minimum.at(first, prompt_index, depth)
    np.maximum.at(last, prompt_index, depth)
    found = np.column_stack([first, last, _means(depth, prompt_index, n_prompts)])
    return np.where(np.isfinite(found), found, np.nan)


def flag_features(name: Shaped[np.ndarray, "prompts"]) -> Float[np.ndarray, "prompts names"]:
    """1 in the column of a prompt's name (its template, say), 0 elsewhere; names in order."""
    names, column = np.unique(name, return_inverse=True)
    return np.eye(len(names))[column]


def logprob_features(
    logprob: Float[np.ndarray, "tokens"],
    *,
    prompt_index: Integer[np.ndarray, "tokens"],
    n_prompts: int,
) -> Float[np.ndarray, "prompts 1"]:
    """Mean log-probability in nats of the tokens where it is known: difficulty and familiarity.

    NaN for a prompt without such a token, which `probe` refuses.
    """
    known = ~np.isnan(logprob)
    means = _means(logprob[known].astype(np.float64), prompt_index[known], n_prompts)
    return rearrange(means, "prompts -> prompts 1")


def _means(
    value: Float[np.ndarray, "tokens"], prompt_index: Integer[np.ndarray, "tokens"], n_prompts: int
) -> Float[np.ndarray, "prompts"]:
    times = np.bincount(prompt_index, minlength=n_prompts).astype(np.float64)
    times[times == 0] = np.nan
    return np.asarray(np.bincount(prompt_index, value, minlength=n_prompts) / times)


def _mixed(key: Shaped[np.ndarray, "n"]) -> Shaped[np.ndarray, "n"]:
    """A 64-bit hash of each key (the finaliser of SplitMix64, doi:10.1145/2660193.2660195)."""
    mixed = key + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def one_against_rest(
    field: Shaped[np.ndarray, "prompts"],
) -> dict[str, Bool[np.ndarray, "prompts"]]:
    """A target for each value of a field: True for the prompts that have it.

    Values that all prompts have, or none but one, are left out: nothing can be told apart or split.
    """
    values, times = np.unique(field.astype(str), return_counts=True)
    several = (times > 1) & (times < len(field) - 1)
    return {str(value): field.astype(str) == value for value in values[several]}
