"""Writers ended by SIGKILL, at random moments and at every step on the disk; then continued.

Run by `benchmarks/reliability.py kill`.
"""

import argparse
import collections
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from reliability_children import (
    Figures,
    Work,
    command,
    contents,
    ended,
    forked,
    import_capture,
    prompts,
    scratch,
)


def left_by(path: Path) -> str:
    """What a killed writer left, in words."""
    names = {each.name for each in path.iterdir()} if path.is_dir() else set()
    if any(name.endswith(".tmp") for name in names):
        return "a file not yet renamed"
    if "manifest.json" not in names:
        return "no manifest"
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    if manifest["complete"]:
        return "the complete store"
    if len(list(path.glob("part-*.h5"))) > len(manifest["parts"]):
        return "a part that no manifest names yet"
    return "some parts" if manifest["parts"] else "no part"


def sealed_share(path: Path, n_parts: int) -> float:
    """How much of the store is there already."""
    return len(list(path.glob("part-*.h5"))) / n_parts if path.is_dir() else 0.0


def killed(
    write: Callable[[Path], object],
    path: Path,
    whole: dict[str, bytes],
    *,
    n_parts: int,
    seconds: float,
    rng: np.random.Generator,
) -> Figures:
    """Kill a writer one to three times, continue, and compare."""
    left: list[str] = []
    n_kills = int(rng.integers(1, 4))
    for _ in range(n_kills):
        remaining = seconds * (1 - sealed_share(path, n_parts))
        child, output = forked(lambda: write(path))
        time.sleep(rng.uniform(0, remaining))
        os.kill(child, signal.SIGKILL)
        if ended(child, output).exit_code == -signal.SIGKILL:
            left.append(left_by(path))
    last = ended(*forked(lambda: write(path)))
    is_same = last.exit_code == 0 and contents(path) == whole
    said = "" if is_same else last.said[-300:] or "other bytes"
    return {"kills": n_kills, "left": left, "is_same": is_same, "said": said}


def killing_itself(write: Callable[[], object], number: int) -> object:
    """Write, and die at a step on the disk: before it if `number` is even, else after it.

    A write is then half done before, and done after.
    """
    n_steps = 0

    def watched(name: str, usual: Callable[..., Any]) -> Callable[..., Any]:
        def step(*given: Any, **options: Any) -> Any:
            nonlocal n_steps
            n_steps += 1
            if n_steps - 1 != number // 2:
                return usual(*given, **options)
            try:
                if number % 2:
                    usual(*given, **options)
                elif name == "write":
                    usual(given[0], given[1][: len(given[1]) // 2])
            finally:
                os.kill(os.getpid(), signal.SIGKILL)

        return step

    for name in ("mkdir", "posix_fallocate", "write", "fsync", "replace", "unlink", "rmdir"):
        setattr(os, name, watched(name, getattr(os, name)))
    return write()


def killed_at_every_step(work: Work, folder: Path) -> Figures:
    """One run for each moment before and after a step on the disk."""
    (folder / "unkilled").mkdir()
    work.write(folder / "unkilled" / "s.moe")
    whole = contents(folder / "unkilled" / "s.moe")
    found: Figures = {"moments": 0, "identical": 0}
    while True:
        path = folder / f"step-{found['moments']}" / "s.moe"
        path.parent.mkdir()
        number = found["moments"]
        first = ended(*forked(lambda p=path, n=number: killing_itself(lambda: work.write(p), n)))
        if first.exit_code == 0:
            return found
        found["moments"] += 1
        last = ended(*forked(lambda p=path: work.write(p)))
        found["identical"] += last.exit_code == 0 and contents(path) == whole
        shutil.rmtree(path.parent)


def random_kills(
    write: Callable[[Path], object], folder: Path, *, runs: int, rng: np.random.Generator
) -> Figures:
    """Runs that are killed at random moments and continued."""
    started = time.monotonic()
    first = ended(*forked(lambda: write(folder / "whole" / "s.moe")))
    seconds = time.monotonic() - started
    whole = contents(folder / "whole" / "s.moe")
    if first.exit_code != 0 or not whole:
        raise SystemExit(f"the store to compare with could not be written: {first.said}")
    n_parts = sum(name.endswith(".h5") for name in whole)
    found = []
    for run in range(runs):
        path = folder / str(run) / "s.moe"
        path.parent.mkdir()
        found.append(killed(write, path, whole, n_parts=n_parts, seconds=seconds, rng=rng))
        shutil.rmtree(path.parent)
    left = collections.Counter(each for run in found for each in run["left"])
    return {
        "runs": runs,
        "identical": sum(run["is_same"] for run in found),
        "parts": n_parts,
        "seconds_of_a_run": round(seconds, 3),
        "kills_sent": sum(run["kills"] for run in found),
        "kills_that_hit_a_running_writer": sum(len(run["left"]) for run in found),
        "runs_hit_at_least_once": sum(bool(run["left"]) for run in found),
        "left_behind": dict(left.most_common()),
        "failures": [run["said"] for run in found if not run["is_same"]][:5],
    }


def kill(options: argparse.Namespace) -> Figures:
    """Writers ended by SIGKILL, at random moments and at every step; then continued."""
    rng = np.random.default_rng(options.seed)
    small = Work(prompts=prompts(12, n_tokens=40), part_mb=0.03)
    large = Work(prompts=prompts(12, n_tokens=6000), part_mb=2.0)
    found: Figures = {}
    with scratch() as folder:
        for name, work in (("small parts", small), ("large parts", large)):
            within = folder / name
            (within / "whole").mkdir(parents=True)
            found[name] = random_kills(work.write, within, runs=options.runs // 2, rng=rng)
        found["every step"] = killed_at_every_step(
            Work(prompts=prompts(4, n_tokens=40), part_mb=0.03), folder
        )
        if options.commands:
            (folder / "command" / "whole").mkdir(parents=True)
            import_capture()
            runs = random_kills(command, folder / "command", runs=options.commands, rng=rng)
            found["interp capture toy"] = runs
    holds = all(
        each["identical"] == each.get("runs", each.get("moments")) for each in found.values()
    )
    return {"holds": holds} | found
