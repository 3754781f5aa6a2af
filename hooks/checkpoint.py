"""The weights of a model's safetensors files, read group by group and never all at once."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from interp.cache.errors import InputError

INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
EMBEDDING, UNEMBEDDING = "embed_tokens.weight", "lm_head.weight"
"""Ends of the names of the two largest tensors around the layers."""

TORCH_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
"""Of floating point, by their names in safetensors."""


class Checkpoint:
    """Which tensors a model's safetensors files hold, and what is in them.

    Args:
        name_or_path: A hub name or a directory.

    Raises:
        InputError: If there is no safetensors file, or one cannot be read.
    """

    def __init__(self, name_or_path: str | Path) -> None:
        self.name = str(name_or_path)
        self._files = {name: file for file in self._paths() for name in self._names_in(file)}

    def of_layer(self, number: int) -> tuple[str, ...]:
        """Names of the tensors of one decoder layer."""
        found = {name: LAYER.search(name) for name in self._files}
        return tuple(name for name, at in found.items() if at and int(at[1]) == number)

    def around(self, *ends: str) -> tuple[str, ...]:
        """Names of the tensors outside of the layers; with `ends`, of those that end so."""
        outside = (name for name in self._files if not LAYER.search(name))
        return tuple(name for name in outside if not ends or name.endswith(ends))

    def dtype(self) -> torch.dtype:
        """Of the first tensor of floating point in the first file, as transformers takes it."""
        first = next(iter(self._files.values()))
        with self._opened(first) as file:
            for name in file.keys():  # noqa: SIM118 - no dictionary
                found = TORCH_DTYPES.get(file.get_slice(name).get_dtype())
                if found is not None:
                    return found
        return torch.float32

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Some tensors as they are stored, in memory of their own.

        Raises:
            InputError: If a file is damaged.
        """
        return {name: self._read(name) for name in names}

    def _read(self, name: str) -> Tensor:
        # Opened anew each time, so that pages of the file do not stay mapped.
        with self._opened(self._files[name]) as file:
            tensor: Tensor = file.get_tensor(name).clone()
        return tensor

    def _paths(self) -> list[Path]:
        index = self._fetched(INDEX)
        if index is not None:
            files, _ = get_checkpoint_shard_files(self.name, str(index))
            return [Path(file) for file in files]
        whole = self._fetched(WHOLE)
        if whole is None:
            raise InputError(
                f"{self.name} has no safetensors files, which a model is streamed from; save it "
                "with save_pretrained of transformers, or capture with the engine memory"
            )
        return [whole]

    def _fetched(self, file: str) -> Path | None:
        found = cached_file(self.name, file, _raise_exceptions_for_missing_entries=False)
        return None if found is None else Path(found)

    def _names_in(self, path: Path) -> list[str]:
        with self._opened(path) as file:
            return list(file.keys())

    @contextmanager
    def _opened(self, path: Path) -> Iterator[Any]:
        try:
            with safe_open(path, framework="pt") as file:
                yield file
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path} cannot be read as safetensors ({error}); download it again"
            ) from error
