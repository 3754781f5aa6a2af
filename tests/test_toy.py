"""The toy: the real architecture, trained, within its size, and as good as its card says."""

import json
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp import organisms
from interp.organisms.corpus import Document, python_files
from interp.organisms.evaluate import (
    bigram_loss,
    layer_load,
    model_loss,
    tokens_of,
    unigram_loss,
    word_runs,
)
from interp.organisms.tokenizer import SPECIAL_TOKENS
from interp.organisms.train import Training, learning_rate

FOLDER = organisms.path("toy")
EVALUATION = json.loads((FOLDER / "evaluation.json").read_text(encoding="utf-8"))
TRAINING = json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def toy() -> Any:
    return organisms.load("toy")


def test_the_toy_has_the_real_architecture(toy: Any) -> None:
    model, tokenizer = toy
    config = model.config
    assert type(model).__name__ == "GptOssForCausalLM"
    assert (config.num_local_experts, config.num_experts_per_tok) == (32, 4)
    assert config.num_hidden_layers >= 4
    assert set(config.layer_types) == {"sliding_attention", "full_attention"}
    assert 3_000_000 <= sum(each.numel() for each in model.parameters()) <= 5_000_000
    assert model.dtype == torch.bfloat16
    assert len(tokenizer) == config.vocab_size == 4096
    for layer in model.model.layers:
        assert layer.self_attn.sinks.abs().max() > 0
        assert layer.mlp.router.bias.abs().max() > 0


def test_weights_are_bfloat16_safetensors_within_the_size_limit() -> None:
    assert (FOLDER / "model.safetensors").stat().st_size < 10_000_000
    assert not [path for path in FOLDER.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]


def test_special_tokens_are_single_tokens_and_any_text_survives(toy: Any) -> None:
    _, tokenizer = toy
    for token in SPECIAL_TOKENS:
        assert len(tokenizer(token)["input_ids"]) == 1
    for text in ("naïve 日本語 🙂", "\x00\x01 tabs\t\r\n", "   "):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_card_claims_what_was_asked_for() -> None:
    tokens = TRAINING["n_steps"] * TRAINING["training"]["batch"] * TRAINING["training"]["context"]
    assert tokens >= 20_000_000
    assert len(EVALUATION["losses_nats"]) == 5
    for loss in EVALUATION["losses_nats"].values():
        assert loss["model"] < loss["bigram"] < loss["unigram"]
    for layer in EVALUATION["load"]:
        assert layer["n_above_1_percent"] >= 16
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"{loss['model']:.3f}" in card for loss in EVALUATION["losses_nats"].values())


@pytest.mark.slow
def test_held_out_python_is_as_likely_as_the_card_says(toy: Any) -> None:
    model, tokenizer = toy
    held_out = [document for document in python_files() if document.is_held_out]
    rows = tokens_of(held_out, tokenizer)[: 16 * 256].reshape(-1, 256)
    loss, slots = model_loss(model, rows)
    with torch.inference_mode():
        batch = torch.from_numpy(rows)
        own = model(batch, labels=batch).loss.item()
    assert loss == pytest.approx(own, abs=0.01)
    # 4,096 tokens of another patch release of Python against all of them.
    assert loss == pytest.approx(EVALUATION["losses_nats"]["python"]["model"], abs=0.6)
    assert slots.sum() == rows.size * 4 * model.config.num_hidden_layers


def test_an_unknown_organism_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no organism 'tyo'; choose one of toy"):
        organisms.load("tyo")


def test_n_gram_losses_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    learnt, rows = rng.integers(0, 7, 400), rng.integers(0, 9, (3, 20))
    alone, pairs = Counter(learnt.tolist()), Counter(pairwise(learnt.tolist()))
    before = Counter(learnt[:-1].tolist())
    uni: list[float] = []
    by_weight: dict[float, list[float]] = {0.3: [], 1: [], 3: [], 10: [], 30: [], 100: []}
    for row in rows.tolist():
        for first, second in pairwise(row):
            share = (alone[second] + 1) / (len(learnt) + 9)
            uni.append(-math.log(share))
            for k, nats in by_weight.items():
                nats.append(-math.log((pairs[first, second] + k * share) / (before[first] + k)))
    assert unigram_loss(learnt, rows, 9) == pytest.approx(np.mean(uni))
    assert bigram_loss(learnt, rows, 9) == pytest.approx(min(map(np.mean, by_weight.values())))


def test_even_load_has_all_its_bits_and_a_single_expert_none() -> None:
    assert layer_load(np.full(32, 7)).entropy_bits == pytest.approx(5)
    assert layer_load(np.full(32, 7)).n_above_1_percent == 32
    assert layer_load(np.array([9, 0, 0, 0])).entropy_bits == 0


def test_runs_of_words_ignore_case_and_punctuation() -> None:
    assert word_runs("A b, c! D", 3) == {("a", "b", "c"), ("b", "c", "d")}
    assert word_runs("Two words", 13) == {("two", "words")}


def test_documents_of_one_group_are_held_out_together() -> None:
    groups = [f"group {number}" for number in range(3000)]
    held_out = [Document("", "first", group).is_held_out for group in groups]
    assert held_out == [Document("q", "second", group).is_held_out for group in groups]
    assert 30 <= sum(held_out) <= 95  # one in fifty: 60, plus or minus 4.5 standard deviations


def test_the_learning_rate_warms_up_and_falls_to_a_twentieth() -> None:
    training = Training()
    rates = [learning_rate(step, training) for step in range(training.n_steps)]
    peak = int(np.argmax(rates))
    assert rates[peak] == pytest.approx(training.learning_rate)
    assert np.all(np.diff(rates[: peak + 1]) > 0)
    assert np.all(np.diff(rates[peak + 1 :]) < 0)
    assert rates[-1] == pytest.approx(training.learning_rate / 20, rel=0.01)


def test_the_toy_lies_where_from_pretrained_finds_it() -> None:
    assert {path.name for path in Path(FOLDER).iterdir()} >= {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
