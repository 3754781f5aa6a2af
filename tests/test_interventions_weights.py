"""Zero and renormalise against copies of the model that were edited by hand.

The oracle of zero is a copy whose experts put out 0: their last matrix and its bias are 0. That of
renormalise is a copy whose experts are given weights that a loop over tokens computed.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import accelerate
import pytest
import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, batched_mm_experts_forward

from interp.cache.errors import InputError, ModelError
from interp.hooks import KNOCKOUTS, RoutingTap, renormalise, replay_routing, reroute, zero
from interp.hooks.blocks import routed_blocks
from tests.test_interventions import (
    COMPILED,
    EVERY_FAMILY,
    GivenToExperts,
    Pairs,
    assert_untouched,
    bits,
    busiest,
    by_expert,
    edited_by_hand,
    fail,
    indices_of,
    logits_of,
    model_of,
    recorded,
    shifted,
    without_router,
)
from tests.test_tap import all_hooks, fused

SLOW = pytest.mark.slow
SEVERAL = pytest.mark.parametrize(
    "family", ["gpt_oss", *(pytest.param(each, marks=SLOW) for each in ("mixtral", "deepseek_v3"))]
)
BOTH = pytest.mark.parametrize("kind", [zero, renormalise])
IMPLEMENTATIONS = (
    "eager",
    *(pytest.param(each, marks=SLOW) for each in ("batched_mm", "grouped_mm", "registered")),
)
Intervention = Callable[[Any, Pairs], Any]


@contextmanager
def run_by(model: Any, implementation: str) -> Iterator[None]:
    ALL_EXPERTS_FUNCTIONS["registered"] = batched_mm_experts_forward
    model.set_experts_implementation(implementation)
    try:
        yield
    finally:
        del ALL_EXPERTS_FUNCTIONS["registered"]


def out_of(experts: Pairs, layer: int) -> set[int]:
    return {expert for each, expert in experts if each == layer}


def with_outputs_at_zero(model: Any, experts: Pairs) -> Any:
    """A copy in which these experts compute 0, whatever they read."""
    edited = copy.deepcopy(model)
    for block in routed_blocks(edited):
        of_experts: Any = block.experts
        out = sorted(out_of(experts, block.layer))
        with torch.no_grad():
            of_experts.down_proj[out] = 0.0
            if hasattr(of_experts, "down_proj_bias"):
                of_experts.down_proj_bias[out] = 0.0
    return edited


def with_weights_by_hand(model: Any, experts: Pairs) -> Any:
    """A copy whose experts are given what `scaled_by_hand` makes of the router's weights."""
    edited = copy.deepcopy(model)
    for block in routed_blocks(edited):
        out = out_of(experts, block.layer)

        def hook(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: set[int] = out
        ) -> tuple[Any, ...]:
            hidden, indices, weights = (*args, *kwargs.values())
            by_hand = [
                scaled_by_hand(*row, out)
                for row in zip(indices.tolist(), weights.float().tolist(), strict=True)
            ]
            return (hidden, indices, torch.tensor(by_hand).to(weights)), {}

        block.experts.register_forward_pre_hook(hook, with_kwargs=True)
    return edited


def scaled_by_hand(indices: list[int], weights: list[float], out: set[int]) -> list[float]:
    total = sum(weights)
    rest = sum(w for e, w in zip(indices, weights, strict=True) if e not in out)
    if rest == 0 or not out & set(indices):
        return [0.0 if e in out else w for e, w in zip(indices, weights, strict=True)]
    return [0.0 if e in out else w * total / rest for e, w in zip(indices, weights, strict=True)]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@EVERY_FAMILY
def test_zero_is_the_model_whose_experts_put_out_zero(family: str, implementation: str) -> None:
    model = model_of(family)
    with run_by(model, implementation):
        experts, before, usual = busiest(model), bits(model), logits_of(model)
        expected = logits_of(with_outputs_at_zero(model, experts))
        with zero(model, experts):
            assert torch.equal(logits_of(model), expected)
        assert not torch.equal(usual, expected)
        assert torch.equal(logits_of(model), usual)
    assert_untouched(model, before)


