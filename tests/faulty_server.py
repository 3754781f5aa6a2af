"""A web server that knows ranges, redirects and how to go wrong, for tests of reading from afar.

It runs in a thread of the test on a port of its own, and counts every byte that it sends.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

HUGE = 500 * 2**20
"""Length of the body where a server ignores the range."""
FAULTS = (
    "whole_for_range",
    "wrong_bytes",
    "shifted_bytes",
    "other_range",
    "no_content_range",
    "other_size",
    "short",
    "long",
    "broken_off",
    "dropped",
    "chunked",
    "silent",
    "dripping",
    "gzip",
    "etag_changes",
    "redirect",
    "redirect_elsewhere",
    "redirect_loop",
    "redirect_to_file",
)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong, and with which requests."""

    kind: str | int
    """Of `FAULTS`, or a status to answer with."""
    on: str = ".h5"
    """Only requests whose path ends so."""
    times: int = 10**9
    """Only so many of them, then all is well."""
    past_caches: bool = True
    """False: a request that forbids caches on the way gets the right answer."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for."""

    path: str
    headers: Mapping[str, str]


@dataclass(kw_only=True)
class FaultyServer:
    """The server: put bytes into `files`, set `faults`, and read what it counted."""

    url: str = ""
    elsewhere: str = ""
    """Address of a second server with the same files; another origin."""
    files: dict[str, bytes] = field(default_factory=dict)
    """By path, with a slash first."""
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    bytes_sent: int = 0
    """With headers."""
    body_bytes: int = 0
    under_way: int = 0
    most_under_way: int = 0
    delay_s: float = 0.0
    """Before every answer."""
    lock: Any = field(default_factory=threading.Lock)
    stopping: threading.Event = field(default_factory=threading.Event)

    def forget(self) -> None:
        """Count from 0 again."""
        with self.lock:
            self.requests.clear()
            self.bytes_sent = self.body_bytes = self.most_under_way = 0

    def fault_of(self, request: Request) -> str | int | None:
        """The fault of this request; it counts as used."""
        with self.lock:
            for index, fault in enumerate(self.faults):
                fresh = request.headers.get("Cache-Control") == "no-cache"
                spared = fresh and not fault.past_caches
                if fault.times and urlsplit(request.path).path.endswith(fault.on) and not spared:
                    self.faults[index] = Fault(
                        kind=fault.kind,
                        on=fault.on,
                        times=fault.times - 1,
                        past_caches=fault.past_caches,
                    )
                    return fault.kind
        return None


