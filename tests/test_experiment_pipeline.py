"""One contrast through the whole pipeline, on simulated routing and a made-up table of damages."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from interp.analyses.causal_test import additive_damage
from interp.cache.errors import InputError
from interp.experiment_contrasts import (
    MAIN,
    clusters_of,
    halves_of,
    main_contrast,
    placebo_contrasts,
)
from interp.experiment_pipeline import run_pipeline
from interp.experiment_settings import PipelineSettings
from interp.experiment_subjects import NO_NORMS, Subjects
from interp.organisms.simulated import simulated
from interp.organisms.simulated_design import Simulation

PLANTED = ((0, 3, 5), (1, 7, 2), (1, 8, 4))
FEW = PipelineSettings(n_matched=30, with_placebos=False)


def subjects_of(*, n_items: int = 60, seed: int = 0, delta: float = 0.08) -> Subjects:
    """Paired items of one source, six templates a condition, three experts used more."""
    design = Simulation(
        n_sources=1,
        items_per_source=n_items,
        paired=True,
        n_layers=2,
        n_experts=16,
        delta=delta,
        planted=PLANTED if delta else (),
        tokens_per_prompt=40,
    )
    study = simulated(design, rng=np.random.default_rng(seed))
    item, benchmark = study.prompts.item, study.prompts.benchmark
    shift = item // 6
    template = np.where(benchmark, item % 6, 10 + (item + shift) % 6)
    prompts = pd.DataFrame(
        {
            "prompt_id": [f"p{each}" for each in range(len(item))],
            "condition": np.where(benchmark, "benchmark", "organic"),
            "source": "one",
            "domain": np.where(item % 2, "odd", "even"),
            "item_id": [f"i{each}" for each in item],
            "variant": np.where(benchmark, "benchmark-exam", "organic-chat"),
            "template": [f"t{each}" for each in template],
        }
    )
    return Subjects(prompts=prompts, row=np.arange(len(item)), tokens=study.tokens)


def damages(subjects: Subjects, *, size: float, seed: int = 1) -> np.ndarray:
    """Single knockouts: planted experts hurt benchmark prompts, all others nobody in particular."""
    rng = np.random.default_rng(seed)
    n_prompts = len(subjects.prompts)
    single = 0.02 * rng.normal(size=(2, 16, n_prompts))
    benchmark = (subjects.prompts["condition"] == "benchmark").to_numpy()
    for layer, expert, _ in PLANTED:
        single[layer, expert] += size * benchmark * rng.lognormal(sigma=0.3, size=n_prompts)
    return single


def additive(single: np.ndarray):
    def damage_of_sets(sets: Sequence[Sequence[tuple[int, int]]]) -> np.ndarray:
        return additive_damage(single, sets, layer_indices=(0, 1))

    return damage_of_sets


def test_planted_experts_are_found_and_beat_their_matched_sets() -> None:
    subjects = subjects_of()

    found = run_pipeline(
        subjects,
        additive(damages(subjects, size=0.2)),
        outcome="content",
        intervention="reroute",
        settings=FEW,
    ).test.main

    assert set(found.experts) == {(0, 3), (1, 7), (1, 8)}
    assert found.interaction is not None
    assert found.interaction.interval()[0][0] > 0
    assert found.share_below == 1.0
    np.testing.assert_allclose(found.value, 3 * 0.2 * np.exp(0.3**2 / 2), rtol=0.15)


def test_experts_that_are_used_more_but_not_needed_are_candidates_only() -> None:
    subjects = subjects_of()

    run = run_pipeline(
        subjects,
        additive(damages(subjects, size=0.0)),
        outcome="content",
        intervention="reroute",
        settings=FEW,
    )

    assert run.runs[0].found is not None
    assert {(0, 3), (1, 7), (1, 8)} <= set(run.runs[0].found.candidates)
    assert run.test.main.experts == ()
    assert run.test.evidence().n_found == 0
    assert "there is nothing to take out" in run.test.main.notes[-1]


def test_experts_that_are_needed_but_used_alike_are_not_found() -> None:
    subjects = subjects_of(delta=0.0)

    run = run_pipeline(
        subjects,
        additive(damages(subjects, size=0.2)),
        outcome="content",
        intervention="reroute",
        settings=FEW,
    )

    assert run.test.main.experts == ()


def test_the_test_half_alone_decides_the_interaction() -> None:
    subjects = subjects_of()
    single = damages(subjects, size=0.2)

    run = run_pipeline(
        subjects, additive(single), outcome="content", intervention="reroute", settings=FEW
    )

    halves, main = run.runs[0].halves, run.test.main
    assert halves is not None
    summed = sum(single[layer, expert] for layer, expert in main.experts)
    benchmark = (subjects.prompts["condition"] == "benchmark").to_numpy()
    expected = summed[halves.test & benchmark].mean() - summed[halves.test & ~benchmark].mean()
    np.testing.assert_allclose(main.value, expected)
    assert not (halves.test & halves.discovery).any()
    template = subjects.prompts["template"]
    assert not set(template[halves.test]) & set(template[halves.discovery])


@pytest.mark.slow
def test_selection_on_noise_does_not_show_in_the_test_half() -> None:
    """Without margins against luck, candidates that noise chose at alpha 0.9 come to nothing."""
    values = []
    for seed in range(24):
        subjects = subjects_of(seed=seed, n_items=36)
        single = damages(subjects, size=0.0, seed=seed)
        settings = PipelineSettings(
            alpha=0.9,
            margin_in_even_shares=0.0,
            interaction_margin=0.0,
            n_matched=0,
            with_placebos=False,
            seed=seed,
        )
        run = run_pipeline(
            subjects, additive(single), outcome="content", intervention="reroute", settings=settings
        )
        if run.test.main.experts:
            values.append(run.test.main.value)

    assert len(values) > 10
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


@pytest.mark.slow
@pytest.mark.parametrize(("size", "expected"), [(0.0, 0), (0.03, 10)])
def test_templates_that_differ_are_not_taken_for_the_condition(size: float, expected: int) -> None:
    """Each template has experts of its own that hurt it; the planted ones hurt benchmark or not."""
    causal = 0
    for seed in range(10):
        subjects, rng = subjects_of(seed=seed), np.random.default_rng(seed + 10_000)
        template = np.unique(subjects.prompts["template"], return_inverse=True)[1]
        benchmark = (subjects.prompts["condition"] == "benchmark").to_numpy()
        single = 0.02 * rng.normal(size=(2, 16, len(template)))
        if not size:
            single += 0.03 * rng.normal(size=(2, 16, 12))[:, :, template]
        for layer, expert, _ in PLANTED:
            single[layer, expert] += size * benchmark
        settings = PipelineSettings(n_matched=100, with_placebos=False, seed=seed)
        evidence = run_pipeline(
            subjects, additive(single), outcome="content", intervention="reroute", settings=settings
        ).test.evidence()
        causal += evidence.n_found > 0 and evidence.low > 0 and evidence.share_below >= 0.95

    assert abs(causal - expected) <= 1


def test_placebo_contrasts_go_through_the_same_pipeline() -> None:
    subjects = subjects_of()
    settings = PipelineSettings(n_matched=5)

    run = run_pipeline(
        subjects,
        additive(damages(subjects, size=0.2)),
        outcome="content",
        intervention="reroute",
        settings=settings,
    )

    assert [each.name for each in run.test.placebos] == [
        "domain: even - odd",
        "domain: odd - even",
    ]
    assert run.test.evidence().largest_placebo < run.test.main.value
    even = (subjects.prompts["domain"] == "even").to_numpy()
    halves = run.runs[0].halves
    assert halves is not None
    single = damages(subjects, size=0.2)
    summed = sum(single[layer, expert] for layer, expert in run.test.main.experts)
    rows = [summed[halves.test & side] for side in (even, ~even)]
    item = subjects.prompts["item_id"].to_numpy()
    means = [
        pd.Series(values).groupby(item[halves.test & side]).mean().mean()
        for values, side in zip(rows, (even, ~even), strict=True)
    ]
    np.testing.assert_allclose(run.test.found_under_placebos[0], means[0] - means[1])


def test_domains_with_too_few_items_are_placebos_that_were_not_run() -> None:
    whole = subjects_of()
    number = np.arange(len(whole.prompts)) // 2
    rare = np.select([number < 3, number < 6], ["a", "b"], whole.prompts["domain"])
    subjects = replace(whole, prompts=whole.prompts.assign(domain=rare))

    test = run_pipeline(
        subjects,
        additive(damages(subjects, size=0.2)),
        outcome="content",
        intervention="reroute",
        settings=PipelineSettings(n_matched=5),
    ).test

    frame = test.to_frame().set_index("contrast")
    assert frame.loc[["domain: a - b", "domain: b - a"], "interaction"].isna().all()
    assert frame.loc["domain: even - odd", "interaction"] == 0.0
    assert (test.evidence().n_placebos, test.evidence().n_placebos_run) == (4, 2)
    assert "fewer than 4" in str(frame.loc["domain: a - b", "notes"])


def test_the_same_seed_gives_the_same_test() -> None:
    subjects = subjects_of()
    single = additive(damages(subjects, size=0.2))
    keys = {"outcome": "content", "intervention": "reroute", "settings": FEW}

    first, second = (run_pipeline(subjects, single, **keys).test.to_frame() for _ in range(2))

    pd.testing.assert_frame_equal(first, second)


def test_a_store_without_norms_is_named() -> None:
    subjects = subjects_of(n_items=36)

    run = run_pipeline(
        subjects,
        additive(damages(subjects, size=0.0)),
        outcome="content",
        intervention="reroute",
        settings=FEW,
    )

    assert run.test.notes == (NO_NORMS,)


def test_super_experts_are_neither_found_nor_drawn() -> None:
    subjects = subjects_of()
    flagged = np.zeros((2, 16), dtype=bool)
    flagged[1, 8] = flagged[0, 6] = True
    with_norms = Subjects(
        prompts=subjects.prompts, row=subjects.row, tokens=subjects.tokens, super_experts=flagged
    )

    run = run_pipeline(
        with_norms,
        additive(damages(subjects, size=0.2)),
        outcome="content",
        intervention="reroute",
        settings=FEW,
    )

    main = run.test.main
    assert set(main.experts) == {(0, 3), (1, 7)}
    assert main.matched_sets is not None
    drawn = {expert for each in main.matched_sets.sets for expert in each}
    assert not drawn & {(1, 8), (0, 6)}
    assert "Super experts are left out: 0:6 1:8." in run.test.notes


def test_too_few_items_are_a_sentence() -> None:
    subjects = subjects_of(n_items=6)

    run = run_pipeline(
        subjects,
        additive(damages(subjects, size=0.2)),
        outcome="content",
        intervention="reroute",
        settings=FEW,
    )

    assert run.runs[0].halves is None
    assert "fewer than 4, so nothing can be found" in run.test.main.notes[0]


def test_without_templates_and_sources_items_are_split_with_a_warning() -> None:
    prompts = subjects_of(n_items=30).prompts.assign(template="")

    halves = halves_of(main_contrast(prompts), prompts, rng=np.random.default_rng(0))

    assert not isinstance(halves, str)
    assert halves.split_by == "item"
    assert "what is true of these sources alone may look like found" in halves.note
    items = prompts["item_id"]
    assert not set(items[halves.test]) & set(items[halves.discovery])


def test_shams_and_sources_are_placebos_in_both_directions() -> None:
    prompts = pd.DataFrame(
        {
            "condition": ["benchmark"] * 4 + ["organic"] * 2,
            "domain": ["d"] * 6,
            "source": ["a", "b", "a", "c", "x", "x"],
            "variant": ["benchmark-exam", "benchmark-exam-sham", "", "", "organic-chat", ""],
        }
    )

    found = {each.name: each for each in placebo_contrasts(prompts)}

    assert list(found) == [
        "benchmark source: a - b",
        "benchmark source: b - a",
        "wording: benchmark-exam - benchmark-exam-sham",
        "wording: benchmark-exam-sham - benchmark-exam",
    ]
    assert found["benchmark source: a - b"].first.tolist() == [True, False, True] + [False] * 3
    assert main_contrast(prompts).name == MAIN


def test_taken_prompts_keep_their_tokens_and_get_new_items() -> None:
    subjects = subjects_of(n_items=12)

    taken = subjects.take(np.array([5, 0, 5]), item_id=np.array(["a", "b", "c"]))

    np.testing.assert_array_equal(taken.slots, subjects.slots[[5, 0, 5]])
    assert taken.prompts["item_id"].tolist() == ["a", "b", "c"]
    assert taken.prompts["template"].tolist() == subjects.prompts["template"][[5, 0, 5]].tolist()


def test_slots_per_token_agree_with_a_loop() -> None:
    subjects = subjects_of(n_items=8)
    among = np.arange(16) < 5

    found = subjects.slots_per_token([(0, 3), (1, 7)], among=among)

    hits, n_tokens = 0, 0
    for token, prompt in enumerate(subjects.tokens.prompt_index):
        if among[prompt]:
            n_tokens += 1
            hits += (subjects.tokens.expert_indices[token, 0] == 3).sum()
            hits += (subjects.tokens.expert_indices[token, 1] == 7).sum()
    np.testing.assert_allclose(found, hits / n_tokens)


def test_one_template_a_side_is_no_cluster() -> None:
    prompts = subjects_of(n_items=8).prompts
    same = prompts.assign(template=np.where(prompts["condition"] == "benchmark", "x", "y"))

    assert set(clusters_of(main_contrast(prompts), prompts, np.ones(16, bool))) == {
        "item",
        "template",
    }
    assert set(clusters_of(main_contrast(same), same, np.ones(16, bool))) == {"item"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"alpha": 0.0}, "alpha is 0.0, expected between 0 and 1"),
        ({"margin_in_even_shares": -1.0}, "margin_in_even_shares is -1.0, expected 0 or more"),
        ({"interaction_margin": -1.0}, "interaction_margin is -1.0, expected 0 or more"),
        ({"n_matched": -1}, "n_matched is -1, expected 0 or more"),
    ],
)
def test_settings_outside_of_their_range_are_refused(
    changes: dict[str, float], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        PipelineSettings(**changes)
