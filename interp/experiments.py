"""Experiments on a live model: experts are taken out, and it is counted who is hurt.

    experiment = run_experiment(open_store("run.moe"), load_model("toy"))
    experiment.test.to_frame()

What the numbers mean and how they fool you: docs/experiments.md.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.analyses.causal_test import CausalTest
from interp.analyses.dose_response import DoseResponse, Sufficiency
from interp.cache.durable import check_folder, write_whole
from interp.cache.reader import Store
from interp.cache.records import Prompt
from interp.experiment_checks import behaviour_table, noise_table, some_items
from interp.experiment_curves import curves
from interp.experiment_patches import patch_table
from interp.experiment_pipeline import PipelineRun, run_pipeline
from interp.experiment_settings import ExperimentSettings
from interp.experiment_steering import steering_table
from interp.experiment_subjects import Subjects
from interp.experiment_trials import (
    ACCURACIES,
    Trials,
    measure_of,
    refuse_other_model,
    run_facts,
)
from interp.results import EXPERIMENT_TABLES

if TYPE_CHECKING:
    from interp.hooks.load import LoadedModel
    from interp.hooks.measures import Measure

LEFT_OUT = ("experiment_notes", "experiment_sufficiency")
"""Keys of `Experiment.left_out`; as those of `interp.results.Results.absent`."""
FOLDER = "experiments"
"""Beside the parts of a store."""
BESIDE = 1_000_003
"""Apart from the contrasts' own streams of chance."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What an experiment found, with a table behind every number."""

    test: CausalTest
    """What the ladder reads."""
    pipeline: PipelineRun
    """Found sets and halves of every contrast."""
    dose: DoseResponse | None
    """Interaction over set size; None if nothing was found."""
    sufficiency: Sufficiency | None
    """What the found set does alone in its layers; None if nothing was found."""
    beside: Mapping[str, pd.DataFrame]
    """Tables `noise`, `behaviour`, `patches` and `steering`; empty where there is none."""
    prompts: pd.DataFrame
    """One row per prompt: fields, half, usual outcome, damage of the found set."""
    path: Path
    """The JSON file of all tables; the outcomes lie beside it."""
    run: dict[str, Any]
    """Model, store, settings, and the file that holds every outcome."""

    @property
    def left_out(self) -> dict[str, str]:
        """What was not done or not known, a sentence for each of `LEFT_OUT` that there is."""
        said = (" ".join(self.test.notes), str(self.run["left_out"]))
        return {name: each for name, each in zip(LEFT_OUT, said, strict=True) if each}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table by name; those without a row are empty."""
        found = self.pipeline.runs[0].found
        return {
            "contrasts": self.test.to_frame(),
            "candidates": pd.DataFrame() if found is None else found.to_frame(),
            "matched": self.pipeline.matched_frame(),
            "dose": pd.DataFrame() if self.dose is None else self.dose.to_frame(),
            "slope": (
                pd.DataFrame()
                if self.dose is None
                else self.dose.slope_frame().assign(outcome=self.test.outcome)
            ),
            "sufficiency": (
                pd.DataFrame() if self.sufficiency is None else self.sufficiency.to_frame()
            ),
            **self.beside,
            "prompts": self.prompts,
        }

    def of_results(self) -> dict[str, pd.DataFrame]:
        """The tables under the names that they have in `interp.results.Results`."""
        tables = self.tables()
        named = {f"experiment_{name}": table for name, table in tables.items()}
        kept = {name: named[name] for name in EXPERIMENT_TABLES if name in named}
        return {"experiments": tables["contrasts"]} | kept


def run_experiment(
    store: Store,
    loaded: "LoadedModel",
    *,
    prompts: Sequence[Prompt] = (),
    settings: ExperimentSettings | None = None,
    folder: str | Path | None = None,
    other_dtype: "LoadedModel | None" = None,
    progress: bool = True,
) -> Experiment:
    """Find experts that benchmark prompts use and need more, take them out, and compare.

    Every outcome goes to a file in `folder`, and the same call again goes on where an earlier one
    was stopped. The tables go beside it as JSON, under a name of their own for other settings.

    Args:
        store: Captured with this model; with log-probabilities and norms if possible.
        loaded: The model.
        prompts: Those of the store, with their answers; needed for all outcomes but `content`.
        settings: What is measured and how.
        folder: Where results go; `experiments` within the store's folder if None.
        other_dtype: The same model loaded in another dtype, for the noise floor.
        progress: Show bars on stderr.

    Raises:
        InputError: If the store is of other weights or has nothing to compare, prompts or answers
            are missing, or the folder cannot be written to or holds results of something else.
        ModelError: If the model ignores the knockout.
    """
    settings = settings or ExperimentSettings()
    refuse_other_model(store, loaded)
    where = folder_of(store, folder)
    check_folder(where)
    subjects = Subjects.of_store(store)
    measure = measure_of(store, subjects, loaded, prompts, settings)
    facts = run_facts(store, loaded, measure, settings)
    stem = f"{settings.outcome}-{settings.intervention}-{_digest(facts)[:12]}"
    trials = Trials(
        loaded.model,
        measure,
        intervention=settings.intervention,
        path=where / f"{stem}.npz",
        facts=facts,
        progress=progress,
    )
    usable = ~np.isnan(trials.usual)
    pipeline = run_pipeline(
        subjects,
        trials.damage_of_sets,
        outcome=settings.outcome,
        intervention=settings.intervention,
        settings=settings.pipeline,
        usable=usable,
    )
    dose, sufficiency, why_not = curves(
        subjects, trials.damage_of_sets, pipeline, settings.n_curves
    )
    model, other = loaded.model, None if other_dtype is None else other_dtype.model
    beside = beside_tables(store, subjects, model, measure, trials, pipeline, settings, other=other)
    settled = json.loads(json.dumps(asdict(settings)))
    del settled["second_model"]  # of the study, see ExperimentSettings
    experiment = Experiment(
        test=pipeline.test,
        pipeline=pipeline,
        dose=dose,
        sufficiency=sufficiency,
        beside=beside,
        prompts=prompt_table(subjects, pipeline, trials),
        path=where / f"{stem}-{_digest(settled)[:8]}.json",
        run=facts | {"left_out": why_not, "settings": settled, "outcomes": trials.ledger.path.name},
    )
    write_experiment(experiment, experiment.path)
    return experiment


def folder_of(store: Store, folder: str | Path | None) -> Path:
    """Where the results of an experiment go."""
    return Path(store.path) / FOLDER if folder is None else Path(folder)


def beside_tables(
    store: Store,
    subjects: Subjects,
    model: Any,
    measure: "Measure",
    trials: Trials,
    pipeline: PipelineRun,
    settings: ExperimentSettings,
    *,
    other: Any | None = None,
) -> dict[str, pd.DataFrame]:
    """What stands beside the causal test.

    `behaviour` is not of `content`, which is of other words in the two prompts of an item; patches
    are of `content` alone, where the shared words are what is scored. Steering needs residuals.
    """
    main, halves = pipeline.test.main, pipeline.runs[0].halves
    rng = np.random.default_rng([settings.pipeline.seed, BESIDE])
    tables = dict.fromkeys(("noise", "behaviour", "patches", "steering"), pd.DataFrame())
    if settings.n_noise:
        some = some_items(subjects, most=settings.n_noise, rng=rng)
        tables["noise"] = noise_table(
            model,
            measure,
            subjects,
            among=some,
            batch_tokens=settings.batch_tokens,
            other_dtype=other,
        )
    if settings.outcome in ("answer", *ACCURACIES):
        tables["behaviour"] = behaviour_table(subjects, trials.usual, experts=main.experts, rng=rng)
    if settings.outcome == "content" and settings.with_patches:
        tables["patches"] = patch_table(store, subjects, model, measure, ledger=trials.ledger)
    if settings.n_random and halves is not None:
        tables["steering"] = steering_table(
            store, subjects, trials, halves=halves, rng=rng, n_random=settings.n_random
        )
    return tables


def prompt_table(subjects: Subjects, pipeline: PipelineRun, trials: Trials) -> pd.DataFrame:
    """Every prompt with its half, its usual outcome, and the damage of the found set."""
    fields = ["prompt_id", "item_id", "condition", "variant", "template", "domain", "source"]
    halves, found = pipeline.runs[0].halves, pipeline.test.main.experts
    half = np.full(len(subjects.prompts), "", dtype=object)
    if halves is not None:
        half[halves.discovery], half[halves.test] = "discovery", "test"
    damage = np.full(len(subjects.prompts), np.nan)
    if found:
        damage = trials.damage_of_sets([found])[0]
    return subjects.prompts[fields].assign(half=half, usual=trials.usual, damage=damage)


def write_experiment(experiment: Experiment, path: Path) -> None:
    """Write all tables as one JSON object; missing numbers become null."""
    tables = {
        name: json.loads(table.to_json(orient="records", double_precision=15))
        for name, table in experiment.tables().items()
    }
    document = tables | {"run": experiment.run, "notes": list(experiment.test.notes)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
