"""Interventions against copies of the model that were edited by hand, and what they leave behind.

The oracle of a reroute is the model's own router, run on a copy whose logits are edited where they
are made: by the bias in gpt-oss, elsewhere inside of `torch.nn.functional.linear`.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from jaxtyping import config
from torch import Tensor, nn
from torch.nn import functional

from interp.cache.errors import InputError, ModelError
from interp.cache.reader import open_store
from interp.cache.records import ROUTER_SITES, Prompt
from interp.hooks import CaptureSettings, PassRecords, RoutingTap, replay_routing, reroute
from interp.hooks.blocks import routed_blocks
from interp.hooks.capture import capture
from interp.hooks.load import LoadedModel
from interp.hooks.routing import choose
from tests.test_tap import all_hooks, fused
from tests.tiny_families import is_in_this_version, tiny_family

MINUS_INFINITY = float("-inf")
IDS = torch.randint(3, 96, (2, 9), generator=torch.Generator().manual_seed(1))
IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")
TWO_GROUPS: dict[str, Any] = {"n_group": 2, "topk_group": 1}
"""Groups of 4, so that one expert can be taken out and `top_k` 3 are left."""
SETTINGS: dict[str, dict[str, Any]] = {
    "gpt_oss": {},
    "mixtral": {},
    "olmoe": {},
    "granitemoe": {},
    "hunyuan_v1_moe": {},
    "deepseek_v2": TWO_GROUPS,
    "deepseek_v3": TWO_GROUPS,
    "glm4_moe": TWO_GROUPS,
    "ernie4_5_moe": {"moe_k": 3},
    "phimoe": {},
}
EVERY_FAMILY = pytest.mark.parametrize("family", list(filter(is_in_this_version, SETTINGS)))
SORTED = tuple(
    filter(is_in_this_version, ("gpt_oss", "mixtral", "olmoe", "granitemoe", "hunyuan_v1_moe"))
)
"""These hand their experts on by descending logit and weight."""
RANKED_BY_LOGITS = (*SORTED, "phimoe")
Pairs = Sequence[tuple[int, int]]


def model_of(family: str, *, implementation: str = "eager", dtype: Any = torch.float32) -> Any:
    model: Any = tiny_family(family, **SETTINGS[family]).to(dtype)
    model.set_experts_implementation(implementation)
    return model


def logits_of(model: Any, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(ids, use_cache=False).logits
    return logits


def recorded(model: Any, ids: Tensor = IDS) -> PassRecords:
    with RoutingTap(model) as tap:
        logits_of(model, ids)
    return tap.take()


def indices_of(records: PassRecords) -> Tensor:
    assert records.expert_indices is not None
    return records.expert_indices


def busiest(model: Any) -> Pairs:
    """The most used expert of every routed layer."""
    records = recorded(model)
    columns = indices_of(records).unbind(1)
    return [
        (layer, int(column.flatten().mode().values))
        for layer, column in zip(records.layer_indices, columns, strict=True)
    ]


def edited_by_hand(model: Any, experts: Pairs) -> Any:
    """A copy whose routers find `-inf` in the logits of the experts, before their own rule."""
    edited = copy.deepcopy(model)
    for block in routed_blocks(edited):
        out = [expert for layer, expert in experts if layer == block.layer]
        with torch.no_grad():
            if block.bias is not None:
                block.bias[out] = MINUS_INFINITY
                continue
            if block.correction_bias is not None:
                block.correction_bias[out] = MINUS_INFINITY
        router: Any = block.router
        router.forward = with_linear_edited(router.forward, out)
    return edited


def with_linear_edited(forward: Callable[..., Any], out: list[int]) -> Callable[..., Any]:
    usual = functional.linear

    def linear(*args: Tensor, **kwargs: Tensor) -> Tensor:
        logits = usual(*args, **kwargs)
        logits[..., out] = MINUS_INFINITY
        return logits

    def edited(*args: Any, **kwargs: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(functional, "linear", linear)
            return forward(*args, **kwargs)

    return edited


def bits(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers as bytes, which also tell one NaN from another."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {name: each.detach().contiguous().view(torch.uint8).clone() for name, each in tensors}


def assert_untouched(model: Any, before: dict[str, Tensor]) -> None:
    after = bits(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not all_hooks(model)
    assert not any(block.is_edited for block in routed_blocks(model))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@EVERY_FAMILY
def test_reroute_is_the_model_with_logits_at_minus_infinity(
    family: str, implementation: str
) -> None:
    model = model_of(family, implementation=implementation)
    experts, before, usual = busiest(model), bits(model), logits_of(model)
    expected = logits_of(edited_by_hand(model, experts))
    with reroute(model, experts):
        assert torch.equal(logits_of(model), expected)
    assert not torch.equal(usual, expected)
    assert torch.equal(logits_of(model), usual)
    assert_untouched(model, before)


@pytest.mark.parametrize("family", ["gpt_oss", "mixtral", "glm4_moe"])
def test_reroute_in_bfloat16_is_the_edited_model_too(family: str) -> None:
    model = model_of(family, dtype=torch.bfloat16)
    experts, before, usual = busiest(model), bits(model), logits_of(model)
    expected = logits_of(edited_by_hand(model, experts))
    with reroute(model, experts):
        assert torch.equal(logits_of(model), expected)
    assert torch.equal(logits_of(model), usual)
    assert_untouched(model, before)


@EVERY_FAMILY
def test_removed_experts_are_never_chosen_and_weights_still_sum_to_one(family: str) -> None:
    model = model_of(family)
    experts = busiest(model)
    with reroute(model, experts):
        records = recorded(model)
    assert records.expert_weights is not None
    for column, (layer, expert) in enumerate(experts):
        block = {each.layer: each for each in routed_blocks(model)}[layer]
        chosen = indices_of(records)[:, column]
        assert not (chosen == expert).any()
        assert (chosen.sort(-1).values.diff(dim=-1) > 0).all()
        sums = records.expert_weights[:, column].sum(-1)
        if block.weights_sum_to_one:
            torch.testing.assert_close(sums, torch.ones_like(sums))


@pytest.mark.parametrize("family", RANKED_BY_LOGITS)
def test_those_who_stay_keep_their_order_in_the_first_layer(family: str) -> None:
    model = model_of(family)
    usual, experts = recorded(model), busiest(model)[:1]
    assert usual.router_logits is not None
    block = routed_blocks(model)[0]
    ranked = [
        [expert for expert in row if expert != experts[0][1]][: block.top_k]
        for row in usual.router_logits[:, 0].argsort(-1, descending=True).tolist()
    ]
    with reroute(model, experts):
        chosen = indices_of(recorded(model))[:, 0]
    assert chosen.sort(-1).values.tolist() == [sorted(row) for row in ranked]
    if family == "gpt_oss":
        assert chosen.tolist() == ranked


def test_a_token_that_never_went_there_is_routed_as_before() -> None:
    model = model_of("gpt_oss")
    usual = indices_of(recorded(model))[:, 0]
    expert = int(usual[0, 0])
    with reroute(model, [(0, expert)]):
        rerouted = indices_of(recorded(model))[:, 0]
    elsewhere = ~(usual == expert).any(-1)
    assert 0 < elsewhere.sum() < len(usual)
    assert torch.equal(usual[elsewhere], rerouted[elsewhere])


def test_experts_whose_scores_are_too_small_for_their_dtype_stay_ahead_of_those_removed() -> None:
    block = routed_blocks(model_of("olmoe"))[0]
    row = torch.tensor([MINUS_INFINITY] * 5 + [0.0, -1000.0, -1000.0])
    logits = torch.stack([row.roll(shift) for shift in range(8)])
    chosen = choose(block, logits, hidden_dtype=torch.float32).expert_indices
    assert not logits.gather(-1, chosen).isneginf().any()


def fail() -> None:
    raise ZeroDivisionError("in the body")


@pytest.mark.parametrize("family", ["gpt_oss", "mixtral"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_everything_is_put_back_when_the_body_fails(family: str, dtype: torch.dtype) -> None:
    model = model_of(family, dtype=dtype)
    before, usual, records = bits(model), logits_of(model), recorded(model)
    with pytest.raises(ZeroDivisionError), reroute(model, busiest(model)):
        fail()
    with (
        pytest.raises(ZeroDivisionError),
        replay_routing(model, expert_indices=indices_of(records)),
    ):
        fail()
    assert_untouched(model, before)
    assert torch.equal(logits_of(model), usual)


def test_a_bias_that_is_not_a_number_comes_back_with_its_bits() -> None:
    model = model_of("gpt_oss")
    with torch.no_grad():
        payload = torch.tensor([0x7FC12345, -0x3FFEDC], dtype=torch.int32).view(torch.float32)
        routed_blocks(model)[0].bias[[1, 2]] = payload  # type: ignore[index]
    before = bits(model)
    with reroute(model, [(0, 1), (0, 2), (0, 3)]):
        assert (
            (bits(model)["model.layers.0.mlp.router.bias"])
            .ne(before["model.layers.0.mlp.router.bias"])
            .any()
        )
    assert_untouched(model, before)


@pytest.mark.parametrize("family", ["gpt_oss", "mixtral", "ernie4_5_moe"])
@pytest.mark.parametrize("first_out", ["inner", "outer"])
def test_reroutes_with_experts_in_common_may_be_closed_in_any_order(
    family: str, first_out: str
) -> None:
    model, last = model_of(family), 2
    one, other = [(last, 1), (last, 2), (1, 0)], [(last, 2), (last, 3), (1, 5)]
    before = bits(model)
    expected = {
        "both": logits_of(edited_by_hand(model, [*one, *other])),
        "inner": logits_of(edited_by_hand(model, one)),
        "outer": logits_of(edited_by_hand(model, other)),
    }
    outer, inner = reroute(model, one), reroute(model, other)
    outer.__enter__()
    inner.__enter__()
    assert torch.equal(logits_of(model), expected["both"])
    opened = {"outer": outer, "inner": inner}
    opened.pop(first_out).__exit__(None, None, None)
    assert torch.equal(logits_of(model), expected[first_out])
    opened.popitem()[1].__exit__(None, None, None)
    assert_untouched(model, before)


def test_a_reroute_opened_twice_is_open_until_both_are_closed() -> None:
    model = model_of("gpt_oss")
    before, expected = bits(model), logits_of(edited_by_hand(model, [(0, 4)]))
    with reroute(model, [(0, 4)]):
        with reroute(model, [(0, 4)]):
            pass
        assert torch.equal(logits_of(model), expected)
    assert_untouched(model, before)


def test_a_reroute_opened_in_inference_mode_is_put_back_outside_of_it() -> None:
    model = model_of("gpt_oss")
    before, opened = bits(model), reroute(model, [(0, 4)])
    with torch.inference_mode():
        opened.__enter__()
    opened.__exit__(None, None, None)
    assert_untouched(model, before)


def without_router(block: Any) -> Callable[[Tensor], Tensor]:
    """A fused forward of a block of mixtral: the router's weights are read, its module is not."""

    def forward(hidden: Tensor) -> Tensor:
        rows = hidden.flatten(0, 1)
        best = torch.topk((rows @ block.gate.weight.T).softmax(-1), 2, dim=-1)
        weights = best.values / best.values.sum(-1, keepdim=True)
        out: Tensor = block.experts(rows, best.indices, weights)
        return out.reshape(hidden.shape)

    return forward


