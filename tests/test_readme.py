"""What the README and the docs show runs, as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from interp.prompts import load_prompts

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")


@pytest.mark.slow
def test_the_python_example_of_the_readme_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "token_matched_bits" in ran.stdout
    assert "resid_post" in ran.stdout
    assert (tmp_path / "example.moe" / "manifest.json").is_file()
    assert (tmp_path / "example.html").stat().st_size > 1_000_000


@pytest.mark.slow
def test_the_python_example_of_the_page_on_capture_runs() -> None:
    page = (ROOT / "docs/capture.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "torch.Size([5, 2, 4]) torch.Size([5, 128])" in ran.stdout


def test_the_two_commands_of_the_readme_are_in_the_makefile() -> None:
    commands = re.findall(r"^    make (\w+)", README, re.MULTILINE)
    assert commands == ["demo", "test"]
    targets = re.findall(
        r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert set(commands) <= set(targets)


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
)
def test_every_link_leads_somewhere(page: str) -> None:
    source = ROOT / page
    links = LINK.findall(source.read_text(encoding="utf-8"))
    missing = [link for link in links if not (source.parent / link).exists()]
    assert not missing


def test_the_recipe_for_the_real_model_can_give_a_verdict() -> None:
    """Its prompts are pairs; one source a condition without pairs is always `insufficient`."""
    (captured,) = re.findall(
        r"^    interp capture openai/gpt-oss-20b .*--prompts (\S+)", README, re.M
    )
    wordings: dict[str, set[str]] = {}
    for prompt in load_prompts(captured):
        wordings.setdefault(prompt.item_id, set()).add(prompt.condition)
    paired = [{"benchmark", "organic"} <= conditions for conditions in wordings.values()]
    assert sum(paired) >= len(paired) / 2


def test_the_readme_example_is_ten_lines_at_most() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
