"""Tables of usage (tier `aggregate`) matched and compared prompt by prompt."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interp.cache.diff_prompts import Differing, Match, labels_differ, match_by


@dataclass(frozen=True, kw_only=True)
class Table:
    """One of the two stores."""

    manifest: Mapping[str, Any]
    usage: pd.DataFrame
    """As `read_usage` gives it."""

    def prompts(self) -> pd.DataFrame:
        """One row per prompt that has a count, in the order of the table."""
        labels = self.usage.drop_duplicates("prompt").rename(columns={"item": "item_id"})
        return labels.reset_index(drop=True)

    def digests(self) -> list[bytes]:
        """Of the counts of each of `prompts`, in whatever order the table has them."""
        cells = self.usage.sort_values(["layer", "expert"], kind="stable")
        found = {
            name: hashlib.sha256(own[["layer", "expert", "count"]].to_numpy().tobytes()).digest()
            for name, own in cells.groupby("prompt", sort=False)
        }
        return [found[name] for name in self.prompts()["prompt"]]


def matched_tables(a: Table, b: Table) -> Match:
    """Match prompts by equal counts, since their names are running numbers."""
    names = [each.prompts()["prompt"].astype(str).tolist() for each in (a, b)]
    return match_by("counts", a.digests(), b.digests(), *names)


def compared_tables(a: Table, b: Table, match: Match) -> Differing:
    """The counts are equal, as the prompts are matched by them; labels may differ."""
    return Differing(labels=labels_differ(a.prompts(), b.prompts(), match))
