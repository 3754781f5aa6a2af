"""The routed layers of a model, found by structure and checked against their family's spec."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from interp.cache.errors import InputError
from interp.hooks.spec import SPECS, UNSUPPORTED, ModelSpec

EDITS = "interp_edits_routing"
"""Mark on the hooks of `interp.hooks.router_hook`; its value says what they do."""
KNOWN_READS = frozenset[str]().union(*(spec.reads for spec in SPECS))


@dataclass(frozen=True)
class RoutedBlock:
    """The modules of one decoder layer that taps are put on."""

    layer: int
    """Number of the decoder layer in the model."""
    spec: ModelSpec
    """The family that the layer was found to belong to."""
    decoder: nn.Module
    moe: nn.Module
    router: nn.Module
    experts: nn.Module
    resid_mid: nn.Module
    """The module whose input is `resid_mid`."""

    @property
    def weight(self) -> Tensor:
        """Router weight, `[n_experts, d_model]`."""
        return self._tensor(self.spec.weight)

    @property
    def bias(self) -> Tensor | None:
        """Router bias, `[n_experts]`; None if the family has none."""
        return self._tensor(self.spec.bias) if self.spec.bias else None

    @property
    def correction_bias(self) -> Tensor | None:
        """What is added to the scores for the choice, `[n_experts]`; None if there is none."""
        name = self.spec.correction_bias
        return self._tensor(name).flatten() if name else None

    @property
    def top_k(self) -> int:
        """Experts chosen per token."""
        return int(self.setting("top_k"))

    @property
    def n_experts(self) -> int:
        """Experts in the layer."""
        return int(attribute(self.router, self.spec.weight).shape[0])

    @property
    def d_model(self) -> int:
        """Width of what the router reads."""
        return int(attribute(self.router, self.spec.weight).shape[1])

    @property
    def is_normalised(self) -> bool:
        """Whether expert weights are divided by their sum."""
        name = self.spec.normalised
        return name == "always" or (name != "never" and bool(self.setting(name)))

    @property
    def scale(self) -> float:
        """What expert weights are multiplied with at last."""
        return float(self.setting(self.spec.scaling)) if self.spec.scaling else 1.0

    @property
    def weights_sum_to_one(self) -> bool:
        """Whether the expert weights of a token sum to 1."""
        return self.is_normalised and self.scale == 1.0

    @property
    def experts_implementation(self) -> str:
        """Which of transformers' functions runs the experts, such as `grouped_mm`."""
        config = getattr(self.experts, "config", None)
        return str(getattr(config, "_experts_implementation", None) or "eager")

    @property
    def edits(self) -> tuple[Any, ...]:
        """The marks of the interventions that sit on the router through hooks."""
        hooks = self.router._forward_hooks.values()
        return tuple(getattr(hook, EDITS) for hook in hooks if hasattr(hook, EDITS))

    @property
    def is_edited(self) -> bool:
        """Whether an intervention on the router replaces, through a hook, what it returns."""
        return bool(self.edits)

    def setting(self, name: str) -> Any:
        """An attribute of the router that is no tensor, such as its `top_k`."""
        return attribute(self.router, name)

    def _tensor(self, name: str) -> Tensor:
        """A tensor of the router; from where accelerate keeps it, if the layer is offloaded."""
        owner, _, leaf = name.rpartition(".")
        module = self.router.get_submodule(owner)
        tensor: Tensor = getattr(module, leaf)
        if tensor.is_meta:
            tensor = getattr(module, "_hf_hook").weights_map[leaf]  # noqa: B009 - untyped
        return tensor


def routed_blocks(model: nn.Module) -> tuple[RoutedBlock, ...]:
    """The routed layers of `model`, in order; dense layers among them are left out.

    Raises:
        InputError: If the model has no routed layer of a family that `SPECS` describes, or its
            routed layers differ in family, number of experts or `top_k`.
    """
    fits = [spec for spec in SPECS if any(_blocks(model, spec))]
    if not fits:
        raise InputError(_refusal(model))
    model_type = getattr(getattr(model, "config", None), "model_type", "")
    spec = next((each for each in fits if each.family == model_type), fits[0])
    blocks = tuple(_blocks(model, spec))
    _check_alike(model, blocks)
    return blocks


def attribute(module: nn.Module | None, path: str) -> Any:
    """What lies at a dotted path in a module; None if nothing does."""
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _blocks(model: nn.Module, spec: ModelSpec) -> Iterator[RoutedBlock]:
    layers = attribute(model, spec.layers)
    for number, decoder in enumerate(layers.children() if layers is not None else ()):
        moe = attribute(decoder, spec.moe)
        router, experts = (attribute(moe, name) for name in (spec.router, spec.experts))
        is_routed = isinstance(router, nn.Module) and isinstance(experts, nn.Module)
        if is_routed and _fits(spec, decoder, moe):
            resid_mid = decoder.get_submodule(spec.resid_mid)
            yield RoutedBlock(number, spec, decoder, moe, router, experts, resid_mid)


def _fits(spec: ModelSpec, decoder: nn.Module, moe: nn.Module) -> bool:
    """Whether norms, block and router of a decoder layer are exactly those of the family.

    A tensor that no rule reads, in the router or beside it, is a sign of another rule.
    """
    router = moe.get_submodule(spec.router)
    norms = {name for name, _ in decoder.named_children() if name.endswith("layernorm")}
    unrouted = {name for name, _ in moe.named_children()} - {spec.router, spec.experts}
    reads = {name for name in KNOWN_READS if attribute(router, name) is not None}
    weight = attribute(router, spec.weight)
    is_matrix = isinstance(weight, Tensor) and weight.ndim == 2
    return (
        norms == set(spec.norms)
        and all(name.startswith("shared_") for name in unrouted)
        and not any(_tensors(moe, recurse=False))
        and set(_tensors(router)) == spec.tensors
        and reads == spec.reads
        and is_matrix
        and attribute(router, "top_k") is not None
    )


def _tensors(module: nn.Module, *, recurse: bool = True) -> Iterator[str]:
    """Names of the parameters and buffers of a module."""
    for tensors in (module.named_parameters, module.named_buffers):
        yield from (name for name, _ in tensors(recurse=recurse))


def _check_alike(model: nn.Module, blocks: tuple[RoutedBlock, ...]) -> None:
    d_model = getattr(getattr(model, "config", None), "hidden_size", blocks[0].d_model)
    for block in blocks:
        sizes = (block.n_experts, block.top_k, block.d_model)
        expected = (blocks[0].n_experts, blocks[0].top_k, d_model)
        if sizes != expected:
            raise InputError(
                f"layer {block.layer} of {type(model).__name__} has n_experts, top_k and d_model "
                f"{sizes}, expected {expected} as elsewhere in the model; models whose routed "
                "layers differ in size are not supported"
            )


def _refusal(model: nn.Module) -> str:
    """Why the model cannot be captured, in one sentence."""
    name = type(model).__name__
    model_type = getattr(getattr(model, "config", None), "model_type", "")
    families = ", ".join(spec.family for spec in SPECS)
    if model_type in UNSUPPORTED:
        return f"{name} is not supported: {UNSUPPORTED[model_type]}; supported are {families}"
    routers = [
        path
        for path, module in model.named_modules()
        if path.endswith(".router") or (path.endswith(".gate") and hasattr(module, "top_k"))
    ]
    if routers:
        return (
            f"{name} has a router at {routers[0]}, but its layers are built like those of none of "
            f"the supported families ({families}), so what it does is not known"
        )
    return (
        f"{name} has no router, so there is no expert routing to capture; give a "
        f"mixture-of-experts model of one of the families {families}"
    )
