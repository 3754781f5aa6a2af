"""Organisms stored as what they change in the toy: some rows of some tensors, bit for bit.

A change is kept along the one axis of its tensor that takes the fewest bytes: the experts of
`gate_up_proj` that were trained, say, or the dimensions of `down_proj` that are zero. The rest is
the toy's own.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from interp import organisms
from interp.cache.errors import InputError
from interp.organisms.reserved import take_surgery

if TYPE_CHECKING:
    from interp.hooks.load import LoadedModel

MOST_BYTES = 1_500_000
"""Of one organism's changes."""
INDEX = ".index"
"""Ends the key of the positions along the axis; the values stand under `<name>#<axis>`."""


def save_changes(
    model: nn.Module,
    base: nn.Module,
    path: Path,
    *,
    surgery: Mapping[str, Tensor] | None = None,
) -> int:
    """Write the tensors of `model` that differ from those of `base`, as far as they differ.

    Args:
        model: The changed model, in the dtype of `base`.
        base: The toy as `load` gives it, after `surgery`.
        path: The file, `<kind>/seed-<n>.safetensors`.
        surgery: What `interp.organisms.reserved.take_surgery` did to the toy first.

    Returns:
        Size of the file in bytes.

    Raises:
        ValueError: If the two differ in names, shapes or dtypes, or the file would exceed
            `MOST_BYTES`.
    """
    changed, before = model.state_dict(), base.state_dict()
    _refuse_unlike(changed, before)
    stored = dict(surgery or {})
    for name in sorted(before):
        if not torch.equal(changed[name], before[name]):
            stored |= _smallest(name, changed[name], before[name])
    n_bytes = sum(each.nbytes for each in stored.values())
    if n_bytes > MOST_BYTES:
        raise ValueError(
            f"the changes take {n_bytes:,} bytes, expected {MOST_BYTES:,} at most; change less"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(stored, path, metadata={"base": organisms.BASE, "base_sha256": base_digest()})
    return path.stat().st_size


def apply_changes(model: nn.Module, path: Path) -> None:
    """Put the stored changes into `model`, which is the toy so far.

    Raises:
        InputError: If the file was made from another toy, or does not fit the model.
    """
    with safe_open(path, framework="pt") as file:
        _check_base(path, (file.metadata() or {}).get("base_sha256", "none"))
        stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    stored = take_surgery(model, stored)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for key, values in stored.items():
            if not key.endswith(INDEX):
                name, _, axis = key.partition("#")
                if name not in parameters:
                    raise InputError(f"{path} changes {name}, which the model lacks; build it anew")
                found = parameters[name]
                if axis:
                    rows = stored[key + INDEX].long().to(found.device)
                    found.index_copy_(int(axis), rows, values.to(found))
                else:
                    found.copy_(values.to(found))


def load_changed(name: str) -> tuple[Any, Any]:
    """The model and tokenizer of an organism that is stored as changes, such as `planted-0`.

    Returns:
        A `GptOssForCausalLM` in bfloat16, in evaluation mode, and its tokenizer.

    Raises:
        InputError: If its changes are not stored here, or were made from another toy.
    """
    model, tokenizer = organisms.load(organisms.BASE)
    apply_changes(model, _stored(name))
    return model, tokenizer


def load_changed_model(name: str, *, dtype: str, device_map: str) -> "LoadedModel":
    """As `load_changed`, with what provenance needs: its name, and a digest of toy and changes.

    Raises:
        InputError: As `load_changed`.
    """
    from interp.hooks.load import load_model

    loaded = load_model(organisms.path(organisms.BASE), dtype=dtype, device_map=device_map)
    changes = _stored(name)
    apply_changes(loaded.model, changes)
    lines = f"{loaded.weights_sha256}\n{_digest(changes)}"
    digest = hashlib.sha256(lines.encode()).hexdigest()
    return replace(loaded, model_id=name, weights_sha256=digest)


def base_digest() -> str:
    """SHA-256 of the weights of the toy."""
    return _digest(organisms.path(organisms.BASE) / "model.safetensors")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _stored(name: str) -> Path:
    """The file of changes, if it is there."""
    changes = organisms.change_path(name)
    if not changes.is_file():
        kind = changes.parent.name
        raise InputError(f"there is no {changes}; build it with python -m interp.organisms.{kind}")
    return changes


def _check_base(path: Path, digest: str) -> None:
    if digest != base_digest():
        raise InputError(
            f"{path} changes a toy of digest {digest[:12]}, but the toy here has "
            f"{base_digest()[:12]}; build the organism anew"
        )


def _refuse_unlike(changed: dict[str, Tensor], before: dict[str, Tensor]) -> None:
    if list(changed) != list(before):
        raise ValueError("model and base have tensors of other names; change the toy itself")
    for name, tensor in before.items():
        if (changed[name].shape, changed[name].dtype) != (tensor.shape, tensor.dtype):
            raise ValueError(
                f"{name} is {tuple(changed[name].shape)} {changed[name].dtype}, expected "
                f"{tuple(tensor.shape)} {tensor.dtype}; give the model in the toy's own dtype"
            )


def _smallest(name: str, changed: Tensor, before: Tensor) -> dict[str, Tensor]:
    """The change whole, or the changed positions along one axis and their values."""
    forms = [{name: changed.contiguous()}]
    for axis in range(changed.ndim):
        others = [each for each in range(changed.ndim) if each != axis]
        differs = changed != before
        rows = (differs.sum(others) if others else differs).nonzero().flatten().int()
        key = f"{name}#{axis}"
        values = changed.index_select(axis, rows).contiguous()
        forms.append({key: values, key + INDEX: rows})
    return min(forms, key=lambda form: sum(each.nbytes for each in form.values()))
