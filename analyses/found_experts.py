"""Which experts an experiment takes out: used more under benchmark, and needed more there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from interp.analyses.interaction import Interaction
from interp.analyses.jackknife import Jackknife, q_values

ALPHA = 0.05
"""Level of both searches, after Benjamini and Hochberg."""
Expert = tuple[int, int]
"""Layer, by its number in the model, and expert."""


@dataclass(frozen=True, kw_only=True)
class FoundExperts:
    """Experts of the discovery half, in the order in which taking each out alone did most."""

    experts: tuple[Expert, ...]
    """The found set; largest own interaction first."""
    candidates: tuple[Expert, ...]
    """Experts that are used more under benchmark, of which the set was chosen."""
    usage_effect: Float[np.ndarray, "candidates"]
    """Surface-adjusted effect of the condition, as a share of routed slots."""
    usage_q: Float[np.ndarray, "candidates"]
    """One-sided, over all experts of the model."""
    interaction: Float[np.ndarray, "candidates"]
    """Of taking this one expert out."""
    p_greater: Float[np.ndarray, "candidates"]
    """One-sided p-value of the interaction."""
    interaction_q: Float[np.ndarray, "candidates"]
    """Over the candidates."""

    def to_frame(self) -> pd.DataFrame:
        """One row per candidate."""
        return pd.DataFrame(
            {
                "layer": [layer for layer, _ in self.candidates],
                "expert": [expert for _, expert in self.candidates],
                "usage_effect": self.usage_effect,
                "usage_q": self.usage_q,
                "interaction": self.interaction,
                "p_greater": self.p_greater,
                "interaction_q": self.interaction_q,
                "is_found": [each in self.experts for each in self.candidates],
            }
        )


def used_more(
    usage: Sequence[Jackknife], *, alpha: float = ALPHA, margin: float = 0.0
) -> tuple[Bool[np.ndarray, "columns"], Float[np.ndarray, "columns"]]:
    """Columns with a surface-adjusted effect above `margin`, and their one-sided q.

    One-sided, because slots sum to 1: where some experts are used more others are used less, and
    nothing follows for what these do. Above a margin, because with enough prompts every expert is
    used a little more or less; an effect that the verdict calls none finds nothing here.

    Args:
        usage: Of the discovery half, one for each kind of cluster; the largest p counts.
        alpha: Level after Benjamini and Hochberg over all columns.
        margin: Largest effect that counts as none, in the unit of the effects.
    """
    sign = np.ones_like(usage[0].effect)
    beyond = [replace(each, effect=each.effect - margin) for each in usage]
    p_value = np.fmax.reduce([each.one_sided_p_value(sign) for each in beyond])
    q = q_values(np.asarray(p_value))
    return (q <= alpha) & (usage[0].effect > margin), q


def needed_more(
    candidates: Sequence[Expert],
    own: Interaction | None,
    *,
    usage_effect: Float[np.ndarray, "candidates"],
    usage_q: Float[np.ndarray, "candidates"],
    alpha: float = ALPHA,
    margin: float = 0.0,
) -> FoundExperts:
    """Candidates whose own knockout hurts benchmark prompts more, after Benjamini and Hochberg.

    Two searches, one after the other (ours): the second corrects for the candidates alone, so that
    a model with thousands of experts needs as many knockouts as it has candidates. Both use the
    discovery half; whatever is said of the set must come from prompts of the other.

    Args:
        candidates: From `used_more`, as layer and expert.
        own: Interaction of each candidate's own knockout in the discovery half, in this order;
            None where there is no candidate.
        usage_effect: Of each candidate.
        usage_q: Likewise.
        alpha: Level of the second search.
        margin: Interaction that is too small to count, in the unit of the damage.
    """
    missing = np.full(0, np.nan)
    p_value = missing if own is None else own.p_greater(margin)
    value = missing if own is None else own.value
    q = q_values(p_value)
    found = np.flatnonzero((q <= alpha) & (value > margin))
    ordered = found[np.argsort(-value[found], kind="stable")]
    return FoundExperts(
        experts=tuple(candidates[each] for each in ordered),
        candidates=tuple(candidates),
        usage_effect=usage_effect,
        usage_q=usage_q,
        interaction=value,
        p_greater=p_value,
        interaction_q=q,
    )
