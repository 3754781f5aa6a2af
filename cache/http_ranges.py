"""Ranges of files on a web server, asked for and checked request by request.

fsspec reads the whole body where a server answers a range with the whole file. Here the status, the
`Content-Range`, the encoding and the length of every answer are compared with what was asked
before and while its body is read, and no more is read than was asked for.
"""

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, urljoin, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from interp.cache.errors import InputError, StoreError
from interp.cache.fetching import (
    CONCURRENT,
    MissingFileError,
    Patience,
    UnsteadyError,
    hub_module,
    patiently,
)

REDIRECTS = 5
BLOCK_BYTES = 2**20
AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""Answers that may be others a moment later."""


@dataclass(frozen=True, kw_only=True)
class HttpFetcher:
    """Files below one `http://` or `https://` address."""

    shown: str
    root: str
    """Address of the folder; a query in it goes with every file."""
    headers: Mapping[str, str]
    """Sent to the server of `root`, and to no other that it may redirect to."""
    patience: Patience
    _pools: dict[tuple[int, str], Any] = field(default_factory=dict, repr=False, compare=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False, compare=False)

    def whole(self, name: str, *, limit: int) -> bytes:
        """See `Fetcher`."""
        where = f"{self.shown}/{name}"

        def attempt() -> bytes:
            response = self._answer(name, {"Cache-Control": "no-cache"})
            try:
                _check_status(response, where, expected=200)
                return self._body(response, where, limit=limit)
            finally:
                response.close()

        return patiently(where, self.patience, attempt)

    def span(self, name: str, start: int, stop: int, *, size: int, fresh: bool = False) -> bytes:
        """See `Fetcher`."""
        where = f"{self.shown}/{name}"
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        if fresh:
            headers["Cache-Control"] = "no-cache"

        def attempt() -> bytes:
            response = self._answer(name, headers)
            try:
                _check_status(response, where, expected=206)
                _check_range(response, where, start=start, stop=stop, size=size)
                body = self._body(response, where, limit=stop - start)
            finally:
                response.close()
            if len(body) != stop - start:
                raise UnsteadyError(f"{len(body)} bytes came, expected {stop - start}")
            return body

        return patiently(where, self.patience, attempt)

    def _answer(self, name: str, asked: Mapping[str, str]) -> Any:
        """The answer behind all redirects; its body is not read yet."""
        url = _below(self.root, name)
        for _ in range(REDIRECTS + 1):
            response = self._request(url, asked)
            if response.status not in (301, 302, 303, 307, 308):
                return response
            response.close()
            url = _redirected(url, str(response.headers.get("Location", "")), self.shown)
        raise StoreError(
            f"{self.shown}/{name} redirects more than {REDIRECTS} times; check the address"
        )

    def _request(self, url: str, asked: Mapping[str, str]) -> Any:
        urllib3 = hub_module("urllib3", self.shown)
        own = self.headers if _origin(url) == _origin(self.root) else {}
        silence_s = self.patience.silence_s
        try:
            return self._pool(url).request(
                "GET",
                url,
                headers={
                    "User-Agent": "moe-interp",
                    **own,
                    **asked,
                    "Accept-Encoding": "identity",
                },
                preload_content=False,
                decode_content=False,
                redirect=False,
                retries=False,
                timeout=urllib3.Timeout(connect=silence_s, read=silence_s),
            )
        except (urllib3.exceptions.HTTPError, HTTPException, OSError) as error:
            raise UnsteadyError(f"{type(error).__name__}: no answer") from error

    def _pool(self, url: str) -> Any:
        """Connections of this process, through a proxy where the environment names one."""
        parts = urlsplit(url)
        bypassed = proxy_bypass(parts.hostname or "")
        proxy = "" if bypassed else getproxies().get(parts.scheme, "")
        with self._lock:
            key = (os.getpid(), proxy)
            if key not in self._pools:
                self._pools[key] = _connections(proxy)
            return self._pools[key]

    def _body(self, response: Any, where: str, *, limit: int) -> bytes:
        """All of a body, of at most `limit` bytes, within the time that it may take."""
        urllib3 = hub_module("urllib3", self.shown)
        deadline = time.monotonic() + self.patience.deadline_s(limit)
        body = bytearray()
        try:
            while block := response.read1(BLOCK_BYTES, decode_content=False):
                body += block
                if len(body) > limit:
                    raise StoreError(f"{where} gave more than {limit} bytes; check the server")
                if time.monotonic() > deadline:
                    raise UnsteadyError("it is too slow")
        except (urllib3.exceptions.HTTPError, HTTPException, OSError) as error:
            raise UnsteadyError(f"{type(error).__name__}: the answer broke off") from error
        _check_complete(response, len(body))
        return bytes(body)


def http_fetcher(
    url: str, *, storage_options: Mapping[str, Any], patience: Patience, shown: str = ""
) -> HttpFetcher:
    """Files below an address.

    Args:
        url: Of the folder; a query in it, such as a signature, goes with every file.
        storage_options: `headers`, a mapping, and nothing else.
        patience: How long the server may take.
        shown: Address for sentences; `url` without its query where it is empty.

    Raises:
        InputError: If the address or an option cannot be used.
    """
    hub_module("urllib3", url)
    parts = urlsplit(url)
    plain = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    if not parts.hostname or parts.username is not None or parts.fragment:
        raise InputError(
            f"{plain} cannot be used as an address; give https://host/folder, and what the server "
            "wants to know as storage_options={'headers': {...}}"
        )
    unknown = sorted(set(storage_options) - {"headers"})
    if unknown:
        raise InputError(
            f"storage_options holds {', '.join(unknown)}; {parts.scheme}:// takes headers only"
        )
    return HttpFetcher(
        shown=(shown or plain).rstrip("/"),
        root=url,
        headers=dict(storage_options.get("headers") or {}),
        patience=patience,
    )


def _connections(proxy: str) -> Any:
    urllib3 = hub_module("urllib3", "a store on a server")
    if not proxy:
        return urllib3.PoolManager(maxsize=CONCURRENT, block=False)
    credentials = urlsplit(proxy).netloc.rpartition("@")[0]
    headers = urllib3.make_headers(proxy_basic_auth=credentials) if credentials else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers, maxsize=CONCURRENT)


def _below(root: str, name: str) -> str:
    parts = urlsplit(root)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}"))


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _redirected(url: str, location: str, shown: str) -> str:
    target = urljoin(url, location)
    safe = ("https",) if url.startswith("https:") else ("http", "https")
    if not location or urlsplit(target).scheme not in safe:
        raise StoreError(f"{shown} redirects to {target[:80]!r}, which is not followed")
    return target


def _check_status(response: Any, where: str, *, expected: int) -> None:
    status = response.status
    if status in AGAIN:
        raise UnsteadyError(f"the server answers {status}", wait_s=_asked_wait_s(response))
    if status in (404, 410):
        raise MissingFileError(f"{where} is not there ({status}); check the address")
    if status == 416:
        raise StoreError(
            f"{where} is shorter than the manifest says; it was replaced, so open the store again"
        )
    if status == 200 and expected == 206:
        raise StoreError(
            f"{where} was answered with the whole file in place of a range, so the server cannot "
            "be read in part; pull the store with interp pull and open the copy"
        )
    if status != expected:
        raise StoreError(
            f"{where} was answered with {status}, expected {expected}; check the address and what "
            "you may read there"
        )
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise StoreError(
            f"{where} came encoded as {encoding!r}, which was not asked for; turn that off on the "
            "server, or pull the store with interp pull"
        )


def _check_range(response: Any, where: str, *, start: int, stop: int, size: int) -> None:
    given = str(response.headers.get("Content-Range", ""))
    wanted = f"bytes {start}-{stop - 1}/"
    if not given.startswith(wanted):
        raise UnsteadyError(f"the server gave {given[:80]!r}, expected {wanted}{size}")
    if given.removeprefix(wanted) not in (str(size), "*"):
        raise StoreError(
            f"{where} has {given.removeprefix(wanted)[:20]} bytes and the manifest says {size}; it "
            "was replaced, so open the store again"
        )


def _check_complete(response: Any, n_bytes: int) -> None:
    announced = response.headers.get("Content-Length")
    if announced is not None and announced != str(n_bytes):
        raise UnsteadyError(f"{n_bytes} bytes came, announced were {announced[:20]}")


def _asked_wait_s(response: Any) -> float:
    """Seconds of `Retry-After`; 0 where there is none or where it is a date."""
    asked = str(response.headers.get("Retry-After", ""))
    return float(asked) if asked.isascii() and asked.isdigit() else 0.0
