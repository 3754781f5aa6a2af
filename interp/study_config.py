"""The configuration of one study, from prompts to verdict: `study.toml`."""

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

from interp.analyses.evidence import Rule
from interp.cache.errors import InputError
from interp.experiment_settings import ExperimentSettings

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class AnalysisSettings:
    """How the tables of a study are computed."""

    n_permutations: int = 200
    """Relabellings behind each null of the divergence."""
    n_resamples: int = 10_000
    """Resamples behind each test of all experts at once."""
    targets: tuple[str, ...] = ("condition",)
    """What the probes tell apart: the condition, or other fields of a prompt."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Everything that decides a study. Each part is a table of `study.toml`.

    Raises:
        InputError: If the second model is the model itself.
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
    capture: Mapping[str, Any] = field(default_factory=lambda: {"logprobs": True})
    """Fields of `interp.hooks.settings.CaptureSettings`."""
    analysis: AnalysisSettings = field(default_factory=AnalysisSettings)
    """How the tables are computed."""
    experiments: ExperimentSettings | None = None
    """How experts are taken out; no experiment is made where the table is not there."""
    rule: Rule = field(default_factory=Rule)
    """Thresholds of the verdict, written into the store before anything is captured."""

    def __post_init__(self) -> None:
        second = None if self.experiments is None else self.experiments.second_model
        if second == self.model:
            raise InputError(
                f"experiments.second_model is {second!r}, which is the model of the study itself; "
                "name another, such as untrained-router-0"
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
    return _made(path, "", document, StudyConfig)


def _made(path: Path, prefix: str, given: Mapping[str, Any], kind: type[T]) -> T:
    """The dataclass `kind` with the given keys; each must be one of its fields, and of its type."""
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(known)}"
            raise InputError(f"{path}: {prefix}{key} is not a setting; {hint}")
    needed = [
        each.name
        for each in known.values()
        if each.default is MISSING and each.default_factory is MISSING and each.name not in given
    ]
    if needed:
        raise InputError(f"{path} lacks {prefix}{needed[0]}; add it")
    values = {
        key: _value(path, f"{prefix}{key}", value, known[key].type) for key, value in given.items()
    }
    try:
        return kind(**values)
    except (InputError, ValueError) as error:
        raise InputError(f"{path}: {prefix}{error}") from error


PLAIN: Mapping[Any, tuple[type, str]] = {
    str: (str, "a text"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    bool: (bool, "true or false"),
    str | None: (str, "a text"),
    int | None: (int, "a whole number"),
}
"""Types of single values, and their names in a sentence."""


def _value(path: Path, key: str, value: Any, kind: Any) -> Any:
    """The value as its field wants it; a whole number does where a number is wanted."""
    table: Any = next((each for each in (kind, *get_args(kind)) if is_dataclass(each)), None)
    if table is not None:
        if not isinstance(value, dict):
            raise InputError(
                f"{path}: {key} is {value!r}, expected a table; write [{key}] above it"
            )
        return _made(path, f"{key}.", value, table)
    if kind == tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise InputError(f'{path}: {key} is {value!r}, expected a list of texts such as ["x"]')
        return tuple(value)
    if kind not in PLAIN:
        return value
    wanted, name = PLAIN[kind]
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise InputError(f"{path}: {key} is {value!r}, expected {name}")
    return value
