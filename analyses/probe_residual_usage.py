"""Usage within a prompt, less what its token ids foretell."""

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, Shaped
from scipy.sparse import csr_array


class WithinTokenUsage:
    """Usage of one layer less what token ids foretell, learnt anew from the prompts of each fold.

    Of each token: the share of its slots that went to an expert, less the mean of that share over
    the tokens with the same id in the learning prompts. A prompt's own cluster is left out of the
    means, or its rare tokens would foretell themselves; tokens whose id no other cluster has
    cannot be foretold and do not count. Features are means over the tokens that do (ours; after
    the token-adjusted effect of DESIGN.md).

    How it fools you: an id in two contexts has one mean, so what routing reads from the previous
    token stays in the features.
    """

    def __init__(
        self,
        expert_indices: Integer[np.ndarray, "tokens top_k"],
        *,
        token_id: Integer[np.ndarray, "tokens"],
        prompt_index: Integer[np.ndarray, "tokens"],
        cluster: Shaped[np.ndarray, "prompts"],
        n_experts: int,
    ) -> None:
        n_prompts = len(cluster)
        _, column = np.unique(token_id, return_inverse=True)
        n_ids = int(column.max(initial=-1)) + 1
        _, self._of = np.unique(cluster, return_inverse=True)
        cell = prompt_index.astype(np.int64) * n_ids + column
        cells, of_token = np.unique(cell, return_inverse=True)
        self._prompt, self._id = cells // n_ids, cells % n_ids
        self._times = np.bincount(of_token, minlength=len(cells)).astype(np.float64)
        self._share = _shares(expert_indices, of_token, len(cells), n_experts)
        self._shape = n_prompts, n_ids
        own = self._of[self._prompt] * n_ids + self._id
        self._n_own, self._own = _numbered(own)

    def __call__(self, fitted: Bool[np.ndarray, "prompts"]) -> Float[np.ndarray, "prompts experts"]:
        """Features of every prompt; 0 where no token of a prompt can be foretold."""
        n_prompts, n_ids = self._shape
        learnt = fitted[self._prompt]
        times = _summed(self._id, self._times * learnt, n_ids)
        share = _grouped(self._id, learnt, n_ids) @ self._share
        own_times = _summed(self._own, self._times * learnt, self._n_own)[self._own]
        own_share = (_grouped(self._own, learnt, self._n_own) @ self._share)[self._own]
        left = times[self._id] - own_times
        known = left > 0.5
        foretold = (share[self._id] - own_share) / np.where(known, left, 1.0)[:, None]
        rest = np.where(known[:, None], self._share - self._times[:, None] * foretold, 0.0)
        total = _grouped(self._prompt, np.ones(len(rest), dtype=bool), n_prompts) @ rest
        counted = _summed(self._prompt, self._times * known, n_prompts)
        return np.asarray(total / np.maximum(counted, 1.0)[:, None])


def _numbered(key: Int[np.ndarray, "cells"]) -> tuple[int, Int[np.ndarray, "cells"]]:
    """How many different keys there are, and the number of each."""
    keys, number = np.unique(key, return_inverse=True)
    return len(keys), number.astype(np.int64)


def _shares(
    expert_indices: Integer[np.ndarray, "tokens top_k"],
    of_token: Int[np.ndarray, "tokens"],
    n_cells: int,
    n_experts: int,
) -> Float[np.ndarray, "cells experts"]:
    """Sum over the tokens of a cell of the share of slots that went to each expert."""
    top_k = expert_indices.shape[1]
    flat = of_token[:, None] * n_experts + expert_indices.astype(np.int64)
    slots = np.bincount(flat.ravel(), minlength=n_cells * n_experts)
    return np.asarray(slots.reshape(n_cells, n_experts) / top_k)


def _summed(
    of: Int[np.ndarray, "cells"], value: Float[np.ndarray, "cells"], n: int
) -> Float[np.ndarray, "n"]:
    return np.bincount(of, value, minlength=n).astype(np.float64)


def _grouped(of: Int[np.ndarray, "cells"], counted: Bool[np.ndarray, "cells"], n: int) -> csr_array:
    """A matrix that sums the rows of counted cells."""
    place = np.flatnonzero(counted)
    return csr_array((np.ones(len(place)), (of[place], place)), shape=(n, len(of)))
