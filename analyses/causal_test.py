"""The causal test of one contrast: the found set beside random sets and placebo contrasts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.analyses.evidence import CausalEvidence
from interp.analyses.interaction import Interaction, damage_per_slot
from interp.analyses.matched_sets import MatchedSets, expert_names

Expert = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ContrastTest:
    """What taking out the experts found for one contrast does to that contrast, on unseen prompts.

    The contrast of interest is benchmark against organic; the same is run for placebo contrasts,
    whose two sides stand in the places of benchmark and organic.
    """

    name: str
    """Such as `benchmark - organic` or `domain: code - advice`."""
    experts: tuple[Expert, ...]
    """The found set; empty if nothing was found."""
    interaction: Interaction | None
    """Of the set in the test half; None if nothing was found."""
    usage_slots: tuple[float, float]
    """Slots per token that went to the set, on the first and the second side of the contrast."""
    matched: Float[np.ndarray, "matched"]
    """Interactions of the matched sets; empty where none were run."""
    matched_sets: MatchedSets | None
    """The sets."""
    notes: tuple[str, ...] = ()
    """What could not be done and what must not be trusted, one sentence each."""
    is_run: bool = True
    """Whether experts were searched; not where the prompts could not be split into halves."""

    @property
    def value(self) -> float:
        """The interaction; 0 if nothing was found, since then nothing is taken out; NaN if not run.

        A contrast in which nobody searched has shown nothing, not even that nothing is there.
        """
        if self.interaction is None:
            return 0.0 if self.is_run else float("nan")
        return float(self.interaction.value[0])

    @property
    def share_below(self) -> float:
        """Share of matched sets with a smaller interaction, 0 to 1; NaN without one."""
        return float((self.matched < self.value).mean()) if len(self.matched) else float("nan")

    def row(self) -> dict[str, object]:
        """One row of the table `contrasts`."""
        missing = float("nan")
        found = self.interaction
        low, high = (missing, missing) if found is None else (e[0] for e in found.interval())
        damages = (missing, missing)
        if found is not None:
            damages = (float(found.damage_benchmark[0]), float(found.damage_organic[0]))
        per_slot = damage_per_slot(np.array(damages), np.array(self.usage_slots))
        return {
            "contrast": self.name,
            "experts": expert_names(self.experts),
            "n_found": len(self.experts),
            "damage_first": damages[0],
            "damage_second": damages[1],
            "damage_per_slot_first": float(per_slot[0]),
            "damage_per_slot_second": float(per_slot[1]),
            "interaction": self.value,
            "interaction_low": float(low),
            "interaction_high": float(high),
            "p_greater": missing if found is None else float(found.p_greater()[0]),
            "n_items": 0 if found is None else found.n_items,
            "n_matched": len(self.matched),
            "share_below": self.share_below,
            "notes": " ".join(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class CausalTest:
    """Everything that the last rung of the ladder needs, of one outcome and one intervention."""

    outcome: str
    """Such as `content`: what the damage is of."""
    intervention: str
    """Such as `reroute`: how experts were taken out."""
    main: ContrastTest
    """Benchmark against organic."""
    placebos: tuple[ContrastTest, ...]
    """The same pipeline on contrasts that are not of interest."""
    found_under_placebos: Float[np.ndarray, "placebos"]
    """Interaction of the main contrast's found set under each placebo contrast, in the test half;
    NaN if nothing was found. It describes the set and is no placebo: nothing was searched for this
    contrast, and experts that benchmark prompts need may well be needed in one domain more than in
    another. The rule does not read it."""
    notes: tuple[str, ...]
    """What was left out, one sentence each."""

    @property
    def largest_placebo(self) -> float:
        """Largest interaction of the placebos; 0 where they found nothing, NaN if none was run."""
        return max((each.value for each in self.placebos if each.is_run), default=float("nan"))

    def evidence(self) -> CausalEvidence:
        """The numbers that the rule of the ladder reads."""
        row = self.main.row()
        return CausalEvidence(
            outcome=self.outcome,
            n_found=len(self.main.experts),
            interaction=self.main.value,
            low=float(str(row["interaction_low"])),
            high=float(str(row["interaction_high"])),
            n_matched_sets=len(self.main.matched),
            n_possible_sets=0
            if self.main.matched_sets is None
            else self.main.matched_sets.n_possible,
            share_below=self.main.share_below,
            largest_placebo=self.largest_placebo,
            n_placebos=len(self.placebos),
            n_placebos_run=sum(each.is_run for each in self.placebos),
            n_placebos_found=sum(len(each.experts) > 0 for each in self.placebos),
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per contrast, the main one first."""
        rows = [each.row() for each in (self.main, *self.placebos)]
        own = [self.main.value if self.main.experts else float("nan")]
        return pd.DataFrame(rows).assign(
            role=["main", *["placebo"] * len(self.placebos)],
            interaction_of_main_set=[*own, *self.found_under_placebos.tolist()],
            outcome=self.outcome,
            intervention=self.intervention,
        )


def additive_damage(
    single: Float[np.ndarray, "layers experts prompts"],
    sets: Sequence[Sequence[Expert]],
    *,
    layer_indices: Sequence[int],
) -> Float[np.ndarray, "sets prompts"]:
    """Damage of sets as the sum of the damages of their members alone (ours).

    For a table of single knockouts where sets cannot be run. Experts that stand in for each other
    do more damage together than apart; it is then too low.
    """
    place = {layer: index for index, layer in enumerate(layer_indices)}
    rows = [
        sum((single[place[layer], expert] for layer, expert in each), np.zeros(single.shape[2]))
        for each in sets
    ]
    return np.array(rows).reshape(len(sets), single.shape[2])
