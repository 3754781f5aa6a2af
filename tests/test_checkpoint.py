"""The real thing: checkpoints in the layout of the published openai/gpt-oss-20b, MXFP4 and bf16.

Oracles: the packed bytes decoded by hand, and transformers' own hidden states and router logits.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import GptOssForCausalLM

from interp.cache.errors import InputError
from interp.cache.reader import Store, open_store
from interp.cache.records import SITES, Message, Prompt
from interp.hooks.capture import capture
from interp.hooks.load import LoadedModel, load_model
from interp.hooks.settings import CaptureSettings
from tests.published_checkpoint import N_EXPERTS, N_LAYERS, TOP_K, save_published

pytestmark = pytest.mark.slow

COMMIT = "6cee5e81ee83917806bbde320786a8fb61efebee"
LONG = "What is the capital of Peru, and how far is it from the sea? " * 12
PROMPTS = (
    Prompt(messages=(Message(role="user", content="two plus two?"),), condition="organic"),
    Prompt(messages=(Message(role="user", content=LONG),), condition="benchmark"),
    Prompt(text="my cat won't eat her food, what should i do", condition="organic"),
)
EVERYTHING = CaptureSettings(sites=SITES, positions="all", batch_tokens=1)
"""Each prompt is a batch of its own, so that sums run in the same order as in a bare pass."""

WITHOUT_NETWORK = """
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise AssertionError(f"tried the network: {arguments}")

sys.addaudithook(refuse)
from interp.cli import main

