"""The ladder of claims: from the numbers of a study to its rung, by a rule fixed beforehand."""

from dataclasses import dataclass
from math import isnan

import pandas as pd

from interp.analyses.evidence import CausalEvidence, Evidence, Rule, counted, unit_of_outcome

RUNGS = ("insufficient", "no_difference", "surface", "associational", "causal")
"""What a study may claim, least first."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One question of the rule and its answer."""

    rung: str
    """Rung that the step decides."""
    asks: str
    """What must hold."""
    found: str
    """What was found, with its numbers."""
    holds: bool
    """Whether it does."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Where on the ladder a study stands, and why."""

    rung: str
    """One of `RUNGS`."""
    sentence: str
    """What may be said, and the first thing that stood in the way of saying more."""
    steps: tuple[Step, ...]
    """Every question of the rule with its answer, also those after the first match."""

    def to_frame(self) -> pd.DataFrame:
        """One row per question."""
        return pd.DataFrame([vars(step) for step in self.steps])


def climb(evidence: Evidence, *, n_experts: int, rule: Rule | None = None) -> Verdict:
    """The rung of a study: the first of these that matches (ours; DESIGN.md, "The question").

    1. No unit that could be tested, or power below `min_power` at the margin: `insufficient`.
    2. Every expert's raw 90 % interval inside the margin: `no_difference`.
    3. Raw max-T significant, every surface-adjusted 90 % interval inside the margin: `surface`.
    4. Surface-adjusted max-T significant, an expert confirmed on sources or templates that were
       not used to find it, and a larger effect than the sham's: `associational`.
    5. That, and the interaction of the found set lies above 0, above its matched random sets and
       above every placebo: `causal`.
    6. Otherwise `insufficient`, naming the step that stayed undecided.

    Where the suite has no sham, step 4 cannot be compared with it, and its answer says so; where no
    placebo contrast was run, step 5 does not hold. One that has too few prompts to be run counts
    neither for nor against, and the answer says how many were run.

    How it fools you: step 5 is only about the found set. An expert that no test of usage finds can
    be causal, and the rung does not say that there is none.

    Args:
        evidence: The numbers.
        n_experts: Experts in a layer, for the margin.
        rule: Thresholds; those of DESIGN.md if None.

    Returns:
        The rung with every step's answer. How often it is wrong: docs/calibration.md.
    """
    rule = rule or Rule()
    margin = rule.margin(n_experts)
    unit, power = _unit(evidence), _power(evidence, rule, margin)
    equal, surface = _equal(evidence, margin), _surface(evidence, rule, margin)
    beyond = _beyond(evidence, rule)
    causal = causal_steps(evidence.causal, rule)
    rung, decisive = "insufficient", next((each for each in (unit, power) if not each.holds), None)
    if decisive is None and equal.holds:
        rung, decisive = "no_difference", equal
    elif decisive is None and all(each.holds for each in surface):
        rung, decisive = "surface", surface[-1]
    elif decisive is None and all(each.holds for each in beyond):
        lacking = next((each for each in causal if not each.holds), None)
        rung, decisive = ("associational", lacking) if lacking else ("causal", causal[-1])
    elif decisive is None:
        decisive = next(each for each in beyond if not each.holds)
    steps = (unit, power, equal, *surface, *beyond, *causal)
    return Verdict(rung=rung, sentence=_sentence(rung, decisive), steps=steps)


SAYS = {
    "insufficient": "This study cannot say whether the conditions differ",
    "no_difference": "No expert is used differently beyond the margin",
    "surface": "Experts are used differently, and vocabulary, position or familiarity explains it",
    "associational": "Experts are used differently beyond the surface, also on unseen sources or "
    "templates; that they matter for it is not shown",
    "causal": "Taking out the experts that benchmark prompts use more hurts benchmark prompts more "
    "than organic ones",
}


def _sentence(rung: str, decisive: Step | None) -> str:
    return f"{SAYS[rung]}: {decisive.found}." if decisive else f"{SAYS[rung]}."


def _unit(evidence: Evidence) -> Step:
    benchmark, organic = evidence.n_sources
    pairs = "items have both conditions" if evidence.is_paired else "few or no items have both"
    return Step(
        rung="insufficient",
        asks="two sources a condition, or items under both conditions",
        found=f"benchmark has {counted(benchmark, 'source')}, organic {organic}, and {pairs}",
        holds=evidence.is_paired or min(benchmark, organic) >= 2,
    )


def _power(evidence: Evidence, rule: Rule, margin: float) -> Step:
    return Step(
        rung="insufficient",
        asks=f"power of {rule.min_power:.0%} to find an effect of the margin",
        found=_would_be_found(evidence, margin),
        holds=evidence.power >= rule.min_power,
    )


def _would_be_found(evidence: Evidence, margin: float) -> str:
    if isnan(evidence.power):
        return "no expert could be tested, so what would be found is not known"
    return (
        f"an effect of {margin:.4f} on the median expert would be found in "
        f"{evidence.power:.0%} of such studies"
    )


def _equal(evidence: Evidence, margin: float) -> Step:
    return Step(
        rung="no_difference",
        asks="every raw 90 % interval inside the margin",
        found=_inside("raw", evidence.n_raw_outside, evidence.n_tested, margin),
        holds=evidence.n_raw_outside == 0,
    )


