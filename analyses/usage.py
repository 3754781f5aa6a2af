"""Expert usage: which share of the routed slots each expert receives, by any grouping of tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from einops import reduce
from jaxtyping import Float, Int, Integer, Shaped

from interp.analyses.slots import (
    check_layers,
    check_routing,
    received_by_prompt,
    slots_by_prompt,
    summed_slots,
)

__all__ = [
    "Usage",
    "check_layers",
    "check_routing",
    "expert_usage",
    "received_by_prompt",
    "slots_by_prompt",
    "usage_by",
]


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Share of routed slots by group of tokens, layer and expert. See docs/usage.md."""

    by: tuple[str, ...]
    """What the tokens are grouped by, such as `condition` and `segment`."""
    names: tuple[tuple[str, ...], ...]
    """For each group that has tokens, its name under each entry of `by`; in alphabetical order."""
    layer_indices: tuple[int, ...]
    """Numbers of the layers in the model."""
    usage: Float[np.ndarray, "groups layers experts"]
    """Token mean: tokens of a group pooled, so long prompts weigh more; sums to 1 over experts."""
    usage_prompt_mean: Float[np.ndarray, "groups layers experts"]
    """Prompt mean: over prompts, of the usage of the prompt's tokens in the group; sums to 1."""
    n_tokens: Int[np.ndarray, "groups"]
    """Tokens of each group."""
    n_prompts: Int[np.ndarray, "groups"]
    """Prompts that have tokens in each group."""

    def mean(
        self, over: Literal["prompts", "tokens"] = "prompts"
    ) -> Float[np.ndarray, "groups layers experts"]:
        """The one to show where one number is shown: the prompt mean, unless tokens are asked for.

        Under the token mean a prompt of 5,000 tokens has the say of fifty prompts of 100.

        Raises:
            ValueError: If `over` is neither.
        """
        if over not in ("prompts", "tokens"):
            raise ValueError(f"over is {over!r}, expected 'prompts' or 'tokens'")
        return self.usage_prompt_mean if over == "prompts" else self.usage

    def to_frame(self) -> pd.DataFrame:
        """One row per group, layer and expert, with a column for each entry of `by`."""
        n_groups, n_layers, n_experts = self.usage.shape
        per_group = n_layers * n_experts
        named = {
            column: np.repeat(np.array(values, dtype=object), per_group)
            for column, values in zip(self.by, zip(*self.names, strict=True), strict=True)
        }
        layer = np.repeat(self.layer_indices, n_experts)
        return pd.DataFrame(
            {
                **named,
                "layer": np.tile(layer, n_groups),
                "expert": np.tile(np.arange(n_experts), n_groups * n_layers),
                "usage": self.usage.ravel(),
                "usage_prompt_mean": self.usage_prompt_mean.ravel(),
                "n_tokens": np.repeat(self.n_tokens, per_group),
                "n_prompts": np.repeat(self.n_prompts, per_group),
            }
        )


def expert_usage(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    *,
    condition: Shaped[np.ndarray, "prompts"],
    prompt_index: Integer[np.ndarray, "tokens"],
    n_experts: int,
    layer_indices: Sequence[int],
) -> Usage:
    """Usage of every expert under every condition, as a mean over tokens and over prompts.

    `usage[c, l, e] = slots of c in l that went to e / (tokens of c * top_k)`. `expert_weights`
    play no part. Prompts to which no token points play no part either.

    Args:
        expert_indices: Experts chosen for each token.
        condition: Name of each prompt's condition.
        prompt_index: Which prompt each token belongs to.
        n_experts: Number of experts in a layer.
        layer_indices: Number in the model of each layer of `expert_indices`.

    Returns:
        Shares from 0 to 1.

    Raises:
        ValueError: If there is no token, an index is out of range, or layer numbers are missing.
    """
    check_layers(layer_indices, expert_indices.shape[1])
    slots = slots_by_prompt(
        expert_indices, prompt_index=prompt_index, n_prompts=len(condition), n_experts=n_experts
    )
    n_tokens = np.bincount(prompt_index, minlength=len(condition))
    used = np.flatnonzero(n_tokens)
    names, number = np.unique(condition[used].astype(str), return_inverse=True)
    order = np.argsort(number, kind="stable")
    return _usage(
        slots[used][order],
        group=number[order],
        n_tokens=n_tokens[used][order],
        names=tuple((name,) for name in names.tolist()),
        by=("condition",),
        layer_indices=layer_indices,
    )


