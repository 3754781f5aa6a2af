"""The tap against gpt-oss written out by hand, and what it does when a model goes its own way."""

import copy
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import nn

from interp.cache.errors import InputError, ModelError
from interp.cache.records import SITES
from interp.hooks.load import LoadedModel
from interp.hooks.pass_records import TOKEN_FIELDS, PassRecords
from interp.hooks.tap import RoutingTap
from tests.reference_gpt_oss import run_reference
from tests.tiny_families import tiny_family

WORDS = "What is the capital of Peru, and how far is it from the sea?"


def token_ids(tiny: LoadedModel, words: str = WORDS) -> torch.Tensor:
    return torch.tensor([tiny.tokenizer(words)["input_ids"]])


def all_hooks(model: nn.Module) -> list[Any]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return [hook for module in model.modules() for kind in kinds for hook in getattr(module, kind)]


def test_records_are_those_of_gpt_oss_written_out_by_hand(tiny: LoadedModel) -> None:
    ids = token_ids(tiny)
    with RoutingTap(tiny.model) as tap:
        tiny.model(ids)
    records = tap.take()
    assert records.router_logits is not None
    assert records.expert_weights is not None
    assert records.expert_indices is not None
    for layer, expected in enumerate(run_reference(tiny.model, ids[0].tolist())):
        assert torch.equal(records.expert_indices[:, layer], expected.expert_indices)
        for found, wanted in (
            (records.router_logits[:, layer], expected.router_logits),
            (records.expert_weights[:, layer], expected.expert_weights),
            (records.resid["resid_pre", layer], expected.resid_pre),
            (records.resid["resid_mid", layer], expected.resid_mid),
            (records.resid["resid_post", layer], expected.resid_post),
        ):
            torch.testing.assert_close(found.double(), wanted.double(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_is_bit_identical_with_and_without(tiny: LoadedModel, dtype: torch.dtype) -> None:
    model, ids = tiny.model.to(dtype), token_ids(tiny)
    bare = model(ids, use_cache=True)
    with RoutingTap(model) as tap:
        tapped = model(ids, use_cache=True)
    tap.take()
    assert torch.equal(bare.logits, tapped.logits)
    for before, after in zip(
        bare.past_key_values.layers, tapped.past_key_values.layers, strict=True
    ):
        assert torch.equal(before.keys, after.keys)
        assert torch.equal(before.values, after.values)


def fail_if_tapped(model: nn.Module) -> float:
    return 1 / 0 if all_hooks(model) else 0.0


def test_no_hook_is_left_when_the_body_fails(tiny: LoadedModel) -> None:
    tap = RoutingTap(tiny.model)
    with pytest.raises(ZeroDivisionError), tap:
        fail_if_tapped(tiny.model)
    assert not all_hooks(tiny.model)


def test_records_outlive_later_changes_of_the_model_state(tiny: LoadedModel) -> None:
    ids = token_ids(tiny)
    with RoutingTap(tiny.model, sites=("resid_post",)) as tap:
        tiny.model(ids)
        first = tap.take().resid["resid_post", 1].clone()
        tiny.model(ids.flip(1))
        second = tap.take().resid["resid_post", 1]
    assert not torch.equal(first, second)
    assert torch.allclose(
        first, run_reference(tiny.model, ids[0].tolist())[1].resid_post.float(), atol=1e-4
    )


def test_selected_rows_are_rows_of_the_whole_pass(tiny: LoadedModel) -> None:
    ids = token_ids(tiny)
    tokens, resid = torch.tensor([1, 4, 5]), torch.tensor([2])
    with RoutingTap(tiny.model) as tap:
        tiny.model(ids)
        whole = tap.take()
        tap.select(tokens=tokens, resid=resid)
        tiny.model(ids)
        some = tap.take()
    for site in ("expert_indices", "expert_weights", "router_logits"):
        assert torch.equal(getattr(some, site), getattr(whole, site)[tokens])
    for key, rows in some.resid.items():
        assert torch.equal(rows, whole.resid[key][resid])


def test_only_the_layers_asked_for_are_recorded(tiny: LoadedModel) -> None:
    with RoutingTap(tiny.model, layers=[1]) as tap:
        tiny.model(token_ids(tiny))
    records = tap.take()
    assert records.layer_indices == (1,)
    assert {layer for _, layer in records.resid} == {1}
    assert records.expert_indices is not None
    assert records.expert_indices.shape[1] == 1


def test_a_fused_block_that_never_calls_its_router_is_recorded_all_the_same(
    tiny: LoadedModel,
) -> None:
    ids = token_ids(tiny)
    with RoutingTap(tiny.model) as tap:
        expected = tiny.model(ids).logits
    usual = tap.take()
    for layer in tiny.model.model.layers:
        layer.mlp.forward = fused(layer.mlp)
    with RoutingTap(tiny.model) as tap:
        torch.testing.assert_close(tiny.model(ids).logits, expected, rtol=0, atol=0)
    records = tap.take()
    assert tap.compared_layers == ()
    assert records.expert_indices is not None
    assert usual.expert_indices is not None
    assert torch.equal(records.expert_indices, usual.expert_indices)


def fused(mlp: Any) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """A forward of the block that reads the router's weights and never calls the module."""

    def forward(hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = hidden.flatten(0, 1)
        logits = rows @ mlp.router.weight.T + mlp.router.bias
        best = torch.topk(logits, mlp.router.top_k, dim=-1)
        scores = torch.softmax(best.values, dim=-1)
        out = mlp.experts(rows, best.indices, scores)
        return out.reshape(hidden.shape), scores

    return forward


def fused_otherwise(mlp: Any, *, moved: int, scale: float) -> Callable[[torch.Tensor], Any]:
    """As `fused`, but its experts are given others than the router would choose, or weights."""

    def forward(hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = hidden.flatten(0, 1)
        _, weights, indices = type(mlp.router).forward(mlp.router, rows)
        given = weights**scale / (weights**scale).sum(-1, keepdim=True)
        out = mlp.experts(rows, (indices + moved) % mlp.experts.num_experts, given)
        return out.reshape(hidden.shape), weights

    return forward


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"moved": 1, "scale": 1.0}, r"expert_indices of layer 1: .* other experts"),
        ({"moved": 0, "scale": 2.0}, "expert_weights of layer 1 differ by up to"),
    ],
)
def test_what_a_fused_block_gives_its_experts_is_compared_where_it_can_be_seen(
    tiny: LoadedModel, other: dict[str, Any], sentence: str
) -> None:
    mlp = tiny.model.model.layers[1].mlp
    mlp.forward = fused_otherwise(mlp, **other)
    with RoutingTap(tiny.model) as tap:
        tiny.model(token_ids(tiny))
    with pytest.raises(ModelError, match=sentence):
        tap.take()


