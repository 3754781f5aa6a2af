"""Parts from strangers, audited in a process that may crash, hang or fill memory without harm.

    audited(path)

returns if the part may be read, and raises `StoreError` if not. What is audited is an open file,
not a name, so a part that is exchanged meanwhile is not what the verdict is about; whoever then
reads it by name must know that nobody else writes to the folder.
"""

import contextlib
import json
import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from interp.cache.errors import StoreError

ADVICE = "get the store again, from someone you trust"
START_SECONDS = 60
MAX_LINE = 4096
MAX_FAULT = 400
PARTS_PER_PROCESS = 128

_BOOT = (
    "import json, sys; sys.path[:], ours, below, files = json.loads(sys.argv[1]); "
    "import h5py, numpy; sys.path.insert(0, ours); import interp; interp.__path__.append(below); "
    "from interp.cache.audit_child import main; main(files)"
)
"""Finds this package where this process did, installed or not, without site packages' hooks."""
_KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH")
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "HDF5_PLUGIN_PRELOAD": "::"}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How the audit of one part ended."""

    fault: str
    """What is wrong with the part, as the rest of "it is not safe to open: ..."; empty if sound."""
    signal: int = 0
    """The signal that ended the audit; 0 if none."""
    cpu_seconds: float = 0.0
    """Processor time that it took."""
    peak_mib: int = 0
    """Most memory that it held, in MiB, that of Python and its packages included."""
    landlock: int = 0
    """Version of Landlock that confined it; 0 where the kernel has none."""


def audited(path: Path) -> None:
    """Audit a part from a stranger in a process of its own, which can open no file and no network.

    The process may take 2 s and 1 s more per 20 MB of the part, and 1 GB of memory; see
    `interp.cache.audit.audit_part` for what is looked at.

    Raises:
        StoreError: Naming the part and what was found, or how the audit ended without an answer.
    """
    audited_all([path])


def audited_all(paths: Sequence[Path]) -> None:
    """Audit several parts, a process for each; quicker than one call each.

    Raises:
        StoreError: For the first part that is not sound.
    """
    for start in range(0, len(paths), PARTS_PER_PROCESS):
        some = paths[start : start + PARTS_PER_PROCESS]
        with contextlib.ExitStack() as opened:
            files = [opened.enter_context(_opened(path)) for path in some]
            for path, verdict in zip(some, verdicts(files), strict=True):
                if verdict.fault:
                    raise StoreError(f"{path} is not safe to open: {verdict.fault}; {ADVICE}")


def verdicts(files: Sequence[int]) -> list[Verdict]:
    """Audit parts that are open for reading, as file descriptors, in this order.

    Raises:
        StoreError: If no audit can run on this system.
    """
    if os.name != "posix":
        raise StoreError(
            "parts from others cannot be audited on this system; open them on Linux or macOS, or "
            "with trusted=True if you trust who made them"
        )
    lines = _ask(files)
    started = _parsed(lines[0]) if lines else {}
    landlock = started.get("landlock")
    if not isinstance(landlock, int):
        raise StoreError(
            "the process that audits parts did not start; see that Python can start itself and "
            "import h5py there"
        )
    answers = [_parsed(line) for line in lines[1 : len(files) + 1]]
    answers += [{}] * (len(files) - len(answers))
    return [_verdict(answer, landlock) for answer in answers]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A file descriptor of a part, which is a plain file and no link to one."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    if path.is_symlink():
        raise StoreError(f"{path} is not safe to open: it is a symbolic link; {ADVICE}")
    try:
        file = os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise StoreError(f"{path} cannot be opened ({error.strerror}); {ADVICE}") from error
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise StoreError(f"{path} is not safe to open: it is no plain file; {ADVICE}")
        yield file
    finally:
        os.close(file)


def _ask(files: Sequence[int]) -> list[bytes]:
    """Run the audits; the lines that came back, complete ones only."""
    ours = Path(str(sys.modules["interp"].__file__)).absolute().parents[1]
    below = Path(__file__).absolute().parents[1]
    places = [[each for each in sys.path if each], str(ours), str(below), list(files)]
    command = [sys.executable, "-I", "-S", "-c", _BOOT, json.dumps(places)]
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    allowed = START_SECONDS + sum(_wall_seconds(os.fstat(file).st_size) for file in files)
    try:
        process = subprocess.Popen(  # noqa: S603 - this Python, with a fixed program
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=kept | _ENVIRONMENT,
            cwd="/",
            pass_fds=files,
            start_new_session=True,
        )
    except OSError as error:
        raise StoreError(f"the audit of parts did not start ({error.strerror})") from error
    with process:
        try:
            return _lines(process, limit=MAX_LINE * (len(files) + 1), seconds=allowed)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)


def _wall_seconds(n_bytes: int) -> int:
    """As in `interp.cache.audit_child`, which imports what this process need not."""
    return 30 + n_bytes // 4_000_000


def _lines(process: subprocess.Popen[bytes], *, limit: int, seconds: int) -> list[bytes]:
    """What a process says, until it ends, says too much or takes too long."""
    assert process.stdout is not None
    said, deadline = b"", time.monotonic() + seconds
    while len(said) <= limit:
        left = max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([process.stdout], [], [], left)
        more = os.read(process.stdout.fileno(), MAX_LINE) if ready else b""
        if not more:
            break
        said += more
    return said.split(b"\n")[:-1]


def _parsed(line: bytes) -> dict[str, object]:
    """A line as an object; an empty one where it is anything else."""
    try:
        found = json.loads(line) if len(line) <= MAX_LINE else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _verdict(answer: dict[str, object], landlock: int) -> Verdict:
    number, took, peak = answer.get("signal"), answer.get("cpu_seconds"), answer.get("peak_mib")
    ended = number if isinstance(number, int) else 0
    return Verdict(
        fault=_fault(answer, ended),
        signal=ended,
        cpu_seconds=float(took) if isinstance(took, int | float) else 0.0,
        peak_mib=peak if isinstance(peak, int) else 0,
        landlock=landlock,
    )


def _fault(answer: dict[str, object], ended: int) -> str:
    """The end of the sentence; empty only for an audit that ended well and found nothing."""
    if answer.get("late") is True or ended == getattr(signal, "SIGXCPU", -1):
        return "reading it takes longer than a part of this size may"
    if ended:
        names = {each.value: each.name for each in signal.Signals}
        return f"reading it crashes the reader ({names.get(ended, f'signal {ended}')})"
    fault = answer.get("fault")
    if not isinstance(fault, str) or answer.get("status") != 0:
        return "its audit ended without an answer"
    return "".join(each if each.isprintable() else "?" for each in fault[:MAX_FAULT])
