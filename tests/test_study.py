"""The study on stores whose answer is known, and on the recorded routing of gpt-oss-20b."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import jensenshannon

from interp.cache.errors import InputError
from interp.cache.reader import open_store
from interp.cache.records import SEGMENTS
from interp.cache.writer import StoreWriter
from interp.compared import compared
from interp.results import read_results, write_results
from interp.study import analyze
from tests.study_samples import LAYOUT, N_EXPERTS, N_ITEMS, N_TOKENS, prompt, stored


def test_usage_and_divergence_are_those_of_a_loop_over_tokens(tmp_path: Path) -> None:
    store = stored(tmp_path / "a.moe")
    results = analyze(store, n_permutations=20, progress=False)
    conditions = store.prompts["condition"].to_numpy()[store.prompt_index]
    routing = store.router()
    for column, layer in enumerate((1, 3)):
        share = {}
        for condition in ("benchmark", "organic"):
            slots = np.zeros(N_EXPERTS)
            for token in range(store.n_tokens):
                if conditions[token] == condition and SEGMENTS[store.segment[token]] == "user":
                    for expert in routing.expert_indices[token, column]:
                        slots[expert] += 1
            share[condition] = slots / slots.sum()
            rows = results.usage.query("layer == @layer and condition == @condition")
            np.testing.assert_allclose(rows.sort_values("expert")["usage"], share[condition])
        expected = jensenshannon(share["benchmark"], share["organic"], base=2) ** 2
        found = results.divergence.set_index("layer")["raw_bits"][layer]
        assert found == pytest.approx(expected)


def test_only_the_layer_with_an_effect_has_one(tmp_path: Path) -> None:
    results = analyze(stored(tmp_path / "a.moe"), n_permutations=99, progress=False)
    divergence = results.divergence.set_index("layer")
    assert divergence["p_value"][3] == pytest.approx(0.01)
    assert divergence["raw_bits"][1] < divergence["raw_bits"][3] / 10
    probes = results.probes[results.probes["baseline"] == ""].set_index(["site", "layer"])["auroc"]
    assert probes["resid_post", 3] > 0.95
    assert probes["routing", 3] > 0.95
    assert 0.2 < probes["resid_post", 1] < 0.8
    assert 0.2 < probes["routing", 1] < 0.8


@pytest.mark.slow
def test_baselines_and_shuffled_labels_stand_beside_the_probes(tmp_path: Path) -> None:
    probes = analyze(stored(tmp_path / "a.moe"), n_permutations=5, progress=False).probes
    surface = probes[probes["baseline"] == probes["site"]]
    assert list(surface["site"]) == ["length", "position", "bag_of_tokens"]
    shuffled = probes[probes["baseline"] == "shuffled"]
    assert len(shuffled) == 3 * 2
    assert ((shuffled["auroc"] > 0.2) & (shuffled["auroc"] < 0.8)).all()


@pytest.mark.slow
def test_template_tokens_play_no_part(tmp_path: Path) -> None:
    usage = analyze(stored(tmp_path / "a.moe"), n_permutations=5, progress=False).usage
    assert (usage.query("expert == 7")["usage"] == 0).all()
    assert (usage["n_tokens"] == N_ITEMS * (N_TOKENS - 2)).all()


@pytest.mark.slow
def test_generated_tokens_are_left_out_where_there_are_prompt_tokens(tmp_path: Path) -> None:
    generated = np.arange(N_TOKENS) >= 20
    store = stored(tmp_path / "a.moe", generated=generated)
    assert store.position[compared(store, ("benchmark", "organic")).token].max() == 19
    results = analyze(store, n_permutations=5, progress=False)
    assert results.run["generated_only"] is False
    assert results.run["tokens"] == {"benchmark": N_ITEMS * 18, "organic": N_ITEMS * 18}


@pytest.mark.slow
def test_generated_tokens_are_used_and_named_where_there_is_nothing_else(tmp_path: Path) -> None:
    store = stored(tmp_path / "a.moe", generated=np.ones(N_TOKENS, dtype=bool))
    assert analyze(store, n_permutations=5, progress=False).run["generated_only"] is True


@pytest.mark.slow
def test_prompts_without_a_residual_that_takes_part_leave_the_probe_out(tmp_path: Path) -> None:
    store = stored(tmp_path / "a.moe", resid_token_index=np.array([1]))
    results = analyze(store, n_permutations=5, progress=False)
    assert results.absent["probes_last_content"].startswith(
        "48 of 48 prompts kept no residual stream"
    )
    assert "resid_post" not in set(results.probes["site"])
    assert "routing" in set(results.probes["site"])


@pytest.mark.slow
def test_prompts_of_template_alone_are_counted_as_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with StoreWriter(tmp_path / "a.moe", layout=LAYOUT, provenance={}) as writer:
        for item in range(N_ITEMS):
            for condition in ("benchmark", "organic"):
                writer.add(prompt(rng, item, condition))
        writer.add(prompt(rng, N_ITEMS, "organic", segment=np.zeros(N_TOKENS, dtype=np.uint8)))
    results = analyze(open_store(tmp_path / "a.moe"), n_permutations=5, progress=False)
    assert results.absent["prompts"].startswith("1 of 49 prompts have no token outside template")
    assert results.run["prompts"] == {"benchmark": N_ITEMS, "organic": N_ITEMS}


def test_a_single_item_has_no_null_and_no_probe_and_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with StoreWriter(tmp_path / "a.moe", layout=LAYOUT, provenance={}) as writer:
        for condition in ("benchmark", "organic"):
            writer.add(prompt(rng, 0, condition))
    results = analyze(open_store(tmp_path / "a.moe"), n_permutations=5, progress=False)
    assert results.absent["divergence"].startswith("Nothing can be shuffled or split: 1 items")
    assert results.absent["probes"].startswith("Nothing can be shuffled or split: 1 items")
    assert not results.usage.empty


def test_a_store_of_one_condition_says_what_is_absent(tmp_path: Path) -> None:
    results = analyze(stored(tmp_path / "a.moe", ("organic",)), n_permutations=5, progress=False)
    assert results.divergence.empty
    assert results.probes.empty
    assert results.absent["divergence"].startswith("The store holds only organic prompts")
    assert results.usage["usage"].sum() == pytest.approx(2)
    assert "benchmark has 0 sources, organic 1" in results.verdict["sentence"]


@pytest.mark.slow
def test_mixed_prompts_have_usage_and_take_no_part_in_comparisons(tmp_path: Path) -> None:
    results = analyze(
        stored(tmp_path / "a.moe", ("benchmark", "mixed", "organic")),
        n_permutations=5,
        progress=False,
    )
    assert set(results.usage["condition"]) == {"benchmark", "mixed", "organic"}
    assert results.divergence["n_clusters"].eq(N_ITEMS).all()
    assert results.probes["n_prompts"].eq(2 * N_ITEMS).all()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_tables(tmp_path: Path) -> None:
    store = stored(tmp_path / "a.moe")
    first, again, other = (
        analyze(store, seed=s, n_permutations=5, progress=False) for s in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(first.probes, again.probes)
    pd.testing.assert_frame_equal(first.divergence, again.divergence)
    assert not first.divergence["raw_null_bits"].equals(other.divergence["raw_null_bits"])


@pytest.mark.slow
def test_results_survive_writing_and_reading(tmp_path: Path) -> None:
    results = analyze(stored(tmp_path / "a.moe"), n_permutations=5, progress=False)
    write_results(results, tmp_path / "results.json")
    again = read_results(tmp_path / "results.json")
    for name in ("usage", "divergence", "experts", "probes"):
        pd.testing.assert_frame_equal(
            getattr(again, name), getattr(results, name), check_dtype=False
        )
    assert (again.run, again.absent) == (json.loads(json.dumps(results.run)), results.absent)


def test_results_without_a_table_are_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"usage": []}')
    with pytest.raises(InputError, match=r"cannot be read as results \(KeyError"):
        read_results(tmp_path / "results.json")


RECORDED = Path(__file__).resolve().parents[2] / "shared" / "data" / "gpt-oss-20b-routing"


@pytest.mark.slow
@pytest.mark.skipif(
    not RECORDED.is_dir(),
    reason="the recorded routing lies beside the repository, and is not there",
)
def test_recorded_routing_of_gpt_oss_20b_runs_to_the_report(tmp_path: Path) -> None:
    from interp.cache.fingerprinting import import_fingerprinting
    from interp.report import write_report

    store = import_fingerprinting(sorted(RECORDED.glob("*.json.gz")), tmp_path / "20b.moe")
    assert (store.n_tokens, store.layout.n_layers, store.layout.top_k) == (35_143, 24, 4)
    results = analyze(store, n_permutations=50, progress=False)
    # Magnitudes measured on all 703 records, of which these are 112: DESIGN.md, "The question".
    assert results.divergence["raw_bits"].between(0.03, 0.25).all()
    assert (results.divergence["raw_bits"] > 5 * results.divergence["raw_null_bits"]).all()
    assert results.divergence["share_explained_by_vocabulary"][0] > 0.8
    assert "holds no residual streams" in results.absent["probes_resid_post"]
    write_report(results, store, tmp_path / "report.html")
    assert "holds no residual streams" in (tmp_path / "report.html").read_text(encoding="utf-8")
