"""A model whose weights are there one decoder layer at a time.

Its modules are those of transformers, on the meta device; what a layer needs is put in before it
runs and taken out afterwards. Names and layouts of a checkpoint are turned into the model's by
transformers itself, so that any family loads as it does otherwise.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging

from interp.cache.errors import InputError
from interp.hooks.blocks import attribute, routed_blocks
from interp.hooks.checkpoint import EMBEDDING, UNEMBEDDING, Checkpoint
from interp.hooks.load import LoadedModel, check_names, loaded_facts
from interp.hooks.mxfp4 import unpacked


class LayerWeights:
    """Puts the weights of one layer after another into a model, and reads the next one meanwhile.

    A context manager, which ends the thread that reads.

    Args:
        name_or_path: A hub name or a directory with safetensors files.
        dtype: `auto` for the checkpoint's own, or a name such as `float32`.

    Raises:
        InputError: If it cannot be loaded, or has no routed layers.
    """

    def __init__(self, name_or_path: str | Path, *, dtype: str = "auto") -> None:
        name = str(name_or_path)
        check_names(name, dtype)
        self._checkpoint = Checkpoint(name)
        model, tokenizer = _empty(self._checkpoint, dtype)
        self.model = model
        self.loaded = LoadedModel(model, tokenizer, **loaded_facts(name, model))
        layers = attribute(model, routed_blocks(model)[0].spec.layers)
        self.layers: tuple[nn.Module, ...] = tuple(layers.children())
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._next: tuple[int, Future[dict[str, Tensor]]] | None = None
        large = self._checkpoint.around(EMBEDDING, UNEMBEDDING)
        self._put(set(self._checkpoint.around()) - set(large))

    def __enter__(self) -> "LayerWeights":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    @contextmanager
    def layer(self, number: int) -> Iterator[nn.Module]:
        """One decoder layer with its weights; the next one is read from disk in the body."""
        layer = self.layers[number]
        self._load(self._read(number))
        self._read_ahead(number + 1)
        self._refuse_missing(layer, f"layers.{number}.")
        try:
            yield layer
        finally:
            _empty_module(layer)

    @contextmanager
    def embedding(self) -> Iterator[None]:
        """The model with its embedding."""
        self._put(set(self._checkpoint.around(EMBEDDING)))
        module = self.model.get_input_embeddings()
        self._refuse_missing(module, EMBEDDING)
        self._read_ahead(0)
        try:
            yield
        finally:
            _empty_module(module)

    @contextmanager
    def unembedding(self) -> Iterator[None]:
        """The model with its unembedding, which may be the embedding."""
        names = self._checkpoint.around(UNEMBEDDING)
        self._put(set(names or self._checkpoint.around(EMBEDDING)))
        if not names:
            self.model.tie_weights()
        module = self.model.get_output_embeddings()
        self._refuse_missing(module, UNEMBEDDING)
        try:
            yield
        finally:
            _empty_module(module)
            _empty_module(self.model.get_input_embeddings())

    def _read_ahead(self, number: int) -> None:
        if number < len(self.layers):
            names = self._checkpoint.of_layer(number)
            self._next = number, self._pool.submit(self._checkpoint.read, names)

    def _read(self, number: int) -> dict[str, Tensor]:
        if self._next is not None and self._next[0] == number:
            future, self._next = self._next[1], None
            return future.result()
        return self._checkpoint.read(self._checkpoint.of_layer(number))

    def _put(self, names: set[str]) -> None:
        self._load(self._checkpoint.read(sorted(names)))

    def _load(self, tensors: dict[str, Tensor]) -> None:
        """Put stored tensors where they belong, converted as transformers does on loading."""
        model = self.model
        given = unpacked(tensors)
        tensors.clear()
        config = LoadStateDictConfig(
            dtype=model.dtype,
            dtype_plan=model._get_dtype_plan(model.dtype),
            weight_mapping=get_model_conversion_mapping(model),
        )
        with _quiet():
            type(model)._load_pretrained_model(model, given, None, config)

    def _refuse_missing(self, module: nn.Module, what: str) -> None:
        missing = [name for name, each in _tensors(module) if each.is_meta]
        if missing:
            raise InputError(
                f"{self._checkpoint.name} lacks {len(missing)} weights of {what}, such as "
                f"{missing[0]}; give a checkpoint that holds them all under their published names"
            )


def _empty(checkpoint: Checkpoint, dtype: str) -> tuple[Any, Any]:
    """The modules with their buffers and no weights, and the tokenizer."""
    name = checkpoint.name
    try:
        config = AutoConfig.from_pretrained(name)
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name} cannot be loaded as a model ({error}); give toy, a hub name or a directory"
        ) from error
    own = config.dtype or checkpoint.dtype()
    wanted = own if dtype == "auto" else getattr(torch, dtype)
    _unpacked_config(name, config)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=wanted)
    return model.eval(), tokenizer


def _unpacked_config(name: str, config: Any) -> None:
    """A config of the model as it is once its weights are unpacked.

    Raises:
        InputError: If they are packed in a way that is not known here.
    """
    packed = getattr(config, "quantization_config", None)
    if packed is None:
        return
    if packed["quant_method"] != "mxfp4":
        raise InputError(
            f"{name} is quantised by {packed['quant_method']}, expected none or mxfp4; capture it "
            "with the engine memory"
        )
    del config.quantization_config


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _empty_module(module: nn.Module) -> None:
    """Give back the memory of what a checkpoint can fill again."""
    for path in module.state_dict():
        parent, _, name = path.rpartition(".")
        owner = module.get_submodule(parent)
        held = getattr(owner, name)
        empty = torch.empty_like(held, device="meta")
        if name in owner._parameters:
            owner._parameters[name] = nn.Parameter(empty, requires_grad=False)
        else:
            owner._buffers[name] = empty


@contextmanager
def _quiet() -> Iterator[None]:
    """Without a bar of transformers for each layer."""
    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()