def test_a_router_that_chooses_otherwise_is_refused_with_its_layer(tiny: LoadedModel) -> None:
    router = tiny.model.model.layers[1].mlp.router
    usual = router.forward
    router.forward = lambda hidden: (
        usual(hidden)[0],
        usual(hidden)[1],
        (usual(hidden)[2] + 1) % 8,
    )
    with RoutingTap(tiny.model, sites=("expert_indices",)) as tap:
        tiny.model(token_ids(tiny))
    with pytest.raises(ModelError, match=r"expert_indices of layer 1: .* other experts"):
        tap.take()


def test_softmax_before_top_k_is_refused(tiny: LoadedModel) -> None:
    router = tiny.model.model.layers[0].mlp.router
    usual = router.forward

    def softmax_first(hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits, _, indices = usual(hidden)
        return logits, torch.softmax(logits, -1).gather(-1, indices), indices

    router.forward = softmax_first
    with RoutingTap(tiny.model, sites=("expert_weights",)) as tap:
        tiny.model(token_ids(tiny))
    with pytest.raises(ModelError, match=r"expert_weights of layer 0 sum to .* expected 1"):
        tap.take()


def test_a_site_that_never_fires_is_named(tiny: LoadedModel) -> None:
    layer = tiny.model.model.layers[1]
    layer.forward = lambda hidden_states, **_: layer.mlp(hidden_states)[0]
    with RoutingTap(tiny.model, sites=("resid_mid",)) as tap:
        tiny.model(token_ids(tiny))
    with pytest.raises(ModelError, match="resid_mid of layer 1 was not seen"):
        tap.take()


def test_constant_routing_is_refused(tiny: LoadedModel) -> None:
    with torch.no_grad():
        tiny.model.model.layers[0].mlp.router.weight.zero_()
    with RoutingTap(tiny.model, sites=("expert_indices",)) as tap:
        tiny.model(token_ids(tiny))
    with pytest.raises(ModelError, match="router_logits of layer 0 are the same for all"):
        tap.take()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tokens_that_are_the_same_may_be_routed_alike(
    tiny: LoadedModel, dtype: torch.dtype
) -> None:
    with RoutingTap(tiny.model.to(dtype)) as tap:
        tiny.model(torch.tensor([[5], [5]]))
    logits = tap.take().router_logits
    assert logits is not None
    assert torch.equal(logits[0], logits[1])


def test_where_all_experts_are_chosen_no_rounding_changes_them() -> None:
    model = tiny_family("mixtral", num_experts_per_tok=8)
    with RoutingTap(model) as tap:
        model(torch.tensor([[5, 6, 7]]))
    margin = tap.take().selection_margin
    assert margin is not None
    assert margin.isposinf().all()
    assert margin.shape == (3, 3)


def test_nan_in_the_weights_is_refused(tiny: LoadedModel) -> None:
    with torch.no_grad():
        tiny.model.model.layers[0].mlp.router.bias[3] = float("nan")
    with RoutingTap(tiny.model, sites=("expert_indices",)) as tap:
        tiny.model(token_ids(tiny))
    with pytest.raises(ModelError, match="router_logits of layer 0 hold NaN"):
        tap.take()


def test_take_without_a_pass_says_so(tiny: LoadedModel) -> None:
    with (
        RoutingTap(tiny.model) as tap,
        pytest.raises(ModelError, match="resid_pre of layer 0 was not seen"),
    ):
        tap.take()


def test_a_second_take_without_a_pass_says_so(tiny: LoadedModel) -> None:
    with RoutingTap(tiny.model, sites=("resid_post",)) as tap:
        tiny.model(token_ids(tiny))
        tap.take()
        with pytest.raises(ModelError, match="resid_post of layer 0 was not seen in this pass"):
            tap.take()


def test_the_layers_whose_router_was_called_are_named(tiny: LoadedModel) -> None:
    mlp = tiny.model.model.layers[0].mlp
    mlp.forward = fused(mlp)
    with RoutingTap(tiny.model) as tap:
        tiny.model(token_ids(tiny))
    tap.take()
    assert tap.compared_layers == (1,)


def test_nan_in_the_residual_stream_is_refused(tiny: LoadedModel) -> None:
    with torch.no_grad():
        tiny.model.model.layers[1].mlp.experts.down_proj_bias.fill_(float("nan"))
    with RoutingTap(tiny.model, sites=("resid_post",)) as tap:
        tiny.model(token_ids(tiny))
    with pytest.raises(ModelError, match="resid_post of layer 1 holds NaN"):
        tap.take()


def test_an_edit_behind_the_tap_is_found_where_the_next_layer_is_recorded(
    tiny: LoadedModel,
) -> None:
    """As docs/capture.md says: a hook that was registered later is not in `resid_post`."""
    with RoutingTap(tiny.model) as tap:
        tiny.model.model.layers[0].register_forward_hook(lambda *given: given[2] * 2)
        tiny.model(token_ids(tiny))
    with pytest.raises(ModelError, match="resid_post of layer 0 is not resid_pre of layer 1"):
        tap.take()


def test_an_unknown_site_is_refused(tiny: LoadedModel) -> None:
    with pytest.raises(
        InputError, match=r"sites holds \['resid_past'\], expected some of resid_pre"
    ):
        RoutingTap(tiny.model, sites=("resid_past",))


def test_an_unknown_layer_is_refused(tiny: LoadedModel) -> None:
    with pytest.raises(InputError, match=r"layers holds \[2\], but the routed layers are \[0, 1\]"):
        RoutingTap(tiny.model, layers=[0, 2])


def test_a_dense_model_is_refused() -> None:
    dense = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(InputError, match="Sequential has no router"):
        RoutingTap(dense, sites=SITES)


# Several taps at a time, and copies of a model under one


def assert_same_records(first: PassRecords, second: PassRecords) -> None:
    for name in TOKEN_FIELDS:
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert first.resid.keys() == second.resid.keys()
    assert all(torch.equal(rows, second.resid[key]) for key, rows in first.resid.items())


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
@pytest.mark.parametrize("closed", list(permutations(range(3))))
def test_default_taps_may_be_nested_and_closed_in_any_order(
    tiny: LoadedModel, closed: tuple[int, ...], implementation: str
) -> None:
    model, ids = tiny.model, token_ids(tiny)
    model.set_experts_implementation(implementation)
    bare = model(ids, use_cache=True)
    taps = [RoutingTap(model).__enter__() for _ in closed]
    for number, place in enumerate(closed):
        tapped = model(ids, use_cache=True)
        assert torch.equal(bare.logits, tapped.logits)
        for one, other in zip(
            bare.past_key_values.layers, tapped.past_key_values.layers, strict=True
        ):
            assert torch.equal(one.keys, other.keys)
            assert torch.equal(one.values, other.values)
        first, *others = (taps[each].take() for each in closed[number:])
        for each in others:
            assert_same_records(first, each)
        taps[place].__exit__(None, None, None)
    assert not all_hooks(model)
    assert not any("forward" in vars(module) for module in model.modules())


def test_experts_are_run_once_for_all_taps(tiny: LoadedModel) -> None:
    experts = tiny.model.model.layers[0].mlp.experts
    calls: list[int] = []
    usual = experts.forward
    experts.forward = lambda *given, **named: (calls.append(len(given[0])), usual(*given))[1]
    own = experts.forward
    with RoutingTap(tiny.model), RoutingTap(tiny.model):
        tiny.model(token_ids(tiny))
    assert calls == [2 * token_ids(tiny).numel()]
    assert experts.forward is own


@pytest.mark.parametrize("site", ["input_layernorm", "mlp.experts", "mlp.router"])
def test_a_pass_that_fails_under_nested_taps_leaves_nothing_behind(
    tiny: LoadedModel, site: str
) -> None:
    model, ids = tiny.model, token_ids(tiny)
    bare = model(ids).logits
    with RoutingTap(model) as outer, RoutingTap(model) as inner:
        failing = model.model.layers[1].get_submodule(site)
        handle = failing.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(ids)
        handle.remove()
        assert torch.equal(model(ids).logits, bare)
        assert_same_records(outer.take(), inner.take())
    assert not all_hooks(model)
    assert not any("forward" in vars(module) for module in model.modules())


def test_what_somebody_put_around_the_experts_meanwhile_stays(tiny: LoadedModel) -> None:
    model, ids = tiny.model, token_ids(tiny)
    bare, experts = model(ids).logits, model.model.layers[0].mlp.experts
    with RoutingTap(model):
        within = experts.forward
        experts.forward = lambda *given, **named: within(*given, **named) * 2
    doubled = model(ids).logits
    assert not torch.equal(bare, doubled)
    with RoutingTap(model) as tap:
        assert torch.equal(model(ids).logits, doubled)
    tap.take()
    experts.forward = within
    assert torch.equal(model(ids).logits, bare)


def test_a_copy_made_under_a_tap_runs_its_own_experts(tiny: LoadedModel) -> None:
    model, ids = tiny.model, token_ids(tiny)
    expected = copy.deepcopy(model)
    with RoutingTap(model):
        copied = copy.deepcopy(model)
        for each in (copied, expected):
            with torch.no_grad():
                each.model.layers[0].mlp.experts.down_proj.mul_(2)
        assert torch.equal(copied(ids).logits, expected(ids).logits)
    assert torch.equal(copied(ids).logits, expected(ids).logits)
    assert not torch.equal(copied(ids).logits, model(ids).logits)
    with RoutingTap(copied) as tap:
        assert torch.equal(copied(ids).logits, expected(ids).logits)
    tap.take()


def test_passes_of_a_copy_are_not_those_of_the_model(tiny: LoadedModel) -> None:
    model, ids = tiny.model, token_ids(tiny)
    with RoutingTap(model) as tap:
        copied = copy.deepcopy(model)
        copied(ids)
        with pytest.raises(ModelError, match="resid_pre of layer 0 was not seen"):
            tap.take()
        model(ids)
        usual = tap.take()
        model(ids)
        copied(ids.flip(1))
        assert_same_records(tap.take(), usual)