def usage_by(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    *,
    by: Mapping[str, Shaped[np.ndarray, "_"]],
    prompt_index: Integer[np.ndarray, "tokens"],
    n_experts: int,
    layer_indices: Sequence[int],
    expert_weights: Float[np.ndarray, "tokens layers top_k"] | None = None,
) -> Usage:
    """Usage by any grouping of tokens: condition, source, segment, token class, or several at once.

    By slots, `usage[g, l, e]` is the share of the slots of group g in layer l that went to e (the
    `f` of Fedus et al. 2022, arXiv:2101.03961, eq. 5). By `expert_weights`, it is the share of
    their sum: the tokens' weights, each layer and group normalised to 1 (ours).

    Args:
        expert_indices: Experts chosen for each token.
        by: For each name of a grouping, what each token is, such as
            `{"condition": condition[prompt_index], "segment": segment}`.
        prompt_index: Which prompt each token belongs to.
        n_experts: Number of experts in a layer.
        layer_indices: Number in the model of each layer of `expert_indices`.
        expert_weights: What each slot counts; 1 for every slot if None.

    Returns:
        Shares from 0 to 1. NaN where all weights of a group (or, in the prompt mean, of a prompt)
        are 0.

    Raises:
        ValueError: If there is no token or grouping, lengths differ, or an index is out of range.

    Example:
        >>> chosen = np.array([[[0]], [[0]], [[1]]])
        >>> usage = usage_by(chosen, by={"segment": np.array(["user", "user", "final"])},
        ...     prompt_index=np.zeros(3, dtype=int), n_experts=2, layer_indices=[0])
        >>> usage.names, usage.mean()[:, 0].tolist()
        ((('final',), ('user',)), [[0.0, 1.0], [1.0, 0.0]])
    """
    check_layers(layer_indices, expert_indices.shape[1])
    n_prompts = int(prompt_index.max(initial=0)) + 1
    check_routing(expert_indices, prompt_index, n_prompts=n_prompts, n_experts=n_experts)
    group, names = _groups(by, n_tokens=len(expert_indices))
    cell, cell_of_token, n_tokens = np.unique(
        group * n_prompts + prompt_index.astype(np.int64), return_inverse=True, return_counts=True
    )  # only pairs that occur: the product of groups and prompts can be large
    received = summed_slots(
        expert_indices,
        row=cell_of_token,
        n_rows=len(cell),
        n_experts=n_experts,
        weight=expert_weights,
    )
    return _usage(
        received,
        group=cell // n_prompts,
        n_tokens=n_tokens,
        names=names,
        by=tuple(by),
        layer_indices=layer_indices,
    )


def _usage(
    received: Shaped[np.ndarray, "cells layers experts"],
    *,
    group: Integer[np.ndarray, "cells"],
    n_tokens: Integer[np.ndarray, "cells"],
    names: tuple[tuple[str, ...], ...],
    by: tuple[str, ...],
    layer_indices: Sequence[int],
) -> Usage:
    """Both means, from what the tokens of each prompt in each group received; groups rise."""
    starts = np.searchsorted(group, np.arange(len(names)))
    n_prompts = np.bincount(group, minlength=len(names))
    summed = np.add.reduceat(_shares(received), starts)
    return Usage(
        by=by,
        names=names,
        layer_indices=tuple(int(layer) for layer in layer_indices),
        usage=_shares(np.add.reduceat(received, starts)),
        usage_prompt_mean=summed / n_prompts[:, None, None],
        n_tokens=np.add.reduceat(n_tokens, starts),
        n_prompts=n_prompts,
    )


def _groups(
    by: Mapping[str, Shaped[np.ndarray, "_"]], *, n_tokens: int
) -> tuple[Int[np.ndarray, "tokens"], tuple[tuple[str, ...], ...]]:
    """For each token the number of its group, and the names of the groups."""
    if not by:
        raise ValueError("by names no grouping; give at least one, such as condition")
    found = {}
    for name, values in by.items():
        if len(values) != n_tokens:
            raise ValueError(
                f"by[{name!r}] has {len(values)} entries, but expert_indices has {n_tokens} "
                "tokens; give one per token"
            )
        found[name] = np.unique(values.astype(str), return_inverse=True)
    code = np.ravel_multi_index(
        [inverse for _, inverse in found.values()], [len(names) for names, _ in found.values()]
    )
    present, group = np.unique(code, return_inverse=True)
    places = np.unravel_index(present, [len(names) for names, _ in found.values()])
    columns = [names[place] for (names, _), place in zip(found.values(), places, strict=True)]
    return group.astype(np.int64), tuple(zip(*(c.tolist() for c in columns), strict=True))


def _shares(received: Shaped[np.ndarray, "*of experts"]) -> Float[np.ndarray, "*of experts"]:
    total = reduce(received, "... experts -> ... 1", "sum").astype(np.float64)
    undefined = np.full(received.shape, np.nan)
    return np.asarray(np.divide(received, total, out=undefined, where=total > 0))
