"""A reroute by the bias is seen to be followed, also where nobody calls router or experts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.cache.errors import ModelError
from interp.hooks import RoutingTap, reroute
from tests.test_interventions import (
    assert_untouched,
    bits,
    busiest,
    edited_by_hand,
    logits_of,
    model_of,
)
from tests.test_tap import all_hooks, fused


def by_a_kept_bias(mlp: Any, *, calls_experts: bool) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A block of gpt-oss that goes by a bias that it copied when it was made."""
    bias = mlp.router.bias.detach().clone()

    def forward(hidden: Tensor) -> tuple[Tensor, Tensor]:
        rows = hidden.flatten(0, 1)
        best = torch.topk(rows @ mlp.router.weight.T + bias, 2, dim=-1)
        weights = best.values.softmax(-1)
        experts = mlp.experts if calls_experts else mlp.experts.forward
        out: Tensor = experts(rows, best.indices, weights)
        return out.reshape(hidden.shape), weights

    return forward


@pytest.mark.parametrize(
    ("calls_experts", "why"),
    [
        (True, "its experts are still given the tokens that chose them"),
        (False, "a fused kernel ran the experts and does not read the bias of their router"),
    ],
)
def test_a_bias_that_is_not_read_is_an_error_in_the_pass(calls_experts: bool, why: str) -> None:
    model = model_of("gpt_oss")
    experts, before = busiest(model), bits(model)
    mlp = model.model.layers[1].mlp
    mlp.forward = by_a_kept_bias(mlp, calls_experts=calls_experts)
    with (
        reroute(model, experts),
        pytest.raises(ModelError, match=f"reroute had no effect on layer 1: {why}"),
    ):
        logits_of(model)
    assert_untouched(model, before)


def test_the_check_under_a_fused_kernel_leaves_the_pass_as_it_is() -> None:
    model = model_of("gpt_oss")
    experts = busiest(model)
    expected = logits_of(edited_by_hand(model, experts))
    for layer in model.model.layers:
        layer.mlp.forward = fused(layer.mlp)
    with reroute(model, experts):
        bias = bits(model)
        assert torch.equal(logits_of(model), expected)
        assert all(torch.equal(bias[name], each) for name, each in bits(model).items())
        assert torch.equal(logits_of(model), expected)
    assert not all_hooks(model)


def test_the_check_of_a_bias_does_not_pass_for_an_edit() -> None:
    model = model_of("gpt_oss")
    with reroute(model, busiest(model)), RoutingTap(model) as tap:
        logits_of(model)
    tap.take()
    assert tap.compared_layers == (0, 1, 2)
