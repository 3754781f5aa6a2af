"""What is published is whole, installs without torch, and leaves a user's own modules alone."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.synthetic_study import write_synthetic_store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("analyses", "cache", "hooks")
NOT_PUBLISHED = (
    ".*",
    "__pycache__",
    "*.egg-info",
    "*.moe",
    "build",
    "demo",
    "dist",
)
"""Left out of the copy that is built: caches, environments and what earlier builds made."""
WEIGHTS = "interp/organisms/toy/model.safetensors"
IMPORT_EVERYTHING = """
import importlib, json, pkgutil, sys
import interp
names = [each.name for each in pkgutil.walk_packages(interp.__path__, "interp.")]
needs_torch = ("interp.__main__", "interp.demo", "interp.hooks.", "interp.organisms.")
names = [name for name in names if not name.startswith(needs_torch)]
for name in names:
    importlib.import_module(name)
import cache, hooks
print(json.dumps({
    "names": names,
    "mine": [cache.MINE, hooks.MINE],
    "cache": sys.modules["interp.cache"].__file__,
    "torch": "torch" in sys.modules,
}))
"""


@dataclass(frozen=True)
class Built:
    """What `python -m build` makes of a copy of the checkout."""

    source: Path
    sdist: Path
    wheel: Path
    """Built from the sdist, as an index serves it."""
    direct_wheel: Path
    """Built from the checkout."""
    said: str


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command that must succeed; its whole output is in the failure, if it does not."""
    clean = {key: each for key, each in os.environ.items() if key != "PYTHONPATH"}
    finished = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished


def copy_checkout(target: Path) -> Path:
    ignored = shutil.ignore_patterns(*NOT_PUBLISHED)
    shutil.copytree(ROOT, target, symlinks=True, ignore=ignored)
    shutil.copytree(ROOT / ".ci", target / ".ci")
    return target


def new_environment(folder: Path) -> Path:
    """The interpreter of an empty virtual environment."""
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    return folder / "bin" / "python"


