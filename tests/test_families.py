"""Each family's records against the same by hand, and what is said of models that are none."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, batched_mm_experts_forward

from interp.cache.errors import InputError, ModelError
from interp.cache.records import RESID_SITES, ROUTER_SITES, SITES
from interp.hooks.blocks import RoutedBlock, attribute, routed_blocks
from interp.hooks.pass_records import TOKEN_FIELDS, PassRecords
from interp.hooks.spec import SPECS, UNSUPPORTED, ModelSpec
from interp.hooks.spec_table import families_table, unsupported_table
from interp.hooks.tap import RoutingTap
from tests.reference_routers import ByHand, handed_on, route_by_hand
from tests.tiny_families import FAMILIES, OF_SPECS, is_in_this_version, tiny_family

PAGE = Path(__file__).resolve().parents[1] / "docs/models.md"
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)
EVERY_DTYPE = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
CHOICE_SITES = ("expert_indices", "expert_weights", "router_logits")
FOR_READERS = {"family", "shared_experts", "dense_layers", "remark"}
"""Fields of a spec that no record depends on."""
TOLERANCE = 2e-6
"""Of the largest value: about 16 float32 roundings; the largest difference measured is 3e-7."""


def token_ids() -> Tensor:
    """Two sequences, so that rows of `(batch pos)` can be mixed up."""
    return torch.randint(3, 96, (2, 9), generator=torch.Generator().manual_seed(1))


@cache
def shared(family: str, dtype: torch.dtype = torch.float32) -> Any:
    """A model that no test changes."""
    return tiny_family(family, dtype=dtype).requires_grad_(False)


def tapped(model: nn.Module, sites: tuple[str, ...] = SITES) -> tuple[Tensor, PassRecords]:
    with RoutingTap(model, sites=sites) as tap:
        output = model(token_ids()).logits
    return output, tap.take()


def assert_close(found: Tensor, wanted: Tensor) -> None:
    limit = TOLERANCE * float(wanted.abs().max())
    torch.testing.assert_close(found.double(), wanted.double(), rtol=0, atol=limit)


# Records against the same by hand


def states_without_hooks(model: Any) -> list[Tensor]:
    """What each layer receives, and what the last hands on: before the final norm."""
    bare = copy.deepcopy(model)
    bare.model.norm = nn.Identity()
    states = bare.model(token_ids(), output_hidden_states=True).hidden_states
    return [state.flatten(0, 1) for state in states]


def state_if_experts_wrote_nothing(model: Any, block: RoutedBlock) -> Tensor:
    """What a layer hands on where all its experts, the shared ones too, put out zeros."""
    cut = copy.deepcopy(model)
    for name, weight in cut.model.layers[block.layer].named_parameters():
        if "down_proj" in name:
            weight.zero_()
    return states_without_hooks(cut)[block.layer + 1]


@cache
def compared(family: str) -> list[tuple[RoutedBlock, dict[str, Tensor], ByHand, Tensor]]:
    """By layer: records, the same by hand, and what the routed block receives."""
    model = shared(family)
    with RoutingTap(model) as tap:
        model(token_ids())
    records = tap.take()
    found = []
    for place, block in enumerate(tap.blocks):
        own = {site: getattr(records, site)[:, place] for site in ROUTER_SITES}
        own |= {site: records.resid[site, block.layer] for site in RESID_SITES}
        resid_mid, decoder = own["resid_mid"], model.model.layers[block.layer]
        is_normed = family != "flex_olmo"
        read = decoder.post_attention_layernorm(resid_mid) if is_normed else resid_mid
        found.append((block, own, route_by_hand(family, block.moe, model.config, read), read))
    return found


@EVERY_FAMILY
def test_residual_sites_are_what_the_model_computes_without_hooks(family: str) -> None:
    model = shared(family)
    states = states_without_hooks(model)
    for block, own, _, read in compared(family):
        assert torch.equal(own["resid_pre"], states[block.layer])
        assert torch.equal(own["resid_post"], states[block.layer + 1])
        decoder = model.model.layers[block.layer]
        kept = read * decoder.mlp_alpha_factor if family == "minimax" else own["resid_mid"]
        assert torch.equal(kept, state_if_experts_wrote_nothing(model, block))


@EVERY_FAMILY
def test_routing_is_that_of_the_rule_by_hand(family: str) -> None:
    for _, own, by_hand, _ in compared(family):
        assert by_hand.margin > 5e-6, "a rounding could change the choice or its order"
        assert torch.equal(own["expert_indices"], by_hand.expert_indices)
        assert_close(own["expert_weights"], by_hand.expert_weights)
        assert_close(own["router_logits"], by_hand.router_logits)
        assert_close(own["expert_output_norms"], by_hand.expert_output_norms)


@EVERY_FAMILY
def test_experts_by_hand_with_the_recorded_weights_give_resid_post(family: str) -> None:
    model = shared(family)
    for block, own, by_hand, read in compared(family):
        wanted = handed_on(
            family,
            model.model.layers[block.layer],
            block.moe,
            resid_mid=own["resid_mid"].double(),
            moe_input=read.double(),
            routed=by_hand.routed,
        )
        assert_close(own["resid_post"], wanted)


@pytest.mark.parametrize("family", ["deepseek_v3", "glm4_moe", "ernie4_5_moe", "deepseek_v2"])
def test_top_k_of_the_logits_is_not_the_choice(family: str) -> None:
    for block, own, _, _ in compared(family):
        largest = own["router_logits"].topk(block.top_k).indices.sort(-1).values
        chosen = own["expert_indices"].sort(-1).values
        assert (largest != chosen).any(-1).float().mean() > 0.25


@EVERY_FAMILY
def test_weights_sum_to_one_where_the_spec_says_so(family: str) -> None:
    for block, own, _, _ in compared(family):
        sums = own["expert_weights"].sum(-1)
        assert bool(((sums - 1).abs() < 1e-6).all()) == block.weights_sum_to_one


# The output, whichever way the experts are run


def summed_backwards(
    self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """Experts as somebody else may register them: the last rank first, each rounded."""
    total = torch.zeros_like(hidden_states)
    for rank in reversed(range(top_k_index.shape[-1])):
        chosen = slice(rank, rank + 1)
        total = total + batched_mm_experts_forward(
            self, hidden_states, top_k_index[:, chosen], top_k_weights[:, chosen]
        )
    return total


@contextmanager
def experts_run_by(model: Any, implementation: str) -> Iterator[None]:
    ALL_EXPERTS_FUNCTIONS["in_order_of_rank"] = batched_mm_experts_forward
    ALL_EXPERTS_FUNCTIONS["summed_backwards"] = summed_backwards
    before = model.config._experts_implementation
    model.set_experts_implementation(implementation)
    try:
        yield
    finally:
        model.set_experts_implementation(before)
        del ALL_EXPERTS_FUNCTIONS["in_order_of_rank"], ALL_EXPERTS_FUNCTIONS["summed_backwards"]


@EVERY_FAMILY
@EVERY_DTYPE
@pytest.mark.parametrize("name", ["eager", "batched_mm", "grouped_mm", "in_order_of_rank"])
def test_output_is_bit_identical_with_all_sites(family: str, dtype: torch.dtype, name: str) -> None:
    model = shared(family, dtype)
    with experts_run_by(model, name):
        assert torch.equal(tapped(model)[0], model(token_ids()).logits)


@pytest.mark.slow
@EVERY_FAMILY
@EVERY_DTYPE
def test_a_registered_sum_of_unknown_order_is_bit_identical_without_norms(
    family: str, dtype: torch.dtype
) -> None:
    model = shared(family, dtype)
    with experts_run_by(model, "summed_backwards"):
        bare = model(token_ids()).logits
        output, _ = tapped(model, (*RESID_SITES, *CHOICE_SITES))
        with_norms, _ = tapped(model)
    assert torch.equal(output, bare)
    if dtype == torch.float32:
        torch.testing.assert_close(with_norms, bare, rtol=1e-5, atol=1e-5)


def gradients(model: Any) -> dict[str, Tensor]:
    model.zero_grad()
    model(token_ids()).logits.square().mean().backward()
    return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("family", ["gpt_oss", "mixtral"])
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_gradients_are_those_without_a_tap(family: str, implementation: str) -> None:
    model: Any = tiny_family(family)
    model.set_experts_implementation(implementation)
    bare = gradients(model)
    with RoutingTap(model) as tap:
        tapped = gradients(model)
    assert bare.keys() == tapped.keys()
    for name, expected in bare.items():
        assert expected.abs().max() > 0
        limit = TOLERANCE * float(expected.abs().max())
        torch.testing.assert_close(tapped[name], expected, rtol=0, atol=limit, msg=name)
    records = tap.take()
    kept = [getattr(records, name) for name in TOKEN_FIELDS] + list(records.resid.values())
    assert not any(each.requires_grad for each in kept)


@pytest.mark.slow
@EVERY_FAMILY
def test_records_do_not_depend_on_how_the_experts_are_run(family: str) -> None:
    model = shared(family)
    with experts_run_by(model, "eager"):
        _, usual = tapped(model)
    for name in ("batched_mm", "grouped_mm", "in_order_of_rank", "summed_backwards"):
        with experts_run_by(model, name):
            _, records = tapped(model)
        assert torch.equal(records.expert_indices, usual.expert_indices)
        for site in ("expert_weights", "router_logits", "expert_output_norms"):
            found, wanted = getattr(records, site), getattr(usual, site)
            torch.testing.assert_close(found, wanted, rtol=2e-5, atol=2e-5)
        for key, wanted in usual.resid.items():
            torch.testing.assert_close(records.resid[key], wanted, rtol=2e-5, atol=2e-5)


# A fused kernel, which calls neither router nor experts

SCORED_BY_SIGMOID = pytest.mark.parametrize(
    "family", [each for each in ("flint", "olmoe") if is_in_this_version(each)]
)


def scored_by_sigmoid(family: str) -> nn.Module:
    """A model built as olmoe with a sigmoid for its softmax: flint, or olmoe with such a router."""
    if family == "flint":
        return tiny_family(family)
    model = tiny_family(family, norm_topk_prob=True)
    for block in routed_blocks(model):
        changed = {"forward": lambda self, hidden: with_sigmoid(self)(hidden)}
        block.router.__class__ = type("SigmoidRouter", (type(block.router),), changed)
    return model


def fuse(model: Any) -> None:
    for block in routed_blocks(model):
        block.moe.forward = fused(block)


def fused(block: RoutedBlock) -> Callable[..., Any]:
    """The same numbers, and no call of a module that a hook could see."""
    router, experts, moe = block.router, block.experts, block.moe
    others = [module for name, module in moe.named_children() if name.startswith("shared_")]

    def forward(hidden: Tensor) -> Any:
        rows = hidden.flatten(0, 1)
        _, weights, indices = type(router).forward(router, rows)
        out = type(experts).forward(experts, rows, indices, weights).view_as(hidden)
        if others:
            out = out + others[0](hidden)
        return (out, weights) if block.spec.family == "gpt_oss" else out

    return forward


@EVERY_FAMILY
@EVERY_DTYPE
def test_a_fused_block_is_recorded_as_the_router_would_have_said(
    family: str, dtype: torch.dtype
) -> None:
    model = tiny_family(family, dtype=dtype)
    first = routed_blocks(model)[0].layer
    _, usual = tapped(model, CHOICE_SITES)
    fuse(model)
    with RoutingTap(model, sites=CHOICE_SITES, layers=[first]) as tap:
        model(token_ids())
    records = tap.take()
    assert tap.compared_layers == ()
    for site in CHOICE_SITES:
        assert torch.equal(getattr(records, site)[:, 0], getattr(usual, site)[:, 0]), site


@SCORED_BY_SIGMOID
def test_a_like_family_with_another_rule_is_refused_though_its_block_is_fused(family: str) -> None:
    """What it chose cannot be seen."""
    model = scored_by_sigmoid(family)
    first = routed_blocks(model)[0].layer
    fuse(model)
    with RoutingTap(model, sites=CHOICE_SITES) as tap:
        model(token_ids())
    with pytest.raises(ModelError, match=f"expert_weights of layer {first} differ by up to"):
        tap.take()


@pytest.mark.parametrize("family", ["granitemoe", "granitemoeshared"])
def test_a_router_that_returns_its_triple_reversed_is_refused(family: str) -> None:
    """Their own did so in transformers 5.13 to 5.20; in later versions a hook does it here."""
    model = tiny_family(family)
    if is_in_this_version(family):
        for block in routed_blocks(model):
            block.router.register_forward_hook(lambda module, args, output: output[::-1])
    found = r"the router of layer 0 returned torch.int64, torch.float32, torch.float32, expected"
    with RoutingTap(model, sites=CHOICE_SITES), pytest.raises(ModelError, match=found):
        model(token_ids())


@EVERY_FAMILY
def test_norms_cannot_be_had_from_a_fused_block(family: str) -> None:
    model = tiny_family(family)
    fuse(model)
    with pytest.raises(ModelError, match=r"expert_output_norms of layer \d was not seen .* fused"):
        tapped(model, ("expert_output_norms",))


def test_transformers_has_no_router_logits_of_its_own_under_a_fused_block() -> None:
    model = tiny_family("gpt_oss")
    assert len(model(token_ids(), output_router_logits=True).router_logits) == 3
    fuse(model)
    with pytest.raises(IndexError, match="tuple index out of range"):
        model(token_ids(), output_router_logits=True)


# How a family is found


@EVERY_FAMILY
def test_the_family_is_found(family: str) -> None:
    blocks = routed_blocks(shared(family))
    assert {block.spec.family for block in blocks} == {family}
    names = [name for name in blocks[0].spec.dense_layers.split(", ") if name]
    assert all(hasattr(shared(family).config, name) for name in names)
    unrouted = {name for name, _ in blocks[0].moe.named_children() if "shared" in name}
    assert bool(unrouted) == bool(blocks[0].spec.shared_experts)
    assert all(attribute(blocks[0].moe, name) for name in [blocks[0].spec.shared_experts] if name)


def what_is_read(spec: ModelSpec) -> dict[str, Any]:
    return {name: value for name, value in asdict(spec).items() if name not in FOR_READERS}


@EVERY_FAMILY
@pytest.mark.parametrize("model_type", ["", "nothing_known", "gpt_oss", "llama4"])
def test_a_wrong_model_type_changes_no_record(family: str, model_type: str) -> None:
    model = tiny_family(family)
    (usual,) = {block.spec for block in routed_blocks(model)}
    layers = [block.layer for block in routed_blocks(model)]
    model.config.model_type = model_type
    (found,) = {block.spec for block in routed_blocks(model)}
    assert what_is_read(found) == what_is_read(usual)
    assert [block.layer for block in routed_blocks(model)] == layers


def test_specs_that_fit_the_same_structure_read_alike() -> None:
    structures: dict[Any, ModelSpec] = {}
    for spec in SPECS:
        places = (spec.layers, frozenset(spec.norms), spec.moe, spec.router, spec.experts)
        first = structures.setdefault((*places, spec.reads), spec)
        assert what_is_read(first) == what_is_read(spec)
    assert len(structures) < len(SPECS)


@pytest.mark.parametrize(
    ("name", "table"), [("families", families_table()), ("unsupported", unsupported_table())]
)
def test_the_page_holds_the_tables_made_from_the_specs(name: str, table: str) -> None:
    marks = f"<!-- {name}: made by interp.hooks.spec_table -->\n", f"\n<!-- end of {name} -->"
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(marks[0])
    assert rest.partition(marks[1])[0] == table


LIKES = {
    "dots1": "deepseek_v3",
    "glm4_moe_lite": "deepseek_v3",
    "granitemoeshared": "granitemoe",
    "mellum": "olmoe",
    "qwen3_next": "olmoe",
    "solar_open": "deepseek_v3",
}


def test_every_family_has_a_tiny_model_and_a_row() -> None:
    assert list(OF_SPECS) == [spec.family for spec in SPECS]
    assert OF_SPECS.keys() - FAMILIES.keys() <= {"granitemoe"}
    assert families_table().count("\n") == len(SPECS) + 1


@pytest.mark.parametrize(
    ("other", "family"), [each for each in LIKES.items() if is_in_this_version(each[0])]
)
def test_a_family_built_like_another_is_recorded_as_its_own_router_says(
    other: str, family: str
) -> None:
    model = tiny_family(other)
    said = {}
    for block in routed_blocks(model):
        assert block.spec.family == family
        block.router.forward = heard(block.router.forward, said, block.layer)
    model(token_ids())
    for block in routed_blocks(model):
        del block.router.forward
    with RoutingTap(model, sites=CHOICE_SITES) as tap:
        model(token_ids())
    records = tap.take()
    assert tap.compared_layers == tuple(said)
    for place, (logits, weights, indices) in enumerate(said.values()):
        order = weights.argsort(dim=-1, descending=True, stable=True)
        assert torch.equal(records.router_logits[:, place], logits)
        assert torch.equal(records.expert_indices[:, place], indices.gather(-1, order))
        assert torch.equal(records.expert_weights[:, place], weights.gather(-1, order))


def heard(forward: Callable[..., Any], said: dict[int, Any], layer: int) -> Callable[..., Any]:
    def listening(*args: Any) -> Any:
        said[layer] = forward(*args)
        return said[layer]

    return listening


# What is refused


@pytest.mark.parametrize("model_type", ["dbrx", "jetmoe", "llama4_text"])
def test_a_known_family_that_is_not_supported_is_refused_with_the_reason(model_type: str) -> None:
    with pytest.raises(InputError, match=f"is not supported: {UNSUPPORTED[model_type]}"):
        routed_blocks(tiny_family(model_type))


def test_experts_with_a_capacity_are_refused() -> None:
    config = SwitchTransformersConfig(
        vocab_size=32, d_model=16, d_kv=4, d_ff=16, num_heads=2, num_layers=2, num_experts=4
    )
    with (
        torch.device("meta"),
        pytest.raises(InputError, match="not supported: its experts have a capacity and drop"),
    ):
        routed_blocks(SwitchTransformersForConditionalGeneration(config))


def test_a_dense_model_has_no_routing() -> None:
    with pytest.raises(InputError, match="Qwen2ForCausalLM has no router, so there is no expert"):
        routed_blocks(tiny_family("qwen2"))


@pytest.mark.parametrize("other", ["hy_v3", "jamba", "lfm2_moe", "minimax_m2"])
def test_a_router_of_unknown_structure_is_refused_with_its_place(other: str) -> None:
    place = r"has a router at model\.layers\.\d\.\w+\.(gate|router), but its layers are built"
    with pytest.raises(InputError, match=place):
        routed_blocks(tiny_family(other))


@pytest.mark.parametrize("place", ["router", "block"])
def test_a_tensor_that_no_rule_reads_makes_another_family(place: str) -> None:
    model = tiny_family("mixtral")
    for block in routed_blocks(model):
        owner = block.router if place == "router" else block.moe
        owner.register_buffer("load_bias", torch.zeros(8))
    with pytest.raises(InputError, match=r"has a router at model\.layers\.0\.mlp\.gate"):
        routed_blocks(model)


def test_layers_that_differ_in_top_k_are_refused() -> None:
    model = tiny_family("hunyuan_v1_moe", num_experts_per_tok=[2, 3, 2])
    with pytest.raises(InputError, match=r"layer 1 .* \(8, 3, 32\), expected \(8, 2, 32\)"):
        routed_blocks(model)


def test_layers_that_differ_in_experts_are_refused() -> None:
    model = tiny_family("hunyuan_v1_moe")
    model.model.layers[2].mlp.gate.wg = nn.Linear(32, 6, bias=False)
    with pytest.raises(InputError, match=r"layer 2 .* \(6, 2, 32\), expected \(8, 2, 32\)"):
        routed_blocks(model)


# A family that only looks like one


def with_sigmoid(router: Any) -> Callable[[Tensor], Any]:
    def forward(hidden: Tensor) -> Any:
        logits = hidden.reshape(-1, hidden.shape[-1]) @ router.weight.T
        best = logits.sigmoid().topk(router.top_k)
        return logits, best.values / best.values.sum(-1, keepdim=True), best.indices

    return forward


def without_correction(router: Any) -> Callable[[Tensor], Any]:
    def forward(hidden: Tensor) -> Any:
        corrected = copy.deepcopy(router)
        corrected.e_score_correction_bias.zero_()
        return type(router).forward(corrected, hidden)

    return forward


def with_scores_for_logits(router: Any) -> Callable[[Tensor], Any]:
    def forward(hidden: Tensor) -> Any:
        logits, weights, indices = type(router).forward(router, hidden)
        return logits.softmax(-1), weights, indices

    return forward


@pytest.mark.parametrize(
    ("family", "changed", "sentence"),
    [
        ("qwen3_moe", with_sigmoid, "expert_weights of layer 0 differ by"),
        ("deepseek_v3", without_correction, "expert_indices of layer 1: .* other experts"),
        ("glm4_moe", without_correction, "expert_indices of layer 1: .* other experts"),
        ("mixtral", with_scores_for_logits, "router_logits of layer 0: .* they are no logits"),
    ],
)
def test_a_router_with_another_rule_is_found_out_in_the_first_pass(
    family: str, changed: Callable[[Any], Any], sentence: str
) -> None:
    model = tiny_family(family)
    for block in routed_blocks(model):
        block.router.forward = changed(block.router)
    with pytest.raises(ModelError, match=sentence):
        tapped(model, ("expert_indices",))


@SCORED_BY_SIGMOID
def test_a_family_with_sigmoid_where_its_like_has_softmax_is_found_out(family: str) -> None:
    model = scored_by_sigmoid(family)
    first = routed_blocks(model)[0]
    assert first.spec.family == "olmoe"
    with pytest.raises(ModelError, match=f"expert_weights of layer {first.layer} differ by"):
        tapped(model, ("expert_indices",))


WRONG_TERMS = [
    ("gpt_oss", {"bias": ""}),
    ("gpt_oss", {"scoring": "softmax", "normalised": "never"}),
    ("olmoe", {"scoring": "softmax_of_chosen"}),
    ("olmoe", {"normalised": "always"}),
    ("granitemoe", {"scoring": "softmax", "normalised": "never"}),
    ("phimoe", {"scoring": "softmax_of_chosen"}),
    ("deepseek_v2", {"group_score": "sum_of_two"}),
    ("deepseek_v2", {"scaling": ""}),
    ("deepseek_v3", {"correction_bias": ""}),
    ("deepseek_v3", {"group_score": ""}),
    ("deepseek_v3", {"group_score": "max"}),
    ("deepseek_v3", {"scaling": ""}),
    ("deepseek_v3", {"scoring": "softmax"}),
    ("glm4_moe", {"normalised": "always"}),
    ("ernie4_5_moe", {"correction_bias": ""}),
]


@pytest.mark.parametrize(
    ("family", "wrong"), [each for each in WRONG_TERMS if is_in_this_version(each[0])]
)
def test_every_term_of_a_rule_is_needed(family: str, wrong: dict[str, Any]) -> None:
    model = shared(family)
    tap = RoutingTap(model, sites=CHOICE_SITES)
    tap.blocks = tuple(replace(block, spec=replace(block.spec, **wrong)) for block in tap.blocks)
    with tap:
        model(token_ids())
    with pytest.raises(ModelError, match=r"(expert_\w+|router_logits) of layer \d"):
        tap.take()
