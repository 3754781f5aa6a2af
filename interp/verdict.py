"""From the tables of a study to its verdict."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from interp.analyses.evidence import CausalEvidence, Evidence, Rule
from interp.analyses.ladder import Verdict, climb
from interp.cache.errors import InputError
from interp.results import Results


def verdict_of(
    results: Results, *, rule: Rule | None = None, causal: CausalEvidence | None = None
) -> Verdict:
    """The rung that the tables of a study stand on; see `interp.analyses.ladder.climb`.

    Args:
        results: From `analyze`, or from `read_results`.
        rule: Thresholds; those that the study was analysed with if None.
        causal: What the experiments found, where some were made.

    Raises:
        InputError: If the margin of `rule` is another than that of the tables.
    """
    facts, n_experts = results.run.get("experts", {}), int(results.run["n_experts"])
    rule = rule or Rule(**results.run.get("rule", {}))
    margin = facts.get("margin")
    if margin is not None and not np.isclose(margin, rule.margin(n_experts)):
        raise InputError(
            f"the rule has a margin of {rule.margin(n_experts):g}, but the tables were made with "
            f"{margin:g}; analyse the store anew with this rule"
        )
    return climb(evidence_of(results, causal=causal), n_experts=n_experts, rule=rule)


def evidence_of(results: Results, *, causal: CausalEvidence | None = None) -> Evidence:
    """The numbers that the rule reads, from the tables; missing ones count as not shown."""
    experts, facts = results.experts, results.run.get("experts", {})
    sources = facts.get("n_sources", {})
    confirmed = _column(experts, "is_confirmed").fillna(0).astype(bool)
    effects = _column(experts, "surface_adjusted_effect").abs()
    sham = facts.get("sham_effect")
    return Evidence(
        n_sources=(int(sources.get("benchmark", 0)), int(sources.get("organic", 0))),
        is_paired=bool(facts.get("is_paired", False)),
        n_tested=len(experts),
        power=float(_column(experts, "power_at_margin").fillna(0.0).median()),
        raw_p=float(_column(experts, "raw_p_max_t").min()),
        n_raw_outside=_outside(experts, "inside_margin"),
        surface_p=float(_column(experts, "surface_adjusted_p_max_t").min()),
        n_surface_outside=_outside(experts, "surface_adjusted_inside_margin"),
        n_confirmed=int(confirmed.sum()),
        largest_effect=float(effects[confirmed].max()) if confirmed.any() else float("nan"),
        sham_effect=float("nan") if sham is None else float(sham),
        causal=causal,
    )


def verdict_facts(verdict: Verdict) -> dict[str, Any]:
    """The verdict as plain values, as `results.json` holds it."""
    steps = [asdict(step) for step in verdict.steps]
    return {"rung": verdict.rung, "sentence": verdict.sentence, "steps": steps}


def _column(experts: pd.DataFrame, name: str) -> "pd.Series[float]":
    """A column as numbers; empty where the table has none."""
    found = experts[name] if name in experts else pd.Series(dtype=float)
    return found.astype(float)


def _outside(experts: pd.DataFrame, name: str) -> int:
    """Experts that are not known to be inside the margin; at least one where none was tested."""
    inside = _column(experts, name).fillna(0).astype(bool)
    return int((~inside).sum()) if len(inside) else 1