def _inside(name: str, n_outside: int, n_tested: int, margin: float) -> str:
    if not n_tested:
        return f"no expert has a {name} 90 % interval"
    if not n_outside:
        return f"the {name} 90 % intervals of all {n_tested} experts lie inside ±{margin:.4f}"
    return f"{n_outside} of {n_tested} {name} 90 % intervals are not inside ±{margin:.4f}"


def _smallest(name: str, p: float) -> str:
    if isnan(p):
        return f"there is no {name} test of all experts at once"
    return f"the smallest {name} max-T p is {p:.2g}"


def _surface(evidence: Evidence, rule: Rule, margin: float) -> tuple[Step, ...]:
    return (
        Step(
            rung="surface",
            asks=f"raw max-T p at most {rule.alpha:g}",
            found=_smallest("raw", evidence.raw_p),
            holds=evidence.raw_p <= rule.alpha,
        ),
        Step(
            rung="surface",
            asks="every surface-adjusted 90 % interval inside the margin",
            found=_inside(
                "surface-adjusted", evidence.n_surface_outside, evidence.n_tested, margin
            ),
            holds=evidence.n_surface_outside == 0,
        ),
    )


def _beyond(evidence: Evidence, rule: Rule) -> tuple[Step, ...]:
    has_sham = not isnan(evidence.sham_effect)
    largest = (
        "no effect is confirmed"
        if isnan(evidence.largest_effect)
        else f"the largest confirmed effect is {evidence.largest_effect:.4f} of the slots"
    )
    against = f"{largest}, the sham's is {evidence.sham_effect:.4f} of the slots"
    return (
        Step(
            rung="associational",
            asks=f"surface-adjusted max-T p at most {rule.alpha:g}",
            found=_smallest("surface-adjusted", evidence.surface_p),
            holds=evidence.surface_p <= rule.alpha,
        ),
        Step(
            rung="associational",
            asks="an expert confirmed on sources or templates not used to find it",
            found=f"{counted(evidence.n_confirmed, 'expert')} confirmed on unseen sources or "
            "templates",
            holds=evidence.n_confirmed > 0,
        ),
        Step(
            rung="associational",
            asks="a larger effect than the sham's",
            found=against if has_sham else "the suite has no sham to compare with",
            holds=not has_sham or abs(evidence.largest_effect) > evidence.sham_effect,
        ),
    )


def causal_steps(causal: CausalEvidence | None, rule: Rule) -> tuple[Step, ...]:
    """The questions of the last rung with their answers; all must hold."""
    if causal is None or not causal.n_found:
        why = "no experiment was made" if causal is None else _nothing_found(causal)
        return (Step(rung="causal", asks="an experiment on found experts", found=why, holds=False),)
    value = f"{causal.interaction:.4f} {unit_of_outcome(causal.outcome)}"
    return (
        Step(
            rung="causal",
            asks="interaction above 0",
            found=f"taking out {counted(causal.n_found, 'found expert')} has an interaction of "
            f"{value} (95 % interval {causal.low:.4f} to {causal.high:.4f})",
            holds=causal.low > 0,
        ),
        Step(
            rung="causal",
            asks=f"above {rule.share_of_matched_sets:.0%} of {rule.min_matched_sets} or more "
            "matched random sets, or of all where fewer exist",
            found=_against_sets(causal, rule, value),
            holds=causal.n_matched_sets >= rule.needed_sets(causal.n_possible_sets)
            and causal.share_below >= rule.share_of_matched_sets,
        ),
        Step(
            rung="causal",
            asks="above every placebo contrast",
            found=_against_placebos(causal, value),
            holds=causal.n_placebos_run > 0 and causal.interaction > causal.largest_placebo,
        ),
    )


def _nothing_found(causal: CausalEvidence) -> str:
    if isnan(causal.interaction):
        return "there are too few prompts to find experts in one half and test them in the other"
    return "no expert was found to take out"


def _against_sets(causal: CausalEvidence, rule: Rule, value: str) -> str:
    n_sets, needed = causal.n_matched_sets, rule.needed_sets(causal.n_possible_sets)
    if not n_sets:
        return f"no matched random set was taken out, and {needed} are needed"
    said = f"the interaction of {value} lies above that of {causal.share_below:.0%} of {n_sets} "
    said += "matched random sets"
    if n_sets < needed:
        return f"{said}, and {needed} are needed"
    return said + (", all that there are" if n_sets == causal.n_possible_sets else "")


def _against_placebos(causal: CausalEvidence, value: str) -> str:
    n_run, n_all, n_found = causal.n_placebos_run, causal.n_placebos, causal.n_placebos_found
    if not n_run:
        few = f": all {n_all} have too few prompts" if n_all else ""
        return f"no placebo contrast was run{few}"
    if not n_found:
        run = counted(n_run, "placebo contrast") + (f" run (of {n_all})" if n_run < n_all else "")
        return f"the interaction is {value}; none of {run} found an expert to take out"
    run = counted(n_all, "placebo contrast")
    run = f"{n_run} of {run} run" if n_run < n_all else run
    said = (
        f"the interaction of {value} against {causal.largest_placebo:.4f} of the largest of {run}"
    )
    if n_found < n_run:
        said += f"; {n_found} found an expert, and those that found none count as 0"
    return said