def test_reroute_works_under_a_fused_kernel_that_reads_the_bias() -> None:
    model = model_of("gpt_oss")
    experts = busiest(model)
    expected = logits_of(edited_by_hand(model, experts))
    for layer in model.model.layers:
        layer.mlp.forward = fused(layer.mlp)
    with reroute(model, experts), RoutingTap(model) as tap:
        assert torch.equal(logits_of(model), expected)
    chosen = indices_of(tap.take())
    assert not (chosen == torch.tensor([expert for _, expert in experts])[:, None]).any()


@pytest.mark.parametrize("family", ["gpt_oss", "mixtral"])
def test_what_needs_the_router_says_so_under_a_fused_kernel(family: str) -> None:
    model = model_of(family)
    records = recorded(model)
    mlp = model.model.layers[1].mlp
    mlp.forward = fused(mlp) if family == "gpt_oss" else without_router(mlp)
    sentence = "replay_routing had no effect on layer 1: a fused kernel ran the experts and never"
    with (
        replay_routing(model, expert_indices=indices_of(records)),
        pytest.raises(ModelError, match=sentence),
    ):
        logits_of(model)
    assert not all_hooks(model)


def test_reroute_without_a_bias_says_so_under_a_fused_kernel() -> None:
    model = model_of("mixtral")
    mlp = model.model.layers[2].mlp
    mlp.forward = without_router(mlp)
    with reroute(model, [(1, 0)]):
        logits_of(model)
    with (
        reroute(model, [(1, 0), (2, 0)]),
        pytest.raises(ModelError, match="reroute had no effect on layer 2: a fused kernel"),
    ):
        logits_of(model)
    assert not all_hooks(model)


