"""Studies that cannot be made are refused before anything is captured, and leave no trace."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from interp import study_run
from interp.cache.errors import InputError
from interp.experiment_settings import ExperimentSettings
from interp.hooks.settings import DEFAULT_SITES, GenerationSettings
from interp.organisms import ORGANISMS, check_model, model_path, path
from interp.report_first import left_out
from interp.report_panels import drawn_panel
from interp.report_questions import PANELS
from interp.results import read_results, write_results
from interp.study_capture import capture_settings, refuse_outcome
from interp.study_config import StudyConfig
from interp.study_run import experimented, keep_config, run_study, with_changes
from tests.synthetic_study import synthetic_results

LEAST = 'model = "toy"\nprompts = ["matched"]\nlimit = 2\n'
ASKED = 'model = "toy"\nprompts = ["{0}/asked.jsonl"]\n'


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every model that was loaded since, or asked for at a hub."""
    loaded: list[Any] = []
    for name in ("interp.hooks.load.load_model", "huggingface_hub.hf_hub_download"):
        monkeypatch.setattr(name, lambda *given, **_: loaded.append(given))
    monkeypatch.setattr(
        "transformers.AutoConfig.from_pretrained", lambda *given, **_: loaded.append(given)
    )
    return loaded


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (LEAST + '[experiments]\noutcome = "optoin"', "experiments.outcome is 'optoin'"),
        (LEAST.replace("2", "0"), "limit is 0, expected 1 or more"),
        (LEAST + "[analysis]\nn_resamples = 0", "analysis.n_resamples is 0, expected 1"),
        (LEAST + '[analysis]\ntargets = ["colour"]', "analysis.targets names 'colour'"),
        (
            ASKED + '[experiments]\noutcome = "option"',
            r"outcome is 'option', but prompt .* has no answer in meta\['answer_text'\]",
        ),
        (
            ASKED + '[experiments]\noutcome = "greedy"',
            r"outcome is 'greedy', but prompt .* has no answer in meta\['answer_text'\]",
        ),
        (
            LEAST + "[capture]\nlogprob = true",
            r"\[capture\] of the study cannot be used: logprob is not a setting; did you mean "
            r"logprobs\?",
        ),
        (
            LEAST + '[capture]\nlogprobs = "yes"',
            r"\[capture\] of the study cannot be used: logprobs is 'yes', expected true or false",
        ),
        (
            LEAST + '[capture]\nlayers = ["one"]',
            r"layers is \['one'\], expected a list of whole numbers",
        ),
        (
            LEAST + "[capture]\nbatch_tokens = 0",
            "cannot be used: batch_tokens is 0, expected 1 or more",
        ),
        (
            LEAST + "[capture.generation]\nmax_new_token = 5",
            r"generation.max_new_token is not a setting; did you mean generation.max_new_tokens\?",
        ),
        (
            LEAST.replace("toy", "toyy"),
            r"toyy is no organism \(toy, planted-0, .*\), and no directory; did you mean toy\?",
        ),
        (
            LEAST + '[experiments]\nsecond_model = "nonsense-model"',
            "nonsense-model is no organism .* Give one of these, or a hub name with its owner",
        ),
    ],
)
def test_a_study_is_refused_before_a_model_is_loaded(
    tmp_path: Path, unloaded: list[Any], text: str, sentence: str
) -> None:
    rows = [
        {"text": f"{condition} {index}", "condition": condition, "item_id": str(index)}
        for index in range(3)
        for condition in ("benchmark", "organic")
    ]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    (tmp_path / "study.toml").write_text(text.replace("{0}", str(tmp_path)))

    with pytest.raises(InputError, match=sentence):
        run_study(tmp_path / "study.toml", progress=False)

    assert unloaded == []
    assert not (tmp_path / "study.study").exists()


def test_a_dtype_that_is_none_is_refused_at_once(unloaded: list[Any]) -> None:
    check_model("toy", dtypes=("auto", "float32"))

    with pytest.raises(InputError, match="dtype is 'float33', expected one of auto, bfloat16"):
        check_model("toy", dtypes=("auto", "float33"))
    assert unloaded == []


@pytest.mark.parametrize("name", ["gpt2", "planted", "a b", "model.safetensors"])
def test_a_name_that_is_nowhere_is_refused_at_once(name: str, unloaded: list[Any]) -> None:
    with pytest.raises(InputError, match=f"{name} is no organism .* such as openai/gpt-oss-20b"):
        model_path(name)
    assert unloaded == []


