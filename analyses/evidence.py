"""What a verdict goes by: the thresholds of the rule, and the numbers of a study."""

from dataclasses import dataclass
from math import ceil
from typing import SupportsFloat


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Thresholds of the verdict. They are written into the store before anything is captured.

    Raises:
        ValueError: If a number is outside of its range.
    """

    alpha: float = 0.05
    """Level of every test of all experts at once."""
    margin_in_even_shares: float = 0.5
    """Largest effect that counts as none, in units of an even share, `1 / n_experts`."""
    min_power: float = 0.8
    """Power to find an effect of the margin that the median expert must have."""
    min_matched_sets: int = 100
    """Random sets of experts that the found set must be compared with; all where fewer exist."""
    share_of_matched_sets: float = 0.95
    """Share of them whose interaction must lie below that of the found set."""

    def __post_init__(self) -> None:
        for name in ("alpha", "min_power", "share_of_matched_sets"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected between 0 and 1")
        if not 0 < self.margin_in_even_shares < float("inf"):
            raise ValueError(
                f"margin_in_even_shares is {self.margin_in_even_shares}, expected above 0 and "
                "finite"
            )
        if self.min_matched_sets < 1:
            raise ValueError(f"min_matched_sets is {self.min_matched_sets}, expected 1 or more")

    def needed_sets(self, n_possible: int) -> int:
        """Matched sets that are asked for where so many different ones exist (ours).

        All of them where these are fewer than `min_matched_sets`, and never fewer than let the
        share be seen: 20 for 95 %, so that one may be larger.
        """
        least = ceil(round(1 / (1 - self.share_of_matched_sets), 9))
        return max(min(self.min_matched_sets, n_possible), least)

    def margin(self, n_experts: int) -> float:
        """Largest effect that counts as none, as a share of routed slots."""
        return self.margin_in_even_shares / n_experts


RIGHT_ANSWERS = ("option", "letter", "greedy")
"""Outcomes that are a share of right answers; all others are nats per token."""


def unit_of_outcome(outcome: str) -> str:
    """What a damage or an interaction of this outcome is in, to stand after a number.

    Example:
        >>> unit_of_outcome("content"), unit_of_outcome("letter")
        ('nats per token', '(share of right answers)')
    """
    return "(share of right answers)" if outcome in RIGHT_ANSWERS else "nats per token"


def counted(count: SupportsFloat, noun: str) -> str:
    """A count with its noun, in the plural where it must be.

    Example:
        >>> counted(1, "source"), counted(1200, "token")
        ('1 source', '1,200 tokens')
    """
    return f"{float(count):,.0f} {noun}{'' if float(count) == 1 else 's'}"


@dataclass(frozen=True, kw_only=True)
class CausalEvidence:
    """What taking out the found experts did, beside everything it must be larger than."""

    outcome: str
    """What the damage is of, such as `content`; it decides the unit."""
    n_found: int
    """Experts that were found and taken out together."""
    interaction: float
    """Damage to benchmark prompts less damage to organic ones, in the unit of the outcome."""
    low: float
    """Lower end of its 95 % interval, whole items as the unit."""
    high: float
    """Upper end."""
    n_matched_sets: int
    """Matched random sets that were taken out in its place."""
    n_possible_sets: int
    """Different sets that there are to be drawn; 31 in the place of one expert of 32."""
    share_below: float
    """Share of them with a smaller interaction, 0 to 1."""
    largest_placebo: float
    """Largest interaction of all placebo contrasts, in the unit of the outcome; one that found no
    expert counts as 0; NaN if none was run."""
    n_placebos: int
    """Placebo contrasts that the suite has."""
    n_placebos_run: int
    """Of them, those with enough prompts to find experts in one half and test them in the other."""
    n_placebos_found: int
    """Of those, the ones that found an expert."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The numbers of a study that the rule reads."""

    n_sources: tuple[int, int]
    """Sources of benchmark and of organic prompts."""
    is_paired: bool
    """Half or more of a condition's prompts are of items that have both."""
    n_tested: int
    """Experts that were tested, over all layers."""
    power: float
    """Of the median expert, to find an effect of the margin beyond the surface; 0 to 1."""
    raw_p: float
    """Smallest max-T p of the raw effects; NaN if they could not be tested."""
    n_raw_outside: int
    """Experts whose raw 90 % interval is not inside the margin."""
    surface_p: float
    """Smallest max-T p of the surface-adjusted effects."""
    n_surface_outside: int
    """Experts whose surface-adjusted 90 % interval is not inside the margin."""
    n_confirmed: int
    """Experts found in one half of the sources or templates that held in the other."""
    largest_effect: float
    """Largest surface-adjusted effect of a confirmed expert, in usage share; NaN without one."""
    sham_effect: float
    """Largest surface-adjusted effect between wordings that mean the same, in usage share; NaN
    where the suite has no sham."""
    causal: CausalEvidence | None = None
    """None where no experiment was made."""
