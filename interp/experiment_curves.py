"""Beside the causal test: less and more of the found set, and the found set alone."""

import numpy as np

from interp.analyses.dose_response import (
    DoseResponse,
    Sufficiency,
    all_but,
    dose_response_of_damage,
    nested_sets,
    reductions_of_matched,
)
from interp.cache.errors import InputError
from interp.experiment_contrasts import clusters_of, main_contrast
from interp.experiment_pipeline import PipelineRun
from interp.experiment_search import DamageOfSets, interaction_in
from interp.experiment_subjects import Subjects


def curves(
    subjects: Subjects, damage_of_sets: DamageOfSets, pipeline: PipelineRun, n_curves: int
) -> tuple[DoseResponse | None, Sufficiency | None, str]:
    """Dose-response and sufficiency of the main found set, in the test half.

    Returns:
        Either, None where there is none, and a sentence that says why the second is not there.
    """
    main, halves = pipeline.test.main, pipeline.runs[0].halves
    if not main.experts or halves is None:
        return None, None, ""
    contrast, among = main_contrast(subjects.prompts), halves.test
    clusters = clusters_of(contrast, subjects.prompts, among)
    every = () if main.matched_sets is None else main.matched_sets.sets
    matched = every[:n_curves]

    nested = nested_sets(main.experts)
    sizes = [len(each) for each in nested]
    of_matched = [[each[:size] for size in sizes] for each in matched]
    by_size = [
        interaction_in(contrast, subjects, damage_of_sets(each), among=among).value
        for each in of_matched
    ]
    dose = dose_response_of_damage(
        sizes,
        damage_of_sets(nested)[:, among],
        matched=np.array(by_size).reshape(len(matched), len(sizes)),
        benchmark=contrast.first[among],
        item=clusters["item"],
        clusters=clusters,
    )
    usage, layers = subjects.usage(contrast.used), subjects.layer_indices
    top_k = subjects.tokens.expert_indices.shape[2]
    out, stay = all_but(main.experts, usage=usage, layer_indices=layers, top_k=top_k)
    if not out:
        return dose, None, "Sufficiency: a token needs every expert of a layer of the found set."
    controls = reductions_of_matched(
        every,
        main.experts,
        usage=usage,
        layer_indices=layers,
        top_k=top_k,
        most=n_curves,
    )
    try:
        damage = damage_of_sets([out, *controls])
    except InputError as error:  # where experts are chosen in groups, a set alone may be too few
        return dose, None, f"Sufficiency: {error}."
    alone = interaction_in(contrast, subjects, damage[:1], among=among)
    others = interaction_in(contrast, subjects, damage[1:], among=among) if controls else None
    empty = np.zeros(0)
    sufficiency = Sufficiency(
        interaction=alone,
        matched_damage=empty if others is None else others.damage_benchmark,
        matched=empty if others is None else others.value,
        stay=stay,
    )
    return dose, sufficiency, ""