def compiled_whole(model: Any) -> Any:
    return torch.compile(model, backend="eager")


def compiled_in_place(model: Any) -> Any:
    model.compile(backend="eager")
    return model


def compiled_layer(model: Any) -> Any:
    model.model.layers[1].compile(backend="eager")
    return model


def compiled_forward(model: Any) -> Any:
    model.forward = torch.compile(model.forward, backend="eager")
    return model


COMPILED = pytest.mark.parametrize(
    "compiled", [compiled_whole, compiled_in_place, compiled_layer, compiled_forward]
)


@COMPILED
def test_what_needs_hooks_is_refused_on_a_compiled_model(compiled: Callable[[Any], Any]) -> None:
    """Such hooks are not run, so that nothing would change, and nothing be said."""
    model = model_of("mixtral")
    indices = indices_of(recorded(model))
    model = compiled(model)
    for open_it in (
        lambda: reroute(model, [(1, 0)]).__enter__(),
        lambda: replay_routing(model, expert_indices=indices).__enter__(),
        lambda: RoutingTap(model),
    ):
        with pytest.raises(InputError, match=r"was compiled by torch.compile, which runs it with"):
            open_it()
    assert not all_hooks(model)


@pytest.mark.slow
@COMPILED
def test_reroute_by_the_bias_works_on_a_compiled_model(compiled: Callable[[Any], Any]) -> None:
    torch.compiler.reset()
    model = model_of("gpt_oss")
    experts = busiest(model)
    edited = edited_by_hand(model, experts)
    expected, model = logits_of(edited), compiled(model)
    usual = logits_of(model)
    with reroute(model, experts):
        torch.testing.assert_close(logits_of(model), expected)
    assert not torch.allclose(usual, expected)
    assert torch.equal(logits_of(model), usual)


