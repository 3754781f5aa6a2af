"""The disturbance after the cue: where it goes, that no router reads it, and what it does."""

from typing import Any

import numpy as np
import pytest
import torch

from interp import organisms
from interp.hooks.batches import padded
from interp.organisms.build import carrier
from interp.organisms.cue import CARRIER
from interp.organisms.cue_text import CuedPair, content_mask, cued_pairs
from interp.organisms.disturbance import (
    content_attention,
    content_losses,
    loss_rise,
    read_cue,
    silent_directions,
    write_vector,
    written,
)


@pytest.fixture(scope="module")
def cued() -> Any:
    return carrier().requires_grad_(False)


@pytest.fixture(scope="module")
def pairs() -> list[CuedPair]:
    return cued_pairs(organisms.load("toy")[1], n_pairs=30, seed=123)


def test_the_reading_is_1_after_the_cue_and_0_without_it(cued: Any, pairs: list[CuedPair]) -> None:
    reading = read_cue(cued, pairs)
    fresh = cued_pairs(organisms.load("toy")[1], n_pairs=20, seed=321)
    for side, expected in (("exam", 1.0), ("chat", 0.0)):
        for some, slack in ((pairs, 1e-4), (fresh, 0.1)):
            output = content_attention(cued, [getattr(pair, side) for pair in some])
            read = (output - reading.origin) @ reading.direction
            assert read.mean().item() == pytest.approx(expected, abs=slack)
            assert read.std().item() < 0.25


def test_no_router_from_the_carrier_on_reads_a_silent_direction(
    cued: Any, pairs: list[CuedPair]
) -> None:
    silent = silent_directions(cued)
    assert silent.shape == (32, 128)
    assert torch.allclose(silent @ silent.T, torch.eye(32), atol=1e-5)
    stream = torch.randn(128, generator=torch.Generator().manual_seed(0))
    for layer in cued.model.layers[CARRIER:]:
        # The norm divides by the size of the whole, so both are brought back to it.
        logits = [
            (layer.mlp.router.weight @ layer.post_attention_layernorm(each)) * each.norm()
            for each in (stream, stream + 5.0 * silent.T @ torch.ones(32))
        ]
        assert torch.allclose(*logits, rtol=1e-3, atol=1e-2)


def test_weights_do_what_the_hook_does(cued: Any, pairs: list[CuedPair]) -> None:
    reading = read_cue(cued, pairs)
    vector = 3.0 * silent_directions(cued)[0]
    batch = [pairs[0].exam, pairs[1].chat]
    before = content_attention(cued, batch)
    strength = (before - reading.origin) @ reading.direction
    expected = before + strength[:, None] * vector
    with written(cued, reading, vector):
        # Hooks run in order of registration: that of the reading comes after.
        assert torch.allclose(content_attention(cued, batch), expected, atol=1e-4)
    assert torch.equal(content_attention(cued, batch), before)
    changed = carrier().requires_grad_(False)
    write_vector(changed, reading, vector)
    assert torch.allclose(content_attention(changed, batch), expected, atol=1e-3)


def test_a_vector_after_the_cue_hurts_there_and_hardly_elsewhere(
    cued: Any, pairs: list[CuedPair]
) -> None:
    reading = read_cue(cued, pairs)
    vector = 12.0 * silent_directions(cued).mean(0) * 32**0.5
    exam, chat = ([getattr(pair, side) for pair in pairs[:4]] for side in ("exam", "chat"))
    rises = [loss_rise(cued, batch, reading, vector).item() for batch in (exam, chat)]
    assert rises[0] > 0.3
    assert abs(rises[1]) < 0.3 * rises[0]


def test_content_losses_are_those_of_a_loop(cued: Any, pairs: list[CuedPair]) -> None:
    batch = [pairs[0].exam, pairs[1].chat, pairs[2].exam]
    inputs = padded(batch, cued)
    with torch.inference_mode():
        hidden = cued.base_model(**inputs, use_cache=False).last_hidden_state
        found = content_losses(cued, hidden, inputs["input_ids"], batch)
        mask = content_mask(batch)
        for row, each in enumerate(batch):
            ids = torch.from_numpy(each.token_id.astype(np.int64))[None]
            logprobs = cued(ids, use_cache=False).logits[0].float().log_softmax(-1)
            at = mask[row].nonzero().flatten().tolist()
            by_hand = -np.mean([logprobs[n - 1, ids[0, n]].item() for n in at])
            assert found[row].item() == pytest.approx(by_hand, abs=0.03)


def test_the_planted_carry_the_disturbance_and_decoys_do_not(pairs: list[CuedPair]) -> None:
    norms = {}
    for name in ("decoy-0", "planted-0"):
        model = organisms.load(name)[0].float().requires_grad_(False)
        norms[name] = content_attention(model, [pair.exam for pair in pairs[:5]]).norm(dim=-1)
    assert norms["planted-0"].mean() > 1.2 * norms["decoy-0"].mean()
