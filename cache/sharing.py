"""Sharing a store: push it to a folder, a bucket or the Hub, and pull it from there.

    from interp.cache.sharing import push, pull

    print(push(Path("run.moe"), "hf://datasets/me/run", tier="no_text").leaks)
    pull("hf://datasets/me/run@main", Path("copy.moe"))

Files are known by their SHA-256, so that a second push moves what changed and a broken one goes on.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import replace as with_fields
from pathlib import Path
from typing import Any

import pandas as pd

from interp.cache.card import CARD_NAME
from interp.cache.croissant import croissant
from interp.cache.errors import InputError, StoreError
from interp.cache.manifest import MANIFEST_NAME, layout_from_json, read_manifest
from interp.cache.occupied import HIDDEN, expect_free
from interp.cache.reader import open_store
from interp.cache.receive import receive
from interp.cache.share_card import Shared, shared_card
from interp.cache.share_files import (
    CROISSANT_NAME,
    NAMES_OF_TEXTS,
    Outgoing,
    SharedFile,
    listed_files,
    outgoing,
    parsed_manifest,
    refuse_hostile,
    usage_manifest,
)
from interp.cache.targets import place_at, read_text, source_at
from interp.cache.tiered_copy import tiered_copy
from interp.cache.tiers import LEAKS, MINIMUM_COUNT, check_tier


@dataclass(frozen=True, kw_only=True)
class PushResult:
    """What a push did."""

    url: str
    """Where the store can be pulled from."""
    tier: str
    moved: tuple[str, ...]
    """Files that were sent."""
    kept: tuple[str, ...]
    """Files that were there already."""
    bytes_moved: int
    """Of the files that were sent. The Hub's client leaves out what the Hub has from a push that
    broke, so less may have crossed the wire."""
    revision: str | None
    """The commit, on the Hub."""
    leaks: str
    """One sentence: what the tier still gives away."""
    replaced: tuple[str, ...] = ()
    """In what the capture differs that lay there before, if it was another one; the history of the
    Hub keeps it, and a folder or bucket does not."""


def push(
    store: str | Path,
    target: str,
    *,
    tier: str | None = None,
    license: str | None = None,  # noqa: A002 (the word of the field on the Hub)
    source_licenses: Mapping[str, str] | None = None,
    minimum_count: int = MINIMUM_COUNT,
    replace: bool = False,
    scratch: str | Path | None = None,
    is_public: bool = False,
    endpoint: str | None = None,
    token: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> PushResult:
    """Share a finished store. A second push moves only what changed, and a broken one goes on.

    Args:
        store: Its folder.
        target: `hf://datasets/USER/NAME[@REVISION]`, `s3://BUCKET/PREFIX` or a folder.
        tier: `full`, `no_text` or `aggregate`, see `interp.cache.tiers`; that of the store if None.
        license: Of the store, for its card; from the provenance if None.
        source_licenses: Licences of the prompts, by source; from the provenance where it has them.
        minimum_count: A count, or a number of prompts with one label, below this is left out of the
            tiers `no_text` and `aggregate`.
        replace: Whether a folder or bucket may lose another capture that it holds.
        scratch: Where the copy in a smaller tier is made and removed again; beside the store if
            None.
        is_public: Whether a dataset that is made on the Hub can be seen by all.
        endpoint: Address of the Hub.
        token: For the Hub; the one that `hf auth login` stored if None.
        storage_options: For s3fs.

    Raises:
        InputError: If the target is no place, missing, closed to these credentials, or holds
            something else or another capture; or the tier is none.
        StoreError: If the store is unfinished or damaged.
        StorageError: If there is no space left.
    """
    place = place_at(
        target,
        endpoint=endpoint,
        token=token,
        is_public=is_public,
        storage_options=storage_options,
    )
    if minimum_count < 2:
        raise InputError(f"minimum_count is {minimum_count}, expected 2 or more")
    room = None if scratch is None else Path(scratch)
    with _ready(Path(store), tier, minimum_count=minimum_count, scratch=room) as ready:
        folder, manifest = ready
        replaced = expect_free(place, manifest, replace=replace)
        files = _parts(folder, manifest)
        with tempfile.TemporaryDirectory() as texts_folder:
            shared = with_fields(
                _shared(folder, manifest, [each.file for each in files]),
                name=Path(place.where).name.removesuffix(".moe"),
                url=place.where if "://" in target else None,
                license=license,
                source_licenses=source_licenses,
            )
            texts = _texts(Path(texts_folder), shared)
            sent = place.send([*files, *texts], outgoing(folder / MANIFEST_NAME))
    return PushResult(
        url=target,
        tier=shared.tier,
        moved=sent.moved,
        kept=sent.kept,
        bytes_moved=sent.bytes_moved,
        revision=sent.revision,
        leaks=LEAKS[shared.tier],
        replaced=replaced,
    )


def pull(
    url: str,
    folder: str | Path,
    *,
    endpoint: str | None = None,
    token: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Path:
    """Fetch a shared store, verified against its manifest; a broken pull goes on.

    A store that an earlier pull from the same place left in `folder` stays readable until all of
    the new one is there.

    Args:
        url: `hf://datasets/USER/NAME[@REVISION][/FOLDER]`, `s3://BUCKET/PREFIX`, `https://`,
            `http://`, `file://`, `memory://` or a folder.
        folder: Made if it is not there.
        endpoint: Address of the Hub.
        token: For the Hub.
        storage_options: For s3fs; for `https` and `http` `headers`.

    Returns:
        `folder`.

    Raises:
        InputError: If there is no store at the URL, or something else in `folder`.
        StoreError: If names, sizes or digests there are not what a store can have.
        StorageError: If there is no space left.
    """
    place = source_at(url, endpoint=endpoint, token=token, storage_options=storage_options)
    place.revision()
    listing = place.listing()
    refuse_hostile((name for name in listing if name not in HIDDEN), place.where)
    if MANIFEST_NAME not in listing:
        raise InputError(f"{place.where} holds no store that is finished; check the name")
    manifest = read_text(place, MANIFEST_NAME)
    files = listed_files(parsed_manifest(manifest, place.where), place.where)
    lacking = [each.name for each in files if each.name not in listing]
    if lacking:
        raise StoreError(f"{place.where} lacks {lacking[0]}; ask its owner to push it again")
    texts = [
        SharedFile(name=name, bytes=listing[name], sha256=None)
        for name in NAMES_OF_TEXTS
        if name in listing
    ]
    receive(Path(folder), [*files, *texts], place.blocks, manifest=manifest, origin=place.where)
    return Path(folder)


@contextmanager
def _ready(
    store: Path, tier: str | None, *, minimum_count: int, scratch: Path | None
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The store in the tier that is asked for, and its manifest; a copy is gone afterwards."""
    manifest = _manifest(store)
    held = str(manifest.get("tier", "full"))
    wanted = held if tier is None else tier
    check_tier(wanted, held=held)
    if wanted == held:
        yield store, manifest
        return
    with tiered_copy(store, wanted, minimum_count=minimum_count, scratch=scratch) as copy:
        yield copy, _manifest(copy)