@SEVERAL
def test_zero_in_bfloat16_is_that_model_too(family: str) -> None:
    model = model_of(family, dtype=torch.bfloat16)
    experts, before = busiest(model), bits(model)
    with zero(model, experts):
        found = logits_of(model)
    assert torch.equal(found, logits_of(with_outputs_at_zero(model, experts)))
    assert_untouched(model, before)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@EVERY_FAMILY
def test_renormalise_gives_the_weights_of_a_loop(family: str, implementation: str) -> None:
    """To rounding of float32: the loop sums in double precision."""
    model = model_of(family)
    with run_by(model, implementation):
        experts, before, usual = busiest(model), bits(model), logits_of(model)
        expected = logits_of(with_weights_by_hand(model, experts))
        with renormalise(model, experts):
            torch.testing.assert_close(logits_of(model), expected, rtol=1e-4, atol=1e-4)
        assert (usual - expected).abs().max() > 1e-2
        assert torch.equal(logits_of(model), usual)
    assert_untouched(model, before)


@EVERY_FAMILY
def test_weights_of_a_token_under_each_knockout(family: str) -> None:
    """What the experts of the first layer were given, token by token."""
    model = model_of(family)
    first, out = busiest(model)[0]
    usual = given_under(model, None, [])
    zeroed, scaled = (given_under(model, each, [(first, out)]) for each in (zero, renormalise))
    hit = (usual[0] == out).any(-1)
    assert 0 < hit.sum() < len(hit)
    for found in (zeroed, scaled):
        assert torch.equal(found[0], usual[0])
        assert torch.equal(found[1][~hit], usual[1][~hit])
        assert not found[1][usual[0] == out].any()
    stays = usual[0] != out
    assert torch.equal(zeroed[1][stays], usual[1][stays])
    torch.testing.assert_close(scaled[1].sum(-1), usual[1].sum(-1))
    ratio = scaled[1] / usual[1]
    spread = torch.where(stays, ratio, torch.nan).nan_to_num(nan=1.0)[hit]
    assert (spread >= 1 - 1e-6).all()


def given_under(model: Any, kind: Any, experts: Pairs) -> tuple[Tensor, Tensor]:
    watched = copy.deepcopy(model)
    given = GivenToExperts(watched)
    with ExitStack() as stack:
        if kind is not None:
            stack.enter_context(kind(watched, experts))
        logits_of(watched)
    return given.indices[:, 0], given.weights[:, 0]


def test_renormalise_of_gpt_oss_is_a_softmax_over_the_logits_of_those_left() -> None:
    model = model_of("gpt_oss")
    experts = busiest(model)[:1]
    records = recorded(model)
    assert records.router_logits is not None
    indices, weights = given_under(model, renormalise, experts)
    for token, chosen in enumerate(indices.tolist()):
        left = [expert for expert in chosen if expert != experts[0][1]]
        shares = records.router_logits[token, 0, left].double().softmax(-1).float()
        found = weights[token, [chosen.index(expert) for expert in left]]
        torch.testing.assert_close(found, shares)


@pytest.mark.parametrize("family", ["gpt_oss", "mixtral", "phimoe"])
def test_a_token_that_loses_all_its_experts_adds_nothing_either_way(family: str) -> None:
    model = model_of(family)
    chosen = indices_of(recorded(model))[0, 0].tolist()
    pairs = [(0, expert) for expert in chosen]
    zeroed, scaled = (given_under(model, each, pairs)[1] for each in (zero, renormalise))
    assert not zeroed[0].any()
    assert not scaled[0].any()
    assert scaled.isfinite().all()
    assert scaled[1:].any()


def test_a_weight_that_is_nearly_nothing_is_scaled_to_the_whole() -> None:
    model = model_of("gpt_oss")
    chosen = indices_of(recorded(model))[0, 0].tolist()
    with torch.no_grad():
        routed_blocks(model)[0].bias[chosen[0]] += 86.0  # type: ignore[index]
    usual = given_under(model, None, [])
    index, weight = int(usual[0][0, 1]), float(usual[1][0, 1])
    assert 0 < weight < 1e-30
    weights = given_under(model, renormalise, [(0, chosen[0])])[1]
    assert index != chosen[0]
    assert weights[0].tolist() == [0.0, 1.0]


