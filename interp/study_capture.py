"""The store of a study: what was decided before it, what it holds, and what was changed later."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.cache.errors import InputError
from interp.cache.manifest import MANIFEST_NAME, canonical_json, read_unfinished
from interp.cache.reader import Store, open_store
from interp.compared import COMPARED
from interp.study_config import StudyConfig, made

if TYPE_CHECKING:
    from interp.hooks.load import LoadedModel
    from interp.hooks.settings import CaptureSettings

REGISTERED = ("model", "dtype", "analysis", "experiments", "rule", "seed")
"""Of the configuration, what stands in the store before anything is captured."""


def registered(settings: StudyConfig) -> dict[str, Any]:
    """What is written into the store before anything is captured."""
    decided = plain(settings.to_dict())
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

    prompts, chosen = study_prompts(settings), capture_settings(settings)
    before = _provenance(out)
    decided = before.get("registered") or registered(settings)
    wanted = {"prompts_sha256": prompts_digest(prompts), "settings": plain(asdict(chosen))}
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


def capture_settings(settings: StudyConfig) -> "CaptureSettings":
    """What the study records of each prompt.

    Unless named, log-probabilities are kept of prompts that are not answered, and norms of expert
    outputs where experts are taken out: the tests of experts adjust for the former, and matched
    sets and super experts are found by the latter.

    Raises:
        InputError: If a setting is not known, of another type, or refused.
    """
    from interp.hooks.settings import DEFAULT_SITES, CaptureSettings

    given = {name: each for name, each in settings.capture.items() if each is not None}
    norms = () if settings.experiments is None else ("expert_output_norms",)
    unless_named = {
        "logprobs": given.get("generation") is None,
        "sites": (*DEFAULT_SITES, *norms),
    }
    where = "[capture] of the study cannot be used"
    return made(where, "", unless_named | given, CaptureSettings)


def refuse_outcome(settings: StudyConfig) -> None:
    """Refuse an outcome that the prompts of the study cannot have, before anything is captured.

    Raises:
        InputError: Naming the first prompt that lacks an answer.
    """
    if settings.experiments is None:
        return
    from interp.hooks.outcome_texts import check_outcome

    asked = [each for each in study_prompts(settings) if each.condition in COMPARED]
    check_outcome(asked, settings.experiments.outcome)


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


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
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
