"""Routing patched between the wordings of an item: does the route alone change what is said?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.analyses.interaction import interaction_of_damage
from interp.cache.reader import Store
from interp.experiment_ledger import Ledger
from interp.experiment_subjects import Subjects

if TYPE_CHECKING:
    from interp.hooks.measures import Measure

SOURCES = ("unpatched", "other", "sham")
"""Where the routing comes from: the prompt's own, that of the item's other wording in the other
register, or that of another wording in the same register."""
LEAST_ITEMS = 3


@dataclass(frozen=True, kw_only=True)
class Quartet:
    """Rows of one item's prompts among the subjects; -1 where there is none."""

    target: int
    """The prompt that is run."""
    other: int
    """The same item in the other register."""
    sham: int
    """The same item in other words of the same register."""


def patch_table(
    store: Store, subjects: Subjects, model: Any, measure: "Measure", *, ledger: Ledger
) -> pd.DataFrame:
    """Damage of routing a prompt's shared words as in the other register, and as in its sham.

    For each item and both directions: the prompt is run with the experts and weights that the
    tokens it shares with the item's other prompt had there (longest common subsequence of content
    tokens, all layers), and its own content is scored. The control is the same with the routing of
    the sham, another wording of the same register, which shares about as much. The estimand is the
    first damage less the second, per item, with a t interval over items.

    Prompts are run alone, since a patch is of one prompt; so is the usual run they are compared
    with.

    Args:
        store: Holds the routing of every prompt.
        subjects: The prompts.
        model: The model that the store was captured with.
        measure: Of outcome `content`.
        ledger: Keeps what was run.

    Returns:
        One row per direction: mean damages, the difference with its interval, and the mean share of
        content tokens that was patched. Empty where fewer than 3 items have all three wordings.
    """
    from interp.hooks.patched_outcomes import shared_content

    texts = {text.prompt: text for text in measure.texts}
    rows = []
    for condition in ("benchmark", "organic"):
        quartets = [
            each
            for each in quartets_of(subjects, condition)
            if all(
                shared_content(texts[source], texts[each.target]) is not None
                for source in (each.other, each.sham)
            )
        ]
        if len(quartets) < LEAST_ITEMS:
            continue
        outcomes = _outcomes(store, subjects, model, texts, quartets, condition, ledger)
        rows.append(_row(subjects, condition, quartets, outcomes, texts))
    return pd.DataFrame(rows)


def quartets_of(subjects: Subjects, condition: str) -> list[Quartet]:
    """Items that have this condition twice (a wording and its sham) and the other condition."""
    found = []
    table = subjects.prompts.assign(place=np.arange(len(subjects.prompts)))
    is_sham = table["variant"].astype(str).str.endswith("-sham")
    for _, group in table.groupby("item_id", sort=False):
        mine = group["condition"] == condition
        target = group.loc[mine & ~is_sham[group.index], "place"]
        other = group.loc[~mine & ~is_sham[group.index], "place"]
        sham = group.loc[mine & is_sham[group.index], "place"]
        if len(target) and len(other) and len(sham):
            places = (int(each.iloc[0]) for each in (target, other, sham))
            found.append(Quartet(**dict(zip(("target", "other", "sham"), places, strict=True))))
    return found


def _outcomes(
    store: Store,
    subjects: Subjects,
    model: Any,
    texts: Mapping[int, Any],
    quartets: list[Quartet],
    condition: str,
    ledger: Ledger,
) -> Float[np.ndarray, "sources prompts"]:
    """Outcome of every target under each source of routing; NaN for other prompts."""
    from interp.hooks.patched_outcomes import patched_logprob, shared_content

    def measured(name: str) -> Float[np.ndarray, "prompts"]:
        outcome = np.full(len(subjects.prompts), np.nan)
        for each in quartets:
            text = texts[each.target]
            if name == "unpatched":
                outcome[each.target] = patched_logprob(model, text)
                continue
            source = getattr(each, name)
            records = store.router(prompts=subjects.row[[source]])
            shared = shared_content(texts[source], text)
            outcome[each.target] = patched_logprob(model, text, records=records, shared=shared)
        return outcome

    wanted = [(f"patch {condition} {name}", lambda name=name: name) for name in SOURCES]
    return ledger.run(wanted, measured)


def _row(
    subjects: Subjects,
    condition: str,
    quartets: list[Quartet],
    outcomes: Float[np.ndarray, "sources prompts"],
    texts: Mapping[int, Any],
) -> dict[str, Any]:
    from interp.hooks.patched_outcomes import shared_content

    target = np.array([each.target for each in quartets])
    damage = outcomes[0, target] - outcomes[1:, target]
    item: Int[np.ndarray, items] = np.arange(len(quartets))
    found = interaction_of_damage(
        np.concatenate([damage[0], damage[1]])[None],
        benchmark=np.repeat([True, False], len(quartets)),
        item=np.tile(item, 2),
    )
    low, high = found.interval()
    share = {
        name: np.mean(
            [
                len(shared_content(texts[getattr(each, name)], texts[each.target]) or ())
                / len(texts[each.target].scored)
                for each in quartets
            ]
        )
        for name in ("other", "sham")
    }
    return {
        "target": condition,
        "damage_other": float(damage[0].mean()),
        "damage_sham": float(damage[1].mean()),
        "difference": float(found.value[0]),
        "difference_low": float(low[0]),
        "difference_high": float(high[0]),
        "p_greater": float(found.p_greater()[0]),
        "share_patched_other": float(share["other"]),
        "share_patched_sham": float(share["sham"]),
        "n_items": len(quartets),
    }
