"""The ladder of claims: the first rung that matches, and why no higher one does."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.analyses.evidence import CausalEvidence, Evidence, Rule
from interp.analyses.ladder import RUNGS, climb

CAUSAL = CausalEvidence(
    outcome="content",
    n_found=4,
    interaction=0.3,
    low=0.2,
    high=0.4,
    n_matched_sets=100,
    n_possible_sets=4960,
    share_below=1.0,
    largest_placebo=0.05,
    n_placebos=10,
    n_placebos_run=10,
    n_placebos_found=10,
)
STRONG = Evidence(
    n_sources=(1, 1),
    is_paired=True,
    n_tested=128,
    power=0.9,
    raw_p=0.001,
    n_raw_outside=9,
    surface_p=0.001,
    n_surface_outside=4,
    n_confirmed=4,
    largest_effect=0.08,
    sham_effect=0.01,
    causal=CAUSAL,
)


def rung(**changes: object) -> str:
    return climb(replace(STRONG, **changes), n_experts=32).rung


def test_everything_that_holds_is_causal() -> None:
    verdict = climb(STRONG, n_experts=32)

    assert verdict.rung == "causal"
    assert all(step.holds for step in verdict.steps if step.rung in ("associational", "causal"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"is_paired": False}, "insufficient"),
        ({"is_paired": False, "n_sources": (2, 2)}, "causal"),
        ({"power": 0.79}, "insufficient"),
        ({"power": float("nan")}, "insufficient"),
        ({"n_raw_outside": 0}, "no_difference"),
        ({"n_surface_outside": 0}, "surface"),
        ({"n_surface_outside": 0, "raw_p": 0.2, "surface_p": 0.2}, "insufficient"),
        ({"surface_p": 0.2}, "insufficient"),
        ({"surface_p": float("nan")}, "insufficient"),
        ({"n_confirmed": 0, "largest_effect": float("nan")}, "insufficient"),
        ({"sham_effect": 0.09}, "insufficient"),
        ({"sham_effect": float("nan")}, "causal"),
        ({"largest_effect": -0.08}, "causal"),
        ({"causal": None}, "associational"),
        ({"causal": replace(CAUSAL, low=-0.1)}, "associational"),
        ({"causal": replace(CAUSAL, n_matched_sets=99)}, "associational"),
        ({"causal": replace(CAUSAL, n_matched_sets=31, n_possible_sets=31)}, "causal"),
        ({"causal": replace(CAUSAL, n_matched_sets=30, n_possible_sets=31)}, "associational"),
        ({"causal": replace(CAUSAL, n_matched_sets=20, n_possible_sets=20)}, "causal"),
        ({"causal": replace(CAUSAL, n_matched_sets=19, n_possible_sets=19)}, "associational"),
        ({"causal": replace(CAUSAL, n_matched_sets=0, n_possible_sets=0)}, "associational"),
        ({"causal": replace(CAUSAL, share_below=0.94)}, "associational"),
        ({"causal": replace(CAUSAL, largest_placebo=0.3)}, "associational"),
        ({"causal": replace(CAUSAL, largest_placebo=float("nan"))}, "associational"),
        ({"causal": replace(CAUSAL, n_placebos_run=4)}, "causal"),
        ({"causal": replace(CAUSAL, n_placebos_run=0)}, "associational"),
        ({"causal": replace(CAUSAL, n_found=0)}, "associational"),
    ],
)
def test_one_missing_step_decides_the_rung(changes: dict[str, object], expected: str) -> None:
    assert rung(**changes) == expected


def test_the_sentence_names_what_stood_in_the_way() -> None:
    undecided = climb(replace(STRONG, n_confirmed=0), n_experts=32)
    stopped = climb(replace(STRONG, causal=replace(CAUSAL, low=-0.1)), n_experts=32)

    assert "0 experts confirmed on unseen sources" in undecided.sentence
    assert "0.3000 nats per token (95 % interval -0.1000 to 0.4000)" in stopped.sentence


@pytest.mark.parametrize("outcome", ["option", "letter", "greedy"])
def test_an_interaction_of_right_answers_is_not_called_nats(outcome: str) -> None:
    verdict = climb(replace(STRONG, causal=replace(CAUSAL, outcome=outcome)), n_experts=32)

    said = [step.found for step in verdict.steps if step.rung == "causal"]
    assert all("0.3000 (share of right answers)" in each for each in said)
    assert "nats" not in "".join([*said, verdict.sentence])


def test_the_answer_says_how_many_matched_sets_are_needed_or_exist() -> None:
    def said(**changes: object) -> str:
        causal = replace(CAUSAL, **changes)
        return climb(replace(STRONG, causal=causal), n_experts=32).steps[-2].found

    assert said().endswith("of 100% of 100 matched random sets")
    assert said(n_matched_sets=31, n_possible_sets=31).endswith("sets, all that there are")
    assert said(n_matched_sets=7, n_possible_sets=7).endswith(
        "7 matched random sets, and 20 are needed"
    )
    assert said(n_matched_sets=0, n_possible_sets=0).startswith("no matched random set was taken")


@pytest.mark.parametrize(("share", "least"), [(0.95, 20), (0.9, 10), (0.99, 100), (0.5, 2)])
def test_so_few_sets_that_the_share_cannot_be_seen_never_do(share: float, least: int) -> None:
    rule = Rule(share_of_matched_sets=share)

    assert rule.needed_sets(1) == least
    assert rule.needed_sets(10**9) == 100


def test_the_answer_says_how_many_placebos_were_run() -> None:
    def last(**changes: object) -> str:
        causal = replace(CAUSAL, **changes)
        return climb(replace(STRONG, causal=causal), n_experts=32).steps[-1].found

    assert last().endswith("0.0500 of the largest of 10 placebo contrasts")
    assert last(n_placebos_run=4, n_placebos_found=4).endswith("4 of 10 placebo contrasts run")
    assert last(n_placebos_run=1, n_placebos_found=1).endswith("1 of 10 placebo contrasts run")
    assert last(n_placebos_run=0) == ("no placebo contrast was run: all 10 have too few prompts")
    assert last(n_placebos_run=0, n_placebos=0) == "no placebo contrast was run"
    assert last(n_found=0) == "no expert was found to take out"
    assert "too few prompts to find" in last(n_found=0, interaction=float("nan"))


def test_where_no_expert_was_tested_no_number_is_made_up() -> None:
    nothing = replace(STRONG, n_tested=0, n_raw_outside=1, n_surface_outside=1, causal=None)
    verdict = climb(replace(nothing, power=float("nan")), n_experts=32)
    found = [step.found for step in verdict.steps]

    assert found[1] == "no expert could be tested, so what would be found is not known"
    assert found[2] == "no expert has a raw 90 % interval"
    assert found[4] == "no expert has a surface-adjusted 90 % interval"
    assert not any(step.holds for step in verdict.steps[1:3])
    assert "nan" not in "".join([*found, verdict.sentence])


def test_counts_have_their_plural_and_effects_their_unit() -> None:
    steps = climb(replace(STRONG, n_sources=(2, 1), n_confirmed=1), n_experts=32).steps

    assert steps[0].found.startswith("benchmark has 2 sources, organic 1, and")
    assert steps[6].found == "1 expert confirmed on unseen sources or templates"
    assert "effect is 0.0800 of the slots, the sham's is 0.0100 of the slots" in steps[7].found
    assert "taking out 4 found experts has" in steps[8].found


def test_placebos_that_found_no_expert_are_not_said_to_have_reached_zero() -> None:
    def last(**changes: object) -> str:
        causal = replace(CAUSAL, **changes)
        step = climb(replace(STRONG, causal=causal), n_experts=32).steps[-1]
        assert step.holds
        return step.found

    none = last(n_placebos_found=0, largest_placebo=0.0)
    assert none.endswith("none of 10 placebo contrasts found an expert to take out")
    assert "0.0000" not in none
    few = last(n_placebos_found=0, n_placebos_run=4, largest_placebo=0.0)
    assert few.endswith("none of 4 placebo contrasts run (of 10) found an expert to take out")
    some = last(n_placebos_found=3)
    assert some.endswith("contrasts; 3 found an expert, and those that found none count as 0")


def test_the_margin_is_half_of_an_even_share() -> None:
    assert Rule().margin(32) == 1 / 64
    assert "±0.0156" in climb(replace(STRONG, n_raw_outside=0), n_experts=32).sentence


def test_a_stricter_rule_climbs_less_far() -> None:
    assert climb(STRONG, n_experts=32, rule=Rule(min_power=0.95)).rung == "insufficient"
    assert climb(STRONG, n_experts=32, rule=Rule(alpha=0.0001)).rung == "insufficient"
    assert climb(STRONG, n_experts=32, rule=Rule(min_matched_sets=500)).rung == "associational"


def expected_rung(e: Evidence) -> str:
    """The rule of DESIGN.md, written out as one chain of questions."""
    if (min(e.n_sources) < 2 and not e.is_paired) or not e.power >= 0.8:
        return "insufficient"
    if e.n_raw_outside == 0:
        return "no_difference"
    if e.raw_p <= 0.05 and e.n_surface_outside == 0:
        return "surface"
    larger = e.sham_effect != e.sham_effect or abs(e.largest_effect) > e.sham_effect
    if e.surface_p <= 0.05 and e.n_confirmed > 0 and larger:
        c = e.causal
        both = c is not None and c.n_found > 0 and c.low > 0
        # 100 sets or more, or every one that there is if these are 20 or more
        is_all = both and c.n_matched_sets >= c.n_possible_sets and c.n_matched_sets >= 20
        enough = both and (c.n_matched_sets >= 100 or is_all)
        beyond = enough and c.share_below >= 0.95 and c.interaction > c.largest_placebo
        beyond = beyond and c.n_placebos_run > 0
        return "causal" if beyond else "associational"
    return "insufficient"


shares = st.sampled_from([0.0, 0.001, 0.05, 0.5, 0.8, 0.95, 1.0, float("nan")])
counts = st.sampled_from([0, 1, 2, 5, 19, 20, 31, 99, 100, 5000])
causal = st.builds(
    CausalEvidence,
    outcome=st.sampled_from(["content", "option"]),
    n_found=counts,
    interaction=shares,
    low=shares,
    high=shares,
    n_matched_sets=counts,
    n_possible_sets=counts,
    share_below=shares,
    largest_placebo=shares,
    n_placebos=counts,
    n_placebos_run=counts,
)


@given(
    evidence=st.builds(
        Evidence,
        n_sources=st.tuples(counts, counts),
        is_paired=st.booleans(),
        n_tested=st.just(128),
        power=shares,
        raw_p=shares,
        n_raw_outside=counts,
        surface_p=shares,
        n_surface_outside=counts,
        n_confirmed=counts,
        largest_effect=shares,
        sham_effect=shares,
        causal=st.none() | causal,
    )
)
def test_any_evidence_has_the_rung_of_the_written_rule(evidence: Evidence) -> None:
    verdict = climb(evidence, n_experts=32)

    assert verdict.rung == expected_rung(evidence)
    assert verdict.rung in RUNGS
    assert len(verdict.to_frame()) == len(verdict.steps)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"alpha": 0.0}, "alpha is 0.0, expected between 0 and 1"),
        ({"min_power": 1.5}, "min_power is 1.5, expected between 0 and 1"),
        ({"margin_in_even_shares": 0.0}, "margin_in_even_shares is 0.0, expected above 0"),
        ({"min_matched_sets": 0}, "min_matched_sets is 0, expected 1 or more"),
    ],
)
def test_a_rule_outside_of_its_range_is_refused(changes: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Rule(**changes)
