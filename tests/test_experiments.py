"""Experiments on a live model: what is on disk, what is resumed, and one expert made to matter."""

import json
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from interp.cache.errors import InputError
from interp.cache.reader import Store, open_store
from interp.cache.records import Prompt
from interp.cli import main
from interp.experiment_checks import (
    behaviour_table,
    compare_models,
    noise_table,
    paired_prompts,
    some_items,
)
from interp.experiment_contrasts import main_contrast
from interp.experiment_curves import curves
from interp.experiment_ledger import Ledger
from interp.experiment_patches import patch_table
from interp.experiment_pipeline import run_pipeline
from interp.experiment_search import interaction_in
from interp.experiment_settings import ExperimentSettings, PipelineSettings
from interp.experiment_subjects import Subjects
from interp.experiment_trials import Trials, measure_of, run_facts
from interp.experiments import Experiment, run_experiment
from interp.hooks.capture import capture
from interp.hooks.interventions import replay_routing
from interp.hooks.outcomes import mean_logprobs
from interp.hooks.settings import CaptureSettings
from interp.report import with_numbers
from interp.report_questions import PANELS
from interp.results import EXPERIMENT_TABLES, read_results, write_results
from tests.store_samples import expect_valid
from tests.synthetic_study import synthetic_results
from tests.test_experiment_pipeline import FEW, additive, damages, subjects_of

QUICK = ExperimentSettings(
    pipeline=PipelineSettings(
        alpha=0.9,
        margin_in_even_shares=0.0,
        interaction_margin=0.0,
        n_matched=4,
        with_placebos=False,
    ),
    n_curves=2,
    n_noise=2,
    n_random=3,
)
"""Almost every expert is found, so that every step has something to do."""


WORDS = ("two plus two", "the sea", "my cat", "her food", "the capital", "return a")


def wordings(first: str, second: str, *, meta: dict[str, Any]) -> list[Prompt]:
    """Twelve items in both conditions, six templates each; a format for either condition."""
    asked = [f"{word} {again}" for word in WORDS for again in ("and how far", "what is it")]
    return [
        Prompt(
            text=pattern.format(words, words.upper()),
            condition=condition,
            item_id=words,
            source="made",
            domain=("one", "two")[index % 2],
            variant=condition,
            template=f"{condition}-{index % 6}",
            meta=meta,
        )
        for index, words in enumerate(asked)
        for condition, pattern in (("benchmark", first), ("organic", second))
    ]


@pytest.fixture(scope="module")
def asked() -> list[Prompt]:
    options = {"options": ["far", "food", "4"], "answer": "4"}
    return wordings("Question: {0}? Answer:", "what should i do, {0}", meta=options)


@pytest.fixture(scope="module")
def loaded_once(tiny_folder: Path) -> Any:
    from interp.hooks.load import load_model

    return load_model(str(tiny_folder), device_map="cpu")


@pytest.fixture(scope="module")
def store(loaded_once: Any, asked: list[Prompt], tmp_path_factory: Any) -> Store:
    out = tmp_path_factory.mktemp("experiment") / "tiny.moe"
    settings = CaptureSettings(sites=("expert_output_norms", "resid_post"), logprobs=True)
    capture(loaded_once, asked, out, settings=settings, progress=False)
    return open_store(out)


@pytest.fixture(scope="module")
def done(loaded_once: Any, store: Store) -> Experiment:
    """An experiment whose results lie within the store."""
    return run_experiment(store, loaded_once, settings=QUICK, progress=False)


@pytest.fixture
def results(done: Experiment, store: Store, tmp_path: Path) -> Path:
    """A copy of what it left on disk."""
    return Path(shutil.copytree(store.path / "experiments", tmp_path / "experiments"))


def test_every_table_is_on_disk_beside_the_outcomes(done: Experiment, results: Path) -> None:
    (written,) = results.glob("*.json")
    document = json.loads(written.read_text())
    for name, table in done.tables().items():
        assert len(document[name]) == len(table)
    assert len(done.test.main.experts) > 0
    assert document["contrasts"][0]["n_found"] == len(done.test.main.experts)
    with np.load(results / document["run"]["outcomes"]) as outcomes:
        by_name = dict(zip(outcomes["names"].tolist(), outcomes["outcome"], strict=True))
    experts = " ".join(f"{layer}:{e}" for layer, e in sorted(done.test.main.experts))
    damage = by_name["usual"] - by_name[f"reroute {experts}"]
    np.testing.assert_allclose(done.prompts["damage"], damage)
    assert done.dose is not None
    assert done.dose.sizes[-1] == len(done.test.main.experts)
    assert not done.beside["noise"]["interaction"].iloc[0]


