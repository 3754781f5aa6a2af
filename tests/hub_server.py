"""The endpoints of the Hub that sharing uses, on this machine: repositories, LFS, commits, files.

Modelled on what huggingface_hub sends and expects. Commits are whole trees, kept for ever; large
files live by their SHA-256, whether or not a commit names them, as on the Hub.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "x" * 34
_REPO = r"/api/datasets/([^/]+/[^/]+)"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of a commit."""

    content: bytes
    is_lfs: bool

    def described(self, path: str) -> dict[str, Any]:
        """The file as a listing has it."""
        sha256 = hashlib.sha256(self.content).hexdigest()
        found: dict[str, Any] = {"type": "file", "path": path, "size": len(self.content)}
        blob = b"blob %d\0" % len(self.content) + self.content
        found["oid"] = hashlib.sha1(blob, usedforsecurity=False).hexdigest()
        if self.is_lfs:
            found["lfs"] = {"oid": sha256, "size": len(self.content), "pointerSize": 134}
        return found


@dataclass
class Repository:
    """Branches, and the tree of every commit."""

    is_private: bool
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Entry]] = field(default_factory=dict)

    def commit(self, branch: str, tree: dict[str, Entry]) -> str:
        """Add a commit to a branch; its id is that of its number."""
        sha = hashlib.sha1(b"%d" % len(self.commits), usedforsecurity=False).hexdigest()
        self.commits[sha] = tree
        self.branches[branch] = sha
        return sha

    def tree(self, revision: str) -> dict[str, Entry] | None:
        """The files at a branch or commit."""
        return self.commits.get(self.branches.get(revision, revision))


