"""Records out of nnsight's traces against those of the tap on the plain model, to the last bit.

Both run the same float32 model on the CPU with the same inputs, so nothing less than equal bits is
asked for, in indices, weights, logits and residual streams alike.
"""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from interp import organisms
from interp.cache.errors import InputError, ModelError
from interp.hooks import nnsight as front_end
from interp.hooks.interventions import replay_routing, reroute
from interp.hooks.load import LoadedModel
from interp.hooks.nnsight import TRACE_SITES, TraceTap, capture
from interp.hooks.pass_records import TOKEN_FIELDS, PassRecords
from interp.hooks.tap import RoutingTap
from tests.tiny_families import FAMILIES, tiny_family

ROOT = Path(__file__).resolve().parents[1]
PROMPT = "two plus two"
BATCH = [PROMPT, "what is the capital of Peru, my friend"]


@pytest.fixture(scope="module")
def plain() -> LoadedModel:
    """The toy in float32, which nnsight never touches."""
    return organisms.load_model("toy", dtype="float32", device_map="cpu")


@pytest.fixture(scope="module")
def model() -> Any:
    """The same in nnsight, which instruments a model in place and for good."""
    from nnsight import TransformersModel

    toy = organisms.load_model("toy", dtype="float32", device_map="cpu")
    return TransformersModel(toy.model, tokenizer=toy.tokenizer)


@pytest.fixture
def search_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """remote="local" puts `sys.path` back in another order."""
    monkeypatch.setattr(sys, "path", [*sys.path])


def wrapped(tiny: LoadedModel) -> Any:
    from nnsight import TransformersModel

    return TransformersModel(tiny.model, tokenizer=tiny.tokenizer)


def tapped(plain: LoadedModel, inputs: dict[str, Any], **chosen: Any) -> PassRecords:
    """What the tap records of the plain model."""
    with RoutingTap(plain.model, **({"sites": TRACE_SITES} | chosen)) as tap, torch.no_grad():
        plain.model(**inputs)
    return tap.take()


def encoded(model: Any, words: list[str]) -> dict[str, Any]:
    """One batch, padded on the left, with the positions that nnsight derives from the mask."""
    encoding = dict(model.tokenizer(words, return_tensors="pt", padding=True))
    positions = encoding["attention_mask"].cumsum(-1) - 1
    return encoding | {"position_ids": positions.clamp(min=0)}


def assert_equal(ours: PassRecords, expected: PassRecords) -> None:
    """Equal bits and dtypes in every field."""
    assert ours.layer_indices == expected.layer_indices
    for name in TOKEN_FIELDS:
        mine, other = getattr(ours, name), getattr(expected, name)
        assert (mine is None) == (other is None), name
        if mine is not None:
            assert mine.dtype == other.dtype
            assert torch.equal(mine, other), name
    assert ours.resid.keys() == expected.resid.keys()
    assert all(torch.equal(rows, expected.resid[key]) for key, rows in ours.resid.items())


def test_one_prompt_gives_the_records_of_the_tap(plain: LoadedModel, model: Any) -> None:
    records = capture(model, PROMPT)
    assert type(records) is PassRecords
    assert records.router_logits is not None
    assert records.router_logits.dtype == torch.float32
    assert_equal(records, tapped(plain, encoded(model, [PROMPT])))


def test_a_padded_batch_gives_the_records_of_the_tap(plain: LoadedModel, model: Any) -> None:
    inputs = encoded(model, BATCH)
    assert inputs["attention_mask"].min() == 0
    records = capture(model, BATCH)
    assert_equal(records, tapped(plain, inputs))
    assert records.expert_indices is not None
    assert len(records.expert_indices) == inputs["input_ids"].numel()


def test_an_encoding_gives_the_records_of_its_texts(model: Any) -> None:
    encoding = model.tokenizer(BATCH, return_tensors="pt", padding=True)
    assert_equal(capture(model, encoding), capture(model, BATCH))


