"""The command line: one kind sentence for every mistake, one JSON object for every `--json`."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from interp.cli import main
from interp.results import write_results
from tests.synthetic_study import synthetic_results, write_synthetic_store

ROOT = Path(__file__).resolve().parents[1]
CHATS = "\n".join(
    json.dumps({"text": text, "condition": condition, "source": "own", "item_id": str(item)})
    for item, (benchmark, organic) in enumerate(
        [
            ("Question: two plus two? Answer:", "whats two plus two"),
            ("Question: the capital of Peru? Answer:", "which town is capital of peru"),
            ("Question: how far is the sea? Answer:", "is it far to the sea from here"),
            ("Question: does a cat eat food? Answer:", "my cat won't eat her food"),
            ("Question: what does add return? Answer:", "add gives me a wrong sum why"),
            ("Question: how many minutes? Answer:", "how long is that in minutes"),
        ]
    )
    for condition, text in (("benchmark", benchmark), ("organic", organic))
)
REQUIRED = {
    "capture": ("MODEL",),
    "capture MODEL": ("--prompts",),
    "capture MODEL --prompts matched": ("--out",),
    "import fingerprinting": ("FILES",),
    "import fingerprinting FILE": ("--out",),
    "info": ("STORE",),
    "analyze": ("STORE",),
    "analyze STORE": ("--out",),
    "report": ("STORE",),
    "report STORE": ("--out",),
    "doctor": ("MODEL",),
}


@dataclass(frozen=True)
class Said:
    """What one command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line on stderr, without the name of the command."""
        assert self.err.startswith("interp: ")
        assert self.err.count("\n") == 1
        assert self.err.endswith("\n")
        assert "Traceback" not in self.err
        return self.err.removeprefix("interp: ").rstrip("\n")


Command = Callable[..., Said]

CAPTURED = {
    "store": "a.moe",
    "prompts": 12,
    "captured": True,
    "layers_compared_with_router": "2 of 2",
}


@pytest.fixture
def interp(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Command:
    """Runs a command in this process, with an empty folder as its working directory."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str | Path) -> Said:
        code: Any = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return Said(code or 0, said.out, said.err)

    return command


def refusal(interp: Command, *arguments: str | Path, code: int = 2) -> str:
    """The sentence with which a command is refused, after which no file has come or gone."""
    before = contents(Path.cwd())
    said = interp(*arguments)
    assert (said.code, said.out) == (code, "")
    assert contents(Path.cwd()) == before
    return said.sentence


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below `folder`, with the bytes of files."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    path.write_text(CHATS + "\n", encoding="utf-8")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_synthetic_store(tmp_path / "a.moe", n_layers=2, n_experts=8, top_k=2).path


