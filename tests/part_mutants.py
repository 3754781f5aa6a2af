"""Damage to parts: bytes changed at random, where need be with the checksums of HDF5 put right.

HDF5 checks its metadata with Bob Jenkins's lookup3: a flipped bit is found before it is believed.
A stranger would put the checksum right; so do three in five of these mutants.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

SUPERBLOCK = (0, 44)
SEARCHED = (b"FADB", b"BTHD", b"BTLF", b"BTIN", b"FRHP", b"EAHD", b"EAIB", b"OCHK")
LONGEST = 700
"""Bytes of a block that is searched for its end."""
TEMPTING = (0, 1, 2, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
MASK = 0xFFFFFFFF

READER = """
import hashlib, json, os, sys
import h5py, numpy
def taken(path):
    found = hashlib.sha256()
    def take(name, it):
        for key in sorted(it.attrs):
            found.update(key.encode() + str(it.attrs[key].dtype).encode())
            found.update(numpy.asarray(it.attrs[key]).tobytes())
        if isinstance(it, h5py.Dataset):
            found.update(f"{name}{it.shape}{it.dtype}".encode() + it[...].tobytes())
    with h5py.File(path) as part:
        take("/", part)
        part.visititems(take)
    return found.hexdigest()
for path in sys.stdin.read().splitlines():
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            said = taken(path)
        except Exception as error:
            said = "refused: " + type(error).__name__
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    said = os.read(reading, 4096).decode()
    os.close(reading)
    _, status = os.waitpid(process, 0)
    print(json.dumps(said if status == 0 else f"crash: {status}"), flush=True)
"""


def lookup3(data: bytes) -> int:
    """Bob Jenkins's hash of bytes, from 0, as HDF5 uses it for its metadata."""
    a = b = c = (0xDEADBEEF + len(data)) & MASK
    at, left = 0, len(data)
    while left > 12:
        a = (a + int.from_bytes(data[at : at + 4], "little")) & MASK
        b = (b + int.from_bytes(data[at + 4 : at + 8], "little")) & MASK
        c = (c + int.from_bytes(data[at + 8 : at + 12], "little")) & MASK
        a = ((a - c) & MASK) ^ _turned(c, 4)
        c = (c + b) & MASK
        b = ((b - a) & MASK) ^ _turned(a, 6)
        a = (a + c) & MASK
        c = ((c - b) & MASK) ^ _turned(b, 8)
        b = (b + a) & MASK
        a = ((a - c) & MASK) ^ _turned(c, 16)
        c = (c + b) & MASK
        b = ((b - a) & MASK) ^ _turned(a, 19)
        a = (a + c) & MASK
        c = ((c - b) & MASK) ^ _turned(b, 4)
        b = (b + a) & MASK
        at, left = at + 12, left - 12
    if not left:
        return c
    tail = data[at:].ljust(12, b"\0")
    a = (a + int.from_bytes(tail[:4], "little")) & MASK
    b = (b + int.from_bytes(tail[4:8], "little")) & MASK
    c = (c + int.from_bytes(tail[8:], "little")) & MASK
    for one, two, by in (("c", "b", 14), ("a", "c", 11), ("b", "a", 25), ("c", "b", 16),
                         ("a", "c", 4), ("b", "a", 14), ("c", "b", 24)):  # fmt: skip
        held = {"a": a, "b": b, "c": c}
        value = ((held[one] ^ held[two]) - _turned(held[two], by)) & MASK
        a, b, c = (value if one == name else held[name] for name in "abc")
    return c


def _turned(value: int, by: int) -> int:
    return ((value << by) | (value >> (32 - by))) & MASK


def blocks(data: bytes) -> list[tuple[int, int]]:
    """Start and end of the metadata that is followed by its checksum of 4 bytes."""
    found = [SUPERBLOCK, *((at, at + 24) for at in _places(data, b"FAHD"))]
    for at in _places(data, b"OHDR"):
        flags = data[at + 5]
        head = 6 + 16 * bool(flags & 32) + 4 * bool(flags & 16)
        width = 1 << (flags & 3)
        size = int.from_bytes(data[at + head : at + head + width], "little")
        found.append((at, at + head + width + size))
    for at in (each for name in SEARCHED for each in _places(data, name)):
        found += [(at, end) for end in range(at + 8, at + LONGEST) if _is_end(data, at, end)][:1]
    return sorted((at, end) for at, end in found if _is_end(data, at, end))


