"""Where a family of models keeps router, experts and norms; found by structure, never by name."""

from dataclasses import dataclass

import torch
from torch import nn

from interp.cache.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Names of the modules of one family, from the model downwards."""

    family: str
    """Name of the family, as transformers calls it."""
    layers: str
    """Path of the list of decoder layers."""
    moe: str
    """The routed block within a decoder layer."""
    router: str
    """The router within the routed block; has `weight`, `bias` and `top_k`."""
    resid_mid_norm: str
    """The norm within a decoder layer whose *input* is `resid_mid`."""


GPT_OSS = ModelSpec(
    family="gpt_oss",
    layers="model.layers",
    moe="mlp",
    router="router",
    resid_mid_norm="post_attention_layernorm",
)


@dataclass(frozen=True)
class RoutedBlock:
    """The modules of one decoder layer that taps are put on."""

    layer: int
    """Number of the decoder layer in the model."""
    decoder: nn.Module
    moe: nn.Module
    router: nn.Module
    resid_mid_norm: nn.Module

    @property
    def weight(self) -> torch.Tensor:
        """Router weight, `[n_experts, d_model]`."""
        return self._held("weight")

    @property
    def bias(self) -> torch.Tensor:
        """Router bias, `[n_experts]`."""
        return self._held("bias")

    @property
    def top_k(self) -> int:
        """Experts chosen per token."""
        return int(getattr(self.router, "top_k"))  # noqa: B009 - a module attribute is untyped

    @property
    def n_experts(self) -> int:
        """Experts in the layer."""
        return int(self.router.get_parameter("weight").shape[0])

    def _held(self, name: str) -> torch.Tensor:
        """A parameter of the router; from where accelerate keeps it, if the layer is offloaded."""
        parameter = self.router.get_parameter(name)
        if not parameter.is_meta:
            return parameter
        held: torch.Tensor = getattr(self.router, "_hf_hook").weights_map[name]  # noqa: B009
        return held


def routed_blocks(model: nn.Module, spec: ModelSpec = GPT_OSS) -> tuple[RoutedBlock, ...]:
    """The routed layers of `model`, in order.

    Raises:
        InputError: If the model has no routed layer where `spec` says.
    """
    try:
        layers = model.get_submodule(spec.layers)
    except AttributeError as error:
        raise InputError(_no_router(model, spec)) from error
    blocks = tuple(_blocks(layers, spec))
    if not blocks:
        raise InputError(_no_router(model, spec))
    return blocks


def _blocks(layers: nn.Module, spec: ModelSpec) -> list[RoutedBlock]:
    found = []
    for number, decoder in enumerate(layers.children()):
        try:
            moe = decoder.get_submodule(spec.moe)
            router = moe.get_submodule(spec.router)
            norm = decoder.get_submodule(spec.resid_mid_norm)
        except AttributeError:
            continue
        parameters = dict(router.named_parameters(recurse=False))
        if hasattr(router, "top_k") and {"weight", "bias"} <= parameters.keys():
            found.append(RoutedBlock(number, decoder, moe, router, norm))
    return found


def _no_router(model: nn.Module, spec: ModelSpec) -> str:
    return (
        f"{type(model).__name__} has no router with weight, bias and top_k at "
        f"{spec.layers}.*.{spec.moe}.{spec.router}, so there is no expert routing to capture; "
        "give a mixture-of-experts model of the gpt-oss family"
    )
