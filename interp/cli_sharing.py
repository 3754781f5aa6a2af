"""The commands that verify, share, fetch and compare stores."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from interp.cli_options import Json, say


def verify(store: Path, /, *, json: Json = False) -> None:
    """Read all of a store and compare it with its digests and its format; exit code 3 at a fault.

    Args:
        store: The store, such as run.moe.
    """
    from dataclasses import asdict

    from interp.cache.verify import verify as verify_store

    say({"store": str(store)} | asdict(verify_store(store)) | {"result": "sound"}, json)


def push(
    store: Path,
    target: str,
    /,
    *,
    tier: str | None = None,
    license: str | None = None,  # noqa: A002 - the word of the field on the Hub
    minimum_count: int = 5,
    public: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> None:
    """Share a finished store; a second push moves only what changed, a broken one goes on.

    Args:
        store: The store, such as run.moe.
        target: hf://datasets/USER/NAME, s3://BUCKET/PREFIX or a folder.
        tier: full, no_text or aggregate; that of the store if not given.
        license: Of the store, for its card, such as cc-by-4.0.
        minimum_count: In the tiers no_text and aggregate, smaller counts are left out.
        public: Let all see a dataset that is made on the Hub.
    """
    from interp.cache.sharing import push as push_store

    found = push_store(
        store, target, tier=tier, license=license, minimum_count=minimum_count, is_public=public
    )
    moved = {"files_sent": len(found.moved), "files_kept": len(found.kept)}
    facts = {"url": found.url, "tier": found.tier} | moved | {"bytes_sent": found.bytes_moved}
    say(facts | {"revision": found.revision or "", "this_tier_still_leaks": found.leaks}, json)


def pull(url: str, folder: Path, /, *, json: Json = False) -> None:
    """Fetch a shared store and verify it against its manifest; a broken pull goes on.

    Args:
        url: hf://datasets/USER/NAME, with @REVISION if wanted, s3://BUCKET/PREFIX or a folder.
        folder: Where to put it, such as copy.moe.
    """
    from interp.cache.sharing import pull as pull_store

    say({"store": str(pull_store(url, folder))}, json)


def diff(first: Path, second: Path, /, *, json: Json = False) -> None:
    """Say in what two stores differ; exit code 0 also where they do.

    Args:
        first: A store.
        second: Another.
    """
    from dataclasses import asdict

    from interp.cache.diff import diff as compare

    found = compare(first, second)
    if json:
        say(asdict(found) | {"is_same": found.is_same}, json)
        return
    sys.stdout.write("".join(f"{line}\n" for line in found.lines()))
