"""Damaged and forged parts through the audit of parts from strangers: what becomes of each.

Run as `python benchmarks/reliability_fuzz.py --mutants 5000 --seed 0` in a checkout. Six in ten
mutants have their metadata changed and its checksums put right, as a stranger would; the rest are
flipped bits, splices, zeroed pages and truncations. Each is audited in a process of its own. Those
that pass are then read whole by h5py, again in a process each, without limits.
"""

import argparse
import collections
import json
import os
import re
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from interp.cache.sandbox import Verdict, verdicts
from tests.hostile_parts import sound_part
from tests.part_mutants import mutants, read_back

BATCH = 100
Outcomes = list[tuple[str, Verdict, str]]
"""How each mutant was made, what the audit said, what reading it gave; empty if it was refused."""


def audit_all(parts: list[bytes], folder: Path) -> list[Verdict]:
    """The verdict on each of some parts."""
    files = []
    for data in parts:
        path = folder / "mutant.h5"
        path.write_bytes(data)
        files.append(os.open(path, os.O_RDONLY))
        path.unlink()
    try:
        return verdicts(files)
    finally:
        for file in files:
            os.close(file)


def outcomes(sound: bytes, *, n: int, seed: int, folder: Path) -> Outcomes:
    """Audit all mutants, and read those that pass."""
    found: Outcomes = []
    source = mutants(sound, n=n, seed=seed)
    while some := list(islice(source, BATCH)):
        judged = audit_all([data for _, data in some], folder)
        passed = [
            data for (_, data), verdict in zip(some, judged, strict=True) if not verdict.fault
        ]
        read = iter(read_back(passed))
        for (kind, _), verdict in zip(some, judged, strict=True):
            found.append((kind, verdict, "" if verdict.fault else next(read)))
    return found


def became(verdict: Verdict, read: str, original: str) -> str:
    """The outcome of one mutant in words."""
    if verdict.signal:
        return f"audit ended by signal {verdict.signal}"
    if "longer than" in verdict.fault or "more memory" in verdict.fault:
        return "audit out of time or memory"
    if "without an answer" in verdict.fault:
        return "audit without an answer"
    if verdict.fault:
        return "refused with a sentence"
    if read.startswith(("crash", "refused")):
        return f"passed, then {read.split(':')[0]} in reading"
    return "passed, read back equal" if read == original else "passed, read back different"


def table(found: Outcomes, original: str) -> dict[str, Any]:
    """Counts by outcome, in all and by kind of damage, and the most that an audit took."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for kind, verdict, read in found:
        for group in ("all", kind):
            counts[group][became(verdict, read, original)] += 1
    sentences = collections.Counter(re.sub(r"\d+", "N", each.fault)[:60] for _, each, _ in found)
    return {
        "outcomes": {group: dict(each.most_common()) for group, each in sorted(counts.items())},
        "most_cpu_seconds": max(each.cpu_seconds for _, each, _ in found),
        "most_memory_mib": max(each.peak_mib for _, each, _ in found),
        "landlock": found[0][1].landlock,
        "kinds_of_sentences": len(sentences),
    }


def main() -> None:
    """Make the mutants, audit them and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        sound = sound_part(Path(name)).read_bytes()
        (original,) = read_back([sound])
        found = outcomes(sound, n=options.mutants, seed=options.seed, folder=Path(name))
    shown = {"mutants": len(found), "part_bytes": len(sound)} | table(found, original)
    print(json.dumps(shown | {"seconds": round(time.monotonic() - start, 1)}, indent=1))


if __name__ == "__main__":
    main()
