"""Stores to share, a Hub and a bucket on this machine, for the tests of push and pull."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from interp.cache.share_files import SharedFile
from tests.hub_server import TOKEN, Hub, hub_server
from tests.store_samples import RESID_LAYOUT, sample, write

HUB_WARNS = "ignore:Use 'content=:DeprecationWarning"
REPO = "hf://datasets/me/run"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A Hub, with the client as in a shell that is online and logged in to it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub_server() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        files = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        yield hub


@pytest.fixture
def bucket() -> Iterator[tuple[str, dict[str, Any]]]:
    """A bucket of moto's server, and the options for s3fs that reach it."""
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {
        "key": "testing",
        "secret": "testing",
        "client_kwargs": {"endpoint_url": f"http://{host}:{port}"},
    }
    reset = Request(f"http://{host}:{port}/moto-api/reset", method="POST")
    urlopen(reset).close()  # noqa: S310 (moto keeps what earlier servers of the process held)
    S3FileSystem(skip_instance_cache=True, **options).call_s3("create_bucket", Bucket="shelf")
    yield "shelf", options
    server.stop()


def store(path: Path, *, seeds: range = range(4), n_tokens: int = 30, **options: Any) -> Path:
    """One part per prompt."""
    prompts = [sample(RESID_LAYOUT, seed=seed, n_tokens=n_tokens) for seed in seeds]
    return write(path, prompts, RESID_LAYOUT, **{"part_mb": 0.001} | options)


def changed(path: Path, *, last: int) -> Path:
    """The same store with another last prompt."""
    prompts = [sample(RESID_LAYOUT, seed=seed, n_tokens=30) for seed in (0, 1, 2, last)]
    return write(path, prompts, RESID_LAYOUT, part_mb=0.001)


def digests(folder: Path) -> dict[str, str]:
    return {
        each.name: hashlib.sha256(each.read_bytes()).hexdigest()
        for each in folder.iterdir()
        if each.name.startswith("part-")
    }


def manifest(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return document


def shared_file(name: str, content: bytes) -> SharedFile:
    digest = hashlib.sha256(content).hexdigest()
    return SharedFile(name=name, bytes=len(content), sha256=digest)


def edit(folder: Path, **replaced: Any) -> None:
    (folder / "manifest.json").write_text(json.dumps(manifest(folder) | replaced))
