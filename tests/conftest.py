"""Shared by all tests: shape checks at run time, tiny models, and no silent skip in CI."""

import os
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import install_import_hook

install_import_hook(("interp.cache", "interp.analyses", "interp.hooks"), "beartype.beartype")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
MAY_SKIP = ("beside the repository", "accelerator")
"""In CI, a test may skip only for a reason that names one of these."""


class Skips:
    """Collects what was skipped; also in the process that hands tests out to others."""

    def __init__(self) -> None:
        self.reports: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self.reports[report.nodeid] = str(report.longrepr)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that is skipped while it is collected, as by `importorskip`, has no test."""
        if report.skipped:
            self.reports[report.nodeid] = str(report.longrepr)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Without a browser or a package, CI would otherwise be green and prove nothing."""
        silent = [
            f"{name}: {reason}"
            for name, reason in self.reports.items()
            if not any(allowed in reason for allowed in MAY_SKIP)
        ]
        if os.environ.get("CI") and silent:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            session.config.get_terminal_writer().line("\nskipped in CI:\n" + "\n".join(silent))


FAST_FAMILIES = ("gpt_oss", "mixtral", "deepseek_v3")
"""What holds for every family is tried on these in the inner loop: one of each kind of rule."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        values = item.callspec.params if hasattr(item, "callspec") else {}
        if values.get("family", FAST_FAMILIES[0]) not in FAST_FAMILIES:
            item.add_marker(pytest.mark.slow)


def pytest_configure(config: pytest.Config) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    config.pluginmanager.register(Skips())


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random gpt-oss on disk: 2 layers, top-2 of 8 experts, float32, with a Harmony tokenizer."""
    from tests.tiny_model import save_tiny

    return save_tiny(tmp_path_factory.mktemp("tiny") / "tiny-gpt-oss")


@pytest.fixture
def tiny(tiny_folder: Path) -> Any:
    """The tiny model and its tokenizer, loaded afresh: a test may do to it what it likes."""
    from interp.hooks.load import load_model

    return load_model(str(tiny_folder), device_map="cpu")
