"""Stores of format 1.0, as they were when it was frozen, are read by this version."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.cache.reader import Store, open_store
from interp.cache.verify import verify
from tests.store_samples import as_float32, expect_valid

FOLDER = Path(__file__).resolve().parent / "stores-1.0"
NAMES = ("routing", "everything", "imported")


@pytest.fixture(params=NAMES)
def frozen(request: pytest.FixtureRequest) -> tuple[Store, dict[str, Any]]:
    content = json.loads((FOLDER / f"{request.param}.json").read_text(encoding="utf-8"))
    return open_store(FOLDER / request.param), content


def exact(values: list[str]) -> list[float]:
    return [float.fromhex(value) for value in values]


def same(found: np.ndarray, expected: list[str]) -> bool:
    return np.array_equal(found.ravel().astype(float), exact(expected), equal_nan=True)


def test_tokens_and_prompts_are_what_they_were(frozen: tuple[Store, dict[str, Any]]) -> None:
    store, content = frozen
    for name in ("token_id", "position", "segment", "generated"):
        assert getattr(store, name).tolist() == content[name], name
    assert same(store.logprob, content["logprob"])
    assert store.prompts.drop(columns="n_tokens").to_dict("records") == content["prompts"]
    assert store.prompts["n_tokens"].tolist() == content["n_tokens"]
    assert [store.text(number) for number in range(5)] == content["texts"]


def test_routing_is_what_it_was(frozen: tuple[Store, dict[str, Any]]) -> None:
    store, content = frozen
    routing = store.router()
    assert routing.expert_indices.tolist() == content["expert_indices"]
    assert same(routing.expert_weights, content["expert_weights"])
    for name in ("router_logits", "expert_output_norms"):
        values = getattr(routing, name)
        assert (values is None) == (name not in content)
        assert values is None or same(values, content[name])


def test_residuals_are_what_they_were_bit_for_bit() -> None:
    content = json.loads((FOLDER / "everything.json").read_text(encoding="utf-8"))
    store = open_store(FOLDER / "everything")
    assert len(store.manifest["parts"]) > 1
    for name, bits in content["resid"].items():
        site, _, layer = name.partition("/")
        expected = as_float32(np.array(bits, dtype=np.uint16))
        found = store.resid(site, int(layer)).values
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_frozen_stores_are_sound(name: str) -> None:
    assert verify(FOLDER / name).n_prompts == 5
    expect_valid(FOLDER / name)


def test_vocabulary_of_an_imported_store_is_read() -> None:
    store = open_store(FOLDER / "imported")
    assert store.token_texts(0) == [f"token {token}" for token in store.token_id[:20]]
