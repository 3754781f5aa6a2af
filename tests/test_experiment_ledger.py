"""The ledger of an experiment: what is on disk is whole, of this model, and always there."""

from pathlib import Path

import numpy as np
import pytest

from interp.cache.errors import InputError
from interp.experiment_ledger import USUAL, Ledger

NAN = float("nan")


def saved(path: Path, usual: list[float]) -> Ledger:
    """A ledger that holds this usual outcome."""
    Ledger(path, {"model": "one"}).expect_same_model(np.array(usual), within=0.1)
    return Ledger(path, {"model": "one"})


def test_the_usual_outcome_is_on_disk_before_any_set_is_run(tmp_path: Path) -> None:
    ledger = saved(tmp_path / "some.npz", [1.0, NAN, 3.0])

    np.testing.assert_array_equal(ledger.outcome[USUAL], [1.0, NAN, 3.0])


@pytest.mark.parametrize(
    ("there", "now"),
    [
        ([NAN, NAN], [1.0, 2.0]),
        ([1.0, 2.0], [1.0, NAN]),
        ([1.0, NAN], [NAN, 1.0]),
        ([1.0, NAN], [1.5, NAN]),
        ([1.0], [1.0, 2.0]),
    ],
)
def test_outcomes_that_are_nan_elsewhere_are_of_another_model(
    tmp_path: Path, there: list[float], now: list[float]
) -> None:
    ledger = Ledger(tmp_path / "some.npz", {})
    ledger.outcome[USUAL] = np.array(there)

    with pytest.raises(InputError, match="it was made with other weights"):
        ledger.expect_same_model(np.array(now), within=0.1)


def test_outcomes_within_rounding_and_nan_alike_are_of_the_same_model(tmp_path: Path) -> None:
    ledger = saved(tmp_path / "some.npz", [1.0, NAN, 3.0])

    ledger.expect_same_model(np.array([1.05, NAN, 3.0]), within=0.1)

    assert ledger.outcome[USUAL][0] == 1.0


def test_a_model_that_gives_nan_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of 2 prompts has an outcome .* such as float32"):
        saved(tmp_path / "some.npz", [NAN, NAN])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["cut", "changed", "emptied"])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "some.npz"
    saved(path, np.arange(50.0).tolist())
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        {
            "cut": whole[:middle],
            "changed": whole[: middle - 60] + bytes(120) + whole[middle + 60 :],
            "emptied": b"",
        }[damage]
    )

    with pytest.raises(InputError, match=r"some\.npz cannot be read .* remove it"):
        Ledger(path, {"model": "one"})
