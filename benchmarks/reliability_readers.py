"""Readers of stores that are replaced, two writers at once, and writers that take turns.

Run by `benchmarks/reliability.py readers`.
"""

import argparse
import collections
import json
import os
import select
import time
from pathlib import Path

from reliability_children import (
    PATIENCE_SECONDS,
    Figures,
    Work,
    contents,
    ended,
    everything,
    forked,
    prompts,
    scratch,
)

from interp.cache.errors import InputError, StoreError
from interp.cache.sharing import pull, push
from interp.cache.writer import StoreWriter
from tests.store_samples import PROVENANCE, RESID_LAYOUT


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
