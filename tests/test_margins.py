"""Routing margins against a sort, and against what a capture records."""

from pathlib import Path

import numpy as np
import pytest

from interp.analyses.margins import routing_margin, routing_margins


def test_margin_is_that_of_a_sort() -> None:
    logits = np.random.default_rng(0).normal(size=(30, 2, 8)).astype(np.float32)
    margin = routing_margin(logits, top_k=3)
    for token in range(30):
        for layer in range(2):
            ranked = sorted(logits[token, layer].tolist(), reverse=True)
            np.testing.assert_allclose(margin[token, layer], ranked[2] - ranked[3], rtol=1e-5)


def test_ties_have_margin_0_and_nobody_left_out_has_an_infinite_one() -> None:
    logits = np.array([[[1.0, 1.0, 0.0]], [[2.0, 1.0, 0.0]]])
    found = routing_margins(logits, top_k=1, layer_indices=[5])
    assert found.tie_rate.tolist() == [0.5]
    assert found.to_frame()["n_tokens"].tolist() == [2]
    assert np.isinf(routing_margin(logits, top_k=3)).all()


def test_shifted_logits_and_renamed_experts_change_no_margin() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(20, 3, 6))
    shifted = logits[..., rng.permutation(6)] + rng.normal(size=(20, 3, 1))
    np.testing.assert_allclose(routing_margin(shifted, top_k=2), routing_margin(logits, top_k=2))


@pytest.mark.slow
def test_margin_is_the_one_that_a_tap_records(tiny_folder: Path) -> None:
    import torch

    from interp.hooks.load import load_model
    from interp.hooks.tap import RoutingTap

    loaded = load_model(str(tiny_folder), device_map="cpu")
    with RoutingTap(loaded.model, sites=("router_logits",)) as tap:
        with torch.inference_mode():
            loaded.model(torch.arange(2, 40)[None])
        records = tap.take()
    logits = records.router_logits.float().numpy()
    top_k = loaded.model.config.num_experts_per_tok
    recorded = records.selection_margin.float().numpy()
    np.testing.assert_allclose(routing_margin(logits, top_k=top_k), recorded, atol=1e-6)


def test_more_chosen_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="top_k is 4, expected 1 to 3, the experts"):
        routing_margin(np.zeros((1, 1, 3)), top_k=4)


def test_no_token_has_no_margins() -> None:
    with pytest.raises(ValueError, match="router_logits holds no token"):
        routing_margins(np.zeros((0, 1, 3)), top_k=1, layer_indices=[0])