def test_chosen_rows_leave_the_padding_out(model: Any) -> None:
    mask = encoded(model, BATCH)["attention_mask"].flatten()
    rows, last = mask.nonzero()[:, 0], torch.tensor([len(mask) - 1])
    whole, some = capture(model, BATCH), capture(model, BATCH, tokens=rows, resid=last)
    assert whole.expert_indices is not None
    assert some.expert_indices is not None
    assert torch.equal(some.expert_indices, whole.expert_indices[rows])
    assert all(torch.equal(kept, whole.resid[key][last]) for key, kept in some.resid.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_records_of_the_tap(family: str, tiny: LoadedModel) -> None:
    from nnsight import TransformersModel

    ids = torch.randint(3, 96, (2, 9), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    plain = tiny_family(family)
    with RoutingTap(plain, sites=TRACE_SITES) as tap, torch.no_grad():
        plain(**inputs)
    model = TransformersModel(tiny_family(family), tokenizer=tiny.tokenizer)
    assert_equal(capture(model, inputs), tap.take())


@pytest.mark.parametrize("site", TRACE_SITES)
def test_each_site_alone_is_that_of_the_tap(plain: LoadedModel, model: Any, site: str) -> None:
    chosen = {"sites": (site,), "layers": [1, 3]}
    assert_equal(
        capture(model, PROMPT, **chosen), tapped(plain, encoded(model, [PROMPT]), **chosen)
    )


def test_a_trace_watches_only_what_its_sites_need(model: Any) -> None:
    assert TraceTap(model, sites=("resid_mid",), layers=[2]).wanted == {
        "modules": ["model.model.layers.2.post_attention_layernorm"],
        "include_inputs": True,
    }


def test_a_trace_with_reads_of_its_own_gives_the_same(plain: LoadedModel, model: Any) -> None:
    tap = TraceTap(model)
    wanted = tap.wanted
    with model.trace(PROMPT) as tracer:
        cache = tracer.cache(**wanted)
        first = model.model.layers[0].output.save()
        weights = model.model.layers[2].mlp.router.output[1].save()
        logits = model.lm_head.output.save()
    records, expected = tap.records(cache), tapped(plain, encoded(model, [PROMPT]))
    assert_equal(records, expected)
    assert torch.equal(first[0], expected.resid["resid_post", 0])
    assert expected.expert_weights is not None
    assert torch.equal(weights, expected.expert_weights[:, 2])
    with torch.no_grad():
        assert torch.equal(logits, plain.model(**encoded(model, [PROMPT])).logits)


@pytest.mark.slow
def test_remote_local_gives_the_same(plain: LoadedModel, model: Any, search_path: None) -> None:
    records = capture(model, BATCH, remote="local")
    assert_equal(records, tapped(plain, encoded(model, BATCH)))


def test_a_trace_of_the_user_gives_the_same_through_remote_local(
    plain: LoadedModel, model: Any, search_path: None
) -> None:
    tap = TraceTap(model)
    wanted = tap.wanted
    with model.trace(PROMPT, remote="local") as tracer:
        cache = tracer.cache(**wanted)
        model.model.layers[1].mlp.output.save()
    assert_equal(tap.records(cache), tapped(plain, encoded(model, [PROMPT])))


def test_experts_that_the_trace_replaced_are_recorded(model: Any) -> None:
    tap = TraceTap(model, sites=("expert_indices", "resid_post"))
    wanted, usual = tap.wanted, tap.capture(PROMPT)
    with model.trace(PROMPT) as tracer:
        cache = tracer.cache(**wanted)
        logits, weights, indices = model.model.layers[1].mlp.router.output
        model.model.layers[1].mlp.router.output = (logits, weights, (indices + 1) % 32)
    edited = tap.records(cache)
    assert usual.expert_indices is not None
    assert edited.expert_indices is not None
    assert torch.equal(edited.expert_indices[:, 0], usual.expert_indices[:, 0])
    assert torch.equal(edited.expert_indices[:, 1], (usual.expert_indices[:, 1] + 1) % 32)
    assert torch.equal(edited.resid["resid_post", 0], usual.resid["resid_post", 0])
    assert not torch.equal(edited.resid["resid_post", 1], usual.resid["resid_post", 1])


def test_a_residual_stream_that_the_trace_changed_is_recorded(model: Any) -> None:
    tap = TraceTap(model)
    wanted = tap.wanted
    with model.trace(PROMPT) as tracer:
        cache = tracer.cache(**wanted)
        model.model.layers[2].output = model.model.layers[2].output * 2
    usual, edited = capture(model, PROMPT), tap.records(cache)
    for site, layer in (("resid_post", 2), ("resid_pre", 3)):
        assert torch.equal(edited.resid[site, layer], usual.resid[site, layer] * 2)
    assert torch.equal(edited.resid["resid_mid", 2], usual.resid["resid_mid", 2])


def test_a_rerouted_model_gives_the_records_of_the_tap(plain: LoadedModel, model: Any) -> None:
    usual = capture(model, PROMPT).expert_indices
    assert usual is not None
    out = [(2, int(usual[0, 2, 0]))]
    with reroute(model._module, out), reroute(plain.model, out):
        records = capture(model, PROMPT)
        assert_equal(records, tapped(plain, encoded(model, [PROMPT])))
    assert records.expert_indices is not None
    assert not (records.expert_indices[:, 2] == out[0][1]).any()


def test_replayed_experts_are_recorded(plain: LoadedModel, model: Any) -> None:
    usual = tapped(plain, encoded(model, [PROMPT])).expert_indices
    assert usual is not None
    with replay_routing(model._module, expert_indices=usual.flip(0)):
        records = capture(model, PROMPT, sites=("expert_indices",))
    assert records.expert_indices is not None
    assert torch.equal(records.expert_indices.sort(-1).values, usual.flip(0).sort(-1).values)


def test_changed_experts_in_the_first_records_are_refused(model: Any) -> None:
    tap = TraceTap(model)
    wanted = tap.wanted
    with model.trace(PROMPT) as tracer:
        cache = tracer.cache(**wanted)
        logits, weights, indices = model.model.layers[1].mlp.router.output
        model.model.layers[1].mlp.router.output = (logits, weights, (indices + 1) % 32)
    with pytest.raises(ModelError, match=r"expert_indices of layer 1: .* see one pass without it"):
        tap.records(cache)


def test_invokers_share_router_rows_and_are_refused(model: Any) -> None:
    tap = TraceTap(model)
    wanted = tap.wanted
    with model.trace() as tracer:
        with tracer.invoke(BATCH[0]):
            first = tracer.cache(**wanted)
        with tracer.invoke(BATCH[1]):
            second = tracer.cache(**wanted)
    router = "model.model.layers.0.mlp.router"
    assert torch.equal(first[router].output[0], second[router].output[0])
    for cache in (first, second):
        with pytest.raises(InputError, match=r"invokers share router rows in nnsight 0\.8\.1"):
            tap.records(cache)


def test_an_empty_invoker_sees_the_whole_batch(model: Any) -> None:
    tap = TraceTap(model)
    wanted = tap.wanted
    with model.trace() as tracer:
        with tracer.invoke(BATCH[0]):
            model.model.layers[0].output.save()
        with tracer.invoke(BATCH[1]):
            model.model.layers[0].output.save()
        with tracer.invoke():
            cache = tracer.cache(**wanted)
    assert_equal(tap.records(cache), capture(model, BATCH))


def test_generation_is_refused(model: Any) -> None:
    tap = TraceTap(model)
    wanted = tap.wanted
    with model.generate(PROMPT, max_new_tokens=3) as tracer:
        cache = tracer.cache(**wanted)
    with pytest.raises(InputError, match=r"the cache holds 3 passes, expected one"):
        tap.records(cache)


def test_a_trace_that_was_stopped_is_refused(model: Any) -> None:
    tap = TraceTap(model)
    wanted = tap.wanted
    with model.trace(PROMPT) as tracer:
        cache = tracer.cache(**wanted)
        model.model.layers[1].mlp.output.save()
        tracer.stop()
    with pytest.raises(ModelError, match="resid_post of layer 1 was not seen"):
        tap.records(cache)


def fused(mlp: Any) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """A forward of the block that reads the router's weights and never calls the module."""

    def forward(hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = hidden.flatten(0, 1)
        best = torch.topk(rows @ mlp.router.weight.T + mlp.router.bias, mlp.router.top_k, dim=-1)
        scores = torch.softmax(best.values, dim=-1)
        experts = type(mlp.experts).forward
        return experts(mlp.experts, rows, best.indices, scores).reshape(hidden.shape), scores

    return forward


def test_a_fused_block_that_calls_neither_router_nor_experts_is_recorded(
    tiny: LoadedModel,
) -> None:
    expected = tapped(tiny, dict(tiny.tokenizer(PROMPT, return_tensors="pt")))
    for layer in tiny.model.model.layers:
        layer.mlp.forward = fused(layer.mlp)
    tap = TraceTap(wrapped(tiny))
    assert_equal(tap.capture(PROMPT), expected)
    assert tap.compared_layers == ()


def test_a_fused_block_of_another_rule_is_refused(tiny: LoadedModel) -> None:
    """What it chose cannot be seen, so its router is asked."""
    mlp = tiny.model.model.layers[1].mlp
    usual = mlp.router.forward
    mlp.router.forward = lambda hidden: (*usual(hidden)[:2], (usual(hidden)[2] + 1) % 8)
    mlp.forward = fused(mlp)
    with pytest.raises(ModelError, match=r"expert_indices of layer 1: .* other experts"):
        capture(wrapped(tiny), PROMPT, sites=("expert_indices",))


def test_a_pass_under_an_intervention_is_not_the_check(tiny: LoadedModel) -> None:
    """It kept the rule from being compared, so the next pass is."""
    indices = tapped(tiny, dict(tiny.tokenizer(PROMPT, return_tensors="pt"))).expert_indices
    assert indices is not None
    model = wrapped(tiny)
    tap = TraceTap(model, sites=("expert_indices",))
    with replay_routing(model._module, expert_indices=indices):
        tap.capture(PROMPT)
    assert not tap.is_checked
    tap.capture(PROMPT)
    assert tap.is_checked
    assert tap.compared_layers == (0, 1)


def test_a_router_that_chooses_otherwise_is_refused(tiny: LoadedModel) -> None:
    router = tiny.model.model.layers[1].mlp.router
    usual = router.forward
    router.forward = lambda hidden: (*usual(hidden)[:2], (usual(hidden)[2] + 1) % 8)
    with pytest.raises(ModelError, match=r"expert_indices of layer 1: .* other experts"):
        capture(wrapped(tiny), PROMPT, sites=("expert_indices",))


class Server:
    """NDIF as far as it can be had here: a model of its own, and results that are sent back."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, tracer: Any) -> None:
        from nnsight.schema.request import RequestModel
        from nnsight.tracing.util import push

        request = RequestModel.serialize(tracer)
        assert b"interp.hooks" not in request
        there = RequestModel.deserialize(request, self.model._remoteable_persistent_objects())
        there.execute(there.info.code)
        result = io.BytesIO()
        torch.save({"cache": there.info.frame.f_locals["cache"]}, result)
        result.seek(0)
        push(tracer.info.frame, torch.load(result, map_location="cpu", weights_only=False))


@pytest.fixture
def client(tiny_folder: Path, tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A model without weights, whose traces run on a server that has them."""
    from nnsight import TransformersModel

    given = {"task": "text-generation", "tokenizer": tiny.tokenizer}
    server = TransformersModel(str(tiny_folder), dispatch=True, **given)
    model = TransformersModel(str(tiny_folder), **given)
    monkeypatch.setattr(front_end, "_check_hub_id", lambda _: None)
    monkeypatch.setattr(model, "_remote_backend", lambda *_: Server(server))
    yield model
    assert not model.dispatched


def test_a_model_whose_weights_are_on_a_server_gives_the_same(
    client: Any, tiny: LoadedModel
) -> None:
    tap = TraceTap(client)
    records = tap.capture(PROMPT, remote=True)
    assert tap.compared_layers == ()
    assert_equal(records, tapped(tiny, dict(tiny.tokenizer(PROMPT, return_tensors="pt"))))


def test_a_model_from_a_directory_is_refused_by_a_server(model: Any) -> None:
    with pytest.raises(InputError, match=r"remote=True needs the hub id of a model that NDIF"):
        capture(model, PROMPT, remote=True)


def test_margins_that_need_a_tensor_of_the_server_are_refused(
    tiny: LoadedModel,
) -> None:
    from nnsight import TransformersModel

    model = TransformersModel(tiny_family("deepseek_v3"), tokenizer=tiny.tokenizer)
    model.repo_id = "deepseek-ai/DeepSeek-V3"
    with pytest.raises(InputError, match=r"correction bias of a router of deepseek_v3"):
        capture(model, PROMPT, sites=("router_logits",), remote=True)


def test_norms_of_expert_outputs_are_refused(model: Any) -> None:
    with pytest.raises(InputError, match=r"weighted sum of the experts only; .*RoutingTap"):
        capture(model, PROMPT, sites=("expert_output_norms",))


def test_an_unknown_layer_is_refused(model: Any) -> None:
    with pytest.raises(InputError, match=r"layers holds \[4\], but the routed layers are"):
        capture(model, PROMPT, layers=[4])


def test_no_input_is_refused(model: Any) -> None:
    with pytest.raises(InputError, match=r"inputs is \[\], expected one batch"):
        capture(model, [])


def test_a_plain_model_is_refused(plain: LoadedModel) -> None:
    with pytest.raises(InputError, match=r"model is a GptOssForCausalLM, expected an nnsight\.Tr"):
        capture(plain.model, PROMPT)


# nnsight says itself, too, that the class is deprecated.
@pytest.mark.filterwarnings("ignore:LanguageModel is deprecated:FutureWarning")
def test_the_deprecated_language_model_is_refused(tiny: LoadedModel) -> None:
    from nnsight import LanguageModel

    with pytest.raises(InputError, match=r"model is a LanguageModel, expected an nnsight\.Tr"):
        capture(LanguageModel(tiny.model, tokenizer=tiny.tokenizer), PROMPT)


def test_without_nnsight_the_install_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nnsight", None)
    with pytest.raises(InputError, match=r"install it with: pip install 'moe-interp\[nnsight\]'"):
        capture(None, PROMPT)


def run_python(code: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_nnsight_is_not_imported_before_it_is_used() -> None:
    code = "import sys; from interp.hooks.nnsight import capture; print('nnsight' in sys.modules)"
    assert run_python(code) == "False\n"


@pytest.mark.slow
def test_the_example_of_the_page_runs() -> None:
    page = (ROOT / "docs" / "nnsight.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    assert run_python(code) == "torch.Size([15, 4, 4])\ntorch.Size([20, 128])\n"
