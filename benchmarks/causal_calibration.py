"""How often the causal step is wrong: items drawn anew from the knockout tables of the organisms.

    python benchmarks/causal_calibration.py planted-0 decoy-0        # 200 studies each
    python benchmarks/causal_calibration.py null-0 --runs 20 --limit 106

A study draws the items of `matched` with replacement and takes their routing from one capture of
the organism and their damage from its committed table (`interp/organisms/<kind>/truth-<n>.npz`).
The damage of a set is chosen against the rule: the sum of its members' where none of them matters;
for `planted`, whose experts do together about what one of them does alone, that of the planted
member that hurts most on average, beside the sum of all others. What is counted is the causal step
alone: interaction above 0, above 95 % of 100 matched sets, and above every placebo contrast. A
verdict asks for the steps before it as well, so a false `causal` is rarer than the table says.
`null-<n>` is the table
of `planted-<n>` with conditions drawn by lot for each item. Seeds: `[n of the organism, number]`.
"""

import argparse
import json
import os
import sys
from collections.abc import Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # each process computes on one core
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy.stats import binomtest

from interp import organisms
from interp.analyses.causal_test import additive_damage
from interp.analyses.evidence import Rule
from interp.analyses.ladder import causal_steps
from interp.cache.reader import open_store
from interp.experiment_pipeline import run_pipeline
from interp.experiment_settings import PipelineSettings
from interp.experiment_subjects import Subjects
from interp.hooks.capture import capture
from interp.hooks.settings import CaptureSettings
from interp.organisms.knockout_table import KnockoutTable, load_table
from interp.prompts import load_prompts

MODEL_OF = {"null": "planted"}
"""Organisms that are prompts with other labels, and the model that they are shown to."""


@cache
def known(name: str, folder: Path, limit: int | None) -> tuple[Subjects, KnockoutTable, np.ndarray]:
    """The routing of an organism on `matched`, its table, and where each prompt stands in it."""
    kind, _, seed = name.partition("-")
    of = MODEL_OF.get(kind, kind)
    table = load_table(Path(organisms.__file__).parent / of / f"truth-{seed}.npz")
    path = folder / f"{of}-{seed}-{limit or 'all'}.moe"
    if not path.exists():
        wanted = set(table.prompt_id.tolist())
        suite = load_prompts("matched", limit=limit)
        prompts = [each for each in suite if each.prompt_id in wanted]
        settings = CaptureSettings(sites=("expert_indices",), logprobs=True)
        capture(organisms.load_model(f"{of}-{seed}"), prompts, path, settings=settings)
    subjects = Subjects.of_store(open_store(path))
    place = {prompt_id: row for row, prompt_id in enumerate(table.prompt_id.tolist())}
    return subjects, table, np.array([place[each] for each in subjects.prompts["prompt_id"]])


def run(name: str, number: int, folder: Path, limit: int | None) -> dict[str, object]:
    """One study: which of its causal steps hold, and which of the planted experts were found."""
    subjects, table, place = known(name, folder, limit)
    kind, _, seed = name.partition("-")
    rng = np.random.default_rng([int(seed), number])
    items = subjects.prompts["item_id"].to_numpy(dtype=str)
    names = np.unique(items)
    drawn = rng.integers(len(names), size=len(names))
    rows = [np.flatnonzero(items == names[item]) for item in drawn]
    copies = [f"{items[each[0]]} {copy}" for copy, each in enumerate(rows)]
    row = np.concatenate(rows)
    study = subjects.take(row, item_id=np.repeat(copies, [len(each) for each in rows]))
    if kind == "null":
        study = with_labels_by_lot(study, rng)
    single = table.damage[:, :, place[row]].astype(float)
    planted = {(int(layer), int(expert)) for layer, expert in table.planted}
    spared = planted if kind == "planted" else set()
    # Placebo contrasts can only take a causal verdict back, so they wait for one.
    for with_placebos in (False, True):
        pipeline = run_pipeline(
            study,
            lambda sets: set_damage(single, sets, spared, layer_indices=study.layer_indices),
            outcome="content",
            intervention="reroute",
            settings=PipelineSettings(seed=number, with_placebos=with_placebos),
        )
        steps = causal_steps(pipeline.test.evidence(), Rule())
        if not all(step.holds for step in steps[:2]):
            break
    found = set(pipeline.test.main.experts)
    return {
        "organism": name,
        "run": number,
        "steps": [step.holds for step in steps],
        "is_causal": all(step.holds for step in steps),
        "n_found": len(found),
        "recall": len(found & planted) / max(len(planted), 1),
        "false_discoveries": len(found - planted) / max(len(found), 1),
    }


