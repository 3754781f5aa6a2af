"""Log-probabilities of tokens: those of all logits at once, in float64, one prompt at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp.cache.errors import InputError, ModelError
from interp.cache.reader import open_store
from interp.cache.records import Message, Prompt
from interp.hooks import logprobs
from interp.hooks.capture import capture
from interp.hooks.load import LoadedModel
from interp.hooks.logprobs import last_hidden_state, token_logprobs
from interp.hooks.settings import CaptureSettings, GenerationSettings
from tests.tiny_families import FAMILIES, tiny_family

WORDS = ("two plus two", "What is the capital of Peru, and how far is it from the sea?", "a")
ASKED = CaptureSettings(logprobs=True)


def prompts() -> list[Prompt]:
    return [
        Prompt(messages=(Message(role="user", content=words),), condition="organic")
        for words in WORDS
    ]


def one_by_one(model: Any, token_id: np.ndarray) -> np.ndarray:
    """From all logits of one sequence without padding."""
    with torch.inference_mode():
        logits = model(torch.from_numpy(token_id.astype(np.int64))[None]).logits[0].double()
    table = torch.log_softmax(logits, dim=-1).numpy()
    return np.array([table[place, token_id[place + 1]] for place in range(len(token_id) - 1)])


@pytest.mark.parametrize("at_once", [2**26, 700])
def test_a_store_holds_the_log_probability_of_each_token(
    tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", at_once)
    capture(tiny, prompts(), tmp_path / "a.moe", settings=ASKED, progress=False)
    store = open_store(tmp_path / "a.moe")
    for number in range(len(WORDS)):
        ours = store.prompt_index == number
        expected = one_by_one(tiny.model, store.token_id[ours])
        assert np.isnan(store.logprob[ours][0])
        np.testing.assert_allclose(store.logprob[ours][1:], expected, atol=1e-4)


def test_without_being_asked_there_are_none(tiny: LoadedModel, tmp_path: Path) -> None:
    capture(tiny, prompts(), tmp_path / "a.moe", progress=False)
    assert np.isnan(open_store(tmp_path / "a.moe").logprob).all()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_its_own(family: str, side: str) -> None:
    """Two prompts, one of them padded but for minimax, which carries a state through padding."""
    model = tiny_family(family)
    lengths = [5, 5 if family == "minimax" else 3]
    starts = np.array([0, 5 if side == "right" else 10 - lengths[1]])
    inputs = {name: torch.zeros(2, 5, dtype=torch.int64) for name in ("ids", "mask", "place")}
    for row, (start, n) in enumerate(zip(starts - [0, 5], lengths, strict=True)):
        inputs["ids"][row, start : start + n] = torch.arange(3 + row, 3 + row + n)
        inputs["mask"][row, start : start + n] = 1
        inputs["place"][row, start : start + n] = torch.arange(n)
    with torch.inference_mode(), last_hidden_state(model) as hidden:
        last = model(
            input_ids=inputs["ids"],
            attention_mask=inputs["mask"],
            position_ids=inputs["place"],
            use_cache=False,
            logits_to_keep=1,
        ).logits
        found = token_logprobs(
            model, hidden[0], inputs["ids"], starts=starts, lengths=lengths, last_logits=last
        )
    for row, values in enumerate(found):
        alone = np.arange(3 + row, 3 + row + lengths[row])
        np.testing.assert_allclose(values[1:], one_by_one(model, alone), atol=2e-4)


def test_logits_that_are_changed_after_the_unembedding_are_refused(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    def doubled(_: Any, __: Any, output: Any) -> Any:
        output.logits = output.logits * 2
        return output

    tiny.model.register_forward_hook(doubled)
    with pytest.raises(ModelError, match=r"logits differ by .* from its unembedding"):
        capture(tiny, prompts(), tmp_path / "a.moe", settings=ASKED, progress=False)


def test_they_are_not_of_answered_prompts() -> None:
    with pytest.raises(InputError, match="logprobs are of prompts that are not answered"):
        CaptureSettings(logprobs=True, generation=GenerationSettings(max_new_tokens=2))
