"""Is it this model? A second model through the same procedure, and the difference of the two."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from transformers import AutoTokenizer, GptOssForCausalLM, LlamaConfig

from interp.cache.errors import InputError
from interp.cache.reader import Store, open_store
from interp.cache.records import Message, Prompt
from interp.cli import main
from interp.experiment_second import (
    SecondModel,
    run_second,
    second_settings,
    second_table,
)
from interp.experiment_second_checks import recorded_in, refuse_second, second_capture
from interp.experiment_settings import ExperimentSettings, PipelineSettings
from interp.experiment_subjects import Subjects
from interp.experiments import Experiment, run_experiment
from interp.hooks.capture import capture
from interp.hooks.load import load_model
from interp.hooks.settings import CaptureSettings, GenerationSettings
from interp.organisms import path as organism_path
from interp.organisms.tokenizer import train_tokenizer
from interp.report_panels import drawn_panel
from interp.report_questions import PANELS
from interp.results import Results
from interp.sentences_experiments import second_sentences
from tests.synthetic_study import synthetic_results
from tests.test_experiment_pipeline import subjects_of
from tests.test_experiments import wordings

QUICK = ExperimentSettings(
    pipeline=PipelineSettings(
        alpha=0.9, margin_in_even_shares=0.0, n_matched=2, with_placebos=False
    ),
    n_curves=0,
    n_noise=0,
    n_random=0,
)
"""Almost every expert is found."""
ROW: dict[str, Any] = {
    "model": "planted-0",
    "second_model": "untrained-router-0",
    "outcome": "content",
    "intervention": "reroute",
    "n_found": 5,
    "interaction": 0.41,
    "interaction_low": 0.3,
    "interaction_high": 0.52,
    "n_found_second": 0,
    "interaction_second": 0.0,
    "interaction_low_second": np.nan,
    "interaction_high_second": np.nan,
    "difference": 0.41,
    "difference_low": 0.3,
    "difference_high": 0.52,
    "p_greater": 1e-5,
    "n_items": 30,
    "n_paired": 14,
}


@pytest.fixture(scope="module")
def asked() -> list[Prompt]:
    return wordings("Question: {0}? Answer:", "what should i do, {0}", meta={})


@pytest.fixture(scope="module")
def other_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with other weights, and the same tokenizer."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path_factory.mktemp("other") / "other"))
    model = GptOssForCausalLM.from_pretrained(tiny_folder)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            mean = 1.0 if "norm" in name else 0.0
            parameter.normal_(mean=mean, std=0.3, generator=generator)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def store(
    tiny_folder: Path, asked: list[Prompt], tmp_path_factory: pytest.TempPathFactory
) -> Store:
    out = tmp_path_factory.mktemp("first") / "tiny.moe"
    loaded = load_model(str(tiny_folder), device_map="cpu")
    settings = CaptureSettings(logprobs=True)
    capture(loaded, asked, out, settings=settings, registered={"seed": 7}, progress=False)
    return open_store(out)


@pytest.fixture(scope="module")
def first(store: Store, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    loaded = load_model(str(tiny_folder), device_map="cpu")
    folder = tmp_path_factory.mktemp("experiments")
    return run_experiment(store, loaded, settings=QUICK, folder=folder, progress=False)


def compared(
    store: Store, first: Path, other: Path, asked: list[Prompt], folder: Path
) -> SecondModel:
    return run_second(
        store,
        first,
        model=str(other),
        prompts=asked,
        settings=QUICK,
        recorded=recorded_in(store),
        folder=folder,
        progress=False,
    )


@pytest.fixture(scope="module")
def beside(
    store: Store,
    first: Experiment,
    other_folder: Path,
    asked: list[Prompt],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[SecondModel, Path]:
    folder = tmp_path_factory.mktemp("study") / "second"
    return compared(store, first.path, other_folder, asked, folder), folder


def written(path: Path, prompts: pd.DataFrame, **test: Any) -> Path:
    """Tables of an experiment as far as the comparison reads them."""
    main_row = {"outcome": "content", "intervention": "reroute", "n_found": 2} | test
    names = ("interaction", "interaction_low", "interaction_high")
    document = {
        "run": {"model": path.stem},
        "contrasts": [dict.fromkeys(names) | main_row],
        "prompts": json.loads(prompts.to_json(orient="records", double_precision=15)),
    }
    path.write_text(json.dumps(document))
    return path


def unclustered(n_items: int) -> tuple[Subjects, pd.DataFrame]:
    """Paired items of no template, all in the test half."""
    subjects = subjects_of(n_items=n_items)
    prompts = subjects.prompts.assign(template="", source="one")
    return replace(subjects, prompts=prompts), prompts.assign(half="test")


def test_the_difference_is_a_paired_t_test_over_items(tmp_path: Path) -> None:
    subjects, prompts = unclustered(12)
    drawn = np.random.default_rng(0).normal(size=(2, 24))
    files = [
        written(tmp_path / f"{name}.json", prompts.assign(damage=damage), interaction=0.5)
        for name, damage in zip(("one", "two"), drawn, strict=True)
    ]

    row = second_table(files[0], files[1], subjects=subjects).iloc[0]

    wide = prompts.assign(damage=drawn[0] - drawn[1]).pivot(
        index="item_id", columns="condition", values="damage"
    )
    test = stats.ttest_rel(wide["benchmark"], wide["organic"], alternative="two-sided")
    both = stats.ttest_rel(wide["benchmark"], wide["organic"], alternative="greater")
    low, high = test.confidence_interval(0.95)
    np.testing.assert_allclose(row["difference"], (wide["benchmark"] - wide["organic"]).mean())
    np.testing.assert_allclose([row["difference_low"], row["difference_high"]], [low, high])
    np.testing.assert_allclose(row["p_greater"], both.pvalue)
    assert (row["model"], row["second_model"]) == ("one", "two")
    assert (row["n_items"], row["n_paired"]) == (12, 12)


def test_a_second_model_without_a_found_set_leaves_the_first_as_it_is(
    first: Experiment, store: Store, tmp_path: Path
) -> None:
    document = json.loads(first.path.read_text())
    for each in document["prompts"]:
        each["damage"] = None
    nothing = {"n_found": 0, "interaction": 0.0, "interaction_low": None, "interaction_high": None}
    document["contrasts"][0] |= nothing
    (tmp_path / "none.json").write_text(json.dumps(document))

    row = second_table(first.path, tmp_path / "none.json", subjects=Subjects.of_store(store))

    alone = first.test.main.row()
    for end in ("", "_low", "_high"):
        np.testing.assert_allclose(row[f"difference{end}"], alone[f"interaction{end}"])
    np.testing.assert_allclose(row["p_greater"], alone["p_greater"])
    assert row["n_found"].tolist() == [alone["n_found"]]
    assert row["n_found_second"].tolist() == [0]
    assert row["interaction_low_second"].isna().all()


def test_two_models_without_found_sets_have_no_interval(tmp_path: Path) -> None:
    subjects, prompts = unclustered(8)
    files = [
        written(tmp_path / name, prompts.assign(damage=np.nan), n_found=0, interaction=0.0)
        for name in ("one.json", "two.json")
    ]

    row = second_table(files[0], files[1], subjects=subjects)

    assert row["difference"].tolist() == [0.0]
    assert row[["difference_low", "difference_high", "p_greater"]].isna().to_numpy().all()


def test_the_second_model_goes_through_the_same_procedure_by_itself(
    beside: tuple[SecondModel, Path],
    first: Experiment,
    other_folder: Path,
    asked: list[Prompt],
    tmp_path: Path,
) -> None:
    found, folder = beside
    row = found.table.iloc[0]
    other = load_model(str(other_folder), device_map="cpu")
    capture(other, asked, tmp_path / "a.moe", settings=CaptureSettings(logprobs=True))
    alone = run_experiment(open_store(tmp_path / "a.moe"), other, settings=QUICK, progress=False)

    own = alone.test.main.row()
    assert row["n_found_second"] == own["n_found"] > 0
    for end in ("", "_low", "_high"):
        np.testing.assert_allclose(row[f"interaction{end}_second"], own[f"interaction{end}"])
    np.testing.assert_allclose(
        row["difference"], first.test.main.value - alone.test.main.value, atol=1e-12
    )
    assert alone.prompts["half"].tolist() == first.prompts["half"].tolist()
    assert json.loads((folder / "compared.json").read_text())["second_model"][0]["n_items"] > 0
    (place,) = folder.glob("*.moe")
    held = open_store(place)
    assert held.provenance["registered"] == {"seed": 7}
    assert held.layout.resid_sites == ()


def test_the_second_model_again_runs_nothing_twice(
    beside: tuple[SecondModel, Path],
    store: Store,
    first: Experiment,
    other_folder: Path,
    asked: list[Prompt],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from interp.hooks import measures

    found, folder = beside
    counted, whole = [], measures.mean_logprobs
    monkeypatch.setattr(
        measures, "mean_logprobs", lambda *a, **k: (counted.append(k["under"]), whole(*a, **k))[1]
    )

    again = compared(store, first.path, other_folder, asked, folder)

    assert counted == [None]  # the usual run, to see that it is the same model
    pd.testing.assert_frame_equal(found.table, again.table)


def test_without_a_test_half_no_second_model_is_loaded(
    store: Store, first: Experiment, tmp_path: Path
) -> None:
    document = json.loads(first.path.read_text())
    for each in document["prompts"]:
        each["half"] = ""
    (tmp_path / "first.json").write_text(json.dumps(document))

    found = compared(store, tmp_path / "first.json", Path("/no/model"), [], tmp_path)

    assert found.table.empty
    assert "have no test half" in found.why_not
    with pytest.raises(InputError, match="cannot be read as tables of an experiment"):
        compared(store, tmp_path / "gone.json", Path("/no/model"), [], tmp_path)


def test_other_halves_are_a_reason_and_no_row(
    beside: tuple[SecondModel, Path],
    store: Store,
    first: Experiment,
    other_folder: Path,
    asked: list[Prompt],
    tmp_path: Path,
) -> None:
    document = json.loads(first.path.read_text())
    document["prompts"][0]["half"] = ""
    (tmp_path / "first.json").write_text(json.dumps(document))

    found = compared(store, tmp_path / "first.json", other_folder, asked, beside[1])

    assert found.table.empty
    assert "split the prompts otherwise" in found.why_not


def test_weights_of_the_first_model_are_refused_once_loaded(
    store: Store, first: Experiment, tiny_folder: Path, asked: list[Prompt], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"has the weights that tiny\.moe was captured with"):
        compared(store, first.path, tiny_folder, asked, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_the_comparison_does_not_read_is_left_out() -> None:
    whole = ExperimentSettings(outcome="option", second_model="toy")
    kept = CaptureSettings(
        sites=("resid_post", "expert_output_norms"),
        generation=GenerationSettings(max_new_tokens=3),
    )

    settings, recorded = second_settings(whole), second_capture(kept)

    assert settings == ExperimentSettings(
        outcome="option", n_curves=0, n_random=0, n_noise=0, with_patches=False
    )
    assert set(recorded.sites) == {"expert_indices", "expert_weights", "expert_output_norms"}
    assert recorded.generation is None


def refused(first: Path | str, second: Path | str, prompts: Any = (), **changes: Any) -> None:
    keys = {"outcome": "content", "recorded": CaptureSettings()} | changes
    refuse_second(str(first), str(second), prompts, **keys)


def test_the_same_model_twice_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")

    for first, second in (
        ("planted-0", "planted-0"),
        ("toy", organism_path("toy")),
        (tiny_folder, copy),
        ("some/model", "some/model"),
    ):
        with pytest.raises(InputError, match="expected another model; name one"):
            refused(first, second)
    refused("toy", "untrained-router-0")


def test_another_tokenizer_is_refused_for_nats_alone(tiny_folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_folder, tmp_path / "other"))
    (other / "model.safetensors").write_bytes(b"other")
    refused(tiny_folder, other)
    train_tokenizer(("something else altogether",), vocab_size=300).save_pretrained(other)

    with pytest.raises(InputError, match=r"another tokenizer than .*or measure one of option"):
        refused(tiny_folder, other)
    refused(tiny_folder, other, outcome="option")


def test_prompts_that_a_second_model_cannot_take_are_refused(
    tiny_folder: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny_folder, tmp_path / "other"))
    (other / "model.safetensors").write_bytes(b"other")
    chat = Prompt(messages=(Message(role="user", content="two plus two?"),), condition="organic")
    refused(tiny_folder, other, [chat])
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.chat_template = None
    (other / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(other)

    with pytest.raises(InputError, match=r"cannot be used: .*chat template"):
        refused(tiny_folder, other, [chat])


def test_models_without_routing_or_a_layer_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    dense = Path(shutil.copytree(tiny_folder, tmp_path / "dense"))
    (dense / "model.safetensors").unlink()
    LlamaConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2).save_pretrained(dense)

    with pytest.raises(InputError, match=r"the second model .* cannot be used"):
        refused(tiny_folder, dense)
    with pytest.raises(InputError, match="cannot be used: there is no directory"):
        refused(tiny_folder, tmp_path / "none")
    with pytest.raises(InputError, match=r"cannot be used: .*layer"):
        refused("toy", tiny_folder, recorded=CaptureSettings(layers=(3,)))


def test_the_command_captures_and_compares(
    store: Store,
    tiny_folder: Path,
    other_folder: Path,
    asked: list[Prompt],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "asked.jsonl"
    names = ("text", "condition", "item_id", "source", "domain", "variant", "template")
    rows = [{name: getattr(each, name) for name in names} for each in asked]
    file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    few = ["--no-placebos", "--matched", "2", "--random", "0", "--out", str(tmp_path / "out")]
    models = ["--model", str(tiny_folder), "--second-model", str(other_folder)]

    main(["experiment", str(store.path), *models, "--prompts", str(file), *few, "--json"])

    said = json.loads(capsys.readouterr().out)
    assert "the same procedure found" in said["second_model"].lower()
    assert (Path(said["second"]) / "compared.json").is_file()
    with pytest.raises(SystemExit, match="2"):
        main(["experiment", str(store.path), *models, *few])
    assert "24 of 24 prompts of the store, such as" in capsys.readouterr().err


def test_sentences_name_both_models_the_difference_and_its_interval() -> None:
    (said,) = second_sentences(pd.DataFrame([ROW]))

    assert said.startswith(
        "In untrained-router-0 the same procedure found no expert; the interaction is 0.41 nats "
        "per token larger in planted-0 (+0.41 against +0; 95 % interval of the difference +0.3 to "
        "+0.52, one-sided p = 1e-05)."
    )
    other = ROW | {"n_found": 0, "n_found_second": 1, "outcome": "option", "difference": -0.1}
    (said,) = second_sentences(pd.DataFrame([other | {"difference_low": -0.2}]))
    assert "found 1 expert, and in planted-0 no expert" in said
    assert "is 0.1 (share of right answers) smaller in planted-0" in said
    assert "cannot be told from no difference" in said
    (said,) = second_sentences(pd.DataFrame([ROW | {"n_found": 0}]))
    assert "no expert in planted-0 and none in untrained-router-0" in said


def test_the_report_has_the_row_or_its_reason(first: Experiment) -> None:
    results = replace(synthetic_results(), **first.of_results())
    with_row = replace(results, experiment_second_model=pd.DataFrame([ROW]))
    without = replace(results, absent={"experiment_second_model": "Other <halves>."})

    assert "<p>In untrained-router-0 the same procedure" in second_panel(with_row)
    assert '<td class="number">0.41</td>' in second_panel(with_row)
    assert second_panel(results) == ""
    assert "Other &lt;halves&gt;." in second_panel(without)


def second_panel(results: Results) -> str:
    """The panel on the second model, empty where the report has none."""
    (panel,) = [panel for panel in PANELS if panel.name == "second_model"]
    drawn = drawn_panel(panel, results)
    return "" if drawn is None else drawn.body
