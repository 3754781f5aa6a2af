"""How often the verdict is wrong, on simulated studies with a known answer: the rungs reached.

    python benchmarks/verdict_calibration.py                   # all cells, 200 studies each
    python benchmarks/verdict_calibration.py --cells sources --runs 20

Without experiments a verdict ends at `associational`: where the condition does nothing beyond the
surface, that rung is false. Studies with experiments: benchmarks/causal_calibration.py. Every study
has the seed `[seed of the cell, number of the run]`; a run that is in `--out` is not done again.
"""

import argparse
import json
import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # each process computes on one core
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from interp.analyses.evidence import Rule
from interp.analyses.ladder import RUNGS
from interp.organisms.simulated import simulated
from interp.organisms.simulated_design import Simulation
from interp.results import Results
from interp.study_experts import tested_experts
from interp.verdict import verdict_of

N_RESAMPLES = 999
"""Of each test, where relabellings are not enumerated."""
SEED = 100
"""Seed of the first cell; the others follow. Those of benchmarks/calibration.py are lower."""

BASE = Simulation(n_sources=10, items_per_source=5, tokens_per_prompt=50, world_seed=None)
QUIET = replace(BASE, source_sd=0.05)
WORDS = replace(QUIET, overlap=0.5, items_per_source=25)
PLANTED = ((0, 1, 2), (0, 7, 9), (1, 3, 5), (2, 4, 6), (2, 8, 10), (3, 0, 15))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One kind of study and what is true of it."""

    design: Simulation
    """What is simulated."""
    truth: str
    """Highest rung that is right without experiments; a higher one is a false claim."""


CELLS = {
    "only prompts differ": Cell(design=BASE, truth="no_difference"),
    "only sources differ, a little": Cell(design=QUIET, truth="no_difference"),
    "only sources differ, 10 + 10": Cell(
        design=replace(BASE, source_sd=0.2), truth="no_difference"
    ),
    "only sources differ, 25 + 25": Cell(
        design=replace(BASE, source_sd=0.2, n_sources=25), truth="no_difference"
    ),
    "only vocabulary differs": Cell(design=WORDS, truth="surface"),
    "vocabulary, previous token read": Cell(
        design=replace(WORDS, previous_sd=0.3), truth="surface"
    ),
    "length differs, position read": Cell(
        design=replace(QUIET, length_ratio=1.5, position_sd=0.5), truth="surface"
    ),
    "planted at the margin": Cell(
        design=replace(QUIET, planted=PLANTED, delta=0.5 / 16), truth="associational"
    ),
    "planted at twice the margin": Cell(
        design=replace(QUIET, planted=PLANTED, delta=1 / 16), truth="associational"
    ),
    "planted at twice the margin, vocabulary differs": Cell(
        design=replace(WORDS, planted=PLANTED, delta=1 / 16), truth="associational"
    ),
}


def run(name: str, number: int) -> dict[str, object]:
    """One study: its rung, and the first answer that decided it."""
    cell, seed = CELLS[name], SEED + list(CELLS).index(name)
    rng = np.random.default_rng([seed, number])
    study = simulated(cell.design, rng=rng)
    n_experts, rule = cell.design.n_experts, Rule()
    experts, facts = tested_experts(
        study.tokens,
        study.prompts,
        rng,
        n_resamples=N_RESAMPLES,
        margin=rule.margin(n_experts),
    )
    run_facts = {"n_experts": n_experts, "experts": facts, "rule": asdict(rule)}
    empty = pd.DataFrame()
    verdict = verdict_of(
        Results(usage=empty, divergence=empty, probes=empty, experts=experts, run=run_facts)
    )
    return {"cell": name, "run": number, "rung": verdict.rung, "sentence": verdict.sentence}


def _job(job: tuple[str, int]) -> dict[str, object]:
    return run(*job)


def records(out: Path) -> list[dict[str, object]]:
    """All runs in a file, none if there is no file."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def table(found: list[dict[str, object]]) -> str:
    """Rungs by cell, and how many verdicts claim more than is true, with its exact interval."""
    lines = [
        f"| simulated | seed | true | studies | {' | '.join(RUNGS[:-1])} | too high, % |",
        "|---" * (len(RUNGS) + 4) + "|",
    ]
    for place, (name, cell) in enumerate(CELLS.items()):
        rungs = Counter(str(one["rung"]) for one in found if one["cell"] == name)
        n = rungs.total()
        if not n:
            continue
        above = sum(rungs[rung] for rung in RUNGS[RUNGS.index(cell.truth) + 1 :])
        ends = binomtest(above, n).proportion_ci(method="exact")
        wrong = f"{100 * above / n:.1f} ({100 * ends.low:.1f} to {100 * ends.high:.1f})"
        row = [name, SEED + place, cell.truth, n, *(rungs[rung] for rung in RUNGS[:-1]), wrong]
        lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines)


def main() -> None:
    """Carry out what was asked, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", default="", help="only those whose name has this in it")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("verdicts.jsonl"))
    options = parser.parse_args()
    done = {(one["cell"], one["run"]) for one in records(options.out)}
    names = [name for name in CELLS if options.cells in name]
    jobs = [(name, n) for name in names for n in range(options.runs) if (name, n) not in done]
    with ProcessPoolExecutor(options.processes) as pool, options.out.open("a") as file:
        for record in pool.map(_job, jobs, chunksize=4):
            file.write(json.dumps(record) + "\n")
            file.flush()
    print(table(records(options.out)))


if __name__ == "__main__":
    main()
