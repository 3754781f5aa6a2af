"""What stands beside an experiment: its noise floor, behaviour item by item, and a second model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Integer

from interp.analyses.behaviour import rank_correlation, shift_bits, shift_towards
from interp.analyses.dose_response import difference_between_models
from interp.cache.errors import InputError
from interp.experiment_contrasts import clusters_of, main_contrast
from interp.experiment_search import interaction_in
from interp.experiment_subjects import Expert, Subjects

if TYPE_CHECKING:
    from interp.hooks.measures import Measure

LEAST_ITEMS = 4
"""Items under both conditions, below which nothing is correlated."""


def noise_table(
    model: Any,
    measure: "Measure",
    subjects: Subjects,
    *,
    among: Bool[np.ndarray, "prompts"],
    batch_tokens: int,
    other_dtype: Any | None = None,
) -> pd.DataFrame:
    """The noise floor of an outcome, and the interaction that each variation makes by itself.

    An interaction of a knockout that is not well beyond these could be one of rounding.

    Args:
        model: In evaluation mode.
        measure: Of an outcome that scores one text for each prompt.
        subjects: The prompts.
        among: Those that are run, of both conditions.
        batch_tokens: As in the experiment.
        other_dtype: The same model in another dtype.

    Returns:
        One row per variation; empty where the outcome scores no or several texts for a prompt.
    """
    from interp.hooks.noise_floor import measure_noise_floor

    texts = [text for text in measure.texts if among[text.prompt]]
    if not texts or len({text.prompt for text in texts}) < len(texts):
        return pd.DataFrame()
    floor = measure_noise_floor(model, texts, batch_tokens=batch_tokens, other_dtype=other_dtype)
    damage = np.zeros((len(floor.variations), len(subjects.prompts)))
    damage[:, [text.prompt for text in texts]] = -floor.change
    found = interaction_in(main_contrast(subjects.prompts), subjects, damage, among=among)
    low, high = found.interval()
    return floor.to_frame().assign(
        interaction=found.value, interaction_low=low, interaction_high=high
    )


def some_items(
    subjects: Subjects, *, most: int, rng: np.random.Generator
) -> Bool[np.ndarray, "prompts"]:
    """Prompts of at most so many items of each condition, drawn at random, all their variants.

    Items under both conditions are drawn once, so that paired items stay pairs.
    """
    item = subjects.prompts["item_id"].to_numpy(dtype=str)
    condition = subjects.prompts["condition"].to_numpy(dtype=str)
    sides = [set(item[condition == name]) for name in ("benchmark", "organic")]
    groups = (sides[0] & sides[1], sides[0] - sides[1], sides[1] - sides[0])
    chosen = [rng.permutation(sorted(group))[:most] for group in groups if group]
    return np.isin(item, np.concatenate(chosen))


def behaviour_table(
    subjects: Subjects,
    outcome: Float[np.ndarray, "prompts"],
    *,
    experts: Sequence[Expert],
    rng: np.random.Generator,
    n_permutations: int = 10_000,
) -> pd.DataFrame:
    """Does an item's shift of routing between wordings predict the change of its outcome?

    The outcome is that of the reference answer, log-probability or accuracy; its change is the
    benchmark prompt's less the organic prompt's. Two shifts: `towards_found`, the slots per layer
    that move to the found experts, and `bits`, the divergence of the two prompts' usages. Each is
    tested over items, and within domains: rho of ranks less their domain's mean, and shuffles
    within domains, so that domains alone predict nothing.

    Args:
        subjects: Prompts and their routing.
        outcome: Of every prompt; items with one that is not finite are left out.
        experts: The found set; `towards_found` is left out where it is empty.
        rng: Source of chance.
        n_permutations: Shuffles.

    Returns:
        One row per shift, over items and within domains; empty where fewer than 4 items have both
        conditions.
    """
    first, second = paired_prompts(subjects, usable=np.isfinite(outcome))
    if len(first) < LEAST_ITEMS:
        return pd.DataFrame()
    slots = subjects.slots.astype(np.float64)
    usage = slots / slots.sum(axis=-1, keepdims=True)
    shifts = {"bits": shift_bits(usage, first=first, second=second)}
    if experts:
        chosen = np.zeros(usage.shape[1:], dtype=bool)
        for layer, expert in experts:
            chosen[subjects.layer_indices.index(layer), expert] = True
        shifts["towards_found"] = shift_towards(usage, first=first, second=second, experts=chosen)
    domain = subjects.prompts["domain"].to_numpy(dtype=str)[first]
    kinds = {"items": None} | ({"within domains": domain} if len(set(domain)) > 2 else {})
    rows = []
    for name, shift in shifts.items():
        for kind, cluster in kinds.items():
            found = rank_correlation(
                shift,
                outcome[first] - outcome[second],
                rng=rng,
                cluster=cluster,
                n_permutations=n_permutations,
            )
            rows.append({"shift": name, "shuffled": kind} | vars(found))
    return pd.DataFrame(rows)


def paired_prompts(
    subjects: Subjects, *, usable: Bool[np.ndarray, "prompts"]
) -> tuple[Integer[np.ndarray, "items"], Integer[np.ndarray, "items"]]:
    """First benchmark and first organic prompt of each item that has both; shams come later."""
    table = subjects.prompts.assign(place=np.arange(len(subjects.prompts)))[usable]
    table = table.assign(is_sham=table["variant"].astype(str).str.endswith("-sham"))
    table = table.sort_values(["is_sham", "place"], kind="stable")
    places = table.drop_duplicates(["item_id", "condition"]).pivot(
        index="item_id", columns="condition", values="place"
    )
    if not {"benchmark", "organic"} <= set(places):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    both = places.dropna(subset=["benchmark", "organic"])
    return (
        both["benchmark"].to_numpy(dtype=np.int64),
        both["organic"].to_numpy(dtype=np.int64),
    )


def compare_models(
    first: pd.DataFrame, second: pd.DataFrame, *, subjects: Subjects
) -> pd.DataFrame:
    """Interaction of the first model's found set less that of the second's, with its interval.

    Where a model has no found set nothing was taken out, and its damage is 0.

    Args:
        first: Table `prompts` of an experiment on the first model.
        second: Likewise on the second, of the same prompts and seed, so of the same halves.
        subjects: Of either store; the prompts' clusters are taken from it.

    Returns:
        One row.

    Raises:
        InputError: If the two have other prompts, or other halves.
    """
    if first["prompt_id"].tolist() != second["prompt_id"].tolist():
        raise InputError("the two experiments are of other prompts; run both on the same suite")
    if first["half"].tolist() != second["half"].tolist():
        raise InputError("the two experiments split the prompts otherwise; give both the same seed")
    contrast, among = main_contrast(subjects.prompts), (first["half"] == "test").to_numpy()
    if not among.any():
        raise InputError("the experiments have no test half, so nothing was taken out to compare")
    damages = [each["damage"].fillna(0.0).to_numpy(dtype=float)[among] for each in (first, second)]
    clusters = clusters_of(contrast, subjects.prompts, among)
    return difference_between_models(
        damages[0],
        damages[1],
        benchmark=contrast.first[among],
        item=clusters["item"],
        clusters=clusters,
    ).to_frame()
