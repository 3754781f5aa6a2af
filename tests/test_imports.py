"""What an import costs and brings along: no torch below the roof, next to nothing for `interp`."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import interp

ROOT = Path(__file__).resolve().parents[1]
WITHOUT_TORCH = ("analyses", "cache", "prompts")
HEAVY = ("numpy", "pandas", "plotly", "scipy", "sklearn", "torch", "transformers")


def fresh_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A new interpreter at the root of the checkout, with nothing imported yet."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )


def imported_by(*names: str) -> set[str]:
    """Top-level packages that are loaded after importing `names` in a new interpreter."""
    code = (
        "import importlib, json, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    return set(json.loads(fresh_python("-c", code).stdout))


def modules_of(folder: str) -> list[str]:
    files = sorted((ROOT / "interp" / folder).glob("*.py"))
    return [f"interp.{folder}"] + [
        f"interp.{folder}.{file.stem}" for file in files if file.stem != "__init__"
    ]


def roof_modules() -> list[str]:
    """Modules of the roof that a laptop without torch uses; the demo captures, so it may not."""
    stems = sorted(file.stem for file in (ROOT / "interp").glob("*.py"))
    return [f"interp.{stem}" for stem in stems if stem not in ("__init__", "__main__", "demo")]


@pytest.mark.slow
def test_the_ground_the_analyses_and_the_roof_import_no_torch() -> None:
    names = [name for folder in WITHOUT_TORCH for name in modules_of(folder)]
    names += [*roof_modules(), "interp.organisms", "interp.hooks"]
    assert {"interp.analyses.probes", "interp.cache.reader", "interp.report"} <= set(names)
    loaded = imported_by(*names)
    assert {"numpy", "h5py", "plotly"} <= loaded
    assert not {"torch", "transformers", "accelerate", "tokenizers", "safetensors"} & loaded


@pytest.mark.parametrize("name", ["interp", "interp.cli"])
def test_an_import_of_interp_or_its_command_brings_no_heavy_package(name: str) -> None:
    assert not imported_by(name) & set(HEAVY)


def test_the_public_faces_load_lazily() -> None:
    assert not imported_by("interp.cache", "interp.analyses", "interp.hooks") & {
        "sklearn",
        "statsmodels",
        "torch",
        "transformers",
    }


def import_seconds() -> float:
    """What `python -X importtime` says of `import interp`, all that it imports included."""
    report = fresh_python("-X", "importtime", "-c", "import interp").stderr
    match = re.search(r"\|\s*(\d+) \| interp$", report, flags=re.MULTILINE)
    assert match, report
    return int(match[1]) / 1e6


def test_import_interp_takes_less_than_a_fifth_of_a_second() -> None:
    assert min(import_seconds() for _ in range(5)) < 0.2


@pytest.mark.parametrize("name", interp.__all__)
def test_every_public_name_of_interp_is_there(name: str) -> None:
    assert getattr(interp, name) is not None
    assert name in dir(interp)


@pytest.mark.parametrize("module", ["interp.cache", "interp.analyses", "interp.prompts"])
def test_every_public_name_of_a_floor_is_there(module: str) -> None:
    face = __import__(module, fromlist=["__name__"])
    names = [name for name in dir(face) if not name.startswith("_")]
    assert names
    assert all(getattr(face, name) is not None for name in names)


def test_an_unknown_name_is_refused_as_python_does() -> None:
    with pytest.raises(AttributeError, match="module 'interp' has no attribute 'frobnicate'"):
        interp.frobnicate  # noqa: B018 - reading it is the test


def test_lazy_names_are_those_that_type_checkers_see() -> None:
    """`TYPE_CHECKING` imports and the lazy table are written twice, so they could differ."""
    text = (ROOT / "interp" / "__init__.py").read_text(encoding="utf-8")
    checked = set(re.findall(r" import (\w+) as \1$", text, flags=re.MULTILINE))
    assert checked == set(interp.__all__) - {"__version__"}