main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The MXFP4 checkpoint; 200 MB, so it goes when the module is done."""
    folder = save_published(tmp_path_factory.mktemp("published") / "gpt-oss-20b")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def loaded(published: Path) -> LoadedModel:
    return load_model(str(published))


@pytest.fixture(scope="module")
def plain(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same weights as an ordinary bfloat16 checkpoint."""
    folder = tmp_path_factory.mktemp("plain") / "gpt-oss-20b-bf16"
    with torch.device("meta"):
        never_quantised = GptOssForCausalLM(loaded.model.config)
    never_quantised.load_state_dict(loaded.model.state_dict(), assign=True)
    never_quantised.save_pretrained(folder, max_shard_size="300MB")
    loaded.tokenizer.save_pretrained(folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def store(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return captured(loaded, tmp_path_factory.mktemp("store") / "published.moe")


@pytest.fixture(scope="module")
def prompt_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {
            "messages": [{"role": "user", "content": f"what is {n} plus {n}?"}],
            "condition": condition,
        }
        for n, condition in enumerate(("benchmark", "organic", "benchmark"))
    ]
    path = tmp_path_factory.mktemp("prompts") / "sums.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def captured(loaded: LoadedModel, out: Path) -> Store:
    assert capture(loaded, PROMPTS, out, settings=EVERYTHING, progress=False)
    return open_store(out)


def tensor(folder: Path, name: str) -> np.ndarray:
    """One tensor as the files have it, found through their index; bfloat16 widened to float32."""
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    with safe_open(folder / index["weight_map"][name], "pt") as file:
        held = file.get_tensor(name)
    widened: np.ndarray = (held if held.dtype == torch.uint8 else held.float()).numpy()
    return widened


def expert_matrix(folder: Path, name: str, expert: int) -> np.ndarray:
    """Weights of one expert, outputs by inputs, from the packed bytes.

    OCP MX: a value is (-1)^s 2^(e-1) (1 + m/2), or (-1)^s m/2 where e is 0, in the bits s e e m;
    the first of two is in the low half of a byte; 32 share the power of two of their scale.
    """
    blocks = tensor(folder, f"{name}_blocks")[expert]
    scales = tensor(folder, f"{name}_scales")[expert].astype(np.float32)
    codes = rearrange(
        [blocks & 15, blocks >> 4], "half rows groups bytes -> rows groups (bytes half)"
    )
    code = np.arange(16)
    exponent, mantissa = (code >> 1) & 3, (code & 1) / 2
    size = np.where(exponent == 0, mantissa, (1 + mantissa) * 2.0 ** (exponent - 1))
    value = np.where(code < 8, size, -size).astype(np.float32)
    return rearrange(
        value[codes] * 2 ** (scales[..., None] - 127), "rows groups each -> rows (groups each)"
    )


def experts_by_hand(
    folder: Path, layer: int, normed: np.ndarray, indices: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """What the routed experts of one layer add to the residual stream."""
    prefix = f"model.layers.{layer}.mlp.experts"
    out = np.zeros_like(normed)
    for expert in range(N_EXPERTS):
        share = np.where(indices == expert, weights, 0).sum(axis=1)
        rows = share > 0
        both = normed[rows] @ expert_matrix(folder, f"{prefix}.gate_up_proj", expert).T
        both += tensor(folder, f"{prefix}.gate_up_proj_bias")[expert]
        gate, up = np.minimum(both[:, 0::2], 7), np.clip(both[:, 1::2], -7, 7)
        hidden = (up + 1) * gate / (1 + np.exp(-1.702 * gate))
        result = hidden @ expert_matrix(folder, f"{prefix}.down_proj", expert).T
        result += tensor(folder, f"{prefix}.down_proj_bias")[expert]
        out[rows] += share[rows, None] * result
    return out


def normed_by_hand(folder: Path, layer: int, resid_mid: np.ndarray) -> np.ndarray:
    gain = tensor(folder, f"model.layers.{layer}.post_attention_layernorm.weight")
    size = np.sqrt((resid_mid**2).mean(axis=1, keepdims=True) + 1e-5)
    normed: np.ndarray = gain * resid_mid / size
    return normed


def of_prompt(store: Store, prompt: int, site: str, layer: int) -> np.ndarray:
    rows: np.ndarray = store.resid(site, layer).values[store.prompt_index == prompt]
    return rows


def bare_pass(loaded: LoadedModel, store: Store, prompt: int) -> Any:
    """transformers' own records of one prompt, without any tap of ours."""
    ids = torch.from_numpy(store.token_id[store.prompt_index == prompt].astype(np.int64))[None]
    with torch.inference_mode():
        return loaded.model(
            ids, use_cache=False, output_hidden_states=True, output_router_logits=True
        )


def weights_sha256(folder: Path) -> str:
    lines = [
        f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in sorted(folder.iterdir())
        if path.suffix == ".safetensors"
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def run_cli(*arguments: str, **environment: str) -> dict[str, Any]:
    """One command in a process of its own, in which any attempt at the network is an error."""
    finished = subprocess.run(
        [sys.executable, "-c", WITHOUT_NETWORK, *arguments, "--json"],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    said: dict[str, Any] = json.loads(finished.stdout)
    return said


@pytest.mark.parametrize("layer", range(N_LAYERS))
@pytest.mark.parametrize("name", ["gate_up_proj", "down_proj"])
def test_dequantised_experts_are_the_packed_bytes_decoded_by_hand(
    loaded: LoadedModel, published: Path, layer: int, name: str
) -> None:
    parameter = loaded.model.get_parameter(f"model.layers.{layer}.mlp.experts.{name}")
    assert parameter.dtype == torch.bfloat16
    for expert in range(N_EXPERTS):
        expected = expert_matrix(published, f"model.layers.{layer}.mlp.experts.{name}", expert)
        found = rearrange(parameter[expert].float(), "inputs outputs -> outputs inputs")
        assert np.array_equal(found.detach().numpy(), expected)


def test_automatic_dtype_is_bfloat16_throughout(loaded: LoadedModel) -> None:
    assert {each.dtype for each in loaded.model.parameters()} == {torch.bfloat16}
    # Rounded rotary frequencies would shift every attention score of a long prompt.
    assert loaded.model.model.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.parametrize("prompt", range(len(PROMPTS)))
def test_recorded_residuals_and_logits_are_those_of_a_bare_pass(
    loaded: LoadedModel, store: Store, prompt: int
) -> None:
    bare = bare_pass(loaded, store, prompt)
    rows = store.prompt_index == prompt
    logits = store.router().router_logits
    assert logits is not None
    for layer in range(N_LAYERS):
        assert np.array_equal(logits[rows, layer], bare.router_logits[layer].float().numpy())
        resid_pre = bare.hidden_states[layer][0].float().numpy()
        assert np.array_equal(of_prompt(store, prompt, "resid_pre", layer), resid_pre)
    last = torch.from_numpy(of_prompt(store, prompt, "resid_post", N_LAYERS - 1)).bfloat16()
    with torch.inference_mode():
        assert torch.equal(loaded.model.model.norm(last), bare.hidden_states[-1][0])


@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_recorded_routing_follows_from_the_files_and_the_recorded_resid_mid(
    store: Store, published: Path, layer: int
) -> None:
    normed = normed_by_hand(published, layer, store.resid("resid_mid", layer).values)
    router = f"model.layers.{layer}.mlp.router"
    logits = normed @ tensor(published, f"{router}.weight").T + tensor(published, f"{router}.bias")
    routing = store.router([layer])
    indices, weights = routing.expert_indices[:, 0], routing.expert_weights[:, 0]
    assert routing.router_logits is not None
    np.testing.assert_allclose(routing.router_logits[:, 0], logits, atol=0.06)
    best = np.take_along_axis(logits, indices.astype(np.int64), axis=1)
    # No expert that was left out is better, but for what bfloat16 rounds away.
    assert (best[:, -1] >= np.sort(logits, axis=1)[:, -TOP_K] - 0.06).all()
    expected = np.exp(best) / np.exp(best).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(weights, expected, atol=0.02)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=4e-3)
    assert (np.diff(weights, axis=1) <= 0).all()


@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_packed_experts_run_by_hand_give_the_recorded_resid_post(
    store: Store, published: Path, layer: int
) -> None:
    resid_mid = store.resid("resid_mid", layer).values
    routing = store.router([layer])
    expected = experts_by_hand(
        published,
        layer,
        normed_by_hand(published, layer, resid_mid),
        routing.expert_indices[:, 0],
        routing.expert_weights[:, 0],
    )
    found = store.resid("resid_post", layer).values - resid_mid
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)


def test_every_expert_is_chosen_by_some_token(store: Store) -> None:
    indices = store.router().expert_indices
    for layer in range(N_LAYERS):
        assert set(np.unique(indices[:, layer])) == set(range(N_EXPERTS))


def test_a_sharded_bfloat16_checkpoint_of_the_same_weights_gives_the_same_store(
    store: Store, plain: Path, tmp_path: Path
) -> None:
    assert len(list(plain.glob("model-*.safetensors"))) > 1
    other = captured(load_model(str(plain)), tmp_path / "plain.moe")
    assert other.provenance["quantization"] == ""
    assert store.provenance["quantization"] == "mxfp4, dequantised on load"
    ours, theirs = store.router(), other.router()
    assert np.array_equal(ours.expert_indices, theirs.expert_indices)
    assert np.array_equal(ours.expert_weights, theirs.expert_weights)
    for layer in range(N_LAYERS):
        for site in ("resid_pre", "resid_mid", "resid_post"):
            assert np.array_equal(store.resid(site, layer).values, other.resid(site, layer).values)


def test_capture_of_a_hub_name_reads_the_cache_of_the_hub(
    published: Path, prompt_file: Path, tmp_path: Path
) -> None:
    cached = tmp_path / "hub" / "models--openai--gpt-oss-20b"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    (cached / "snapshots").mkdir()
    (cached / "snapshots" / COMMIT).symlink_to(published)
    out = tmp_path / "run.moe"
    said = run_cli(
        *("capture", "openai/gpt-oss-20b", "--prompts", str(prompt_file), "--out", str(out)),
        HF_HUB_CACHE=str(tmp_path / "hub"),
        HF_HUB_OFFLINE="1",
    )
    assert said == {
        "store": str(out),
        "prompts": 3,
        "captured": True,
        "layers_compared_with_router": "2 of 2",
    }
    template = (published / "chat_template.jinja").read_bytes()
    expected = {
        "model": "openai/gpt-oss-20b",
        "revision": COMMIT,
        "weights_sha256": weights_sha256(published),
        "dtype": "bfloat16",
        "quantization": "mxfp4, dequantised on load",
        "chat_template_sha256": hashlib.sha256(template).hexdigest(),
    }
    opened = open_store(out)
    assert {name: opened.provenance[name] for name in expected} == expected
    assert opened.layout.d_model == 2880
    assert opened.resid("resid_post", 1).values.shape == (3, 2880)
    assert list(opened.prompts["condition"]) == ["benchmark", "organic", "benchmark"]


def test_capture_of_a_directory_never_tries_the_network(
    plain: Path, prompt_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run.moe"
    run_cli(
        *("capture", str(plain), "--prompts", str(prompt_file), "--out", str(out)),
        HF_HUB_CACHE=str(tmp_path / "hub"),
        HF_HUB_OFFLINE="0",
    )
    provenance = open_store(out).provenance
    assert provenance["model"] == plain.name
    assert provenance["revision"] == ""
    assert provenance["quantization"] == ""
    assert provenance["weights_sha256"] == weights_sha256(plain)


def test_layers_that_do_not_fit_into_memory_are_captured_all_the_same(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = captured(load_model(str(tiny_folder)), tmp_path / "whole.moe")
    size = (tiny_folder / "model.safetensors").stat().st_size
    monkeypatch.setattr(
        "transformers.integrations.accelerate.get_max_memory", lambda _: {"cpu": 3 * size // 4}
    )
    split = load_model(str(tiny_folder))
    assert set(split.model.hf_device_map.values()) == {"cpu", "disk"}
    assert split.model.get_parameter("model.layers.1.mlp.router.weight").is_meta
    parts = captured(split, tmp_path / "split.moe")
    ours, theirs = parts.router().router_logits, whole.router().router_logits
    assert ours is not None
    assert theirs is not None
    assert np.array_equal(ours, theirs)
    assert np.array_equal(parts.resid("resid_post", 1).values, whole.resid("resid_post", 1).values)


def test_a_machine_too_small_to_dequantise_is_told_so(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "transformers.integrations.accelerate.get_max_memory", lambda _: {"cpu": 300_000_000}
    )
    with pytest.raises(InputError, match="need a machine with more memory"):
        load_model(str(published))


def test_a_checkpoint_that_lacks_weights_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    """As transformers 5.23 writes where a dequantised gpt-oss is saved again: other names."""
    folder = shutil.copytree(tiny_folder, tmp_path / "renamed")
    weights = load_file(folder / "model.safetensors")
    renamed = {
        f"{name}_blocks" if name.endswith("_proj") else name: each for name, each in weights.items()
    }
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 4 of the model's weights, such as .*down_proj,"):
        load_model(str(folder))
