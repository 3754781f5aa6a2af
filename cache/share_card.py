"""The card of a shared store, with the YAML that the Hub reads."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interp.cache.card import cell, prompt_table, sizes, stored_sites
from interp.cache.records import Layout
from interp.cache.share_files import SharedFile
from interp.cache.tiers import LEAKS

TAGS = ("mixture-of-experts", "interpretability", "router", "moe-interp")
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LONGEST = 120

_TEMPLATE = """---
{front}
---

# {name}

{summary}

{leaks}

## Prompts

{table}

## Load it

No torch is needed; {install}.

```python
{example}
```

## Files

{files}

## Provenance

{provenance}

The layout is documented in `docs/format.md` of moe-interp, the tiers in `docs/sharing.md`.
"""

_EXAMPLE = """from interp.cache import open_store
{pull}
store = open_store({store})
routing = store.router(layers=[{layer}])
print(store.prompts.head(), routing.expert_indices.shape)"""

_USAGE_EXAMPLE = """from pathlib import Path

{pull}from interp.cache.usage_table import read_usage

usage = read_usage(Path({store}))
print(usage.groupby(["condition", "layer", "expert"])["count"].sum())"""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What the card and the metadata are made of."""

    name: str
    url: str | None
    """Where it is pulled from; what is no URL, such as the name of a folder, is not passed on."""
    tier: str
    created: str
    """ISO 8601."""
    layout: Layout
    provenance: Mapping[str, Any]
    prompts: Mapping[tuple[str, str], int]
    """Counted by condition and source."""
    tokens: Mapping[tuple[str, str], int] | None
    """Likewise; None where the tier does not say."""
    files: Sequence[SharedFile]
    license: str | None = None
    source_licenses: Mapping[str, str] | None = None
    """By source; taken from the provenance where that has them."""

    @property
    def address(self) -> str | None:
        """The URL that a reader can use; None for a folder, which each reader has elsewhere."""
        return self.url if self.url is not None and "://" in self.url else None


def shared_card(shared: Shared) -> str:
    """The README.md of a shared store."""
    model = cell(shared.provenance.get("model", "an unnamed model"))
    n_tokens = "" if shared.tokens is None else f" {sum(shared.tokens.values()):,} tokens,"
    stored = (
        "Counts of chosen experts" if shared.tier == "aggregate" else stored_sites(shared.layout)
    )
    n_prompts = sum(shared.prompts.values())
    megabytes = sum(each.bytes for each in shared.files) / 1e6
    return _TEMPLATE.format(
        front=_front_matter(shared),
        name=cell(shared.name),
        summary=f"{stored} of {model}, stored by moe-interp: {n_prompts:,} prompts,{n_tokens} "
        f"{sizes(shared.layout)}; {megabytes:.1f} MB.",
        leaks=LEAKS[shared.tier],
        table=prompt_table(shared.prompts, shared.tokens, licences=_licences(shared)),
        install="`pip install 'moe-interp[hub]'`"
        if shared.address
        else "`pip install moe-interp`, and run this in the folder of this file",
        example=_example(shared),
        files="| file | bytes | SHA-256 |\n|---|---:|---|\n"
        + "\n".join(f"| {each.name} | {each.bytes:,} | `{each.sha256}` |" for each in shared.files),
        provenance=_provenance_table(shared.provenance),
    )


def _front_matter(shared: Shared) -> str:
    """Values as JSON, which YAML reads as they stand."""
    license_id, lines = stated_license(shared), []
    is_id = license_id is not None and re.fullmatch(r"[a-z0-9.-]+", license_id.lower())
    if license_id is None or is_id:
        lines.append(f"license: {json.dumps((license_id or 'unknown').lower())}")
    else:
        lines += ["license: other", f"license_name: {json.dumps(license_id)}"]
    n_prompts = sum(shared.prompts.values())
    size = next((name for limit, name in SIZES if n_prompts < limit), "n>1M")
    lines += [
        f"pretty_name: {json.dumps(shared.name)}",
        f"tags: {json.dumps([*TAGS, f'tier-{shared.tier}'])}",
        f"size_categories: {json.dumps([size])}",
        "viewer: false",
    ]
    return "\n".join(lines)


def _example(shared: Shared) -> str:
    """Code that runs as it stands; for what has no address, within its folder."""
    folder = json.dumps(f"{shared.name}.moe")
    pulled = "from interp.cache.sharing import pull\n"
    store = f"pull({json.dumps(shared.address)}, {folder})"
    if shared.address is None:
        pulled, store = "", '"."'
    if shared.tier == "aggregate":
        return _USAGE_EXAMPLE.format(pull=pulled, store=store)
    return _EXAMPLE.format(pull=pulled, store=store, layer=shared.layout.layer_indices[0])


def stated_license(shared: Shared) -> str | None:
    """Of the store as a whole; None where nobody said."""
    stated = shared.license or shared.provenance.get("license")
    return str(stated) if stated else None


def _licences(shared: Shared) -> dict[str, str]:
    """What is known of each source; the licence of an imported record holds for its prompts too."""
    known = shared.provenance.get("source_licenses")
    found = dict(known) if isinstance(known, Mapping) else {}
    if shared.provenance.get("recorded") == "elsewhere" and shared.provenance.get("license"):
        of_records = f"{shared.provenance['license']} (of the records)"
        found = {source: of_records for _, source in shared.prompts} | found
    return found | dict(shared.source_licenses or {})


def _provenance_table(provenance: Mapping[str, Any]) -> str:
    """What fits a line; the rest is in the parts and the manifest."""
    facts = {
        name: value
        for name, value in sorted(provenance.items())
        if isinstance(value, str | int | float) and name != "chat_template"
    }
    versions = provenance.get("versions")
    if isinstance(versions, Mapping):
        facts["versions"] = ", ".join(f"{name} {value}" for name, value in sorted(versions.items()))
    rows = [f"| {cell(name)} | {cell(str(value)[:_LONGEST])} |" for name, value in facts.items()]
    return "\n".join(["| what | value |", "|---|---|", *rows])
