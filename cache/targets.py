"""Where stores are shared: a folder, a bucket, the Hub. Each lists, gives and takes files."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from interp.cache.errors import InputError, StoreError
from interp.cache.receive import receive
from interp.cache.share_files import MOST_TEXT_BYTES, Outgoing, has_content

BLOCK_BYTES = 2**22
_HUB = re.compile(r"hf://datasets/([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?/?", re.ASCII)
_FETCHED = re.compile(
    r"(https?|file|memory)://.+"
    r"|hf://datasets/[\w-][\w.-]*/[\w-][\w.-]*(@(main|[0-9a-f]{40}))?/.+",
    re.ASCII,
)
_S3 = re.compile(r"s3://([a-z0-9][a-z0-9.-]+)/([^@]+?)/?", re.ASCII)
EXPECTED = "expected hf://datasets/USER/NAME[@REVISION], s3://BUCKET/PREFIX or a folder"


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What went to a place, and what it had already."""

    moved: tuple[str, ...]
    kept: tuple[str, ...]
    bytes_moved: int
    revision: str | None = None
    """The commit, where the place has such."""


@runtime_checkable
class Source(Protocol):
    """Somewhere a store can be pulled from."""

    where: str
    """As in the URL without a revision; for sentences, and to know the place again."""

    def revision(self) -> str | None:
        """The commit that is read, where the place has such.

        Raises:
            InputError: If there is none.
        """
        ...

    def listing(self) -> dict[str, int]:
        """Names of all files there, with their bytes; empty where nothing is yet.

        Raises:
            InputError: If the place is missing, or may not be read.
        """
        ...

    def blocks(self, name: str) -> Iterator[bytes]:
        """The content of a file, piece by piece."""
        ...


@runtime_checkable
class Place(Source, Protocol):
    """Somewhere a store can be shared."""

    keeps_history: bool
    """Whether what is replaced can be had again."""

    def send(self, files: Sequence[Outgoing], manifest: Outgoing) -> Sent:
        """Bring files there that it does not have; the manifest shows last, or all at once.

        Raises:
            InputError: If the place is missing, or may not be written.
        """
        ...


class FolderPlace:
    """A folder on this machine, or on a disk that is shared."""

    keeps_history = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.where = str(folder.resolve())

    def revision(self) -> None:
        """A folder has none."""

    def listing(self) -> dict[str, int]:
        """As `Place` has it; links are refused, since they can lead anywhere."""
        if not self.folder.exists():
            return {}
        if not self.folder.is_dir():
            raise InputError(f"{self.folder} is a file, expected a folder; choose another path")
        linked = [each.name for each in self.folder.iterdir() if each.is_symlink()]
        if linked:
            raise StoreError(
                f"{self.folder} holds {min(linked)!r}, a symbolic link that can lead anywhere; put "
                "the file itself there"
            )
        return {each.name: each.stat().st_size for each in self.folder.iterdir() if each.is_file()}

    def blocks(self, name: str) -> Iterator[bytes]:
        """As `Place` has it."""
        with (self.folder / name).open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block

    def send(self, files: Sequence[Outgoing], manifest: Outgoing) -> Sent:
        """As `Place` has it."""
        paths = {each.file.name: each.path for each in files}
        is_same = has_content(self.folder / manifest.file.name, manifest.file)

        def blocks(name: str) -> Iterator[bytes]:
            with paths[name].open("rb") as file:
                while block := file.read(BLOCK_BYTES):
                    yield block

        received = receive(
            self.folder,
            [each.file for each in files],
            blocks,
            manifest=manifest.path.read_bytes(),
            origin="a push",
        )
        return Sent(
            moved=(*received.moved, *([] if is_same else [manifest.file.name])),
            kept=(*received.kept, *([manifest.file.name] if is_same else [])),
            bytes_moved=received.bytes_moved + (0 if is_same else manifest.file.bytes),
        )


def place_at(
    target: str,
    *,
    endpoint: str | None = None,
    token: str | None = None,
    is_public: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Place:
    """The place that a URL or path names.

    Args:
        target: `hf://datasets/USER/NAME[@REVISION]`, `s3://BUCKET/PREFIX` or a folder.
        endpoint: Address of the Hub; that of huggingface_hub if None.
        token: For the Hub; that of huggingface_hub if None.
        is_public: Whether a dataset that is made on the Hub can be seen by all.
        storage_options: For s3fs.

    Raises:
        InputError: If it names no place that is known here, or a library is missing.
    """
    if hub := _HUB.fullmatch(target):
        from interp.cache.target_hub import HubPlace

        repo, revision = hub.groups()
        return HubPlace(repo, revision, endpoint=endpoint, token=token, is_public=is_public)
    if s3 := _S3.fullmatch(target):
        from interp.cache.target_s3 import S3Place

        return S3Place("/".join(s3.groups()), storage_options or {})
    if _FETCHED.fullmatch(target):
        raise InputError(f"{target} can only be pulled from, and not be pushed to; {EXPECTED}")
    if "://" in target or not target.strip():
        raise InputError(f"{target!r} is no place to share a store at; {EXPECTED}")
    return FolderPlace(Path(target))


def source_at(
    url: str,
    *,
    endpoint: str | None = None,
    token: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Source:
    """What a store is pulled from: a place, or an address that can only be read.

    Args:
        url: As for `place_at`, or `https://`, `http://`, `file://`, `memory://`, or
            `hf://datasets/USER/NAME[@REVISION]/FOLDER`, where the revision is `main` or a commit,
            since a branch may have a slash in its name.
        endpoint: Address of the Hub; that of huggingface_hub if None.
        token: For the Hub; that of huggingface_hub if None.
        storage_options: As `open_store` takes them.

    Raises:
        InputError: If it names nothing that is known here, or a library is missing.
    """
    if _FETCHED.fullmatch(url):
        from interp.cache.target_web import FetchedSource

        given = {"endpoint": endpoint, "token": token} if url.startswith("hf:") else {}
        known = {name: each for name, each in given.items() if each is not None}
        return FetchedSource(url, {**known, **(storage_options or {})})
    return place_at(url, endpoint=endpoint, token=token, storage_options=storage_options)


def read_text(place: Source, name: str) -> bytes:
    """A small file, whole.

    Raises:
        StoreError: If it is larger than any such file.
    """
    content = bytearray()
    for block in place.blocks(name):
        content += block
        if len(content) > MOST_TEXT_BYTES:
            raise StoreError(
                f"{place.where}/{name} is larger than {MOST_TEXT_BYTES:,} bytes; it is not that of "
                "a store"
            )
    return bytes(content)
