"""The stages of a streamed capture: embedding, each layer, and log-probabilities at the end."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from interp.cache.errors import ModelError
from interp.cache.records import RESID_SITES, PromptActivations
from interp.hooks.agreement import least_agreement
from interp.hooks.batches import activations, padded, resid_array, row_starts, select_rows
from interp.hooks.blocks import RoutedBlock
from interp.hooks.layer_pass import LayerPass
from interp.hooks.layer_weights import LayerWeights
from interp.hooks.logprobs import last_hidden_state, token_logprobs
from interp.hooks.pass_records import PassRecords
from interp.hooks.self_check import experts_path
from interp.hooks.settings import CaptureSettings
from interp.hooks.stream_batches import StreamBatches
from interp.hooks.stream_scratch import Scratch, Stage
from interp.hooks.tap import RoutingTap, chosen_blocks

KEPT = ("expert_indices", "expert_weights", "router_logits", "expert_output_norms")
"""Of the records of a pass, what a store has of every token."""


class StreamedPasses:
    """The stages of a streamed capture: the embedding, each layer, and the unembedding if asked."""

    def __init__(
        self,
        weights: LayerWeights,
        batches: StreamBatches,
        settings: CaptureSettings,
        scratch: Scratch,
    ) -> None:
        self._weights, self._model = weights, weights.model
        self._batches, self._settings, self._scratch = batches, settings, scratch
        self._blocks = {block.layer: block for block in chosen_blocks(self._model, settings.layers)}
        self._n_layers = len(weights.layers)

    def run(self, *, progress: bool) -> None:
        """Do every stage that is not done yet."""
        n_stages = 1 + self._n_layers + self._settings.logprobs
        n_batches = len(self._batches.batches)
        with tqdm(
            total=n_stages * n_batches,
            initial=self._scratch.n_done * n_batches,
            desc="capture",
            unit="batch",
            disable=not progress,
        ) as bar:
            while self._scratch.n_done < n_stages:
                self._stage(bar)

    def _stage(self, bar: Any) -> None:
        number = self._scratch.n_done
        with self._scratch.stage() as stage:
            if number == 0:
                bar.set_postfix_str("embedding")
                self._embed(stage, bar)
            elif number <= self._n_layers:
                bar.set_postfix_str(f"layer {number - 1} of {self._n_layers}")
                self._layer(stage, number - 1, bar)
            else:
                bar.set_postfix_str("log-probabilities")
                self._logprobs(stage, bar)

    def _embed(self, stage: Stage, bar: Any) -> None:
        with self._weights.embedding(), self._passes(None) as passes:
            for batch in self._batches.batches:
                stage.write_stream(passes.embedded(padded(batch, self._model)))
                bar.update()

    def _layer(self, stage: Stage, number: int, bar: Any) -> None:
        block = self._blocks.get(number)
        with self._weights.layer(number), self._passes(number) as passes:
            if block is not None:
                self._recorded_layer(stage, block, passes, bar)
                return
            for batch in self._batches.batches:
                inputs = padded(batch, self._model)
                stage.write_stream(passes.run(self._stream(stage, inputs), inputs))
                bar.update()

    def _recorded_layer(
        self, stage: Stage, block: RoutedBlock, passes: LayerPass, bar: Any
    ) -> None:
        tap = RoutingTap(self._model, sites=self._settings.sites, layers=[block.layer])
        for index, batch in enumerate(self._batches.batches):
            inputs = padded(batch, self._model)
            given = self._stream(stage, inputs)
            bare = passes.run(given, inputs) if index == 0 else None
            self._select(tap, index)
            with tap:
                made = passes.run(given, inputs)
                keep_records(stage, tap.take())
            if bare is not None:
                expect_unchanged(block.layer, bare, made)
            stage.write_stream(made)
            bar.update()
        compared = tap.compared_layers
        stage.note = {"compared": list(compared), "path": experts_path([block], compared)}

    def _logprobs(self, stage: Stage, bar: Any) -> None:
        with (
            self._weights.unembedding(),
            self._passes(None) as passes,
            torch.inference_mode(),
        ):
            for batch in self._batches.batches:
                inputs = padded(batch, self._model)
                with last_hidden_state(self._model) as hidden:
                    logits = passes.logits(self._stream(stage, inputs), inputs)
                found = token_logprobs(
                    self._model,
                    hidden[0],
                    inputs["input_ids"],
                    starts=row_starts(batch),
                    lengths=[len(each.token_id) for each in batch],
                    last_logits=logits,
                )
                stage.keep("logprob", np.concatenate(found))
                bar.update()

    def _passes(self, number: int | None) -> LayerPass:
        return LayerPass(self._model, self._weights.layers, number)

    def _stream(self, stage: Stage, inputs: Mapping[str, Tensor]) -> Tensor:
        width = self._model.config.hidden_size
        return stage.read_stream((*inputs["input_ids"].shape, width), self._model.dtype)

    def _select(self, tap: RoutingTap, index: int) -> None:
        batch = self._batches.batches[index]
        lengths = [len(each.token_id) for each in batch]
        select_rows(tap, row_starts(batch), lengths, self._batches.kept_of(index))

    def self_check(self) -> dict[str, Any]:
        """What was checked, as `interp.hooks.self_check` says it.

        Raises:
            ModelError: If prompts route otherwise in a batch than alone.
        """
        notes = [note for note in self._scratch.notes if note]
        return {
            "sites": list(self._settings.sites),
            "layers": list(self._blocks),
            "layers_compared_with_router": [each for note in notes for each in note["compared"]],
            "layers_compared_with_output_router_logits": [],
            "output": "bit-identical with and without taps, layer by layer",
            "batched": self._batched(),
            "experts_path": sorted({each for note in notes for each in note["path"]}),
        }

    def _batched(self) -> dict[str, Any] | str:
        if self._batches.n_checks == 1:
            return "not compared: all prompts are of one length, so none was padded"
        pair = self._batches.batches[0]
        found = [self._recorded(place) for place in range(2 * len(pair))]
        return least_agreement(
            self._model,
            found[: len(pair)],
            found[len(pair) :],
            [slice(0, None)] * len(pair),
            "in a padded batch, and alone,",
        )

    def activations(self, index: int) -> PromptActivations:
        """What is stored of a prompt, by its place in the store."""
        return self._recorded(self._batches.place[index])

    def _recorded(self, place: int) -> PromptActivations:
        tokens, rows = self._batches.tokens(place), self._batches.rows(place)
        logprob = np.full(tokens.stop - tokens.start, np.nan, dtype=np.float32)
        if self._settings.logprobs:
            logprob = self._scratch.rows(self._n_layers + 1, "logprob", tokens)
        records = PassRecords(
            layer_indices=tuple(self._blocks),
            resid={
                (site, layer): self._resid(layer, site, rows)
                for layer in self._blocks
                for site in self._settings.sites
                if site in RESID_SITES
            },
            **{
                name: self._of_layers(name, tokens) for name in KEPT if name in self._settings.sites
            },
        )
        return activations(
            self._batches.prompts[place], records, self._batches.kept[place], logprob
        )

    def _of_layers(self, field: str, tokens: slice) -> Tensor:
        found = [self._scratch.rows(layer + 1, field, tokens) for layer in self._blocks]
        return torch.from_numpy(np.concatenate(found, axis=1))

    def _resid(self, layer: int, site: str, rows: slice) -> Tensor:
        found = torch.from_numpy(self._scratch.rows(layer + 1, site, rows).copy())
        return found.view(self._model.dtype) if found.dtype == torch.uint16 else found


def keep_records(stage: Stage, records: PassRecords) -> None:
    """Write what a tap saw of a batch in one layer."""
    for name in KEPT:
        rows: Tensor | None = getattr(records, name)
        if rows is not None:
            stage.keep(name, (rows.float() if rows.is_floating_point() else rows).numpy())
    for (site, _), resid in records.resid.items():
        stage.keep(site, resid_array(resid))


def expect_unchanged(layer: int, bare: Tensor, tapped: Tensor) -> None:
    """The tap changed no bit of what a layer makes.

    Raises:
        ModelError: If it did.
    """
    if not torch.equal(bare, tapped):
        difference = (bare.float() - tapped.float()).abs().max()
        raise ModelError(
            f"the taps change the output of layer {layer} by up to {difference:.3g}; leave out "
            "expert_output_norms, which needs to know how the experts are summed"
        )