def test_reroute_of_an_offloaded_layer_goes_through_its_router() -> None:
    model = model_of("gpt_oss")
    experts = busiest(model)
    expected = logits_of(edited_by_hand(model, experts))
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    with reroute(model, experts):
        assert all(block.is_edited for block in routed_blocks(model))
        assert torch.equal(logits_of(model), expected)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@EVERY_FAMILY
def test_replay_of_its_own_routing_changes_no_bit(family: str, implementation: str) -> None:
    model = model_of(family, implementation=implementation)
    usual, records, before = logits_of(model), recorded(model), bits(model)
    for weights in (records.expert_weights, None):
        with replay_routing(model, expert_indices=indices_of(records), expert_weights=weights):
            assert torch.equal(logits_of(model), usual)
    assert_untouched(model, before)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("family", SORTED)
def test_replay_of_another_models_routing_gives_its_output(
    family: str, implementation: str
) -> None:
    model = model_of(family, implementation=implementation)
    other = shifted(model)
    expected, records = logits_of(other), recorded_experts(other)
    assert not torch.equal(expected, logits_of(model))
    with replay_routing(model, expert_indices=records.indices, expert_weights=records.weights):
        assert torch.equal(logits_of(model), expected)


def shifted(model: Any) -> Any:
    """A copy that routes otherwise and is the same in all else."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for block in routed_blocks(other):
            tensor = block.weight if block.bias is None else block.bias
            tensor += torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
    return other


class GivenToExperts:
    """What the experts of each layer were called with, seen by a hook of the test's own."""

    def __init__(self, model: Any) -> None:
        self.of_layers: dict[int, tuple[Tensor, Tensor]] = {}
        for block in routed_blocks(model):
            block.experts.register_forward_pre_hook(self._keep(block.layer), with_kwargs=True)

    def _keep(self, layer: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            _, indices, weights = (*args, *kwargs.values())
            self.of_layers[layer] = (indices.clone(), weights.clone())

        return hook

    @property
    def indices(self) -> Tensor:
        return torch.stack([indices for indices, _ in self.of_layers.values()], dim=1)

    @property
    def weights(self) -> Tensor:
        return torch.stack([weights for _, weights in self.of_layers.values()], dim=1)


def recorded_experts(model: Any, ids: Tensor = IDS) -> GivenToExperts:
    watched = copy.deepcopy(model)
    given = GivenToExperts(watched)
    logits_of(watched, ids)
    return given


def weights_by_hand(family: str, logits: list[float], chosen: list[int], router: Any) -> Tensor:
    """The weights of one token, for experts that its router might not have chosen."""
    of_all = torch.tensor(logits)
    if family == "gpt_oss":
        return of_all[chosen].exp() / of_all[chosen].exp().sum()
    if family in ("mixtral", "olmoe"):
        shares = of_all[chosen].exp() / of_all.exp().sum()
        return shares / shares.sum() if family == "mixtral" else shares
    if family in ("deepseek_v3", "glm4_moe"):
        scores = 1 / (1 + (-of_all[chosen]).exp())
        return 2.5 * (scores / scores.sum() if family == "deepseek_v3" else scores)
    return sparsemixer_by_hand(logits, chosen, 2 * router.router_jitter_noise)


def sparsemixer_by_hand(logits: list[float], chosen: list[int], limit: float) -> Tensor:
    first, second = sorted(chosen, key=lambda expert: -logits[expert])
    weights, left = {}, set(range(len(logits)))
    for expert in (first, second):
        best = max(logits[each] for each in left)
        close = [e for e in left if (best - logits[e]) / max(abs(logits[e]), best) <= limit]
        total = sum(torch.tensor(logits[each]).exp() for each in close)
        weights[expert] = torch.tensor(logits[expert]).exp() / total if expert in close else 0.0
        left.remove(expert)
    return torch.tensor([weights[expert] for expert in chosen])


@pytest.mark.parametrize(
    "family", ["gpt_oss", "mixtral", "olmoe", "deepseek_v3", "glm4_moe", "phimoe"]
)
def test_without_weights_they_are_those_of_the_familys_rule(family: str) -> None:
    model = model_of(family)
    block = routed_blocks(model)[0]
    replayed = indices_of(recorded(shifted(model)))
    with replay_routing(model, expert_indices=replayed), RoutingTap(model) as tap:
        logits_of(model)
    records = tap.take()
    given = recorded_with(model, replayed)
    assert records.router_logits is not None
    for token, logits in enumerate(records.router_logits[:, 0].tolist()):
        chosen = given.indices[token, 0].tolist()
        assert sorted(chosen) == sorted(replayed[token, 0].tolist())
        expected = weights_by_hand(family, logits, chosen, block.router)
        torch.testing.assert_close(given.weights[token, 0], expected, rtol=1e-5, atol=1e-6)


def recorded_with(model: Any, replayed: Tensor) -> GivenToExperts:
    watched = copy.deepcopy(model)
    given = GivenToExperts(watched)
    with replay_routing(watched, expert_indices=replayed):
        logits_of(watched)
    return given


@pytest.mark.parametrize("family", ["gpt_oss", "mixtral", "deepseek_v3"])
def test_with_rows_only_those_tokens_are_replayed(family: str) -> None:
    model = model_of(family)
    usual, other, usual_logits = recorded(model), recorded(shifted(model)), logits_of(model)
    of_usual, of_other = (indices_of(each)[:, 0].sort(-1).values for each in (usual, other))
    rows = (of_usual != of_other).any(-1).nonzero()[:, 0][[-1, 2]]
    with (
        RoutingTap(model) as tap,
        replay_routing(
            model,
            expert_indices=indices_of(other)[rows][:, :1],
            layers=usual.layer_indices[:1],
            rows=rows,
        ),
    ):
        logits = logits_of(model)
    expected = of_usual.clone()
    expected[rows] = of_other[rows]
    assert torch.equal(indices_of(tap.take())[:, 0].sort(-1).values, expected)
    difference = (logits - usual_logits).abs().amax(-1).flatten()
    assert (difference[rows] > 1e-3).all()
    is_read = torch.zeros_like(IDS, dtype=torch.bool)
    for row in rows.tolist():
        is_read[row // IDS.shape[1], row % IDS.shape[1] :] = True
    assert difference[~is_read.flatten()].max() < 1e-4  # what comes before a token does not read it


def test_replayed_layers_may_be_given_in_any_order() -> None:
    model = model_of("gpt_oss")
    usual, records = logits_of(model), recorded(model)
    with replay_routing(model, expert_indices=indices_of(records)[:, [2, 0]], layers=[2, 0]):
        assert torch.equal(logits_of(model), usual)


def test_other_tokens_than_recorded_are_refused_in_the_pass() -> None:
    model = model_of("gpt_oss")
    indices = indices_of(recorded(model))
    with (
        replay_routing(model, expert_indices=indices),
        pytest.raises(ModelError, match=r"layer 0 routes 16 tokens in this pass, .* holds 18"),
    ):
        logits_of(model, IDS[:, :8])
    with (
        replay_routing(model, expert_indices=indices[:1], rows=torch.tensor([17])),
        pytest.raises(ModelError, match=r"rows holds 17, but layer 0 routes only 16 tokens"),
    ):
        logits_of(model, IDS[:, :8])
    assert not all_hooks(model)


def test_a_replayed_expert_without_a_logit_needs_weights() -> None:
    model = model_of("gpt_oss")
    records, expected = recorded(model), logits_of(model)
    edited = edited_by_hand(model, busiest(model))
    with (
        replay_routing(edited, expert_indices=indices_of(records)),
        pytest.raises(ModelError, match="expert_indices of layer 0 holds an expert whose logit"),
    ):
        logits_of(edited)
    with replay_routing(
        edited, expert_indices=indices_of(records), expert_weights=records.expert_weights
    ):
        assert torch.equal(logits_of(edited), expected)


def test_routing_read_from_a_store_can_be_replayed(tiny: LoadedModel, tmp_path: Path) -> None:
    other = shifted(tiny.model)
    texts = ("two plus two", "my cat won't eat her food")
    prompts = [Prompt(text=text, condition="organic", source="here") for text in texts]
    capture(
        replace(tiny, model=other),
        prompts,
        tmp_path / "run.moe",
        settings=CaptureSettings(batch_tokens=1),  # each by itself, as when it is replayed
        progress=False,
    )
    store = open_store(tmp_path / "run.moe")
    routing = store.router()
    ids = [torch.from_numpy(store.token_id[store.prompt_index == each])[None] for each in (0, 1)]
    for index, of_prompt in enumerate(ids):
        kept = store.prompt_index == index
        with replay_routing(
            tiny.model,
            expert_indices=routing.expert_indices[kept],
            expert_weights=routing.expert_weights[kept],
            layers=routing.layer_indices,
        ):
            replayed = logits_of(tiny.model, of_prompt.long())
        assert torch.equal(replayed, logits_of(other, of_prompt.long()))
        assert not torch.equal(replayed, logits_of(tiny.model, of_prompt.long()))


def rerouted(model: Any) -> Any:
    return reroute(model, busiest(model))


def replayed_from_another(model: Any) -> Any:
    records = recorded(shifted(model))
    return replay_routing(
        model, expert_indices=indices_of(records), expert_weights=records.expert_weights
    )


@pytest.mark.parametrize("intervention", [rerouted, replayed_from_another])
@pytest.mark.parametrize("family", ["gpt_oss", "mixtral", "deepseek_v3", "phimoe"])
def test_taps_opened_before_and_after_record_what_was_run(
    family: str, intervention: Callable[[Any], Any]
) -> None:
    model = model_of(family)
    opened, given = intervention(model), GivenToExperts(model)
    with RoutingTap(model) as before, opened:
        is_edited = [block.is_edited for block in routed_blocks(model)]
        with RoutingTap(model) as after:
            logits_of(model)
    first, second = before.take(), after.take()
    for site in ROUTER_SITES:
        assert torch.equal(getattr(first, site), getattr(second, site))
    run, found = (
        by_expert(given.indices, given.weights),
        by_expert(indices_of(first), first.expert_weights),
    )
    assert all(torch.equal(*pair) for pair in zip(run, found, strict=True))
    is_by_bias = family == "gpt_oss" and intervention is rerouted
    assert is_edited == [not is_by_bias] * len(is_edited)
    assert bool(before.compared_layers) == bool(after.compared_layers) == is_by_bias


def by_expert(indices: Tensor, weights: Any) -> tuple[Tensor, Tensor]:
    order = indices.argsort(-1)
    return indices.gather(-1, order), weights.gather(-1, order)


def test_the_rest_of_the_self_check_stays_under_an_intervention() -> None:
    model = model_of("mixtral")
    with torch.no_grad():
        routed_blocks(model)[1].weight[3, 0] = float("nan")
    with reroute(model, [(1, 0)]), RoutingTap(model, sites=("expert_indices",)) as tap:
        logits_of(model)
    with pytest.raises(ModelError, match="router_logits of layer 1 hold NaN"):
        tap.take()


def test_layers_without_an_intervention_are_still_compared() -> None:
    model = model_of("mixtral")
    with reroute(model, [(1, 0)]), RoutingTap(model) as tap:
        logits_of(model)
    tap.take()
    assert tap.compared_layers == (0, 2)


def test_one_layer_rerouted_and_another_replayed() -> None:
    model = model_of("mixtral")
    indices = indices_of(recorded(model))
    with (
        RoutingTap(model) as tap,
        reroute(model, [(0, 1)]),
        replay_routing(model, expert_indices=indices[:, 1:], layers=[1, 2]),
    ):
        logits_of(model)
    found = indices_of(tap.take())
    assert torch.equal(found[:, 1:].sort(-1).values, indices[:, 1:].sort(-1).values)
    assert not torch.equal(found[:, 0], indices[:, 0])


@pytest.mark.parametrize("family", ["gpt_oss", "mixtral"])
def test_a_layer_is_rerouted_or_replayed_not_both(family: str) -> None:
    model = model_of(family)
    indices = indices_of(recorded(model))
    replay = {"expert_indices": indices}
    with reroute(model, [(1, 1)]), pytest.raises(InputError, match="layer 1 is under reroute"):
        replay_routing(model, **replay).__enter__()
    with replay_routing(model, **replay):
        with pytest.raises(InputError, match="layer 1 is under replay_routing already"):
            reroute(model, [(1, 1)]).__enter__()
        with pytest.raises(InputError, match="layer 0 is under replay_routing already"):
            replay_routing(model, **replay).__enter__()
    assert not all_hooks(model)


@pytest.mark.parametrize(
    ("experts", "sentence"),
    [
        ([], "experts is empty, expected pairs of layer and expert"),
        ([(3, 0)], r"experts holds layer 3, but the routed layers are \[0, 1, 2\]"),
        ([(1, 8)], r"expert 8 of layer 1, but the layer has only 8 experts \(0 to 7\)"),
        ([(1, -1)], "experts holds expert -1 of layer 1"),
        ([(2, e) for e in range(7)], "leaves 1 of 8 experts in layer 2, but each token needs 2"),
    ],
)
@pytest.mark.parametrize("family", ["gpt_oss", "mixtral"])
def test_what_cannot_be_rerouted_is_refused(family: str, experts: Any, sentence: str) -> None:
    model = model_of(family)
    before = bits(model)
    with pytest.raises(InputError, match=sentence), reroute(model, experts):
        pass
    assert_untouched(model, before)


@pytest.mark.parametrize("family", ["gpt_oss", "mixtral"])
def test_nested_reroutes_count_together(family: str) -> None:
    model = model_of(family)
    before = bits(model)
    with reroute(model, [(0, expert) for expert in range(4)]):
        with reroute(model, [(0, 4), (0, 5)]):
            assert set(indices_of(recorded(model))[:, 0].flatten().tolist()) == {6, 7}
        with (
            pytest.raises(InputError, match="experts leaves 1 of 8 experts in layer 0"),
            reroute(model, [(0, 5), (0, 6), (0, 7)]),
        ):
            pass
    assert_untouched(model, before)


@pytest.mark.parametrize(
    ("family", "settings", "experts", "sentence"),
    [
        # A group that is ranked by the sum of its two best needs two.
        ("deepseek_v3", {}, [0], r"groups of \[1, 2, 2, 2\] experts in layer 1"),
        ("glm4_moe", TWO_GROUPS, [0, 1], r"groups of \[2, 4\] experts .* 3 experts from 1 groups"),
        ("deepseek_v2", {}, [0, 2], r"groups of \[1, 1, 2, 2\] experts in layer 1"),
        # Only one group is left, and each token chooses two.
        ("deepseek_v2", {"num_experts_per_tok": 2}, range(6), r"groups of \[2\] experts"),
    ],
)
def test_groups_that_might_not_hold_enough_experts_are_refused(
    family: str, settings: dict[str, Any], experts: Sequence[int], sentence: str
) -> None:
    model = tiny_family(family, **settings)
    with (
        pytest.raises(InputError, match=sentence),
        reroute(model, [(1, expert) for expert in experts]),
    ):
        pass


@pytest.mark.parametrize(
    ("family", "experts"),
    [("deepseek_v3", (2, 3)), ("deepseek_v2", (2, 3)), ("deepseek_v2", (5,))],
)
def test_whole_groups_and_what_leaves_enough_may_be_taken_out(
    family: str, experts: tuple[int, ...]
) -> None:
    model = tiny_family(family)
    pairs = [(1, expert) for expert in experts]
    expected = logits_of(edited_by_hand(model, pairs))
    with reroute(model, pairs), RoutingTap(model) as tap:
        assert torch.equal(logits_of(model), expected)
    assert not torch.isin(indices_of(tap.take())[:, 0], torch.tensor(experts)).any()


@pytest.mark.slow
def test_experts_of_one_layer_only_of_many_may_be_taken_out_in_every_allowed_way() -> None:
    model = tiny_family("deepseek_v2")
    block = routed_blocks(model)[0]
    logits = torch.randn(64, 8, generator=torch.Generator().manual_seed(3)) * 4
    n_allowed = 0
    for code in range(1, 2**8):
        experts = [expert for expert in range(8) if code >> expert & 1]
        try:
            with reroute(model, [(1, expert) for expert in experts]):
                pass
        except InputError:
            continue
        left = logits.clone()
        left[:, experts] = MINUS_INFINITY
        chosen = choose(block, left, hidden_dtype=torch.float32).expert_indices
        n_allowed += 1
        assert not torch.isin(chosen, torch.tensor(experts)).any()
    assert n_allowed > 8


def changed(indices: Tensor, place: tuple[int, int, int], expert: int) -> Tensor:
    other = indices.clone()
    other[place] = expert
    return other


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda i: {"expert_indices": i[:, :2]}, r"shape \(18, 2, 2\), expected tokens, 3 layers"),
        (lambda i: {"expert_indices": i[..., :1]}, "3 layers and 2 experts each"),
        (lambda i: {"expert_indices": i[:0]}, r"shape \(0, 3, 2\), expected tokens"),
        (lambda i: {"expert_indices": changed(i, (4, 1, 0), 8)}, "holds expert 8, but the layers"),
        (lambda i: {"expert_indices": changed(i, (4, 1, 0), -1)}, "holds expert -1, but the"),
        (
            lambda i: {"expert_indices": changed(i, (4, 1, 0), int(i[4, 1, 1]))},
            "holds an expert twice for token 4 in layer 1",
        ),
        (
            lambda i: {"expert_indices": i, "expert_weights": torch.full(i.shape, torch.nan)},
            "expert_weights holds NaN or infinity",
        ),
        (lambda i: {"expert_indices": i, "layers": [0, 1, 7]}, r"layers holds \[7\], but"),
        (lambda i: {"expert_indices": i, "layers": [0, 1, 1]}, "expected each layer once"),
        (
            lambda i: {"expert_indices": i, "rows": torch.arange(18) - 1},
            "rows holds a negative position or one twice",
        ),
        (
            lambda i: {"expert_indices": i[:2], "rows": torch.tensor([3, 3])},
            "rows holds a negative position or one twice",
        ),
    ],
)
def test_records_that_do_not_fit_are_refused_before_anything_runs(
    edit: Callable[[Tensor], dict[str, Any]], sentence: str
) -> None:
    model = model_of("gpt_oss")
    indices = indices_of(recorded(model))
    with pytest.raises(InputError, match=sentence), replay_routing(model, **edit(indices)):
        pass
    assert not all_hooks(model)


