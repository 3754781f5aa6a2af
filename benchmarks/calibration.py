"""How often the tests are wrong, and how much they find, on simulated studies with a known answer.

    python benchmarks/calibration.py                      # all cells, 1,000 studies each
    python benchmarks/calibration.py --cells prompts --runs 200 --processes 1

Every study has its own seed, `[seed of the cell, number of the run]`. Runs are appended to `--out`
as they end, and a run that is there is not done again: stop and start as you like. `--table` prints
the table of docs/calibration.md from what is there.
"""

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # each process computes on one core
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy.stats import binomtest

from benchmarks.calibration_cells import CELLS, Cell
from interp.analyses.cells import ClusterSums, token_adjusted_sums
from interp.analyses.equivalence import two_one_sided_tests
from interp.analyses.jackknife import Jackknife, cluster_jackknife, q_values
from interp.analyses.power import detectable_effects
from interp.analyses.relabelling import max_t_test
from interp.analyses.surface import surface_adjusted_sums
from interp.organisms.simulated import Simulated, simulated
from interp.organisms.simulated_design import Simulation

N_RESAMPLES = 999
"""Of each test, where relabellings are not enumerated."""
LEVEL = 0.05
"""Nominal size of every test, and of the false discovery rate."""
N_WARNINGS = 200
"""Runs in which the tests that only warn are made too: tokens as clusters are slow."""
N_PILOTS = 100
"""Studies without effect from which the size is stated that the planted ones then have."""


FIELDS = (
    "delta",
    "first_found",
    "planted_found",
    "false_discoveries",
    "covered",
    "all_inside",
)
"""What a record holds beside the p-value of each test."""


def sums_of(
    study: Simulated, adjustment: str, cluster: str, rng: np.random.Generator
) -> ClusterSums:
    """Sums by cluster, as an analysis would take them from this study."""
    tokens, prompts = study.tokens, study.prompts
    of_prompt = {"source": prompts.source, "item": prompts.item}
    each = np.arange(len(tokens.token_id))
    kept = {
        "benchmark": prompts.benchmark[tokens.prompt_index],
        "cluster": each if cluster == "token" else of_prompt[cluster][tokens.prompt_index],
    }
    if adjustment == "surface":
        surface = surface_adjusted_sums(
            tokens.expert_indices,
            **kept,
            token_id=tokens.token_id,
            previous_token_id=tokens.previous_token_id,
            position=tokens.position,
            logprob=tokens.logprob,
            n_experts=tokens.n_experts,
            rng=rng,
        )
        return surface.sums
    return token_adjusted_sums(
        tokens.expert_indices,
        **kept,
        token_id=tokens.token_id if adjustment == "token" else np.zeros_like(tokens.token_id),
        n_experts=tokens.n_experts,
    )


@cache
def stated_size(name: str, n_pilots: int = N_PILOTS) -> float:
    """Effect on the first planted expert that is found in 80 %, says the power function.

    It is told what can be known from studies without effect: standard errors and usage.
    """
    cell = CELLS[name]
    design = replace(cell.design, delta=0.0)
    variances, dfs, usages = [], [], []
    for number in range(n_pilots):
        rng = np.random.default_rng([cell.seed, 1_000_000 + number])
        study = simulated(design, rng=rng)
        jackknife = cluster_jackknife(sums_of(study, *cell.tests[0], rng))
        variances.append(jackknife.standard_error**2)
        dfs.append(jackknife.df)
        usages.append(organic_usage(study))
    shape = (design.n_layers, design.n_experts)
    stated = detectable_effects(
        np.sqrt(np.mean(variances, axis=0)).reshape(shape),
        np.mean(dfs, axis=0).reshape(shape),
        margin=cell.margin,
        layer_indices=range(design.n_layers),
        usage=np.mean(usages, axis=0),
        n_tests=1 if cell.is_alone else None,
        alpha=LEVEL,
    )
    layer, expert, _ = design.planted[0]
    return float(stated.smallest_effect[layer, expert])


def organic_usage(study: Simulated) -> np.ndarray:
    """Usage of every expert under organic prompts, never quite 0."""
    tokens, layers = study.tokens, range(len(study.tokens.layer_indices))
    chosen = tokens.expert_indices[~study.prompts.benchmark[tokens.prompt_index]]
    slots = [np.bincount(chosen[:, n].ravel(), minlength=tokens.n_experts) for n in layers]
    return (np.array(slots) + 0.5) / (chosen[:, 0].size + 0.5 * tokens.n_experts)


def design_of(name: str, n_pilots: int = N_PILOTS) -> Simulation:
    """The cell's design, with the size of its effect."""
    cell = CELLS[name]
    if not cell.design.planted:
        return cell.design
    size = cell.margin if cell.at_margin else stated_size(name, n_pilots)
    return replace(cell.design, delta=size)


