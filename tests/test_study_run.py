"""A whole study from its configuration: nothing is done twice, and every change shows."""

import json
from pathlib import Path

import pytest

from interp.cache.errors import InputError
from interp.cache.reader import open_store
from interp.study_config import StudyConfig, read_study_config
from interp.study_run import changes, registered, run_study

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
    written = json.loads(done.results.read_text())
    assert written["verdict"]["rung"] == "insufficient"
    assert written["experiments"][0]["contrast"] == "benchmark - organic"
    assert (done.results.parent / "experiments" / written["run"]["experiments"]).is_file()

    before = done.results.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("interp.study.analyze", None)
        patch.setattr("interp.organisms.load_model", None)
        assert run_study(config, progress=False).results.read_bytes() == before

    config.write_text(STUDY + "\n[rule]\nalpha = 0.2\n")
    changed = run_study(config, progress=False)
    assert ["rule.alpha was 0.05" in each for each in changed.changed] == [True]
    assert "rule.alpha was 0.05" in changed.report.read_text(encoding="utf-8")
    assert open_store(changed.store).provenance["registered"]["rule"] == rule
    assert read_study_config(changed.report.parent / "study.toml").rule.alpha == 0.2
