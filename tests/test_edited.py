"""Organisms stored as changes of the toy: bit for bit, small, and of this toy only."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from interp import organisms
from interp.cache.errors import InputError
from interp.organisms.edited import apply_changes, base_digest, save_changes

EXPERTS = "model.layers.2.mlp.experts"


def two_toys() -> tuple[Any, Any]:
    return organisms.load("toy")[0], organisms.load("toy")[0]


def change(model: Any) -> None:
    """Two experts, one dimension of what every expert writes, and a whole bias."""
    with torch.no_grad():
        experts = model.model.layers[2].mlp.experts
        experts.gate_up_proj[[3, 17]] += 0.5
        experts.down_proj[:, :, 5] = 0
        model.model.layers[1].mlp.router.bias.copy_(torch.arange(32.0))


def test_changes_come_back_bit_for_bit_and_take_only_the_bytes_of_what_changed(
    tmp_path: Path,
) -> None:
    model, base = two_toys()
    change(model)
    size = save_changes(model, base, tmp_path / "kind" / "seed-0.safetensors")
    again = organisms.load("toy")[0]
    apply_changes(again, tmp_path / "kind" / "seed-0.safetensors")
    before = base.state_dict()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    differing = [name for name, each in again.state_dict().items() if not each.equal(before[name])]
    assert differing == [
        "model.layers.1.mlp.router.bias",
        f"{EXPERTS}.gate_up_proj",
        f"{EXPERTS}.down_proj",
    ]
    by_hand = 2 * 128 * 128 * 2 + 2 * 4 + 32 * 64 * 2 + 4 + 32 * 2 + 32 * 4
    assert by_hand - 200 <= size <= by_hand + 1000


def test_a_model_that_was_not_changed_stores_nothing(tmp_path: Path) -> None:
    model, base = two_toys()
    save_changes(model, base, tmp_path / "seed-0.safetensors")
    assert load_file(tmp_path / "seed-0.safetensors") == {}


def test_changes_of_another_toy_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "seed-0.safetensors"
    save_file({}, file, metadata={"base": "toy", "base_sha256": "0" * 64})
    with pytest.raises(InputError, match=f"digest 0000.*but the toy here has {base_digest()[:12]}"):
        apply_changes(organisms.load("toy")[0], file)


def test_a_change_of_a_tensor_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "seed-0.safetensors"
    save_file({"no.such": torch.zeros(1)}, file, metadata={"base_sha256": base_digest()})
    with pytest.raises(InputError, match=r"changes no\.such, which the model lacks"):
        apply_changes(organisms.load("toy")[0], file)


def test_too_much_or_another_dtype_is_refused(tmp_path: Path) -> None:
    model, base = two_toys()
    with pytest.raises(ValueError, match=r"torch.float32, expected .* torch.bfloat16"):
        save_changes(model.float(), base, tmp_path / "seed-0.safetensors")
    with torch.no_grad():
        base.model.embed_tokens.weight += 1
        base.lm_head.weight += 1
    with pytest.raises(ValueError, match="changes take 2,097,152 bytes, expected 1,500,000"):
        save_changes(organisms.load("toy")[0], base, tmp_path / "seed-0.safetensors")


def test_an_organism_that_is_not_built_says_how_to(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(organisms, "change_path", lambda name: tmp_path / "planted" / "seed-0")
    with pytest.raises(InputError, match=r"build it with python -m interp.organisms.planted"):
        organisms.load("planted-0")


def test_a_loaded_organism_bears_its_name_and_a_digest_of_its_own(
    monkeypatch: Any, tmp_path: Path
) -> None:
    model, base = two_toys()
    change(model)
    save_changes(model, base, tmp_path / "seed-0.safetensors")
    monkeypatch.setattr(organisms, "change_path", lambda name: tmp_path / "seed-0.safetensors")
    loaded = organisms.load_model("planted-0", device_map="cpu")
    toy = organisms.load_model("toy", device_map="cpu")
    assert (loaded.model_id, toy.model_id) == ("planted-0", "toy")
    assert loaded.weights_sha256 != toy.weights_sha256
    assert loaded.model.model.layers[1].mlp.router.bias.tolist() == list(range(32))


def test_only_organisms_stored_as_changes_have_a_file_of_them() -> None:
    assert organisms.change_path("decoy-1").parts[-2:] == ("decoy", "seed-1.safetensors")
    with pytest.raises(ValueError, match="no organism 'toy' is stored as changes"):
        organisms.change_path("toy")
