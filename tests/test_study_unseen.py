"""What a probe is asked about that it never saw: pairs of sources, or templates of paired items."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from interp.analyses.routed_tokens import Prompts
from interp.cache.reader import open_store
from interp.cache.writer import StoreWriter
from interp.compared import COMPARED, compared
from interp.sentences import unseen_sentence
from interp.study_unseen import held_out, unseen_probes, unseen_splits
from tests.study_samples import LAYOUT, prompt


def prompts(benchmark: str, *, source: str, item: str, template: str) -> Prompts:
    """One letter for each prompt; b is benchmark."""
    return Prompts(
        benchmark=np.array([each == "b" for each in benchmark]),
        source=np.array(list(source)),
        item=np.array(list(item)),
        template=np.array([each.strip() for each in template]),
    )


def test_one_source_of_each_condition_is_held_out_together() -> None:
    given = prompts("bbboo", source="ppqrs", item="12345", template="     ")
    split, splits, cluster = unseen_splits(given, np.random.default_rng(0))
    assert split == "source_pair"
    assert cluster.tolist() == list("ppqrs")
    held_out = {frozenset(np.flatnonzero(each).tolist()) for each in splits.held_out}
    assert held_out == {frozenset(each) for each in ((0, 1, 3), (0, 1, 4), (2, 3), (2, 4))}
    assert (splits.fitted == ~(splits.held_out | _same_source(splits.held_out, cluster))).all()


def _same_source(held_out: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    return np.stack([np.isin(cluster, cluster[each]) for each in held_out])


def test_of_paired_items_templates_are_held_out() -> None:
    given = prompts("bobobobo", source="mmmmmmmm", item="11223344", template="wxyzwxyz")
    split, splits, _ = unseen_splits(given, np.random.default_rng(0))
    assert split == "template"
    for fitted, left_out in splits:
        assert not set(given.template[fitted]) & set(given.template[left_out])


def test_a_source_that_is_all_of_a_condition_is_named() -> None:
    given = prompts("bboo", source="ppqr", item="1234", template="    ")
    with pytest.raises(ValueError, match="'p' is all of condition benchmark"):
        unseen_splits(given, np.random.default_rng(0))


@pytest.fixture
def of_sources(tmp_path: Path) -> Path:
    """Three sources a condition; layer 3 tells the conditions apart, layer 1 does not."""
    rng = np.random.default_rng(0)
    with StoreWriter(tmp_path / "a.moe", layout=LAYOUT, provenance={}) as writer:
        for item in range(36):
            condition = ("benchmark", "organic")[item % 2]
            activations = prompt(rng, item, condition)
            fields = dict(activations.prompt) | {"source": f"{condition}-{item // 2 % 3}"}
            writer.add(prompt(rng, item, condition, prompt=fields))
    return tmp_path / "a.moe"


@pytest.mark.slow
def test_the_headline_is_the_gain_on_pairs_of_sources(of_sources: Path) -> None:
    pair = compared(open_store(of_sources), COMPARED)
    held = held_out(pair, np.random.default_rng(0))
    assert held.reason == ""
    found = unseen_probes(pair, held, np.random.default_rng(0))
    table = found.probes
    assert found.layer_of["resid_post", "last_content"] == 3
    assert (found.chosen["split"] == "source_pair").all()
    assert set(table["split"]) == {"source_pair"}
    assert {"length", "position", "bag_of_tokens"} <= set(table["baseline"])
    real = table[table["baseline"] == ""].set_index(["site", "layer"])
    assert real["auroc"]["resid_post", 3] > 0.95
    surface = table[table["baseline"] == real["best_baseline"].iloc[0]]["auroc"].iloc[0]
    np.testing.assert_allclose(real["gain"], real["auroc"] - surface)
    said = unseen_sentence(table)
    assert said.startswith("On sources that the probe never saw: the best of 6 probes")
    assert unseen_sentence(pd.DataFrame({"split": ["item"], "auroc": [1.0]})) == ""