@BOTH
@SEVERAL
def test_all_that_was_changed_is_put_back_when_the_body_fails(
    family: str, kind: Intervention
) -> None:
    model = model_of(family)
    before, usual = bits(model), logits_of(model)
    with pytest.raises(ZeroDivisionError), kind(model, busiest(model)):
        fail()
    assert_untouched(model, before)
    assert torch.equal(logits_of(model), usual)


@BOTH
@pytest.mark.parametrize("first_out", ["inner", "outer"])
@SEVERAL
def test_nested_ones_are_one_of_both_sets_and_close_in_any_order(
    family: str, first_out: str, kind: Intervention
) -> None:
    model = model_of(family)
    before, last = bits(model), 2
    sets = {"outer": [(last, 1), (last, 2), (1, 0)], "inner": [(last, 2), (last, 3), (1, 5)]}
    expected = {name: under(model, kind, pairs) for name, pairs in sets.items()}
    both = under(model, kind, [*sets["outer"], *sets["inner"]])
    opened = {name: kind(model, pairs) for name, pairs in sets.items()}
    for each in opened.values():
        each.__enter__()
    assert torch.equal(logits_of(model), both)
    opened.pop(first_out).__exit__(None, None, None)
    left = opened.popitem()
    assert torch.equal(logits_of(model), expected[left[0]])
    left[1].__exit__(None, None, None)
    assert_untouched(model, before)


def under(model: Any, kind: Intervention, pairs: Pairs) -> Tensor:
    with kind(model, pairs):
        return logits_of(model)


@BOTH
@SEVERAL
def test_under_a_reroute_the_stand_in_can_be_silenced_in_either_order(
    family: str, kind: Intervention
) -> None:
    model = model_of(family)
    layer, out = busiest(model)[-1]
    with reroute(model, [(layer, out)]):
        stand_in = [(layer, int(indices_of(recorded(model))[:, -1].flatten().mode().values))]
    expected = under(edited_by_hand(model, [(layer, out)]), kind, stand_in)
    with reroute(model, [(layer, out)]), kind(model, stand_in):
        assert torch.equal(logits_of(model), expected)
    with kind(model, stand_in), reroute(model, [(layer, out)]):
        assert torch.equal(logits_of(model), expected)


@pytest.mark.parametrize("family", ["gpt_oss", "mixtral"])
def test_replayed_experts_can_be_silenced_in_either_order(family: str) -> None:
    model = model_of(family)
    other = shifted(model)
    experts, records = busiest(other), recorded(other)
    replay = {
        "expert_indices": indices_of(records),
        "expert_weights": records.expert_weights,
    }
    silenced = with_outputs_at_zero(model, experts)
    with replay_routing(silenced, **replay):
        expected = logits_of(silenced)
    with zero(model, experts), replay_routing(model, **replay):
        assert torch.equal(logits_of(model), expected)
    with replay_routing(model, **replay), zero(model, experts):
        assert torch.equal(logits_of(model), expected)


@BOTH
@SEVERAL
def test_taps_opened_before_and_after_record_the_weights_that_were_run(
    family: str, kind: Intervention
) -> None:
    model = model_of(family)
    experts, given = busiest(model), GivenToExperts(model)
    with RoutingTap(model) as before, kind(model, experts), RoutingTap(model) as after:
        logits_of(model)
    first, second = before.take(), after.take()
    assert first.expert_weights is not None
    assert second.expert_weights is not None
    assert torch.equal(first.expert_weights, second.expert_weights)
    assert torch.equal(indices_of(first), indices_of(second))
    run = by_expert(given.indices, given.weights)
    found = by_expert(indices_of(first), first.expert_weights)
    assert all(torch.equal(*pair) for pair in zip(run, found, strict=True))
    for column, (_, expert) in enumerate(experts):
        is_out = indices_of(first)[:, column] == expert
        assert is_out.any()
        assert not first.expert_weights[:, column][is_out].any()


