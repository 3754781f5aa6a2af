"""Stores that lack something: the study goes on with what it can do, and says what it left out."""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.cache.records import Layout, PromptActivations
from interp.cache.writer import StoreWriter
from interp.cli import main
from interp.cli_options import by_sentence
from tests.study_samples import LAYOUT, N_EXPERTS, N_TOKENS, prompt

RNG = np.random.default_rng(11)
Said = Callable[[Iterable[PromptActivations], Layout], tuple[str, dict[str, Any]]]


def prompts(condition: str, items: range, source: str = "", **replaced: Any) -> Any:
    """One prompt for each item; its source is `simulated` unless another is given."""
    made = [prompt(RNG, item, condition, **replaced) for item in items]
    if not source:
        return made
    return [replace(each, prompt={**each.prompt, "source": source}) for each in made]


def with_resid(activations: PromptActivations, value: float) -> PromptActivations:
    """The same, with one number of the residual stream of layer 3 replaced."""
    resid = {place: values.copy() for place, values in activations.resid.items()}
    resid["resid_post", 3][:, 2] = value
    return replace(activations, resid=resid)


@pytest.fixture
def analyzed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Said:
    """What a person reads after `interp analyze`, and what the file holds; the report is drawn."""
    monkeypatch.chdir(tmp_path)

    def run(given: Iterable[PromptActivations], layout: Layout) -> tuple[str, dict[str, Any]]:
        with StoreWriter(Path("a.moe"), layout=layout, provenance={"model": "simulated"}) as writer:
            for activations in given:
                writer.add(activations)
        main(["analyze", "a.moe", "--out", "a.json", "--permutations", "10"])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        main(["report", "a.moe", "--results", "a.json", "--out", "a.html"])
        return said.out, json.loads(Path("a.json").read_text(encoding="utf-8"))

    return run


def test_reasons_that_are_shared_are_said_once() -> None:
    reasons = {"probes": "No pair.", "load": "No token.", "experts": "No pair."}
    assert by_sentence(reasons) == {"probes, experts": "No pair.", "load": "No token."}


def test_a_missing_condition_leaves_usage_and_measures(analyzed: Said) -> None:
    said, results = analyzed(prompts("organic", range(6)), LAYOUT)
    assert said.count("The store holds only organic prompts, so there is nothing to compare") == 1
    assert results["divergence"] == results["experts"] == results["paths"] == []
    assert len(results["usage"]) == 2 * N_EXPERTS
    assert {row["condition"] for row in results["load"]} == {"organic"}
    assert "paths" in results["absent"]


@pytest.mark.slow
def test_one_prompt_a_condition_has_values_without_tests(analyzed: Said) -> None:
    said, results = analyzed(
        [*prompts("benchmark", range(1)), *prompts("organic", range(1, 2))], LAYOUT
    )
    assert "Only one cluster has benchmark tokens" in said
    assert "which allows 1 distinct relabelling(s), fewer than 40" in said
    assert "Nothing can be shuffled or split" in said
    assert len(results["divergence"]) == 2
    assert all(row["raw_bits"] is not None for row in results["divergence"])
    page = Path("a.html").read_text(encoding="utf-8")
    assert "What effect these prompts and sources could have shown is not known." in page
    assert "max-T p is nan" not in page


@pytest.mark.slow
def test_a_source_that_is_all_of_a_condition_cannot_be_held_out(analyzed: Said) -> None:
    organic = [prompts("organic", range(20 + 4 * n, 24 + 4 * n), f"mail-{n}") for n in range(3)]
    said, results = analyzed(
        [*prompts("benchmark", range(12), "quiz"), *(each for some in organic for each in some)],
        LAYOUT,
    )
    assert "source 'quiz' is all of condition benchmark" in said
    assert "benchmark has 1 source, and what a source is cannot be told from" in said
    assert results["experts"][0]["p_max_t"] is not None
    assert {row["split"] for row in results["probes"]} == {"item"}


@pytest.mark.slow
def test_vocabularies_without_a_common_token_leave_the_raw_divergence(analyzed: Said) -> None:
    other = RNG.integers(20, 40, N_TOKENS).astype(np.int32)
    said, results = analyzed(
        [*prompts("benchmark", range(8)), *prompts("organic", range(8), token_id=other)], LAYOUT
    )
    assert "share no token, so nothing can be matched" in said
    assert "The conditions share no pair of a token and the one before it" in said
    assert "No token id occurs under both conditions, so nothing can be compared" in said
    assert all(row["raw_bits"] is not None for row in results["divergence"])
    assert all(row["token_matched_bits"] is None for row in results["divergence"])
    matched = {
        row["matched_on"]
        for row in results["divergence_matched"]
        if row["matched_bits"] is not None
    }
    assert matched == {"position_bin"}


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_residuals_that_are_not_finite_leave_that_layer_out(analyzed: Said, value: float) -> None:
    benchmark = prompts("benchmark", range(8))
    broken = [with_resid(each, value) for each in benchmark[:3]]
    said, results = analyzed([*broken, *benchmark[3:], *prompts("organic", range(8))], LAYOUT)
    assert "resid_post of layer 3 is not finite in 3 of 16 prompts" in said
    probed = {row["layer"] for row in results["probes"] if row["site"] == "resid_post"}
    assert probed == {1}


@pytest.mark.slow
def test_a_store_without_residuals_is_probed_on_its_routing(analyzed: Said) -> None:
    bare = {"resid": {}, "resid_token_index": None}
    said, results = analyzed(
        [*prompts("benchmark", range(8), **bare), *prompts("organic", range(8), **bare)],
        replace(LAYOUT, resid_sites=()),
    )
    assert "The store holds no residual streams" in said
    sites = {row["site"] for row in results["probes"] if row["layer"] is not None}
    assert "routing" in sites
    assert "resid_post" not in sites
