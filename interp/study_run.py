"""One study from prompts to verdict: one configuration, one folder; begun again, it goes on."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp import study
from interp.analyses.evidence import CausalEvidence
from interp.cache.errors import InputError
from interp.cache.manifest import MANIFEST_NAME, canonical_json, read_unfinished
from interp.cache.reader import Store, open_store
from interp.cache.versions import installed_versions
from interp.report import write_report
from interp.results import Results, read_results, write_results
from interp.study_config import StudyConfig, read_study_config
from interp.study_directions import write_directions_beside
from interp.verdict import verdict_facts, verdict_of

if TYPE_CHECKING:
    from interp.hooks.load import LoadedModel

REGISTERED = ("model", "dtype", "analysis", "experiments", "rule", "seed")
"""Of the configuration, what stands in the store before anything is captured."""


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
        InputError: If the configuration, the model or the prompts cannot be used, or another
            study's store is in the folder.
    """
    path = Path(config)
    settings = read_study_config(path)
    folder = Path(out) if out is not None else path.with_suffix(".study")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give the name of a folder for the study")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, folder / "study.toml")
    run = StudyRun(
        store=folder / "study.moe",
        results=folder / "results.json",
        report=folder / "report.html",
        verdict={},
        changed=(),
    )
    store = captured(settings, run.store, progress=progress)
    changed = changes(store.provenance.get("registered", {}), registered(settings))
    results = analysed(store, settings, run.results, changed=changed, progress=progress)
    if settings.experiments is not None and results.verdict:
        results = experimented(store, settings, results, run.results, progress=progress)
    write_report(results, store, run.report)
    return replace(run, verdict=results.verdict, changed=changed)


def registered(settings: StudyConfig) -> dict[str, Any]:
    """What is written into the store before anything is captured."""
    decided = _plain(settings.to_dict())
    digest = hashlib.sha256(canonical_json(decided).encode()).hexdigest()
    return {name: decided[name] for name in REGISTERED} | {"config_sha256": digest}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """A sentence for each registered setting that is another now."""
    first, second = _flat(before), _flat(now)
    names = [name for name in first | second if name != "config_sha256"]
    return tuple(
        f"{name} was {first.get(name, 'not there')} when the study was registered, before its "
        f"capture, and is {second.get(name, 'not there')} now."
        for name in names
        if first.get(name) != second.get(name)
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        inside = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{name}.") if inside else {f"{prefix}{name}": value}
    return flat


def captured(settings: StudyConfig, out: Path, *, progress: bool) -> Store:
    """The store of the study; the model is loaded only where the store is not whole yet."""
    from interp.hooks.capture import capture, prompts_digest
    from interp.hooks.settings import CaptureSettings

    prompts = study_prompts(settings)
    try:
        chosen = CaptureSettings(**_tuples(settings.capture))
    except TypeError as error:
        raise InputError(f"[capture] of the study cannot be used: {error}") from error
    before = _provenance(out)
    decided = before.get("registered") or registered(settings)
    wanted = {"prompts_sha256": prompts_digest(prompts), "settings": _plain(asdict(chosen))}
    is_same = all(decided[name] == getattr(settings, name) for name in ("model", "dtype"))
    if is_same and wanted.items() <= before.items() and is_complete(out):
        return open_store(out)
    capture(
        study_model(settings),
        prompts,
        out,
        settings=chosen,
        registered=decided,
        progress=progress,
    )
    return open_store(out)


def study_prompts(settings: StudyConfig) -> Any:
    """The prompts of the study."""
    from interp.prompts.loading import load_several

    prompts = load_several(settings.prompts, condition=settings.condition, limit=settings.limit)
    if not prompts:
        raise InputError(
            "prompts of the study names no suite and no file; give one, as ['matched']"
        )
    return prompts


def study_model(settings: StudyConfig) -> "LoadedModel":
    """The model of the study."""
    from interp.organisms import load_model

    return load_model(settings.model, dtype=settings.dtype)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(each) if isinstance(each, list) else each for name, each in values.items()}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives them back: lists in the place of tuples."""
    return dict(json.loads(canonical_json(values)))


def _provenance(out: Path) -> dict[str, Any]:
    """That of a store which was begun here already."""
    if not (out / MANIFEST_NAME).is_file():
        return {}
    return dict(read_unfinished(out)[0].get("provenance", {}))


def is_complete(out: Path) -> bool:
    """Whether the store was captured to its end."""
    return bool(read_unfinished(out)[0].get("complete"))


def analysed(
    store: Store, settings: StudyConfig, out: Path, *, changed: tuple[str, ...], progress: bool
) -> Results:
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
    caveats = [*results.run["caveats"], *changed]
    results = replace(results, run=results.run | {"made_of_sha256": digest, "caveats": caveats})
    write_results(results, out)
    write_directions_beside(out, store)
    return results


def experimented(
    store: Store, settings: StudyConfig, results: Results, out: Path, *, progress: bool
) -> Results:
    """The results with the tables of the experiments, and the verdict that goes by them too.

    What the experiments ran is in the folder of the store; only what is missing there is run.
    """
    from interp.experiments import run_experiment

    digest = hashlib.sha256(canonical_json(_plain(settings.to_dict())).encode()).hexdigest()
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
    tables: dict[str, Any] = dict(found.of_results())
    results = replace(results, verdict=verdict_facts(verdict), run=run, **tables)
    write_results(results, out)
    return results
