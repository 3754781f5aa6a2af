"""The command line where there is too little space, and again where there is.

Run by `benchmarks/reliability.py full`.
"""

import argparse
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from reliability_children import (
    Ended,
    Figures,
    command,
    contents,
    ended,
    forked,
    import_capture,
    scratch,
)


def limited(path: Path, n_bytes: int) -> None:
    """The command with a limit on the size of a file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
    command(path)


def fault_of(first: Ended, last: Ended, *, is_same: bool) -> str:
    """What is wrong with a run on a full disk and the one after it; empty if nothing is."""
    sentences = [line for line in first.said.replace("\r", "\n").splitlines() if "interp: " in line]
    if first.exit_code != 5:
        return f"exit code {first.exit_code}, expected 5: {first.said[-300:]}"
    if len(sentences) != 1 or "Traceback" in first.said:
        return f"{len(sentences)} sentences: {first.said[-300:]}"
    if last.exit_code != 0:
        return f"continued with exit code {last.exit_code}: {last.said[-300:]}"
    return "" if is_same else "other bytes"


@contextmanager
def small_disk(at: Path, size: str) -> Iterator[None]:
    """A file system in memory of so many bytes."""
    at.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(at)]
    subprocess.run(mount, check=True, capture_output=True)  # noqa: S603
    try:
        yield
    finally:
        subprocess.run(["umount", str(at)], check=True)  # noqa: S603, S607


def on_small_disk(folder: Path, options: str, whole: dict[str, bytes]) -> tuple[str, int]:
    """The fault of one run on a disk that is too small, and how many parts it had sealed."""
    disk = folder / "disk"
    with small_disk(disk, options):
        first = ended(*forked(lambda: command(disk / "s.moe")))
        n_sealed = len(list(disk.glob("s.moe/part-*.h5")))
        larger = ["mount", "-o", "remount,size=64m,nr_inodes=1000", str(disk)]
        subprocess.run(larger, check=True)  # noqa: S603
        last = ended(*forked(lambda: command(disk / "s.moe")))
        fault = fault_of(first, last, is_same=contents(disk / "s.moe") == whole)
    disk.rmdir()
    return fault, n_sealed


def on_small_disks(folder: Path, whole: dict[str, bytes], n_sizes: int) -> Figures:
    """Disks of 4 kB to 4 kB less than the store takes, and disks without a free inode."""
    pages = sum(-(-len(each) // 4096) for each in whole.values())
    sizes = np.linspace(1, pages - 1, n_sizes).astype(int) * 4096
    try:
        with small_disk(folder / "try", "size=4096"):
            pass
    except (OSError, subprocess.CalledProcessError) as error:
        return {"sizes": 0, "right": 0, "not_possible": str(error)}
    settings = [f"size={size}" for size in sizes] + [f"nr_inodes={each}" for each in range(1, 7)]
    found = [on_small_disk(folder, each, whole) for each in settings]
    faults = {each: fault for each, (fault, _) in zip(settings, found, strict=True) if fault}
    return {
        "sizes": n_sizes,
        "right": n_sizes - sum(each.startswith("size") for each in faults),
        "from_bytes": int(sizes[0]),
        "to_bytes": int(sizes[-1]),
        "parts_sealed_before": [n for _, n in found[:n_sizes]],
        "numbers_of_inodes": len(settings) - n_sizes,
        "right_with_few_inodes": len(settings) - n_sizes - sum("inodes" in each for each in faults),
        "faults": faults,
    }


def with_file_limits(folder: Path, whole: dict[str, bytes], n_sizes: int) -> Figures:
    """Half of the limits evenly spread, half one byte below the size of one of the files."""
    lengths = sorted(len(each) for each in whole.values())
    even = np.linspace(1, lengths[-1] - 1, n_sizes // 2).astype(int).tolist()
    below = [length - 1 for length in lengths[-(n_sizes - n_sizes // 2) :]]
    faults, sealed = {}, []
    for number, size in enumerate([*even, *below]):
        path = folder / f"limit-{number}" / "s.moe"
        path.parent.mkdir()
        first = ended(*forked(lambda p=path, n=size: limited(p, n)))
        sealed.append(len(list(path.glob("part-*.h5"))))
        last = ended(*forked(lambda p=path: command(p)))
        fault = fault_of(first, last, is_same=contents(path) == whole)
        faults |= {size: fault} if fault else {}
    return {
        "sizes": n_sizes,
        "right": n_sizes - len(faults),
        "parts_sealed_before": sealed,
        "faults": faults,
    }


def full(options: argparse.Namespace) -> Figures:
    """The command line on the toy where there is too little space, and again where there is."""
    import_capture()
    with scratch() as folder:
        (folder / "whole").mkdir()
        first = ended(*forked(lambda: command(folder / "whole" / "s.moe")))
        whole = contents(folder / "whole" / "s.moe")
        if not whole:
            raise SystemExit(f"the store to compare with could not be written: {first.said}")
        found: Figures = {
            "files": len(whole),
            "bytes": sum(map(len, whole.values())),
            "file limit": with_file_limits(folder, whole, options.sizes),
            "small disk": on_small_disks(folder, whole, options.sizes),
        }
    disk = found["small disk"]
    holds = found["file limit"]["right"] == options.sizes and not disk.get("faults")
    return {"holds": holds} | found
