"""The causal test: the main contrast and every placebo contrast through the same pipeline."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from interp.analyses.causal_test import CausalTest, ContrastTest
from interp.analyses.matched_sets import expert_names
from interp.experiment_contrasts import Contrast, Halves, main_contrast, placebo_contrasts
from interp.experiment_search import ContrastRun, DamageOfSets, interaction_in, run_contrast
from interp.experiment_settings import PipelineSettings
from interp.experiment_subjects import NO_NORMS, Subjects


@dataclass(frozen=True, kw_only=True)
class PipelineRun:
    """The causal test with what led to it."""

    test: CausalTest
    """What the ladder reads."""
    runs: tuple[ContrastRun, ...]
    """The main contrast first, then the placebos."""

    def matched_frame(self) -> pd.DataFrame:
        """One row per matched set of the main contrast, with its interaction."""
        main = self.test.main
        if main.matched_sets is None:
            return pd.DataFrame()
        return main.matched_sets.to_frame().assign(interaction=main.matched)


def run_pipeline(
    subjects: Subjects,
    damage_of_sets: DamageOfSets,
    *,
    outcome: str,
    intervention: str,
    settings: PipelineSettings,
    usable: Bool[np.ndarray, "prompts"] | None = None,
) -> PipelineRun:
    """The main contrast and every placebo contrast through the same pipeline.

    Args:
        subjects: Prompts and their routing.
        damage_of_sets: Gives the damage of sets to every prompt.
        outcome: What the damage is of.
        intervention: How sets are taken out.
        settings: The rule.
        usable: Prompts that have an outcome; all if None.
    """
    contrasts = [main_contrast(subjects.prompts)]
    if settings.with_placebos:
        contrasts += placebo_contrasts(subjects.prompts)
    notes = [] if subjects.super_experts is not None else [NO_NORMS]
    notes += _super_note(subjects)
    if usable is not None and not usable.all():
        notes.append(f"{int((~usable).sum())} prompts have no outcome and are left out.")
        contrasts = [
            Contrast(name=each.name, first=each.first & usable, second=each.second & usable)
            for each in contrasts
        ]
    runs = [
        run_contrast(
            contrast,
            subjects,
            damage_of_sets,
            settings=settings,
            rng=np.random.default_rng([settings.seed, index]),
            n_matched=settings.n_matched if index == 0 else settings.n_placebo_matched,
        )
        for index, contrast in enumerate(contrasts)
    ]
    main, *placebos = (run.test for run in runs)
    under = _under_placebos(main, contrasts[1:], subjects, damage_of_sets, runs[0].halves)
    test = CausalTest(
        outcome=outcome,
        intervention=intervention,
        main=main,
        placebos=tuple(placebos),
        found_under_placebos=under,
        notes=tuple(notes),
    )
    return PipelineRun(test=test, runs=tuple(runs))


def _super_note(subjects: Subjects) -> list[str]:
    flagged = subjects.super_experts
    if flagged is None or not flagged.any():
        return []
    return [f"Super experts are left out: {expert_names(subjects.named(flagged.ravel()))}."]


def _under_placebos(
    main: ContrastTest,
    contrasts: Sequence[Contrast],
    subjects: Subjects,
    damage_of_sets: DamageOfSets,
    halves: Halves | None,
) -> Float[np.ndarray, "placebos"]:
    """Interaction of the main found set under each placebo contrast, in the main test half."""
    found = np.full(len(contrasts), np.nan)
    if not main.experts or halves is None:
        return found
    damage = damage_of_sets([main.experts])
    for index, contrast in enumerate(contrasts):
        among = contrast.used & halves.test
        if (contrast.first & among).any() and (contrast.second & among).any():
            each = interaction_in(contrast, subjects, damage, among=among, by_item=True)
            found[index] = each.value[0]
    return found
