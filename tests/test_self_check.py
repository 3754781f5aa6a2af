"""The self-check and the doctor: what is compared and reported, and what fails with its place."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from interp.cache.errors import ModelError
from interp.cache.records import SITES, Message, Prompt
from interp.hooks.batches import padded, row_starts, run_batch
from interp.hooks.doctor import WITHOUT_NORMS, diagnosis, examine
from interp.hooks.load import LoadedModel
from interp.hooks.render import RenderedPrompt, render_prompt
from interp.hooks.self_check import self_check
from interp.hooks.settings import CaptureSettings
from interp.hooks.stability import routing_stability
from interp.hooks.tap import RoutingTap
from tests.test_tap import fused

WORDS = ("two plus two", "What is the capital of Peru, and how far is it from the sea?", "a")
EVERYTHING = CaptureSettings(sites=SITES, positions="all")


def rendered(tiny: LoadedModel) -> list[RenderedPrompt]:
    return [
        render_prompt(
            Prompt(messages=(Message(role="user", content=words),), condition="organic"),
            tiny.tokenizer,
        )
        for words in WORDS
    ]


def checked(tiny: LoadedModel) -> dict[str, Any]:
    return self_check(tiny.model, tiny.tokenizer, rendered(tiny), settings=EVERYTHING)


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_what_was_compared_and_the_path_are_reported(
    tiny: LoadedModel, implementation: str
) -> None:
    tiny.model.set_experts_implementation(implementation)
    found = checked(tiny)
    assert found["sites"] == list(SITES)
    assert found["layers"] == found["layers_compared_with_router"] == [0, 1]
    assert found["layers_compared_with_output_router_logits"] == [0, 1]
    assert found["output"] == "bit-identical with and without taps"
    (path,) = found["experts_path"]
    assert path.endswith(f"GptOssMLP.forward, experts {implementation}")


def fuse(tiny: LoadedModel) -> None:
    for layer in tiny.model.model.layers:
        layer.mlp.forward = fused(layer.mlp)


def test_a_fused_block_is_named_as_the_path(tiny: LoadedModel) -> None:
    fuse(tiny)
    settings = CaptureSettings(sites=WITHOUT_NORMS, positions="all")
    found = self_check(tiny.model, tiny.tokenizer, rendered(tiny), settings=settings)
    assert found["layers_compared_with_router"] == []
    assert found["layers_compared_with_output_router_logits"] == []
    (path,) = found["experts_path"]
    assert path == (
        "tests.test_tap.fused.<locals>.forward, which does not call its router; "
        "routing recomputed from its input"
    )


def test_output_router_logits_raises_where_the_block_is_fused(tiny: LoadedModel) -> None:
    fuse(tiny)
    inputs = padded(rendered(tiny), tiny.model)
    with pytest.raises((AttributeError, IndexError, RuntimeError, TypeError, ValueError)):
        tiny.model(**inputs, output_router_logits=True)


def test_reported_logits_that_differ_are_refused_with_their_layer(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = tiny.model.forward

    def softmaxed(*args: Any, **kwargs: Any) -> Any:
        output = usual(*args, **kwargs)
        if output.router_logits is not None:
            first, second = output.router_logits
            output.router_logits = (first, second.softmax(-1))
        return output

    monkeypatch.setattr(tiny.model, "forward", softmaxed)
    with pytest.raises(ModelError, match="router_logits of layer 1 are not those that output_r"):
        checked(tiny)


def all_but_the_last(output: torch.Tensor) -> torch.Tensor:
    """Another output in every row but the last of each sequence, whose logits alone are asked."""
    return torch.cat([output[:, :-1] * 1.01, output[:, -1:]], dim=1)


@pytest.mark.parametrize(
    ("module", "change"),
    [("lm_head", lambda output: output * 1.01), ("model.norm", all_but_the_last)],
)
def test_a_tap_that_changes_the_output_is_refused(
    tiny: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    change: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    usual = RoutingTap.__enter__

    def nudging(self: RoutingTap) -> RoutingTap:
        tap, nudged = usual(self), tiny.model.get_submodule(module)
        self._undo.append(nudged.register_forward_hook(lambda *given: change(given[2])).remove)
        return tap

    monkeypatch.setattr(RoutingTap, "__enter__", nudging)
    with pytest.raises(ModelError, match="the taps change the model's output by up to"):
        checked(tiny)


def test_a_model_that_does_not_repeat_itself_is_said_to(tiny: LoadedModel) -> None:
    generator = torch.Generator().manual_seed(0)
    tiny.model.lm_head.register_forward_hook(
        lambda *given: given[2] + 1e-3 * torch.randn(given[2].shape, generator=generator)
    )
    assert checked(tiny)["output"].startswith("not compared: without taps, too, two passes differ")


def broken_router(tiny: LoadedModel) -> None:
    router = tiny.model.model.layers[1].mlp.router
    usual = router.forward
    router.forward = lambda hidden: (*usual(hidden)[:2], usual(hidden)[2].flip(-1))


def constant_router(tiny: LoadedModel) -> None:
    with torch.no_grad():
        tiny.model.model.layers[0].mlp.router.weight.zero_()


def not_a_number(tiny: LoadedModel) -> None:
    with torch.no_grad():
        tiny.model.model.layers[1].self_attn.o_proj.bias[0] = float("nan")


def nudged_stream(tiny: LoadedModel) -> None:
    tiny.model.model.layers[1].register_forward_pre_hook(lambda _, args: (args[0] + 1, *args[1:]))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (broken_router, "expert_weights of layer 1 differ by up to"),
        (constant_router, "router_logits of layer 0 are the same for all"),
        (not_a_number, "layer 1 hold"),
        (nudged_stream, "resid_post of layer 0 is not resid_pre of layer 1"),
    ],
)
def test_the_doctor_names_layer_and_site_of_what_fails(
    tiny: LoadedModel, damage: Callable[[LoadedModel], None], sentence: str
) -> None:
    damage(tiny)
    with pytest.raises(ModelError, match=sentence):
        examine(tiny)
    found = diagnosis(tiny)
    assert not found["is_sound"]
    assert sentence in found["result"]


def test_the_doctor_reports_every_check(tiny: LoadedModel) -> None:
    found = examine(tiny)
    assert found["family"] == "gpt_oss"
    assert found["sites"] == list(SITES)
    assert found["decoding"]["prompt"]["same_experts"] == 1
    assert found["decoding"]["answer"]["same_experts"] == 1
    assert found["batched"]["same_experts"] == 1
    assert found["stability"]["flip_rate"] == (0, 0)
    assert found["stability"]["tie_rate"] == (0, 0)


def test_the_doctor_says_which_routers_were_not_called(tiny: LoadedModel) -> None:
    fuse(tiny)
    found = examine(tiny)
    assert found["sites"] == list(WITHOUT_NORMS)
    assert (
        "the model did not call the router of layers [0, 1], as under fused kernels"
        in found["result"]
    )


def test_a_padded_batch_that_routes_otherwise_is_refused(tiny: LoadedModel) -> None:
    """As where attention sees the padding: here, of every prompt that is not alone."""
    layer = tiny.model.model.layers[0]
    layer.register_forward_pre_hook(
        lambda _, args: (args[0].roll(1, dims=-1) if len(args[0]) > 1 else args[0], *args[1:])
    )
    with pytest.raises(ModelError, match="the same tokens, in a padded batch, and alone, have the"):
        checked(tiny)


def test_prompts_of_one_length_have_no_padding_to_compare(tiny: LoadedModel) -> None:
    batch = rendered(tiny)[:1] * 2
    found = self_check(tiny.model, tiny.tokenizer, batch, settings=EVERYTHING)
    assert found["batched"] == ("not compared: all prompts are of one length, so none was padded")


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_leaves_routing_as_it_is(tiny: LoadedModel, side: Any) -> None:
    batch = rendered(tiny)
    with RoutingTap(tiny.model) as tap:
        together = run_batch(tiny.model, tap, batch, "all", side=side)
        alone = [run_batch(tiny.model, tap, [each], "all")[0] for each in batch]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.expert_indices, other.expert_indices)
        np.testing.assert_allclose(one.expert_weights, other.expert_weights, atol=1e-5)
        np.testing.assert_allclose(
            one.resid["resid_post", 1], other.resid["resid_post", 1], rtol=1e-4, atol=1e-4
        )


def test_positions_count_from_the_first_token_on_either_side(tiny: LoadedModel) -> None:
    batch = rendered(tiny)
    for side in ("left", "right"):
        inputs = padded(batch, tiny.model, side=side)
        rows = inputs["position_ids"].flatten()
        for start, each in zip(row_starts(batch, side=side), batch, strict=True):
            n_tokens = len(each.token_id)
            assert rows[start : start + n_tokens].tolist() == list(range(n_tokens))
        assert inputs["attention_mask"].sum(1).tolist() == [len(each.token_id) for each in batch]


def test_ties_and_flips_are_counted(tiny: LoadedModel) -> None:
    batch = rendered(tiny)
    router = tiny.model.model.layers[1].mlp.router
    with torch.no_grad():
        # All experts alike: ranks 2 and 3 are level for every token.
        router.weight.copy_(router.weight[:1].expand_as(router.weight))
        router.bias.zero_()
    stability = routing_stability(tiny.model, batch)
    assert stability.tie_rate == (0.0, 1.0)
    assert stability.n_tokens == sum(len(each.token_id) for each in batch)


def test_a_batch_that_changes_routing_is_seen(tiny: LoadedModel) -> None:
    router = tiny.model.model.layers[0].mlp.router
    usual = router.forward

    def by_batch(hidden: torch.Tensor) -> Any:
        n_longest = max(len(each.token_id) for each in rendered(tiny))
        if len(hidden) <= n_longest:
            return usual(hidden)
        with torch.no_grad():
            router.bias[0] += 100
            found = usual(hidden)
            router.bias[0] -= 100
        return found

    router.forward = by_batch
    assert routing_stability(tiny.model, rendered(tiny)).flip_rate[0] > 0.5
