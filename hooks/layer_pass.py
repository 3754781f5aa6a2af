"""A batch goes through one decoder layer, with all that the model makes around its layers."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

Stream = Float[Tensor, "batch pos d_model"]


class LayerPass:
    """Passes of a model in which all decoder layers but one hand on what they are given.

    Masks, position embeddings and everything else that a layer is called with are the model's own,
    whatever its family. A context manager; the model is as before afterwards.

    Args:
        model: Its modules; only those that a pass calls need weights.
        layers: All of its decoder layers, in order.
        number: The layer that runs; none if None.
    """

    def __init__(self, model: Any, layers: Sequence[nn.Module], number: int | None) -> None:
        self._model, self._layers, self._number = model, layers, number
        self._given: Tensor | None = None
        self._result: Tensor | None = None
        self._hooks: list[Any] = []

    def __enter__(self) -> "LayerPass":
        for number, layer in enumerate(self._layers):
            if number != self._number:
                vars(layer)["forward"] = _hand_on
        first, last = self._layers[0], self._layers[-1]
        self._hooks = [
            first.register_forward_pre_hook(self._replace, with_kwargs=True, prepend=True),
            last.register_forward_hook(self._keep),
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        for number, layer in enumerate(self._layers):
            if number != self._number:
                del vars(layer)["forward"]

    def embedded(self, inputs: Mapping[str, Tensor]) -> Stream:
        """What the first layer is given of token ids."""
        self._given = None
        with torch.inference_mode():
            self._model.base_model(**inputs, use_cache=False)
        assert self._result is not None
        return self._result

    def run(self, stream: Stream, inputs: Mapping[str, Tensor]) -> Stream:
        """What the layer makes of the residual stream that it is given."""
        with torch.inference_mode():
            self._model.base_model(**self._instead(stream, inputs), use_cache=False)
        assert self._result is not None
        return self._result

    def logits(
        self, stream: Stream, inputs: Mapping[str, Tensor]
    ) -> Float[Tensor, "batch 1 vocab"]:
        """What the model's unembedding makes of the last position of the residual stream."""
        with torch.inference_mode():
            given = self._instead(stream, inputs)
            return cast(Tensor, self._model(**given, use_cache=False, logits_to_keep=1).logits)

    def _instead(self, stream: Tensor, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The stream in the place of embeddings, which are put there again behind any scaling."""
        self._given = stream
        others = {name: each for name, each in inputs.items() if name != "input_ids"}
        return {"inputs_embeds": stream} | others

    def _replace(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._given is None:
            return None
        if args:
            return (self._given, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": self._given}

    def _keep(self, _: Any, __: Any, output: Tensor | tuple[Tensor, ...]) -> None:
        self._result = output if isinstance(output, Tensor) else output[0]


def _hand_on(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states
