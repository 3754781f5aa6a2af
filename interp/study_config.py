"""The configuration of one study, from prompts to verdict: `study.toml`."""

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

from interp.analyses.evidence import Rule
from interp.cache.errors import InputError
from interp.cache.records import PROMPT_FIELDS
from interp.experiment_settings import ExperimentSettings

T = TypeVar("T")
SHARED = ("alpha", "margin_in_even_shares")
"""What the rule and the search for experts both go by, under one name."""


@dataclass(frozen=True, kw_only=True)
class AnalysisSettings:
    """How the tables of a study are computed.

    Raises:
        InputError: If a number is below 1, or a target is no field of a prompt.
    """

    n_permutations: int = 200
    """Relabellings behind each null of the divergence."""
    n_resamples: int = 10_000
    """Resamples behind each test of all experts at once."""
    targets: tuple[str, ...] = ("condition",)
    """What the probes tell apart: the condition, or other fields of a prompt."""

    def __post_init__(self) -> None:
        for name in ("n_permutations", "n_resamples"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 1 or more")
        for name in self.targets:
            if name not in PROMPT_FIELDS:
                raise InputError(
                    f"targets names {name!r}, expected fields of a prompt: "
                    f"{', '.join(PROMPT_FIELDS)}"
                )


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Everything that decides a study. Each part is a table of `study.toml`.

    Raises:
        InputError: If the second model is the model itself, a number is outside of its range, or
            the search for experts has a level or margin that is not the rule's.
    """

    model: str
    """An organism such as `toy`, a hub name, or a directory."""
    prompts: tuple[str, ...]
    """Suites and files."""
    dtype: str = "auto"
    """`auto` for the checkpoint's own, or a name such as float32."""
    condition: str | None = None
    """Condition of those rows of files that name none."""
    limit: int | None = None
    """At most so many items of each suite or file, each with all of its variants."""
    seed: int = 0
    """Of permutations, folds and resamples."""
    capture: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `interp.hooks.settings.CaptureSettings`; see `interp.study_capture` for those that
    are not named."""
    analysis: AnalysisSettings = field(default_factory=AnalysisSettings)
    """How the tables are computed."""
    experiments: ExperimentSettings | None = None
    """How experts are taken out; no experiment is made where the table is not there. Read from a
    file, the level, margin and seed of its search are those of the study unless they are given."""
    rule: Rule = field(default_factory=Rule)
    """Thresholds of the verdict, written into the store before anything is captured."""

    def __post_init__(self) -> None:
        for name, value, least in (("limit", self.limit, 1), ("seed", self.seed, 0)):
            if value is not None and value < least:
                raise InputError(f"{name} is {value}, expected {least} or more")
        self._refuse_two_rules()
        second = None if self.experiments is None else self.experiments.second_model
        if second == self.model:
            raise InputError(
                f"experiments.second_model is {second!r}, which is the model of the study itself; "
                "name another, such as untrained-router-0"
            )

    def _refuse_two_rules(self) -> None:
        """A verdict at one level must not rest on a search at another."""
        if self.experiments is None:
            return
        for name in SHARED:
            of_rule, of_search = (
                getattr(each, name) for each in (self.rule, self.experiments.pipeline)
            )
            if of_rule != of_search:
                raise InputError(
                    f"rule.{name} is {of_rule} and experiments.pipeline.{name} is {of_search}, "
                    "expected the same, since one verdict goes by both; give it under rule alone"
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def read_study_config(path: str | Path) -> StudyConfig:
    """Read `study.toml`.

    Raises:
        InputError: If it is not there, not TOML, or a key is unknown, missing or of another type.
    """
    path = Path(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); give the study.toml of a study"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML ({error}); see docs/studies.md for one") from error
    return made(str(path), "", _with_one_rule(document), StudyConfig)


def _with_one_rule(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with level, margin and seed of the study in its search, unless given there."""
    # First what is shared, so that a wrong value is named where it was written.
    first = {name: document[name] for name in ("seed", "rule") if name in document}
    rule, experiments = document.get("rule", {}), document.get("experiments")
    pipeline = experiments.get("pipeline", {}) if isinstance(experiments, dict) else None
    if not (
        isinstance(experiments, dict) and isinstance(pipeline, dict) and isinstance(rule, dict)
    ):
        return first | dict(document)
    shared = {name: rule[name] for name in SHARED if name in rule}
    seed = document.get("seed")
    if isinstance(seed, int) and seed >= 0:  # others are refused under their own name
        shared["seed"] = seed
    return first | dict(document) | {"experiments": experiments | {"pipeline": shared | pipeline}}


def made(where: str, prefix: str, given: Mapping[str, Any], kind: type[T]) -> T:
    """The dataclass `kind` with the given keys; each must be one of its fields, and of its type.

    Args:
        where: What the keys were read from; begins each sentence.
        prefix: What stands before a key in a sentence, such as `rule.`.
        given: Values by the name of their field.
        kind: The dataclass.

    Raises:
        InputError: If a key is unknown, missing or of another type, or a value is refused.
    """
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(known)}"
            raise InputError(f"{where}: {prefix}{key} is not a setting; {hint}")
    needed = [
        each.name
        for each in known.values()
        if each.default is MISSING and each.default_factory is MISSING and each.name not in given
    ]
    if needed:
        raise InputError(f"{where} lacks {prefix}{needed[0]}; add it")
    values = {
        key: _value(where, f"{prefix}{key}", value, known[key].type) for key, value in given.items()
    }
    try:
        return kind(**values)
    except (InputError, ValueError) as error:
        raise InputError(f"{where}: {prefix}{error}") from error


PLAIN: Mapping[Any, tuple[type, str]] = {
    str: (str, "a text"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    bool: (bool, "true or false"),
    str | None: (str, "a text"),
    int | None: (int, "a whole number"),
}
LISTS: Mapping[Any, tuple[type, str]] = {
    tuple[str, ...]: (str, 'a list of texts such as ["x"]'),
    tuple[int, ...] | None: (int, "a list of whole numbers such as [1]"),
}
"""Types of single values, and of those of a list, and their names in a sentence."""


def _value(where: str, key: str, value: Any, kind: Any) -> Any:
    """The value as its field wants it; a whole number does where a number is wanted."""
    table: Any = next((each for each in (kind, *get_args(kind)) if is_dataclass(each)), None)
    if table is not None and not isinstance(value, table):
        if not isinstance(value, dict):
            raise InputError(
                f"{where}: {key} is {value!r}, expected a table; write [{key}] above it"
            )
        return made(where, f"{key}.", value, table)
    if kind in LISTS:
        wanted, name = LISTS[kind]
        if not isinstance(value, list | tuple) or any(type(each) is not wanted for each in value):
            raise InputError(f"{where}: {key} is {value!r}, expected {name}")
        return tuple(value)
    if kind not in PLAIN:
        return value
    wanted, name = PLAIN[kind]
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise InputError(f"{where}: {key} is {value!r}, expected {name}")
    return value
