"""Records out of a bridge of TransformerLens against those of the tap, to the last bit, and back.

Both run the same model on the CPU with the same inputs, and a bridge computes what the model does,
so nothing less than equal bits is asked for.
"""

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp import organisms
from interp.cache.errors import InputError, ModelError
from interp.cache.reader import Store, open_store
from interp.cache.records import SITES, Prompt
from interp.hooks.capture import capture as capture_store
from interp.hooks.interventions import replay_routing, reroute
from interp.hooks.load import LoadedModel
from interp.hooks.pass_records import TOKEN_FIELDS, PassRecords
from interp.hooks.settings import CaptureSettings
from interp.hooks.tap import RoutingTap
from interp.hooks.transformer_lens import capture, plain_model
from interp.hooks.transformer_lens_cache import as_activation_cache, stored_activation_cache
from tests.tiny_families import tiny_family

ROOT = Path(__file__).resolve().parents[1]
WORDS = "What is the capital of Peru, and how far is it from the sea?"
ROUTER = "blocks.1.mlp.router"
LAYERS = range(4)


@pytest.fixture(scope="module")
def plain() -> LoadedModel:
    """The toy in float32, which no bridge ever wraps."""
    return organisms.load_model("toy", dtype="float32", device_map="cpu")


def booted(model: Any, tokenizer: Any) -> Any:
    """A bridge over a copy, because it wraps the modules of its model in place."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(
        "toy", hf_model=copy.deepcopy(model), tokenizer=tokenizer, device="cpu"
    )


@pytest.fixture(scope="module")
def bridge(plain: LoadedModel) -> Any:
    """Shared: a test that changes its weights boots one of its own."""
    return booted(plain.model, plain.tokenizer)


@pytest.fixture(scope="module")
def ids(plain: LoadedModel) -> Tensor:
    encoded: Tensor = plain.tokenizer(WORDS, return_tensors="pt")["input_ids"]
    return encoded


def tapped(model: Any, inputs: Any, **chosen: Any) -> PassRecords:
    """What the tap records of a plain model."""
    inputs = {"input_ids": inputs} if isinstance(inputs, Tensor) else inputs
    with RoutingTap(model, **chosen) as tap, torch.no_grad():
        model(**inputs)
    return tap.take()


def padded_pair(plain: LoadedModel) -> Any:
    return plain.tokenizer(["two plus two", WORDS], padding=True, return_tensors="pt")


def assert_equal(ours: PassRecords, expected: PassRecords) -> None:
    """Equal bits and dtypes in every field."""
    assert ours.layer_indices == expected.layer_indices
    for name in TOKEN_FIELDS:
        mine, other = getattr(ours, name), getattr(expected, name)
        assert (mine is None) == (other is None), name
        if mine is not None:
            torch.testing.assert_close(mine, other, rtol=0, atol=0, msg=name)
    assert ours.resid.keys() == expected.resid.keys()
    for key, rows in ours.resid.items():
        torch.testing.assert_close(rows, expected.resid[key], rtol=0, atol=0, msg=str(key))


# Records out of a bridge.


def test_records_are_those_of_the_tap_at_every_site(
    plain: LoadedModel, bridge: Any, ids: Tensor
) -> None:
    assert_equal(capture(bridge, ids), tapped(plain.model, ids))


@pytest.mark.parametrize("site", SITES)
def test_a_site_by_itself_is_that_of_the_tap(
    plain: LoadedModel, bridge: Any, ids: Tensor, site: str
) -> None:
    assert_equal(capture(bridge, ids, sites=(site,)), tapped(plain.model, ids, sites=(site,)))


def test_records_of_a_padded_batch_are_those_of_the_tap(plain: LoadedModel, bridge: Any) -> None:
    batch = padded_pair(plain)
    assert not batch["attention_mask"].all()
    assert_equal(capture(bridge, batch), tapped(plain.model, batch))


def test_chosen_rows_are_rows_of_all(plain: LoadedModel, bridge: Any) -> None:
    batch = padded_pair(plain)
    tokens, last = batch["attention_mask"].flatten().nonzero()[:, 0], torch.tensor([4])
    some, whole = capture(bridge, batch, tokens=tokens, resid=last), tapped(plain.model, batch)
    for name in TOKEN_FIELDS:
        assert torch.equal(getattr(some, name), getattr(whole, name)[tokens])
    assert all(torch.equal(rows, whole.resid[key][last]) for key, rows in some.resid.items())


def test_only_the_layers_asked_for_are_recorded(
    plain: LoadedModel, bridge: Any, ids: Tensor
) -> None:
    assert_equal(capture(bridge, ids, layers=[3, 1]), tapped(plain.model, ids, layers=[1, 3]))


def test_bfloat16_records_are_those_of_the_tap(ids: Tensor) -> None:
    model, tokenizer = organisms.load("toy")
    ours = capture(booted(model, tokenizer), ids)
    assert ours.resid["resid_mid", 2].dtype == torch.bfloat16
    assert_equal(ours, tapped(model, ids))


def test_text_is_what_the_bridge_makes_of_it_with_a_bos_token(
    plain: LoadedModel, bridge: Any
) -> None:
    with_bos = bridge.to_tokens("two plus two")
    assert with_bos[0].tolist() == [0, *plain.tokenizer("two plus two")["input_ids"]]
    assert_equal(capture(bridge, "two plus two"), tapped(plain.model, with_bos))


def test_a_family_whose_router_is_called_gate(plain: LoadedModel) -> None:
    model = tiny_family("mixtral")
    model.config.architectures = [type(model).__name__]
    ids = torch.arange(3, 13)[None]
    assert_equal(capture(booted(model, plain.tokenizer), ids), tapped(model, ids))


def test_a_family_without_hook_points_is_recorded_by_a_tap_on_the_model_beneath(
    plain: LoadedModel,
) -> None:
    model = tiny_family("deepseek_v3")
    model.config.architectures = [type(model).__name__]
    bridge, ids = booted(model, plain.tokenizer), torch.arange(3, 13)[None]
    with pytest.raises(InputError, match=r"no hook points for .*blocks\.1\.mlp.* plain_model"):
        capture(bridge, ids)
    with RoutingTap(plain_model(bridge)) as tap, torch.no_grad():
        bridge(ids)
    assert_equal(tap.take(), tapped(model, ids))


def test_a_router_that_is_never_called_is_recomputed(plain: LoadedModel, ids: Tensor) -> None:
    bridge = booted(plain.model, plain.tokenizer)
    for block in bridge.blocks:
        mlp = block.mlp.original_component
        mlp.forward = fused(mlp)
    records = capture(bridge, ids)
    expected = tapped(plain.model, ids)
    assert torch.equal(records.expert_indices, expected.expert_indices)
    assert torch.equal(records.router_logits, expected.router_logits)


def test_a_fused_block_of_another_rule_is_refused(plain: LoadedModel, ids: Tensor) -> None:
    """What it chose cannot be seen, so its router is asked."""
    bridge = booted(plain.model, plain.tokenizer)
    mlp = plain_model(bridge).get_submodule("model.layers.1.mlp")
    router: Any = mlp.router
    usual = router.forward
    router.forward = lambda hidden: (*usual(hidden)[:2], (usual(hidden)[2] + 1) % 32)
    for block in bridge.blocks:
        block.mlp.original_component.forward = fused(block.mlp.original_component)
    with pytest.raises(ModelError, match=r"expert_indices of layer 1: .* other experts"):
        capture(bridge, ids)


def fused(mlp: Any) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A forward of the block that reads the router's weights and never calls the module."""

    def forward(hidden: Tensor) -> tuple[Tensor, Tensor]:
        rows = hidden.flatten(0, 1)
        logits = torch.nn.functional.linear(rows, mlp.router.weight, mlp.router.bias)
        best = torch.topk(logits, mlp.router.top_k, dim=-1)
        scores = torch.softmax(best.values, dim=-1)
        return mlp.experts(rows, best.indices, scores).reshape(hidden.shape), scores

    return forward


