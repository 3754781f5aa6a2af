"""Stores that probes can do little with: each fault has its sentence, and the rest goes on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.cache.errors import InputError
from interp.cache.reader import Store, open_store
from interp.cache.records import Layout
from interp.cache.writer import StoreWriter
from interp.compared import COMPARED, compared
from interp.results import PROBE_TABLES
from interp.study_probe_controls import untrained_pair
from interp.study_probes import probe_tables
from interp.study_probing import Probing, probe_study
from tests.study_samples import LAYOUT, N_EXPERTS, N_TOKENS, prompt


def write(
    path: Path, sources: dict[str, tuple[str, ...]], *, n_items: int = 4, **more: Any
) -> Store:
    """Items of their own for each source of each condition."""
    rng, number = np.random.default_rng(0), 0
    layout = more.pop("layout", LAYOUT)
    with StoreWriter(path, layout=layout, provenance={}) as writer:
        for condition, names in sources.items():
            for source in names:
                for _ in range(n_items):
                    number += 1
                    made = prompt(rng, number, condition, **more)
                    fields = dict(made.prompt) | {"source": source}
                    writer.add(prompt(rng, number, condition, **(more | {"prompt": fields})))
    return open_store(path)


def studied(store: Store) -> tuple[dict[str, Any], dict[str, str]]:
    return probe_study(store, np.random.default_rng(0), probing=Probing())


def test_a_store_of_one_condition_has_no_table_of_probes(tmp_path: Path) -> None:
    tables, absent = studied(write(tmp_path / "a.moe", {"organic": ("chat",)}))
    assert tables == {}
    assert set(absent) == set(PROBE_TABLES)
    assert set(absent.values()) == {
        "The store holds only organic prompts, so there is nothing to compare with."
    }


def test_one_prompt_a_group_cannot_be_split_and_keeps_its_directions(tmp_path: Path) -> None:
    store = write(tmp_path / "a.moe", {"benchmark": ("exam",), "organic": ("chat",)}, n_items=1)
    tables, absent = studied(store)
    assert set(tables) == {"directions", "direction_cosines"}
    for name in ("probes", "probe_controls", "probes_chosen", "grid", "added"):
        assert absent[name].startswith("Nothing can be shuffled or split: 1 items have benchmark")


@pytest.mark.parametrize("is_known", [True, False])
def test_a_baseline_of_familiarity_that_is_missing_is_named(tmp_path: Path, is_known: bool) -> None:
    logprob = np.full(N_TOKENS, -1.0 if is_known else np.nan, dtype=np.float32)
    sources: dict[str, tuple[str, ...]] = {"benchmark": ("exam",), "organic": ("chat",)}
    store = write(tmp_path / "a.moe", sources, logprob=logprob)
    tables, absent = probe_tables(
        compared(store, COMPARED), np.random.default_rng(0), lambda _: None
    )
    assert ("logprob" in set(tables["probes"]["baseline"])) == is_known
    assert absent.get("probes_logprob", "").startswith("8 of 8 prompts have no") != is_known


def test_two_prompts_a_group_are_too_few_to_choose_a_penalty_and_it_is_said(
    tmp_path: Path,
) -> None:
    store = write(tmp_path / "a.moe", {"benchmark": ("exam",), "organic": ("chat",)}, n_items=2)
    tables, absent = studied(store)
    assert "probes" not in tables
    assert "the penalty cannot be chosen within the fitted prompts" in absent["probes"]


@pytest.mark.slow
def test_a_source_that_is_all_of_a_condition_is_named_and_items_are_held_out(
    tmp_path: Path,
) -> None:
    sources = {"benchmark": ("exam",), "organic": ("chat", "mail")}
    tables, absent = studied(write(tmp_path / "a.moe", sources, n_items=12))
    assert absent["probes_unseen"].startswith(
        "Nothing could be held out that a probe never saw: source 'exam' is all of condition"
    )
    assert set(tables["probes"]["split"]) == set(tables["probes_chosen"]["split"]) == {"item"}
    assert "there is no control task" in absent["probe_controls_selectivity"]
    assert tables["probe_controls"]["selectivity"].isna().all()
    assert tables["probe_controls"]["compression"].notna().all()


@pytest.mark.slow
def test_residuals_that_are_not_finite_are_named_and_the_other_layer_is_probed(
    tmp_path: Path,
) -> None:
    sources = {"benchmark": ("exam",), "organic": ("chat",)}
    rows = {("resid_post", 1): np.full((1, 6), np.nan, np.float32)}
    rows |= {("resid_post", 3): np.ones((1, 6), np.float32)}
    tables, absent = studied(write(tmp_path / "a.moe", sources, n_items=8, resid=rows))
    assert absent["probes_resid_post_1_last_content"].startswith(
        "resid_post of layer 1 is not finite in 16 of 16 prompts (the first is benchmark-1)"
    )
    probes = tables["probes"]
    assert set(probes.loc[probes["site"] == "resid_post", "layer"]) == {3.0}
    assert set(tables["directions"]["layer"]) == {3}


@pytest.mark.slow
def test_a_store_without_residuals_has_probes_of_routing_alone(tmp_path: Path) -> None:
    layout = Layout(n_layers=2, layer_indices=(1, 3), n_experts=N_EXPERTS, top_k=2, d_model=0)
    sources = {"benchmark": ("exam",), "organic": ("chat",)}
    bare: dict[str, Any] = {"layout": layout, "resid": {}, "resid_token_index": None}
    tables, absent = studied(write(tmp_path / "a.moe", sources, n_items=8, **bare))
    assert "holds no residual streams" in absent["probes_resid_post"]
    assert absent["directions"].startswith("No residual stream of the store could be read")
    assert absent["added"].startswith("No residual stream could be probed")
    assert set(tables["probe_controls"]["site"]) == {"routing", "routing_within_token"}


def test_the_untrained_store_must_have_the_shape_and_the_prompts(tmp_path: Path) -> None:
    sources = {"benchmark": ("exam",), "organic": ("chat",)}
    store = write(tmp_path / "a.moe", sources)
    pair = compared(store, COMPARED)
    with pytest.raises(InputError, match=r"a\.moe is the store that is analysed"):
        untrained_pair(store, pair)
    fewer = write(tmp_path / "b.moe", sources, n_items=3)
    with pytest.raises(InputError, match=r"b\.moe does not hold the same prompts"):
        untrained_pair(fewer, pair)
    wide = Layout(
        n_layers=2,
        layer_indices=(1, 3),
        n_experts=N_EXPERTS + 1,
        top_k=2,
        d_model=LAYOUT.d_model,
        resid_sites=("resid_post",),
    )
    other = write(tmp_path / "c.moe", sources, layout=wide)
    with pytest.raises(InputError, match=r"c\.moe has n_experts 9, but a\.moe has 8"):
        untrained_pair(other, pair)
