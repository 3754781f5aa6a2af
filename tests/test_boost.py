"""Boost against copies whose own routers find the largest logit where it was put by hand."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from interp.cache.errors import InputError, ModelError
from interp.hooks import RoutingTap, boost, replay_routing, reroute, zero
from interp.hooks.blocks import routed_blocks
from tests.test_interventions import (
    COMPILED,
    EVERY_FAMILY,
    Pairs,
    assert_untouched,
    bits,
    fail,
    indices_of,
    logits_of,
    model_of,
    recorded,
    without_router,
)
from tests.test_interventions_weights import (
    IMPLEMENTATIONS,
    out_of,
    run_by,
    with_outputs_at_zero,
)
from tests.test_tap import all_hooks, fused

CORRECTED = ("deepseek_v3", "glm4_moe", "ernie4_5_moe")


def boosted_by_hand(model: Any, experts: Pairs, *, out: Pairs = ()) -> Any:
    """A copy whose routers find these logits above the largest, before their own rule; others are
    at `-inf` before that.
    """
    edited = copy.deepcopy(model)
    for block in routed_blocks(edited):
        chosen = sorted(out_of(experts, block.layer))
        router: Any = block.router
        if chosen:
            removed = sorted(out_of(out, block.layer))
            router.forward = with_linear_raised(router.forward, chosen, removed)
    return edited


def with_linear_raised(
    forward: Callable[..., Any], chosen: list[int], removed: list[int]
) -> Callable[..., Any]:
    usual = functional.linear

    def linear(*args: Tensor, **kwargs: Tensor) -> Tensor:
        logits = usual(*args, **kwargs)
        for row in logits:
            row[removed] = float("-inf")
            row[chosen] = row.max() + 0.01
        return logits

    def edited(*args: Any, **kwargs: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(functional, "linear", linear)
            return forward(*args, **kwargs)

    return edited


def rarest(model: Any) -> Pairs:
    """The least used expert of every routed layer."""
    records = recorded(model)
    columns = indices_of(records).unbind(1)
    counts = [column.flatten().bincount(minlength=8) for column in columns]
    return [
        (layer, int(each.argmin()))
        for layer, each in zip(records.layer_indices, counts, strict=True)
    ]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@EVERY_FAMILY
def test_boost_is_the_model_with_a_largest_logit_made_by_hand(
    family: str, implementation: str
) -> None:
    model = model_of(family)
    if family in CORRECTED:
        with pytest.raises(InputError, match="before the choice, so that the largest logit need"):
            boost(model, [(2, 0)]).__enter__()
        return
    with run_by(model, implementation):
        experts, before, usual = rarest(model), bits(model), logits_of(model)
        expected = logits_of(boosted_by_hand(model, experts))
        with boost(model, experts):
            assert torch.equal(logits_of(model), expected)
        assert not torch.equal(usual, expected)
        assert torch.equal(logits_of(model), usual)
    assert_untouched(model, before)


@pytest.mark.parametrize("family", ["gpt_oss", "mixtral"])
def test_boosted_experts_have_the_largest_weight_of_every_token(family: str) -> None:
    model = model_of(family)
    experts = rarest(model)
    with boost(model, experts):
        records = recorded(model)
    assert records.expert_weights is not None
    for column, (_, expert) in enumerate(experts):
        assert (indices_of(records)[:, column, 0] == expert).all()
    if family == "gpt_oss":
        two_best = records.expert_weights[:, :, :2]
        assert (two_best[..., 0] / two_best[..., 1] >= 1.01 - 1e-4).all()


@pytest.mark.parametrize("family", ["gpt_oss", "mixtral"])
def test_as_many_as_a_token_chooses_can_be_boosted_and_share_alike(family: str) -> None:
    model = model_of(family)
    with boost(model, [(1, 3), (1, 6)]):
        records = recorded(model)
    assert records.expert_weights is not None
    assert indices_of(records)[:, 1].sort(-1).values.eq(torch.tensor([3, 6])).all()
    torch.testing.assert_close(
        records.expert_weights[:, 1], torch.full_like(records.expert_weights[:, 1], 0.5)
    )


def test_large_logits_in_bfloat16_are_still_exceeded() -> None:
    """There a step of 0.01 is lost: between 128 and 256 two neighbours are 1 apart."""
    model = model_of("gpt_oss", dtype=torch.bfloat16)
    bias = routed_blocks(model)[0].bias
    assert bias is not None
    with torch.no_grad():
        bias += 200.0
    with boost(model, [(0, 3)]):
        records = recorded(model)
    assert records.router_logits is not None
    logits = records.router_logits[:, 0].float()
    others = logits[:, [0, 1, 2, 4, 5, 6, 7]].max(-1).values
    assert (logits[:, 3] > others).all()
    assert (indices_of(records)[:, 0, 0] == 3).all()


@pytest.mark.parametrize("family", ["gpt_oss", "mixtral"])
def test_everything_is_put_back_when_the_body_fails(family: str) -> None:
    model = model_of(family)
    before, usual = bits(model), logits_of(model)
    with pytest.raises(ZeroDivisionError), boost(model, rarest(model)):
        fail()
    assert_untouched(model, before)
    assert torch.equal(logits_of(model), usual)


@pytest.mark.parametrize("family", ["gpt_oss", "mixtral"])
def test_beside_a_reroute_in_either_order_and_closed_in_any(family: str) -> None:
    model = model_of(family)
    best = int(indices_of(recorded(model))[0, 1, 0])
    out, chosen = [(1, best)], [(1, (best + 1) % 8)]
    before, expected = bits(model), logits_of(boosted_by_hand(model, chosen, out=out))
    alone = logits_of(boosted_by_hand(model, chosen))
    one, other = reroute(model, out), boost(model, chosen)
    one.__enter__()
    other.__enter__()
    assert torch.equal(logits_of(model), expected)
    one.__exit__(None, None, None)
    assert torch.equal(logits_of(model), alone)
    with reroute(model, out):
        assert torch.equal(logits_of(model), expected)
    other.__exit__(None, None, None)
    assert_untouched(model, before)


def test_a_boosted_expert_can_be_silenced() -> None:
    model = model_of("mixtral")
    chosen = rarest(model)
    expected = logits_of(with_outputs_at_zero(boosted_by_hand(model, chosen), chosen))
    with zero(model, chosen), boost(model, chosen):
        assert torch.equal(logits_of(model), expected)


def test_taps_see_the_raised_logits() -> None:
    model = model_of("mixtral")
    with RoutingTap(model) as before, boost(model, [(1, 4)]), RoutingTap(model) as after:
        logits_of(model)
    first, second = before.take().router_logits, after.take().router_logits
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)
    assert (first[:, 1].argmax(-1) == 4).all()
    assert not (first[:, 0].argmax(-1) == 4).all()


@pytest.mark.parametrize("family", ["gpt_oss", "mixtral"])
def test_what_never_calls_its_router_is_an_error_in_the_pass(family: str) -> None:
    model = model_of(family)
    mlp = model.model.layers[1].mlp
    mlp.forward = fused(mlp) if family == "gpt_oss" else without_router(mlp)
    with boost(model, [(1, 0)]), pytest.raises(ModelError, match="boost had no effect on layer 1"):
        logits_of(model)
    assert not all_hooks(model)


def chooses_itself(block: Any) -> Callable[[Tensor], Tensor]:
    """A block that calls its router and then goes by logits of its own."""

    def forward(hidden: Tensor) -> Tensor:
        rows = hidden.flatten(0, 1)
        block.gate(rows)
        best = torch.topk((rows @ block.gate.weight.T).softmax(-1), 2, dim=-1)
        out: Tensor = block.experts(rows, best.indices, best.values)
        return out.reshape(hidden.shape)

    return forward


def test_experts_that_are_given_something_else_are_an_error_in_the_pass() -> None:
    model = model_of("mixtral")
    chosen = rarest(model)[1:2]
    mlp = model.model.layers[1].mlp
    mlp.forward = chooses_itself(mlp)
    with (
        boost(model, chosen),
        pytest.raises(ModelError, match="boost had no effect on layer 1: its experts were given"),
    ):
        logits_of(model)


@COMPILED
def test_a_compiled_model_is_refused(compiled: Callable[[Any], Any]) -> None:
    model = compiled(model_of("gpt_oss"))
    with pytest.raises(InputError, match=r"was compiled by torch\.compile"):
        boost(model, [(1, 0)]).__enter__()


@pytest.mark.parametrize(
    ("experts", "sentence"),
    [
        ([], "experts is empty, expected pairs of layer and expert"),
        ([(1, 8)], r"expert 8 of layer 1, but the layer has only 8 experts \(0 to 7\)"),
        ([(1, 1), (1, 2), (1, 3)], "holds 3 experts of layer 1, but each token chooses 2; boost"),
    ],
)
def test_what_cannot_be_boosted_is_refused(experts: Any, sentence: str) -> None:
    model = model_of("gpt_oss")
    with pytest.raises(InputError, match=sentence):
        boost(model, experts).__enter__()
    assert not all_hooks(model)


def test_experts_of_more_groups_than_a_token_chooses_from_are_refused() -> None:
    model = model_of("deepseek_v2")
    with pytest.raises(InputError, match="from 2 groups of layer 1, but each token chooses from 1"):
        boost(model, [(1, 0), (1, 7)]).__enter__()
    with boost(model, [(1, 5), (1, 7)]):
        chosen = indices_of(recorded(model))[:, 0]
    assert ((chosen == 5).any(-1) & (chosen == 7).any(-1)).all()


@pytest.mark.parametrize("family", ["gpt_oss", "mixtral"])
def test_what_does_not_go_together_in_a_layer_is_refused(family: str) -> None:
    model = model_of(family)
    indices = indices_of(recorded(model))
    with boost(model, [(1, 0)]):
        with pytest.raises(InputError, match="expert 0 of layer 1 is under boost already"):
            reroute(model, [(1, 0)]).__enter__()
        with pytest.raises(InputError, match="layer 1 is under boost already"):
            boost(model, [(1, 2)]).__enter__()
        with pytest.raises(InputError, match="layer 1 is under boost already"):
            replay_routing(model, expert_indices=indices).__enter__()
    with (
        reroute(model, [(1, 0)]),
        pytest.raises(InputError, match="expert 0 of layer 1 is taken out by reroute"),
    ):
        boost(model, [(1, 0)]).__enter__()
    with (
        replay_routing(model, expert_indices=indices),
        pytest.raises(InputError, match="layer 1 is under replay_routing already"),
    ):
        boost(model, [(1, 0)]).__enter__()
    assert not all_hooks(model)
