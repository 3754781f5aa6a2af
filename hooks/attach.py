"""Hooks that read one module and no copy of it, and the models that no hook can be put on."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from interp.cache.errors import InputError

Arguments = Callable[[tuple[Any, ...], dict[str, Any]], None]
"""What reads the arguments of a call, by position and by name."""


def before(module: nn.Module, read: Arguments) -> RemovableHandle:
    """Call `read` with the arguments of every call of `module`."""

    def hook(called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if _is_same(called, module):
            read(args, kwargs)

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def after(module: nn.Module, read: Callable[[Any], None]) -> RemovableHandle:
    """Call `read` with what every call of `module` returns."""

    def hook(called: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if _is_same(called, module):
            read(output)

    return module.register_forward_hook(hook)


def refuse_compiled(model: nn.Module) -> None:
    """A compiled module runs without the hooks that it gets later, and says nothing.

    Raises:
        InputError: If the model or a part of it was compiled.
    """
    for path, module in model.named_modules():
        if _is_compiled(module):
            raise InputError(
                f"{path or type(model).__name__} was compiled by torch.compile, which runs it "
                "without the hooks that routing is read and changed by; give the model uncompiled"
            )


def is_compiled(model: nn.Module) -> bool:
    """Whether the model or a part of it was compiled."""
    return any(map(_is_compiled, model.modules()))


def _is_compiled(module: nn.Module) -> bool:
    """In any of the three ways: `torch.compile(module)`, `module.compile()`, or its forward."""
    is_forward = hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")
    return is_forward or "_orig_mod" in module._modules or module._compiled_call_impl is not None


def _is_same(called: nn.Module, module: nn.Module) -> bool:
    """Whether this is the module itself, or a shallow copy that shares its hooks.

    `copy.deepcopy` copies the hooks as well, and its copies must not pass for the original.
    """
    return called._forward_hooks is module._forward_hooks
