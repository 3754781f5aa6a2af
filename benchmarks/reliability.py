"""What a store survives: killed writers, full disks, damage, readers and writers at once.

Run as `python benchmarks/reliability.py kill`, or `full`, `flips`, `readers`, in a checkout
with the extra `capture`. Each prints one JSON object, with exit code 1 if what docs/reliability.md
claims does not hold. All is done in forked processes, so that what crashes or hangs is counted.
"""

import argparse
import collections
import hashlib
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from interp.cache.errors import InputError, InterpError, StoreError
from interp.cache.reader import open_store
from interp.cache.records import PromptActivations
from interp.cache.sharing import pull, push
from interp.cache.verify import verify
from interp.cache.writer import StoreWriter
from tests.store_samples import PROVENANCE, RESID_LAYOUT, sample

PATIENCE_SECONDS = 60.0
"""What takes longer is counted as a hang."""
UNEXPECTED = 99
"""Exit code of a child that ended with an exception that nobody foresaw."""
Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a child ended."""

    said: str
    """Its output, or what was raised."""
    exit_code: int
    """Negative where a signal ended it."""
    is_hang: bool = False


@dataclass(frozen=True, kw_only=True)
class Work:
    """A store to be written."""

    prompts: Sequence[PromptActivations]
    part_mb: float

    def write(self, path: Path) -> None:
        """Write what is not there yet."""
        with StoreWriter(
            path, layout=RESID_LAYOUT, provenance=PROVENANCE, part_mb=self.part_mb
        ) as writer:
            for each in self.prompts[writer.n_prompts :]:
                writer.add(each)


def prompts(n: int, *, n_tokens: int, seed: int = 0) -> list[PromptActivations]:
    """Prompts of different length with random content."""
    return [
        sample(RESID_LAYOUT, seed=seed + each, n_tokens=n_tokens + seed + each) for each in range(n)
    ]


def forked(run: Callable[[], object]) -> tuple[int, int]:
    """Process id of a child that runs, and a descriptor with all that it says."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    code = UNEXPECTED
    try:
        os.close(reading)
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        result = run()
        os.write(1, b"" if result is None else str(result).encode())
        code = 0
    except InterpError as error:
        os.write(2, f"{type(error).__name__}: {error}".encode())
        code = error.exit_code
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def ended(child: int, reading: int, patience: float = PATIENCE_SECONDS) -> Ended:
    """Wait for a child, and end it where it hangs."""
    said, until, is_hang = bytearray(), time.monotonic() + patience, False
    while True:
        if not select.select([reading], [], [], max(until - time.monotonic(), 0))[0]:
            is_hang = True
            os.kill(child, signal.SIGKILL)
            break
        if not (block := os.read(reading, 2**16)):
            break
        said += block
    os.close(reading)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ended(said=said.decode(errors="replace"), exit_code=status, is_hang=is_hang)


def contents(path: Path) -> dict[str, bytes]:
    """All files of a store but the time in its manifest; empty where there is no manifest."""
    files = {each.name: each.read_bytes() for each in path.iterdir()} if path.is_dir() else {}
    if "manifest.json" not in files:
        return {}
    manifest = json.loads(files["manifest.json"]) | {"created": ""}
    return files | {"manifest.json": json.dumps(manifest).encode()}


def everything(path: Path, *, trusted: bool | None = None, pause: float = 0.0) -> str:
    """Digest of all that a reader gives of a store, with pauses between."""
    store, digest = open_store(path, trusted=trusted), hashlib.sha256()

    def take(*values: np.ndarray) -> None:
        for each in values:
            digest.update(repr(each.shape).encode() + np.ascontiguousarray(each).tobytes())
        time.sleep(pause)

    digest.update(store.prompts.to_json().encode() + json.dumps(store.provenance).encode())
    take(store.token_id, store.position, store.segment, store.generated)
    take(store.logprob)
    routing = store.router()
    take(routing.expert_indices, routing.expert_weights)
    for site, layers in store.resid_layers.items():
        for layer in layers:
            found = store.resid(site, layer)
            take(found.values.view(np.uint32), found.token_index)
    for prompt in range(len(store.prompts)):
        digest.update(store.text(prompt).encode())
    return digest.hexdigest()


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="reliability-") as name:
        yield Path(name)


# ---- kill ---------------------------------------------------------------------------------------


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


# ---- full ---------------------------------------------------------------------------------------


def import_capture() -> None:
    """What a forked child then need not import."""
    import interp.cli
    import interp.hooks.capture
    import interp.organisms  # noqa: F401


def command(path: Path) -> None:
    """The command line, on the toy."""
    import torch

    from interp.cli import main as interp_main

    torch.set_num_threads(1)
    words = "capture toy --prompts matched --limit 2 --positions all --part-mb 0.4 --out"
    interp_main([*words.split(), str(path)])


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


# ---- flips --------------------------------------------------------------------------------------


