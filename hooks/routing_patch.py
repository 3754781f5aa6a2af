"""Routing of one run put into another: on tokens they share, or of a prompt from a store."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from interp.cache.errors import InputError, ModelError
from interp.cache.reader import Store
from interp.hooks.interventions import Array, replay_routing
from interp.hooks.shared_tokens import SharedTokens


@runtime_checkable
class RecordedRouting(Protocol):
    """Routing of a run, such as `PassRecords` or what `Store.router()` gives."""

    @property
    def expert_indices(self) -> Any:
        """Experts chosen, `[tokens layers top_k]`."""
        ...

    @property
    def expert_weights(self) -> Any:
        """Their weights, `[tokens layers top_k]`."""
        ...

    @property
    def layer_indices(self) -> Any:
        """Numbers in the model of the layers along axis 1."""
        ...


@contextmanager
def patch_routing(
    model: nn.Module,
    records: RecordedRouting,
    shared: SharedTokens,
    *,
    layers: Sequence[int] | None = None,
    weights: bool = True,
    first_row: int = 0,
) -> Iterator[None]:
    """Route a run as another was routed, on the tokens that both share.

    For each pair of `shared`, the token of the second prompt goes in every layer to the experts to
    which the token of the first went; all other tokens route themselves. It is `replay_routing`
    with the rows of `shared`, and refuses and fails as that does.

    Args:
        model: A transformers model of one of the families in `interp.hooks.spec.SPECS`; it is to
            run the second prompt.
        records: Of the run of the first prompt alone, all its tokens.
        shared: From `find_shared_tokens`; its `first` are rows of `records`.
        layers: Numbers in the model of the layers to patch; all that were recorded if None.
        weights: Whether experts also get the weights that they had; else those that the family's
            rule gives them from the logits of the running pass.
        first_row: Row of the second prompt's first token in `(batch pos)` flattened, where it runs
            in a padded batch; see `interp.hooks.batches.row_starts`.

    Raises:
        InputError: If `records` holds no routing, fewer tokens than `shared` names, or not one of
            the layers, and as in `replay_routing`.
        ModelError: As in `replay_routing`.

    Example:
        >>> from interp import organisms
        >>> from interp.hooks import RoutingTap, find_shared_tokens
        >>> model, tokenizer = organisms.load("toy")
        >>> one, other = (tokenizer(text)["input_ids"] for text in ("two plus two", "is two two?"))
        >>> with RoutingTap(model) as tap:
        ...     _ = model(torch.tensor([one]))
        ...     records = tap.take()
        ...     shared = find_shared_tokens(np.array(one), np.array(other))
        ...     with patch_routing(model, records, shared):
        ...         _ = model(torch.tensor([other]))
        ...     patched = tap.take()
        >>> pairs = zip(shared.first, shared.second)
        >>> all(
        ...     torch.equal(records.expert_indices[a], patched.expert_indices[b]) for a, b in pairs
        ... )
        True
    """
    chosen, indices, given = _of_layers(records, layers)
    if shared.first.max() >= len(indices):
        raise InputError(
            f"shared names token {int(shared.first.max())} of the first prompt, but records holds "
            f"only {len(indices)} tokens (0 to {len(indices) - 1}); give the run of that prompt"
        )
    with replay_routing(
        model,
        expert_indices=indices[shared.first],
        expert_weights=given[shared.first] if weights else None,
        layers=chosen,
        rows=shared.second.astype(np.int64) + first_row,
    ):
        yield


@contextmanager
def replay_stored(
    model: nn.Module,
    store: Store,
    prompt: int,
    *,
    layers: Sequence[int] | None = None,
    weights: bool = True,
    first_row: int | None = None,
) -> Iterator[None]:
    """Send the tokens of a stored prompt where they went when it was recorded.

    It is `replay_routing` of what the store holds of the prompt, and looks in every pass whether
    the tokens are those of the prompt. Weights that were stored as float16 are not the bits that
    were run.

    Args:
        model: A transformers model of one of the families in `interp.hooks.spec.SPECS`.
        store: From `interp.cache.reader.open_store`.
        prompt: Row of `store.prompts`.
        layers: Numbers in the model of the layers to replay; all that were stored if None.
        weights: As in `patch_routing`.
        first_row: Row of the prompt's first token in `(batch pos)` flattened, where it runs in a
            padded batch; all other rows route themselves. If None, each pass must have exactly the
            tokens of the prompt.

    Raises:
        InputError: If the token ids of the store are not those of a model, it has no such prompt
            or layer, and as in `replay_routing`.
        ModelError: In a pass, if it has other tokens than the prompt or is given no `input_ids`,
            and as in `replay_routing`.
    """
    if store.layout.vocab_local:
        raise InputError(
            f"{store.path} has token ids of its own, so that nothing says which tokens of a model "
            "they are; capture the prompts again, or use replay_routing"
        )
    if not 0 <= prompt < len(store.prompts):
        raise InputError(f"prompt is {prompt}, but the store holds {len(store.prompts)} prompts")
    ids = torch.from_numpy(store.token_id[store.prompt_index == prompt].astype(np.int64))
    routing = store.router(prompts=np.array([prompt]))
    chosen, indices, given = _of_layers(routing, layers)
    rows = None if first_row is None else np.arange(len(ids)) + first_row
    handle = model.register_forward_pre_hook(_check_ids(ids, rows), with_kwargs=True)
    try:
        with replay_routing(
            model,
            expert_indices=indices,
            expert_weights=given if weights else None,
            layers=chosen,
            rows=rows,
        ):
            yield
    finally:
        handle.remove()


def _of_layers(
    records: RecordedRouting, layers: Sequence[int] | None
) -> tuple[list[int], Array, Array]:
    """Numbers, expert indices and weights of the layers that are wanted."""
    if records.expert_indices is None or records.expert_weights is None:
        raise InputError(
            "records holds no expert_indices or no expert_weights; record both sites of the run"
        )
    held = [int(each) for each in records.layer_indices]
    chosen = held if layers is None else list(layers)
    unknown = sorted(set(chosen) - set(held))
    if unknown or not chosen:
        raise InputError(f"layers holds {unknown or 'nothing'}, but recorded were {held}")
    columns = [held.index(each) for each in chosen]
    return chosen, records.expert_indices[:, columns], records.expert_weights[:, columns]


def _check_ids(ids: Tensor, rows: np.ndarray | None) -> Any:
    """A hook on the model that refuses a pass with other tokens at these rows."""

    def check(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs.get("input_ids")
        if given is None:
            raise ModelError(
                "the model was given no input_ids, so that nothing says whether the tokens are "
                "those of the stored prompt; pass input_ids"
            )
        flat = given.flatten().cpu()
        run = flat if rows is None else flat[rows[rows < len(flat)]]
        if not torch.equal(run.long(), ids):
            raise ModelError(
                f"the pass has other tokens than the stored prompt, which has {len(ids)}; pass its "
                "tokens, alone or at first_row of a padded batch"
            )

    return check
