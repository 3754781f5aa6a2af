"""Wording or wrapper? The 2 x 2 of the prompts' variants, the off-diagonal ones among them."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from interp.analyses.probe_choice import FeatureSource
from interp.analyses.probe_grid import CELLS, GridScore, grid_probe
from interp.analyses.probe_surface import surface_features
from interp.analyses.probes import STRENGTHS
from interp.cache.records import CONDITIONS
from interp.compared import Compared, compared
from interp.study_experts import prompts_of, routed_tokens
from interp.study_features import readings

SHAM = "-sham"
"""How the variant of a second wording ends; it counts as its cell."""
OFF_DIAGONAL = CELLS[1:3]
OF_SPARSE = 10.0
"""Strength of the bag of tokens here, fixed beforehand: its many columns make a choice slow."""


def grid_tables(
    everything: Compared,
    layer_of: Mapping[tuple[str, str], int],
    rng: np.random.Generator,
    *,
    segment: str = "",
) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """What probes fitted on the diagonal say of prompts whose wording and wrapper disagree.

    Args:
        everything: Prompts of all conditions; `mixed` ones are the off-diagonal cells.
        layer_of: By site and readout, the layer to ask at.
        rng: Source of chance.
        segment: As for `readings`.

    Returns:
        The table `grid`, rows of `probes` with the targets `wording` and `wrapper`, and why there
        are none, as a sentence that is empty if there are.
    """
    cell = cells_of(everything)
    lacking = [name for number, name in enumerate(CELLS) if not (cell == number).any()]
    if lacking:
        return pd.DataFrame(), pd.DataFrame(), _lacking(lacking)
    among = some_prompts(everything, cell >= 0)
    cell = cell[cell >= 0]
    sides = {"benchmark_wording": cell >= 2, "exam_wrapper": cell % 2 == 1}
    cells, targets = [], []
    for labels, features in _features(among, layer_of, segment):
        try:
            strengths = STRENGTHS if _is_dense(features) else (OF_SPARSE,)
            found = grid_probe(features, cluster=among.item, rng=rng, strengths=strengths, **sides)
        except ValueError as error:
            return pd.DataFrame(), pd.DataFrame(), f"Wording and wrapper cannot be told: {error}."
        cells.append(_cells(found, labels))
        for target in ("wording", "wrapper"):
            score = getattr(found, target)
            targets.append(score.to_frame(target=target, **labels))
    return (
        pd.concat(cells, ignore_index=True),
        pd.concat(targets, ignore_index=True),
        "",
    )


def cells_of(among: Compared) -> Int[np.ndarray, "prompts"]:
    """Number of each prompt's cell in `CELLS`; -1 where its variant names none."""
    names = [name.removesuffix(SHAM) for name in among.table["variant"]]
    return np.array([CELLS.index(name) if name in CELLS else -1 for name in names], dtype=np.int64)


def some_prompts(among: Compared, chosen: Bool[np.ndarray, "prompts"]) -> Compared:
    """The same comparison with some of its prompts alone."""
    kept = chosen[among.prompt_index]
    place = np.cumsum(chosen) - 1
    return Compared(
        among.store, among.token[kept], among.prompt[chosen], place[among.prompt_index[kept]]
    )


def every_condition(pair: Compared) -> Compared:
    """The prompts of all conditions in the store of a comparison."""
    return compared(pair.store, CONDITIONS)


def _features(
    among: Compared, layer_of: Mapping[tuple[str, str], int], segment: str
) -> Iterator[tuple[dict[str, Any], FeatureSource]]:
    """Labels and features of the surface, then of each site and readout at its layer."""
    surface = surface_features(routed_tokens(among), prompts_of(among))
    for name, features in surface.items():
        yield {"site": name, "baseline": name}, features
    for reading in readings(among, cluster=among.item, absent={}, segment=segment):
        if layer_of.get(reading.key) == reading.layer:
            labels = {"site": reading.site, "layer": reading.layer, "readout": reading.readout}
            yield labels, reading.features


def _is_dense(features: FeatureSource) -> bool:
    return isinstance(features, np.ndarray) or callable(features)


def _cells(found: GridScore, labels: Mapping[str, Any]) -> pd.DataFrame:
    frame = found.to_frame()
    frame.insert(0, "baseline", labels.get("baseline", ""))
    frame.insert(0, "readout", labels.get("readout", ""))
    frame.insert(0, "layer", float(labels.get("layer", np.nan)))
    frame.insert(0, "site", labels["site"])
    return frame.assign(
        is_off_diagonal=frame["cell"].isin(OFF_DIAGONAL),
        diagonal_auroc=found.diagonal.auroc,
        n_clusters=found.wording.n_clusters,
    )


def _lacking(lacking: list[str]) -> str:
    return (
        f"No prompt of the store has the variant {' or '.join(lacking)}, so a probe of the wording "
        "cannot be told from one of the wrapper; capture the suite matched."
    )
