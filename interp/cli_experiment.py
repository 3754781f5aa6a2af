"""The command `interp experiment`: take experts out of a live model and see who is hurt."""

from pathlib import Path
from typing import Annotated, Any

from interp.cli_options import Json, Several, check_number, say


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
        seed: Of halves, folds, random sets and directions.
    """
    for name, value, least in (
        ("matched", matched, 0),
        ("random", random, 0),
        ("seed", seed, 0),
        ("batch-tokens", batch_tokens, 1),
    ):
        check_number(name, value, least=least)
    from interp.cache.reader import open_store
    from interp.experiment_settings import ExperimentSettings, PipelineSettings
    from interp.experiments import run_experiment
    from interp.organisms import load_model
    from interp.prompts.loading import load_several

    settings = ExperimentSettings(
        outcome=outcome,
        intervention=intervention,
        pipeline=PipelineSettings(n_matched=matched, with_placebos=placebos, seed=seed),
        n_random=random,
        batch_tokens=batch_tokens,
    )
    opened = open_store(store)
    asked = load_several(prompts) if prompts else []
    loaded = load_model(model, dtype=dtype)
    other = load_model(model, dtype=noise_dtype) if noise_dtype else None
    found = run_experiment(
        opened, loaded, prompts=asked, settings=settings, folder=out, other_dtype=other
    )
    main = found.test.main
    facts: dict[str, Any] = {"n_found": len(main.experts), "notes": " ".join(main.notes)}
    numbers = main.row() | {"largest_placebo": found.test.largest_placebo}
    shown = ("experts", "interaction", "interaction_low", "interaction_high", "n_matched")
    for name in (*shown, "share_below", "largest_placebo"):
        if main.experts and numbers[name] == numbers[name]:  # NaN where there is none
            facts[name] = numbers[name]
    say(facts | {"tables": str(found.path)}, json)
