"""A file in memory that a part is built in: one buffer, made once and used for every part."""

import hashlib
import io
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

HASHED_BYTES = 2**16
"""What HDF5 writes at once and is at least so large is a chunk, which it does not write again."""

KEPT_BYTES = 2**25 - 2**16
"""Of the largest block whose release tells glibc to keep freed blocks of its size (mallopt(3))."""


@dataclass(frozen=True)
class Digests:
    """Of some bytes."""

    sha256: str
    crc32: int


def digests(content: memoryview) -> Digests:
    """SHA-256, and the checksum that is fast to compare."""
    return Digests(hashlib.sha256(content).hexdigest(), zlib.crc32(content))


class MemoryFile:
    """What h5py needs of a file, over a buffer of bytes that are zero until they are written.

    HDF5 leaves gaps in its files. Here they hold zeros, so that the same prompts give the same
    bytes, and no part holds anything of the one built before it. Chunks are hashed beside the
    building, on another core.

    Args:
        capacity: Bytes to reserve; the buffer grows where a part needs more.
    """

    def __init__(self, capacity: int) -> None:
        # HDF5 takes and frees memory for each chunk. Until one such block was freed, the system
        # takes it back and hands it out anew, page by page: half of the time of building.
        np.empty(KEPT_BYTES, dtype=np.uint8)
        self._bytes = np.zeros(max(capacity, 1), dtype=np.uint8)
        self._position = 0
        self._end = 0
        self._threads = ThreadPoolExecutor(1)
        self._hashed: dict[tuple[int, int], Future[Digests]] = {}

    def content(self) -> memoryview:
        """All that was written; valid until the next write or `clear`."""
        return self._bytes.data[: self._end]

    def digests(self, offset: int, length: int) -> Digests:
        """Of the bytes at a place, which must not be written again."""
        known = self._hashed.get((offset, length))
        return known.result() if known else digests(self._bytes.data[offset : offset + length])

    def close(self) -> None:
        """Wait for what is being hashed; the file is of no use afterwards."""
        self._threads.shutdown()

    def clear(self) -> None:
        """Forget what was written, and keep the memory."""
        for each in self._hashed.values():
            each.result()
        self._hashed = {}
        self._bytes[: self._end] = 0
        self._position = self._end = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, and return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._end}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """The present position."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Bytes from the present position on; h5py wants this to be there, and uses `readinto`."""
        stop = self._end if size < 0 else min(self._position + size, self._end)
        found = self._bytes[self._position : stop].tobytes()
        self._position += len(found)
        return found

    def readinto(self, into: Any) -> int:
        """Fill `into` from the present position, and return how many bytes there were."""
        stop = min(self._position + len(into), self._end)
        n_bytes = max(stop - self._position, 0)
        into[:n_bytes] = self._bytes.data[self._position : self._position + n_bytes]
        self._position += n_bytes
        return n_bytes

    def write(self, content: Any) -> int:
        """Write at the present position."""
        stop = self._position + len(content)
        self._reserve(stop)
        self._bytes.data[self._position : stop] = content
        if len(content) >= HASHED_BYTES:
            place, written = (self._position, len(content)), self._bytes.data[self._position : stop]
            self._hashed[place] = self._threads.submit(digests, written)
        self._position = stop
        self._end = max(self._end, stop)
        return len(content)

    def truncate(self, size: int | None = None) -> int:
        """Cut or extend to `size`; what is beyond it becomes zero."""
        size = self._position if size is None else size
        self._reserve(size)
        self._bytes[size : self._end] = 0
        self._end = size
        return size

    def flush(self) -> None:
        """Nothing is held back."""

    def _reserve(self, size: int) -> None:
        if size > len(self._bytes):
            grown = np.zeros(max(size, len(self._bytes) * 5 // 4), dtype=np.uint8)
            grown[: self._end] = self._bytes[: self._end]
            self._bytes = grown
