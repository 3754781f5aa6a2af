"""What can be tried on a model: the outcomes of one measure, under one knockout after another."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interp.analyses.matched_sets import expert_names
from interp.cache.errors import InputError
from interp.cache.reader import Store
from interp.cache.records import Prompt
from interp.experiment_ledger import USUAL, Ledger
from interp.experiment_settings import ExperimentSettings
from interp.experiment_subjects import Subjects

if TYPE_CHECKING:
    from interp.hooks.load import LoadedModel
    from interp.hooks.measures import Measure

SAME_MODEL = {"float32": 1e-3, "less": 0.1}
"""Nats per token by which two runs of one model may differ on another machine; ours."""
SAME_ACCURACY = 0.5
"""No answer may turn from right to wrong."""
ACCURACIES = ("option", "letter", "greedy")
"""Outcomes that are right or wrong, as in `interp.hooks.outcomes`."""
Expert = tuple[int, int]


class Trials:
    """Outcomes of one measure under knockouts, from the ledger or else from the model.

    Args:
        model: In evaluation mode.
        measure: What is measured.
        intervention: Name of the knockout, one of `interp.experiment_settings.INTERVENTIONS`.
        path: File of the ledger.
        facts: What the ledger is of.
        progress: Show bars on stderr.

    Raises:
        InputError: If the ledger is of something else.
        ModelError: If the model ignores the knockout.
    """

    def __init__(
        self,
        model: Any,
        measure: "Measure",
        *,
        intervention: str,
        path: Path,
        facts: dict[str, Any],
        progress: bool = True,
    ) -> None:
        from interp.hooks.interventions import KNOCKOUTS
        from interp.hooks.knockout_check import refuse_ignored

        self.intervention = intervention
        self.ledger = Ledger(path, facts)
        self._model, self._measure, self._progress = model, measure, progress
        self._knockout = KNOCKOUTS[intervention]
        refuse_ignored(model, measure.shortest, self._knockout, name=intervention)
        is_full = str(model.dtype) in ("torch.float32", "torch.float64")
        within = SAME_MODEL["float32" if is_full else "less"]
        if measure.outcome in ACCURACIES:
            within = SAME_ACCURACY
        self.ledger.expect_same_model(measure.run(None), within=within)

    @property
    def usual(self) -> Float[np.ndarray, "prompts"]:
        """Outcome of every prompt without an intervention."""
        return np.asarray(self.ledger.outcome[USUAL])

    def damage_of_sets(self, sets: Sequence[Sequence[Expert]]) -> Float[np.ndarray, "sets prompts"]:
        """Usual outcome less the outcome without these experts."""
        wanted = []
        for each in sets:
            experts = tuple(sorted(each))
            name = f"{self.intervention} {expert_names(experts)}"
            wanted.append((name, lambda out=experts: self._knockout(self._model, out)))
        progress = f"take out {len(sets)} sets" if self._progress else ""
        under = self.ledger.run(wanted, self._measure.run, progress=progress)
        return np.asarray(self.usual - under)

    def damage_of_steering(
        self, steps: Float[np.ndarray, "directions d_model"], *, site: str, layer: int
    ) -> Float[np.ndarray, "directions prompts"]:
        """Usual outcome less the outcome with each direction added at every token."""
        from interp.hooks.steering import steer_residual

        wanted = []
        for step in steps:
            digest = hashlib.sha256(step.astype(np.float64).tobytes()).hexdigest()[:16]

            def make(step: Float[np.ndarray, "d_model"] = step) -> Any:
                return steer_residual(self._model, step, site=site, layer=layer)

            wanted.append((f"steer {site}:{layer} {digest}", make))
        progress = f"steer {len(steps)} ways" if self._progress else ""
        under = self.ledger.run(wanted, self._measure.run, progress=progress)
        return np.asarray(self.usual - under)


def measure_of(
    store: Store,
    subjects: Subjects,
    loaded: "LoadedModel",
    prompts: Sequence[Prompt],
    settings: ExperimentSettings,
) -> "Measure":
    """The outcome of every prompt of the subjects, ready to be measured.

    Raises:
        InputError: As `answered_prompts`.
    """
    from interp.hooks.measures import measure_prompts, measure_texts
    from interp.hooks.outcome_texts import texts_of_store

    names = subjects.prompts["prompt_id"].tolist()
    asked = answered_prompts(names, prompts, outcome=settings.outcome)
    if settings.outcome == "content":
        return measure_texts(
            loaded.model,
            texts_of_store(store, subjects.row.tolist()),
            outcome="content",
            n_prompts=len(subjects.prompts),
            batch_tokens=settings.batch_tokens,
        )
    return measure_prompts(
        loaded.model,
        loaded.tokenizer,
        asked,
        outcome=settings.outcome,
        batch_tokens=settings.batch_tokens,
        max_new_tokens=settings.max_new_tokens,
    )


def answered_prompts(
    names: Sequence[str], prompts: Sequence[Prompt], *, outcome: str
) -> list[Prompt]:
    """The prompts of these names, in their order, with what the outcome needs; nothing is run.

    Args:
        names: `prompt_id` of those of a store that are compared.
        prompts: Among which they are looked for.
        outcome: `content` needs none of them, and has an empty list.

    Raises:
        InputError: If one was not given, or has no answer though it is asked for.
    """
    from interp.hooks.outcome_texts import check_outcome

    if outcome == "content":
        return []
    given = {prompt.prompt_id: prompt for prompt in prompts}
    missing = [each for each in names if each not in given]
    if missing:
        raise InputError(
            f"outcome is {outcome!r}, which needs the prompts with their answers, and "
            f"{len(missing)} of {len(names)} prompts of the store, such as {missing[0]}, were not "
            "given; give the suite that was captured"
        )
    chosen = [given[each] for each in names]
    check_outcome(chosen, outcome)
    return chosen


def refuse_other_model(store: Store, loaded: "LoadedModel") -> None:
    """Usage from one model says nothing of what experts of another do.

    Raises:
        InputError: If the store says that it was captured with other weights.
    """
    captured = str(store.provenance.get("weights_sha256") or "")
    if captured and loaded.weights_sha256 and captured != loaded.weights_sha256:
        raise InputError(
            f"{store.path.name} was captured with other weights (of "
            f"{store.provenance.get('model', 'unknown')}) than those of {loaded.model_id}; capture "
            "the prompts with this model, or load the one of the store"
        )


def run_facts(
    store: Store, loaded: "LoadedModel", measure: "Measure", settings: ExperimentSettings
) -> dict[str, Any]:
    """What an outcome depends on: the model, what it is given, and how it is changed."""
    from interp.hooks.load import model_provenance

    of_model = model_provenance(loaded)
    kept = (
        "model",
        "revision",
        "weights_sha256",
        "dtype",
        "experts_implementation",
        "quantization",
    )
    return {name: of_model[name] for name in kept} | {
        "store_sha256": store.sha256,
        "outcome": settings.outcome,
        "texts_sha256": measure.digest,
    }
