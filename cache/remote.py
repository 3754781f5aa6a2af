"""Stores that lie elsewhere: on a web server, on the Hub, in an S3 bucket.

`manifest.json` vouches for the index of each part, and the index for each chunk; the manifest
itself is as good as the address it comes from. No HDF5 code touches anything that was fetched.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interp.cache.chunk_table import parse_index, strict_json
from interp.cache.errors import InputError, StoreError
from interp.cache.fetching import (
    Fetcher,
    MissingFileError,
    Patience,
    fsspec_fetcher,
    hub_module,
)
from interp.cache.http_ranges import HttpFetcher, http_fetcher
from interp.cache.indexed_part import IndexedPart, concurrently
from interp.cache.manifest import (
    MANIFEST_NAME,
    PartEntry,
    canonical_json,
    check_content,
    checked_manifest,
)
from interp.cache.part_index import index_name

MANIFEST_LIMIT = 2**24
"""Bytes of the longest manifest that is read."""
INDEX_LIMIT = 2**26
"""Bytes of the longest index that is read."""
HUB_FOLDERS = {"dataset": "datasets/", "space": "spaces/"}
PROTOCOLS = ("https", "http", "hf", "s3", "file", "memory")


@dataclass(frozen=True, kw_only=True)
class RemoteStore:
    """A store that lies elsewhere: its manifest, and its parts, of which nothing is fetched yet."""

    url: str
    """Where it lies, for sentences: without passwords; on the Hub with the commit it is read at."""
    manifest: dict[str, Any]
    entries: tuple[PartEntry, ...]
    parts: tuple[IndexedPart, ...]


def open_remote(
    url: str,
    *,
    storage_options: Mapping[str, Any] | None = None,
    patience: Patience | None = None,
) -> RemoteStore:
    """Fetch the manifest and the indexes of a store; its parts are read when they are asked for.

    Args:
        url: `https://`, `http://`, `hf://datasets/USER/NAME[@REVISION][/FOLDER]`,
            `s3://BUCKET/NAME`, `file://` or `memory://`. A revision of the Hub is resolved to its
            commit once, and everything is read from that commit.
        storage_options: For `https` and `http`: `headers`, sent to that server only; for `hf`:
            `token` and `endpoint`; else what the file system of fsspec takes.
        patience: How long servers may take; the defaults of `Patience` where it is None.

    Raises:
        InputError: If the address cannot be used, nothing is there, or a package is missing.
        StoreError: If what is there is no finished store of this format, or is damaged.
    """
    fetcher = fetcher_for(
        url, storage_options=storage_options or {}, patience=patience or Patience()
    )
    manifest, entries = _manifest(fetcher)
    parts = concurrently(lambda entry: _part(fetcher, entry), entries)
    return RemoteStore(
        url=fetcher.shown, manifest=manifest, entries=tuple(entries), parts=tuple(parts)
    )


def fetcher_for(url: str, *, storage_options: Mapping[str, Any], patience: Patience) -> Fetcher:
    """What fetches files of the store at an address.

    Raises:
        InputError: If the address cannot be used, or a package for it is missing.
    """
    protocol, _, rest = url.partition("://")
    if protocol not in PROTOCOLS or not rest:
        known = ", ".join(f"{each}://" for each in PROTOCOLS)
        raise InputError(
            f"{url[:80]!r} is no address of a store; give one that starts with {known}"
        )
    if protocol == "hf":
        return _hub_fetcher(url, storage_options=storage_options, patience=patience)
    if protocol in ("https", "http"):
        return http_fetcher(url, storage_options=storage_options, patience=patience)
    return fsspec_fetcher(url, storage_options=storage_options, patience=patience)


def _hub_fetcher(
    url: str, *, storage_options: Mapping[str, Any], patience: Patience
) -> HttpFetcher:
    """Files of one commit of a repository on the Hub."""
    unknown = sorted(set(storage_options) - {"token", "endpoint"})
    if unknown:
        raise InputError(
            f"storage_options holds {', '.join(unknown)}; hf:// takes token and endpoint only"
        )
    hub = hub_module("huggingface_hub", url)
    endpoint, token = storage_options.get("endpoint"), storage_options.get("token")
    try:
        files = hub.HfFileSystem(endpoint=endpoint, token=token, skip_instance_cache=True)
        place = files.resolve_path(url)
        if not hasattr(place, "repo_id"):
            raise ValueError("it is a bucket, which keeps no revisions")
        api = hub.HfApi(endpoint=endpoint, token=token)
        commit = str(
            api.repo_info(place.repo_id, repo_type=place.repo_type, revision=place.revision).sha
        )
        if not re.fullmatch("[0-9a-f]{40,64}", commit):
            raise ValueError(f"its commit is {commit[:80]!r}")
    except Exception as error:  # the client raises errors of several packages
        raise InputError(
            f"{url} cannot be found on the Hub ({type(error).__name__}: "
            f"{str(error).strip().partition(chr(10))[0]}); check the name, the revision, and "
            "whether you are logged in"
        ) from error
    address = hub.hf_hub_url(
        place.repo_id,
        f"{place.path_in_repo}/{MANIFEST_NAME}".lstrip("/"),
        repo_type=place.repo_type,
        revision=commit,
        endpoint=endpoint,
    )
    folder = HUB_FOLDERS.get(place.repo_type, "")
    return http_fetcher(
        address.removesuffix(f"/{MANIFEST_NAME}"),
        storage_options={"headers": hub.utils.build_hf_headers(token=token)},
        patience=patience,
        shown=f"hf://{folder}{place.repo_id}@{commit}/{place.path_in_repo}",
    )


def _manifest(fetcher: Fetcher) -> tuple[dict[str, Any], list[PartEntry]]:
    """The manifest of a finished store, and its parts."""
    where = f"{fetcher.shown}/{MANIFEST_NAME}"
    try:
        content = fetcher.whole(MANIFEST_NAME, limit=MANIFEST_LIMIT)
    except MissingFileError as error:
        raise InputError(
            f"{fetcher.shown} is no store: it holds no {MANIFEST_NAME}; give the address of a store"
        ) from error
    try:
        manifest = strict_json(content)
    except ValueError as error:
        raise StoreError(
            f"{where} cannot be read ({error}); give the address of a store, or ask for it to be "
            "published again"
        ) from error
    entries = checked_manifest(manifest, fetcher.shown)
    if manifest.get("complete") is not True:
        raise StoreError(f"{where} says that the store is not finished; wait until it is")
    if manifest.get("tier") == "aggregate":
        raise InputError(
            f"{fetcher.shown} holds counts of usage and no routing (tier aggregate); fetch it with "
            "interp pull and read it with interp.cache.usage_table.read_usage"
        )
    check_content(manifest, where, advice="ask for the store to be published again")
    _check_provenance(manifest, where)
    if not entries:
        raise StoreError(f"{where} lists no part; ask for the store to be published again")
    for entry in entries:
        _check_entry(entry, where)
    return manifest, entries


def _check_provenance(manifest: Mapping[str, Any], where: str) -> None:
    provenance = manifest.get("provenance")
    if not isinstance(provenance, dict):
        raise StoreError(
            f"{where} holds no provenance, as those of older stores; pull the store with interp "
            "pull and open the copy"
        )
    digest = hashlib.sha256(canonical_json(provenance).encode()).hexdigest()
    if digest != manifest.get("provenance_sha256"):
        raise StoreError(
            f"{where} holds another provenance than its provenance_sha256 is of; ask for the store "
            "to be published again"
        )


def _check_entry(entry: PartEntry, where: str) -> None:
    """Refuse what is no size and no digest; all of it comes from strangers."""
    if entry.index_sha256 is None or entry.index_bytes is None:
        raise StoreError(
            f"{where} names no index for {entry.name}, as those of older stores; pull the store "
            "with interp pull and open the copy"
        )
    sizes: tuple[Any, ...] = (entry.bytes, entry.n_prompts, entry.n_tokens, entry.index_bytes)
    if any(type(size) is not int or not 0 <= size < 2**53 for size in sizes):
        raise StoreError(f"{where} has a size of {entry.name} that is none; it is damaged")
    digests = (entry.sha256, entry.index_sha256)
    if not all(
        isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) for digest in digests
    ):
        raise StoreError(f"{where} has a digest of {entry.name} that is none; it is damaged")
    if entry.index_bytes > INDEX_LIMIT:
        raise StoreError(
            f"{where} has an index of {entry.index_bytes} bytes, more than {INDEX_LIMIT}; pull the "
            "store with interp pull and open the copy"
        )


def _part(fetcher: Fetcher, entry: PartEntry) -> IndexedPart:
    """A part with its index, which is the one that the manifest vouches for."""
    name = index_name(entry.name)
    where = f"{fetcher.shown}/{name}"
    n_bytes = entry.index_bytes or 0
    content = fetcher.whole(name, limit=n_bytes)
    if len(content) != n_bytes or hashlib.sha256(content).hexdigest() != entry.index_sha256:
        raise StoreError(
            f"{where} is not the file that the manifest describes; the store was replaced or "
            "damaged, so open it again"
        )
    return IndexedPart(
        name=entry.name,
        bytes=entry.bytes,
        datasets=parse_index(content, entry=entry, where=where),
        fetcher=fetcher,
    )
