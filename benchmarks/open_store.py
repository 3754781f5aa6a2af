"""Opening a store on this machine: seconds, median of 9, after one that is not counted.

Run as `python benchmarks/open_store.py --prompts 10000` in a checkout. The store is in the page
cache, as after it was captured or copied.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from interp.cache.reader import open_store
from tests.store_samples import sample, write


def opened_in(path: Path) -> float:
    """Seconds that one opening takes, and no reading behind it."""
    start = time.perf_counter()
    open_store(path)
    return time.perf_counter() - start


def main() -> None:
    """Write a store, open it, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--part-mb", type=float, default=512.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prompts = [sample(seed=seed, n_tokens=20) for seed in range(options.prompts)]
        path = write(Path(folder) / "s.moe", prompts, part_mb=options.part_mb)
        n_parts = len(list(path.glob("part-*.h5")))
        taken = [opened_in(path) for _ in range(options.rounds + 1)][1:]
    found = {"prompts": options.prompts, "parts": n_parts, "median_s": statistics.median(taken)}
    print(json.dumps(found | {"seconds": taken}, indent=1))


if __name__ == "__main__":
    main()
