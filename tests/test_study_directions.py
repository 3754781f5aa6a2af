"""Directions of a study against means by hand, and their way through a file."""

from pathlib import Path

import numpy as np
import pytest

from interp.cache.errors import InputError
from interp.compared import COMPARED, compared
from interp.study_directions import (
    StudyDirections,
    read_directions,
    study_directions,
    write_directions,
    write_directions_beside,
)
from interp.study_grid import some_prompts
from tests.study_samples import stored


@pytest.fixture
def found(tmp_path: Path) -> StudyDirections:
    return study_directions(stored(tmp_path / "a.moe"))


def test_a_direction_is_the_difference_of_means_of_a_loop(tmp_path: Path) -> None:
    store = stored(tmp_path / "a.moe")
    held = store.resid("resid_post", 3)
    sums = {name: np.zeros(6) for name in COMPARED}
    for value, token in zip(held.values, held.token_index, strict=True):
        sums[store.prompts["condition"][store.prompt_index[token]]] += value / 24
    expected = sums["benchmark"] - sums["organic"]
    found = study_directions(store)
    vector = found.vector("resid_post", 3, readout="last_content")
    np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-6)
    assert found.to_frame().set_index("layer")["length"][3] == pytest.approx(
        float(np.linalg.norm(expected)), rel=1e-5
    )
    assert found.prompt_ids == tuple(store.prompts["prompt_id"])


def test_directions_can_be_learnt_on_some_prompts(tmp_path: Path) -> None:
    store = stored(tmp_path / "a.moe")
    pair = compared(store, COMPARED)
    half = some_prompts(pair, np.arange(len(pair.prompt)) < 24)
    found = study_directions(store, among=half)
    assert found.prompt_ids == tuple(store.prompts["prompt_id"][:24])
    whole = study_directions(store).vector("resid_post", 1, readout="last_content")
    assert not np.allclose(found.vector("resid_post", 1, readout="last_content"), whole)


def test_what_is_read_back_is_what_was_written(tmp_path: Path, found: StudyDirections) -> None:
    write_directions(found, tmp_path / "a.npz")
    again = read_directions(tmp_path / "a.npz")
    assert (again.prompt_ids, again.store_sha256, again.model) == (
        found.prompt_ids,
        found.store_sha256,
        "simulated",
    )
    for method in ("difference_of_means", "logistic"):
        one, other = (
            each.vector("resid_post", 3, readout="last_content", method=method)
            for each in (found, again)
        )
        np.testing.assert_array_equal(one, other)
        assert np.linalg.norm(one) == pytest.approx(1.0)
    assert again.cosines().equals(found.cosines())
    with np.load(tmp_path / "a.npz", allow_pickle=False) as plain:
        assert plain["resid_post/last_content/vector"].shape == (2, 2, 6)


def test_cosines_of_layers_are_inner_products(found: StudyDirections) -> None:
    row = found.cosines().query("method == 'logistic'").iloc[0]
    one, other = (
        found.vector("resid_post", layer, readout="last_content", method="logistic")
        for layer in (1, 3)
    )
    assert (row["layer"], row["other_layer"]) == (3, 1)
    assert row["cosine"] == pytest.approx(float(one @ other))
    frame = found.to_frame().set_index("layer")
    assert frame["cosine_to_layer_before_logistic"][3] == pytest.approx(row["cosine"])
    assert np.isnan(frame["cosine_to_layer_before_logistic"][1])


def test_what_is_not_there_is_named(tmp_path: Path, found: StudyDirections) -> None:
    with pytest.raises(ValueError, match="there is no direction difference_of_means of resid_mid"):
        found.vector("resid_mid", 1, readout="last_content")
    with pytest.raises(ValueError, match=r"there is no direction of layer 2, only \(1, 3\)"):
        found.vector("resid_post", 2, readout="last_content")
    with pytest.raises(InputError, match="cannot be read as directions"):
        read_directions(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", about=np.array('{"format": "other"}'))
    with pytest.raises(InputError, match="its format is other, expected moe-interp directions 1"):
        read_directions(tmp_path / "other.npz")


def test_one_condition_alone_writes_no_directions(tmp_path: Path) -> None:
    store = stored(tmp_path / "a.moe", ("organic",))
    assert write_directions_beside(tmp_path / "results.json", store) == {}
    both = stored(tmp_path / "b.moe")
    said = write_directions_beside(tmp_path / "results.json", both)
    assert said == {"directions": str(tmp_path / "results.directions.npz")}
    assert read_directions(tmp_path / "results.directions.npz").store_sha256 == both.sha256
