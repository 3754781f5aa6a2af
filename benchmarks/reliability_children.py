"""What the reliability benchmarks share: stores to write, and children whose end is told apart."""

import hashlib
import json
import os
import select
import signal
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

from interp.cache.errors import InterpError
from interp.cache.reader import open_store
from interp.cache.records import PromptActivations
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