def test_neither_the_model_nor_the_bridge_is_changed(
    plain: LoadedModel, bridge: Any, ids: Tensor
) -> None:
    tensors = {name: each.clone() for name, each in plain.model.state_dict().items()}
    with torch.no_grad():
        before = bridge(ids)
        capture(bridge, ids)
        assert torch.equal(bridge(ids), before)
        assert torch.equal(plain.model(ids).logits, before)
    assert all(torch.equal(each, tensors[name]) for name, each in plain.model.state_dict().items())
    assert not any(point.fwd_hooks for point in bridge.hook_dict.values())


def test_no_hook_is_left_when_the_pass_fails(bridge: Any) -> None:
    with pytest.raises(IndexError):
        capture(bridge, torch.tensor([[10**6]]))
    assert not any(point.fwd_hooks for point in bridge.hook_dict.values())
    assert not any("forward" in vars(block.mlp.experts) for block in bridge.blocks)


# Editing, and what it does.


def without(expert: int, value: float) -> Callable[..., Tensor]:
    def edit(values: Tensor, hook: Any) -> Tensor:
        columns = torch.arange(values.shape[-1]) == expert
        return values.masked_fill(columns, value)

    return edit


def favourite(plain: LoadedModel, ids: Tensor) -> int:
    """The expert that is best for most tokens in layer 1."""
    indices = tapped(plain.model, ids).expert_indices
    assert indices is not None
    return int(indices[:, 1, 0].mode().values)


