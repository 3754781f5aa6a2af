"""Writing and reading residuals: ratios to raw files of the same bytes, interleaved in one run.

Run as `python benchmarks/store_speed.py`. Rows come in batches of 4096, `d_model` 2880, bfloat16,
as from a capture of gpt-oss-20b. Writing is compared with writing and hashing the same bytes in one
file, both synced; reading one layer with `np.fromfile`, both from the page cache, in alternating
order. Figures are medians of ratios: 1 is as fast as raw, 0.5 half as fast.

A virtual machine gives memory that is not used back to its host, and gets it anew slowly; so before
each of the two there is some memory that was used a moment ago (`--touch-gb`).
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from interp.cache.reader import open_store
from interp.cache.records import PROMPT_FIELDS, Layout, PromptActivations
from interp.cache.writer import StoreWriter

D_MODEL = 2880
ROWS = 4096
LAYOUT = Layout(
    n_layers=1,
    layer_indices=(0,),
    n_experts=32,
    top_k=4,
    d_model=D_MODEL,
    resid_sites=("resid_post",),
    resid_dtype="bfloat16",
)


def batch(seed: int) -> PromptActivations:
    """One prompt of 4096 tokens with random residuals and constant routing."""
    bits = np.random.default_rng(seed).integers(0, 2**16, (ROWS, D_MODEL), dtype=np.uint16)
    return PromptActivations(
        prompt=dict.fromkeys(PROMPT_FIELDS, "x") | {"condition": "organic"},
        text="",
        token_id=np.zeros(ROWS, dtype=np.int32),
        position=np.arange(ROWS, dtype=np.int32),
        segment=np.zeros(ROWS, dtype=np.uint8),
        generated=np.zeros(ROWS, dtype=bool),
        logprob=np.full(ROWS, np.nan, dtype=np.float32),
        expert_indices=np.tile(np.arange(4, dtype=np.uint8), (ROWS, 1, 1)),
        expert_weights=np.full((ROWS, 1, 4), 0.25, dtype=np.float32),
        resid={("resid_post", 0): bits},
    )


def write_store(path: Path, batches: list[PromptActivations], part_mb: float) -> None:
    """Through the writer."""
    with StoreWriter(path, layout=LAYOUT, provenance={}, part_mb=part_mb) as writer:
        for each in batches:
            writer.add(each)


def write_raw(path: Path, batches: list[PromptActivations]) -> None:
    """The residuals alone, one after the other, hashed on the way."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for each in batches:
            file.write(each.resid["resid_post", 0])
            digest.update(each.resid["resid_post", 0])
        file.flush()
        os.fsync(file.fileno())


def seconds(run: Callable[[], object]) -> float:
    """That one call takes; what it returns is freed outside."""
    start = time.perf_counter()
    kept = run()
    taken = time.perf_counter() - start
    del kept
    return taken


def peak_mib(run: Callable[[], object]) -> float:
    """Memory that a call takes at its peak, beyond what is in use before; of Linux."""

    def in_use(name: str) -> float:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return float(status.partition(f"{name}:")[2].split()[0]) / 1024

    before = in_use("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    run()
    return in_use("VmHWM") - before


def ratios(
    ours: Callable[[], object],
    raw: Callable[[], object],
    rounds: int,
    *,
    before: Callable[[], None],
) -> Iterator[float]:
    """Raw time over ours, in alternating order; `before` each run something is made ready."""
    for turn in range(rounds):
        taken = {}
        for run in (ours, raw) if turn % 2 else (raw, ours):
            before()
            taken[run] = seconds(run)
        yield taken[raw] / taken[ours]


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--part-mb", type=float, default=512.0)
    parser.add_argument("--touch-gb", type=int, default=4)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="store-speed-"))
    one = batch(0)
    batches = [one] * options.batches

    def touch() -> None:
        np.empty(options.touch_gb * 10**9, dtype=np.uint8).fill(1)

    def clear() -> None:
        """Deleted blocks are discarded when they are synced, which must not fall to the next."""
        shutil.rmtree(folder / "a.moe", ignore_errors=True)
        (folder / "a.bin").unlink(missing_ok=True)
        os.sync()
        touch()

    def ours() -> None:
        write_store(folder / "a.moe", batches, options.part_mb)

    def raw() -> None:
        write_raw(folder / "a.bin", batches)

    try:
        found = {"write": list(ratios(ours, raw, options.rounds, before=clear))}
        clear()
        raw()
        peak = peak_mib(ours)
        store, path = open_store(folder / "a.moe"), "resid/resid_post/layer_00"
        parts = [part.source for part in store._parts]
        found["read"] = list(
            ratios(
                lambda: [part.read(path) for part in parts],
                lambda: np.fromfile(folder / "a.bin", np.uint16),
                options.rounds,
                before=lambda: None,
            )
        )
    finally:
        shutil.rmtree(folder)
    medians = {name: statistics.median(each) for name, each in found.items()}
    print(json.dumps({"median": medians, "ratios": found, "writing_peak_mib": peak}, indent=1))


if __name__ == "__main__":
    main()