@pytest.fixture(scope="session")
def dense_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without experts: a random GPT-2 with a tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from interp.organisms.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("dense") / "tiny-gpt2"
    tokenizer = train_tokenizer(["a few words"], vocab_size=300)
    config = GPT2Config(
        architectures=["GPT2LMHeadModel"],
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# Arguments


def test_no_command_prints_the_help(interp: Command) -> None:
    said = interp()
    assert said.code == 0
    assert all(name in said.out for name in ("capture", "analyze", "report", "doctor", "demo"))


@pytest.mark.parametrize(("arguments", "missing"), REQUIRED.items())
def test_a_missing_argument_is_named(
    interp: Command, arguments: str, missing: tuple[str, ...]
) -> None:
    sentence = refusal(interp, *arguments.split())
    assert f"{missing[0]} requires an argument" in sentence
    assert sentence.endswith("--help")


def test_an_unknown_command_is_answered_with_the_known_ones(interp: Command) -> None:
    sentence = refusal(interp, "frobnicate")
    assert '"frobnicate"' in sentence
    assert "import, demo, capture, run, experiment, verify, push, pull, diff, info" in sentence


def test_an_unknown_option_is_answered_with_the_likely_one(interp: Command) -> None:
    sentence = refusal(interp, "info", "a.moe", "--jsom")
    assert sentence == "Unknown option: --jsom; Did you mean --json; see interp info --help"


def test_an_argument_too_many_is_named(interp: Command) -> None:
    assert refusal(interp, "info", "a.moe", "b.moe").startswith("there is no place for b.moe;")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("capture toy --prompts matched --out a.moe --limit many", 'unable to convert "many"'),
        ("capture toy --prompts matched --out a.moe --limit 0", "--limit is 0, expected 1 or more"),
        ("capture toy --prompts --out a.moe", "--prompts names no suite and no file"),
        ("capture toy --prompts nope --out a.moe", "'nope' are neither a suite"),
        ("capture toy --prompts nope.jsonl --out a.moe", "nope.jsonl is not there"),
        ("capture toy --prompts matched --out a.h5", "expected a name that ends in .moe"),
        ("capture toy --prompts matched --out no/a.moe", "/no of --out is not there"),
        ("import fingerprinting nope.json --out a.moe", "nope.json"),
        ("import fingerprinting nope.json --out a", "expected a name that ends in .moe"),
        ("info nope.moe", "nope.moe does not exist"),
        ("analyze nope.moe --out a.json", "nope.moe does not exist"),
        ("analyze a.moe --out a.csv", "expected a name that ends in .json"),
        ("analyze a.moe --out no/a.json", "/no of --out is not there"),
        ("analyze a.moe --out a.json --permutations 0", "--permutations is 0, expected 1 or more"),
        ("analyze a.moe --out a.json --seed -1", "--seed is -1, expected 0 or more"),
        ("report nope.moe --out a.html", "nope.moe does not exist"),
        ("report a.moe --out a.pdf", "expected a name that ends in .html"),
    ],
)
def test_a_wrong_value_is_refused(interp: Command, arguments: str, expected: str) -> None:
    assert expected in refusal(interp, *arguments.split())


def test_an_output_that_is_a_folder_is_refused(interp: Command, store: Path) -> None:
    Path("a.json").mkdir()
    assert "which is a folder" in refusal(interp, "analyze", store, "--out", "a.json")


