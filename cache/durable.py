"""Files that are whole or not there: written under another name, synced, and renamed."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interp.cache.errors import InputError, StorageError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where a disk, a quota or a limit on files is full."""
BLOCK_BYTES = 2**20


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, before any work is done; make nothing.

    Raises:
        InputError: If it or what it lies in is a file, or may not be written to.
    """
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir():
        raise InputError(f"{there} is a file; give the name of a folder instead of {folder}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{there} may not be written to; give another folder instead of {folder}")


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that under its name there is all of it or what was there before.

    Its space is reserved first, so that a full disk is known before the first byte is written.

    Raises:
        StorageError: If there is no space for it.
    """
    staged = path.with_name(f".{path.name}.tmp")
    try:
        with told_when_full(f"{path} needs {len(content):,} bytes and there is no space for it"):
            _write(staged, memoryview(content))
            staged.replace(path)
            sync_folder(path.parent)
    finally:
        staged.unlink(missing_ok=True)


@contextmanager
def told_when_full(found: str) -> Iterator[None]:
    """Turn what the system says of a full disk into a sentence that begins with what was found.

    Raises:
        StorageError: If the body meets a disk, a quota or a limit that is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise StorageError(
            f"{found} ({os.strerror(error.errno)}); free some, or raise the limit, and run the "
            "same again: what was sealed before is kept"
        ) from error


def sync_folder(path: Path) -> None:
    """Make renames last through a power cut, where the system can do that for a folder."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, content: memoryview) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o666)
    try:
        if content and hasattr(os, "posix_fallocate"):
            _reserve(descriptor, len(content))
        written = 0
        while written < len(content):
            written += os.write(descriptor, content[written : written + BLOCK_BYTES])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reserve(descriptor: int, n_bytes: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, n_bytes)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
