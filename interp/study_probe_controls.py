"""What stands beside each probe of a study: control task, description length, untrained model."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

from interp.analyses.probe_choice import FeatureSource
from interp.analyses.probe_controls import description_length, selectivity
from interp.analyses.probe_gain import gain
from interp.analyses.probes import ProbeScore, probe
from interp.cache.errors import InputError
from interp.cache.reader import Store
from interp.compared import COMPARED, Compared, compared
from interp.study_features import Reading, readings

N_CONTROLS = 1
"""Random labellings of the control task for each probe: one draws a label for every item, and each
more costs as much as another probe."""
NO_UNTRAINED = (
    "No store of an untrained model was given, so it is not known what its architecture alone "
    "would give; capture the same prompts with one and add it with --untrained."
)
UNTRAINED = ("untrained_auroc", "untrained_auroc_low", "untrained_auroc_high")
OVER = ("gain_over_untrained", "gain_over_untrained_low", "gain_over_untrained_high")
SELECTIVITY = ("control_accuracy", "selectivity", "selectivity_low", "selectivity_high")
LENGTH = ("description_bits", "uniform_bits", "compression", "shuffled_compression")


@dataclass(frozen=True, kw_only=True)
class Controls:
    """Gives each probe of a study its row of the table `probe_controls`."""

    pair: Compared
    """What is compared."""
    untrained: Compared | None
    """The same prompts in an untrained model."""
    kind: Shaped[np.ndarray, "prompts"] | None
    """What control labels go by; None where too few prompts share anything."""
    kind_name: str
    """Name of that field; empty for none."""
    absent: dict[str, str]
    """Gets a sentence for what is left out."""
    others: dict[tuple[str, int, str], FeatureSource] = field(default_factory=dict)
    """Readings of the untrained model that were passed and may still be asked for."""
    left: list[Iterator[Reading]] = field(default_factory=list)
    """Its readings that are still to come, in the order of the trained model's."""

    @classmethod
    def of(
        cls,
        pair: Compared,
        untrained: Compared | None,
        *,
        absent: dict[str, str],
        segment: str = "",
    ) -> "Controls":
        """The controls of these prompts; what cannot be had is named in `absent`."""
        name = kind_of(pair)
        if not name:
            absent["probe_controls_selectivity"] = (
                "Fewer than four items or templates have two prompts, so there is no control task."
            )
        if untrained is None:
            absent["probe_controls_untrained"] = NO_UNTRAINED
        kind = pair.table[name].to_numpy(dtype=str) if name else None
        left = []
        if untrained is not None:
            left.append(readings(untrained, cluster=pair.item, absent={}, segment=segment))
        return cls(
            pair=pair, untrained=untrained, kind=kind, kind_name=name, absent=absent, left=left
        )

    def row(
        self,
        reading: Reading,
        *,
        real: ProbeScore,
        shuffled: ProbeScore | None,
        rng: np.random.Generator,
    ) -> dict[str, Any]:
        """The row of one probe; numbers that cannot be had are NaN."""
        return {
            "site": reading.site,
            "layer": float(reading.layer),
            "readout": reading.readout,
            "target": "condition",
            "split": "item",
            "auroc": real.auroc,
            "accuracy": real.accuracy,
            "kind": self.kind_name,
            **self._selectivity(reading, usual_strength(real), rng),
            **self._length(reading, shuffled, rng),
            **self._untrained(reading, real, rng),
            "n_prompts": real.n_prompts,
            "n_clusters": real.n_clusters,
        }

    def _selectivity(
        self, reading: Reading, strength: float, rng: np.random.Generator
    ) -> dict[str, float]:
        """Of the same probe, so under the penalty that the real one chose."""
        if self.kind is None:
            return dict.fromkeys(("kind_accuracy", *SELECTIVITY), np.nan)
        try:
            found = selectivity(
                reading.features,
                target=self.pair.benchmark,
                kind=self.kind,
                rng=rng,
                n_controls=N_CONTROLS,
                strengths=[strength],
            )
        except ValueError as error:
            self.absent["probe_controls_selectivity"] = f"No control task: {error}."
            return dict.fromkeys(("kind_accuracy", *SELECTIVITY), np.nan)
        return {"kind_accuracy": found.accuracy} | {
            name: float(getattr(found, name)) for name in SELECTIVITY
        }

    def _length(
        self, reading: Reading, shuffled: ProbeScore | None, rng: np.random.Generator
    ) -> dict[str, float]:
        own = self._code(reading, self.pair.benchmark, rng)
        shuffles = (np.nan,) * 3 if shuffled is None else self._code(reading, shuffled.target, rng)
        return dict(zip(LENGTH, (*own, shuffles[-1]), strict=True))

    def _code(
        self, reading: Reading, target: Bool[np.ndarray, "prompts"], rng: np.random.Generator
    ) -> tuple[float, float, float]:
        try:
            found = description_length(
                reading.features, target=target, cluster=self.pair.item, rng=rng
            )
        except ValueError as error:
            self.absent["probe_controls_description"] = f"No description length: {error}."
            return np.nan, np.nan, np.nan
        return found.bits, found.uniform_bits, found.compression

    def _untrained(
        self, reading: Reading, real: ProbeScore, rng: np.random.Generator
    ) -> dict[str, float]:
        features = self._same_reading(reading)
        if features is None:
            return dict.fromkeys((*UNTRAINED, *OVER), np.nan)
        plain = probe(
            features, target=real.target, cluster=real.cluster, splits=real.splits, rng=rng
        )
        over = gain(real, plain)
        numbers = (plain.auroc, plain.auroc_low, plain.auroc_high, over.value, over.low, over.high)
        return dict(zip((*UNTRAINED, *OVER), numbers, strict=True))

    def _same_reading(self, reading: Reading) -> FeatureSource | None:
        """What the untrained model has at the same site, layer and readout."""
        wanted = (reading.site, reading.layer, reading.readout)
        while wanted not in self.others and self.left:
            other = next(self.left[0], None)
            if other is None:
                self.left.clear()
            else:
                self.others[other.site, other.layer, other.readout] = other.features
        return self.others.pop(wanted, None)


