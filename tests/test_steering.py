"""Steering and patching of the residual stream against layers that are written out by hand.

The oracle of a patch needs no second model: with all states of a site taken from another run, what
comes out is that run, bit for bit.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from jaxtyping import config
from torch import Tensor, nn

from interp.cache.errors import InputError, ModelError
from interp.cache.records import RESID_SITES, Prompt
from interp.hooks import (
    PassRecords,
    RoutingTap,
    patch_residual,
    render_prompt,
    reroute,
    rows_of_segments,
    steer_residual,
)
from interp.hooks.batches import padded
from interp.hooks.blocks import routed_blocks
from interp.hooks.capture import capture
from interp.hooks.load import LoadedModel
from tests.test_interventions import (
    COMPILED,
    IDS,
    busiest,
    edited_by_hand,
    fail,
    logits_of,
    model_of,
)
from tests.test_interventions_weights import IMPLEMENTATIONS, SLOW, assert_untouched, bits, run_by
from tests.test_tap import all_hooks
from tests.tiny_families import FAMILIES, tiny_family

OTHER_IDS = torch.randint(3, 96, (2, 9), generator=torch.Generator().manual_seed(7))
EVERY_FAMILY = pytest.mark.parametrize(
    "family",
    ["gpt_oss", *(pytest.param(each, marks=SLOW) for each in FAMILIES if each != "gpt_oss")],
)
EVERY_SITE = pytest.mark.parametrize("site", RESID_SITES)
ROWS = torch.tensor([13, 2, 9])


def direction_for(model: Any) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(routed_blocks(model)[0].d_model, generator=generator)


def tapped(model: Any, ids: Tensor = IDS) -> PassRecords:
    with RoutingTap(model) as tap:
        logits_of(model, ids)
    return tap.take()


def gpt_oss_layer(layer: Any, edit: Callable[[str, Tensor], Tensor]) -> Callable[..., Tensor]:
    """The forward of a decoder layer of gpt-oss or mixtral, with an edit at each site."""

    def forward(hidden: Tensor, **others: Any) -> Tensor:
        pre = edit("resid_pre", hidden)
        mid = pre + layer.self_attn(hidden_states=layer.input_layernorm(pre), **others)[0]
        mid = edit("resid_mid", mid)
        added = layer.mlp(layer.post_attention_layernorm(mid))
        return edit("resid_post", mid + (added[0] if isinstance(added, tuple) else added))

    return forward


def steered_by_hand(
    model: Any, direction: Tensor, *, site: str, layer: int, rows: list[int] | None
) -> Any:
    edited = copy.deepcopy(model)

    def edit(where: str, states: Tensor) -> Tensor:
        if where != site:
            return states
        new = states.clone()
        for row in range(new.shape[0] * new.shape[1]) if rows is None else rows:
            new[row // new.shape[1], row % new.shape[1]] += direction.to(new)
        return new

    chosen = edited.model.layers[layer]
    chosen.forward = gpt_oss_layer(chosen, edit)
    return edited


@pytest.mark.parametrize("rows", [None, ROWS])
@pytest.mark.parametrize("layer", [0, 1, pytest.param(2, marks=SLOW)])
@EVERY_SITE
@pytest.mark.parametrize("family", ["gpt_oss", pytest.param("mixtral", marks=SLOW)])
def test_steering_is_the_layer_written_out_with_the_direction_added(
    family: str, site: str, layer: int, rows: Tensor | None
) -> None:
    model = model_of(family)
    direction, before, usual = direction_for(model), bits(model), logits_of(model)
    by_hand = None if rows is None else rows.tolist()
    edited = steered_by_hand(model, 0.75 * direction, site=site, layer=layer, rows=by_hand)
    expected = logits_of(edited)
    with steer_residual(model, direction, site=site, layer=layer, scale=0.75, rows=rows):
        assert torch.equal(logits_of(model), expected)
    assert not torch.equal(usual, expected)
    assert torch.equal(logits_of(model), usual)
    assert_untouched(model, before)


@pytest.mark.parametrize("family", ["gpt_oss", "mixtral"])
def test_steering_before_the_first_layer_is_a_shift_of_all_embeddings(family: str) -> None:
    model = model_of(family)
    direction, edited = direction_for(model), copy.deepcopy(model)
    with torch.no_grad():
        edited.model.embed_tokens.weight += direction
    with steer_residual(model, direction, site="resid_pre", layer=0):
        assert torch.equal(logits_of(model), logits_of(edited))


def test_steering_between_attention_and_experts_is_a_shift_of_the_bias_of_attention() -> None:
    model = model_of("gpt_oss")
    direction, edited = direction_for(model), copy.deepcopy(model)
    with torch.no_grad():
        edited.model.layers[1].self_attn.o_proj.bias += direction
    with steer_residual(model, direction, site="resid_mid", layer=1):
        torch.testing.assert_close(logits_of(model), logits_of(edited), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@EVERY_SITE
@EVERY_FAMILY
def test_with_all_states_of_another_run_it_is_that_run(
    family: str, site: str, implementation: str
) -> None:
    model: Any = tiny_family(family)
    with run_by(model, implementation):
        before, usual, expected = bits(model), logits_of(model), logits_of(model, OTHER_IDS)
        others = tapped(model, OTHER_IDS)
        for layer in others.layer_indices:
            with patch_residual(model, others.resid[site, layer], site=site, layer=layer):
                assert torch.equal(logits_of(model), expected)
        assert not torch.equal(usual, expected)
        assert torch.equal(logits_of(model), usual)
    assert_untouched(model, before)


@EVERY_SITE
def test_in_bfloat16_and_from_numpy_it_is_that_run_too(site: str) -> None:
    model = model_of("gpt_oss", dtype=torch.bfloat16)
    states = tapped(model, OTHER_IDS).resid[site, 1]
    expected = logits_of(model, OTHER_IDS)
    for values in (states, states.float().numpy()):
        with patch_residual(model, values, site=site, layer=1):
            assert torch.equal(logits_of(model), expected)


@EVERY_SITE
@EVERY_FAMILY
def test_its_own_states_change_no_bit(family: str, site: str) -> None:
    model: Any = tiny_family(family)
    usual, records = logits_of(model), tapped(model)
    layer = records.layer_indices[-1]
    values = records.resid[site, layer][ROWS]
    with patch_residual(model, values, site=site, layer=layer, rows=ROWS):
        assert torch.equal(logits_of(model), usual)


@EVERY_SITE
@pytest.mark.parametrize("family", ["gpt_oss", "mixtral"])
def test_patched_rows_hold_the_values_and_no_others_do(family: str, site: str) -> None:
    model = model_of(family)
    usual = tapped(model).resid[site, 1]
    values = tapped(model, OTHER_IDS).resid[site, 1][ROWS]
    with patch_residual(model, values, site=site, layer=1, rows=ROWS.numpy()):
        found = tapped(model).resid[site, 1]
    expected = usual.clone()
    for row, value in zip(ROWS.tolist(), values, strict=True):
        expected[row] = value
    assert torch.equal(found, expected)


@EVERY_SITE
@EVERY_FAMILY
def test_taps_opened_before_and_after_see_the_stream_that_was_run(family: str, site: str) -> None:
    """The check of a tap, that a layer receives what the one before handed on, holds as well."""
    model: Any = tiny_family(family)
    layer = routed_blocks(model)[-1].layer
    direction, usual = direction_for(model), tapped(model).resid[site, layer]
    with (
        RoutingTap(model) as before,
        steer_residual(model, direction, site=site, layer=layer),
        RoutingTap(model) as after,
    ):
        logits_of(model)
    first, second = before.take(), after.take()
    assert torch.equal(first.resid[site, layer], usual + direction)
    assert first.resid.keys() == second.resid.keys()
    assert all(torch.equal(rows, second.resid[key]) for key, rows in first.resid.items())


@EVERY_SITE
@pytest.mark.parametrize("first_out", ["one", "other"])
def test_several_add_up_and_may_be_closed_in_any_order(first_out: str, site: str) -> None:
    """Whole numbers, so that sums do not hang on their order."""
    model = model_of("gpt_oss")
    before, ones = bits(model), torch.ones(32)
    steps = {"one": 1.0, "other": 2.0}
    expected = {
        scale: logits_of(
            steered_by_hand(model, scale * ones, site=site, layer=1, rows=ROWS.tolist())
        )
        for scale in (1.0, 2.0)
    }
    opened = {
        name: steer_residual(model, ones, site=site, layer=1, scale=scale, rows=ROWS)
        for name, scale in steps.items()
    }
    for each in opened.values():
        each.__enter__()
    torch.testing.assert_close(
        logits_of(model),
        logits_of_three(model, ones, site),
        rtol=1e-4,
        atol=1e-4,
    )
    opened.pop(first_out).__exit__(None, None, None)
    name, left = opened.popitem()
    assert torch.equal(logits_of(model), expected[steps[name]])
    left.__exit__(None, None, None)
    assert_untouched(model, before)


def logits_of_three(model: Any, ones: Tensor, site: str) -> Tensor:
    bare = model_of("gpt_oss")
    bare.load_state_dict(model.state_dict())
    return logits_of(steered_by_hand(bare, 3 * ones, site=site, layer=1, rows=ROWS.tolist()))


@EVERY_SITE
@pytest.mark.parametrize("is_patched_first", [True, False])
def test_a_direction_is_added_to_what_was_patched_in(is_patched_first: bool, site: str) -> None:
    model = model_of("gpt_oss")
    values = tapped(model, OTHER_IDS).resid[site, 1]
    direction = direction_for(model)
    patch = patch_residual(model, values, site=site, layer=1)
    steer = steer_residual(model, direction, site=site, layer=1)
    one, other = (patch, steer) if is_patched_first else (steer, patch)
    with RoutingTap(model) as tap, one, other:
        logits_of(model)
    assert torch.equal(tap.take().resid[site, 1], values + direction)


def test_handed_on_by_one_layer_and_received_by_the_next_is_the_same_place() -> None:
    model = model_of("gpt_oss")
    direction = direction_for(model)
    with steer_residual(model, direction, site="resid_post", layer=0):
        expected = logits_of(model)
    with steer_residual(model, direction, site="resid_pre", layer=1):
        assert torch.equal(logits_of(model), expected)
    values = torch.zeros(18, 32)
    with (
        patch_residual(model, values, site="resid_post", layer=0),
        pytest.raises(InputError, match="all rows of resid_pre of layer 1 is under patch_residual"),
    ):
        patch_residual(model, values, site="resid_pre", layer=1).__enter__()


def test_beside_a_reroute() -> None:
    model = model_of("mixtral")
    direction, experts = direction_for(model), busiest(model)
    edited = edited_by_hand(model, experts)
    edited = steered_by_hand(edited, direction, site="resid_mid", layer=1, rows=None)
    with steer_residual(model, direction, site="resid_mid", layer=1), reroute(model, experts):
        found = logits_of(model)
    assert torch.equal(found, logits_of(edited))
    assert not torch.equal(found, logits_of(model))


@EVERY_SITE
def test_everything_is_put_back_when_the_body_fails(site: str) -> None:
    model = model_of("gpt_oss")
    before, usual = bits(model), logits_of(model)
    with (
        pytest.raises(ZeroDivisionError),
        steer_residual(model, direction_for(model), site=site, layer=1),
    ):
        fail()
    with (
        pytest.raises(ZeroDivisionError),
        patch_residual(model, torch.zeros(18, 32), site=site, layer=1),
    ):
        fail()
    assert_untouched(model, before)
    assert torch.equal(logits_of(model), usual)


@EVERY_SITE
def test_what_comes_before_a_steered_token_is_as_it_was(site: str) -> None:
    model = model_of("gpt_oss")
    usual = logits_of(model)
    with steer_residual(model, direction_for(model), site=site, layer=1, rows=torch.tensor([5])):
        difference = (logits_of(model) - usual).abs().amax(-1)
    assert difference[0, 5] > 1e-3
    assert not difference[0, :5].any()
    assert not difference[1].any()


def test_steering_without_rows_goes_on_through_a_generation() -> None:
    model = model_of("gpt_oss")
    direction, edited = direction_for(model), copy.deepcopy(model)
    with torch.no_grad():
        edited.model.embed_tokens.weight += direction
    settings: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}
    with steer_residual(model, direction, site="resid_pre", layer=0):
        found = model.generate(IDS[:1, :6], **settings)
    assert torch.equal(found, edited.generate(IDS[:1, :6], **settings))
    with (
        steer_residual(model, direction, site="resid_pre", layer=0, rows=torch.tensor([3])),
        pytest.raises(ModelError, match="rows holds 3, but resid_pre of layer 0 has only 1 tokens"),
    ):
        model.generate(IDS[:1, :6], **settings)


@EVERY_SITE
def test_gradients_pass_through(site: str) -> None:
    model = model_of("gpt_oss")
    with steer_residual(model, direction_for(model), site=site, layer=1, rows=ROWS):
        model(IDS).logits.square().mean().backward()
    found = model.model.embed_tokens.weight.grad
    edited = steered_by_hand(
        model_of("gpt_oss"), direction_for(model), site=site, layer=1, rows=ROWS.tolist()
    )
    edited(IDS).logits.square().mean().backward()
    torch.testing.assert_close(found, edited.model.embed_tokens.weight.grad)


@EVERY_SITE
def test_layers_that_are_offloaded_are_steered_as_well(site: str) -> None:
    model = model_of("gpt_oss")
    direction = direction_for(model)
    with steer_residual(model, direction, site=site, layer=1):
        expected = logits_of(model)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    with steer_residual(model, direction, site=site, layer=1):
        assert torch.equal(logits_of(model), expected)


def test_a_norm_that_is_gone_around_is_an_error_in_the_pass() -> None:
    model = model_of("mixtral")
    layer = model.model.layers[1]

    def fused(hidden: Tensor, **others: Any) -> Tensor:
        mid = hidden + layer.self_attn(hidden_states=layer.input_layernorm(hidden), **others)[0]
        out: Tensor = mid + layer.mlp(layer.post_attention_layernorm.forward(mid))
        return out

    layer.forward = fused
    with (
        steer_residual(model, direction_for(model), site="resid_mid", layer=1),
        pytest.raises(ModelError, match="steer_residual had no effect on resid_mid of layer 1"),
    ):
        logits_of(model)
    assert not all_hooks(model)


@COMPILED
def test_a_compiled_model_is_refused(compiled: Callable[[Any], Any]) -> None:
    direction = direction_for(model_of("gpt_oss"))
    model = compiled(model_of("gpt_oss"))
    with pytest.raises(InputError, match=r"was compiled by torch\.compile"):
        steer_residual(model, direction, site="resid_mid", layer=1).__enter__()
    with pytest.raises(InputError, match=r"was compiled by torch\.compile"):
        patch_residual(model, torch.zeros(18, 32), site="resid_mid", layer=1).__enter__()


def test_a_capture_of_a_steered_model_is_refused(tiny: LoadedModel, tmp_path: Path) -> None:
    prompts = [Prompt(text="two plus two", condition="organic", source="here")]
    direction = torch.ones(tiny.model.config.hidden_size)
    with (
        steer_residual(tiny.model, direction, site="resid_mid", layer=1),
        pytest.raises(InputError, match="resid_mid of layer 1 is changed by an intervention"),
    ):
        capture(replace(tiny), prompts, tmp_path / "run.moe", progress=False)


@pytest.fixture
def as_users_run_it() -> Iterator[None]:
    """Without the shape checks of the tests, which would refuse before the sentence is said."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


