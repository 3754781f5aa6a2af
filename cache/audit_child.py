"""The process that audits parts: it gives up what it does not need, then forks once per part.

Started by `interp.cache.sandbox` with open files and nothing else. It opens no file: Landlock
(where the kernel has it) and a limit of no further open files see to that, the latter also where
there is no Landlock. It says one JSON line per part.
"""

import codecs
import contextlib
import ctypes
import io
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from interp.cache.audit import audit_file
from interp.cache.errors import StoreError

MEMORY_BYTES = 2**30
CPU_SECONDS = 2
BYTES_PER_SECOND = 20_000_000
"""A part that has this many bytes may take a second more."""
MAX_ANSWER = 2048
"""Bytes that the audit of one part may say."""

LANDLOCK_CREATE, LANDLOCK_RESTRICT = 444, 446
LANDLOCK_VERSION_FLAG = 1
NO_NEW_PRIVILEGES, PARENT_DEATH_SIGNAL = 38, 1
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""Number of rights over files that each version of Landlock knows; 16 from version 5."""


def cpu_seconds(n_bytes: int) -> int:
    """Seconds of processor time that the audit of a part may take."""
    return CPU_SECONDS + n_bytes // BYTES_PER_SECOND


def wall_seconds(n_bytes: int) -> int:
    """Seconds on the clock that it may take, on a machine that does other things too."""
    return 10 + 4 * cpu_seconds(n_bytes)


def main(files: Sequence[int]) -> None:
    """Audit the parts with these file descriptors; one line for what confines, one for each."""
    os.umask(0o777)
    limit("RLIMIT_CORE", 0)
    limit("RLIMIT_FSIZE", 0)
    codecs.lookup("ascii")  # h5py asks for it, and no file can be opened from here on
    _say({"landlock": confine()})
    for file in files:
        _say(_judge(file, files))


def confine() -> int:
    """Take from this process all files and networks that it has not open; version of Landlock.

    Returns:
        0 where the kernel has no Landlock; the limits on open files then stand alone.
    """
    if not sys.platform.startswith("linux"):
        return 0
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    version = int(library.syscall(LANDLOCK_CREATE, None, 0, LANDLOCK_VERSION_FLAG))
    if version < 1:
        return 0
    files = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    handled = (ctypes.c_uint64 * 3)(files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = ctypes.c_size_t(8 if version < 4 else 16 if version < 6 else 24)
    ruleset = int(library.syscall(LANDLOCK_CREATE, ctypes.byref(handled), size, 0))
    if ruleset < 0 or library.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        return 0
    refused = library.syscall(LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)
    return 0 if refused else version


def limit(name: str, value: int, *, beyond: int = 0) -> None:
    """Lower a limit of this process, the hard one to `beyond` more; systems lack some of them."""
    if hasattr(resource, name):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (value, value + beyond))


def _judge(file: int, files: Sequence[int]) -> dict[str, Any]:
    """Audit one part in a fork; what it said, or how it ended, and what it took."""
    n_bytes = os.fstat(file).st_size
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        _audit(file, writing, n_bytes, others=[each for each in files if each != file])
    os.close(writing)
    deadline = time.monotonic() + wall_seconds(n_bytes)
    said = _read_answer(reading, deadline)
    os.close(reading)
    status, usage, late = _wait(process, deadline)
    return {
        "fault": _fault(said),
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "status": os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0,
        "late": late,
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_mib": usage.ru_maxrss // (2**10 if sys.platform != "darwin" else 2**20),
    }


def _audit(file: int, answer: int, n_bytes: int, *, others: Sequence[int]) -> None:
    """In the fork: limits, the audit, its answer. Never returns."""
    status = 70
    try:
        for each in (0, 1, *others):
            os.close(each)
        for name, value in (("AS", MEMORY_BYTES), ("NOFILE", 0), ("NPROC", 0)):
            limit(f"RLIMIT_{name}", value)
        limit("RLIMIT_CPU", cpu_seconds(n_bytes), beyond=1)
        os.write(answer, json.dumps({"fault": _audited(file)}).encode()[:MAX_ANSWER])
        status = 0
    finally:
        os._exit(status)


def _audited(file: int) -> str:
    """The fault of a part; empty if it is sound."""
    try:
        audit_file(io.FileIO(file, closefd=False))
    except StoreError as error:
        return str(error)
    except Exception as error:  # whatever it is, a part that causes it is refused
        return f"it cannot be read ({type(error).__name__})"
    return ""


def _read_answer(source: int, deadline: float) -> bytes:
    said = b""
    while len(said) <= MAX_ANSWER:
        ready, _, _ = select.select([source], [], [], max(0.0, deadline - time.monotonic()))
        more = os.read(source, MAX_ANSWER + 1) if ready else b""
        if not more:
            break
        said += more
    return said


def _wait(process: int, deadline: float) -> tuple[int, resource.struct_rusage, bool]:
    """Wait for a fork, and end it at the deadline; its status, usage, whether it was late."""
    while time.monotonic() < deadline:
        ended, status, usage = os.wait4(process, os.WNOHANG)
        if ended:
            return status, usage, False
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)
    _, status, usage = os.wait4(process, 0)
    return status, usage, True


def _fault(said: bytes) -> str | None:
    """What the fork answered; None where that is no answer."""
    try:
        fault = json.loads(said)["fault"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return fault if isinstance(fault, str) and len(said) <= MAX_ANSWER else None


def _say(line: dict[str, Any]) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")