def damaged(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """How a file was damaged, and the file; never what it was."""
    kind = str(
        rng.choice(["one bit", "eight bits", "zeroed page", "truncated"], p=[0.5, 0.2, 0.15, 0.15])
    )
    changed = bytearray(content)
    if kind == "truncated":
        return kind, content[: int(rng.integers(0, len(content)))]
    if kind == "zeroed page":
        start = int(rng.integers(0, len(content))) // 4096 * 4096
        changed[start : start + 4096] = bytes(len(changed[start : start + 4096]))
    for place in rng.integers(0, 8 * len(content), {"one bit": 1, "eight bits": 8}.get(kind, 0)):
        changed[place // 8] ^= 1 << int(place % 8)
    return (kind, bytes(changed)) if changed != content else damaged(content, rng)


def became(end: Ended) -> str:
    """The outcome of a check of a damaged store."""
    if end.is_hang:
        return "hang"
    if end.exit_code < 0:
        return f"crash by signal {-end.exit_code}"
    if end.exit_code == UNEXPECTED:
        return f"unforeseen {end.said.strip().splitlines()[-1][:80]}"
    return {0: "passed"}.get(end.exit_code, "refused")


def is_time(sound: bytes, changed: bytes) -> bool:
    """Whether a manifest differs in nothing but the time it gives, which nothing else repeats."""
    try:
        found = json.loads(changed)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found | {"created": json.loads(sound)["created"]} == (
        json.loads(sound)
    )


def flips(options: argparse.Namespace) -> Figures:
    """Random damage to parts, indices and the manifest of a store, through `verify`."""
    rng = np.random.default_rng(options.seed)
    outcomes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    free: collections.Counter[str] = collections.Counter()
    missed, n_damaged, slowest = [], 0, 0.0
    with scratch() as folder:
        path = folder / "s.moe"
        Work(prompts=prompts(12, n_tokens=40), part_mb=0.03).write(path)
        sound_digest = everything(path)
        groups = {
            "part": sorted(path.glob("part-*.h5")),
            "index": sorted(path.glob("part-*.json")),
            "manifest": [path / "manifest.json"],
        }
        while n_damaged < options.damages:
            group = str(rng.choice(["part", "index", "manifest"], p=[0.6, 0.2, 0.2]))
            file = groups[group][int(rng.integers(0, len(groups[group])))]
            sound = file.read_bytes()
            kind, changed = damaged(sound, rng)
            is_free = group == "manifest" and is_time(sound, changed)
            file.write_bytes(changed)
            started = time.monotonic()
            verified = ended(*forked(lambda: verify(path) and None))
            slowest = max(slowest, time.monotonic() - started)
            outcome = became(verified)
            if is_free:
                free[outcome] += 1
            else:
                n_damaged += 1
                outcomes[f"{group}, {kind}"][outcome] += 1
                if outcome != "refused":
                    missed.append(_missed(file.name, kind, outcome, sound, changed))
                read = ended(*forked(lambda: everything(path)))
                seen = became(read)
                if seen == "passed":
                    seen = "read equal" if read.said == sound_digest else "read different"
                outcomes[f"{group}, read without verify"][seen] += 1
            file.write_bytes(sound)
    by_verify = [each for name, each in outcomes.items() if "without" not in name]
    n_refused = sum(each["refused"] for each in by_verify)
    return {
        "holds": n_refused == options.damages,
        "damages": options.damages,
        "detected": n_refused,
        "outcomes": {name: dict(each) for name, each in sorted(outcomes.items())},
        "not_detected": missed[:20],
        "besides_in_the_time_alone": dict(free.most_common()),
        "slowest_seconds": round(slowest, 2),
    }


def _missed(name: str, kind: str, outcome: str, sound: bytes, changed: bytes) -> str:
    first = next((i for i, (a, b) in enumerate(zip(sound, changed, strict=False)) if a != b), -1)
    around = slice(max(first - 30, 0), first + 30)
    return f"{name}, {kind}: {outcome}; {sound[around]!r} became {changed[around]!r}"


# ---- readers ------------------------------------------------------------------------------------


def reading(path: Path, stop: Path, known: dict[str, int], *, trusted: bool, pause: float) -> str:
    """Read again and again until told to stop; what came of it, as JSON."""
    found: collections.Counter[str] = collections.Counter()
    versions = set()
    while not stop.exists():
        try:
            digest = everything(path, trusted=trusted, pause=pause)
        except (StoreError, InputError) as error:
            found[f"refused, {type(error).__name__}"] += 1
            time.sleep(0.01)
        except Exception as error:  # what must not happen is counted
            found[f"unforeseen {type(error).__name__}: {error}"[:120]] += 1
        else:
            found["whole" if digest in known else "torn"] += 1
            versions.add(known.get(digest, -1))
    return json.dumps({"found": found, "versions": sorted(versions)})


def republished(options: argparse.Namespace, folder: Path) -> Figures:
    """Readers of two folders that are replaced by a push and a pull."""
    stores, known = [], {}
    for version in range(options.republishes + 1):
        path = folder / f"v{version}" / "s.moe"
        some = prompts(5 + version % 3, n_tokens=40, seed=100 * version)
        Work(prompts=some, part_mb=0.03).write(path)
        stores.append(path)
        known[everything(path)] = version
    shared, copy, stop = folder / "shared", folder / "copy", folder / "stop"
    push(stores[0], str(shared))
    pull(str(shared), copy)
    children = [
        forked(
            lambda n=number: reading(
                (shared, copy)[n % 2],
                stop,
                known,
                trusted=n % 4 < 2,
                pause=0.02 if n >= 4 else 0.0,
            )
        )
        for number in range(options.readers)
    ]
    for store in stores[1:]:
        time.sleep(options.seconds_between)
        push(store, str(shared))
        pull(str(shared), copy)
    time.sleep(options.seconds_between)
    stop.touch()
    ends = [ended(*child) for child in children]
    counts: collections.Counter[str] = collections.Counter()
    for each in ends:
        counts.update(json.loads(each.said)["found"] if each.exit_code == 0 else {each.said: 1})
    seen = {version for each in ends for version in json.loads(each.said)["versions"]}
    return {
        "readers": options.readers,
        "republishes": options.republishes,
        "versions_seen": len(seen),
        "reads": dict(counts.most_common()),
        "least_whole_reads_of_a_reader": min(json.loads(e.said)["found"]["whole"] for e in ends),
    }


def two_writers(work: Work, path: Path, whole: dict[str, bytes]) -> bool:
    """Whether of two that begin at once one is refused, and the other writes the store."""
    begin, go = os.pipe(), os.pipe()

    def write() -> None:
        os.close(begin[1])
        os.close(go[1])
        os.read(begin[0], 1)
        with StoreWriter(
            path, layout=RESID_LAYOUT, provenance=PROVENANCE, part_mb=work.part_mb
        ) as writer:
            os.read(go[0], 1)
            for each in work.prompts:
                writer.add(each)

    children = [forked(write) for _ in range(2)]
    os.close(begin[1])
    readable = select.select([each for _, each in children], [], [], PATIENCE_SECONDS)[0]
    os.close(go[1])
    is_early = len(readable) == 1
    ends = sorted((ended(*child) for child in children), key=lambda each: each.exit_code)
    for descriptor in (begin[0], go[0]):
        os.close(descriptor)
    is_refused = ends[1].exit_code == 2 and "another process is writing" in ends[1].said
    return is_early and is_refused and ends[0].exit_code == 0 and contents(path) == whole


def handing_over(path: Path, sentinel: Path, n: int) -> str:
    """Begin to write and give up, again and again; what came of it, as JSON."""
    found: collections.Counter[str] = collections.Counter()
    for _ in range(n):
        try:
            with StoreWriter(path, layout=RESID_LAYOUT, provenance=PROVENANCE):
                os.close(os.open(sentinel, os.O_CREAT | os.O_EXCL))
                sentinel.unlink()
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            found["wrote"] += 1
        except InputError:
            found["refused"] += 1
        except FileExistsError as error:
            is_ours = error.filename == str(sentinel)
            found["two at once" if is_ours else f"unforeseen {error}"] += 1
        except Exception as error:  # what must not happen is counted
            found[f"unforeseen {type(error).__name__}: {error}"[:160]] += 1
    return json.dumps(found)


def readers(options: argparse.Namespace) -> Figures:
    """Readers during republishes, two writers at once, and writers that take turns."""
    work = Work(prompts=prompts(12, n_tokens=40), part_mb=0.03)
    with scratch() as folder:
        found = republished(options, folder)
        work.write(folder / "whole" / "s.moe")
        whole = contents(folder / "whole" / "s.moe")
        refused = sum(
            two_writers(work, folder / f"two-{turn}" / "s.moe", whole)
            for turn in range(options.writers)
        )
        place = folder / "turns" / "s.moe"
        children = [forked(lambda: handing_over(place, folder / "held", 300)) for _ in range(4)]
        turns: collections.Counter[str] = collections.Counter()
        for child in children:
            turns.update(json.loads(ended(*child).said))
    is_right = set(found["reads"]) <= {"whole", "refused, StoreError", "refused, InputError"}
    return {
        "holds": is_right
        and found["least_whole_reads_of_a_reader"] > 0
        and refused == options.writers
        and set(turns) <= {"wrote", "refused"},
        "republishing": found,
        "two_writers": {"turns": options.writers, "second_refused_and_store_right": refused},
        "writers_taking_turns": dict(turns.most_common()),
    }


def main() -> None:
    """Run one of them, print one JSON object, and fail where a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_subparsers(required=True)
    sizes: dict[Callable[..., Figures], dict[str, float]] = {
        kill: {"runs": 200, "commands": 10, "seed": 0},
        full: {"sizes": 20},
        flips: {"damages": 2000, "seed": 0},
        readers: {"readers": 8, "republishes": 20, "seconds_between": 1.5, "writers": 20},
    }
    for run, defaults in sizes.items():
        each = which.add_parser(run.__name__, description=run.__doc__)
        each.set_defaults(run=run)
        for name, value in defaults.items():
            each.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args()
    started = time.monotonic()
    found = options.run(options)
    print(json.dumps(found | {"seconds": round(time.monotonic() - started, 1)}, indent=1))
    sys.exit(0 if found["holds"] else 1)


if __name__ == "__main__":
    main()
