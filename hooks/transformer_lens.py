"""Records out of a `TransformerBridge` of TransformerLens 4.3, by its own hook names.

TransformerLens is imported when a bridge is given, never before. See docs/transformer_lens.md.
"""

import copy
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from interp.cache.errors import InputError, ModelError
from interp.cache.records import SITES
from interp.hooks.check import check_fired, check_values
from interp.hooks.pass_records import PassRecords, pass_records
from interp.hooks.tap import chosen_blocks, chosen_sites
from interp.hooks.transformer_lens_pass import BridgePass

INSTALL = "pip install 'moe-interp[transformer-lens]'"


def capture(
    bridge: Any,
    inputs: Any,
    *,
    sites: Sequence[str] = SITES,
    layers: Sequence[int] | None = None,
    tokens: Int[Tensor, "tokens"] | None = None,
    resid: Int[Tensor, "rows"] | None = None,
) -> PassRecords:
    """Routing and residual streams of one batch, as the hook points of a bridge show them.

    Hooks of yours on the bridge are run first, so that records are of what they left. Routing that
    they changed is refused by the check that `RoutingTap` makes; for such a pass, open a tap on
    `plain_model(bridge)`. `expert_output_norms` has no hook point and is recorded at the experts.

    Args:
        bridge: A `TransformerBridge` of a mixture-of-experts model; its weights not processed.
        inputs: What `bridge(...)` takes: token ids, `[batch pos]`, or text, before which the bridge
            puts a BOS token. Also an encoding with its attention mask.
        sites: Which sites to record; see `interp.cache.records.SITES`.
        layers: Numbers of the layers to record; all routed layers if None.
        tokens: Rows of router sites to keep, as positions in `(batch pos)` flattened, padding
            included; all if None.
        resid: The same for residual sites.

    Raises:
        InputError: If TransformerLens is missing, or bridge, inputs, a site or a layer cannot be
            used.
        ModelError: If the weights of the bridge were processed, a site was not seen, or the records
            fail their check; it names the layer and the site.

    Example:
        >>> from interp import organisms
        >>> from transformer_lens.model_bridge import TransformerBridge
        >>> toy, tokenizer = organisms.load("toy")
        >>> bridge = TransformerBridge.boot_transformers("toy", hf_model=toy, tokenizer=tokenizer)
        >>> ids = tokenizer("two plus two", return_tensors="pt")["input_ids"]
        >>> capture(bridge, ids, sites=("expert_indices",)).expert_indices.shape[1:]
        torch.Size([4, 4])
    """
    chosen, blocks = chosen_sites(sites), chosen_blocks(plain_model(bridge), layers)
    ids, options = _split(inputs)
    seen = BridgePass(blocks, chosen, resid_rows=resid)
    with torch.no_grad(), seen.norms(), bridge.hooks(fwd_hooks=seen.hooks(bridge)):
        bridge(ids, return_type=None, use_cache=False, logits_to_keep=1, **options)
    check_fired(blocks, chosen, seen.fired)
    check_values(blocks, seen.observed, seen.resid)
    return pass_records(blocks, chosen, observed=seen.observed, resid=seen.resid, rows=tokens)


def plain_model(bridge: Any) -> nn.Module:
    """The model under a bridge, its modules out of their wrappers, for what takes a plain model.

    A `RoutingTap` or an intervention of `interp.hooks.interventions` on it acts on every pass of
    the bridge, beneath the bridge's own hooks. Nothing of the bridge is changed: a module that
    holds wrapped ones is a shallow copy, which shares tensors and hooks with the module it is of.

    Raises:
        InputError: If TransformerLens is missing, or `bridge` is no `TransformerBridge`.
        ModelError: If the weights of the bridge were processed.

    Example:
        >>> from interp import organisms
        >>> from interp.hooks import reroute
        >>> from transformer_lens.model_bridge import TransformerBridge
        >>> toy, tokenizer = organisms.load("toy")
        >>> bridge = TransformerBridge.boot_transformers("toy", hf_model=toy, tokenizer=tokenizer)
        >>> with reroute(plain_model(bridge), [(2, 17)]):
        ...     _, cache = bridge.run_with_cache("two plus two")
        >>> bool((cache["blocks.2.mlp.router.hook_expert_indices"] == 17).any())
        False
    """
    _check_bridge(bridge)
    return _unwrapped(bridge.original_model)


def transformer_lens(module: str) -> Any:
    """A module of TransformerLens, imported now.

    Raises:
        InputError: If TransformerLens is not installed, or is older than its bridges.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "transformer_lens":
            raise
        raise InputError(
            f"interp.hooks.transformer_lens needs TransformerLens 4.3 or later ({error}); install "
            f"it with: {INSTALL}"
        ) from error


def _check_bridge(bridge: Any) -> None:
    expected = transformer_lens("transformer_lens.model_bridge").TransformerBridge
    if not isinstance(bridge, expected):
        raise InputError(
            f"bridge is a {type(bridge).__name__}, expected a TransformerBridge, as "
            "TransformerBridge.boot_transformers gives it; for a plain transformers model use "
            "interp.hooks.RoutingTap"
        )
    # Set before the first weight is touched, so also where processing failed half-way.
    if getattr(bridge, "_weights_processed", bridge.compatibility_mode):
        raise ModelError(
            "the weights of this bridge were processed, as enable_compatibility_mode() does, so "
            "that it is not the model any more: folded value biases change the output of gpt-oss, "
            "because attention has sinks there and its rows do not sum to 1; boot the bridge again "
            "without compatibility mode, or with enable_compatibility_mode(no_processing=True)"
        )


def _split(inputs: Any) -> tuple[Any, dict[str, Any]]:
    """Token ids or text, and what goes with them."""
    if isinstance(inputs, Mapping):
        options = dict(inputs)
        inputs = options.pop("input_ids", None)
    else:
        options = {}
    is_batch = inputs.numel() > 0 if isinstance(inputs, Tensor) else bool(inputs)
    if not is_batch or not isinstance(inputs, Tensor | str | list):
        raise InputError(f"inputs is {inputs!r}, expected one batch of token ids or text")
    return inputs, options


def _unwrapped(module: nn.Module) -> nn.Module:
    while (original := module._modules.get("_original_component")) is not None:
        module = original
    children = {
        name: None if each is None else _unwrapped(each) for name, each in module._modules.items()
    }
    if all(each is module._modules[name] for name, each in children.items()):
        return module
    mirror = copy.copy(module)
    mirror.__dict__["_modules"] = children
    return mirror