def set_damage(
    single: np.ndarray,
    sets: Sequence[Sequence[tuple[int, int]]],
    spared: Collection[tuple[int, int]],
    *,
    layer_indices: tuple[int, ...],
) -> np.ndarray:
    """Damage of each set on each prompt; of its members among `spared` only the worst counts."""
    mean = single.mean(axis=-1)
    kept = []
    for members in sets:
        inside = [each for each in members if each in spared]
        inside.sort(key=lambda each: mean[layer_indices.index(each[0]), each[1]])
        kept.append([each for each in members if each not in inside[:-1]])
    return additive_damage(single, kept, layer_indices=layer_indices)


def with_labels_by_lot(study: Subjects, rng: np.random.Generator) -> Subjects:
    """Conditions drawn for each item, half of the items each, whatever the wording."""
    items = study.prompts["item_id"].to_numpy(dtype=str)
    names = rng.permutation(np.unique(items))
    is_benchmark = np.isin(items, names[: len(names) // 2])
    condition = np.where(is_benchmark, "benchmark", "organic")
    return replace(study, prompts=study.prompts.assign(condition=condition))


def _job(job: tuple[str, int, Path, int | None]) -> dict[str, object]:
    return run(*job)


def records(out: Path) -> list[dict[str, object]]:
    """All runs in a file, none if there is no file."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def table_of(found: list[dict[str, object]]) -> str:
    """One line for each organism, with exact intervals (Clopper and Pearson 1934)."""
    lines = [
        "| organism | studies | causal step holds, % | recall of planted | false among found |",
        "|---" * 5 + "|",
    ]
    for name in dict.fromkeys(str(one["organism"]) for one in found):
        of = [one for one in found if one["organism"] == name]
        n, held = len(of), sum(bool(one["is_causal"]) for one in of)
        ends = binomtest(held, n).proportion_ci(method="exact")
        share = f"{100 * held / n:.1f} ({100 * ends.low:.1f} to {100 * ends.high:.1f})"
        recall, false = (
            f"{np.mean([float(str(one[field])) for one in of]):.3f}"
            for field in ("recall", "false_discoveries")
        )
        lines.append(f"| {name} | {n} | {share} | {recall} | {false} |")
    return "\n".join(lines)


def main() -> None:
    """Carry out what was asked, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("organisms", nargs="*")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--limit", type=int, help="items of matched to draw from; all if left out")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("causal"), help="for captures")
    parser.add_argument("--out", type=Path, default=Path("causal.jsonl"))
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    done = {(one["organism"], one["run"]) for one in records(options.out)}
    for name in options.organisms:
        known(name, options.folder, options.limit)  # captured once, before there are processes
    jobs = [
        (name, number, options.folder, options.limit)
        for name in options.organisms
        for number in range(options.runs)
        if (name, number) not in done
    ]
    with ProcessPoolExecutor(options.processes) as pool, options.out.open("a") as file:
        for record in pool.map(_job, jobs):
            file.write(json.dumps(record) + "\n")
            file.flush()
    print(table_of(records(options.out)))


if __name__ == "__main__":
    main()