def test_names_that_may_be_somewhere_are_left_to_the_loader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    cached = tmp_path / "hub" / "models--gpt2"
    (cached / "snapshots" / "1a").mkdir(parents=True)
    (cached / "snapshots" / "1a" / "config.json").write_text("{}")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("1a")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    for name in ("mine", "gpt2", "openai/gpt-oss-20b", "./nope", Path("nope")):
        assert model_path(name) == name
    assert all(model_path(name) == path("toy") for name in ORGANISMS)


def study(**given: Any) -> StudyConfig:
    return StudyConfig(model="toy", prompts=("matched",), limit=2, **given)


def test_norms_are_recorded_where_experts_are_taken_out() -> None:
    sites = capture_settings(study()).sites
    with_norms = capture_settings(study(experiments=ExperimentSettings())).sites
    named = study(experiments=ExperimentSettings(), capture={"sites": ["resid_post"]})

    assert set(sites) == set(DEFAULT_SITES)
    assert set(with_norms) == {*DEFAULT_SITES, "expert_output_norms"}
    assert "expert_output_norms" not in capture_settings(named).sites


def test_logprobs_are_recorded_unless_the_study_says_otherwise() -> None:
    answered = study(capture={"generation": {"max_new_tokens": 5, "temperature": 1}})

    assert capture_settings(study(capture={"positions": "all"})).logprobs
    assert not capture_settings(study(capture={"logprobs": False})).logprobs
    recorded = capture_settings(answered)
    assert recorded.generation == GenerationSettings(max_new_tokens=5, temperature=1.0)
    assert not recorded.logprobs


def test_prompts_that_are_not_compared_need_no_answer() -> None:
    refuse_outcome(study(experiments=ExperimentSettings(outcome="answer")))
    refuse_outcome(study())


def test_a_refused_run_leaves_the_configuration_of_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study.toml").write_text(LEAST)
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "study.toml").write_text("before")

    def refuse(*_: Any, **__: Any) -> None:
        raise InputError("there is another store")

    monkeypatch.setattr(study_run, "captured", refuse)
    with pytest.raises(InputError, match="there is another store"):
        run_study(tmp_path / "study.toml", tmp_path / "done")

    assert (tmp_path / "done" / "study.toml").read_text() == "before"


def test_a_configuration_within_its_own_study_stays_as_it_is(tmp_path: Path) -> None:
    config = tmp_path / "study.toml"
    config.write_text(LEAST)

    keep_config(config, tmp_path / "study.toml")
    keep_config(config, tmp_path / "copy.toml")

    assert config.read_text() == (tmp_path / "copy.toml").read_text() == LEAST


def test_changes_stand_among_the_caveats_of_tables_that_were_read(tmp_path: Path) -> None:
    out, store = tmp_path / "results.json", SimpleNamespace(provenance={"caveats": ["Cut."]})
    results = synthetic_results()
    results.run["caveats"] = ["Cut."]
    write_results(results, out)

    changed = with_changes(read_results(out), store, ("alpha was 1.",), out)  # type: ignore[arg-type]
    assert changed.run["caveats"] == ["Cut.", "alpha was 1."]
    assert read_results(out).run["caveats"] == ["Cut.", "alpha was 1."]
    written = out.stat().st_mtime_ns

    with_changes(read_results(out), store, ("alpha was 1.",), out)  # type: ignore[arg-type]
    assert out.stat().st_mtime_ns == written
    with_changes(read_results(out), store, (), out)  # type: ignore[arg-type]
    assert read_results(out).run["caveats"] == ["Cut."]


def test_what_an_experiment_left_out_is_in_the_results_and_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"experiment_notes": "The store holds no norms."}
    found = SimpleNamespace(
        left_out=said,
        path=Path("content.json"),
        test=SimpleNamespace(evidence=lambda: None),
        of_results=dict,
    )
    for name in ("study_model", "study_prompts"):
        monkeypatch.setattr(study_run, name, lambda _: None)
    monkeypatch.setattr(study_run, "verdict_of", lambda *_, **__: None)
    monkeypatch.setattr(study_run, "verdict_facts", lambda _: {})
    monkeypatch.setattr("interp.experiments.run_experiment", lambda *_, **__: found)
    results = synthetic_results()
    results.absent["experiment_sufficiency"] = "Of an earlier run."
    settings, store = study(experiments=ExperimentSettings()), SimpleNamespace()

    out = tmp_path / "results.json"
    experimented(store, settings, results, out, progress=False)  # type: ignore[arg-type]

    written = read_results(out)
    assert written.run["experiments_left_out"] == ["The store holds no norms."]
    assert written.absent["experiment_notes"] == "The store holds no norms."
    assert "experiment_sufficiency" not in written.absent
    assert "The store holds no norms." in left_out(written)
    (panel,) = (each for each in PANELS if each.name == "interventions")
    drawn = drawn_panel(panel, written)
    assert drawn is not None
    assert "The store holds no norms." in drawn.body