def run(
    name: str, number: int, *, n_pilots: int = N_PILOTS, n_warnings: int = N_WARNINGS
) -> dict[str, object]:
    """One study: the least max-T p-value of each test, and what the recommended one found."""
    cell, design = CELLS[name], design_of(name, n_pilots)
    rng = np.random.default_rng([cell.seed, number])
    study = simulated(design, rng=rng)
    record: dict[str, object] = {"cell": name, "run": number, "delta": design.delta}
    for adjustment, cluster in cell.tests[: 1 if number >= n_warnings else None]:
        sums = sums_of(study, adjustment, cluster, rng)
        test = max_t_test(sums, rng=rng, n_resamples=N_RESAMPLES)
        record[label((adjustment, cluster))] = test.p_value
        if (adjustment, cluster) == cell.tests[0]:
            jackknife = cluster_jackknife(sums)
            p = jackknife.p_value if cell.is_alone else test.p_max_t
            record |= _found(study, jackknife, p, cell)
    return record


def _found(
    study: Simulated, jackknife: Jackknife, p_value: np.ndarray, cell: Cell
) -> dict[str, object]:
    """Of one test: the first planted expert, false discoveries, coverage, equivalence."""
    truth = study.effect.ravel()
    right = np.sign(jackknife.effect) == np.sign(truth)  # never where the truth is 0
    discovered = q_values(jackknife.p_value) <= LEVEL
    low, high = jackknife.interval(0.9)
    shape = study.effect.shape
    equivalent = two_one_sided_tests(
        jackknife.effect.reshape(shape),
        jackknife.standard_error.reshape(shape),
        jackknife.df.reshape(shape),
        margin=cell.margin,
        layer_indices=range(shape[0]),
    )
    first = int(np.argmax(truth))
    return {
        "first_found": bool(p_value[first] <= LEVEL and right[first]),
        "false_discoveries": float((discovered & ~right).sum() / max(1, discovered.sum())),
        "planted_found": float((discovered & right).sum() / max(1, (truth != 0).sum())),
        "covered": float(((low <= truth) & (truth <= high)).mean()),
        "all_inside": equivalent.all_inside,
    }


def _job(job: tuple[str, int]) -> dict[str, object]:
    return run(*job)


def carry_out(names: list[str], n_runs: int, *, processes: int, out: Path) -> None:
    """Do the runs that `out` does not have yet, and append them."""
    done = {(one["cell"], one["run"]) for one in records(out)}
    with ProcessPoolExecutor(processes) as pool, out.open("a") as file:
        for name in names:
            jobs = [(name, number) for number in range(n_runs) if (name, number) not in done]
            for record in pool.map(_job, jobs, chunksize=10):
                file.write(json.dumps(record) + "\n")
            file.flush()
            print(name, "seed", CELLS[name].seed, "done", n_runs, flush=True)


def records(out: Path) -> list[dict[str, object]]:
    """All runs in a file, none if there is no file."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def exact(values: list[object]) -> str:
    """Percentage of True with its exact 95 % interval (Clopper and Pearson 1934)."""
    n_true = sum(bool(value) for value in values)
    ends = binomtest(n_true, len(values)).proportion_ci(method="exact")
    return f"{100 * n_true / len(values):.1f} ({100 * ends.low:.1f} to {100 * ends.high:.1f})"


def mean(values: list[float]) -> str:
    """Mean in percent with a 95 % interval of 1.96 standard errors."""
    reach = 196 * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{100 * np.mean(values):.1f} +- {reach:.1f}"


def table(out: Path) -> str:
    """The tables of docs/calibration.md, as far as `out` goes."""
    by_cell = {name: [one for one in records(out) if one["cell"] == name] for name in CELLS}
    size = [
        "| simulated | seed | adjustment | cluster | runs | max-T p <= 0.05, % |",
        "|---" * 6 + "|",
    ]
    rest = [
        "| simulated | planted size | found, % | by BH, % | false among found by BH, % "
        "| in 90 % interval, % | all inside the margin, % |",
        "|---" * 7 + "|",
    ]
    for name, of_cell in by_cell.items():
        for test in () if CELLS[name].design.planted else CELLS[name].tests:
            p = [one[label(test)] for one in of_cell if label(test) in one]
            if p:
                share = exact([value <= LEVEL for value in p])
                row = [name, CELLS[name].seed, *test, len(p), share]
                size.append(f"| {' | '.join(map(str, row))} |")
        if of_cell:
            of = {field: [one[field] for one in of_cell] for field in FIELDS}
            planted = bool(CELLS[name].design.planted)
            row = [
                name,
                f"{of['delta'][0]:.4f}" if planted else "none",
                exact(of["first_found"]) if planted else "",
                mean(of["planted_found"]) if planted else "",
                mean(of["false_discoveries"]),
                mean(of["covered"]),
                exact(of["all_inside"]),
            ]
            rest.append(f"| {' | '.join(row)} |")
    return "\n".join([*size, "", *rest])


def label(test: tuple[str, str]) -> str:
    """Name of a test in the records."""
    return " by ".join(test)


def main() -> None:
    """Carry out what was asked, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", default="", help="only those whose name has this in it")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("calibration.jsonl"))
    parser.add_argument("--table", action="store_true", help="only print what is there")
    options = parser.parse_args()
    if not options.table:
        names = [name for name in CELLS if options.cells in name]
        carry_out(names, options.runs, processes=options.processes, out=options.out)
    print(table(options.out))


if __name__ == "__main__":
    main()