def test_editing_router_hook_out_does_not_reroute_though_the_cache_shows_the_edit(
    plain: LoadedModel, bridge: Any, ids: Tensor
) -> None:
    expert = favourite(plain, ids)
    edit = (f"{ROUTER}.hook_out", without(expert, float("-inf")))
    with torch.no_grad(), bridge.hooks(fwd_hooks=[edit]):
        logits, cache = bridge.run_with_cache(ids)
    assert cache[f"{ROUTER}.hook_out"][:, expert].isneginf().all()
    assert (cache[f"{ROUTER}.hook_expert_indices"] == expert).any()
    assert torch.equal(logits, plain.model(ids).logits)


def test_reroute_on_the_model_beneath_reroutes_the_bridge(
    plain: LoadedModel, bridge: Any, ids: Tensor
) -> None:
    expert = favourite(plain, ids)
    with torch.no_grad(), reroute(plain_model(bridge), [(1, expert)]):
        logits, ours = bridge(ids), capture(bridge, ids)
    with torch.no_grad(), reroute(plain.model, [(1, expert)]):
        assert torch.equal(logits, plain.model(ids).logits)
        assert_equal(ours, tapped(plain.model, ids))
    assert not (ours.expert_indices[:, 1] == expert).any()
    torch.testing.assert_close(ours.expert_weights.sum(-1), torch.ones(ids.shape[1], 4))
    assert not torch.equal(logits, bridge(ids))
    assert torch.equal(bridge(ids), plain.model(ids).logits)


def test_editing_expert_weights_reroutes_but_to_experts_of_no_weight(
    plain: LoadedModel, bridge: Any, ids: Tensor
) -> None:
    """What 4.3 does: the next best expert never comes in, and the others' weights do not grow."""
    expert = favourite(plain, ids)
    with torch.no_grad(), reroute(plain_model(bridge), [(1, expert)]):
        ours = bridge(ids)
    edit = (f"{ROUTER}.hook_expert_weights", without(expert, 0.0))
    given = []
    experts = bridge.blocks[1].mlp.experts
    handle = experts.register_forward_pre_hook(lambda _, args: given.append(args))
    with torch.no_grad():
        logits = bridge.run_with_hooks(ids, fwd_hooks=[edit])
    handle.remove()
    ((_, indices, weights),) = given
    assert not (indices == expert).any()
    assert weights.sum(-1).min() < 0.5
    assert (logits - ours).abs().max() > 0.1


def test_an_intervention_that_hooks_the_router_is_seen_at_the_hook_points(
    plain: LoadedModel, bridge: Any, ids: Tensor
) -> None:
    flipped = tapped(plain.model, ids).expert_indices.flip(0)
    with replay_routing(plain_model(bridge), expert_indices=flipped):
        records = capture(bridge, ids)
    assert torch.equal(records.expert_indices.sort(-1).values, flipped.sort(-1).values)