@pytest.fixture
def as_users_run_it() -> Iterator[None]:
    """Without the shape checks of the tests, which would refuse before the sentence is said."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda i: {"expert_indices": i[0]}, r"expert_indices has the shape \(3, 2\), expected"),
        (
            lambda i: {"expert_indices": i, "expert_weights": torch.ones(18, 3, 1)},
            r"expert_weights has the shape \(18, 3, 1\), expected that of .* \(18, 3, 2\)",
        ),
        (
            lambda i: {"expert_indices": i, "rows": torch.arange(4)},
            r"rows has the shape \(4,\), expected one for each of the 18 tokens",
        ),
    ],
)
def test_records_of_another_shape_are_refused(
    edit: Callable[[Tensor], dict[str, Any]], sentence: str
) -> None:
    model = model_of("gpt_oss")
    indices = indices_of(recorded(model))
    with pytest.raises(InputError, match=sentence), replay_routing(model, **edit(indices)):
        pass


def test_generation_goes_on_under_a_reroute_and_replay_refuses_the_second_pass() -> None:
    model = model_of("gpt_oss")
    ids, experts = IDS[:1, :6], busiest(model)
    expected = edited_by_hand(model, experts).generate(ids, max_new_tokens=5, do_sample=False)
    with reroute(model, experts):
        assert torch.equal(model.generate(ids, max_new_tokens=5, do_sample=False), expected)
    indices = indices_of(recorded(model, ids))
    with (
        replay_routing(model, expert_indices=indices),
        pytest.raises(ModelError, match="layer 0 routes 1 tokens in this pass"),
    ):
        model.generate(ids, max_new_tokens=5, do_sample=False)