def test_output_norms_of_a_silenced_expert_are_still_recorded() -> None:
    model = model_of("gpt_oss")
    usual, experts = recorded(model), busiest(model)[:1]
    with zero(model, experts):
        expected, found = logits_of(model), recorded(model)
        with RoutingTap(model):
            assert torch.equal(logits_of(model), expected)
    norms, others = (each.expert_output_norms for each in (usual, found))
    assert norms is not None
    assert others is not None
    assert torch.equal(norms[:, 0].sort(-1).values, others[:, 0].sort(-1).values)


@BOTH
@pytest.mark.parametrize("family", ["gpt_oss", "mixtral"])
def test_what_never_calls_its_router_is_an_error_in_the_pass(
    family: str, kind: Intervention
) -> None:
    model = model_of(family)
    mlp = model.model.layers[1].mlp
    mlp.forward = fused(mlp) if family == "gpt_oss" else without_router(mlp)
    with (
        kind(model, [(1, 0)]),
        pytest.raises(ModelError, match="had no effect on layer 1: a fused kernel ran"),
    ):
        logits_of(model)
    assert not all_hooks(model)


def asks_its_router_twice(block: Any) -> Callable[[Tensor], Tensor]:
    """A block that calls its router and then goes by weights of its own."""

    def forward(hidden: Tensor) -> Tensor:
        rows = hidden.flatten(0, 1)
        logits, _, _ = block.gate(rows)
        best = torch.topk(logits.softmax(-1), 2, dim=-1)
        weights = best.values / best.values.sum(-1, keepdim=True)
        out: Tensor = block.experts(rows, best.indices, weights)
        return out.reshape(hidden.shape)

    return forward


def runs_experts_itself(block: Any) -> Callable[[Tensor], Tensor]:
    """A block that calls its router, and never the module of its experts."""

    def forward(hidden: Tensor) -> Tensor:
        rows = hidden.flatten(0, 1)
        _, weights, indices = block.gate(rows)
        out: Tensor = block.experts.forward(rows, indices, weights)
        return out.reshape(hidden.shape)

    return forward


@pytest.mark.parametrize(
    ("forward", "sentence"),
    [
        (asks_its_router_twice, "no effect on layer 1: its experts were given something else"),
        (runs_experts_itself, "no effect on layer 1: what ran its experts did not call their"),
    ],
)
@BOTH
def test_experts_that_are_given_something_else_are_an_error_in_the_pass(
    kind: Intervention, forward: Any, sentence: str
) -> None:
    model = model_of("mixtral")
    experts = busiest(model)[1:2]
    mlp = model.model.layers[1].mlp
    mlp.forward = forward(mlp)
    with kind(model, experts), pytest.raises(ModelError, match=sentence):
        logits_of(model)
    assert not all_hooks(model)