def test_routing_that_a_hook_changed_is_refused(bridge: Any, ids: Tensor) -> None:
    edit = (f"{ROUTER}.hook_expert_indices", lambda values, hook: (values + 1) % 32)
    with (
        bridge.hooks(fwd_hooks=[edit]),
        pytest.raises(ModelError, match=r"expert_indices of layer 1: .* other experts"),
    ):
        capture(bridge, ids)


def test_a_tap_beneath_records_routing_that_a_hook_changed(bridge: Any, ids: Tensor) -> None:
    edit = (f"{ROUTER}.hook_expert_indices", lambda values, hook: (values + 1) % 32)
    with RoutingTap(plain_model(bridge), sites=("expert_indices",)) as tap, torch.no_grad():
        bridge(ids)
        usual = tap.take().expert_indices
        with bridge.hooks(fwd_hooks=[edit]):
            bridge(ids)
        edited = tap.take().expert_indices
    moved = ((usual[:, 1] + 1) % 32).sort(-1).values
    assert torch.equal(edited[:, 1].sort(-1).values, moved)


def test_a_stream_changed_between_two_layers_is_refused(bridge: Any, ids: Tensor) -> None:
    edit = ("blocks.2.hook_resid_pre", lambda values, hook: values * 2)
    with (
        bridge.hooks(fwd_hooks=[edit]),
        pytest.raises(ModelError, match="resid_post of layer 1 is not resid_pre of layer 2"),
    ):
        capture(bridge, ids)


def test_an_edited_residual_stream_is_recorded_as_edited(bridge: Any, ids: Tensor) -> None:
    usual = capture(bridge, ids, sites=("resid_pre",))
    edit = ("blocks.2.hook_resid_pre", lambda values, hook: values * 2)
    with bridge.hooks(fwd_hooks=[edit]):
        edited = capture(bridge, ids, sites=("resid_pre",))
    assert torch.equal(edited.resid["resid_pre", 2], usual.resid["resid_pre", 2] * 2)
    assert torch.equal(edited.resid["resid_pre", 1], usual.resid["resid_pre", 1])


# Compatibility mode.


def compatible(plain: LoadedModel, **settings: Any) -> Any:
    bridge = booted(plain.model, plain.tokenizer)
    bridge.enable_compatibility_mode(disable_warnings=True, **settings)
    return bridge


def logprob_change(plain: LoadedModel, bridge: Any, ids: Tensor) -> float:
    """Largest change of a log-probability, in nats."""
    with torch.no_grad():
        ours, usual = bridge(ids), plain.model(ids).logits
    return float((ours.log_softmax(-1) - usual.log_softmax(-1)).abs().max())


def test_rows_of_attention_do_not_sum_to_one(bridge: Any, ids: Tensor) -> None:
    _, cache = bridge.run_with_cache(ids)
    assert all(cache["pattern", layer].sum(-1).max() < 1 for layer in LAYERS)
    assert cache["pattern", 0].sum(-1).min() < 0.1


def test_folded_value_biases_change_the_output_and_are_refused(
    plain: LoadedModel, ids: Tensor
) -> None:
    bridge = compatible(plain)
    assert logprob_change(plain, bridge, ids) > 0.1
    for refused in (lambda: capture(bridge, ids), lambda: plain_model(bridge)):
        with pytest.raises(ModelError, match=r"sinks there and its rows do not sum to 1; boot"):
            refused()


def test_processing_without_value_biases_keeps_the_output_and_is_refused_too(
    plain: LoadedModel, ids: Tensor
) -> None:
    bridge = compatible(plain, fold_value_biases=False)
    assert logprob_change(plain, bridge, ids) < 1e-4
    with pytest.raises(ModelError, match="weights of this bridge were processed"):
        capture(bridge, ids)


def test_processing_that_failed_half_way_is_refused(plain: LoadedModel, ids: Tensor) -> None:
    bridge = booted(plain.model, plain.tokenizer)
    with pytest.raises(RuntimeError, match="invalid for input of size"):  # so in 4.3, grouped heads
        bridge.enable_compatibility_mode(disable_warnings=True, fold_ln=False)
    with pytest.raises(ModelError, match="weights of this bridge were processed"):
        capture(bridge, ids)


def test_compatibility_mode_without_processing_is_the_model(
    plain: LoadedModel, ids: Tensor
) -> None:
    bridge = compatible(plain, no_processing=True)
    assert_equal(capture(bridge, ids), tapped(plain.model, ids))


