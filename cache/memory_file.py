"""A file in memory that a part is built in: one buffer, made once and used for every part."""

import io
from typing import Any

import numpy as np


class MemoryFile:
    """What h5py needs of a file, over a buffer of bytes that are zero until they are written.

    HDF5 leaves gaps in its files. Here they hold zeros, so that the same prompts give the same
    bytes, and no part holds anything of the one built before it.

    Args:
        capacity: Bytes to reserve; the buffer grows where a part needs more.
    """

    def __init__(self, capacity: int) -> None:
        self._bytes = np.zeros(max(capacity, 1), dtype=np.uint8)
        self._position = 0
        self._end = 0

    def content(self) -> memoryview:
        """All that was written; valid until the next write or `clear`."""
        return self._bytes.data[: self._end]

    def clear(self) -> None:
        """Forget what was written, and keep the memory."""
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
