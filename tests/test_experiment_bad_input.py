"""Experiments that cannot be made are refused by one sentence, before any model is loaded."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.cache.durable import check_folder
from interp.cache.errors import InputError
from interp.cache.reader import Store, open_store
from interp.cache.records import Prompt
from interp.cli import main
from interp.experiment_second_checks import refuse_other_store
from interp.experiment_settings import (
    INTERVENTIONS,
    OUTCOMES,
    ExperimentSettings,
    PipelineSettings,
)
from interp.experiment_subjects import NO_NORMS
from interp.experiments import LEFT_OUT, run_experiment
from interp.hooks import interventions, outcomes
from interp.hooks.capture import capture
from interp.hooks.load import load_model
from interp.hooks.settings import CaptureSettings
from tests.test_experiments import wordings

FEW = ExperimentSettings(
    pipeline=PipelineSettings(n_matched=1, with_placebos=False), n_curves=0, n_noise=0, n_random=0
)


@pytest.fixture(scope="module")
def asked() -> list[Prompt]:
    return wordings("Question: {0}? Answer:", "what should i do, {0}", meta={})


@pytest.fixture(scope="module")
def store(
    tiny_folder: Path, asked: list[Prompt], tmp_path_factory: pytest.TempPathFactory
) -> Store:
    """Of the tiny model, without norms; its prompts have no answers."""
    out = tmp_path_factory.mktemp("bad") / "tiny.moe"
    loaded = load_model(str(tiny_folder), device_map="cpu")
    capture(loaded, asked, out, settings=CaptureSettings(logprobs=True), progress=False)
    return open_store(out)


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every model that was loaded since."""
    loaded: list[Any] = []
    monkeypatch.setattr("interp.hooks.load.load_model", lambda *given, **_: loaded.append(given))
    return loaded


def file_of(prompts: list[Prompt], path: Path) -> Path:
    fields = ("text", "condition", "item_id", "source", "domain", "variant", "template")
    rows = [{name: getattr(each, name) for name in fields} for each in prompts]
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--outcome optin", "outcome is 'optin', expected one of content, answer, option"),
        ("--intervention rerout", "intervention is 'rerout', expected one of reroute, zero"),
        ("--outcome answer", "24 of 24 prompts of the store, such as"),
        ("--outcome greedy --prompts {asked}", "has no answer in meta['answer_text']"),
        ("--noise-dtype float33", "dtype is 'float33', expected one of auto, bfloat16"),
        ("--dtype float33", "dtype is 'float33', expected one of auto, bfloat16"),
        ("--out {asked}", "asked.jsonl is a file; give the name of a folder"),
        ("--out {asked}/within", "asked.jsonl is a file; give the name of a folder"),
        ("--model toy", "was captured with tiny-gpt-oss, whose weights are not those of toy"),
        ("--model planted-0", "tiny-gpt-oss, whose weights are not those of planted-0"),
        ("--model toyy", "toyy is no organism (toy, planted-0,"),
    ],
)
def test_the_command_refuses_before_it_loads(
    store: Store,
    asked: list[Prompt],
    tiny_folder: Path,
    tmp_path: Path,
    unloaded: list[Any],
    capsys: pytest.CaptureFixture[str],
    options: str,
    sentence: str,
) -> None:
    file = file_of(asked, tmp_path / "asked.jsonl")
    given = options.format(asked=file).split()
    given += [] if "--model" in given else ["--model", str(tiny_folder)]
    given += [] if "--out" in given else ["--out", str(tmp_path / "new")]

    with pytest.raises(SystemExit, match="2"):
        main(["experiment", str(store.path), *given])

    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said
    assert unloaded == []
    assert [each.name for each in tmp_path.iterdir()] == ["asked.jsonl"]


def test_names_of_settings_are_those_that_the_model_is_given() -> None:
    assert outcomes.OUTCOMES == OUTCOMES
    assert tuple(interventions.KNOCKOUTS) == INTERVENTIONS


@pytest.mark.parametrize("name", ["outcome", "intervention"])
def test_settings_of_unknown_names_cannot_be_made(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is 'mood', expected one of"):
        ExperimentSettings(**{name: "mood"})  # type: ignore[arg-type]


def test_a_store_is_that_of_a_copy_of_its_model(store: Store, tiny_folder: Path) -> None:
    refuse_other_store(store, str(tiny_folder))
    refuse_other_store(store, "nobody/knows-yet")  # told once it is loaded
    with pytest.raises(InputError, match="whose weights are not those of untrained-0"):
        refuse_other_store(store, "untrained-0")


def test_a_folder_is_looked_at_and_not_made(tmp_path: Path) -> None:
    check_folder(tmp_path / "one" / "two")

    assert not list(tmp_path.iterdir())


def test_results_in_the_place_of_a_file_are_refused_before_a_pass(
    tiny: Any, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp.experiments.measure_of", None)
    (tmp_path / "taken").write_text("mine")

    with pytest.raises(InputError, match="taken is a file; give the name of a folder"):
        run_experiment(store, tiny, settings=FEW, folder=tmp_path / "taken")


@pytest.mark.slow
def test_other_settings_have_tables_of_their_own_and_share_the_outcomes(
    tiny: Any, store: Store, tmp_path: Path
) -> None:
    first = run_experiment(store, tiny, settings=FEW, folder=tmp_path, progress=False)
    before = first.path.read_bytes()

    other = replace(FEW, pipeline=replace(FEW.pipeline, seed=1))
    second = run_experiment(store, tiny, settings=other, folder=tmp_path, progress=False)
    named = replace(FEW, second_model="untrained-0")
    again = run_experiment(store, tiny, settings=named, folder=tmp_path, progress=False)

    assert first.path.read_bytes() == before
    assert second.path != first.path
    assert json.loads(second.path.read_text())["run"]["settings"]["pipeline"]["seed"] == 1
    assert again.path == first.path  # the second model is no setting of the first's tables
    assert first.run["outcomes"] == second.run["outcomes"]
    (held,) = tmp_path.glob("*.npz")
    assert held.name == first.run["outcomes"]  # there, also where no set was run
    assert "usual" in np.load(held)["names"]


def test_what_an_experiment_left_out_is_said(tiny: Any, store: Store, tmp_path: Path) -> None:
    found = run_experiment(store, tiny, settings=FEW, folder=tmp_path, progress=False)
    lacking = replace(found, run=found.run | {"left_out": "Sufficiency: too few."})

    assert found.left_out == {"experiment_notes": NO_NORMS}
    assert tuple(lacking.left_out) == LEFT_OUT
    assert lacking.left_out["experiment_sufficiency"] == "Sufficiency: too few."
