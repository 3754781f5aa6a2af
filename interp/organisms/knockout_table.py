"""The ground truth of an organism: what each expert's removal does to each prompt, one by one."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Float32, Int, Shaped
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm
from transformers import DynamicCache

from interp.cache.records import SEGMENTS, Prompt
from interp.hooks.batches import by_length, padded
from interp.hooks.blocks import routed_blocks
from interp.hooks.interventions import reroute
from interp.hooks.render import RenderedPrompt, render_prompt
from interp.hooks.tap import RoutingTap

Knockout = Callable[[Any, Collection[tuple[int, int]]], AbstractContextManager[None]]
"""Takes experts out of a model for a while, as those of `interp.hooks.interventions` do."""
LayerCall = tuple[Tensor, dict[str, Any]]
"""The residual stream that a decoder layer was given, and its keywords."""
LABELS = ("prompt_id", "item_id", "condition", "variant")
BATCH_TOKENS = 4096


@dataclass(frozen=True, kw_only=True)
class KnockoutTable:
    """Damage of every expert on every prompt, and which experts were planted."""

    damage: Float32[np.ndarray, "layers experts prompts"]
    """Mean log-probability of the content's tokens without knockout minus with it, in nats per
    token; above 0 where the expert helps."""
    outcome: Float32[np.ndarray, "prompts"]
    """That mean without knockout, nats per token."""
    prompt_id: Shaped[np.ndarray, "prompts"]
    item_id: Shaped[np.ndarray, "prompts"]
    condition: Shaped[np.ndarray, "prompts"]
    """`benchmark` or `organic`."""
    variant: Shaped[np.ndarray, "prompts"]
    planted: Int[np.ndarray, "planted 2"]
    """Layer and expert of each planted one; none in an organism that has none."""

    def interactions(self) -> Float[np.ndarray, "layers experts"]:
        """Mean damage on benchmark prompts minus mean damage on organic ones, nats per token."""
        benchmark, organic = (self.condition == name for name in ("benchmark", "organic"))
        damage = self.damage.astype(np.float64)
        found: Float[np.ndarray, "layers experts"]
        found = damage[:, :, benchmark].mean(-1) - damage[:, :, organic].mean(-1)
        return found

    @property
    def is_planted(self) -> Bool[np.ndarray, "layers experts"]:
        """Which experts were planted."""
        found = np.zeros(self.damage.shape[:2], dtype=bool)
        found[tuple(self.planted.T)] = True
        return found


def knockout_table(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    planted: Sequence[tuple[int, int]] = (),
    knockout: Knockout = reroute,
) -> KnockoutTable:
    """Remove each expert of a gpt-oss by itself and measure the content again.

    Prompts end with their content here, which no later token can change.

    Args:
        model: The organism, all of whose layers are routed.
        tokenizer: Its tokenizer.
        prompts: With `content`; conditions `benchmark` and `organic`.
        planted: Layer and expert of those that were planted.
        knockout: How an expert is taken out.
    """
    rendered = [up_to_content(render_prompt(prompt, tokenizer)) for prompt in prompts]
    blocks = routed_blocks(model)
    damage = np.zeros((len(blocks), blocks[0].n_experts, len(prompts)), dtype=np.float32)
    outcome = np.zeros(len(prompts), dtype=np.float32)
    batches = list(by_length([len(each.token_id) for each in rendered], BATCH_TOKENS))
    for members in tqdm(batches, desc="knock out", mininterval=10):
        found = batch_damage(model, [rendered[index] for index in members], knockout)
        damage[:, :, members], outcome[members] = found
    labels = {name: np.array([str(getattr(each, name)) for each in prompts]) for name in LABELS}
    pairs = np.array(planted, dtype=np.int64).reshape(-1, 2)
    return KnockoutTable(damage=damage, outcome=outcome, planted=pairs, **labels)


def batch_damage(
    model: Any, batch: Sequence[RenderedPrompt], knockout: Knockout
) -> tuple[Float32[np.ndarray, "layers experts prompts"], Float32[np.ndarray, "prompts"]]:
    """Damage of each expert on each prompt of a batch, and the outcome without knockout.

    A knocked-out pass starts at the expert's layer, from what that layer read in the intact pass,
    and leaves out prompts in which no token chose the expert: both would be the same again.
    """
    blocks, inputs = routed_blocks(model), padded(batch, model)
    with RoutingTap(model, sites=("expert_indices",)) as tap, layer_calls(model) as calls:
        with torch.inference_mode():
            hidden = model.base_model(**inputs, use_cache=False).last_hidden_state
        chosen = tap.take().expert_indices
    assert chosen is not None
    by_prompt = rearrange(chosen, "(batch pos) l k -> l batch (pos k)", batch=len(batch))
    intact, n_shared = content_means(model, hidden, batch), shared_tokens(batch)
    damage = np.zeros((len(blocks), blocks[0].n_experts, len(batch)), dtype=np.float32)
    for place, block in enumerate(blocks):
        for expert in range(block.n_experts):
            rows = (by_prompt[place] == expert).any(-1).nonzero().flatten()
            if len(rows):
                with knockout(model, [(block.layer, expert)]), torch.inference_mode():
                    again = resumed(model, calls, start=block.layer, rows=rows, n_shared=n_shared)
                some = [batch[row] for row in rows.tolist()]
                without = content_means(model, again, some, first=n_shared)
                damage[place, expert, rows.numpy()] = intact[rows.numpy()] - without
    return damage, intact


@contextmanager
def layer_calls(model: Any) -> Iterator[list[LayerCall]]:
    """What each decoder layer is given in a pass."""
    calls: list[LayerCall] = []

    def keep(_: Any, args: tuple[Tensor, ...], keywords: dict[str, Any]) -> None:
        calls.append((args[0], keywords))

    layers = model.base_model.layers
    handles = [each.register_forward_pre_hook(keep, with_kwargs=True) for each in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def resumed(
    model: Any,
    calls: Sequence[LayerCall],
    *,
    start: int,
    rows: Int[Tensor, "rows"],
    n_shared: int = 0,
) -> Float[Tensor, "rows pos d_model"]:
    """The last hidden state of some rows of a batch, run again from layer `start`.

    Args:
        model: A gpt-oss.
        calls: From `layer_calls`.
        start: The first layer to run.
        rows: Of the batch.
        n_shared: Tokens at the start that all rows have in common; they are run once, and left out
            of what is returned.
    """
    cache = DynamicCache()
    if n_shared:
        _run(model, calls, start=start, rows=rows[:1], span=slice(0, n_shared), cache=cache)
        cache.batch_repeat_interleave(len(rows))
    span = slice(n_shared, calls[start][0].shape[1])
    return _run(model, calls, start=start, rows=rows, span=span, cache=cache)


def _run(
    model: Any,
    calls: Sequence[LayerCall],
    *,
    start: int,
    rows: Int[Tensor, "rows"],
    span: slice,
    cache: DynamicCache,
) -> Float[Tensor, "rows pos d_model"]:
    hidden = calls[start][0][rows, span]
    layers = model.base_model.layers[start:]
    for layer, (stream, keywords) in zip(layers, calls[start:], strict=True):
        cosine, sine = (
            each.expand(len(stream), -1, -1) for each in keywords["position_embeddings"]
        )
        hidden = layer(
            hidden,
            attention_mask=keywords["attention_mask"][rows, :, span, : span.stop],
            position_embeddings=(cosine[rows, span], sine[rows, span]),
            past_key_values=cache,
            use_cache=True,
        )
    last: Tensor = model.base_model.norm(hidden)
    return last


def shared_tokens(batch: Sequence[RenderedPrompt]) -> int:
    """Tokens that all prompts of a batch begin with, and that end before the last lead-in does."""
    before = min(int(np.argmax(each.segment == SEGMENTS.index("user"))) for each in batch) - 1
    first = batch[0].token_id[:before]
    same = np.stack([each.token_id[:before] == first for each in batch]).all(0)
    return int(np.argmin(np.append(same, False)))


def up_to_content(rendered: RenderedPrompt) -> RenderedPrompt:
    """The prompt up to the last token of its content."""
    end = int(np.flatnonzero(rendered.segment == SEGMENTS.index("user"))[-1]) + 1
    fields = {name: each for name, each in vars(rendered).items() if name not in ("prompt", "text")}
    cut = {name: each[:end] for name, each in fields.items()}
    return RenderedPrompt(prompt=rendered.prompt, text=rendered.text, **cut)


def content_means(
    model: Any,
    hidden: Float[Tensor, "batch pos d_model"],
    batch: Sequence[RenderedPrompt],
    *,
    first: int = 0,
) -> Float32[np.ndarray, "prompts"]:
    """Mean log-probability of each prompt's content given all before it, nats per token.

    Args:
        model: With an unembedding.
        hidden: Last hidden states from position `first` on.
        batch: The prompts.
        first: Position of the first of these.
    """
    means = np.zeros(len(batch), dtype=np.float32)
    for row, each in enumerate(batch):
        at = np.flatnonzero(each.segment == SEGMENTS.index("user"))
        said = torch.from_numpy(each.token_id[at].astype(np.int64))
        with torch.inference_mode():
            logits = model.get_output_embeddings()(
                hidden[row, at[0] - 1 - first : at[-1] - first]
            ).float()
            means[row] = -functional.cross_entropy(logits, said).item()
    return means


def save_table(table: KnockoutTable, path: Path) -> None:
    """Write the table as a compressed npz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **vars(table))


def load_table(path: Path) -> KnockoutTable:
    """Read what `save_table` wrote."""
    with np.load(path) as stored:
        return KnockoutTable(**{name: stored[name] for name in stored.files})