# The reverse: records of ours under the names of TransformerLens.


def notebook(cache: Any) -> dict[str, Tensor]:
    """Lines as in a notebook on routing; they know nothing of where the cache is from."""
    logits = cache["blocks.3.mlp.router.hook_out"]
    load = torch.bincount(cache["blocks.3.mlp.hook_expert_indices"].flatten(), minlength=32)
    growth = cache["resid_post", 3].norm(dim=-1) / cache["resid_pre", -1].norm(dim=-1)
    return {
        "entropy": torch.distributions.Categorical(logits=logits).entropy(),
        "load": load,
        "weight": cache["blocks.0.mlp.router.hook_expert_weights"].mean(0),
        "growth": growth,
        "streams": cache.stack_activation("resid_mid"),
        "accumulated": cache.accumulated_resid(layer=3, incl_mid=True),
    }


def assert_same_cache(ours: Any, theirs: Any) -> None:
    """Each of our names is one of theirs, with equal bits, shape and dtype."""
    assert len(ours) == 4 * 9
    for name, values in ours.items():
        torch.testing.assert_close(values, theirs[name], rtol=0, atol=0, msg=name)
    found, expected = notebook(ours), notebook(theirs)
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name], rtol=0, atol=0, msg=name)


def test_a_notebook_runs_alike_on_a_cache_of_ours(
    plain: LoadedModel, bridge: Any, ids: Tensor
) -> None:
    ours = as_activation_cache(tapped(plain.model, ids), bridge=bridge)
    _, theirs = bridge.run_with_cache(ids)
    assert_same_cache(ours, theirs)


def test_a_notebook_runs_alike_on_a_padded_batch(plain: LoadedModel, bridge: Any) -> None:
    batch = padded_pair(plain)
    ours = as_activation_cache(tapped(plain.model, batch), n_batch=2, bridge=bridge)
    _, theirs = bridge.run_with_cache(
        batch["input_ids"], attention_mask=batch["attention_mask"], prepend_bos=False
    )
    assert_same_cache(ours, theirs)


def test_the_batch_axis_can_be_taken_away(plain: LoadedModel, bridge: Any, ids: Tensor) -> None:
    ours = as_activation_cache(tapped(plain.model, ids)).remove_batch_dim(batch_size=1)
    _, theirs = bridge.run_with_cache(ids, remove_batch_dim=True)
    assert ours["resid_mid", 2].ndim == 2
    assert all(torch.equal(values, theirs[name]) for name, values in ours.items())


def test_what_was_not_recorded_has_no_name(plain: LoadedModel, ids: Tensor) -> None:
    records = tapped(plain.model, ids, sites=("expert_indices", "expert_weights"), layers=[2])
    assert set(as_activation_cache(records).keys()) == {
        "blocks.2.mlp.router.hook_expert_indices",
        "blocks.2.mlp.hook_expert_indices",
        "blocks.2.mlp.hook_router_scores",
    }
    cache = as_activation_cache(records, n_experts=32)
    assert cache["blocks.2.mlp.hook_expert_weights"].shape == (ids.shape[1], 32)


def test_records_that_are_no_whole_sequences_are_refused(plain: LoadedModel, ids: Tensor) -> None:
    records = tapped(plain.model, ids)
    with pytest.raises(InputError, match=rf"n_batch is 2, but records holds {ids.shape[1]} rows"):
        as_activation_cache(records, n_batch=2)
    few = {key: rows[:1] for key, rows in records.resid.items()}
    with pytest.raises(InputError, match=rf"sites of 1 and of {ids.shape[1]} rows, expected all"):
        as_activation_cache(replace(records, resid=few))


def stored(loaded: LoadedModel, folder: Path, **settings: Any) -> Store:
    prompts = [Prompt(text=words, condition="organic") for words in ("two plus two", WORDS)]
    settings = {"sites": SITES, "positions": "all", "batch_tokens": 1} | settings
    out = folder / "run.moe"
    capture_store(loaded, prompts, out, settings=CaptureSettings(**settings), progress=False)
    return open_store(out)


