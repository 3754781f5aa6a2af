"""In CI a skip without an allowed reason fails the run, wherever it was raised."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PASSES = "def test_passes():\n    pass\n"
IN_A_TEST = "import pytest\n\ndef test_skips():\n    pytest.skip({reason!r})\n"
AT_THE_TOP = "import pytest\n\npytest.skip({reason!r}, allow_module_level=True)\n"
NO_SUCH_PACKAGE = "import pytest\n\npytest.importorskip('no_such_package')\n"
ALLOWED = "the recorded routing lies beside the repository, and is not there"


def run_pytest(
    folder: Path, module: str, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run pytest on this module and on a test that passes, with the conftest of these tests."""
    (folder / "test_given.py").write_text(module)
    (folder / "test_passing.py").write_text(PASSES)
    root = str(Path(__file__).resolve().parents[1])
    inherited = {name: value for name, value in os.environ.items() if name != "CI"}
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, *options, "."],
        cwd=folder,
        env=inherited | {"PYTHONPATH": root} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", [IN_A_TEST.format(reason="why not"), AT_THE_TOP.format(reason="why not")]
)
def test_skip_without_an_allowed_reason_fails_in_ci(tmp_path: Path, module: str) -> None:
    run = run_pytest(tmp_path, module, CI="true")
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout + run.stderr
    listed = run.stdout.partition("skipped in CI:\n")[2]
    assert "test_given.py" in listed
    assert "why not" in listed


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", [IN_A_TEST.format(reason="why not"), AT_THE_TOP.format(reason="why not")]
)
def test_skip_in_another_process_fails_in_ci(tmp_path: Path, module: str) -> None:
    run = run_pytest(tmp_path, module, "--numprocesses=2", CI="true")
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout + run.stderr
    listed = run.stdout.partition("skipped in CI:\n")[2]
    assert listed.count("test_given.py") >= 1
    assert "why not" in listed


@pytest.mark.slow
def test_package_that_a_module_cannot_import_fails_in_ci(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, NO_SUCH_PACKAGE, CI="true")
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout + run.stderr
    assert "no_such_package" in run.stdout.partition("skipped in CI:\n")[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", [IN_A_TEST.format(reason=ALLOWED), AT_THE_TOP.format(reason=ALLOWED)]
)
def test_skip_with_an_allowed_reason_passes_in_ci(tmp_path: Path, module: str) -> None:
    run = run_pytest(tmp_path, module, CI="true")
    assert run.returncode == pytest.ExitCode.OK, run.stdout + run.stderr
    assert "1 passed, 1 skipped" in run.stdout


@pytest.mark.slow
def test_skips_pass_outside_of_ci(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, NO_SUCH_PACKAGE)
    assert run.returncode == pytest.ExitCode.OK, run.stdout + run.stderr
    assert "skipped in CI" not in run.stdout
