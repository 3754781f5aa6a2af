"""A tap records routing and residual streams of a model's forward passes and changes nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional

from interp.cache.errors import InputError
from interp.cache.records import RESID_SITES, SITES
from interp.hooks.check import ModelChoice, check_fired, check_values
from interp.hooks.spec import RoutedBlock, routed_blocks


@dataclass(frozen=True, kw_only=True)
class PassRecords:
    """What one forward pass left in a tap, on the CPU; rows are those that `select` named."""

    layer_indices: tuple[int, ...]
    expert_indices: Int[Tensor, "tokens layers top_k"] | None = None
    expert_weights: Float[Tensor, "tokens layers top_k"] | None = None
    router_logits: Float[Tensor, "tokens layers experts"] | None = None
    resid: dict[tuple[str, int], Shaped[Tensor, "rows d_model"]] = field(default_factory=dict)
    """By site and layer number in the model, in the model's dtype."""


class RoutingTap:
    """Records the chosen sites of every forward pass while it is open.

    Logits are recomputed from the input of the routed block and the router's weight and bias, which
    holds on every path, fused kernels included; after the first pass they are compared with what
    the model's own router chose; `compared_layers` names the layers where it was called at all.

    Args:
        model: A transformers model of the gpt-oss family.
        sites: Which sites to record; see `interp.cache.records.SITES`.
        layers: Numbers of the layers to record; all routed layers if None.

    Raises:
        InputError: If the model has no router, or a site or layer is not known.
        ModelError: From `take`, if the first pass fails a check; it names the layer and the site.

    Example:
        >>> from interp import organisms
        >>> model, tokenizer = organisms.load("toy")
        >>> with RoutingTap(model, sites=("expert_indices",)) as tap:
        ...     _ = model(**tokenizer("two plus two", return_tensors="pt"))
        >>> tap.take().expert_indices.shape[1:]
        torch.Size([4, 4])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        sites: Sequence[str] = SITES,
        layers: Sequence[int] | None = None,
    ) -> None:
        self.sites = chosen_sites(sites)
        self.blocks = chosen_blocks(model, layers)
        self.is_checked = False
        self.compared_layers: tuple[int, ...] = ()
        self._token_rows: Tensor | None = None
        self._resid_rows: Tensor | None = None
        self._logits: dict[int, Tensor] = {}
        self._resid: dict[tuple[str, int], Tensor] = {}
        self._choices: dict[int, ModelChoice] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def select(
        self,
        *,
        tokens: Int[Tensor, "tokens"] | None = None,
        resid: Int[Tensor, "rows"] | None = None,
    ) -> None:
        """Name the rows of the next passes to keep, as positions in `(batch pos)` flattened.

        Args:
            tokens: Rows of router sites to keep; all if None.
            resid: Rows of residual sites to keep; all if None.
        """
        self._token_rows, self._resid_rows = tokens, resid

    def __enter__(self) -> "RoutingTap":
        self._forget()
        for block in self.blocks:
            self._register(block)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def take(self) -> PassRecords:
        """The records of the last forward pass; the tap is empty afterwards.

        Raises:
            ModelError: If a site did not fire, or the first pass fails its check.
        """
        check_fired(self.blocks, self.sites, self._logits, self._resid)
        if not self.is_checked:
            self.compared_layers = check_values(
                self.blocks, self._logits, self._resid, self._choices
            )
            self.is_checked = True
        records = self._records()
        self._forget()
        return records

    def _register(self, block: RoutedBlock) -> None:
        layer = block.layer
        if set(self.sites) - set(RESID_SITES):
            self._handles.append(
                block.moe.register_forward_pre_hook(self._on_moe_input(block), with_kwargs=True)
            )
            self._handles.append(block.router.register_forward_hook(self._on_choice(layer)))
        before = {"resid_pre": block.decoder, "resid_mid": block.resid_mid_norm}
        for site, module in before.items():
            if site in self.sites:
                hook = self._on_resid_input(site, layer)
                self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        if "resid_post" in self.sites:
            self._handles.append(block.decoder.register_forward_hook(self._on_resid_output(layer)))

    def _on_moe_input(self, block: RoutedBlock) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            normed = rearrange(
                _hidden_states(args, kwargs), "batch pos d_model -> (batch pos) d_model"
            )
            with torch.no_grad():
                weight, bias = block.weight.to(normed.device), block.bias.to(normed.device)
                logits = functional.linear(normed, weight, bias)
            self._logits[block.layer] = logits

        return hook

    def _on_choice(self, layer: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
            if not self.is_checked:
                weights, indices = output[1:]
                self._choices[layer] = ModelChoice(
                    weights.detach().clone(), indices.detach().clone()
                )

        return hook

    def _on_resid_input(self, site: str, layer: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._keep_resid(site, layer, _hidden_states(args, kwargs))

        return hook

    def _on_resid_output(self, layer: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor | tuple[Tensor, ...]) -> None:
            hidden = output if isinstance(output, Tensor) else output[0]
            self._keep_resid("resid_post", layer, hidden)

        return hook

    def _keep_resid(self, site: str, layer: int, hidden: Tensor) -> None:
        rows = rearrange(hidden.detach(), "batch pos d_model -> (batch pos) d_model")
        self._resid[site, layer] = _rows(rows, self._resid_rows).to("cpu", copy=True)

    def _records(self) -> PassRecords:
        layers = tuple(block.layer for block in self.blocks)
        if not self._logits:
            return PassRecords(layer_indices=layers, resid=dict(self._resid))
        logits = [self._logits[layer] for layer in layers]
        chosen = [torch.topk(each, self.blocks[0].top_k, dim=-1) for each in logits]
        of_all = {
            "expert_indices": [each.indices for each in chosen],
            "expert_weights": [torch.softmax(each.values, dim=-1) for each in chosen],
            "router_logits": logits,
        }
        kept = {
            site: torch.stack(
                [_rows(each, self._token_rows).to("cpu") for each in of_layers], dim=1
            )
            for site, of_layers in of_all.items()
            if site in self.sites
        }
        return PassRecords(layer_indices=layers, resid=dict(self._resid), **kept)

    def _forget(self) -> None:
        self._logits, self._resid, self._choices = {}, {}, {}


def chosen_sites(sites: Sequence[str]) -> tuple[str, ...]:
    """The sites asked for, in the order of `SITES`.

    Raises:
        InputError: If a site is not known, or none is given.
    """
    unknown = [site for site in sites if site not in SITES]
    if unknown or not sites:
        raise InputError(f"sites holds {unknown or 'nothing'}, expected some of {', '.join(SITES)}")
    return tuple(site for site in SITES if site in sites)


def chosen_blocks(model: nn.Module, layers: Sequence[int] | None) -> tuple[RoutedBlock, ...]:
    """The routed layers with these numbers, rising; all of them if `layers` is None.

    Raises:
        InputError: If the model has no router, or a number is not that of a routed layer.
    """
    blocks = {block.layer: block for block in routed_blocks(model)}
    if layers is None:
        return tuple(blocks.values())
    unknown = sorted(set(layers) - blocks.keys())
    if unknown or not layers:
        raise InputError(
            f"layers holds {unknown or 'nothing'}, but the routed layers are {list(blocks)}"
        )
    return tuple(blocks[layer] for layer in sorted(set(layers)))


def _hidden_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    hidden = args[0] if args else kwargs["hidden_states"]
    return cast(Tensor, hidden).detach()


def _rows(tensor: Tensor, rows: Tensor | None) -> Tensor:
    return tensor if rows is None else tensor.index_select(0, rows.to(tensor.device))
