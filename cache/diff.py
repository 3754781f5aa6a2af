"""In what two stores differ."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.cache.diff_digests import Side, vocabularies_differ
from interp.cache.diff_prompts import Differing, Match, compared, matched
from interp.cache.diff_usage import Table, compared_tables, matched_tables
from interp.cache.manifest import layout_from_json, same_layout
from interp.cache.reader import Store
from interp.cache.share_files import USAGE_NAME, usage_manifest
from interp.cache.sources import store_source
from interp.cache.usage_table import read_usage

MISSING = "(not there)"
LONGEST = 60
_COUNTED = {
    "labels": "labels",
    "texts": "texts",
    "tokens": "tokens",
    "token_facts": "segments, who wrote a token, log-probabilities, ends in the text",
    "routing": "routing",
    "router_logits": "router logits",
    "expert_output_norms": "norms of expert outputs",
    "residuals": "residuals",
}


@dataclass(frozen=True, kw_only=True)
class FieldDifference:
    """One field that two stores have differently."""

    name: str
    """Dotted where it lies within another, such as `settings.sites`."""
    a: Any
    b: Any


@dataclass(frozen=True, kw_only=True)
class StoreDiff:
    """In what store `a` and store `b` differ."""

    tiers: tuple[str, str]
    layout: tuple[FieldDifference, ...]
    """Layers that have residuals too; of tables of usage what they say beside their counts."""
    provenance: tuple[FieldDifference, ...]
    """All but the settings of the capture."""
    settings: tuple[FieldDifference, ...]
    self_check: tuple[FieldDifference, ...]
    """What the captures checked before they wrote anything."""
    vocabulary_differs: bool
    """Whether ids that are local to their store mean other texts."""
    n_prompts: tuple[int, int]
    prompts_matched_by: str
    """`prompt_id`; `routing` or `counts` where ids are running numbers, as without text; `nothing`
    where there is nothing to match them by."""
    prompts_only_in_a: tuple[str, ...]
    prompts_only_in_b: tuple[str, ...]
    prompts_shared: int
    prompts_order_differs: bool
    parts_shared: int
    """Parts with the same SHA-256 in both."""
    parts_only_in_a: tuple[str, ...]
    parts_only_in_b: tuple[str, ...]
    differing: Differing
    """How many of the shared prompts differ, and in what."""

    @property
    def is_same(self) -> bool:
        """Whether nothing differs but the division into parts and the time."""
        fields = (self.layout, self.provenance, self.settings, self.self_check)
        prompts = (self.prompts_only_in_a, self.prompts_only_in_b, self.prompts_order_differs)
        return (
            self.tiers[0] == self.tiers[1]
            and self.n_prompts[0] == self.n_prompts[1]
            and self.prompts_matched_by != "nothing"
            and not any(
                (*fields, *prompts, *vars(self.differing).values(), self.vocabulary_differs)
            )
        )

    def lines(self) -> Iterator[str]:
        """What to show a person, one finding a line."""
        if self.is_same:
            yield f"The stores hold the same: {self.n_prompts[0]:,} prompts."
            return
        if self.tiers[0] != self.tiers[1]:
            yield f"tier: {self.tiers[0]} | {self.tiers[1]}"
        for kind in ("layout", "settings", "provenance", "self_check"):
            for each in getattr(self, kind):
                yield f"{kind} {each.name}: {shown(each.a)} | {shown(each.b)}"
        if self.vocabulary_differs:
            yield "vocabulary: ids have other texts"
        yield from self._prompt_lines()
        yield (
            f"parts: {self.parts_shared:,} in both, {len(self.parts_only_in_a):,} only in the "
            f"first, {len(self.parts_only_in_b):,} only in the second"
        )
        for name, found in vars(self.differing).items():
            told = "nothing to compare" if found is None else f"{found:,} prompts differ"
            yield f"{_COUNTED[name]}: {told}"

    def _prompt_lines(self) -> Iterator[str]:
        if self.prompts_matched_by == "nothing":
            yield (
                f"prompts: {self.n_prompts[0]:,} | {self.n_prompts[1]:,}, which cannot be matched, "
                "as the stores share nothing that would tell them apart"
            )
            return
        yield (
            f"prompts: {self.prompts_shared:,} in both, {len(self.prompts_only_in_a):,} only in "
            f"the first, {len(self.prompts_only_in_b):,} only in the second"
        )
        if self.prompts_matched_by != "prompt_id":
            yield f"prompts are matched by equal {self.prompts_matched_by}: their ids are numbers"
        if self.prompts_order_differs:
            yield "prompts: those in both stand in another order"


def diff(a: str | Path, b: str | Path) -> StoreDiff:
    """Compare two stores: what they say of themselves, and prompt by prompt what they hold.

    Stores that list the same parts are not read further; `interp verify` says whether they hold
    what they list.

    Args:
        a: Path or URL of a store; of the tier `aggregate` a path.
        b: Likewise.

    Raises:
        InputError: If there is no store.
        StoreError: If one is unfinished or damaged.
    """
    first, second = _opened(a), _opened(b)
    said, other = _said(first), _said(second)
    match, differing, is_vocabulary = Match(by="nothing"), Differing(), False
    if list(said.parts) == list(other.parts):
        rows = tuple((row, row) for row in range(said.n_prompts))
        match, differing = Match(by="prompt_id", pairs=rows), _unread(first)
    elif isinstance(first, Table) and isinstance(second, Table):
        match = matched_tables(first, second)
        differing = compared_tables(first, second, match)
    elif isinstance(first, Side) and isinstance(second, Side):
        match = matched(first, second)
        differing = compared(first, second, match)
        is_vocabulary = vocabularies_differ(first, second)
    facts = _facts(said.provenance), _facts(other.provenance)
    checks = {"self_check": said.self_check}, {"self_check": other.self_check}
    return StoreDiff(
        tiers=(said.tier, other.tier),
        layout=differences(said.layout, other.layout),
        provenance=differences(facts[0][0], facts[1][0]),
        settings=differences(facts[0][1], facts[1][1]),
        self_check=differences(*checks),
        vocabulary_differs=is_vocabulary,
        n_prompts=(said.n_prompts, other.n_prompts),
        prompts_matched_by=match.by,
        prompts_only_in_a=match.only_in_a,
        prompts_only_in_b=match.only_in_b,
        prompts_shared=len(match.pairs),
        prompts_order_differs=match.order_differs,
        parts_shared=len(said.parts.keys() & other.parts.keys()),
        parts_only_in_a=tuple(said.parts[key] for key in said.parts if key not in other.parts),
        parts_only_in_b=tuple(other.parts[key] for key in other.parts if key not in said.parts),
        differing=differing,
    )


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[FieldDifference, ...]:
    """Fields that differ, within others too; 1 and true differ, as they do in JSON."""
    found: list[FieldDifference] = []
    for name in sorted(set(a) | set(b)):
        ours, theirs = a.get(name, MISSING), b.get(name, MISSING)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            within = differences(ours, theirs)
            found += [
                FieldDifference(name=f"{name}.{each.name}", a=each.a, b=each.b) for each in within
            ]
        elif json.dumps(ours, sort_keys=True) != json.dumps(theirs, sort_keys=True):
            found.append(FieldDifference(name=name, a=ours, b=theirs))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class _Said:
    """What a store says of itself."""

    tier: str
    layout: dict[str, Any]
    provenance: Mapping[str, Any]
    self_check: Any
    n_prompts: int
    parts: Mapping[str, str]
    """Names by SHA-256."""


def _opened(place: str | Path) -> Side | Table:
    manifest = None if "://" in str(place) else usage_manifest(Path(place))
    if manifest is not None:
        return Table(manifest=manifest, usage=read_usage(Path(place)))
    source = store_source(place, trusted=None, storage_options=None)
    return Side(store=Store(source), source=source)


def _said(opened: Side | Table) -> _Said:
    if isinstance(opened, Table):
        manifest = opened.manifest
        usage = {name: manifest["usage"].get(name) for name in ("minimum_count",)}
        kinds = {"prompts_by_kind": manifest.get("prompts_by_kind")}
        return _Said(
            tier="aggregate",
            layout=same_layout(layout_from_json(manifest["layout"])) | usage | kinds,
            provenance=manifest.get("provenance") or {},
            self_check=manifest.get("self_check"),
            n_prompts=int(manifest["n_prompts"]),
            parts={manifest["usage"]["sha256"]: USAGE_NAME},
        )
    store = opened.store
    resid_layers = {site: list(layers) for site, layers in store.resid_layers.items()}
    return _Said(
        tier=opened.tier,
        layout=same_layout(store.layout) | {"resid_layers": resid_layers},
        provenance=store.provenance,
        self_check=store.manifest.get("self_check"),
        n_prompts=len(store.prompts),
        parts={part["sha256"]: part["name"] for part in store.manifest["parts"]},
    )


def _unread(opened: Side | Table) -> Differing:
    """What is equal, since the parts are."""
    if isinstance(opened, Table):
        return Differing(labels=0)
    layout, has_text = opened.store.layout, opened.tier == "full"
    return Differing(
        labels=0,
        texts=0 if has_text else None,
        tokens=0 if has_text else None,
        token_facts=0,
        routing=0,
        router_logits=0 if layout.router_logits else None,
        expert_output_norms=0 if layout.expert_output_norms else None,
        residuals=0 if layout.resid_sites else None,
    )


def _facts(provenance: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Provenance without the settings, and these."""
    settings = provenance.get("settings")
    if not isinstance(settings, Mapping):
        return dict(provenance), {}
    return {name: each for name, each in provenance.items() if name != "settings"}, settings


def shown(value: Any) -> str:
    """A value for a line of text, cut where it is long."""
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