def test_a_notebook_runs_alike_on_a_prompt_of_a_store(
    plain: LoadedModel, bridge: Any, tmp_path: Path
) -> None:
    store = stored(plain, tmp_path)
    ids = torch.from_numpy(store.token_id[store.prompt_index == 1]).long()[None]
    _, theirs = bridge.run_with_cache(ids)
    assert_same_cache(stored_activation_cache(store, 1, bridge=bridge), theirs)


def test_a_store_of_bfloat16_gives_streams_of_bfloat16(tmp_path: Path) -> None:
    toy = organisms.load_model("toy", dtype="bfloat16", device_map="cpu")
    store, bridge = stored(toy, tmp_path), booted(toy.model, toy.tokenizer)
    ids = torch.from_numpy(store.token_id[store.prompt_index == 1]).long()[None]
    _, theirs = bridge.run_with_cache(ids)
    ours = stored_activation_cache(store, 1)
    assert ours["resid_post", 3].dtype == torch.bfloat16
    assert ours["blocks.3.mlp.router.hook_out"].dtype == torch.float32
    assert all(torch.equal(values.float(), theirs[name].float()) for name, values in ours.items())


def test_a_store_that_keeps_some_positions_is_refused_until_streams_are_left_out(
    plain: LoadedModel, tmp_path: Path
) -> None:
    store = stored(plain, tmp_path, positions="last_content", sites=("resid_post",))
    with pytest.raises(InputError, match=r"keeps resid_post of 1 of the 5 tokens .*positions='all"):
        stored_activation_cache(store, 0)
    cache = stored_activation_cache(
        store, 0, sites=("expert_indices", "expert_weights"), layers=[2]
    )
    assert cache["blocks.2.mlp.router.hook_expert_weights"].shape == (5, 32)
    assert len(cache) == 5
    with pytest.raises(InputError, match=r"sites holds \['router_logits'\], but what run\.moe has"):
        stored_activation_cache(store, 0, sites=("router_logits",))
    with pytest.raises(ValueError, match="prompt is 2, expected 0 to 1"):
        stored_activation_cache(store, 2)


# The border.


def test_without_transformer_lens_the_install_line_is_given(
    plain: LoadedModel, ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = tapped(plain.model, ids)
    loaded = [name for name in sys.modules if name.partition(".")[0] == "transformer_lens"]
    for name in {"transformer_lens", "transformer_lens.model_bridge", *loaded}:
        monkeypatch.setitem(sys.modules, name, None)
    install = re.escape("pip install 'moe-interp[transformer-lens]'")
    for needs_it in (lambda: capture(None, ids), lambda: as_activation_cache(records)):
        with pytest.raises(InputError, match=f"install it with: {install}"):
            needs_it()


def test_a_plain_model_is_refused(plain: LoadedModel, ids: Tensor) -> None:
    with pytest.raises(InputError, match=r"bridge is a GptOssForCausalLM, expected .*RoutingTap"):
        capture(plain.model, ids)


@pytest.mark.parametrize("inputs", [None, "", [], {}, torch.tensor([]), 3])
def test_inputs_that_are_no_batch_are_refused(bridge: Any, inputs: Any) -> None:
    with pytest.raises(InputError, match=r"inputs is .*, expected one batch of token ids or text"):
        capture(bridge, inputs)


def test_unknown_sites_and_layers_are_refused_as_by_the_tap(bridge: Any, ids: Tensor) -> None:
    with pytest.raises(InputError, match=r"sites holds \['resid_past'\], expected some of"):
        capture(bridge, ids, sites=("resid_past",))
    with pytest.raises(InputError, match=r"layers holds \[4\], but the routed layers are"):
        capture(bridge, ids, layers=[4])


@pytest.mark.slow
def test_transformer_lens_is_not_imported_unless_asked() -> None:
    code = (
        "import sys, interp.hooks.transformer_lens, interp.hooks.transformer_lens_cache\n"
        "assert not [n for n in sys.modules if n.partition('.')[0] == 'transformer_lens']"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_the_examples_of_the_docs_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "transformer_lens.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for example in examples:
        exec(example, names)  # noqa: S102 - our own page
    assert names["records"].expert_indices.shape[1:] == (4, 4)
    assert examples
