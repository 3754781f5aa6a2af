"""Records of ours, or a prompt of a store, read under the names of TransformerLens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from interp.cache.errors import InputError
from interp.cache.reader import Store
from interp.cache.records import RESID_SITES
from interp.hooks.pass_records import PassRecords
from interp.hooks.transformer_lens import transformer_lens


def as_activation_cache(
    records: PassRecords,
    *,
    n_batch: int = 1,
    n_experts: int | None = None,
    router: str = "router",
    bridge: Any = None,
) -> Any:
    """The records as `run_with_cache` of a bridge would give them: same names, shapes and values.

    Under `blocks.{layer}.`: `hook_resid_pre`, `hook_resid_mid`, `hook_resid_post`,
    `mlp.router.hook_out`, `mlp.router.hook_expert_weights`, `mlp.router.hook_expert_indices`, both
    of which are also under `mlp.`, and `mlp.hook_router_scores`; what was not recorded is not
    there. Residual streams are `[batch pos d_model]`; the router has no batch axis and is
    `[(batch pos) ...]`.

    Args:
        records: All rows of a pass, padding included.
        n_batch: Sequences in the pass.
        n_experts: Width of `hook_expert_weights`; where records hold no logits and it is None, that
            name is left out.
        router: TransformerLens's name of the router: `router` in gpt-oss, `gate` elsewhere.
        bridge: The bridge that functions of the cache compute with; negative layers need it too.

    Returns:
        A `transformer_lens.ActivationCache`. To take its batch axis away, say
        `remove_batch_dim(batch_size=1)`: what it would guess counts the rows of the router.

    Raises:
        InputError: If TransformerLens is missing, or the records are not whole sequences.

    Example:
        >>> from interp import organisms
        >>> from interp.hooks import RoutingTap
        >>> model, tokenizer = organisms.load("toy")
        >>> with RoutingTap(model) as tap:
        ...     _ = model(**tokenizer("two plus two", return_tensors="pt"))
        >>> cache = as_activation_cache(tap.take())
        >>> cache["resid_post", 3].shape, cache["blocks.3.mlp.router.hook_out"].shape
        (torch.Size([1, 5, 128]), torch.Size([5, 32]))
    """
    cache = transformer_lens("transformer_lens").ActivationCache
    _check_rows(records, n_batch)
    of_streams = {
        f"blocks.{layer}.hook_{site}": rearrange(
            rows, "(batch pos) d_model -> batch pos d_model", batch=n_batch
        )
        for (site, layer), rows in records.resid.items()
    }
    of_routers = {
        f"blocks.{layer}.mlp.{name}": each
        for column, layer in enumerate(records.layer_indices)
        for name, each in _of_router(records, column, n_experts=n_experts, router=router).items()
    }
    return cache(of_streams | of_routers, bridge)


def stored_activation_cache(
    store: Store,
    prompt: int,
    *,
    sites: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    router: str = "router",
    bridge: Any = None,
) -> Any:
    """One prompt of a store under the names of TransformerLens; see `as_activation_cache`.

    Each site and layer is read for all prompts of the store, so name few where it is large.
    Residual streams are in the dtype that is stored, router sites in float32.

    Args:
        store: From `open_store`.
        prompt: Its row in `store.prompts`.
        sites: Which sites to read; all that TransformerLens has a name for if None.
        layers: Numbers in the model of the layers to read; all that are stored if None.
        router: TransformerLens's name of the router: `router` in gpt-oss, `gate` elsewhere.
        bridge: The bridge that functions of the cache compute with.

    Raises:
        InputError: If TransformerLens is missing, the store lacks a site, or it keeps residual
            streams of some tokens only.
        ValueError: If the store does not hold that prompt or layer.
    """
    if not 0 <= prompt < len(store.prompts):
        raise ValueError(f"prompt is {prompt}, expected 0 to {len(store.prompts) - 1}")
    records = _stored_records(store, prompt, _stored_sites(store, sites), layers)
    n_experts = store.layout.n_experts
    return as_activation_cache(records, n_experts=n_experts, router=router, bridge=bridge)


def _of_router(
    records: PassRecords, column: int, *, n_experts: int | None, router: str
) -> dict[str, Tensor]:
    """Names under `mlp.` of one layer, and what they hold."""

    def at(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[:, column]

    logits, indices = at(records.router_logits), at(records.expert_indices)
    weights, scattered = at(records.expert_weights), None
    width = n_experts if logits is None else logits.shape[-1]
    if weights is not None and indices is not None and width is not None:
        scattered = weights.new_zeros(len(weights), width).scatter(-1, indices, weights)
    named = {
        f"{router}.hook_out": logits,
        f"{router}.hook_expert_weights": scattered,
        f"{router}.hook_expert_indices": indices,
        "hook_expert_weights": scattered,
        "hook_expert_indices": indices,
        "hook_router_scores": weights,
    }
    return {name: each for name, each in named.items() if each is not None}


def _check_rows(records: PassRecords, n_batch: int) -> None:
    of_router = (records.router_logits, records.expert_indices, records.expert_weights)
    sizes = {len(each) for each in (*of_router, *records.resid.values()) if each is not None}
    if len(sizes) > 1:
        raise InputError(
            f"records holds sites of {min(sizes)} and of {max(sizes)} rows, expected all rows of "
            "the pass at each; record it without choosing rows"
        )
    if n_batch < 1 or any(size % n_batch for size in sizes):
        raise InputError(
            f"n_batch is {n_batch}, but records holds {max(sizes, default=0)} rows, which are not "
            "that many sequences of one length; record all rows of a pass, padding included"
        )


def _stored_sites(store: Store, sites: Sequence[str] | None) -> tuple[str, ...]:
    layout = store.layout
    held = (*layout.resid_sites, "expert_indices", "expert_weights")
    held += ("router_logits",) if layout.router_logits else ()
    lacking = sorted(set(sites or ()) - set(held))
    if lacking:
        raise InputError(
            f"sites holds {lacking}, but what {store.path.name} has under a name of "
            f"TransformerLens is {', '.join(held)}"
        )
    return held if sites is None else tuple(sites)


def _stored_records(
    store: Store, prompt: int, sites: Sequence[str], layers: Sequence[int] | None
) -> PassRecords:
    tokens, routing = np.flatnonzero(store.prompt_index == prompt), store.router(layers)

    def of_prompt(site: str, dtype: torch.dtype) -> Tensor | None:
        values = getattr(routing, site) if site in sites else None
        return None if values is None else torch.from_numpy(values[tokens]).to(dtype)

    return PassRecords(
        layer_indices=routing.layer_indices,
        expert_indices=of_prompt("expert_indices", torch.int64),
        expert_weights=of_prompt("expert_weights", torch.float32),
        router_logits=of_prompt("router_logits", torch.float32),
        resid={
            (site, layer): _stored_stream(store, site, layer, tokens)
            for site in RESID_SITES
            if site in sites
            for layer in routing.layer_indices
        },
    )


def _stored_stream(store: Store, site: str, layer: int, tokens: np.ndarray) -> Tensor:
    residuals = store.resid(site, layer)
    kept = np.isin(residuals.token_index, tokens)
    if kept.sum() != len(tokens):
        raise InputError(
            f"{store.path.name} keeps {site} of {kept.sum()} of the {len(tokens)} tokens of this "
            "prompt, expected all, as TransformerLens has one row per position; capture with "
            "positions='all', or leave it out with sites=('expert_indices', 'expert_weights')"
        )
    dtype: torch.dtype = getattr(torch, store.layout.resid_dtype)
    return torch.from_numpy(residuals.values[kept]).to(dtype)
