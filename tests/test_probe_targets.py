"""Targets of several values against scikit-learn and a plain jackknife."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import t
from sklearn.metrics import roc_auc_score

from interp.analyses.probe_targets import MacroScore, field_splits, macro_gain, macro_probe
from interp.analyses.probes import ProbeScore, probe

FIELD = np.repeat(["a", "b", "c"], 20)
CLUSTER = np.arange(60) // 2
"""Ten clusters of each value."""


def scored(seed: int, field: np.ndarray = FIELD) -> MacroScore:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(60, 3)) + 1.0 * (field[:, None] == np.array(["a", "b", "c"]))
    values = field_splits(field, CLUSTER, rng=np.random.default_rng(0))

    def of(value: str) -> ProbeScore:
        target, splits = values[value]
        return probe(
            features, target=target, cluster=CLUSTER, splits=splits, rng=rng, strengths=[1.0]
        )

    return macro_probe(of, values=values)


def aurocs_by_hand(score: ProbeScore, kept: np.ndarray) -> float:
    """Mean over splits of the AUROC of scikit-learn; as pairs are, splits are weighed alike."""
    found = []
    for held_out, row in zip(score.splits.held_out, score.score, strict=True):
        used = held_out & kept
        found.append(roc_auc_score(score.target[used], row[used]))
    return float(np.mean(found))


def test_the_mean_is_the_macro_average_of_scikit_learn() -> None:
    found = scored(1)
    everyone = np.ones(60, dtype=bool)
    expected = np.mean([aurocs_by_hand(each, everyone) for each in found.of_value.values()])
    assert found.estimate["auroc"].value == pytest.approx(float(expected))
    frame = found.to_frame(site="routing", layer=2, target="field", split="item")
    assert frame["target"].tolist() == ["field", "field=a", "field=b", "field=c"]
    assert frame["auroc"][0] == pytest.approx(frame["auroc"][1:].mean())
    assert frame["accuracy"][0] == pytest.approx(frame["accuracy"][1:].mean())


def test_the_interval_of_accuracy_is_that_of_a_plain_jackknife() -> None:
    """Of clusters that are each of one value: three strata of ten."""
    found = scored(2)

    def accuracy(kept: np.ndarray) -> float:
        of_value = []
        for each in found.of_value.values():
            score = np.nanmax(each.score, axis=0)
            right = (score > 0) == each.target
            sides = [right[kept & (each.target == label)].mean() for label in (True, False)]
            of_value.append(np.mean(sides))
        return float(np.mean(of_value))

    without = np.array([accuracy(cluster != CLUSTER) for cluster in range(30)])
    parts = [(9 / 10) * np.square(of - of.mean()).sum() for of in without.reshape(3, 10)]
    variance = float(np.sum(parts))
    freedom = variance**2 / float(np.sum(np.square(parts) / 9))
    value = accuracy(np.ones(60, dtype=bool))
    reach = float(t.ppf(0.975, freedom)) * variance**0.5 / (value * (1 - value))
    middle = np.log(value / (1 - value))
    expected = [1 / (1 + np.exp(-end)) for end in (middle - reach, middle + reach)]
    row = found.to_frame(site="routing", target="field").iloc[0]
    np.testing.assert_allclose([row["accuracy_low"], row["accuracy_high"]], expected)


def test_a_gain_is_the_difference_of_means_and_none_over_itself() -> None:
    one, other = scored(1), scored(3)
    found = macro_gain(one, other)
    difference = one.estimate["auroc"].value - other.estimate["auroc"].value
    assert found.value == pytest.approx(difference)
    assert found.low < found.value < found.high
    same = macro_gain(one, one)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_of_two_values_one_is_probed() -> None:
    field = np.repeat(["x", "y"], 30)
    values = field_splits(field, CLUSTER, rng=np.random.default_rng(0))
    assert list(values) == ["y"]
    found = scored(1, field)
    frame = found.to_frame(site="routing", target="field")
    assert frame["target"].tolist() == ["field"]
    with pytest.raises(ValueError, match="the two have other values"):
        macro_gain(found, scored(1))


def test_values_of_two_clusters_are_left_out() -> None:
    field = np.array(["a"] * 4 + ["b"] * 28 + ["c"] * 28)
    values = field_splits(field, CLUSTER, rng=np.random.default_rng(0))
    assert list(values) == ["b", "c"]


def test_a_field_that_no_two_clusters_share_is_refused() -> None:
    refused: dict[str, Any] = {"rng": np.random.default_rng(0)}
    with pytest.raises(ValueError, match=r"the field has 30 value\(s\), none of which three"):
        field_splits(CLUSTER.astype(str), CLUSTER, **refused)
    with pytest.raises(ValueError, match="values is empty"):
        macro_probe(lambda _: pytest.fail("no value is probed"), values={})
