"""A model read from disk layer by layer gives the store that the whole model gives, bit for bit.

Oracles: `interp.hooks.capture` with the model whole, and transformers' own unpacking of MXFP4.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from interp import organisms
from interp.cache.errors import InputError
from interp.cache.records import SITES, Message, Prompt
from interp.hooks.capture import capture
from interp.hooks.layer_weights import LayerWeights
from interp.hooks.load import load_model
from interp.hooks.mxfp4 import unpack_mxfp4
from interp.hooks.settings import CaptureSettings, GenerationSettings
from interp.hooks.streamed_capture import capture_streamed
from interp.hooks.streamed_passes import StreamedPasses
from interp.organisms.tokenizer import train_tokenizer
from tests.published_checkpoint import save_published
from tests.tiny_families import FAMILIES, tiny_family
from tests.tiny_model import SENTENCES

CONDITIONS = ("benchmark", "organic")
PROMPTS = [
    Prompt(text=(sentence + " ") * n, condition=CONDITIONS[n % 2], source=f"source {n}")
    for n, sentence in enumerate(SENTENCES * 2, 1)
]
EVERYTHING = CaptureSettings(sites=SITES, positions="every:3", batch_tokens=300, logprobs=True)


def datasets(store: Path) -> dict[str, bytes]:
    """The bytes of every dataset of every part."""
    found: dict[str, bytes] = {}
    for part in sorted(store.glob("part-*.h5")):
        with h5py.File(part) as file:

            def read(name: str, each: Any, part: str = part.name) -> None:
                if isinstance(each, h5py.Dataset):
                    found[f"{part}/{name}"] = each.astype(each.dtype)[...].tobytes()

            file.visititems(read)
    return found


def manifest(store: Path) -> dict[str, Any]:
    return dict(json.loads((store / "manifest.json").read_text()))


def both(model: Path, folder: Path, *, dtype: str = "auto", **others: Any) -> tuple[Path, Path]:
    """Stores of the whole model and of the streamed one."""
    whole, streamed = folder / "whole.moe", folder / "streamed.moe"
    settings, prompts = others.get("settings", EVERYTHING), others.get("prompts", PROMPTS)
    loaded = load_model(model, dtype=dtype, device_map="cpu")
    capture(loaded, prompts, whole, settings=settings, progress=False)
    assert capture_streamed(
        model, prompts, streamed, settings=settings, dtype=dtype, progress=False
    )
    return whole, streamed


def expect_same(whole: Path, streamed: Path) -> None:
    expected, found = datasets(whole), datasets(streamed)
    assert list(found) == list(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_the_store_is_that_of_the_whole_model(tmp_path: Path, dtype: str) -> None:
    whole, streamed = both(organisms.path("toy"), tmp_path, dtype=dtype)

    expect_same(whole, streamed)
    said, expected = manifest(streamed), manifest(whole)
    for name in ("batched", "experts_path", "layers", "layers_compared_with_router", "sites"):
        assert said["self_check"][name] == expected["self_check"][name]
    differing = {
        name
        for name in said["provenance"] | expected["provenance"]
        if said["provenance"].get(name) != expected["provenance"].get(name)
    }
    assert differing == {"engine"}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["streamed.moe", "whole.moe"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_read_as_transformers_reads_it(tmp_path: Path, family: str) -> None:
    """From the layout that it is published in; in bfloat16, where some tensors stay float32."""
    tokenizer = train_tokenizer(SENTENCES, vocab_size=320)
    model = tiny_family(family, vocab_size=len(tokenizer), max_position_embeddings=1024)
    model.save_pretrained(tmp_path / "model")  # type: ignore[operator]
    tokenizer.save_pretrained(tmp_path / "model")

    expect_same(*both(tmp_path / "model", tmp_path, dtype="bfloat16", prompts=PROMPTS[:3]))


@pytest.mark.slow
def test_a_sharded_mxfp4_checkpoint_is_unpacked(tmp_path: Path) -> None:
    """In the layout of the published gpt-oss-20b, full width."""
    folder = save_published(tmp_path / "gpt-oss-20b")
    settings = CaptureSettings(sites=SITES, batch_tokens=200, logprobs=True)

    whole, streamed = both(folder, tmp_path, settings=settings, prompts=PROMPTS[:3])

    expect_same(whole, streamed)
    assert manifest(streamed)["provenance"]["quantization"] == "mxfp4, dequantised on load"


def test_mxfp4_is_unpacked_as_transformers_does() -> None:
    """Every byte under every scale that is a number."""
    byte = torch.arange(256, dtype=torch.uint8)
    blocks = byte.view(1, 1, 16, 16).repeat(1, 255, 1, 1)
    scales = byte[:255].view(1, 255, 1).repeat(1, 1, 16)

    found = unpack_mxfp4(blocks, scales)

    expected = convert_moe_packed_tensors(blocks, scales)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert torch.equal(found.signbit(), expected.signbit())
    assert unpack_mxfp4(blocks[:, :1], byte[-1].expand(1, 1, 16)).isnan().all()


def test_one_layer_has_weights_at_a_time() -> None:
    with LayerWeights(organisms.path("toy")) as weights:
        for number in range(4):
            with weights.layer(number):
                held = [each for each, layer in enumerate(weights.layers) if has_weights(layer)]
                assert held == [number]
                assert weights.model.get_input_embeddings().weight.is_meta
        assert not any(map(has_weights, weights.layers))


def has_weights(layer: torch.nn.Module) -> bool:
    return not any(each.is_meta for each in layer.parameters())


@pytest.mark.parametrize("stopped_at", [0, 3, 5])
def test_a_stopped_capture_goes_on_to_the_same_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    """Stopped in the middle of a stage, of which the second batch is not done."""
    toy = organisms.path("toy")
    capture_streamed(toy, PROMPTS, tmp_path / "a.moe", settings=EVERYTHING, progress=False)
    stages: list[int] = []

    def run() -> None:
        capture_streamed(toy, PROMPTS, tmp_path / "b.moe", settings=EVERYTHING, progress=False)

    with monkeypatch.context() as patched:
        usual = StreamedPasses._stage

        def stage(self: StreamedPasses, bar: Any) -> None:
            if self._scratch.n_done == stopped_at:
                bar = Stops()
            usual(self, bar)

        patched.setattr(StreamedPasses, "_stage", stage)
        with pytest.raises(KeyboardInterrupt):
            run()
    with monkeypatch.context() as patched:
        usual = StreamedPasses._stage

        def counted(self: StreamedPasses, bar: Any) -> None:
            stages.append(self._scratch.n_done)
            usual(self, bar)

        patched.setattr(StreamedPasses, "_stage", counted)
        run()

    assert stages == list(range(stopped_at, 6))
    assert datasets(tmp_path / "a.moe") == datasets(tmp_path / "b.moe")
    assert not (tmp_path / ".b.moe.layers").exists()


class Stops:
    """A progress bar at whose first step the user stops the process."""

    def update(self) -> None:
        raise KeyboardInterrupt

    def set_postfix_str(self, _: str) -> None:
        """Say nothing."""


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_store(tmp_path: Path) -> None:
    """Killed when half of the layers are on disk."""
    toy = organisms.path("toy")
    capture_streamed(toy, PROMPTS, tmp_path / "a.moe", settings=EVERYTHING, progress=False)
    code = (
        "import os, signal\n"
        "from interp import organisms\n"
        "from interp.hooks.streamed_capture import capture_streamed\n"
        "from interp.hooks.stream_scratch import Stage\n"
        "from tests.test_streamed_capture import EVERYTHING, PROMPTS\n"
        "write = Stage.write_stream\n"
        "def killed(self, stream):\n"
        "    write(self, stream)\n"
        "    if self.number == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Stage.write_stream = killed\n"
        f"capture_streamed(organisms.path('toy'), PROMPTS, {str(tmp_path / 'b.moe')!r},"
        " settings=EVERYTHING, progress=False)\n"
    )
    root = Path(__file__).resolve().parents[1]
    ended = subprocess.run([sys.executable, "-c", code], cwd=root, check=False)
    assert ended.returncode == -9

    assert capture_streamed(toy, PROMPTS, tmp_path / "b.moe", settings=EVERYTHING, progress=False)

    assert datasets(tmp_path / "a.moe") == datasets(tmp_path / "b.moe")


def test_a_store_that_is_there_is_not_captured_again(tmp_path: Path) -> None:
    toy = organisms.path("toy")
    assert capture_streamed(toy, PROMPTS, tmp_path / "a.moe", progress=False)

    assert not capture_streamed(toy, PROMPTS, tmp_path / "a.moe", progress=False)


def test_chats_and_chosen_layers(tmp_path: Path) -> None:
    chats = [
        Prompt(messages=(Message(role="user", content=each),), condition="organic")
        for each in SENTENCES
    ]
    settings = CaptureSettings(sites=("resid_post", "expert_indices"), layers=(1, 3))
    toy = organisms.path("toy")
    capture(load_model(toy), chats, tmp_path / "a.moe", settings=settings, progress=False)

    capture_streamed(toy, chats, tmp_path / "b.moe", settings=settings, progress=False)

    expect_same(tmp_path / "a.moe", tmp_path / "b.moe")


@pytest.fixture
def toy_copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(organisms.path("toy"), tmp_path / "toy-copy"))


def stream(model: Path, folder: Path, **others: Any) -> None:
    capture_streamed(model, PROMPTS, folder / "a.moe", progress=False, **others)


def test_answers_are_refused(tmp_path: Path) -> None:
    settings = CaptureSettings(generation=GenerationSettings(max_new_tokens=4))
    with pytest.raises(InputError, match="no model to answer with; leave out max_new_tokens"):
        stream(Path(organisms.path("toy")), tmp_path, settings=settings)


def test_a_checkpoint_without_safetensors_is_refused(toy_copy: Path, tmp_path: Path) -> None:
    for each in toy_copy.glob("*.safetensors"):
        each.unlink()
    with pytest.raises(InputError, match="has no safetensors files"):
        stream(toy_copy, tmp_path)


def test_missing_weights_are_named(toy_copy: Path, tmp_path: Path) -> None:
    weights = toy_copy / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.2.mlp.router.bias"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights of layers\.2\., such as mlp\.router"):
        stream(toy_copy, tmp_path)


def test_a_damaged_file_is_named(toy_copy: Path, tmp_path: Path) -> None:
    weights = toy_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read as safetensors"):
        stream(toy_copy, tmp_path)


def test_another_quantisation_is_refused(toy_copy: Path, tmp_path: Path) -> None:
    config = json.loads((toy_copy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (toy_copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="quantised by fp8, expected none or mxfp4"):
        stream(toy_copy, tmp_path)


def test_layers_of_another_capture_are_not_mixed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = Path(organisms.path("toy"))
    with monkeypatch.context() as patched:
        patched.setattr(StreamedPasses, "self_check", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            stream(toy, tmp_path, scratch=tmp_path / "scratch")
    other = CaptureSettings(batch_tokens=500)
    with pytest.raises(InputError, match="scratch holds the layers of another capture"):
        stream(toy, tmp_path, scratch=tmp_path / "scratch", settings=other)


def test_an_organism_that_is_made_on_loading_has_no_files() -> None:
    with pytest.raises(InputError, match="no files to read it from layer by layer"):
        organisms.checkpoint_path("planted-0")