def _places(data: bytes, name: bytes) -> Iterator[int]:
    at = data.find(name)
    while at >= 0:
        yield at
        at = data.find(name, at + 4)


def _is_end(data: bytes, start: int, end: int) -> bool:
    return lookup3(data[start:end]) == int.from_bytes(data[end : end + 4], "little")


def repaired(data: bytearray, where: Iterable[tuple[int, int]]) -> bytes:
    """The same bytes with right checksums behind these blocks."""
    for start, end in where:
        data[end : end + 4] = lookup3(bytes(data[start:end])).to_bytes(4, "little")
    return bytes(data)


def patched(data: bytes, old: int, new: int) -> bytes:
    """Every occurrence of a number of 8 bytes in the metadata replaced, and checksums put right."""
    where, changed = blocks(data), bytearray(data)
    found = old.to_bytes(8, "little")
    assert any(found in data[start:end] for start, end in where)
    for start, end in where:
        changed[start:end] = data[start:end].replace(found, new.to_bytes(8, "little"))
    return repaired(changed, where)


def mutants(data: bytes, *, n: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`n` damaged copies of a part, and how each was damaged."""
    rng, where = np.random.default_rng(seed), blocks(data)
    kinds = ("metadata, repaired", "metadata", "data", "splice", "zeroed", "truncated")
    for _ in range(n):
        kind = str(rng.choice(kinds, p=(0.6, 0.1, 0.1, 0.08, 0.08, 0.04)))
        changed = bytearray(data)
        start, end = where[rng.integers(len(where))]
        if kind.startswith("metadata"):
            for _ in range(rng.integers(1, 4)):
                _scratch(changed, start, end, rng)
            yield kind, repaired(changed, [(start, end)] if "repaired" in kind else [])
        elif kind == "truncated":
            yield kind, bytes(changed[: rng.integers(len(data))])
        else:
            yield kind, _smeared(changed, kind, rng)


def _scratch(changed: bytearray, start: int, end: int, rng: np.random.Generator) -> None:
    """One flipped bit, one other byte, or one number that programs trip over."""
    at, how = int(rng.integers(start + 4, end)), rng.integers(3)
    if how == 0:
        changed[at] ^= 1 << int(rng.integers(8))
    elif how == 1:
        changed[at] = int(rng.integers(256))
    else:
        width = int(rng.choice((1, 2, 4, 8)))
        at = min(at, end - width)
        number = int(rng.choice(len(TEMPTING)))
        changed[at : at + width] = (TEMPTING[number] % 256**width).to_bytes(width, "little")


def _smeared(changed: bytearray, kind: str, rng: np.random.Generator) -> bytes:
    at, length = int(rng.integers(len(changed))), int(rng.integers(1, 600))
    if kind == "data":
        changed[at] ^= 1 << int(rng.integers(8))
    elif kind == "zeroed":
        at -= at % 512
        changed[at : at + 512] = bytes(len(changed[at : at + 512]))
    else:
        source = int(rng.integers(len(changed) - length))
        kept = len(changed[at : at + length])
        changed[at : at + kept] = changed[source : source + kept]
    return bytes(changed)


def read_back(parts: Iterable[bytes]) -> list[str]:
    """What h5py makes of parts, each read whole in a process of its own.

    A digest of all names, shapes and values; `refused: ...` for an exception; `crash: ...`.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, data in enumerate(parts):
            paths.append(Path(folder) / f"{number}.h5")
            paths[-1].write_bytes(data)
        said = subprocess.run(
            [sys.executable, "-c", READER],
            input="\n".join(map(str, paths)),
            capture_output=True,
            text=True,
            check=True,
            timeout=600,
        )
    return [json.loads(line) for line in said.stdout.splitlines()]
