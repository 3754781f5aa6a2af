"""Sentences of divergence and probes say what their tables hold, and no more."""

import numpy as np
import pandas as pd
import pytest

from interp.sentences import divergence_sentence, probe_sentence
from tests.synthetic_study import synthetic_results

RESULTS = synthetic_results(n_layers=5, n_experts=8)


def small_divergence(**changes: float) -> pd.DataFrame:
    row = {
        "layer": 7,
        "raw_bits": 0.2,
        "raw_null_bits": 0.002,
        "raw_null_high_bits": 0.004,
        "p_value": 0.004975,
        "token_matched_bits": 0.11,
        "token_matched_null_bits": 0.004,
        "token_matched_null_high_bits": 0.006,
        "overlap": 0.6,
        "share_explained_by_vocabulary": 0.47,
        "n_tokens_benchmark": 1200,
        "n_tokens_organic": 900,
        "n_clusters": 60,
        "n_permutations": 200,
    }
    low = row | {"layer": 8, "raw_bits": 0.001, "share_explained_by_vocabulary": np.nan}
    return pd.DataFrame([low, row | changes])


def test_divergence_sentence_names_the_largest_layer_and_its_null() -> None:
    said = divergence_sentence(small_divergence())
    assert "largest at layer 7: 0.2000 bits, against a null with mean 0.0020" in said
    assert "p = 0.005, the least that 200 shuffles of" in said
    assert "In 1 of 2 layers it lies above" in said
    assert "above the 95 % quantile of its own null (flipped signs) in 2 of 2 layers" in said


def test_a_divergence_as_small_as_its_null_is_not_rounded_to_zero() -> None:
    said = divergence_sentence(small_divergence(raw_bits=0.0014))
    assert "largest at layer 7: 0.0014 bits, against a null with mean 0.0020" in said


@pytest.mark.parametrize("share", [-0.2, 0.47, 1.06])
def test_divergence_sentence_leaves_the_share_of_vocabulary_to_its_own_panel(share: float) -> None:
    """Two numbers of one quantity side by side, one of them cut off at 0, were read as two."""
    said = divergence_sentence(small_divergence(share_explained_by_vocabulary=share))
    assert said == divergence_sentence(small_divergence())
    assert "ocabulary" not in said


def test_divergence_sentence_counts_no_layer_that_is_not_told_from_its_null() -> None:
    said = divergence_sentence(small_divergence(raw_null_high_bits=0.3, p_value=0.34))
    assert "In 0 of 2 layers it lies above that quantile" in said
    assert "p = 0.34, from 200 shuffles" in said


def test_divergence_sentence_says_when_no_token_is_shared() -> None:
    said = divergence_sentence(small_divergence(overlap=0.0, share_explained_by_vocabulary=np.nan))
    assert "The conditions share no token" in said


def probe_table(**scores: tuple[float, float, float]) -> pd.DataFrame:
    """One probe on `routing` and the two baselines, each with AUROC, low and high."""
    rows = [
        {
            "site": site,
            "layer": 0.0 if site == "routing" else np.nan,
            "baseline": "" if site == "routing" else site,
            "auroc": auroc,
            "auroc_low": low,
            "auroc_high": high,
            "n_clusters": 20,
        }
        for site, (auroc, low, high) in scores.items()
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("routing", "length", "bag", "expected"),
    [
        ((0.90, 0.85, 0.95), (0.6, 0.5, 0.7), (0.99, 0.98, 1.0), "no higher than a bag of tokens"),
        ((0.90, 0.85, 0.95), (0.99, 0.98, 1.0), (0.6, 0.5, 0.7), "no higher than prompt length"),
        ((0.90, 0.85, 0.95), (0.6, 0.5, 0.7), (0.75, 0.6, 0.87), "cannot be told from a bag of"),
        ((0.90, 0.85, 0.95), (0.6, 0.5, 0.7), (0.7, 0.6, 0.8), "reaches 0.70, below that interval"),
        ((0.52, 0.45, 0.60), (0.5, 0.4, 0.6), (0.30, 0.2, 0.4), "No probe is told from chance"),
        ((1.0, 1.0, 1.0), (0.6, 0.5, 0.7), (0.7, 0.6, 0.8), "that all 20 items agree"),
    ],
)
def test_probe_sentence_says_no_more_than_the_baselines_allow(
    routing: tuple[float, float, float],
    length: tuple[float, float, float],
    bag: tuple[float, float, float],
    expected: str,
) -> None:
    said = probe_sentence(probe_table(routing=routing, length=length, bag_of_tokens=bag))
    assert expected in said


def test_probe_sentence_leaves_the_shuffled_baselines_out() -> None:
    shuffled = RESULTS.probes["baseline"] == "shuffled"
    drawn = RESULTS.probes.loc[shuffled & RESULTS.probes["layer"].notna(), "auroc"]
    said = probe_sentence(RESULTS.probes)
    assert f"With shuffled labels the probes score {drawn.min():.2f} to {drawn.max():.2f}." in said