NAN, WIDE = torch.full((32,), torch.nan), torch.full((32,), 1e30)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"site": "resid_past"}, "site is 'resid_past', expected one of resid_pre, resid_mid"),
        ({"layer": 3}, r"layers holds \[3\], but the routed layers are \[0, 1, 2\]"),
        ({"direction": torch.ones(31)}, r"shape \(31,\), but the residual stream .* is 32 wide"),
        ({"direction": torch.ones(1, 32)}, r"direction has the shape \(1, 32\)"),
        ({"direction": NAN}, r"direction times scale holds NaN or infinity in torch\.float32"),
        ({"direction": WIDE, "scale": 1e10}, "direction times scale holds NaN or infinity"),
        ({"scale": float("nan")}, "direction times scale holds NaN or infinity"),
        ({"rows": torch.tensor([1, 1])}, "rows holds a negative position or one twice"),
        ({"rows": torch.tensor([-1])}, "rows holds a negative position or one twice"),
        ({"rows": torch.tensor([], dtype=torch.long)}, r"rows has the shape \(0,\)"),
        ({"rows": torch.ones(18, dtype=torch.bool)}, r"dtype torch\.bool, expected positions"),
    ],
)
def test_what_cannot_be_steered_is_refused(settings: dict[str, Any], sentence: str) -> None:
    model = model_of("gpt_oss")
    given = {"direction": torch.ones(32), "site": "resid_mid", "layer": 1} | settings
    with pytest.raises(InputError, match=sentence):
        steer_residual(model, **given).__enter__()
    assert not all_hooks(model)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"values": torch.ones(18, 31)}, r"shape \(18, 31\), expected rows .* which is 32 wide"),
        ({"values": torch.ones(32)}, r"values has the shape \(32,\), expected rows"),
        ({"values": torch.ones(0, 32)}, r"values has the shape \(0, 32\), expected rows"),
        ({"values": torch.full((18, 32), torch.inf)}, "values holds NaN or infinity"),
        ({"rows": torch.tensor([1, 2])}, "rows has 2 positions, expected one for each of the 18"),
        ({"site": "logits"}, "site is 'logits', expected one of resid_pre"),
    ],
)
def test_what_cannot_be_patched_is_refused(settings: dict[str, Any], sentence: str) -> None:
    model = model_of("gpt_oss")
    given = {"values": torch.ones(18, 32), "site": "resid_mid", "layer": 1} | settings
    with pytest.raises(InputError, match=sentence):
        patch_residual(model, **given).__enter__()
    assert not all_hooks(model)


