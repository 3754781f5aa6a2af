"""One contrast through the whole pipeline: find experts in one half, take them out in the other.

Damage comes from a function, so that the same pipeline runs on a live model, on what is on disk,
and on a committed table of knockouts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from interp.analyses.causal_test import ContrastTest
from interp.analyses.found_experts import FoundExperts, needed_more, used_more
from interp.analyses.interaction import Interaction, interaction_of_damage
from interp.analyses.matched_sets import draw_matched_sets
from interp.experiment_contrasts import Contrast, Halves, clusters_of, halves_of
from interp.experiment_settings import PipelineSettings
from interp.experiment_subjects import Subjects

Expert = tuple[int, int]
DamageOfSets = Callable[[Sequence[Sequence[Expert]]], Float[np.ndarray, "sets prompts"]]
"""Damage of taking out each of some sets, to every prompt of the subjects."""


@dataclass(frozen=True, kw_only=True)
class ContrastRun:
    """A contrast after the pipeline."""

    test: ContrastTest
    """What came out."""
    found: FoundExperts | None
    """Candidates and found set; None where there were no halves."""
    halves: Halves | None
    """Which prompts were looked at for what."""


def run_contrast(
    contrast: Contrast,
    subjects: Subjects,
    damage_of_sets: DamageOfSets,
    *,
    settings: PipelineSettings,
    rng: np.random.Generator,
    n_matched: int,
) -> ContrastRun:
    """Find experts in the discovery half of a contrast, and test the set in the other half.

    1. Halves: by template, else source, else item (`halves_of`).
    2. Candidates: surface-adjusted usage effect above `margin_in_even_shares / n_experts`,
       one-sided q at most `alpha`, in the discovery half, items as clusters.
    3. Found: own knockout interaction above `interaction_margin`, q at most `alpha` over the
       candidates, in the same half.
    4. The found set is taken out together, and matched random sets likewise; their interactions are
       those of the test half, with the widest interval of items and templates (or sources).

    Args:
        contrast: First and second side.
        subjects: Prompts and their routing.
        damage_of_sets: Gives the damage of sets.
        settings: The rule.
        rng: Source of chance.
        n_matched: Matched sets for this contrast.
    """
    halves = halves_of(contrast, subjects.prompts, rng=rng)
    if isinstance(halves, str):
        not_run = _nothing_found(contrast, halves, is_run=False)
        return ContrastRun(test=not_run, found=None, halves=None)
    found = find(contrast, subjects, damage_of_sets, halves=halves, settings=settings, rng=rng)
    notes = [halves.note] if halves.note else []
    if not found.experts:
        said = (
            f"{contrast.name}: of {len(found.candidates)} experts used more on the first side none "
            "is needed more there, so there is nothing to take out."
        )
        return ContrastRun(test=_nothing_found(contrast, *notes, said), found=found, halves=halves)
    excluded = subjects.super_experts
    first = contrast.first & halves.test
    matched = None
    if n_matched:
        matched = draw_matched_sets(
            found.experts,
            usage=subjects.usage(first),
            layer_indices=subjects.layer_indices,
            rng=rng,
            saliency=subjects.saliency(first),
            excluded=excluded,
            n_sets=n_matched,
        )
        notes += [f"{contrast.name}: {note}." for note in matched.notes]
    sets = [found.experts, *(() if matched is None else matched.sets)]
    interactions = interaction_in(contrast, subjects, damage_of_sets(sets), among=halves.test)
    test = ContrastTest(
        name=contrast.name,
        experts=found.experts,
        interaction=only_first(interactions),
        usage_slots=(
            subjects.slots_per_token(found.experts, among=first),
            subjects.slots_per_token(found.experts, among=contrast.second & halves.test),
        ),
        matched=interactions.value[1:],
        matched_sets=matched,
        notes=tuple(notes),
    )
    return ContrastRun(test=test, found=found, halves=halves)


def find(
    contrast: Contrast,
    subjects: Subjects,
    damage_of_sets: DamageOfSets,
    *,
    halves: Halves,
    settings: PipelineSettings,
    rng: np.random.Generator,
) -> FoundExperts:
    """Steps 2 and 3 of the pipeline; super experts are no candidates."""
    usage = subjects.usage_effects(contrast.first, among=halves.discovery, rng=rng)
    margin = settings.margin_in_even_shares / subjects.tokens.n_experts
    is_candidate, q = used_more([usage], alpha=settings.alpha, margin=margin)
    if subjects.super_experts is not None:
        is_candidate &= ~subjects.super_experts.ravel()
    candidates = subjects.named(is_candidate)
    own: Interaction | None = None
    if candidates:
        damage = damage_of_sets([[each] for each in candidates])
        own = interaction_in(contrast, subjects, damage, among=halves.discovery, by_item=True)
    return needed_more(
        candidates,
        own,
        usage_effect=usage.effect[is_candidate],
        usage_q=q[is_candidate],
        alpha=settings.alpha,
        margin=settings.interaction_margin,
    )


def interaction_in(
    contrast: Contrast,
    subjects: Subjects,
    damage: Float[np.ndarray, "sets prompts"],
    *,
    among: Bool[np.ndarray, "prompts"],
    by_item: bool = False,
) -> Interaction:
    """Interaction of a contrast among some of its prompts, by items alone or by all clusters."""
    clusters = clusters_of(contrast, subjects.prompts, among)
    return interaction_of_damage(
        damage[:, among],
        benchmark=contrast.first[among],
        item=clusters["item"],
        clusters={"item": clusters["item"]} if by_item else clusters,
    )


def only_first(interaction: Interaction) -> Interaction:
    """The interaction of the first set alone."""
    return Interaction(
        damage_benchmark=interaction.damage_benchmark[:1],
        damage_organic=interaction.damage_organic[:1],
        by_cluster={
            name: type(each)(
                effect=each.effect[:1], standard_error=each.standard_error[:1], df=each.df[:1]
            )
            for name, each in interaction.by_cluster.items()
        },
        least_p=interaction.least_p,
        n_items=interaction.n_items,
        n_paired=interaction.n_paired,
    )


def _nothing_found(contrast: Contrast, *notes: str, is_run: bool = True) -> ContrastTest:
    return ContrastTest(
        name=contrast.name,
        experts=(),
        interaction=None,
        usage_slots=(float("nan"), float("nan")),
        matched=np.zeros(0),
        matched_sets=None,
        notes=notes,
        is_run=is_run,
    )