def users_folder(folder: Path) -> Path:
    """A working directory in which the user has a `hooks.py` and a `cache.py`."""
    folder.mkdir()
    for name in ("cache", "hooks"):
        (folder / f"{name}.py").write_text(f'MINE = "my own {name}"\n', encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("build")
    source = copy_checkout(folder / "source")
    made = run(sys.executable, "-m", "build", source, "--outdir", folder / "dist", cwd=folder)
    direct = folder / "direct"
    run(sys.executable, "-m", "build", "--wheel", source, "--outdir", direct, cwd=folder)
    (sdist,), (wheel,) = folder.glob("dist/*.tar.gz"), folder.glob("dist/*.whl")
    (direct_wheel,) = direct.glob("*.whl")
    return Built(source, sdist, wheel, direct_wheel, made.stdout + made.stderr)


@pytest.fixture(scope="module")
def core(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment into which the wheel was installed without extras."""
    python = new_environment(tmp_path_factory.mktemp("core") / "venv")
    install = (python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt")
    run(*install, built.wheel, cwd=python.parent)
    return python


def names_in_wheel(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(archive.namelist())


def contents_of_wheel(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def members_of_sdist(sdist: Path) -> dict[str, tarfile.TarInfo]:
    """Everything in the sdist but folders, by its path below the top folder."""
    with tarfile.open(sdist) as archive:
        members = [member for member in archive.getmembers() if not member.isdir()]
    return {member.name.partition("/")[2]: member for member in members}


def published_names() -> list[str]:
    """Paths within the package of all files that belong to it, each found at its real place."""
    roof = [path for path in (ROOT / "interp").iterdir() if path.name not in FLOORS]
    found = [path for each in roof for path in ([each] if each.is_file() else each.rglob("*"))]
    names = [path.relative_to(ROOT).as_posix() for path in found if path.is_file()]
    for floor in FLOORS:
        names += [f"interp/{floor}/{path.name}" for path in (ROOT / floor).glob("*.py")]
    return sorted(name for name in names if "__pycache__" not in name)


def test_the_build_environment_holds_setuptools_and_nothing_heavy(built: Built) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    required = project["build-system"]["requires"]
    assert [requirement.partition(">")[0] for requirement in required] == ["setuptools"]
    installed = re.findall(r"^  - ([\w-]+)", built.said, flags=re.MULTILINE)
    assert set(installed) == {"setuptools"}


def test_the_build_uses_nothing_that_setuptools_will_drop(built: Built) -> None:
    assert "deprecat" not in built.said.lower()


def test_the_wheel_holds_every_file_of_the_package_once(built: Built) -> None:
    names = [name for name in names_in_wheel(built.wheel) if ".dist-info/" not in name]
    assert names == published_names()
    code = [text for name, text in contents_of_wheel(built.wheel).items() if name.endswith(".py")]
    assert len(code) == len(set(code))


def test_links_make_no_difference_between_the_sdists_wheel_and_the_checkouts(built: Built) -> None:
    assert names_in_wheel(built.wheel) == names_in_wheel(built.direct_wheel)
    assert contents_of_wheel(built.wheel) == contents_of_wheel(built.direct_wheel)


def test_the_toys_weights_are_in_sdist_and_wheel(built: Built) -> None:
    assert WEIGHTS in names_in_wheel(built.wheel)
    assert WEIGHTS in members_of_sdist(built.sdist)


def test_the_sdist_is_the_checkout_without_links(built: Built) -> None:
    members = members_of_sdist(built.sdist)
    assert all(member.isfile() for member in members.values())
    floors = {f"interp/{floor}/" for floor in FLOORS}
    assert not [name for name in members if name.startswith(tuple(floors))]
    folders = [*FLOORS, "docs", "tests"]
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    expected = {path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".pyc"}
    expected |= {".ci/run", "LICENSE", "Makefile", "README.md", "pyproject.toml"}
    expected |= {"constraints.txt", "constraints-oldest.txt"}
    assert expected <= set(members)


def test_check_wheel_contents_finds_nothing_wrong(built: Built) -> None:
    checker = Path(sys.executable).with_name("check-wheel-contents")
    assert run(checker, built.wheel, cwd=built.source).stdout.strip().endswith(": OK")


def test_the_wheel_says_what_it_is(built: Built) -> None:
    (metadata,) = [
        content.decode()
        for name, content in contents_of_wheel(built.wheel).items()
        if name.endswith("/METADATA")
    ]
    head, _, description = metadata.partition("\n\n")
    assert "License-Expression: Apache-2.0" in head
    assert description.strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_the_oldest_transformers_tested_is_the_oldest_allowed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest, usual = pins("constraints-oldest.txt"), pins("constraints.txt")
    assert f"transformers>={oldest['transformers']}" in [
        f"{requirement}.0" for requirement in project["optional-dependencies"]["capture"]
    ]
    assert oldest.keys() <= usual.keys(), "a name spelled otherwise would not replace its pin"


def test_the_core_install_has_no_torch(core: Path) -> None:
    listed = run(core, "-m", "pip", "list", "--format", "json", cwd=core.parent).stdout
    installed = {package["name"].lower() for package in json.loads(listed)}
    assert {"moe-interp", "numpy", "h5py"} <= installed
    assert not {"torch", "transformers", "accelerate"} & installed


def test_a_users_own_hooks_and_cache_do_not_clash_with_ours(core: Path, tmp_path: Path) -> None:
    folder = users_folder(tmp_path / "work")
    command = core.with_name("interp")
    version = run(command, "--version", cwd=folder, PYTHONPATH=str(folder))
    assert version.stdout.startswith("moe-interp 0.")
    seen = json.loads(run(core, "-c", IMPORT_EVERYTHING, cwd=folder).stdout)
    assert seen["mine"] == ["my own cache", "my own hooks"]
    assert Path(seen["cache"]).parts[-4:] == ("site-packages", "interp", "cache", "__init__.py")
    assert not seen["torch"]
    subpackages = {f"interp.{name}" for name in (*FLOORS, "organisms", "prompts")}
    modules = {"interp.cli", "interp.figures", "interp.report", "interp.results", "interp.study"}
    assert subpackages | modules | {"interp.cache.reader"} <= set(seen["names"])


def test_without_torch_a_store_is_analysed_and_drawn(core: Path, tmp_path: Path) -> None:
    write_synthetic_store(tmp_path / "shared.moe")
    folder = users_folder(tmp_path / "work")
    command = core.with_name("interp")
    results, report = folder / "results.json", folder / "report.html"
    analyze = ("analyze", tmp_path / "shared.moe", "--out", results, "--permutations", "5")
    run(command, *analyze, cwd=folder, PYTHONPATH=str(folder))
    draw = ("report", tmp_path / "shared.moe", "--results", results, "--out", report)
    run(command, *draw, cwd=folder, PYTHONPATH=str(folder))
    assert json.loads(results.read_text(encoding="utf-8"))["usage"]
    assert report.stat().st_size > 1_000_000


def test_without_torch_a_capture_says_what_to_install(core: Path, tmp_path: Path) -> None:
    refused = subprocess.run(
        [core.with_name("interp"), "capture", "toy", "--prompts", "matched", "--out", "a.moe"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert refused.stderr == (
        "interp: torch is not installed, but this command needs it; "
        "install it with: pip install 'moe-interp[capture]'\n"
    )
    assert not list(tmp_path.iterdir())


def test_the_sdist_installs(built: Built, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target)
    run(*install, built.sdist, cwd=tmp_path)
    installed = {path.relative_to(target).as_posix() for path in (target / "interp").rglob("*.*")}
    assert {name for name in published_names() if name.endswith(".py")} <= installed


@pytest.mark.parametrize("kind", ["checkout", "sdist"])
def test_an_editable_install_runs_the_files_at_the_root(
    built: Built, tmp_path: Path, kind: str
) -> None:
    source = built.source
    if kind == "sdist":
        with tarfile.open(built.sdist) as archive:
            archive.extractall(tmp_path, filter="data")
        (source,) = tmp_path.glob("moe_interp-*")
    python = new_environment(tmp_path / "venv")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "-e", source, cwd=tmp_path)
    folder = users_folder(tmp_path / "work")
    code = (
        "import cache, hooks, interp.analyses, interp.cache, interp.cache.errors, interp.hooks\n"
        "print(cache.MINE, hooks.MINE, sep='\\n')\n"
        "for each in (interp.analyses, interp.cache, interp.hooks): print(each.__file__)"
    )
    said = run(python, "-c", code, cwd=folder).stdout.splitlines()
    assert said[:2] == ["my own cache", "my own hooks"]
    assert [Path(line).resolve() for line in said[2:]] == [
        (source / floor / "__init__.py").resolve() for floor in FLOORS
    ]
