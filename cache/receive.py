"""Files that arrive in a folder: staged, verified, and swapped in with the manifest last.

An earlier store in the folder stays readable until all that is new lies beside it, verified. Then
its manifest gives way to one that is not complete, parts are renamed, and the new manifest comes
last. So whoever finds the same complete manifest before and after looking at the parts has seen one
store.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from interp.cache.durable import FULL, sync_folder, told_when_full, write_whole
from interp.cache.errors import InputError, StorageError, StoreError
from interp.cache.manifest import MANIFEST_NAME
from interp.cache.part import FORMAT, FORMAT_VERSION
from interp.cache.share_files import MOST_TEXT_BYTES, SharedFile, has_content, is_known

LOCK_NAME = ".lock"
ORIGIN_NAME = ".pulled"
"""Says where the store in the folder came from; what has none is somebody's own and is kept."""
_MARKER = json.dumps(
    {"format": FORMAT, "format_version": FORMAT_VERSION, "complete": False, "parts": []}
)


@dataclass(frozen=True, kw_only=True)
class Received:
    """What came into a folder, and what was there already."""

    moved: tuple[str, ...]
    kept: tuple[str, ...]
    bytes_moved: int


def receive(
    folder: Path,
    files: Sequence[SharedFile],
    blocks: Callable[[str], Iterator[bytes]],
    *,
    manifest: bytes,
    origin: str,
) -> Received:
    """Bring a store into a folder. A second call moves only what changed; a broken one continues.

    Args:
        folder: Made if it is not there.
        files: All files but the manifest.
        blocks: Gives the content of a file, piece by piece.
        manifest: As it will stand in the folder.
        origin: Where it comes from, without a revision.

    Raises:
        InputError: If something else is in the folder, or another process is writing to it.
        StoreError: If what arrives is not what the manifest says.
        StorageError: If there is no space left.
    """
    _expect_ours(folder, origin, manifest)
    lock = FileLock(folder / LOCK_NAME, timeout=0)
    try:
        with told_when_full(f"{folder} cannot be made, for there is no space"):
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
    except Timeout as error:
        raise InputError(
            f"another process is writing to {folder}; wait for it, or choose another folder"
        ) from error
    try:
        return _received(folder, files, blocks, manifest=manifest, origin=origin)
    finally:
        (folder / LOCK_NAME).unlink(missing_ok=True)
        lock.release()


def _received(
    folder: Path,
    files: Sequence[SharedFile],
    blocks: Callable[[str], Iterator[bytes]],
    *,
    manifest: bytes,
    origin: str,
) -> Received:
    if not (folder / ORIGIN_NAME).exists():
        write_whole(folder / ORIGIN_NAME, json.dumps({"from": origin}).encode())
    wanted = [each for each in files if not has_content(folder / each.name, each)]
    missing = [each for each in wanted if not has_content(staged_path(folder, each.name), each)]
    _expect_space(folder, sum(each.bytes for each in missing))
    moved = sum(_stage(folder, each, blocks(each.name)) for each in missing)
    _swap(folder, [each.name for each in wanted], manifest)
    _remove_stale(folder, {each.name for each in files})
    names = {each.name for each in missing}
    kept = tuple(each.name for each in files if each.name not in names)
    return Received(moved=tuple(sorted(names)), kept=kept, bytes_moved=moved)


def staged_path(folder: Path, name: str) -> Path:
    """Where a file lies until all are there."""
    return folder / f".{name}.tmp"


def _expect_ours(folder: Path, origin: str, manifest: bytes) -> None:
    """Only what an earlier call brought here may be replaced."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    path = folder / ORIGIN_NAME
    strange = [each.name for each in folder.iterdir() if each.is_symlink() or not _may_be(each)]
    if strange:
        raise InputError(f"{folder} holds something else ({min(strange)}); choose another folder")
    if not path.exists():
        if {each.name for each in folder.iterdir()} <= {LOCK_NAME}:
            return
        raise InputError(
            f"{folder} holds a store that did not come from elsewhere; choose another folder"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["from"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}); choose another folder") from error
    if found != origin:
        raise InputError(f"{folder} holds a store from {found}; choose another folder")


def _may_be(path: Path) -> bool:
    name = path.name
    staged = name.removeprefix(".").removesuffix(".tmp")
    is_staged = name == f".{staged}.tmp" and (is_known(staged) or staged == ORIGIN_NAME)
    is_ours = is_known(name) or is_staged or name in (LOCK_NAME, ORIGIN_NAME)
    return is_ours and path.is_file()


def _expect_space(folder: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise StorageError(
            f"{folder} has room for {free:,} bytes and {n_bytes:,} are to come; free some space, "
            "or choose another disk"
        )


def _stage(folder: Path, file: SharedFile, blocks: Iterator[bytes]) -> int:
    path = staged_path(folder, file.name)
    path.unlink(missing_ok=True)
    most = MOST_TEXT_BYTES if file.sha256 is None else file.bytes
    try:
        found = _written(path, blocks, most=most)
    except OSError as error:
        if error.errno not in FULL:
            raise
        path.unlink(missing_ok=True)
        raise StorageError(
            f"there is no space left for {file.name} in {folder} ({os.strerror(error.errno)}); "
            "free some and run the same again: what came before is kept"
        ) from error
    is_wrong = file.sha256 not in (None, found.sha256) or found.bytes > most
    if is_wrong:
        path.unlink()
        raise StoreError(
            f"{file.name} arrived with {found.bytes:,} bytes that are not what the manifest says; "
            "it was changed or damaged on the way, so run the same again"
        )
    return found.bytes


def _written(path: Path, blocks: Iterator[bytes], *, most: int) -> SharedFile:
    """Write at most one byte more than is wanted: enough to see that there is too much."""
    digest, n_bytes = hashlib.sha256(), 0
    with path.open("xb") as file:
        for block in blocks:
            kept = block[: most + 1 - n_bytes]
            file.write(kept)
            digest.update(kept)
            n_bytes += len(kept)
            if n_bytes > most:
                break
        file.flush()
        os.fsync(file.fileno())
    return SharedFile(name=path.name, bytes=n_bytes, sha256=digest.hexdigest())


def _swap(folder: Path, names: Sequence[str], manifest: bytes) -> None:
    path = folder / MANIFEST_NAME
    if not names and path.is_file() and path.read_bytes() == manifest:
        return
    if any(name.startswith(("part-", "usage")) for name in names):
        write_whole(path, _MARKER.encode())
    for name in names:
        staged_path(folder, name).replace(folder / name)
    sync_folder(folder)
    if not path.is_file() or path.read_bytes() != manifest:
        write_whole(path, manifest)


def _remove_stale(folder: Path, names: set[str]) -> None:
    """Parts of a longer store that was here before, and what an earlier call left."""
    for path in folder.iterdir():
        is_stale = is_known(path.name) and path.name not in names | {MANIFEST_NAME}
        if is_stale or (path.name.startswith(".") and path.name.endswith(".tmp")):
            path.unlink()
