"""What probes say in a study: controls, grid, targets, what is added, and what is missing."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from interp.analyses.probe_grid import CELLS
from interp.cache.errors import InputError
from interp.cache.reader import Store, open_store
from interp.cache.records import SEGMENTS, Layout
from interp.cache.writer import StoreWriter
from interp.compared import COMPARED, compared
from interp.results import PROBE_TABLES
from interp.study_features import content_tokens, readings
from interp.study_grid import cells_of, every_condition, grid_tables
from interp.study_probing import Probing, probe_study
from interp.study_targets import check_targets, field_table
from tests.study_samples import D_MODEL, LAYOUT, N_EXPERTS, N_TOKENS, prompt

CONDITION = {"benchmark-exam": "benchmark", "organic-chat": "organic"}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def write(
    path: Path,
    variants: tuple[str, ...],
    *,
    n_items: int = 16,
    layout: Layout = LAYOUT,
    **more: Any,
) -> Store:
    """Items in some variants; layer 3 knows the wording, layer 1 the wrapper."""
    of = rng(1)
    with StoreWriter(path, layout=layout, provenance={"model": "simulated"}) as writer:
        for item in range(n_items):
            for variant in variants:
                condition = CONDITION.get(variant, "mixed")
                made = prompt(of, item, condition)
                wording, wrapper = variant.startswith("benchmark"), "exam" in variant
                resid = {
                    ("resid_post", 1): made.resid["resid_post", 1] + 8.0 * wrapper,
                    ("resid_post", 3): made.resid["resid_post", 3]
                    + 8.0 * wording
                    - 3.0 * (condition == "benchmark"),
                }
                fields = dict(made.prompt) | {"variant": variant, "prompt_id": f"{variant}-{item}"}
                fields |= {"domain": ("maths", "code", "advice", "maths")[item % 4]}
                writer.add(
                    prompt(of, item, condition, **({"prompt": fields, "resid": resid} | more))
                )
    return open_store(path)


@pytest.mark.slow
def test_the_grid_tells_a_reader_of_the_wording_from_one_of_the_wrapper(tmp_path: Path) -> None:
    store = write(tmp_path / "a.moe", CELLS)
    layers = {1: {("resid_post", "last_content"): 1}, 3: {("resid_post", "last_content"): 3}}
    for layer, called in ((1, {"organic-exam": 1.0, "benchmark-chat": 0.0}), (3, {})):
        called = called or {"organic-exam": 0.0, "benchmark-chat": 1.0}
        everything = every_condition(compared(store, COMPARED))
        cells, targets, reason = grid_tables(everything, layers[layer], rng())
        assert reason == ""
        real = cells[cells["site"] == "resid_post"].set_index("cell")
        assert real.loc[real["is_off_diagonal"], "called_benchmark"].to_dict() == called
        aurocs = targets[targets["site"] == "resid_post"].set_index("target")["auroc"]
        assert aurocs[{1: "wrapper", 3: "wording"}[layer]] == 1.0
        assert aurocs[{1: "wording", 3: "wrapper"}[layer]] < 0.75


def test_the_grid_has_the_mixed_prompts_and_shams_count_as_their_cell(tmp_path: Path) -> None:
    variants = (*CELLS, "organic-chat-sham", "other")
    store = write(tmp_path / "a.moe", variants, n_items=2)
    everything = every_condition(compared(store, COMPARED))
    assert cells_of(everything).tolist() == [0, 1, 2, 3, 0, -1] * 2


def test_without_an_off_diagonal_cell_there_is_no_grid_and_it_is_named(tmp_path: Path) -> None:
    store = write(tmp_path / "a.moe", ("benchmark-exam", "organic-chat"), n_items=2)
    cells, _, reason = grid_tables(every_condition(compared(store, COMPARED)), {}, rng())
    assert cells.empty
    assert reason.startswith("No prompt of the store has the variant organic-exam or benchmark-ch")


def test_the_readouts_are_those_of_a_loop_over_tokens(tmp_path: Path) -> None:
    segment = np.array([0, 0] + [SEGMENTS.index("user")] * 20 + [SEGMENTS.index("wrapper")] * 8)
    rows = np.arange(N_TOKENS)
    of = rng()
    with StoreWriter(tmp_path / "a.moe", layout=LAYOUT, provenance={}) as writer:
        for item in range(3):
            for condition in COMPARED:
                resid = {
                    ("resid_post", layer): of.normal(size=(N_TOKENS, D_MODEL)).astype(np.float32)
                    for layer in (1, 3)
                }
                more = {"resid": resid, "resid_token_index": rows}
                writer.add(prompt(of, item, condition, segment=segment.astype(np.uint8), **more))
    store = open_store(tmp_path / "a.moe")
    pair = compared(store, COMPARED)
    absent: dict[str, str] = {}
    found = list(readings(pair, cluster=pair.item, absent=absent, segment="wrapper"))
    assert absent == {}
    held = store.resid("resid_post", 3)
    for reading in found:
        if reading.layer == 3 and reading.site == "resid_post":
            for number in range(6):
                own = held.values[store.prompt_index[held.token_index] == number]
                expected = {
                    "last_content": own[21],
                    "mean_content": own[2:22].mean(axis=0),
                    "mean_wrapper": own[22:].mean(axis=0),
                }[reading.readout]
                np.testing.assert_allclose(
                    np.asarray(reading.features)[number], expected, atol=1e-6
                )
    assert [each.readout for each in found if each.site == "resid_post"] == [
        *("last_content", "mean_content", "mean_wrapper") * 2
    ]
    assert content_tokens(pair).sum() == 6 * 20


def test_router_logits_are_read_where_they_are_stored(tmp_path: Path) -> None:
    layout = Layout(
        n_layers=2,
        layer_indices=(1, 3),
        n_experts=N_EXPERTS,
        top_k=2,
        d_model=0,
        router_logits=True,
    )
    of = rng()
    with StoreWriter(tmp_path / "a.moe", layout=layout, provenance={}) as writer:
        for condition in COMPARED:
            logits = of.normal(size=(N_TOKENS, 2, N_EXPERTS)).astype(np.float32)
            more = {"router_logits": logits, "resid": {}, "resid_token_index": None}
            writer.add(prompt(of, 0, condition, **more))
    pair = compared(open_store(tmp_path / "a.moe"), COMPARED)
    found = {
        (each.layer, each.readout): np.asarray(each.features)
        for each in readings(pair, cluster=pair.item, absent={})
        if each.site == "router_logits"
    }
    np.testing.assert_array_equal(found[3, "last_content"][1], logits[-1, 1])
    np.testing.assert_allclose(found[1, "mean_content"][1], logits[2:, 0].mean(axis=0), atol=1e-6)


@pytest.mark.slow
def test_a_field_is_probed_value_against_the_rest(tmp_path: Path) -> None:
    store = write(tmp_path / "a.moe", ("benchmark-exam", "organic-chat"), n_items=24)
    table, reason = field_table(compared(store, COMPARED), "domain", rng())
    assert reason == ""
    values = {"domain=advice", "domain=code", "domain=maths"}
    assert set(table["target"]) == {"domain", *values}
    real = table[(table["site"] == "routing") & (table["layer"] == 1) & (table["baseline"] == "")]
    mean = real.set_index("target")["auroc"]
    assert mean["domain"] == pytest.approx(np.mean([mean[value] for value in values]))
    assert (table[table["baseline"] == "shuffled"]["target"] == "domain").all()


@pytest.mark.slow
def test_a_field_with_two_values_is_probed_once(tmp_path: Path) -> None:
    store = write(tmp_path / "a.moe", ("benchmark-exam", "organic-chat"), n_items=12)
    table, _ = field_table(compared(store, COMPARED), "variant", rng())
    assert set(table["target"]) == {"variant"}
    best = table[(table["site"] == "resid_post") & (table["layer"] == 3)].iloc[0]
    assert best["auroc"] == 1.0


def test_fields_that_cannot_be_probed_say_why(tmp_path: Path) -> None:
    store = write(tmp_path / "a.moe", ("benchmark-exam", "organic-chat"), n_items=4)
    everything = compared(store, COMPARED)
    for name in ("source", "item_id"):
        table, reason = field_table(everything, name, rng())
        assert table.empty
        assert reason.startswith(f"The field {name} cannot be probed: the field has")
    with pytest.raises(InputError, match="target is colour, expected a field of the prompts"):
        check_targets(("condition", "colour"))
    with pytest.raises(InputError, match="segment is middle, expected one of template"):
        Probing(segment="middle")


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, pd.DataFrame]]:
    """A paired suite, with an untrained model that knows nothing."""
    folder = tmp_path_factory.mktemp("studied")
    store = write(folder / "a.moe", CELLS)
    untrained = untrained_of(store, folder / "b.moe")
    tables, absent = probe_study(store, rng(), probing=Probing(untrained=untrained))
    left_out = {"probes_mean_content", "probes_logprob", "probes_unseen", "router_split"}
    assert set(absent) == left_out
    return store, tables


def untrained_of(store: Store, path: Path) -> Store:
    """The same prompts with residuals and routing of pure noise."""
    of = rng(9)
    with StoreWriter(path, layout=LAYOUT, provenance={}) as writer:
        for number, row in store.prompts.iterrows():
            tokens = store.token_id[store.prompt_index == number]
            fields = {name: row[name] for name in store.prompts if name != "n_tokens"}
            noise = {
                ("resid_post", layer): of.normal(size=(1, D_MODEL)).astype(np.float32)
                for layer in (1, 3)
            }
            writer.add(prompt(of, 0, "organic", prompt=fields, token_id=tokens, resid=noise))
    return open_store(path)


@pytest.mark.slow
def test_every_probe_has_its_controls(
    studied: tuple[Store, dict[str, pd.DataFrame]],
) -> None:
    _, tables = studied
    assert set(tables) == set(PROBE_TABLES) - {"router_split"}
    controls = tables["probe_controls"].set_index(["site", "layer"])
    real = tables["probes"].query("baseline == '' and target == 'condition' and split == 'item'")
    np.testing.assert_allclose(controls["auroc"], real["auroc"])
    row = controls.loc[("resid_post", 3.0)]
    assert row["kind"] == "item_id"
    assert row["selectivity"] == pytest.approx(row["kind_accuracy"] - row["control_accuracy"])
    assert row["selectivity"] > 0.2
    assert row["compression"] > 1.5 > row["shuffled_compression"]
    assert row["untrained_auroc"] < 0.8
    assert row["gain_over_untrained"] == pytest.approx(row["auroc"] - row["untrained_auroc"])
    assert row["gain_over_untrained_low"] > 0
    assert controls["description_bits"].between(0, 2 * controls["uniform_bits"]).all()


@pytest.mark.slow
def test_the_layer_is_chosen_within_the_fitted_prompts(
    studied: tuple[Store, dict[str, pd.DataFrame]],
) -> None:
    chosen = studied[1]["probes_chosen"].set_index("site")
    assert chosen["auroc"]["resid_post"] == 1.0
    assert set(chosen["layers_chosen"]["routing"].split()) == {"3"}
    assert chosen["layer"]["routing"] == 3


@pytest.mark.slow
def test_what_is_added_is_the_difference_of_nested_probes(
    studied: tuple[Store, dict[str, pd.DataFrame]],
) -> None:
    added = studied[1]["added"]
    assert sorted(zip(added["added"], added["to"], strict=True)) == [
        ("resid_post", "routing"),
        ("routing", "resid_post"),
    ]
    np.testing.assert_allclose(
        added["auroc_gain"], added["joint_auroc"] - added["base_auroc"], atol=1e-12
    )


@pytest.mark.slow
def test_the_router_split_finds_what_lies_in_the_row_space(tmp_path: Path) -> None:
    """Layer 3 of resid_mid knows the condition along the first axis, which the router reads."""
    layout = Layout(
        n_layers=2,
        layer_indices=(1, 3),
        n_experts=N_EXPERTS,
        top_k=2,
        d_model=D_MODEL,
        resid_sites=("resid_mid",),
    )
    of = rng()
    with StoreWriter(tmp_path / "a.moe", layout=layout, provenance={}) as writer:
        for item in range(20):
            for condition in COMPARED:
                rows = of.normal(size=(2, 1, D_MODEL)).astype(np.float32)
                rows[1, 0, 0] += 6.0 * (condition == "benchmark")
                resid = {("resid_mid", 1): rows[0], ("resid_mid", 3): rows[1]}
                writer.add(prompt(of, item, condition, resid=resid))
    store = open_store(tmp_path / "a.moe")
    weight = np.zeros((N_EXPERTS, D_MODEL))
    weight[:, 0], weight[:3, 1] = 1.0, 2.0
    weights = {1: weight, 3: weight}
    tables, _ = probe_study(store, rng(), probing=Probing(router_weights=weights))
    parts = tables["router_split"].query("layer == 3").set_index("part")
    assert parts["auroc"]["row_space"] > 0.95
    assert parts["auroc"]["complement"] < 0.75
    assert parts["n_columns"].to_dict() == {
        "whole": D_MODEL,
        "row_space": 2,
        "complement": D_MODEL,
        "random_space": 2,
    }
    with pytest.raises(InputError, match=r"router_weights has shape \(2, 6\) for layer 1"):
        probe_study(store, rng(), probing=Probing(router_weights={1: weight[:2]}))
    with pytest.raises(InputError, match="router_weights has no weights for layer 3"):
        probe_study(store, rng(), probing=Probing(router_weights={1: weight}))
