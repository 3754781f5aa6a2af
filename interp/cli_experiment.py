"""The command `interp experiment`: take experts out of a live model and see who is hurt."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from interp.cache.errors import InputError
from interp.cli_options import Json, Several, check_number, say

if TYPE_CHECKING:
    from interp.cache.reader import Store
    from interp.cache.records import Prompt
    from interp.experiment_settings import ExperimentSettings
    from interp.experiments import Experiment


def experiment(
    store: str,
    /,
    *,
    model: str,
    prompts: Annotated[list[str] | None, Several] = None,
    outcome: str = "content",
    intervention: str = "reroute",
    out: Path | None = None,
    matched: int = 100,
    random: int = 20,
    placebos: bool = True,
    batch_tokens: int = 4096,
    dtype: str = "auto",
    noise_dtype: str | None = None,
    second_model: str | None = None,
    seed: int = 0,
    json: Json = False,
) -> None:
    """Find experts that benchmark prompts use and need more, take them out, and compare.

    The same command again goes on where an earlier one was stopped.

    Args:
        store: The store, such as run.moe, captured with this model.
        model: toy, a hub name or a directory.
        prompts: Suites and files that were captured, with their answers; for all outcomes but
            content.
        outcome: content, answer, option, letter, greedy or own_answer.
        intervention: reroute, zero or renormalise.
        out: Folder for the outcomes and tables; experiments within the store if not given.
        matched: Random sets of experts like the found ones, to compare with.
        random: Random directions beside the one that is steered along; 0 steers nothing.
        placebos: Run contrasts of no interest through the same search.
        batch_tokens: Tokens per forward pass, padding included.
        dtype: auto for the checkpoint's own, or a name such as float32.
        noise_dtype: Another dtype to load the model in too, for the noise floor.
        second_model: Another model to capture the same prompts with and put through the same
            procedure, for the difference of the two; needs --prompts.
        seed: Of halves, folds, random sets and directions.
    """
    for name, value, least in (
        ("matched", matched, 0),
        ("random", random, 0),
        ("seed", seed, 0),
        ("batch-tokens", batch_tokens, 1),
    ):
        check_number(name, value, least=least)
    from interp.cache.durable import check_folder
    from interp.cache.reader import open_store
    from interp.experiment_settings import ExperimentSettings, PipelineSettings
    from interp.experiments import folder_of, run_experiment
    from interp.organisms import check_model, load_model
    from interp.prompts.loading import load_several

    settings = ExperimentSettings(
        outcome=outcome,
        intervention=intervention,
        pipeline=PipelineSettings(n_matched=matched, with_placebos=placebos, seed=seed),
        n_random=random,
        batch_tokens=batch_tokens,
    )
    opened = open_store(store)
    check_folder(folder_of(opened, out))
    check_model(model, dtypes=(dtype, noise_dtype or dtype))
    asked = load_several(prompts) if prompts else []
    check_subjects(opened, asked, model, outcome=outcome)
    if second_model is not None:
        asked = prompts_of(opened, asked)
        check_second(opened, asked, (model, second_model), outcome=outcome, dtype=dtype)
    loaded = load_model(model, dtype=dtype)
    other = load_model(model, dtype=noise_dtype) if noise_dtype else None
    found = run_experiment(
        opened, loaded, prompts=asked, settings=settings, folder=out, other_dtype=other
    )
    main = found.test.main
    facts: dict[str, Any] = {"n_found": len(main.experts), "notes": " ".join(main.notes)}
    facts |= {"left_out": " ".join(found.left_out.values())}
    numbers = main.row() | {"largest_placebo": found.test.largest_placebo}
    shown = ("experts", "interaction", "interaction_low", "interaction_high", "n_matched")
    for name in (*shown, "share_below", "largest_placebo"):
        if main.experts and numbers[name] == numbers[name]:  # NaN where there is none
            facts[name] = numbers[name]
    if second_model is not None:
        facts |= beside(opened, found, second_model, asked, settings=settings, dtype=dtype)
    say(facts | {"tables": str(found.path)}, json)


def prompts_of(store: "Store", asked: Sequence["Prompt"]) -> list["Prompt"]:
    """Those prompts that a store holds, in its order.

    Raises:
        InputError: If one was not given.
    """
    given, held = {each.prompt_id: each for each in asked}, store.prompts["prompt_id"].tolist()
    missing = [each for each in held if each not in given]
    if missing:
        raise InputError(
            f"--second-model captures the prompts anew, and {len(missing)} of {len(held)} prompts "
            f"of the store, such as {missing[0]}, are not among those of --prompts; give the "
            "suites and files that were captured"
        )
    return [given[each] for each in held]


def check_subjects(
    store: "Store", prompts: Sequence["Prompt"], model: str, *, outcome: str
) -> None:
    """Refuse a store of another model, and prompts without the answers that an outcome needs."""
    from interp.compared import COMPARED, compared
    from interp.experiment_second_checks import refuse_other_store
    from interp.experiment_trials import answered_prompts

    refuse_other_store(store, model)
    names = compared(store, COMPARED).table["prompt_id"].tolist()
    answered_prompts(names, prompts, outcome=outcome)


def check_second(
    store: "Store",
    prompts: Sequence["Prompt"],
    models: tuple[str, str],
    *,
    outcome: str,
    dtype: str,
) -> None:
    """Refuse a second model before anything is run."""
    from interp.experiment_second_checks import recorded_in, refuse_second

    recorded = recorded_in(store)
    refuse_second(*models, prompts, outcome=outcome, recorded=recorded, dtype=dtype)


def beside(
    store: "Store",
    found: "Experiment",
    model: str,
    prompts: Sequence["Prompt"],
    *,
    settings: "ExperimentSettings",
    dtype: str,
) -> dict[str, Any]:
    """What is said of the second model; its store and tables lie beside those of the first."""
    from interp.experiment_second import FOLDER, run_second
    from interp.experiment_second_checks import recorded_in
    from interp.sentences_experiments import second_sentences

    folder = found.path.parent / FOLDER
    second = run_second(
        store,
        found.path,
        model=model,
        prompts=prompts,
        settings=settings,
        recorded=recorded_in(store),
        folder=folder,
        dtype=dtype,
    )
    said = second.why_not or " ".join(second_sentences(second.table))
    return {"second_model": said, "second": str(folder)}
