"""Targets with several values: each against the rest, and the mean over them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Int, Shaped

from interp.analyses.probe_gain import Gain, difference_of
from interp.analyses.probe_metrics import METRICS, Estimate, estimates
from interp.analyses.probe_splits import Splits, cluster_splits
from interp.analyses.probe_surface import one_against_rest
from interp.analyses.probes import ProbeScore

ProbeOfValue = Callable[[str], ProbeScore]
"""Given a value of the field, a probe of it against the rest."""


@dataclass(frozen=True, kw_only=True)
class MacroScore:
    """Probes of each value of a field against the rest. Their mean is the macro-average."""

    of_value: Mapping[str, ProbeScore]
    """By value; of a field with two values, the later one alone, as either tells the other."""

    @cached_property
    def estimate(self) -> dict[str, Estimate]:
        """Mean over the values of each of `METRICS`, and what it would be without each cluster."""
        every = [
            estimates(each.score, target=each.target, splits=each.splits, cluster=each.cluster)
            for each in self.of_value.values()
        ]
        stratum = _strata(np.stack([each["auroc"].stratum for each in every]))
        return {
            name: Estimate(
                value=float(np.mean([each[name].value for each in every])),
                without=np.mean([each[name].without for each in every], axis=0),
                stratum=stratum,
            )
            for name in METRICS
        }

    def to_frame(
        self, *, site: str, target: str, layer: int | float = float("nan"), **labels: str
    ) -> pd.DataFrame:
        """A row for the mean, and where there are three values or more, one for each of them.

        Args:
            site: As for `ProbeScore.to_frame`, with `split`, `baseline` and `readout`.
            target: Name of the field; rows of a value are named `field=value`.
            layer: As there.
            labels: As there.
        """
        rows = [
            each.to_frame(site=site, layer=layer, target=f"{target}={value}", **labels)
            for value, each in self.of_value.items()
        ]
        mean = rows[0].assign(target=target)
        for name, share in METRICS.items():
            low, high = self.estimate[name].interval(share=share)
            numbers = {name: self.estimate[name].value, f"{name}_low": low, f"{name}_high": high}
            mean = mean.assign(**numbers)
        return pd.concat([mean, *(rows if len(rows) > 1 else [])], ignore_index=True)


def macro_probe(probe_of: ProbeOfValue, *, values: Mapping[str, object]) -> MacroScore:
    """One probe for each value of a field against the rest, values weighing alike.

    The macro-averaged AUROC, as scikit-learn's `roc_auc_score(multi_class="ovr",
    average="macro")`, but within splits and with an interval over clusters: the mean over values
    is taken anew without each cluster, so that a cluster of several values counts once.

    How it fools you: against the rest, a value may be told by being unlike one other value alone.

    Args:
        probe_of: Fits the probe of one value.
        values: The values, such as the keys of `field_splits`.

    Raises:
        ValueError: If there is no value.
    """
    if not values:
        raise ValueError("values is empty; give a field of which two prompts have the same value")
    return MacroScore(of_value={value: probe_of(value) for value in values})


def field_splits(
    field: Shaped[np.ndarray, "prompts"],
    cluster: Shaped[np.ndarray, "prompts"],
    *,
    rng: np.random.Generator,
) -> dict[str, tuple[Shaped[np.ndarray, "prompts"], Splits]]:
    """Target and splits of each value of a field against the rest.

    Of a field with two values the later one alone: either tells the other. Values that fewer than
    three clusters have, or lack, are left out: one is held out, and two are needed to choose the
    penalty from what is left.

    Raises:
        ValueError: If no value is left.
    """
    masks = one_against_rest(field)
    if len(set(field.astype(str).tolist())) == 2:
        masks = dict(list(masks.items())[-1:])
    found = {}
    for value, target in masks.items():
        if min(len(np.unique(cluster[side])) for side in (target, ~target)) > 2:
            found[value] = (target, cluster_splits(target, cluster, rng=rng))
    if not found:
        raise ValueError(
            f"the field has {len(set(field.astype(str).tolist()))} value(s), none of which three "
            "clusters have and three lack; choose a field that several items share"
        )
    return found


def macro_gain(one: MacroScore, other: MacroScore, *, metric: str = "auroc") -> Gain:
    """`one` minus `other`, the mean over values, with a paired interval; as `gain`.

    Raises:
        ValueError: If the two have other values.
    """
    if list(one.of_value) != list(other.of_value):
        raise ValueError("the two have other values, so their difference is not paired")
    found, against = one.estimate[metric], other.estimate[metric]
    return difference_of(found, against, is_share=METRICS[metric])


def _strata(stratum: Int[np.ndarray, "values clusters"]) -> Int[np.ndarray, "clusters"]:
    """Clusters that hold the same values are one stratum."""
    return np.unique(stratum, axis=1, return_inverse=True)[1].ravel().astype(np.int64)