def test_a_row_can_be_patched_once() -> None:
    model = model_of("gpt_oss")
    values, rows = torch.ones(2, 32), torch.tensor([3, 5])
    with patch_residual(model, values, site="resid_mid", layer=1, rows=rows):
        with pytest.raises(InputError, match="row 5 of resid_mid of layer 1 is under patch_residu"):
            patch_residual(model, values, site="resid_mid", layer=1, rows=rows + 2).__enter__()
        with pytest.raises(InputError, match="row 3 of resid_mid of layer 1 is under patch_residu"):
            patch_residual(model, torch.ones(18, 32), site="resid_mid", layer=1).__enter__()
        with (
            RoutingTap(model) as tap,
            patch_residual(model, 2 * values, site="resid_mid", layer=1, rows=rows + 1),
        ):
            logits_of(model)
    assert tap.take().resid["resid_mid", 1][3:7, 0].tolist() == [1.0, 2.0, 1.0, 2.0]
    assert not all_hooks(model)


def test_a_pass_with_other_tokens_is_an_error() -> None:
    model = model_of("gpt_oss")
    with (
        patch_residual(model, torch.ones(18, 32), site="resid_post", layer=1),
        pytest.raises(ModelError, match=r"has 16 tokens in this pass, .* but values holds 18"),
    ):
        logits_of(model, IDS[:, :8])
    with (
        steer_residual(model, torch.ones(32), site="resid_mid", layer=1, rows=torch.tensor([17])),
        pytest.raises(ModelError, match="rows holds 17, but resid_mid of layer 1 has only 16"),
    ):
        logits_of(model, IDS[:, :8])
    assert not all_hooks(model)


