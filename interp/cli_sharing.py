"""The commands that verify, share, fetch and compare stores."""

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from interp.cache.errors import InputError
from interp.cli_options import Json, Several, say


def verify(store: str, /, *, json: Json = False) -> None:
    """Read all of a store and compare it with its digests and its format; exit code 3 at a fault.

    Args:
        store: The store, such as run.moe, or a part of one.
    """
    from dataclasses import asdict

    from interp.cache.verify import verify as verify_store

    found = {name: each for name, each in asdict(verify_store(store)).items() if each is not None}
    say({"store": store} | found | {"result": "sound"}, json)


def push(
    store: Path,
    target: str,
    /,
    *,
    tier: str | None = None,
    license: str | None = None,  # noqa: A002 - the word of the field on the Hub
    source_license: Annotated[list[str] | None, Several] = None,
    minimum_count: int = 5,
    replace: Annotated[bool, Parameter(negative="")] = False,
    scratch: Path | None = None,
    public: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> None:
    """Share a finished store; a second push moves only what changed, a broken one goes on.

    Args:
        store: The store, such as run.moe.
        target: hf://datasets/USER/NAME, s3://BUCKET/PREFIX or a folder.
        tier: full, no_text or aggregate; that of the store if not given.
        license: Of the store, for its card, such as cc-by-4.0.
        source_license: Of the prompts of a source, for the card, such as gsm8k=mit.
        minimum_count: In the tiers no_text and aggregate, smaller counts are left out.
        replace: Let a folder or bucket lose another capture that it holds.
        scratch: Folder for the copy that a smaller tier needs; beside the store if not given.
        public: Let all see a dataset that is made on the Hub.
    """
    from interp.cache.sharing import push as push_store

    found = push_store(
        store,
        target,
        tier=tier,
        license=license,
        source_licenses=licences_by_source(source_license or []),
        minimum_count=minimum_count,
        replace=replace,
        scratch=scratch,
        is_public=public,
    )
    moved = {"files_sent": len(found.moved), "files_kept": len(found.kept)}
    facts = {"url": found.url, "tier": found.tier} | moved | {"bytes_sent": found.bytes_moved}
    if found.replaced:
        facts["replaced_another_capture"] = "; ".join(found.replaced)
    say(facts | {"revision": found.revision or "", "this_tier_still_leaks": found.leaks}, json)


def pull(url: str, folder: Path, /, *, json: Json = False) -> None:
    """Fetch a shared store and verify it against its manifest; a broken pull goes on.

    Args:
        url: hf://datasets/USER/NAME, with @REVISION if wanted, s3://BUCKET/PREFIX, an address of
            a web server (https://), or a folder.
        folder: Where to put it, such as copy.moe.
    """
    from interp.cache.sharing import pull as pull_store

    say({"store": str(pull_store(url, folder))}, json)


def diff(first: str, second: str, /, *, json: Json = False) -> None:
    """Say in what two stores differ; exit code 0 also where they do.

    Args:
        first: A store, such as run.moe or hf://datasets/USER/NAME.
        second: Another.
    """
    from dataclasses import asdict

    from interp.cache.diff import diff as compare

    found = compare(first, second)
    if json:
        say(asdict(found) | {"is_same": found.is_same}, json)
        return
    sys.stdout.write("".join(f"{line}\n" for line in found.lines()))


def licences_by_source(given: list[str]) -> dict[str, str]:
    """Licences by source, from `SOURCE=LICENCE` each.

    Raises:
        InputError: If one has another form.
    """
    pairs = [each.rpartition("=") for each in given]
    wrong = [
        each for each, (name, _, known) in zip(given, pairs, strict=True) if not name or not known
    ]
    if wrong:
        raise InputError(f"--source-license is {wrong[0]!r}, expected SOURCE=LICENCE, as gsm8k=mit")
    return {name: known for name, _, known in pairs}


def usage_facts(store: str) -> dict[str, Any] | None:
    """What a store of the tier aggregate holds; None where it is anything else."""
    from interp.cache.share_files import usage_manifest

    manifest = None if "://" in store else usage_manifest(Path(store))
    if manifest is None:
        return None
    kinds = {f"{condition} / {source}": n for condition, source, n in manifest["prompts_by_kind"]}
    return {
        "store": store,
        "model": manifest["provenance"].get("model", "unknown"),
        "tier": "aggregate",
        "prompts": manifest["n_prompts"],
        "prompts_by_condition_and_source": kinds,
        "smallest_count": manifest["usage"].get("minimum_count", "unknown"),
        **manifest["layout"],
    }
