"""One study from prompts to verdict: one configuration, one folder; begun again, it goes on."""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from interp import study
from interp.analyses.evidence import CausalEvidence
from interp.cache.durable import check_folder
from interp.cache.manifest import canonical_json
from interp.cache.reader import Store
from interp.cache.versions import installed_versions
from interp.report import write_report
from interp.results import Results, read_results, write_results
from interp.study_capture import (
    captured,
    changes,
    plain,
    refuse_outcome,
    registered,
    study_model,
    study_prompts,
)
from interp.study_config import StudyConfig, read_study_config
from interp.study_directions import write_directions_beside
from interp.study_second import refuse_second_model, with_second_model
from interp.verdict import verdict_facts, verdict_of


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """Where everything that a verdict goes by lies on disk."""

    store: Path
    """What was captured."""
    results: Path
    """Every table, and the verdict, as JSON."""
    report: Path
    """The page to open and to send on."""
    verdict: Mapping[str, Any]
    """`rung`, `sentence` and `steps`; empty where only generated tokens were captured."""
    changed: tuple[str, ...]
    """Settings that are not those registered before the capture, a sentence each."""


def run_study(
    config: str | Path, out: str | Path | None = None, *, progress: bool = True
) -> StudyRun:
    """Run a study: capture, analyse, take experts out, judge, report; nothing is done twice.

    Args:
        config: A `study.toml`; see docs/studies.md.
        out: Folder of the study; beside the configuration and named like it if None.
        progress: Show bars on stderr.

    Raises:
        InputError: If the configuration, the model, the prompts or the folder cannot be used, or
            another study's store is in it.
    """
    path = Path(config)
    settings = read_study_config(path)
    folder = Path(out) if out is not None else path.with_suffix(".study")
    check_folder(folder)
    run = StudyRun(
        store=folder / "study.moe",
        results=folder / "results.json",
        report=folder / "report.html",
        verdict={},
        changed=(),
    )
    refuse_outcome(settings)
    refuse_second_model(settings, run.results)
    store = captured(settings, run.store, progress=progress)
    keep_config(path, folder / "study.toml")
    changed = changes(store.provenance.get("registered", {}), registered(settings))
    results = analysed(store, settings, run.results, progress=progress)
    results = with_changes(results, store, changed, run.results)
    if settings.experiments is not None and results.verdict:
        results = experimented(store, settings, results, run.results, progress=progress)
        results = with_second_model(store, settings, results, run.results, progress=progress)
    write_report(results, store, run.report)
    return replace(run, verdict=results.verdict, changed=changed)


def keep_config(path: Path, copy: Path) -> None:
    """A copy of the configuration in the folder of the study, unless it is that already."""
    if not (copy.exists() and copy.samefile(path)):
        shutil.copyfile(path, copy)


def with_changes(results: Results, store: Store, changed: tuple[str, ...], out: Path) -> Results:
    """The results with every changed setting among the caveats, also where tables were read.

    Args:
        results: Computed now, or read.
        store: Of the study; what limits it stands before the changes.
        changed: From `interp.study_capture.changes`.
        out: File of the results, which is written anew if its caveats are other ones.
    """
    caveats = [*store.provenance.get("caveats", []), *changed]
    if results.run["caveats"] != caveats:
        results = replace(results, run=results.run | {"caveats": caveats})
        write_results(results, out)
    return results


def analysed(store: Store, settings: StudyConfig, out: Path, *, progress: bool) -> Results:
    """The tables of the study, read where these settings have made them already."""
    made_of = {
        "store_sha256": store.sha256,
        "analysis": asdict(settings.analysis),
        "rule": asdict(settings.rule),
        "seed": settings.seed,
        "moe-interp": installed_versions(["moe-interp"])["moe-interp"],
    }
    digest = hashlib.sha256(canonical_json(made_of).encode()).hexdigest()
    if out.is_file():
        found = read_results(out)
        if found.run.get("made_of_sha256") == digest:
            return found
    results = study.analyze(
        store,
        seed=settings.seed,
        n_permutations=settings.analysis.n_permutations,
        n_resamples=settings.analysis.n_resamples,
        rule=settings.rule,
        targets=settings.analysis.targets,
        progress=progress,
    )
    results = replace(results, run=results.run | {"made_of_sha256": digest})
    write_results(results, out)
    write_directions_beside(out, store)
    return results


def experimented(
    store: Store, settings: StudyConfig, results: Results, out: Path, *, progress: bool
) -> Results:
    """The results with the tables of the experiments, and the verdict that goes by them too.

    What the experiments ran is in the folder of the store; only what is missing there is run.
    """
    from interp.experiments import LEFT_OUT, run_experiment

    digest = _digest_without_second(settings)
    if results.run.get("experiments_of_sha256") == digest:
        return results
    found = run_experiment(
        store,
        study_model(settings),
        prompts=study_prompts(settings),
        settings=settings.experiments,
        folder=out.parent / "experiments",
        progress=progress,
    )
    causal: CausalEvidence = found.test.evidence()
    verdict = verdict_of(results, rule=settings.rule, causal=causal)
    run = results.run | {"experiments_of_sha256": digest, "experiments": str(found.path.name)}
    run |= {"experiments_left_out": list(found.left_out.values())}
    absent = {name: each for name, each in results.absent.items() if name not in LEFT_OUT}
    tables: dict[str, Any] = dict(found.of_results())
    results = replace(
        results,
        verdict=verdict_facts(verdict),
        run=run,
        absent=absent | found.left_out,
        **tables,
    )
    write_results(results, out)
    return results


def _digest_without_second(settings: StudyConfig) -> str:
    """What the experiments on the model of the study depend on."""
    decided = plain(settings.to_dict())
    (decided["experiments"] or {}).pop("second_model", None)
    return hashlib.sha256(canonical_json(decided).encode()).hexdigest()
