"""Is it this model? The same procedure on a second model, and the difference of the two.

A found set means nothing in a model with other experts. So the second model goes through everything
by itself, from its own capture to its own found set, on the same prompts and halves.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp import organisms
from interp.cache.durable import write_whole
from interp.cache.errors import InputError
from interp.cache.reader import Store, open_store
from interp.cache.records import Prompt
from interp.experiment_checks import compare_models
from interp.experiment_second_checks import second_capture
from interp.experiment_settings import ExperimentSettings
from interp.experiment_subjects import Subjects
from interp.experiments import run_experiment

if TYPE_CHECKING:
    from interp.hooks.load import LoadedModel
    from interp.hooks.settings import CaptureSettings

FOLDER = "second"
"""Of everything about the second model, beside the experiments of the first."""


@dataclass(frozen=True, kw_only=True)
class SecondModel:
    """A second model beside the first."""

    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row, as `second_table` has it; empty if the two cannot be compared."""
    why_not: str = ""
    """Why the two cannot be compared, a sentence; empty if they are."""


def run_second(
    store: Store,
    first: Path,
    *,
    model: str,
    prompts: Sequence[Prompt],
    settings: ExperimentSettings,
    recorded: "CaptureSettings",
    folder: Path,
    dtype: str = "auto",
    progress: bool = True,
) -> SecondModel:
    """Capture the prompts with a second model, run its experiment, and take the difference.

    The same call again goes on where an earlier one was stopped.

    Args:
        store: Of the first model. What was registered before its capture goes into the second.
        first: Tables of its experiment, such as `experiments/content-reroute-1a2b3c.json`.
        model: The second model.
        prompts: Those of the store, in its order.
        settings: Of the first experiment.
        recorded: What the first capture recorded.
        folder: Where store, experiment and the row go.
        dtype: Of the second model.
        progress: Show bars on stderr.

    Raises:
        InputError: If the second model has the weights of the first, or cannot be captured.
        ModelError: If it ignores the knockout.
    """
    from interp.hooks.capture import capture

    halves = {each["half"] for each in _document(first)["prompts"]}
    if "test" not in halves:
        return SecondModel(
            why_not="The prompts have no test half, so no set was taken out to compare with "
            f"{model}; add items."
        )
    loaded = organisms.load_model(model, dtype=dtype)
    _refuse_same_weights(store, loaded)
    place = folder / f"{model.strip('/.').replace('/', '--')}.moe"
    folder.mkdir(parents=True, exist_ok=True)
    decided = store.provenance.get("registered")
    like = second_capture(recorded)
    capture(loaded, prompts, place, settings=like, registered=decided, progress=progress)
    second = run_experiment(
        open_store(place),
        loaded,
        prompts=prompts,
        settings=second_settings(settings),
        folder=folder / "experiments",
        progress=progress,
    )
    try:
        table = second_table(first, second.path, subjects=Subjects.of_store(store))
    except InputError as error:
        return SecondModel(why_not=f"{model} cannot be compared: {error}.")
    _write(table, folder / "compared.json", files=(first, second.path))
    return SecondModel(table=table)


def second_settings(settings: ExperimentSettings) -> ExperimentSettings:
    """The same experiment, without what the comparison does not read."""
    return replace(
        settings, n_curves=0, n_random=0, n_noise=0, with_patches=False, second_model=None
    )


def second_table(first: Path, second: Path, *, subjects: Subjects) -> pd.DataFrame:
    """Interactions of two experiments, and the difference within each prompt, in one row.

    The difference is the first model's interaction less the second's, of `compare_models`. A model
    in which nothing was found counts as 0, since nothing was taken out: where that is so of both,
    the difference is 0 by rule and has neither interval nor p.

    Args:
        first: Tables of the first experiment, as it wrote them.
        second: Likewise of the second.
        subjects: Of either store.

    Raises:
        InputError: If the two have other prompts, or other halves.
    """
    documents = [_document(path) for path in (first, second)]
    prompts = [pd.DataFrame(each["prompts"]).astype({"damage": float}) for each in documents]
    difference = compare_models(prompts[0], prompts[1], subjects=subjects).iloc[0]
    tests = [each["contrasts"][0] for each in documents]
    row: dict[str, Any] = {
        "model": documents[0]["run"]["model"],
        "second_model": documents[1]["run"]["model"],
        "outcome": tests[0]["outcome"],
        "intervention": tests[0]["intervention"],
    }
    for test, end in zip(tests, ("", "_second"), strict=True):
        row |= {f"n_found{end}": test["n_found"]}
        names = ("interaction", "interaction_low", "interaction_high")
        row |= {f"{name}{end}": _number(test[name]) for name in names}
    is_measured = any(each["n_found"] for each in tests)
    for name, of in (("", ""), ("_low", "_low"), ("_high", "_high")):
        known = is_measured or not name
        row[f"difference{name}"] = float(difference[f"interaction{of}"]) if known else np.nan
    row["p_greater"] = float(difference["p_greater"]) if is_measured else np.nan
    return pd.DataFrame([row | {name: int(difference[name]) for name in ("n_items", "n_paired")}])


def _refuse_same_weights(store: Store, loaded: "LoadedModel") -> None:
    if loaded.weights_sha256 and loaded.weights_sha256 == store.provenance.get("weights_sha256"):
        raise InputError(
            f"the second model {loaded.model_id} has the weights that {store.path.name} was "
            "captured with, expected another model; name one, such as untrained-router-0"
        )


def _document(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as tables of an experiment ({error}); run the experiment again"
        ) from error


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


def _write(table: pd.DataFrame, path: Path, *, files: Sequence[Path]) -> None:
    rows = json.loads(table.to_json(orient="records", double_precision=15))
    made_of: Mapping[str, Any] = {"second_model": rows, "compared": [each.name for each in files]}
    write_whole(path, (json.dumps(made_of, indent=1, allow_nan=False) + "\n").encode())
