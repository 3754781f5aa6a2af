"""A whole study from its configuration: nothing is done twice, and every change shows."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from interp import study_second
from interp.cache.errors import InputError
from interp.cache.reader import open_store
from interp.experiment_second import SecondModel
from interp.experiment_settings import ExperimentSettings
from interp.organisms import path
from interp.results import read_results, write_results
from interp.study_capture import changes, registered
from interp.study_config import StudyConfig, read_study_config
from interp.study_run import run_study
from interp.study_second import with_second_model
from tests.synthetic_study import synthetic_results

STUDY = """model = "toy"
prompts = ["matched"]
limit = 6

[analysis]
n_permutations = 5
n_resamples = 100

[experiments]
n_random = 0
n_noise = 2
with_patches = false

[experiments.pipeline]
n_matched = 3
with_placebos = false
"""


def test_changes_name_what_was_registered_and_what_is_now() -> None:
    before = registered(StudyConfig(model="toy", prompts=("matched",)))
    now = before | {"rule": before["rule"] | {"alpha": 0.1}}

    assert changes(before, before) == ()
    (sentence,) = changes(before, now)
    assert "rule.alpha was 0.05" in sentence
    assert "is 0.1 now" in sentence


def test_the_second_model_is_registered_and_named_later_it_shows() -> None:
    experiments = ExperimentSettings(second_model="untrained-router-0")
    with_second = StudyConfig(model="toy", prompts=("matched",), experiments=experiments)
    before, now = (
        registered(each)
        for each in (replace(with_second, experiments=ExperimentSettings()), with_second)
    )

    assert now["experiments"]["second_model"] == "untrained-router-0"
    (sentence,) = changes(before, now)
    assert "experiments.second_model was None when the study was registered" in sentence


def test_a_second_model_that_cannot_be_used_is_refused_before_any_capture(tmp_path: Path) -> None:
    twice = f"[experiments]\nsecond_model = {str(path('toy'))!r}"
    (tmp_path / "study.toml").write_text(STUDY.replace("[experiments]", twice))

    with pytest.raises(InputError, match="has the weights of toy, expected another model"):
        run_study(tmp_path / "study.toml")
    assert not (tmp_path / "study.study").exists()


def test_results_made_before_there_were_second_models_are_read(tmp_path: Path) -> None:
    write_results(synthetic_results(), tmp_path / "results.json")
    document = json.loads((tmp_path / "results.json").read_text())
    del document["experiment_second_model"]
    (tmp_path / "results.json").write_text(json.dumps(document))

    assert read_results(tmp_path / "results.json").experiment_second_model.empty


def test_a_second_model_that_cannot_be_compared_leaves_its_reason_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiments = ExperimentSettings(second_model="untrained-0")
    settings = StudyConfig(model="toy", prompts=("matched",), limit=2, experiments=experiments)
    results = synthetic_results()
    results = replace(results, run=results.run | {"experiments": "content.json"})
    out, asked = tmp_path / "results.json", []

    def run_second(store: Any, first: Path, **given: Any) -> SecondModel:
        asked.append((first, given["model"], given["folder"]))
        return SecondModel(why_not="No halves.")

    monkeypatch.setattr(study_second, "run_second", run_second)
    store: Any = None
    for _ in range(2):
        results = with_second_model(store, settings, results, out, progress=False)

    assert asked == [(tmp_path / "experiments/content.json", "untrained-0", tmp_path / "second")]
    assert read_results(out).absent["experiment_second_model"] == "No halves."
    without = replace(settings, experiments=ExperimentSettings())
    results = with_second_model(store, without, results, out, progress=False)
    assert "experiment_second_model" not in read_results(out).absent
    assert len(asked) == 1


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "taken").write_text("")

    with pytest.raises(InputError, match="is a file; give the name of a folder"):
        run_study(tmp_path / "study.toml", tmp_path / "taken")


def test_an_unknown_setting_of_the_capture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY + "[capture]\nsite = 1\n")

    with pytest.raises(InputError, match=r"\[capture\] of the study cannot be used"):
        run_study(tmp_path / "study.toml")


@pytest.mark.slow
def test_a_study_runs_to_its_verdict_goes_on_and_shows_a_later_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "study.toml"
    config.write_text(STUDY)
    done = run_study(config, progress=False)

    assert done.changed == ()
    assert done.verdict["rung"] == "insufficient"  # six items are too few
    assert done.verdict["sentence"] in done.report.read_text(encoding="utf-8")
    rule = open_store(done.store).provenance["registered"]["rule"]
    assert rule["alpha"] == 0.05
    assert open_store(done.store).layout.expert_output_norms  # for matched sets, unless named
    written = json.loads(done.results.read_text())
    assert written["verdict"]["rung"] == "insufficient"
    assert written["experiments"][0]["contrast"] == "benchmark - organic"
    assert (done.results.parent / "experiments" / written["run"]["experiments"]).is_file()

    before = done.results.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("interp.study.analyze", None)
        patch.setattr("interp.organisms.load_model", None)
        assert run_study(config, progress=False).results.read_bytes() == before

    config.write_text(STUDY.replace("n_matched = 3", "n_matched = 3\ninteraction_margin = 0.5"))
    with monkeypatch.context() as patch:
        patch.setattr("interp.study.analyze", None)  # no table but those of the experiments
        other = run_study(config, progress=False)
    sentence = "experiments.pipeline.interaction_margin was 0.01 when the study was registered"
    (caveat,) = read_results(other.results).run["caveats"]
    assert sentence in caveat
    assert sentence in other.report.read_text(encoding="utf-8")
    assert len(list((other.results.parent / "experiments").glob("*.json"))) == 2

    config.write_text(STUDY + "\n[rule]\nalpha = 0.2\n")
    changed = run_study(config, progress=False)
    names = [each.split(" was 0.05 ")[0] for each in changed.changed]
    assert sorted(names) == ["experiments.pipeline.alpha", "rule.alpha"]
    assert "rule.alpha was 0.05" in changed.report.read_text(encoding="utf-8")
    assert open_store(changed.store).provenance["registered"]["rule"] == rule
    kept = changed.report.parent / "study.toml"
    assert read_study_config(kept).rule.alpha == 0.2
    assert run_study(kept, kept.parent, progress=False).changed == changed.changed


@pytest.mark.slow
def test_a_second_model_named_later_is_compared_once_and_taken_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, study = tmp_path / "study.toml", STUDY.replace("limit = 6", "limit = 16")
    config.write_text(study)
    alone = read_results(run_study(config, progress=False).results)
    config.write_text(
        study.replace("[experiments]", '[experiments]\nsecond_model = "untrained-router-0"')
    )
    with monkeypatch.context() as patch:
        patch.setattr("interp.study.analyze", None)
        patch.setattr("interp.experiments.run_experiment", None)  # that of the first model
        done = run_study(config, progress=False)

    results = read_results(done.results)
    (row,) = results.experiment_second_model.to_dict("records")
    assert (row["model"], row["second_model"]) == ("toy", "untrained-router-0")
    assert row["interaction"] == results.experiments["interaction"][0]
    assert results.experiments.equals(alone.experiments)
    assert results.verdict == alone.verdict
    assert any("second_model was None" in each for each in done.changed)
    page = done.report.read_text(encoding="utf-8")
    assert "Is it this model?" in page
    held = open_store(done.results.parent / "second" / "untrained-router-0.moe")
    assert held.provenance["model"] == "untrained-router-0"
    assert held.provenance["registered"] == open_store(done.store).provenance["registered"]
    assert held.prompts.equals(open_store(done.store).prompts)

    before = done.results.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("interp.organisms.load_model", None)
        assert run_study(config, progress=False).results.read_bytes() == before
    config.write_text(study)
    again = read_results(run_study(config, progress=False).results)
    assert again.experiment_second_model.empty