def usual_strength(real: ProbeScore) -> float:
    """The strength that most splits of a probe chose, the weakest of several."""
    strengths, times = np.unique(real.strength, return_counts=True)
    return float(strengths[times.argmax()])


def kind_of(pair: Compared) -> str:
    """The field that control labels go by: the item, or the template; empty where neither fits."""
    for name in ("item_id", "template"):
        _, size = np.unique(pair.table[name].to_numpy(dtype=str), return_counts=True)
        if (size > 1).sum() >= 4:
            return name
    return ""


def untrained_pair(untrained: Store, pair: Compared) -> Compared:
    """The same prompts in a store of an untrained model of the same shape.

    Raises:
        InputError: If it is the same store, has another shape, or holds other prompts.
    """
    trained = pair.store
    if untrained.sha256 == trained.sha256:
        raise InputError(
            f"{untrained.path.name} is the store that is analysed; give one of an untrained model"
        )
    for name in ("layer_indices", "n_experts", "top_k", "d_model"):
        found, expected = (getattr(each.layout, name) for each in (untrained, trained))
        if found != expected:
            raise InputError(
                f"{untrained.path.name} has {name} {found}, but {trained.path.name} has "
                f"{expected}; capture an untrained model of the same shape"
            )
    other = compared(untrained, COMPARED)
    if other.table["prompt_id"].tolist() != pair.table["prompt_id"].tolist():
        raise InputError(
            f"{untrained.path.name} does not hold the same prompts in the same order as "
            f"{trained.path.name}; capture both with the same --prompts"
        )
    return other