def unweighted(
    self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """A registered function that does not go by its weights."""
    ones = torch.ones_like(top_k_weights)
    return batched_mm_experts_forward(self, hidden_states, top_k_index, ones)


@BOTH
@pytest.mark.parametrize("family", ["gpt_oss", "mixtral"])
def test_experts_that_ignore_their_weights_are_an_error_in_the_pass(
    family: str, kind: Intervention
) -> None:
    model = model_of(family)
    ALL_EXPERTS_FUNCTIONS["unweighted"] = unweighted
    try:
        model.set_experts_implementation("unweighted")
        with (
            kind(model, [(1, 0)]),
            pytest.raises(ModelError, match="layer 1: its experts do not go by the weights that"),
        ):
            logits_of(model)
    finally:
        del ALL_EXPERTS_FUNCTIONS["unweighted"]
    assert not all_hooks(model)


@BOTH
@pytest.mark.parametrize("family", ["gpt_oss", "mixtral"])
def test_layers_that_are_offloaded_are_silenced_as_well(family: str, kind: Intervention) -> None:
    model = model_of(family)
    experts = busiest(model)
    expected = under(model, kind, experts)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    with kind(model, experts):
        assert torch.equal(logits_of(model), expected)


@BOTH
@COMPILED
def test_a_compiled_model_is_refused(compiled: Callable[[Any], Any], kind: Intervention) -> None:
    model = compiled(model_of("gpt_oss"))
    with pytest.raises(InputError, match=r"was compiled by torch\.compile"):
        kind(model, [(1, 0)]).__enter__()
    assert not all_hooks(model)


@pytest.mark.parametrize(
    ("experts", "sentence"),
    [
        ([], "experts is empty, expected pairs of layer and expert"),
        ([(3, 0)], r"experts holds layer 3, but the routed layers are \[0, 1, 2\]"),
        ([(1, 8)], r"expert 8 of layer 1, but the layer has only 8 experts \(0 to 7\)"),
        ([(1, -1)], "experts holds expert -1 of layer 1"),
    ],
)
@BOTH
def test_what_does_not_exist_is_refused(experts: Any, sentence: str, kind: Intervention) -> None:
    model = model_of("gpt_oss")
    before = bits(model)
    with pytest.raises(InputError, match=sentence), kind(model, experts):
        pass
    assert_untouched(model, before)


def test_a_whole_layer_can_be_zeroed_and_not_renormalised() -> None:
    model = model_of("gpt_oss")
    whole = [(1, expert) for expert in range(8)]
    with pytest.raises(InputError, match="leaves 0 of 8 experts in layer 1, so that none could"):
        renormalise(model, whole).__enter__()
    with (
        renormalise(model, whole[:4]),
        pytest.raises(InputError, match="leaves 0 of 8 experts in layer 1"),
    ):
        renormalise(model, whole[4:]).__enter__()
    with zero(model, whole), RoutingTap(model, sites=("resid_mid", "resid_post")) as tap:
        logits_of(model)
    resid = tap.take().resid
    assert torch.equal(resid["resid_mid", 1], resid["resid_post", 1])


def test_zero_and_renormalise_do_not_share_a_layer() -> None:
    model = model_of("gpt_oss")
    with zero(model, [(1, 0)]):
        with pytest.raises(InputError, match="layer 1 is under zero already"):
            renormalise(model, [(1, 3)]).__enter__()
        with renormalise(model, [(2, 3)]):
            logits_of(model)
    with (
        renormalise(model, [(1, 0)]),
        pytest.raises(InputError, match="layer 1 is under renormalise already"),
    ):
        zero(model, [(1, 3)]).__enter__()
    assert not all_hooks(model)


def test_the_three_knockouts_by_name() -> None:
    assert {"reroute": reroute, "zero": zero, "renormalise": renormalise} == KNOCKOUTS
    model = model_of("gpt_oss")
    experts = busiest(model)
    found = [under(model, each, experts) for each in KNOCKOUTS.values()]
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert all((found[one] - found[other]).abs().max() > 1e-3 for one, other in pairs)


def test_generation_goes_on_under_zero() -> None:
    model = model_of("gpt_oss")
    ids, experts = torch.tensor([[5, 17, 40, 8, 61, 33]]), busiest(model)
    settings: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}
    expected = with_outputs_at_zero(model, experts).generate(ids, **settings)
    with zero(model, experts):
        assert torch.equal(model.generate(ids, **settings), expected)
    assert not torch.equal(model.generate(ids, **settings), expected)


def test_gradients_pass_through_silenced_experts() -> None:
    model = model_of("mixtral")
    experts = busiest(model)
    pairs = [(0, expert) for expert in indices_of(recorded(model))[0, 0].tolist()]
    for kind, chosen in ((zero, experts), (renormalise, experts), (renormalise, pairs)):
        model.zero_grad()
        with kind(model, chosen):
            model(torch.tensor([[5, 17, 40]])).logits.square().mean().backward()
        found = [each.grad for each in model.parameters() if each.grad is not None]
        assert found
        assert all(each.isfinite().all() for each in found)
