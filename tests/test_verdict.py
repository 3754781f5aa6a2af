"""The verdict of a study: what it reads from the tables, and the sham that effects must pass."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from interp.analyses.evidence import Rule
from interp.cache.errors import InputError
from interp.cache.reader import Store, open_store
from interp.cache.writer import StoreWriter
from interp.results import Results
from interp.study_sham import sham_effect
from interp.verdict import evidence_of, verdict_facts, verdict_of
from tests.study_samples import LAYOUT, N_EXPERTS, N_TOKENS, prompt

EXPERTS = pd.DataFrame(
    {
        "layer": [0, 0, 1],
        "expert": [0, 1, 0],
        "raw_p_max_t": [0.2, 0.01, 0.9],
        "inside_margin": [True, False, True],
        "surface_adjusted_effect": [0.01, -0.2, 0.3],
        "surface_adjusted_p_max_t": [0.3, 0.02, np.nan],
        "surface_adjusted_inside_margin": [True, False, False],
        "is_confirmed": [False, True, False],
        "power_at_margin": [0.7, 0.9, np.nan],
    }
)
FACTS = {
    "margin": 0.0625,
    "n_sources": {"benchmark": 2, "organic": 3},
    "is_paired": False,
    "sham_effect": 0.05,
}


def results(**replaced: Any) -> Results:
    run = {"n_experts": 8, "experts": FACTS, "rule": {}}
    tables = {"usage": pd.DataFrame(), "divergence": pd.DataFrame(), "probes": pd.DataFrame()}
    return replace(Results(**tables, experts=EXPERTS, run=run), **replaced)


def test_evidence_is_read_from_the_table_of_experts() -> None:
    evidence = evidence_of(results())

    assert evidence.n_sources == (2, 3)
    assert evidence.n_tested == 3
    assert evidence.power == 0.7
    assert (evidence.raw_p, evidence.surface_p) == (0.01, 0.02)
    assert (evidence.n_raw_outside, evidence.n_surface_outside) == (1, 2)
    assert evidence.n_confirmed == 1
    assert evidence.largest_effect == pytest.approx(0.2)  # of the confirmed one, not 0.3
    assert evidence.sham_effect == 0.05


def test_what_is_not_in_the_tables_counts_as_not_shown() -> None:
    verdict = verdict_of(results(experts=pd.DataFrame()))

    assert verdict.rung == "insufficient"
    assert not any(step.holds for step in verdict.steps if step.rung == "no_difference")


def test_facts_of_a_verdict_have_its_steps_as_plain_values() -> None:
    facts = verdict_facts(verdict_of(results()))

    assert facts["rung"] == "insufficient"
    assert "70%" in facts["sentence"]
    assert {"rung", "asks", "found", "holds"} == set(facts["steps"][0])


def test_another_margin_than_that_of_the_tables_is_refused() -> None:
    with pytest.raises(InputError, match=r"margin of 0\.125, but the tables were made"):
        verdict_of(results(), rule=Rule(margin_in_even_shares=1.0))


def shams(path: Path, *, share: float) -> Store:
    """Benchmark prompts and their shams, the same but for a share of tokens that change expert."""
    rng = np.random.default_rng(0)
    with StoreWriter(path, layout=LAYOUT, provenance={"model": "simulated"}) as writer:
        for item in range(12):
            usual = prompt(rng, item, "benchmark")
            indices = np.tile([[0, 1], [2, 3]], (N_TOKENS, 1, 1))
            for variant in ("benchmark-exam", "benchmark-exam-sham"):
                moved = indices.copy()
                if variant.endswith("-sham"):
                    moved[2 : 2 + round(share * (N_TOKENS - 2)), 0] = [0, N_EXPERTS - 1]
                fields = dict(usual.prompt) | {"variant": variant, "prompt_id": f"{item} {variant}"}
                tokens = {"token_id": np.full(N_TOKENS, 7, dtype=np.int32)}
                writer.add(replace(usual, prompt=fields, expert_indices=moved, **tokens))
    return open_store(path)


def test_shams_that_route_alike_have_no_effect(tmp_path: Path) -> None:
    assert sham_effect(shams(tmp_path / "a.moe", share=0.0), np.random.default_rng(0)) < 1e-9


def test_a_sham_that_moves_half_of_the_tokens_has_the_effect_of_a_hand_count(
    tmp_path: Path,
) -> None:
    store = shams(tmp_path / "a.moe", share=1.0)

    # Expert 1 of layer 1 has half of the slots of every usual token, and none of the sham's.
    assert sham_effect(store, np.random.default_rng(0)) == pytest.approx(0.5, abs=1e-6)


def test_without_shams_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with StoreWriter(tmp_path / "a.moe", layout=LAYOUT, provenance={"model": "x"}) as writer:
        for item in range(4):
            writer.add(prompt(rng, item, "benchmark"))

    assert np.isnan(sham_effect(open_store(tmp_path / "a.moe"), rng))
