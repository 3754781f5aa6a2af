"""Steering along the direction between the conditions, beside random directions of equal norm."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.analyses.directions import METHODS
from interp.cache.reader import Store
from interp.compared import COMPARED, compared
from interp.experiment_contrasts import Halves, main_contrast
from interp.experiment_search import interaction_in
from interp.experiment_subjects import Subjects
from interp.experiment_trials import Trials
from interp.study_directions import study_directions
from interp.study_grid import some_prompts

SIGNS = {"towards benchmark": 1.0, "towards organic": -1.0}
SITE, READOUT = "resid_post", "last_content"
METHOD = METHODS[0]
"""The difference of means: what moves states along what the conditions differ in."""


def steering_table(
    store: Store,
    subjects: Subjects,
    trials: Trials,
    *,
    halves: Halves,
    rng: np.random.Generator,
    layers: Sequence[int] | None = None,
    n_random: int = 50,
    scale: float = 1.0,
) -> pd.DataFrame:
    """What adding the direction does to the outcome of either condition, in the test half.

    The direction is learnt on the discovery half and as long as the distance between the means of
    the two conditions, times `scale`. It is added at every token. Random directions are normal,
    rescaled to the same length: in a wide stream nearly orthogonal to everything.

    How it fools you: random directions have little in the few columns in which the stream is
    large, and the difference of means much; part of what sets it apart is that.

    Args:
        store: With residual streams of the last content tokens.
        subjects: The prompts.
        trials: What can be tried on the model.
        halves: Of the main contrast.
        rng: Source of chance.
        layers: Numbers of the layers to steer, one at a time; the middle one of those stored if
            None.
        n_random: Random directions for each site, layer and sign.
        scale: Of the distance between the means.

    Returns:
        One row per layer and sign; empty where the store has no `resid_post` at last content
        tokens.
    """
    learnt = study_directions(
        store, among=some_prompts(compared(store, COMPARED), halves.discovery)
    )
    rows = []
    for (site, readout), of in learnt.of.items():
        if (site, readout) != (SITE, READOUT):
            continue
        chosen = layers or [of.layer_indices[len(of.layer_indices) // 2]]
        for layer in (each for each in of.layer_indices if each in chosen):
            length = scale * float(of.length[of.layer_indices.index(layer)])
            random = rng.normal(size=(n_random, of.vector.shape[-1]))
            random *= length / np.linalg.norm(random, axis=1, keepdims=True)
            step = length * learnt.vector(site, layer, readout=readout, method=METHOD)
            for name, sign in SIGNS.items():
                steps = sign * np.stack([step, *random])
                found = _row(subjects, trials, halves, steps, site, layer)
                head = {"site": site, "layer": layer, "method": METHOD, "sign": name}
                rows.append(head | {"length": length} | found)
    return pd.DataFrame(rows)


def _row(
    subjects: Subjects,
    trials: Trials,
    halves: Halves,
    steps: Float[np.ndarray, "directions d_model"],
    site: str,
    layer: int,
) -> dict[str, Any]:
    """The first direction beside the others."""
    damage = trials.damage_of_steering(steps, site=site, layer=layer)
    found = interaction_in(main_contrast(subjects.prompts), subjects, damage, among=halves.test)
    low, high = found.interval()
    random = found.value[1:]
    return {
        "damage_benchmark": float(found.damage_benchmark[0]),
        "damage_organic": float(found.damage_organic[0]),
        "interaction": float(found.value[0]),
        "interaction_low": float(low[0]),
        "interaction_high": float(high[0]),
        "random_low": float(np.quantile(random, 0.05)) if len(random) else float("nan"),
        "random_high": float(np.quantile(random, 0.95)) if len(random) else float("nan"),
        "share_below": float((random < found.value[0]).mean()) if len(random) else float("nan"),
        "n_random": len(random),
    }
