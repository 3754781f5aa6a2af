"""One probe with every control beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Shaped

from interp.analyses.probe_choice import FeatureSource
from interp.analyses.probe_controls import (
    DescriptionLength,
    Selectivity,
    description_length,
    selectivity,
)
from interp.analyses.probe_gain import Gain, best_baseline, gain
from interp.analyses.probe_splits import Splits
from interp.analyses.probes import STRENGTHS, ProbeScore, probe, shuffled_probe


@dataclass(frozen=True, kw_only=True)
class ControlledProbe:
    """A probe, and what it is to be compared with. The headline is `gain`."""

    probe: ProbeScore
    """The probe itself."""
    gain: Gain
    """Its AUROC minus that of the best surface baseline, paired."""
    best_baseline: str
    """Name of that baseline."""
    baselines: Mapping[str, ProbeScore]
    """Probes of the surface on the same splits."""
    shuffled: ProbeScore
    """The same features after one shuffle of the labels by cluster."""
    untrained: ProbeScore | None
    """The same probe on an untrained model of the same shape; None where no features were given."""
    gain_over_untrained: Gain | None
    """AUROC minus that of the untrained model, paired."""
    selectivity: Selectivity | None
    """Hewitt and Liang's control task; None where no `kind` was given."""
    description_length: DescriptionLength
    """Bits of an online code of the labels."""
    shuffled_description_length: DescriptionLength
    """The same after the shuffle: what the rate of the classes saves by itself."""

    def to_frame(
        self,
        *,
        site: str,
        layer: int | float = float("nan"),
        target: str = "condition",
        split: str = "item",
    ) -> pd.DataFrame:
        """One row for the probe, and one for each control and baseline, told by `baseline`."""
        beside = {"": self.probe, "shuffled": self.shuffled}
        if self.untrained is not None:
            beside["untrained"] = self.untrained
        label: dict[str, Any] = {"site": site, "layer": layer, "target": target, "split": split}
        rows = [
            each.to_frame(**label, baseline=name)
            for name, each in (beside | dict(self.baselines)).items()
        ]
        frame = pd.concat(rows, ignore_index=True)
        headline = pd.DataFrame([self._headline()]).reindex(frame.index)
        return pd.concat([frame, headline], axis=1)

    def _headline(self) -> dict[str, object]:
        """What the first row has and the others lack."""
        chosen, nan = self.selectivity, float("nan")
        return {
            "best_baseline": self.best_baseline,
            "gain": self.gain.value,
            "gain_low": self.gain.low,
            "gain_high": self.gain.high,
            "control_accuracy": chosen.control_accuracy if chosen else nan,
            "selectivity": chosen.selectivity if chosen else nan,
            "selectivity_low": chosen.selectivity_low if chosen else nan,
            "selectivity_high": chosen.selectivity_high if chosen else nan,
            "description_bits": self.description_length.bits,
            "compression": self.description_length.compression,
            "shuffled_compression": self.shuffled_description_length.compression,
        }


def controlled_probe(
    features: FeatureSource,
    *,
    target: Bool[np.ndarray, "prompts"],
    cluster: Shaped[np.ndarray, "prompts"],
    splits: Splits,
    baselines: Mapping[str, ProbeScore],
    rng: np.random.Generator,
    inner_cluster: Shaped[np.ndarray, "prompts"] | None = None,
    untrained: FeatureSource | None = None,
    kind: Shaped[np.ndarray, "prompts"] | None = None,
    strengths: Sequence[float] = STRENGTHS,
) -> ControlledProbe:
    """`probe` with shuffled labels, control task, untrained model, surface and description length.

    Args:
        features: One row per prompt.
        target: What to tell apart.
        cluster: As for `probe`: source for the headline on unseen sources, else item or template.
        splits: What to fit and hold out; for the headline, pairs of held-out sources.
        baselines: Surface probes, from `probe` with the same target, cluster and splits. They serve
            all sites and layers, so they are fitted once and given.
        rng: Source of chance.
        inner_cluster: As for `probe`.
        untrained: The same features of an untrained model of the same shape.
        kind: What prompts share that the control labels go by, such as the item, if any do.
        strengths: As for `probe`.

    Returns:
        All of it; `to_frame` gives rows as in the table `probes`.

    Raises:
        ValueError: As `probe`, `gain`, `selectivity` and `description_length`.
    """
    alike: dict[str, Any] = {"target": target, "strengths": strengths, "rng": rng}
    split: dict[str, Any] = {"cluster": cluster, "splits": splits, "inner_cluster": inner_cluster}
    real = probe(features, **alike, **split)
    best = best_baseline(baselines)
    shuffled = shuffled_probe(features, **alike, **split)
    plain = None if untrained is None else probe(untrained, **alike, **split)
    lengths = [
        description_length(features, target=labels, cluster=cluster, rng=rng, strengths=strengths)
        for labels in (target, shuffled.target)
    ]
    return ControlledProbe(
        probe=real,
        gain=gain(real, baselines[best]),
        best_baseline=best,
        baselines=baselines,
        shuffled=shuffled,
        untrained=plain,
        gain_over_untrained=None if plain is None else gain(real, plain),
        selectivity=None if kind is None else selectivity(features, kind=kind, **alike),
        description_length=lengths[0],
        shuffled_description_length=lengths[1],
    )
