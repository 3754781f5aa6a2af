"""Records out of nnsight's traces: the same as those of a tap on the plain model.

nnsight's own cache of module inputs and outputs does the watching, so that nothing of this package
runs inside of a trace, here or on a server. It sees values after the user's edits and binds nobody
to an order. What it kept becomes records here, after the pass.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.cache.errors import InputError
from interp.cache.records import RESID_SITES, SITES
from interp.hooks.blocks import RoutedBlock
from interp.hooks.check import check_fired, check_values, is_unchecked
from interp.hooks.nnsight_cache import (
    Kept,
    fired,
    has_routing,
    resid_rows,
    routing,
    watched_modules,
)
from interp.hooks.pass_records import Observed, PassRecords, pass_records
from interp.hooks.tap import chosen_blocks, chosen_sites

INSTALL = "pip install 'moe-interp[nnsight]'"
TRACE_SITES = tuple(site for site in SITES if site != "expert_output_norms")
"""The sites that a trace shows; each expert's own output is not among them."""


def capture(
    model: Any,
    inputs: Any,
    *,
    sites: Sequence[str] = TRACE_SITES,
    layers: Sequence[int] | None = None,
    tokens: Int[Tensor, "tokens"] | None = None,
    resid: Int[Tensor, "rows"] | None = None,
    remote: bool | str = False,
) -> PassRecords:
    """Routing and residual streams of one batch, run by nnsight in a trace of its own.

    Args:
        model: An `nnsight.TransformersModel` of a supported family.
        inputs: One batch, as `model.trace` takes it: text, a list of texts, token ids, or an
            encoding with its attention mask.
        sites: Which sites to record; see `TRACE_SITES`.
        layers: Numbers of the layers to record; all routed layers if None.
        tokens: Rows of router sites to keep, as positions in `(batch pos)` flattened, padding
            included; all if None.
        resid: The same for residual sites.
        remote: As in `model.trace`: True runs the pass on NDIF, "local" runs it here after the
            round trip through nnsight's serialisation.

    Raises:
        InputError: If nnsight is missing, or model, inputs, a site or a layer cannot be used.
        ModelError: If a site was not seen or the records fail their check; it names the layer and
            the site.

    Example:
        >>> from nnsight import TransformersModel
        >>> from interp import organisms
        >>> toy, tokenizer = organisms.load("toy")
        >>> model = TransformersModel(toy, tokenizer=tokenizer)
        >>> capture(model, "two plus two", sites=("expert_indices",)).expert_indices.shape[1:]
        torch.Size([4, 4])
    """
    tap = TraceTap(model, sites=sites, layers=layers)
    return tap.capture(inputs, tokens=tokens, resid=resid, remote=remote)