@contextmanager
def faulty_server(files: Mapping[str, bytes] | None = None) -> Iterator[FaultyServer]:
    """A running server, and a second one at another port that serves the same files."""
    state = FaultyServer(files=dict(files or {}))
    servers = [_listening(state), _listening(state)]
    state.url, state.elsewhere = (f"http://127.0.0.1:{each.server_port}" for each in servers)
    threads = [threading.Thread(target=each.serve_forever, args=(0.02,)) for each in servers]
    for thread in threads:
        thread.start()
    try:
        yield state
    finally:
        state.stopping.set()
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    state: FaultyServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is part of these tests."""


def _listening(state: FaultyServer) -> _Server:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.state = state
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    timeout = 20

    def log_message(self, *args: Any) -> None:
        """Tests are silent."""

    def do_GET(self) -> None:
        state = self.server.state
        request = Request(path=self.path, headers=dict(self.headers.items()))
        with state.lock:
            state.requests.append(request)
            state.under_way += 1
            state.most_under_way = max(state.most_under_way, state.under_way)
        try:
            state.stopping.wait(state.delay_s)
            with suppress(BrokenPipeError, ConnectionResetError):
                self._respond(request, state.fault_of(request))
        finally:
            with state.lock:
                state.under_way -= 1

    def _respond(self, request: Request, fault: str | int | None) -> None:
        path = unquote(urlsplit(self.path).path)
        content = self.server.state.files.get(path)
        if isinstance(fault, int):
            self._answer(fault, b"later", {"Retry-After": "0"})
        elif content is None:
            self._answer(404, b"nothing here")
        elif fault is not None and fault.startswith("redirect"):
            self._redirect(fault)
        elif fault in ("dropped", "silent"):
            self._give_nothing(fault)
        elif "Range" in request.headers:
            self._give_range(content, request.headers["Range"], fault)
        else:
            self._give_whole(content, fault)

    def _redirect(self, fault: str) -> None:
        state = self.server.state
        target = {
            "redirect": self.path.replace(".h5", ".h5?signed=yes"),
            "redirect_elsewhere": f"{state.elsewhere}{self.path}",
            "redirect_loop": self.path,
            "redirect_to_file": "file:///etc/hostname",
        }[fault]
        self._answer(302, b"", {"Location": target})

    def _give_nothing(self, fault: str) -> None:
        if fault == "silent":
            self.server.state.stopping.wait(5)
        self.close_connection = True
        self.connection.close()

    def _give_whole(self, content: bytes, fault: str | None) -> None:
        if fault == "wrong_bytes":
            content = _flipped(content)
        headers = {"Content-Encoding": "gzip"} if fault == "gzip" else {}
        self._answer(200, content, headers, announced=_announced(content, fault))

    def _give_range(self, content: bytes, asked: str, fault: str | None) -> None:
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last) + 1, len(content))
        if start >= len(content):
            self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        if fault == "whole_for_range":
            self._give_huge(content)
            return
        shown = (start + 1, stop + 1) if fault == "other_range" else (start, stop)
        size = len(content) + 1 if fault == "other_size" else len(content)
        headers = {"Content-Range": f"bytes {shown[0]}-{shown[1] - 1}/{size}"}
        if fault == "no_content_range":
            headers = {}
        if fault == "gzip":
            headers["Content-Encoding"] = "gzip"
        etag = time.monotonic_ns() if fault == "etag_changes" else len(content)
        headers["ETag"] = f'"{etag}"'
        body = _mangled(content, start, stop, fault)
        if fault == "chunked":
            self._give_chunked(body, headers)
        elif fault == "dripping":
            self._drip(body, headers)
        else:
            self._answer(206, body, headers, announced=_announced(body, fault))

    def _give_huge(self, content: bytes) -> None:
        self._head(200, {"Content-Length": str(HUGE)})
        self._send(content)
        nothing, left = bytes(2**16), HUGE - len(content)
        while left > 0:
            self._send(nothing[:left])
            left -= len(nothing)

    def _give_chunked(self, body: bytes, headers: Mapping[str, str]) -> None:
        self._head(206, {**headers, "Transfer-Encoding": "chunked"})
        for start in range(0, len(body), 1000):
            piece = body[start : start + 1000]
            self._send(b"%x\r\n%s\r\n" % (len(piece), piece))
        self._send(b"0\r\n\r\n")

    def _drip(self, body: bytes, headers: Mapping[str, str]) -> None:
        """A byte now and then: never silent for long, and never done."""
        self._head(206, {**headers, "Content-Length": str(len(body))})
        for position in range(len(body)):
            if self.server.state.stopping.wait(0.02):
                break
            self._send(body[position : position + 1])
        self.close_connection = True

    def _answer(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        announced: int | None = None,
    ) -> None:
        n_bytes = len(body) if announced is None else announced
        self._head(status, {**(headers or {}), "Content-Length": str(n_bytes)})
        self._send(body)
        if n_bytes != len(body):
            self.close_connection = True

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        with self.server.state.lock:
            self.server.state.bytes_sent += sum(len(line) for line in self._headers_buffer) + 2
        self.end_headers()

    def _send(self, body: bytes) -> None:
        self.wfile.write(body)
        with self.server.state.lock:
            self.server.state.bytes_sent += len(body)
            self.server.state.body_bytes += len(body)


def _mangled(content: bytes, start: int, stop: int, fault: str | None) -> bytes:
    """The body of a range, right unless the fault is of the body."""
    body = content[start:stop]
    if fault == "wrong_bytes":
        return _flipped(body)
    if fault in ("shifted_bytes", "other_range"):
        return content[start + 1 : stop + 1]
    if fault == "short":
        return body[:-1]
    if fault == "broken_off":
        return body[: len(body) // 2]
    return body + b"\0" if fault == "long" else body


def _announced(body: bytes, fault: str | None) -> int:
    return 2 * len(body) if fault == "broken_off" else len(body)


def _flipped(body: bytes) -> bytes:
    """One bit in the middle is another."""
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
