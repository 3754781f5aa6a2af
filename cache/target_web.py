"""Addresses that a store can be read from and not pushed to, such as a web server."""

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from interp.cache.errors import InputError, StoreError
from interp.cache.fetching import MissingFileError, Patience
from interp.cache.manifest import MANIFEST_NAME
from interp.cache.remote import fetcher_for
from interp.cache.share_files import (
    MOST_TEXT_BYTES,
    NAMES_OF_TEXTS,
    listed_files,
    parsed_manifest,
)

RANGE_BYTES = 2**23


class FetchedSource:
    """Files below an address. Nothing lists them: they are those that the manifest names.

    Args:
        url: Of the store.
        storage_options: As `open_store` takes them.

    Raises:
        InputError: If the address cannot be used, or a package for it is missing.
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any]) -> None:
        self._fetcher = fetcher_for(url, storage_options=storage_options, patience=Patience())
        is_hub = url.startswith("hf:")
        self.where = re.sub(r"@[^/]*", "", url).rstrip("/") if is_hub else self._fetcher.shown

    def revision(self) -> None:
        """None: of the Hub one commit was resolved already."""

    def listing(self) -> dict[str, int]:
        """Files that the manifest names, with their sizes; cards, where they are there."""
        try:
            texts = {MANIFEST_NAME: self._manifest} | self._texts
        except MissingFileError as error:
            raise InputError(
                f"{self.where} holds no store that is finished ({error}); check the address"
            ) from error
        return self._sizes | {name: len(content) for name, content in texts.items()}

    def blocks(self, name: str) -> Iterator[bytes]:
        """The content of a file; whole where a server gives no ranges of it."""
        if name == MANIFEST_NAME:
            yield self._manifest
        elif name in self._texts:
            yield self._texts[name]
        else:
            yield from self._ranges(name, self._sizes[name])

    def _ranges(self, name: str, size: int) -> Iterator[bytes]:
        for start in range(0, size, RANGE_BYTES):
            stop = min(start + RANGE_BYTES, size)
            try:
                yield self._fetcher.span(name, start, stop, size=size)
            except StoreError:
                if start:
                    raise
                yield self._fetcher.whole(name, limit=size)
                return

    @cached_property
    def _manifest(self) -> bytes:
        return self._fetcher.whole(MANIFEST_NAME, limit=MOST_TEXT_BYTES)

    @cached_property
    def _sizes(self) -> dict[str, int]:
        document = parsed_manifest(self._manifest, self.where)
        return {each.name: each.bytes for each in listed_files(document, self.where)}

    @cached_property
    def _texts(self) -> dict[str, bytes]:
        found = {}
        for name in NAMES_OF_TEXTS:
            try:
                found[name] = self._fetcher.whole(name, limit=MOST_TEXT_BYTES)
            except MissingFileError:
                continue
        return found
