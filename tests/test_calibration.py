"""A short version of benchmarks/calibration.py: few studies, so wide bounds, fixed beforehand.

A number of rejections fails only if 3 to 7 % (or 80 % power) could give it in less than 1 of 1,000
cases. The seeds are those of the first studies of docs/calibration.md.
"""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks.calibration import CELLS, carry_out, label, records, run, stated_size, table

N_PILOTS = 25


def p_values(name: str, n_runs: int, which: int = 0) -> np.ndarray:
    """Of one test of a cell: its first is the recommended one, the others warn."""
    test, n_warnings = label(CELLS[name].tests[which]), n_runs if which else 0
    return np.array([run(name, number, n_warnings=n_warnings)[test] for number in range(n_runs)])


def planted(name: str, n_runs: int) -> list[dict[str, object]]:
    return [run(name, number, n_pilots=N_PILOTS, n_warnings=0) for number in range(n_runs)]


def assert_size_is_3_to_7_percent(p: np.ndarray) -> None:
    least, most = binom.ppf(0.001, len(p), 0.03), binom.ppf(0.999, len(p), 0.07)
    assert least <= (p <= 0.05).sum() <= most


@pytest.mark.parametrize("name", ["vocabulary, 5 + 5 sources", "sources, 5 + 5"])
def test_size_by_source_is_kept_in_few_studies(name: str) -> None:
    assert_size_is_3_to_7_percent(p_values(name, 25))


def test_tokens_and_items_as_clusters_find_the_sources() -> None:
    """The warning: no study has an effect, and at least half of them are called significant."""
    name = "sources, 5 + 5"
    runs = [run(name, number) for number in range(6)]
    for test in CELLS[name].tests[1:]:
        p = np.array([record[label(test)] for record in runs], dtype=float)
        assert (p <= 0.05).mean() >= 0.5


def test_a_vocabulary_that_differs_is_found_by_raw_usage() -> None:
    assert (p_values("vocabulary, 5 + 5 sources", 5, 1) <= 0.05).mean() >= 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "n_runs"),
    [
        ("prompts, 40 + 40 items", 60),
        ("prompts, 40 paired items", 60),
        ("vocabulary, 10 + 10 sources", 60),
        ("sources, 5 + 5", 100),
        ("sources, 10 + 10", 60),
        ("both, and sources differ, 5 + 5", 25),
    ],
)
def test_size_is_kept(name: str, n_runs: int) -> None:
    assert_size_is_3_to_7_percent(p_values(name, n_runs))


@pytest.mark.slow
def test_80_percent_are_found_at_the_stated_size() -> None:
    name = "planted at the stated size, 5 + 5 sources"
    found = [bool(record["first_found"]) for record in planted(name, 60)]
    assert sum(found) >= binom.ppf(0.001, len(found), 0.8)


@pytest.mark.slow
def test_few_of_the_experts_that_are_found_are_false() -> None:
    name = "12 of 64 experts planted, 5 + 5 sources"
    runs = planted(name, 40)
    false = np.array([record["false_discoveries"] for record in runs], dtype=float)
    # Fails only where the mean lies 3 standard errors above 10 %.
    assert false.mean() <= 0.10 + 3 * false.std(ddof=1) / len(false) ** 0.5
    assert np.array([record["planted_found"] for record in runs], dtype=float).mean() > 0.5


@pytest.mark.slow
def test_experts_at_the_margin_are_seldom_called_equivalent() -> None:
    runs = planted("equivalence, 2 experts at the margin", 60)
    called = [bool(record["all_inside"]) for record in runs]
    assert sum(called) <= binom.ppf(0.999, len(called), 0.05)


def test_a_study_is_the_same_when_it_is_run_again() -> None:
    name = "vocabulary, 5 + 5 sources"
    once, again, other = (run(name, number, n_warnings=0) for number in (3, 3, 4))
    assert once == again
    assert once != other


def test_runs_that_are_there_are_not_done_again(tmp_path: Path) -> None:
    name, out = "vocabulary, 5 + 5 sources", tmp_path / "runs.jsonl"
    carry_out([name], 2, processes=1, out=out)
    first = records(out)
    carry_out([name], 3, processes=1, out=out)
    assert records(out)[:2] == first
    assert [record["run"] for record in records(out)] == [0, 1, 2]
    assert "| vocabulary, 5 + 5 sources | 4 | token | source | 3 |" in table(out)


def test_the_stated_size_is_above_the_margin_with_few_sources_and_below_with_many() -> None:
    few = stated_size("planted at the stated size, 5 + 5 sources", 5)
    many = stated_size("planted at the stated size, 10 + 10 sources", 5)
    assert many < few


def test_no_two_cells_share_a_seed() -> None:
    seeds = [cell.seed for cell in CELLS.values()]
    assert len(set(seeds)) == len(seeds)
