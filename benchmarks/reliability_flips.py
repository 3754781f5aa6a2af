"""Random damage to parts, indices and the manifest of a store, through `interp verify`.

Run by `benchmarks/reliability.py flips`.
"""

import argparse
import collections
import json
import time

import numpy as np
from reliability_children import (
    UNEXPECTED,
    Ended,
    Figures,
    Work,
    ended,
    everything,
    forked,
    prompts,
    scratch,
)

from interp.cache.verify import verify


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