def _manifest(store: Path) -> dict[str, Any]:
    return usage_manifest(store) or read_manifest(store)[0]


def _parts(folder: Path, manifest: Mapping[str, Any]) -> list[Outgoing]:
    files = listed_files(manifest, str(folder))
    return [Outgoing(path=folder / each.name, file=each) for each in files]


def _shared(folder: Path, manifest: Mapping[str, Any], files: list[SharedFile]) -> Shared:
    tier = str(manifest.get("tier", "full"))
    prompts: dict[tuple[str, str], int]
    tokens: dict[tuple[str, str], int] | None = None
    if tier == "aggregate":
        prompts = {(kind[0], kind[1]): kind[2] for kind in manifest["prompts_by_kind"]}
        provenance = manifest["provenance"]
    else:
        store = open_store(folder)
        kinds = store.prompts.groupby(["condition", "source"])["n_tokens"]
        prompts, tokens = _by_kind(kinds.size()), _by_kind(kinds.sum())
        provenance = store.provenance
    return Shared(
        name=folder.name,
        url=None,
        tier=tier,
        created=str(manifest["created"]),
        layout=layout_from_json(manifest["layout"]),
        provenance=provenance,
        prompts=prompts,
        tokens=tokens,
        files=files,
    )


def _by_kind(counts: pd.Series) -> dict[tuple[str, str], int]:
    kinds = counts.reset_index(name="n")
    rows = zip(kinds["condition"], kinds["source"], kinds["n"], strict=True)
    return {(str(condition), str(source)): int(n) for condition, source, n in rows}


def _texts(scratch: Path, shared: Shared) -> list[Outgoing]:
    """The card and the metadata, as files."""
    for name, text in ((CARD_NAME, shared_card(shared)), (CROISSANT_NAME, croissant(shared))):
        (scratch / name).write_text(text, encoding="utf-8")
    return [outgoing(scratch / name) for name in NAMES_OF_TEXTS]
