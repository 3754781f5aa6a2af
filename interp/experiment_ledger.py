"""What was measured under each intervention, on disk: nothing is run twice."""

import io
import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from interp.cache.durable import write_whole
from interp.cache.errors import InputError

SAVED_EVERY = 20.0
"""Seconds of passes that a stop can cost."""
USUAL = "usual"
"""Name of the run without an intervention."""
Trial = TypeVar("Trial")


class Ledger:
    """The outcome of every prompt under every intervention that was run so far, by its name.

    A file `NAME.npz`: `facts` (JSON text as bytes), `names` `[runs]`, `outcome` `[runs, prompts]`.
    It is replaced whole, so that a stop leaves the last one that was saved.

    Args:
        path: Such as `run.moe/experiments/content-1a2b3c.npz`; its folder is made.
        facts: What was run on what; a file of other facts is refused.

    Raises:
        InputError: If the file cannot be read, or is of something else.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path = path
        self.facts = json.loads(json.dumps(facts))
        self.outcome: dict[str, np.ndarray] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        try:
            with np.load(io.BytesIO(self.path.read_bytes()), allow_pickle=False) as stored:
                facts = json.loads(stored["facts"].tobytes())
                self.outcome = dict(zip(stored["names"].tolist(), stored["outcome"], strict=True))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
            raise InputError(
                f"{self.path} cannot be read ({type(error).__name__}: {error}); remove it, and "
                "what it held is run again"
            ) from error
        other = [name for name in self.facts if facts.get(name) != self.facts[name]]
        if other:
            raise InputError(
                f"{self.path} was made with another {other[0]} ({facts.get(other[0])!r}, now "
                f"{self.facts[other[0]]!r}); choose another folder"
            )

    def save(self) -> None:
        """Put everything that was measured on disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        held = io.BytesIO()
        np.savez_compressed(
            held,
            facts=np.frombuffer(json.dumps(self.facts).encode(), dtype=np.uint8),
            names=np.array(list(self.outcome)),
            outcome=np.stack(list(self.outcome.values())),
        )
        write_whole(self.path, held.getvalue())

    def run(
        self,
        wanted: Sequence[tuple[str, Callable[[], Trial]]],
        measure: Callable[[Trial], Float[np.ndarray, "prompts"]],
        *,
        progress: str = "",
    ) -> Float[np.ndarray, "runs prompts"]:
        """Outcomes under the named interventions; those that are not there yet are measured.

        Args:
            wanted: For each its name, and how to make it, such as an intervention.
            measure: Gives the outcome of every prompt under what was made.
            progress: What to call the bar on stderr; none if empty.
        """
        missing = {name: make for name, make in wanted if name not in self.outcome}
        saved = time.monotonic()
        for name, make in tqdm(missing.items(), desc=progress, disable=not progress, unit="run"):
            self.outcome[name] = measure(make())
            if time.monotonic() - saved > SAVED_EVERY:
                self.save()
                saved = time.monotonic()
        if missing:
            self.save()
        return np.array([self.outcome[name] for name, _ in wanted])

    def expect_same_model(self, usual: Float[np.ndarray, "prompts"], *, within: float) -> None:
        """Refuse to go on with another model than the one that this was measured with.

        What is measured for the first time is saved, so that there is a file in any case.

        Args:
            usual: Outcome of every prompt without an intervention, measured now.
            within: Largest difference that rounding explains.

        Raises:
            InputError: If the outcomes differ by more, or others of them are NaN, or all are.
        """
        if np.isnan(usual).all():
            raise InputError(
                f"none of {len(usual)} prompts has an outcome without an intervention (all are "
                "NaN), expected numbers; load the model in another dtype, such as float32"
            )
        there = self.outcome.get(USUAL)
        if there is None:
            self.outcome[USUAL] = usual
            self.save()
            return
        most = _largest_difference(there, usual)
        if most > within:
            raise InputError(
                f"{self.path} holds outcomes that differ from those of this model by {most:.3g}, "
                f"expected {within:g} at most: it was made with other weights; choose another "
                "folder"
            )


def _largest_difference(there: Float[np.ndarray, "before"], now: Float[np.ndarray, "now"]) -> float:
    """Largest difference of two outcomes; infinite where they are not NaN for the same prompts."""
    if there.shape != now.shape or not np.array_equal(np.isnan(there), np.isnan(now)):
        return float("inf")
    return float(np.nanmax(np.abs(there - now), initial=0.0))