@pytest.mark.parametrize("side", ["left", "right"])
def test_segments_of_a_padded_batch(tiny: LoadedModel, side: Any) -> None:
    texts = ("two plus two", "my cat won't eat her food, what now?")
    batch = [
        render_prompt(Prompt(text=text, condition="organic", source="here"), tiny.tokenizer)
        for text in texts
    ]
    batch[1].segment[:2] = 0  # as if the first two tokens were of a template
    rows = rows_of_segments(batch, side=side)
    inputs = padded(batch, tiny.model, side=side)
    found = inputs["input_ids"].flatten()[torch.from_numpy(rows)].tolist()
    assert found == [*batch[0].token_id.tolist(), *batch[1].token_id[2:].tolist()]
    direction = torch.ones(tiny.model.config.hidden_size)
    site = {"site": "resid_post", "layer": 0}
    with RoutingTap(tiny.model, sites=("resid_post",)) as tap:
        tiny.model(**inputs, use_cache=False)
        usual = tap.take().resid["resid_post", 0]
        with steer_residual(tiny.model, direction, **site, rows=rows):  # type: ignore[arg-type]
            tiny.model(**inputs, use_cache=False)
        moved = tap.take().resid["resid_post", 0] != usual
    assert moved.any(-1).nonzero()[:, 0].tolist() == sorted(rows.tolist())


def test_segments_that_are_not_there_are_refused(tiny: LoadedModel) -> None:
    prompt = Prompt(text="two plus two", condition="organic", source="here")
    batch = [render_prompt(prompt, tiny.tokenizer)]
    with pytest.raises(InputError, match=r"segments holds \['users'\], expected some of template"):
        rows_of_segments(batch, ["users"])
    with pytest.raises(InputError, match="no token of the 1 prompts is in the segments final"):
        rows_of_segments(batch, ["final"])


def test_nothing_is_left_on_any_module() -> None:
    model: nn.Module = model_of("mixtral")
    for site in RESID_SITES:
        with steer_residual(model, torch.ones(32), site=site, layer=0):
            assert len(all_hooks(model)) == 3
    assert not all_hooks(model)
