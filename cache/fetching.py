"""Bytes of a store that lies elsewhere: small files whole, parts in ranges, each try bounded.

Nothing is cached here and no cache of fsspec is in use: those were found to serve stale bytes, and
a mix of two versions, of a file that was replaced.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from interp.cache.errors import InputError, StoreError

CONCURRENT = 8
"""Requests under way at once."""


class MissingFileError(StoreError):
    """A file of the store is not there."""


class UnsteadyError(Exception):
    """A try that may go well if it is made again.

    Args:
        found: What happened, for a sentence.
        wait_s: Seconds that the server asks to wait.
    """

    def __init__(self, found: str, *, wait_s: float = 0.0) -> None:
        super().__init__(found)
        self.wait_s = wait_s


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a server may take, and how often it is asked again."""

    attempts: int = 4
    """Tries for each range, the first included."""
    first_wait_s: float = 0.5
    """Seconds before the second try; doubled before each one after that."""
    longest_wait_s: float = 30.0
    """Seconds that a server can ask to wait, at most."""
    silence_s: float = 30.0
    """Seconds without a byte after which a try has failed."""
    least_bytes_per_s: float = 16_384.0
    """A try that is slower than this, after `silence_s`, has failed."""

    def deadline_s(self, n_bytes: int) -> float:
        """Seconds that a try for so many bytes may take in all."""
        return self.silence_s + n_bytes / self.least_bytes_per_s


@runtime_checkable
class Fetcher(Protocol):
    """Where the files of one store are fetched from; used by several threads at once."""

    @property
    def shown(self) -> str:
        """Address of the store for sentences; no password or token is in it."""

    def whole(self, name: str, *, limit: int) -> bytes:
        """A file of at most `limit` bytes.

        Raises:
            MissingFileError: If it is not there.
            StoreError: If it is longer, or cannot be fetched.
        """

    def span(self, name: str, start: int, stop: int, *, size: int, fresh: bool = False) -> bytes:
        """Exactly the bytes from `start` up to `stop` of a file.

        Args:
            name: File in the store.
            start: First byte.
            stop: Behind the last byte; above `start`.
            size: Bytes of the whole file, as the manifest says.
            fresh: Ask servers on the way not to answer from what they keep.

        Raises:
            StoreError: If the server gives anything else.
        """


def patiently(what: str, patience: Patience, attempt: Callable[[], bytes]) -> bytes:
    """The bytes that `attempt` gives, in as many tries as patience allows.

    Raises:
        StoreError: If no try went well.
    """
    wait_s = patience.first_wait_s
    for tried in range(1, patience.attempts + 1):
        try:
            return attempt()
        except UnsteadyError as error:
            if tried == patience.attempts:
                raise StoreError(
                    f"{what} could not be read in {tried} tries (the last: {error}); check the "
                    "connection and try again"
                ) from error
            time.sleep(min(max(wait_s, error.wait_s), patience.longest_wait_s))
            wait_s *= 2
    raise ValueError(f"attempts is {patience.attempts}, expected at least 1")


def hub_module(name: str, url: str) -> Any:
    """A package of the extra `hub`, loaded when it is first needed.

    Raises:
        InputError: If it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f"{url} needs the package {name.partition('.')[0]}, which is not installed; run "
            "pip install 'moe-interp[hub]'"
        ) from error


@dataclass(frozen=True, kw_only=True)
class FsspecFetcher:
    """Files behind a file system of fsspec: `s3`, `file` or `memory`."""

    shown: str
    files: Any
    """The file system, with no cache of instances or listings."""
    root: str
    """Path of the store in it."""
    patience: Patience

    def whole(self, name: str, *, limit: int) -> bytes:
        """See `Fetcher`."""
        content = self._range(name, 0, limit + 1)
        if len(content) > limit:
            raise StoreError(
                f"{self.shown}/{name} is longer than {limit} bytes; it is no such file"
            )
        return content

    def span(self, name: str, start: int, stop: int, *, size: int, fresh: bool = False) -> bytes:
        """See `Fetcher`; nothing on the way keeps anything, so `fresh` changes nothing."""
        content = self._range(name, start, stop)
        if len(content) != stop - start:
            raise StoreError(
                f"{self.shown}/{name} gave {len(content)} bytes from {start} on, expected "
                f"{stop - start}; it was replaced or cut short, so open the store again"
            )
        return content

    def _range(self, name: str, start: int, stop: int) -> bytes:
        where = f"{self.shown}/{name}"

        def attempt() -> bytes:
            try:
                return bytes(self.files.cat_file(f"{self.root}/{name}", start=start, end=stop))
            except FileNotFoundError as error:
                raise MissingFileError(f"{where} is not there; check the address") from error
            except PermissionError as error:
                raise StoreError(
                    f"{where} may not be read ({error}); give credentials that may"
                ) from error
            except Exception as error:  # file systems raise errors of their own
                raise UnsteadyError(f"{type(error).__name__}: {error}") from error

        return patiently(where, self.patience, attempt)


def fsspec_fetcher(
    url: str, *, storage_options: Mapping[str, Any], patience: Patience
) -> FsspecFetcher:
    """Files of a store behind fsspec, with every cache of it turned off.

    Raises:
        InputError: If the packages for it are missing, or refuse the options.
    """
    protocol = url.partition("://")[0]
    fsspec = hub_module("fsspec", url)
    try:
        files = fsspec.filesystem(
            protocol,
            **{**storage_options, "skip_instance_cache": True, "use_listings_cache": False},
        )
    except ImportError as error:
        raise InputError(
            f"{url} needs a package that is not installed ({error}); run "
            "pip install 'moe-interp[hub]'"
        ) from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{url} cannot be opened with these storage_options ({error})") from error
    root = str(files._strip_protocol(url)).rstrip("/")
    return FsspecFetcher(shown=url.rstrip("/"), files=files, root=root, patience=patience)