@dataclass
class Hub:
    """What the server holds and has seen."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    received: list[str] = field(default_factory=list)
    """SHA-256 of the large files that were uploaded, in order."""
    n_bytes_received: int = 0
    """Of the bodies of all requests."""
    n_bytes_given: int = 0
    """Of files."""
    uploads_left: int | None = None
    """Large files that are taken before the server refuses more."""


class _RefusedError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", **more: str) -> None:
        self.status, self.code, self.message, self.more = status, code, message, more


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer(
            {_REPO + r"(?:/revision/([^/]+))?": self._info, _REPO + r"/tree/([^/]+)": self._tree}
        )

    def do_HEAD(self) -> None:
        self._answer({})

    def do_PUT(self) -> None:
        self._answer({r"/lfs/([0-9a-f]{64})": self._upload})

    def do_POST(self) -> None:
        self._answer(
            {
                r"/api/repos/create": self._create,
                r"/api/validate-yaml": lambda: {"errors": [], "warnings": []},
                _REPO + r"/branch/([^/]+)": self._branch,
                _REPO + r"/preupload/([^/]+)": self._preupload,
                _REPO + r"/commit/([^/]+)": self._commit,
                _REPO + r"/paths-info/([^/]+)": self._paths_info,
                r"/datasets/([^/]+/[^/]+)\.git/info/lfs/objects/batch": self._batch,
            }
        )

    def _answer(self, routes: Mapping[str, Any]) -> None:
        length = int(self.headers.get("content-length") or 0)
        self._body = self.rfile.read(length) if length else b""
        if "chunked" in (self.headers.get("transfer-encoding") or ""):
            self._body = self._chunked()
        self.hub.n_bytes_received += len(self._body)
        path = urlsplit(self.path).path
        try:
            resolved = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            if resolved:
                self._resolve(*map(unquote, resolved.groups()))
                return
            for pattern, action in routes.items():
                if found := re.fullmatch(pattern, path):
                    groups = [each and unquote(each) for each in found.groups()]
                    self._send(200, json.dumps(action(*groups)).encode())
                    return
            raise _RefusedError(404, "", f"no route {path}")
        except _RefusedError as refused:
            headers = {"X-Error-Code": refused.code} if refused.code else {}
            content = json.dumps({"error": refused.message} | refused.more).encode()
            self._send(refused.status, content, headers | {"X-Error-Message": refused.message})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        given = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        for name, value in (given | dict(headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _chunked(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    @property
    def _is_known(self) -> bool:
        return self.headers.get("authorization") == f"Bearer {TOKEN}"

    def _expect_known(self) -> None:
        if not self._is_known:
            raise _RefusedError(401, "", "Invalid username or password.")

    def _repository(self, name: str) -> Repository:
        found = self.hub.repositories.get(name)
        if found is None or (found.is_private and not self._is_known):
            raise _RefusedError(
                404 if self._is_known else 401, "RepoNotFound", "Repository not found"
            )
        return found

    def _at(self, name: str, revision: str | None) -> tuple[Repository, dict[str, Entry]]:
        repository = self._repository(name)
        tree = repository.tree(revision or "main")
        if tree is None:
            raise _RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, tree

    def _info(self, name: str, revision: str | None) -> dict[str, Any]:
        repository, tree = self._at(name, revision)
        sha = repository.branches.get(revision or "main", revision)
        siblings = [{"rfilename": path} for path in tree]
        return {"id": name, "sha": sha, "private": repository.is_private, "siblings": siblings}

    def _tree(self, name: str, revision: str) -> list[dict[str, Any]]:
        _, tree = self._at(name, revision)
        return [entry.described(path) for path, entry in tree.items()]

    def _paths_info(self, name: str, revision: str) -> list[dict[str, Any]]:
        _, tree = self._at(name, revision)
        wanted = json.loads(self._body)["paths"]
        return [tree[path].described(path) for path in wanted if path in tree]

    def _create(self) -> dict[str, Any]:
        self._expect_known()
        asked = json.loads(self._body)
        name = f"{asked.get('organization') or 'somebody'}/{asked['name']}"
        if name in self.hub.repositories:
            raise _RefusedError(
                409,
                "",
                "You already created this dataset repo",
                url=f"{self.hub.url}/datasets/{name}",
            )
        is_private = asked.get("visibility") == "private" or asked.get("private") is True
        repository = self.hub.repositories[name] = Repository(is_private=is_private)
        attributes = Entry(content=b"*.h5 filter=lfs diff=lfs merge=lfs -text\n", is_lfs=False)
        repository.commit("main", {".gitattributes": attributes})
        return {"url": f"{self.hub.url}/datasets/{name}", "name": name}

    def _branch(self, name: str, branch: str) -> dict[str, Any]:
        self._expect_known()
        repository = self._repository(name)
        if branch in repository.branches:
            raise _RefusedError(409, "", "Reference already exists")
        repository.branches[branch] = repository.branches["main"]
        return {}

    def _preupload(self, name: str, revision: str) -> dict[str, Any]:
        self._expect_known()
        _, tree = self._at(name, revision)
        files = []
        for asked in json.loads(self._body)["files"]:
            path = asked["path"]
            mode = "lfs" if path.endswith(".h5") else "regular"
            oid = tree[path].described(path)["oid"] if path in tree else None
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": files}

    def _batch(self, name: str) -> dict[str, Any]:
        self._expect_known()
        self._repository(name)
        objects = []
        for asked in json.loads(self._body)["objects"]:
            found = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.large:
                found["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}
            objects.append(found)
        return {"transfer": "basic", "objects": objects}

    def _upload(self, oid: str) -> dict[str, Any]:
        if self.hub.uploads_left == 0:
            raise _RefusedError(403, "", "the upload was cut off")
        if self.hub.uploads_left is not None:
            self.hub.uploads_left -= 1
        if hashlib.sha256(self._body).hexdigest() != oid:
            raise _RefusedError(400, "", "the content is not what its name says")
        self.hub.large[oid] = self._body
        self.hub.received.append(oid)
        return {}

    def _commit(self, name: str, branch: str) -> dict[str, Any]:
        self._expect_known()
        repository, before = self._at(name, branch)
        tree = dict(before)
        for line in self._body.decode().splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                if value.get("parentCommit") not in (None, repository.branches[branch]):
                    raise _RefusedError(412, "", "A commit has happened since")
            elif operation["key"] == "file":
                content = base64.b64decode(value["content"])
                tree[value["path"]] = Entry(content=content, is_lfs=False)
            elif operation["key"] == "lfsFile":
                tree[value["path"]] = Entry(content=self.hub.large[value["oid"]], is_lfs=True)
            else:
                del tree[value["path"]]
        sha = repository.commit(branch, tree)
        return {"commitOid": sha, "commitUrl": f"{self.hub.url}/datasets/{name}/commit/{sha}"}

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repository, tree = self._at(name, revision)
        if path not in tree:
            raise _RefusedError(404, "EntryNotFound", "Entry not found")
        content = tree[path].content
        sha = repository.branches.get(revision, revision)
        headers = {"ETag": f'"{tree[path].described(path)["oid"]}"', "X-Repo-Commit": sha}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range") or "")
        status = 206 if asked else 200
        if asked:
            start, stop = int(asked[1]), int(asked[2] or len(content) - 1) + 1
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            content = content[start:stop]
        if self.command == "GET":
            self.hub.n_bytes_given += len(content)
        self._send(status, content, headers | {"Content-Type": "application/octet-stream"})


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A Hub on a port of its own, gone afterwards."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