class TraceTap:
    """Says what a trace must keep, and makes records of it afterwards.

    The first records are checked as those of `RoutingTap` are: recomputed logits, experts and
    weights must be those of the model, and each layer must receive what the last one handed on.
    Let it see one pass without edits before a trace that changes either by hand.

    Args:
        model: An `nnsight.TransformersModel` of a supported family.
        sites: Which sites to record; see `TRACE_SITES`.
        layers: Numbers of the layers to record; all routed layers if None.

    Raises:
        InputError: If nnsight is missing, or the model, a site or a layer cannot be used.

    Example:
        >>> from nnsight import TransformersModel
        >>> from interp import organisms
        >>> toy, tokenizer = organisms.load("toy")
        >>> model = TransformersModel(toy, tokenizer=tokenizer)
        >>> tap = TraceTap(model, sites=("router_logits",), layers=[2])
        >>> wanted = tap.wanted
        >>> with model.trace("two plus two") as tracer:
        ...     cache = tracer.cache(**wanted)
        ...     model.model.layers[0].mlp.router.output[1][:] = 0  # its experts add nothing
        >>> tap.records(cache).router_logits.shape[1:]
        torch.Size([1, 32])
    """

    def __init__(
        self,
        model: Any,
        *,
        sites: Sequence[str] = TRACE_SITES,
        layers: Sequence[int] | None = None,
    ) -> None:
        _check_model(model)
        self.sites = chosen_sites(sites)
        _check_sites(self.sites)
        self._model, self._layers = model, layers
        self.is_checked = False
        self.compared_layers: tuple[int, ...] = ()
        self._blocks()

    @property
    def wanted(self) -> dict[str, Any]:
        """Arguments for `tracer.cache`: plain values, which travel to a server as they are."""
        paths = self._paths()
        modules = [each for block in self._blocks() for each in watched_modules(block, self.sites)]
        return {"modules": [paths[id(module)] for module in modules], "include_inputs": True}

    def capture(
        self,
        inputs: Any,
        *,
        tokens: Int[Tensor, "tokens"] | None = None,
        resid: Int[Tensor, "rows"] | None = None,
        remote: bool | str = False,
    ) -> PassRecords:
        """Run one batch in a trace without edits; arguments are those of the function `capture`."""
        _check_inputs(inputs)
        if remote and remote != "local":
            _check_hub_id(self._model)
            _check_margins(self._blocks()[0], self.sites)
        # The block below may name these two and nothing of this package: nnsight ships its source
        # with every name in it, and a server has no moe-interp.
        model, wanted = self._model, self.wanted
        with torch.no_grad(), model.trace(inputs, remote=remote) as tracer:
            cache = tracer.cache(**wanted)
        return self.records(cache, tokens=tokens, resid=resid)

    def records(
        self,
        cache: Any,
        *,
        tokens: Int[Tensor, "tokens"] | None = None,
        resid: Int[Tensor, "rows"] | None = None,
    ) -> PassRecords:
        """The records of the one pass that a cache holds.

        Args:
            cache: What `tracer.cache(**tap.wanted)` returned, after its trace.
            tokens: Rows of router sites to keep, as positions in `(batch pos)`; all if None.
            resid: Rows of residual sites to keep; all if None.

        Raises:
            InputError: If the cache is of an invoker, or holds several passes.
            ModelError: If a site was not seen, or the first records fail their check.
        """
        blocks, kept = self._blocks(), Kept(cache, self._paths())
        if not self._model.dispatched:
            _check_margins(blocks[0], self.sites)
        check_fired(blocks, self.sites, fired(blocks, self.sites, kept))
        observed = {block.layer: self._observed(block, kept) for block in blocks}
        streams = {
            (site, block.layer): resid_rows(block, site, kept, resid)
            for block in blocks
            for site in self.sites
            if site in RESID_SITES
        }
        if not self.is_checked:
            self.compared_layers = check_values(blocks, observed, streams)
            self.is_checked = not any(map(is_unchecked, observed.values()))
        return pass_records(blocks, self.sites, observed=observed, resid=streams, rows=tokens)

    def _observed(self, block: RoutedBlock, kept: Kept) -> Observed:
        if not has_routing(self.sites):
            return Observed()
        is_trusted = self.is_checked or block.is_edited
        return routing(block, kept, compare=not is_trusted, has_weights=self._model.dispatched)

    def _blocks(self) -> tuple[RoutedBlock, ...]:
        """Found anew each time, because nnsight swaps the modules when it loads the weights."""
        return chosen_blocks(self._model._module, self._layers)

    def _paths(self) -> dict[int, str]:
        return {id(envoy._module): envoy.path for envoy in self._model.modules()}


def _check_model(model: Any) -> None:
    try:
        nnsight = import_module("nnsight")
        transformers_model, deprecated = nnsight.TransformersModel, nnsight.LanguageModel
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"interp.hooks.nnsight needs nnsight 0.8 or later ({error}); install it with: {INSTALL}"
        ) from error
    if isinstance(model, deprecated) or not isinstance(model, transformers_model):
        raise InputError(
            f"model is a {type(model).__name__}, expected an nnsight.TransformersModel; wrap a "
            "loaded model as TransformersModel(model, tokenizer=tokenizer), or use "
            "interp.hooks.RoutingTap on it without nnsight"
        )


def _check_sites(sites: Sequence[str]) -> None:
    if set(sites) - set(TRACE_SITES):
        raise InputError(
            "sites holds expert_output_norms, but nnsight shows the weighted sum of the experts "
            "only; record them with interp.hooks.RoutingTap on the plain model"
        )


def _check_inputs(inputs: Any) -> None:
    if inputs is None or (isinstance(inputs, list | tuple) and not inputs):
        raise InputError(f"inputs is {inputs!r}, expected one batch of text or token ids")


def _check_hub_id(model: Any) -> None:
    """A server finds the model by its name on the hub, never by the weights in this process."""
    if Path(str(model.repo_id)).exists():
        raise InputError(
            f"the model was loaded from {model.repo_id}, but remote=True needs the hub id of a "
            'model that NDIF hosts; to rehearse it here, use remote="local"'
        )


def _check_margins(block: RoutedBlock, sites: Sequence[str]) -> None:
    """Margins come with logits, and in some families also need a tensor that is on the server."""
    if "router_logits" in sites and block.spec.correction_bias:
        raise InputError(
            f"sites holds router_logits, whose margins need the correction bias of a router of "
            f"{block.spec.family}, and the weights are on a server; leave router_logits out, or "
            "load the model in this process"
        )
