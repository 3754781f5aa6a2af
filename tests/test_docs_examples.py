"""Examples of the pages that `make docs` does not run: commands parse, files are read, code runs.

Cells (`{code-cell}`) run while the pages are built. Of the commands some ask for a GPU, a network
or hours, so here they are parsed by the real command line and not run.
"""

import re
import shlex
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from interp import __version__
from interp.cache.reader import open_store
from interp.cli import app
from interp.study_config import read_study_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    path.name: path.read_text("utf-8") for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]
}
STORE = ROOT / "tests/stores-1.0/everything"
RUN_BY_TESTS = {
    "README.md",
    "capture.md",
    "format.md",
    "imports.md",
    "nnsight.md",
    "transformer_lens.md",
}
"""Pages whose Python is in plain fences, and a test runs it."""


def commands() -> list[tuple[str, str]]:
    """Page and command, of every indented line that calls `interp`; `...` stands for more."""
    return [
        (name, command.replace("\\\n", " "))
        for name, page in sorted(PAGES.items())
        for command in re.findall(r"^    (interp \w(?:.*\\\n)*.*)$", page, re.MULTILINE)
    ]


@pytest.mark.parametrize(("page", "command"), commands())
def test_every_command_of_the_pages_is_one(page: str, command: str) -> None:
    _, *arguments = shlex.split(command, comments=True)
    function, bound, unused = app.parse_args(arguments, exit_on_error=False, print_error=False)[:3]
    assert callable(function), page
    assert bound.arguments or unused, page


def test_the_ray_job_asks_for_as_many_workers_as_its_command_and_shares_the_disk_of_out() -> None:
    (written,) = re.findall(r"```yaml\n(.*?)```", PAGES["scale.md"], re.DOTALL)
    job = yaml.safe_load(written)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    asked = app.parse_args(
        shlex.split(job["spec"]["entrypoint"])[1:], exit_on_error=False, print_error=False
    )[1].arguments
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["replicas"] == workers["minReplicas"] == asked["workers"] == 64
    for group in (cluster["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        (container,), (volume,) = pod["containers"], pod["volumes"]
        (mount,) = container["volumeMounts"]
        assert mount["name"] == volume["name"]
        assert Path(str(asked["out"])).is_relative_to(mount["mountPath"])
    assert container["resources"]["limits"]["nvidia.com/gpu"] == asked["gpus_per_worker"]
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    assert pinned is not None
    assert cluster["rayVersion"] == pinned[1]


def test_every_test_file_that_a_page_names_is_there() -> None:
    named = {name for page in PAGES.values() for name in re.findall(r"tests/[\w/*]+\.py", page)}
    assert len(named) > 3
    assert not [name for name in sorted(named) if not list(ROOT.glob(name))]


def test_there_are_commands_of_every_kind() -> None:
    kinds = {command.split()[1] for _, command in commands()}
    assert {"capture", "import", "analyze", "report", "experiment", "run", "doctor"} <= kinds


def test_the_settings_on_the_page_on_studies_are_settings(tmp_path: Path) -> None:
    page = PAGES["studies.md"].partition("\n## What is written")[0]
    block = re.findall(r"(?:^    .*\n|^\n)+", page, re.MULTILINE)
    (text,) = [each for each in block if 'model = "toy"' in each]
    (tmp_path / "study.toml").write_text(re.sub(r"^    ", "", text, flags=re.MULTILINE), "utf-8")
    config = read_study_config(tmp_path / "study.toml")
    assert config.model == "toy"
    assert config.to_dict()["rule"]["margin_in_even_shares"] == 0.5


def test_bits_of_bfloat16_are_read_as_the_page_on_the_format_says() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGES["format.md"], re.DOTALL)
    store = open_store(STORE)
    layer = store.layout.layer_indices[0]
    expected = store.resid("resid_post", layer).values
    with h5py.File(STORE / "part-00000.h5") as part:
        names = {"np": np, "h5py": h5py, "dataset": part[f"resid/resid_post/layer_{layer:02d}"]}
        exec(code, names)  # noqa: S102 - our own page
    values = np.asarray(names["values"])
    assert len(values) > 0
    np.testing.assert_array_equal(values, np.asarray(expected, np.float32)[: len(values)])


def test_the_citation_names_this_version() -> None:
    cited = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.findall(r"^version: (.*)$", cited, re.MULTILINE) == [__version__]


def test_every_page_is_in_a_list_of_contents() -> None:
    listed = [
        line
        for page in PAGES.values()
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", page, re.DOTALL)
        for line in tree.splitlines()
    ]
    pages = {name.removesuffix(".md") for name in PAGES} - {"README", "index"}
    assert pages <= set(listed)


def test_no_page_shows_python_that_nothing_runs() -> None:
    plain = {name for name, page in PAGES.items() if "```python" in page}
    assert plain == RUN_BY_TESTS


def test_pages_with_cells_are_notebooks_to_the_builder() -> None:
    for name, page in PAGES.items():
        assert ("{code-cell}" in page) == page.startswith("---\nfile_format: mystnb\n"), name