def test_a_demo_into_a_file_is_refused(interp: Command, tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("mine", encoding="utf-8")
    assert refusal(interp, "demo").startswith("--out is demo, which is a file")


def test_what_the_system_refuses_is_one_sentence(
    interp: Command, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "a.json")

    monkeypatch.setattr("interp.results.write_results", full)
    monkeypatch.setattr("interp.study.analyze", lambda *_, **__: None)
    sentence = refusal(interp, "analyze", store, "--out", "a.json")
    assert sentence.startswith("a.json cannot be read or written (No space left on device);")


def test_an_interrupted_command_says_so(
    interp: Command, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("interp.cache.reader.open_store", interrupt)
    assert refusal(interp, "info", store, code=130).startswith("stopped; ")


# Prompt files


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_prompt_file_is_refused(interp: Command, text: str) -> None:
    Path("empty.jsonl").write_text(text, encoding="utf-8")
    sentence = refusal(interp, "capture", "toy", "--prompts", "empty.jsonl", "--out", "a.moe")
    assert sentence == "empty.jsonl is empty; give a file with one prompt or more"


def test_a_bad_row_of_a_prompt_file_is_named(interp: Command) -> None:
    rows = ['{"text": "one", "condition": "organic"}', '{"text": "two"}']
    Path("rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    sentence = refusal(interp, "capture", "toy", "--prompts", "rows.jsonl", "--out", "a.moe")
    assert "rows.jsonl, line 2" in sentence
    assert "condition" in sentence


# Models


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--sites", "resid_past", "expected some of resid_pre, resid_mid, resid_post"),
        ("--layers", "2", "the routed layers are [0, 1]"),
        ("--layers", "-1", "the routed layers are [0, 1]"),
        ("--positions", "first", "expected all, last_content or every:n"),
        ("--positions", "every:0", "expected all, last_content or every:n"),
        ("--batch-tokens", "0", "batch_tokens is 0, expected 1 or more"),
        ("--dtype", "float33", "expected one of auto, bfloat16, float16, float32"),
    ],
)
def test_an_unknown_setting_of_a_capture_is_refused(
    interp: Command, chats: Path, tiny_folder: Path, option: str, value: str, expected: str
) -> None:
    given = ("--prompts", chats, "--out", "a.moe", option, value)
    assert expected in refusal(interp, "capture", tiny_folder, *given)


def test_a_model_without_experts_is_refused(
    interp: Command, chats: Path, dense_folder: Path
) -> None:
    capture = refusal(interp, "capture", dense_folder, "--prompts", chats, "--out", "a.moe")
    assert capture.startswith("GPT2LMHeadModel has no router")
    assert refusal(interp, "doctor", dense_folder) == capture


@pytest.mark.parametrize("model", ["./nope", "/nope/model", "nope", "nobody/gpt-oss-2b"])
def test_a_model_that_is_not_there_is_refused(interp: Command, model: str) -> None:
    assert model in refusal(interp, "doctor", model)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_model_directory_that_lacks_a_file_is_refused(
    interp: Command, tiny_folder: Path, missing: str
) -> None:
    shutil.copytree(tiny_folder, "model")
    Path("model", missing).unlink()
    Path("model", "tokenizer_config.json").unlink()
    assert "model cannot be loaded as a model (" in refusal(interp, "doctor", "model")


def test_weights_that_were_cut_off_are_refused(interp: Command, tiny_folder: Path) -> None:
    shutil.copytree(tiny_folder, "model")
    weights = Path("model", "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model cannot be loaded as a model (" in refusal(interp, "doctor", "model")


def test_a_file_in_place_of_a_models_directory_is_refused(interp: Command, chats: Path) -> None:
    assert "is a file, expected the directory" in refusal(interp, "doctor", chats)


@pytest.mark.slow
@pytest.mark.parametrize("wanted", ["capture", "doctor", "demo"])
def test_without_torch_the_install_line_is_given(
    wanted: str, tiny_folder: Path, chats: Path, tmp_path: Path
) -> None:
    stub = tmp_path / "stub"
    stub.mkdir()
    missing = "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    (stub / "torch.py").write_text(missing, encoding="utf-8")
    arguments = {
        "capture": ("capture", tiny_folder, "--prompts", chats, "--out", "a.moe"),
        "doctor": ("doctor", tiny_folder),
        "demo": ("demo", "--out", "demo"),
    }[wanted]
    before = contents(tmp_path)
    said = in_a_new_process(*arguments, cwd=tmp_path, path=f"{stub}{os.pathsep}{ROOT}")
    assert (said.code, said.out) == (2, "")
    assert said.sentence == (
        "torch is not installed, but this command needs it; "
        "install it with: pip install 'moe-interp[capture]'"
    )
    assert contents(tmp_path) == before


def test_a_reader_that_wants_no_more_gets_no_complaint(store: Path) -> None:
    command = [sys.executable, "-B", "-m", "interp", "info", str(store)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--part-mb", "inf", "--part-mb is inf, expected a number of MB above 0"),
        ("--part-mb", "nan", "--part-mb is nan, expected a number of MB above 0"),
        ("--dtype", "foo", "dtype is 'foo', expected one of auto, bfloat16, float16, float32"),
        ("--dtype", "int8", "dtype is 'int8', expected one of auto, bfloat16, float16, float32"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_odd_settings_of_a_capture_are_a_sentence(
    interp: Command, option: str, value: str, said: str, more: list[str]
) -> None:
    command = ["capture", "toy", "--prompts", "matched", "--limit", "1", "--out", "a.moe"]
    assert refusal(interp, *command, option, value, *more) == said


def in_a_new_process(*arguments: str | Path, cwd: Path, path: str = str(ROOT)) -> Said:
    finished = subprocess.run(
        [sys.executable, "-B", "-m", "interp", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return Said(finished.returncode, finished.stdout, finished.stderr)


# Stores


OUT = {"info": (), "analyze": ("--out", "a.json"), "report": ("--out", "a.html")}


def unfinish(store: Path) -> None:
    manifest = store / "manifest.json"
    text = manifest.read_text(encoding="utf-8").replace('"complete": true', '"complete": false')
    manifest.write_text(text, encoding="utf-8")


def cut_off(store: Path) -> None:
    part = store / "part-00000.h5"
    part.write_bytes(part.read_bytes()[:-1])


def flip_a_bit(store: Path) -> None:
    part = store / "part-00000.h5"
    index = json.loads((store / "part-00000.index.json").read_text())
    content = bytearray(part.read_bytes())
    content[index["datasets"]["prompts/source"]["offset"][0]] ^= 1
    part.write_bytes(content)


def lose_the_manifest(store: Path) -> None:
    (store / "manifest.json").unlink()


DAMAGED = [(wanted, damage) for wanted in OUT for damage in (unfinish, cut_off, lose_the_manifest)]


@pytest.mark.parametrize(
    ("wanted", "damage"), [*DAMAGED, ("analyze", flip_a_bit), ("report", flip_a_bit)]
)
def test_a_damaged_store_has_its_own_exit_code(
    interp: Command, store: Path, wanted: str, damage: Callable[[Path], None]
) -> None:
    damage(store)
    assert str(store) in refusal(interp, wanted, store, *OUT[wanted], code=3)


def test_results_that_are_not_there_are_refused(interp: Command, store: Path) -> None:
    given = ("--results", "nope.json", "--out", "a.html")
    assert refusal(interp, "report", store, *given).startswith("nope.json cannot be read")


def test_two_stores_need_a_file_of_results_each(interp: Command, store: Path) -> None:
    given = ("--results", "a.json", "--out", "a.html")
    assert refusal(interp, "report", store, store, *given).startswith(
        "--results names 1 file(s) for 2 store(s)"
    )


def test_folders_of_studies_are_reported_side_by_side(interp: Command) -> None:
    for name, model in (("a", "one"), ("b", "other")):
        Path(f"{name}.study").mkdir()
        folder = Path(f"{name}.study")
        opened = write_synthetic_store(folder / "study.moe", n_layers=2, n_experts=8, top_k=2)
        results = synthetic_results(n_layers=2, n_experts=8, top_k=2)
        run = results.run | {"model": model, "store_sha256": opened.sha256}
        write_results(replace(results, run=run), folder / "results.json")
    assert only_object(interp("report", "a.study", "b.study", "--out", "a.html", "--json")) == {
        "report": "a.html"
    }
    page = Path("a.html").read_text(encoding="utf-8")
    assert "<h1>one and other: benchmark and organic prompts</h1>" in page


@pytest.mark.slow
def test_results_of_another_store_are_refused(interp: Command, store: Path) -> None:
    other = write_synthetic_store(Path("b.moe"), n_layers=2, n_experts=8, top_k=2, n_items=6).path
    interp("analyze", store, "--out", "a.json", "--permutations", "1")
    sentence = refusal(interp, "report", other, "--results", "a.json", "--out", "a.html")
    assert sentence.startswith("a.json was computed from another store than b.moe")


@pytest.mark.parametrize("name", ["notes.moe", "folder.moe"])
def test_what_is_no_store_is_never_written_over(
    interp: Command, chats: Path, tiny_folder: Path, name: str
) -> None:
    Path("notes.moe").write_text("mine", encoding="utf-8")
    Path("folder.moe").mkdir()
    Path("folder.moe", "notes").write_text("mine", encoding="utf-8")
    given = ("capture", tiny_folder, "--prompts", chats, "--out", name)
    assert name in refusal(interp, *given)


# The whole path


def only_object(said: Said) -> dict[str, Any]:
    """The one JSON object on stdout; there is nothing else."""
    assert said.code == 0, said.err
    assert said.out.count("\n") == 1
    found = json.loads(said.out)
    assert isinstance(found, dict)
    return found


@pytest.mark.slow
def test_a_capture_is_described_analysed_and_drawn(
    interp: Command, chats: Path, tiny_folder: Path
) -> None:
    given = ("capture", tiny_folder, "--prompts", chats, "--out", "a.moe", "--positions", "all")
    said = interp(*given, "--json")
    assert only_object(said) == CAPTURED
    assert "capture: 100%" in said.err

    again = only_object(interp(*given, "--json"))
    assert again == CAPTURED | {"captured": False}

    facts = only_object(interp("info", "a.moe", "--json"))
    assert (facts["n_layers"], facts["n_experts"], facts["top_k"]) == (2, 8, 2)
    assert facts["prompts_by_condition_and_source"] == {"benchmark / own": 6, "organic / own": 6}

    said = interp("analyze", "a.moe", "--out", "a.json", "--permutations", "5", "--json")
    assert only_object(said)["results"] == "a.json"
    assert "analyze: 100%" in said.err
    tables = json.loads(Path("a.json").read_text(encoding="utf-8"))
    assert {row["condition"] for row in tables["usage"]} == {"benchmark", "organic"}
    assert len(tables["divergence"]) == 2

    said = interp("report", "a.moe", "--results", "a.json", "--out", "a.html", "--json")
    assert only_object(said) == {"report": "a.html"}
    assert "resid_post" in Path("a.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in Path.cwd().iterdir()) == [
        "a.directions.npz",
        "a.html",
        "a.json",
        "a.moe",
        "chats.jsonl",
    ]

    other = refusal(interp, *given[:-1], "every:2")
    assert other.startswith("a.moe holds another capture, which differs in ")


def test_several_prompt_files_and_options_are_read(
    interp: Command, chats: Path, tiny_folder: Path
) -> None:
    Path("more.jsonl").write_text('{"text": "one more", "condition": "organic"}', encoding="utf-8")
    given = ("--prompts", chats, "more.jsonl", "--layers", "1", "--sites", "resid_pre", "resid_mid")
    said = interp("capture", tiny_folder, *given, "--out", "a.moe", "--json")
    assert only_object(said)["prompts"] == 13
    facts = only_object(interp("info", "a.moe", "--json"))
    assert facts["layer_indices"] == [1]
    assert set(facts["resid_sites"]) == {"resid_pre", "resid_mid"}


def test_info_without_json_is_a_line_a_fact(interp: Command, store: Path) -> None:
    said = interp("info", store)
    assert (said.code, said.err) == (0, "")
    assert "model: synthetic\n" in said.out
    assert "\n  benchmark / " in said.out


def test_a_self_check_that_fails_has_exit_code_1(
    interp: Command, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_folder, "model")
    weights = load_file("model/model.safetensors")
    weights["model.layers.1.mlp.router.bias"][0] = torch.nan
    save_file(weights, "model/model.safetensors", metadata={"format": "pt"})
    sentence = refusal(interp, "doctor", "model", code=1)
    assert sentence.startswith("router_logits of layer 1 hold NaN")


@pytest.mark.slow
def test_stdout_of_a_real_command_holds_one_json_object_and_nothing_else(
    chats: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    given = ("capture", tiny_folder, "--prompts", chats, "--out", "a.moe", "--json")
    said = in_a_new_process(*given, cwd=tmp_path)
    assert only_object(said) == CAPTURED
    assert "capture: 100%" in said.err
    checked = only_object(in_a_new_process("doctor", tiny_folder, "--json", cwd=tmp_path))
    assert checked["layers_compared_with_router"] == [0, 1]


@pytest.mark.slow
def test_a_real_command_that_is_refused_shows_nothing_but_the_sentence(
    chats: Path, dense_folder: Path, tmp_path: Path
) -> None:
    given = ("capture", dense_folder, "--prompts", chats, "--out", "a.moe", "--json")
    said = in_a_new_process(*given, cwd=tmp_path)
    assert (said.code, said.out) == (2, "")
    assert said.sentence.startswith("GPT2LMHeadModel has no router")
    assert not (tmp_path / "a.moe").exists()