def test_results_within_a_store_leave_it_whole(done: Experiment, store: Store) -> None:
    expect_valid(store.path)
    assert (store.path / "experiments" / done.run["outcomes"]).exists()
    assert len(open_store(store.path).prompts) == 24


def test_the_same_experiment_again_runs_nothing_twice(
    tiny: Any, store: Store, done: Experiment, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interp.hooks import measures

    counted, whole = [], measures.mean_logprobs
    monkeypatch.setattr(
        measures, "mean_logprobs", lambda *a, **k: (counted.append(k["under"]), whole(*a, **k))[1]
    )
    again = run_experiment(store, tiny, settings=QUICK, folder=results, progress=False)

    assert counted == [None]  # the usual run, to see that it is the same model
    for name, table in done.tables().items():
        pd.testing.assert_frame_equal(table, again.tables()[name])


def test_a_stopped_experiment_goes_on_where_it_was(
    tiny: Any, store: Store, done: Experiment, results: Path
) -> None:
    (path,) = results.glob("*.npz")
    with np.load(path) as held:
        half = len(held["names"]) // 2
        kept = {"names": held["names"][:half], "outcome": held["outcome"][:half]}
        np.savez(path, facts=held["facts"], **kept)

    again = run_experiment(store, tiny, settings=QUICK, folder=results, progress=False)

    pd.testing.assert_frame_equal(done.test.to_frame(), again.test.to_frame())


def test_outcomes_of_other_weights_are_refused(tiny: Any, store: Store, results: Path) -> None:
    with torch.no_grad():
        tiny.model.lm_head.weight.mul_(2.0)

    with pytest.raises(InputError, match="it was made with other weights"):
        run_experiment(store, tiny, settings=QUICK, folder=results, progress=False)


def test_a_store_of_another_model_is_refused(tiny: Any, store: Store, tmp_path: Path) -> None:
    other = replace(tiny, weights_sha256="0" * 64)

    with pytest.raises(InputError, match="captured with other weights"):
        run_experiment(store, other, settings=QUICK, folder=tmp_path)


def test_accuracy_is_right_or_wrong(
    tiny: Any, store: Store, tmp_path: Path, asked: list[Prompt]
) -> None:
    settings = ExperimentSettings(outcome="option", pipeline=FEW, n_noise=0, n_curves=0)

    found = run_experiment(
        store, tiny, prompts=asked, settings=settings, folder=tmp_path, progress=False
    )

    assert set(found.prompts["usual"]) <= {0.0, 1.0}
    assert set(found.beside["behaviour"]["shift"]) >= {"bits"}


def test_answers_need_the_prompts(tiny: Any, store: Store, tmp_path: Path) -> None:
    settings = replace(QUICK, outcome="answer")

    with pytest.raises(InputError, match="24 of 24 prompts of the store, such as"):
        run_experiment(store, tiny, settings=settings, folder=tmp_path)
    with pytest.raises(InputError, match="outcome is 'mood', expected one of content"):
        run_experiment(store, tiny, settings=replace(QUICK, outcome="mood"), folder=tmp_path)
    with pytest.raises(InputError, match="intervention is 'hide', expected one of reroute"):
        run_experiment(store, tiny, settings=replace(QUICK, intervention="hide"), folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_ledgers_of_something_else_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    ledger = Ledger(path, {"model": "one"})
    ledger.run([("a", lambda: None)], lambda _: np.array([1.0, 2.0]))

    assert Ledger(path, {"model": "one"}).outcome["a"].tolist() == [1.0, 2.0]
    with pytest.raises(InputError, match="made with another model \\('one', now 'two'\\)"):
        Ledger(path, {"model": "two"})
    path.write_bytes(b"PK damaged")
    with pytest.raises(InputError, match="cannot be read"):
        Ledger(path, {"model": "one"})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch_tokens": 0}, "batch_tokens is 0, expected 1 or more"),
        ({"n_curves": -1}, "n_curves is -1, expected 0 or more"),
    ],
)
def test_settings_are_checked(changes: dict[str, int], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        ExperimentSettings(**changes)


def make_helpful(loaded: Any, prompts: list[Prompt], *, expert: int) -> None:
    """Have layer 0 send upper case alone to an expert, and that expert make upper case likely."""
    model, tokenizer = loaded.model, loaded.tokenizer
    seen: dict[str, list[torch.Tensor]] = {"benchmark": [], "organic": []}
    layer = model.model.layers[0].mlp
    for prompt in prompts:
        inputs = tokenizer(prompt.text, return_tensors="pt", add_special_tokens=False)
        hook = layer.register_forward_pre_hook(
            lambda _, args, of=prompt.condition: seen[of].append(args[0][0])
        )
        with torch.no_grad():
            model(**inputs)
        hook.remove()
    upper, lower = (torch.cat(seen[name]).mean(0) for name in ("benchmark", "organic"))
    ids = [tokenizer(p.text)["input_ids"] for p in prompts if p.condition == "benchmark"]
    said = model.lm_head.weight[np.concatenate(ids)].mean(0)
    with torch.no_grad():
        layer.router.weight[expert] = 20 * (upper - lower)
        layer.router.bias[expert] = -20 * float((upper - lower) @ (upper + lower) / 2)
        layer.experts.down_proj[expert] = 0
        layer.experts.down_proj_bias[expert] = 20 * said


def test_an_expert_made_to_help_one_condition_has_the_largest_interaction(
    tiny: Any, tmp_path: Path
) -> None:
    prompts = wordings("{1}", "{0}", meta={})  # upper and lower case: other tokens
    make_helpful(tiny, prompts, expert=7)
    capture(tiny, prompts, tmp_path / "made.moe", settings=CaptureSettings(), progress=False)
    store = open_store(tmp_path / "made.moe")
    subjects = Subjects.of_store(store)
    measure = measure_of(store, subjects, tiny, (), QUICK)
    trials = Trials(
        tiny.model,
        measure,
        intervention="reroute",
        path=tmp_path / "trials.npz",
        facts=run_facts(store, tiny, measure, QUICK),
        progress=False,
    )

    damage = trials.damage_of_sets([[(0, each)] for each in range(8)])
    found = interaction_in(
        main_contrast(subjects.prompts), subjects, damage, among=np.ones(24, dtype=bool)
    )

    without = deepcopy(tiny.model)
    with torch.no_grad():
        without.model.layers[0].mlp.router.bias[7] = -torch.inf
    expected = []
    for prompt in prompts:
        ids = torch.tensor([tiny.tokenizer(prompt.text, add_special_tokens=False)["input_ids"]])
        means = []
        for model in (tiny.model, without):
            with torch.no_grad():
                table = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            means.append(float(table.gather(-1, ids[0, 1:, None]).mean()))
        expected.append(means[0] - means[1])
    np.testing.assert_allclose(damage[7], expected, atol=1e-4)
    upper, lower = np.mean(expected[::2]), np.mean(expected[1::2])
    np.testing.assert_allclose(found.value[7], upper - lower, atol=1e-4)
    assert int(np.argmax(found.value)) == 7
    assert found.interval()[0][7] > 0
    # Its use is all vocabulary, which the surface-adjusted search leaves alone.
    run = run_pipeline(
        subjects, trials.damage_of_sets, outcome="content", intervention="reroute", settings=FEW
    )
    assert (0, 7) not in run.test.main.experts


def test_steering_adds_the_difference_of_the_discovery_means(
    tiny: Any, store: Store, done: Experiment
) -> None:
    subjects, row = Subjects.of_store(store), done.beside["steering"].iloc[0]
    ends = np.cumsum([0, *store.prompts["n_tokens"]])
    layer = int(row["layer"])
    held = store.resid("resid_post", layer)
    last = np.array([int(np.flatnonzero(held.token_index < end)[-1]) for end in ends[1:]])
    states = held.values[last]
    half, condition = done.prompts["half"], done.prompts["condition"]
    means = [
        states[(half == "discovery") & (condition == name)].mean(axis=0)
        for name in ("benchmark", "organic")
    ]
    step = torch.from_numpy(means[0] - means[1])

    def add(_: Any, __: Any, output: Any) -> Any:
        return (output[0] + step, *output[1:]) if isinstance(output, tuple) else output + step

    measure = measure_of(store, subjects, tiny, (), QUICK)
    usual = measure.run(None)
    handle = tiny.model.model.layers[layer].register_forward_hook(add)
    damage = usual - measure.run(None)
    handle.remove()

    assert row["sign"] == "towards benchmark"
    for name in ("benchmark", "organic"):
        expected = damage[(half == "test") & (condition == name)].mean()
        np.testing.assert_allclose(row[f"damage_{name}"], expected, atol=1e-4)
    np.testing.assert_allclose(row["length"], np.linalg.norm(step), rtol=1e-5)
    assert row["n_random"] == 3


@pytest.fixture
def quartets(tiny: Any, tmp_path: Path) -> Store:
    """Three items in two registers with the same content, and a sham of each with other words."""
    wrappers = {
        "benchmark-exam": ("benchmark", "Question: {} Answer:", False),
        "organic-chat": ("organic", "what should i do, {}", False),
        "benchmark-exam-sham": ("benchmark", "Question: {} Answer:", True),
        "organic-chat-sham": ("organic", "what should i do, {}", True),
    }
    prompts = []
    for words in WORDS[:3]:
        for variant, (condition, pattern, is_sham) in wrappers.items():
            content = f"{words} is far {words}" if is_sham else f"{words} and how far"
            prompts.append(
                Prompt(
                    text=pattern.format(content),
                    content=content,
                    condition=condition,
                    item_id=words,
                    variant=variant,
                )
            )
    capture(tiny, prompts, tmp_path / "four.moe", settings=CaptureSettings(), progress=False)
    return open_store(tmp_path / "four.moe")


def test_patches_route_shared_words_as_the_other_register_does(
    tiny: Any, quartets: Store, tmp_path: Path
) -> None:
    subjects = Subjects.of_store(quartets)
    measure = measure_of(quartets, subjects, tiny, (), QUICK)
    ledger = Ledger(tmp_path / "patches.npz", {})

    table = patch_table(quartets, subjects, tiny.model, measure, ledger=ledger).set_index("target")

    texts = {each.prompt: each for each in measure.texts}
    damages = []
    for item in range(3):
        benchmark, organic = texts[4 * item], texts[4 * item + 1]
        routing = quartets.router(prompts=np.array([4 * item]))
        with replay_routing(
            tiny.model,
            expert_indices=routing.expert_indices[benchmark.scored],
            expert_weights=routing.expert_weights[benchmark.scored],
            rows=organic.scored,
        ):
            patched = mean_logprobs(tiny.model, [organic])
        damages.append(mean_logprobs(tiny.model, [organic])[0] - patched[0])
    np.testing.assert_allclose(table.loc["organic", "damage_other"], np.mean(damages), atol=1e-5)
    assert table.loc["organic", "share_patched_other"] == 1.0
    assert 0 < table.loc["organic", "share_patched_sham"] < 1
    row = table.loc["organic"]
    np.testing.assert_allclose(row["difference"], row["damage_other"] - row["damage_sham"])
    held = Ledger(tmp_path / "patches.npz", {}).outcome
    outcomes = [held[f"patch organic {name}"][1::4] for name in ("other", "sham")]
    low, high = stats.ttest_rel(outcomes[1], outcomes[0]).confidence_interval(0.95)
    np.testing.assert_allclose([row["difference_low"], row["difference_high"]], [low, high])


def test_without_shams_no_routing_is_patched(tiny: Any, store: Store, tmp_path: Path) -> None:
    subjects = Subjects.of_store(store)
    measure = measure_of(store, subjects, tiny, (), QUICK)

    assert patch_table(
        store, subjects, tiny.model, measure, ledger=Ledger(tmp_path / "none.npz", {})
    ).empty


def test_curves_of_the_found_set_agree_with_sums_by_hand() -> None:
    subjects = subjects_of()
    single = damages(subjects, size=0.2)
    pipeline = run_pipeline(
        subjects, additive(single), outcome="content", intervention="reroute", settings=FEW
    )

    dose, alone, why_not = curves(subjects, additive(single), pipeline, 5)

    main, halves = pipeline.test.main, pipeline.runs[0].halves
    assert dose is not None
    assert alone is not None
    assert halves is not None
    benchmark = (subjects.prompts["condition"] == "benchmark").to_numpy()
    first, second = halves.test & benchmark, halves.test & ~benchmark
    for index, size in enumerate(dose.sizes):
        summed = sum(single[layer, expert] for layer, expert in main.experts[:size])
        expected = summed[first].mean() - summed[second].mean()
        np.testing.assert_allclose(dose.interaction.value[index], expected)
    kept = {*main.experts, *alone.stay}
    gone = [(at, e) for at in (0, 1) for e in range(16) if (at, e) not in kept]
    left = sum(single[layer, expert] for layer, expert in gone)
    np.testing.assert_allclose(alone.interaction.damage_benchmark[0], left[first].mean())
    taken_out = additive(single)

    def counted(sets):
        seen.append([set(each) for each in sets])
        return taken_out(sets)

    seen: list[list[set[tuple[int, int]]]] = []
    curves(subjects, counted, pipeline, 5)
    controls = seen[-1][1:]
    assert len({frozenset(each) for each in controls}) == len(controls) == 5
    assert all(set(main.experts) <= each for each in controls)
    assert alone.share_worse == 1.0
    assert why_not == ""
    assert dose.matched.shape == (5, 3)


def test_behaviour_is_spearmans_rho_over_paired_items() -> None:
    subjects = subjects_of(n_items=20)
    outcome = np.random.default_rng(0).normal(size=40)
    outcome[3] = np.nan

    table = behaviour_table(
        subjects, outcome, experts=[(0, 3)], rng=np.random.default_rng(0), n_permutations=50
    )

    item = subjects.prompts["item_id"]
    left_out = item[3]
    shifts, changes = [], []
    for name in sorted(set(item) - {left_out}):
        rows = {}
        for row in np.flatnonzero(item == name):
            chosen = subjects.tokens.expert_indices[subjects.tokens.prompt_index == row, 0]
            rows[subjects.prompts["condition"][row]] = ((chosen == 3).mean(), outcome[row])
        shifts.append(rows["benchmark"][0] - rows["organic"][0])
        changes.append(rows["benchmark"][1] - rows["organic"][1])
    found = table.set_index("shift").loc["towards_found"]
    np.testing.assert_allclose(found["rho"], stats.spearmanr(shifts, changes).statistic)
    assert found["n_items"] == 19
    assert set(table["shift"]) == {"bits", "towards_found"}


def test_behaviour_within_domains_is_of_ranks_less_their_domains_mean() -> None:
    """Domains differ in shift and outcome alike; within each, nothing does."""
    whole = subjects_of(n_items=36)
    domain = np.repeat(np.arange(36) % 3, 2)
    benchmark = (whole.prompts["condition"] == "benchmark").to_numpy()
    subjects = replace(whole, prompts=whole.prompts.assign(domain=domain.astype(str)))
    shares = subjects.slots[:, 0, 3] / subjects.slots[:, 0].sum(axis=1)
    noise = 0.01 * np.random.default_rng(0).normal(size=72)
    by_domain = [np.mean((shares[benchmark] - shares[~benchmark])[at::3]) for at in range(3)]
    outcome = np.where(benchmark, np.argsort(np.argsort(by_domain))[domain], 0.0) + noise

    table = behaviour_table(
        subjects, outcome, experts=[(0, 3)], rng=np.random.default_rng(0), n_permutations=50
    ).set_index(["shift", "shuffled"])

    order = np.argsort(whole.prompts["item_id"].to_numpy(dtype=str)[benchmark], kind="stable")
    ranks = pd.DataFrame(
        {
            "shift": (shares[benchmark] - shares[~benchmark])[order],
            "change": (outcome[benchmark] - outcome[~benchmark])[order],
        }
    ).rank()
    centred = ranks - ranks.groupby(domain[benchmark][order]).transform("mean")
    within = table.loc[("towards_found", "within domains")]
    np.testing.assert_allclose(within["rho"], centred.corr().iloc[0, 1])
    over_items = table.loc[("towards_found", "items"), "rho"]
    np.testing.assert_allclose(over_items, ranks.corr().iloc[0, 1])
    assert abs(within["rho"] - over_items) > 0.05


def test_pairs_are_of_the_first_wording_not_of_its_sham() -> None:
    subjects = subjects_of(n_items=4)
    variant = subjects.prompts["variant"].to_numpy(dtype=object)
    doubled = replace(
        subjects,
        prompts=pd.concat(
            [
                subjects.prompts.assign(variant=variant + "-sham"),
                subjects.prompts.assign(prompt_id="x"),
            ],
            ignore_index=True,
        ),
    )

    first, second = paired_prompts(doubled, usable=np.ones(16, dtype=bool))

    assert min(*first, *second) >= 8
    items = doubled.prompts["item_id"].to_numpy()
    assert items[first].tolist() == items[second].tolist()


def test_a_model_does_not_differ_from_itself() -> None:
    subjects = subjects_of(n_items=30)
    half = np.where(np.arange(60) % 30 < 15, "test", "discovery")
    damage = np.random.default_rng(0).normal(size=60)
    table = subjects.prompts[["prompt_id"]].assign(half=half, damage=damage)
    nothing = table.assign(damage=np.nan)

    same = compare_models(table, table, subjects=subjects)
    against_none = compare_models(table, nothing, subjects=subjects)

    assert same["interaction"].tolist() == [0.0]
    benchmark = (subjects.prompts["condition"] == "benchmark").to_numpy() & (half == "test")
    organic = (subjects.prompts["condition"] == "organic").to_numpy() & (half == "test")
    expected = damage[benchmark].mean() - damage[organic].mean()
    np.testing.assert_allclose(against_none["interaction"][0], expected)


def test_experiments_on_other_prompts_are_not_compared() -> None:
    subjects = subjects_of(n_items=8)
    table = subjects.prompts[["prompt_id"]].assign(half="test", damage=0.0)

    with pytest.raises(InputError, match="are of other prompts"):
        compare_models(table, table.assign(prompt_id="x"), subjects=subjects)
    with pytest.raises(InputError, match="split the prompts otherwise"):
        compare_models(table, table.assign(half="discovery"), subjects=subjects)
    none = table.assign(half="")
    with pytest.raises(InputError, match="have no test half"):
        compare_models(none, none, subjects=subjects)


def test_some_items_are_of_both_conditions_and_stay_pairs() -> None:
    subjects = subjects_of(n_items=20)
    unpaired = replace(
        subjects,
        prompts=subjects.prompts.assign(
            item_id=subjects.prompts["item_id"] + subjects.prompts["condition"]
        ),
    )

    for each in (subjects, unpaired):
        among = some_items(each, most=3, rng=np.random.default_rng(0))
        kept = each.prompts[among]
        assert kept["condition"].value_counts().to_dict() == {"benchmark": 3, "organic": 3}
    assert (
        subjects.prompts[some_items(subjects, most=3, rng=np.random.default_rng(0))][
            "item_id"
        ].nunique()
        == 3
    )


def test_another_dtype_stands_among_the_noise(
    tiny: Any, tiny_folder: Path, store: Store, results: Path
) -> None:
    from interp.hooks.load import load_model

    other = load_model(str(tiny_folder), dtype="bfloat16", device_map="cpu")
    settings = replace(QUICK, n_random=0, n_curves=0)

    found = run_experiment(
        store, tiny, settings=settings, folder=results, other_dtype=other, progress=False
    )

    noise = found.beside["noise"].set_index("variation")
    assert noise.loc["dtype: bfloat16", "change_most_nats"] > 0
    assert noise.loc["repeat", "change_most_nats"] == 0


def test_noise_has_an_interaction_of_its_own(tiny: Any, store: Store) -> None:
    subjects = Subjects.of_store(store)
    measure = measure_of(store, subjects, tiny, (), QUICK)

    table = noise_table(
        tiny.model, measure, subjects, among=np.ones(24, dtype=bool), batch_tokens=4096
    )

    assert table["variation"].tolist() == ["repeat", "alone", "left"]
    assert table["interaction"][0] == 0.0
    assert (table["interaction"].abs() < 1e-3).all()
    assert (table["n_texts"] == 24).all()


def test_tables_go_into_the_results_of_a_study_and_its_report(
    done: Experiment, tmp_path: Path
) -> None:
    results = replace(synthetic_results(), **done.of_results())
    write_results(results, tmp_path / "results.json")

    again = with_numbers(read_results(tmp_path / "results.json"))

    for name, table in done.of_results().items():
        held = getattr(again, name)
        assert len(held) == len(table)
        assert list(held) == list(table)
    assert set(done.of_results()) == set(EXPERIMENT_TABLES) - {"experiment_second_model"}
    assert again.experiment_slope["outcome"].tolist() == ["content"]
    (dose,) = (panel for panel in PANELS if panel.name == "dose_response")
    assert "each further expert that is taken out adds" in dose.sentences(again)[0]
    assert again.experiments["experts"][0] == done.test.main.row()["experts"]
    np.testing.assert_allclose(again.experiments["interaction"][0], done.test.main.value)


def test_the_command_says_what_was_found_and_where_it_lies(
    store: Store, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--model", str(tiny_folder), "--out", str(tmp_path)]
    few = ["--no-placebos", "--matched", "3", "--random", "0", "--json"]
    main(["experiment", str(store.path), *where, *few])

    said = json.loads(capsys.readouterr().out)
    assert Path(said["tables"]).is_file()
    assert said["n_found"] == len(said.get("experts", "").split())
    with pytest.raises(SystemExit, match="2"):
        main(["experiment", str(store.path), "--model", "toy", "--matched", "-1"])
    assert "--matched is -1, expected 0 or more" in capsys.readouterr().err
