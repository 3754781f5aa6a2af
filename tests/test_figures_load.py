"""Figures and sentences of load and vocabulary say what their tables say."""

import numpy as np
import pandas as pd

from interp.sentences_load import (
    coactivation_sentence,
    load_sentence,
    paths_sentence,
    specialisation_sentence,
    vocabulary_sentence,
)

LOAD = pd.DataFrame(
    {
        "condition": ["benchmark", "organic", "benchmark", "organic"],
        "layer": [4, 4, 6, 6],
        "entropy_bits": [2.9, 2.8, 2.5, 2.25],
        "gini": [0.1, 0.2, 0.3, 0.45],
        "n_slots": [200, 100, 200, 100],
        "committee_members": [1.0, np.nan, 2.0, np.nan],
        "committee_share": [0.2, np.nan, 0.4, np.nan],
        "committee_even_share": [0.125, np.nan, 0.25, np.nan],
        "committee_jaccard": [0.5, np.nan, 1.0, np.nan],
        "committee_groups": [3, 0, 3, 0],
        "committee_over": ["domain", "", "domain", ""],
    }
)
VOCABULARY = pd.DataFrame(
    {
        "layer": [4, 6],
        "share": [0.99, 0.85],
        "shuffled_share": [0.3, 0.5],
        "n_ids": [57, 57],
        "min_tokens": [10, 10],
    }
)


def test_load_sentence_names_the_least_even_layer_and_the_largest_committee() -> None:
    said = load_sentence(LOAD, n_experts=8)
    assert (
        "least even at layer 6 under organic prompts: 2.25 bits where an even load has 3.00" in said
    )
    assert "2 experts of layer 6 under benchmark prompts, takes 40.0 % of the slots" in said
    assert "mean over 3 domains; as many experts would take 25.0 %" in said


def test_load_sentence_without_a_committee_names_none() -> None:
    assert "committee" not in load_sentence(LOAD.assign(committee_share=np.nan), n_experts=8)


def test_coactivation_sentence_names_the_pair_with_the_largest_association() -> None:
    pair = {"condition": "organic", "layer": 4, "expert": 1, "other_expert": 7}
    pair |= {"tokens_together": 2533, "expected_tokens": 509.4, "association": 0.68}
    table = pd.DataFrame([pair | {"expert": 0, "association": -1.0}, pair])
    said = coactivation_sentence(table)
    assert "experts 1 and 7 of layer 4 under organic prompts, on 2,533 tokens where 509" in said
    assert "association +0.68" in said
    assert coactivation_sentence(table[:0]).startswith("No two experts")


def test_paths_sentence_names_the_most_frequent_and_the_most_specific_with_its_null() -> None:
    path = {"path": "1:2 > 3:4", "share": 0.02, "expected_share": 0.01, "share_benchmark": 0.03}
    path |= {"share_organic": 0.001, "p_max": 0.0945, "n_permutations": 200, "n_clusters": 6}
    path |= {"cluster": "source", "n_paths": 22625, "ranked_by": "share"}
    said = paths_sentence(
        pd.DataFrame([path, path | {"path": "3:4 > 5:6", "ranked_by": "specific"}])
    )
    assert (
        "(layer:expert) is 1:2 > 3:4, 2.00 % of all, where independent layers would give 1.00"
        in said
    )
    assert "Most condition-specific is 3:4 > 5:6: 3.00 % of benchmark paths and 0.10 %" in said
    assert "p = 0.095 against the largest of 22,625 paths in 200 relabellings of 6 sources" in said


def test_specialisation_sentence_names_the_expert_furthest_from_the_other_groups() -> None:
    row = {"group": "law", "layer": 4, "expert": 3, "share": 0.6, "share_elsewhere": 0.1}
    row |= {"even_share": 0.125, "over": "domain"}
    busy = row | {"expert": 9, "share": 0.9, "share_elsewhere": 0.88}
    said = specialisation_sentence(pd.DataFrame([busy, row]))
    assert "expert 3 of layer 4 differs most between them: 60 % of the tokens of law, 10 %" in said


def test_vocabulary_sentence_gives_the_range_over_the_layers() -> None:
    said = vocabulary_sentence(VOCABULARY)
    assert "serves 85 to 99 % of its tokens" in said
    assert said.endswith("30 to 50 %.")
