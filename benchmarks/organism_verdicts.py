"""The rung that a whole study reaches on each organism, whose answer is known.

    python benchmarks/organism_verdicts.py planted-0 decoy-0 vocabulary-0 null-0
    python benchmarks/organism_verdicts.py --limit 78 planted-1

Each study is `interp run` on all of `matched`, in a folder of its own under `--folder`; one that is
there is not done again. `null-<n>` is the toy with conditions drawn by lot (seed n) for each item.
Of the `toy` itself the answer is not known.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd

from interp import organisms
from interp.organisms.knockout_table import load_table
from interp.organisms.null import null_labels
from interp.prompts import load_prompts
from interp.results import read_results
from interp.study_run import run_study

EXPECTED = {
    "planted": "causal",
    "decoy": "associational",
    "vocabulary": "surface",
    "null": "no_difference",
}
"""What is known of each kind of organism."""
WITH_EXPERIMENTS = ("planted", "decoy", "toy")
"""Kinds whose rung an experiment can change."""
STUDY = """model = "{model}"
prompts = [{prompts}]
{limit}
[capture]
sites = ["resid_post", "expert_indices", "expert_weights", "expert_output_norms"]
logprobs = true
"""
EXPERIMENTS = """
[experiments]
n_curves = 0
n_random = 0
n_noise = 0
with_patches = false
"""


def study_of(name: str, folder: Path, limit: int | None) -> Path:
    """Write the configuration of the study of one organism."""
    kind, _, seed = name.partition("-")
    model, prompts = name, '"matched"'
    if kind == "null":
        model, file = "toy", folder / f"{name}.jsonl"
        rng = np.random.default_rng(int(seed))
        drawn = null_labels(load_prompts("matched"), rng, design="within")
        lines = [json.dumps(asdict(each), ensure_ascii=False) for each in drawn]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        prompts = json.dumps(str(file))
    text = STUDY.format(
        model=model, prompts=prompts, limit="" if limit is None else f"limit = {limit}\n"
    )
    path = folder / f"{name}.toml"
    path.write_text(text + (EXPERIMENTS if kind in WITH_EXPERIMENTS else ""))
    return path


def row(name: str, folder: Path, limit: int | None) -> str:
    """Run one study; its line of the table."""
    run = run_study(study_of(name, folder, limit))
    results = read_results(run.results)
    expected = EXPECTED.get(name.partition("-")[0], "unknown")
    recall, false = recovered(name, results.experiment_candidates)
    cells = [name, expected, str(results.verdict["rung"]), recall, false]
    return f"| {' | '.join([*cells, str(results.verdict['sentence'])])} |"


def recovered(name: str, candidates: pd.DataFrame) -> tuple[str, str]:
    """Share of the planted experts that were found, and of the found that were not planted."""
    kind, _, seed = name.partition("-")
    table = Path(organisms.__file__).parent / kind / f"truth-{seed}.npz"
    if not table.is_file() or candidates.empty:
        return "", ""
    truth = {(int(layer), int(expert)) for layer, expert in load_table(table).planted}
    rows = candidates[candidates["is_found"].astype(bool)]
    found = set(zip(rows["layer"].astype(int), rows["expert"].astype(int), strict=True))
    recall = f"{len(found & truth) / len(truth):.2f}" if truth else ""
    return recall, f"{len(found - truth) / len(found):.2f}" if found else ""


def main() -> None:
    """Run what was asked and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("organisms", nargs="+")
    parser.add_argument("--folder", type=Path, default=Path("organism-studies"))
    parser.add_argument(
        "--limit", type=int, default=None, help="items of matched; all if not given"
    )
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    print("| organism | known | rung reached | recall | false among found | sentence |")
    print("|---" * 6 + "|")
    for name in options.organisms:
        print(row(name, options.folder, options.limit), flush=True)


if __name__ == "__main__":
    main()
