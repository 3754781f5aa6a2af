"""The second model of a study: refused before anything is run, or compared, and never twice."""

import hashlib
from dataclasses import replace
from pathlib import Path

from interp.cache.manifest import canonical_json
from interp.cache.reader import Store
from interp.experiment_second import FOLDER, SecondModel, run_second
from interp.experiment_second_checks import refuse_second
from interp.results import Results, read_results, write_results
from interp.study_capture import capture_settings, plain, study_prompts
from interp.study_config import StudyConfig

TABLE = "experiment_second_model"


def second_name(settings: StudyConfig) -> str:
    """The second model of the study; empty if it has none."""
    return (settings.experiments.second_model if settings.experiments else None) or ""


def _is_compared(settings: StudyConfig, results: Results) -> bool:
    return bool(results.run.get("second_model_of_sha256", "") == _second_digest(settings, results))


def _second_digest(settings: StudyConfig, results: Results) -> str:
    """What the comparison depends on; empty without a second model."""
    if not second_name(settings):
        return ""
    made_of = plain(settings.to_dict()) | {"first": results.run.get("experiments", "")}
    return hashlib.sha256(canonical_json(made_of).encode()).hexdigest()


def refuse_second_model(settings: StudyConfig, out: Path) -> None:
    """Refuse a second model that cannot be compared, before anything is captured.

    Args:
        settings: Of the study; without a second model nothing is looked at.
        out: Results of the study, where there are some; what is compared already is not refused.

    Raises:
        InputError: As `interp.experiment_second_checks.refuse_second`.
    """
    if settings.experiments is None or not second_name(settings):
        return
    if out.is_file() and _is_compared(settings, read_results(out)):
        return
    refuse_second(
        settings.model,
        second_name(settings),
        study_prompts(settings),
        outcome=settings.experiments.outcome,
        recorded=capture_settings(settings),
        dtype=settings.dtype,
    )


def with_second_model(
    store: Store, settings: StudyConfig, results: Results, out: Path, *, progress: bool
) -> Results:
    """The results with the row of the second model, or with the reason why there is none.

    A row of a second model that the configuration names no more is taken out.
    """
    if _is_compared(settings, results) or settings.experiments is None:
        return results
    name, found = second_name(settings), SecondModel()
    if name:
        found = run_second(
            store,
            out.parent / "experiments" / str(results.run["experiments"]),
            model=name,
            prompts=study_prompts(settings),
            settings=settings.experiments,
            recorded=capture_settings(settings),
            folder=out.parent / FOLDER,
            dtype=settings.dtype,
            progress=progress,
        )
    absent = {key: each for key, each in results.absent.items() if key != TABLE}
    results = replace(
        results,
        experiment_second_model=found.table,
        run=results.run | {"second_model_of_sha256": _second_digest(settings, results)},
        absent=absent | ({TABLE: found.why_not} if found.why_not else {}),
    )
    write_results(results, out)
    return results
