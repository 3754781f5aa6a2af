"""The store: what was added is what is read, and everything else is told in one sentence."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interp.cache.errors import InputError, StoreError
from interp.cache.reader import Store, open_store
from interp.cache.records import PROMPT_FIELDS, Layout, PromptActivations
from interp.cache.stored import checked
from interp.cache.writer import StoreWriter, is_captured
from tests.store_samples import (
    LAYOUT,
    NORMS_LAYOUT,
    PROVENANCE,
    RESID_LAYOUT,
    as_float32,
    expect_valid,
    forged,
    sample,
    write,
)

TINY_MB = 1e-3
"""About one kilobyte a part, so that a few prompts make several parts."""

layouts = st.fixed_dictionaries(
    {
        "n_experts": st.sampled_from([8, 256, 257]),
        "top_k": st.integers(1, 4),
        "d_model": st.integers(1, 5),
        "weights_dtype": st.sampled_from(["float16", "float32"]),
        "resid_sites": st.sampled_from([(), ("resid_post",), ("resid_mid", "resid_post")]),
        "resid_dtype": st.sampled_from(["float32", "float16", "bfloat16"]),
        "router_logits": st.booleans(),
        "expert_output_norms": st.booleans(),
        "vocab_local": st.booleans(),
    }
)
sizes = st.lists(
    st.tuples(st.integers(1, 12), st.none() | st.integers(0, 12), st.text(max_size=9)),
    min_size=1,
    max_size=5,
)
"""Tokens, residual rows (None: all) and text of some prompts."""


def build(layout: Layout, shapes: list[tuple[int, int | None, str]]) -> list[PromptActivations]:
    return [
        sample(layout, seed=seed, n_tokens=n_tokens, n_rows=n_rows, text=text)
        for seed, (n_tokens, n_rows, text) in enumerate(shapes)
    ]


def same_bits(found: np.ndarray, expected: np.ndarray, dtype: Any) -> bool:
    """Whether dtype, shape and bytes are the same; NaN payloads and signs of zero included."""
    wanted = np.asarray(expected, dtype=dtype)
    return (found.dtype, found.shape, found.tobytes()) == (dtype, wanted.shape, wanted.tobytes())


def joined(prompts: list[PromptActivations], name: str) -> np.ndarray:
    return np.concatenate([getattr(activations, name) for activations in prompts])


def expect_same_tokens(store: Store, prompts: list[PromptActivations]) -> None:
    dtypes = {
        "token_id": "i4",
        "position": "i4",
        "segment": "u1",
        "generated": "?",
        "logprob": "f4",
    }
    for name, dtype in dtypes.items():
        assert same_bits(getattr(store, name), joined(prompts, name), np.dtype(dtype)), name
    lengths = [len(activations.token_id) for activations in prompts]
    owners = [prompt for prompt, length in enumerate(lengths) for _ in range(length)]
    assert store.prompt_index.tolist() == owners
    assert store.prompts["n_tokens"].tolist() == lengths
    assert store.n_tokens == sum(lengths)


def expect_same_prompts(store: Store, prompts: list[PromptActivations]) -> None:
    for name in PROMPT_FIELDS:
        assert store.prompts[name].tolist() == [a.prompt[name] for a in prompts]
    texts = [store.text(number) for number in range(len(prompts))]
    assert texts == [activations.text for activations in prompts]


def expect_same_routing(store: Store, prompts: list[PromptActivations], layout: Layout) -> None:
    routing = store.router()
    index_dtype = np.dtype("u1" if layout.n_experts <= 256 else "u2")
    assert same_bits(routing.expert_indices, joined(prompts, "expert_indices"), index_dtype)
    weights_dtype = np.dtype(layout.weights_dtype)
    assert same_bits(routing.expert_weights, joined(prompts, "expert_weights"), weights_dtype)
    if layout.router_logits:
        assert routing.router_logits is not None
        assert same_bits(routing.router_logits, joined(prompts, "router_logits"), weights_dtype)
    else:
        assert routing.router_logits is None
    if layout.expert_output_norms:
        assert routing.expert_output_norms is not None
        norms = joined(prompts, "expert_output_norms")
        assert same_bits(routing.expert_output_norms, norms, np.dtype("f4"))
    else:
        assert routing.expert_output_norms is None


def expect_same_residuals(store: Store, prompts: list[PromptActivations], layout: Layout) -> None:
    starts = np.cumsum([0] + [len(activations.token_id) for activations in prompts])
    index = [
        start + row
        for start, a in zip(starts, prompts, strict=False)
        for row in (range(len(a.token_id)) if a.resid_token_index is None else a.resid_token_index)
    ]
    for site in layout.resid_sites:
        for layer in (3, 12):
            found = store.resid(site, layer)
            expected = as_float32(np.concatenate([a.resid[site, layer] for a in prompts]))
            assert np.array_equal(found.values, expected, equal_nan=True)
            if layout.resid_dtype != "float16":
                assert same_bits(found.values, expected, np.dtype("f4"))
            assert found.token_index.tolist() == index


@pytest.mark.slow
def test_what_is_added_is_what_is_read(tmp_path: Path) -> None:
    written: list[Path] = []

    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(fields=layouts, shapes=sizes)
    def round_trip(fields: dict[str, Any], shapes: list[tuple[int, int | None, str]]) -> None:
        layout = replace(LAYOUT, **fields)
        prompts = build(layout, shapes)
        path = tmp_path / f"{len(written)}.moe"
        written.append(path)
        vocab = [f"é{number}" for number in range(50)] if layout.vocab_local else []
        store = open_store(write(path, prompts, layout, part_mb=TINY_MB, vocab=vocab))
        expect_same_prompts(store, prompts)
        expect_same_tokens(store, prompts)
        expect_same_routing(store, prompts, layout)
        expect_same_residuals(store, prompts, layout)

    round_trip()
    expect_valid(*written)


def test_a_new_part_starts_when_one_is_full(tmp_path: Path) -> None:
    prompts = [sample(seed=seed, n_tokens=40) for seed in range(5)]
    path = write(tmp_path / "s.moe", prompts, part_mb=TINY_MB)
    assert len(list(path.glob("part-*.h5"))) == 5
    assert write(tmp_path / "t.moe", prompts).joinpath("part-00001.h5").exists() is False
    expect_valid(path, tmp_path / "t.moe")


def test_layers_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    prompts = [sample(seed=seed) for seed in range(3)]
    store = open_store(write(tmp_path / "s.moe", prompts, part_mb=TINY_MB))
    routing = store.router(layers=[7, 3])
    expected = joined(prompts, "expert_indices")[:, ::-1]
    assert routing.layer_indices == (7, 3)
    assert np.array_equal(routing.expert_indices, expected)


def test_no_layers_give_routing_without_layers(tmp_path: Path) -> None:
    store = open_store(write(tmp_path / "s.moe", [sample()]))
    assert store.router(layers=[]).expert_weights.shape == (5, 0, 2)


def test_tokens_of_split_characters_show_replacement_characters(tmp_path: Path) -> None:
    activations = sample(n_tokens=3, text="a→b", text_end=np.array([2, 4, 5]))
    store = open_store(write(tmp_path / "s.moe", [sample(), activations]))
    assert store.token_texts(1) == ["a\ufffd", "\ufffd\ufffd", "b"]


def test_local_ids_have_their_texts_from_the_vocabulary(tmp_path: Path) -> None:
    layout = replace(LAYOUT, vocab_local=True)
    activations = sample(layout, n_tokens=3, token_id=np.array([2, 0, 2]))
    store = open_store(write(tmp_path / "s.moe", [activations], layout, vocab=["a", "", "é"]))
    assert store.token_texts(0) == ["é", "a", "é"]


def test_texts_of_tokens_without_ends_are_refused(tmp_path: Path) -> None:
    store = open_store(write(tmp_path / "s.moe", [sample(text_end=None)]))
    with pytest.raises(StoreError, match=r"does not say where tokens end in the text"):
        store.token_texts(0)


def test_long_provenance_comes_back(tmp_path: Path) -> None:
    provenance = {"config": "é" * 100_000, "sizes": [1, 2]}
    path = write(tmp_path / "s.moe", [sample()], provenance=provenance)
    assert open_store(path).provenance == provenance
    expect_valid(path)


def test_norms_are_read_at_the_layers_asked_for(tmp_path: Path) -> None:
    prompts = [sample(NORMS_LAYOUT, seed=seed, n_tokens=40) for seed in range(3)]
    path = write(tmp_path / "s.moe", prompts, NORMS_LAYOUT, part_mb=TINY_MB)
    assert path.joinpath("part-00001.h5").exists()
    found = open_store(path).router(layers=[7]).expert_output_norms
    assert found is not None
    assert np.array_equal(found, joined(prompts, "expert_output_norms")[:, 1:])
    expect_valid(path)


def test_norms_have_chunks_of_one_layer_like_the_weights(tmp_path: Path) -> None:
    path = write(tmp_path / "s.moe", [sample(NORMS_LAYOUT)], NORMS_LAYOUT)
    with h5py.File(path / "part-00000.h5") as part:
        norms, weights = part["experts/expert_output_norms"], part["router/expert_weights"]
        assert norms.chunks == weights.chunks == (5, 1, 2)
        assert norms.dtype == np.dtype("<f4")


def test_norms_count_for_the_size_of_a_part() -> None:
    without, with_norms = (
        checked(sample(layout, n_tokens=40), layout, n_vocab=0).n_bytes
        for layout in (LAYOUT, NORMS_LAYOUT)
    )
    assert with_norms - without == 40 * 2 * 2 * 4


def test_store_from_before_norms_could_be_stored_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "s.moe", [sample()])
    with h5py.File(path / "part-00000.h5") as part:
        assert "experts" not in part
    layout = json.loads((path / "manifest.json").read_text())["layout"]
    assert layout.pop("expert_output_norms") is False
    damage_manifest(path, layout=layout)
    store = open_store(path)
    assert store.layout == LAYOUT
    assert store.router().expert_output_norms is None
    assert is_captured(path, layout=LAYOUT, provenance=PROVENANCE) is True


def test_parts_with_and_without_norms_are_refused(tmp_path: Path) -> None:
    prompts = [sample(NORMS_LAYOUT, seed=seed, n_tokens=40) for seed in range(2)]
    path = write(tmp_path / "s.moe", prompts, NORMS_LAYOUT, part_mb=TINY_MB)
    with h5py.File(path / "part-00001.h5", "r+") as part:
        del part["experts"]
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["parts"][1]["bytes"] = (path / "part-00001.h5").stat().st_size
    damage_manifest(path, parts=manifest["parts"])
    with pytest.raises(StoreError, match=r"part-00001\.h5 has another layout or provenance than"):
        open_store(path)


@pytest.mark.parametrize("weights_dtype", ["float16", "float32"])
def test_weights_of_a_family_may_be_scaled_and_need_no_sum(
    tmp_path: Path, weights_dtype: str
) -> None:
    layout = replace(LAYOUT, weights_sum="family", weights_dtype=weights_dtype)
    scaled = np.array([[1.875, 0.625], [2.5, 0.0]], dtype=weights_dtype)
    weights = np.broadcast_to(scaled, (5, 2, 2))
    prompts = [sample(layout, expert_weights=weights), sample(layout, seed=1)]
    path = write(tmp_path / "s.moe", prompts, layout)
    store = open_store(path)
    assert store.layout.weights_sum == "family"
    expect_same_routing(store, prompts, layout)
    expect_valid(path)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ((2.5, -0.5), "expert_weights must be finite and not negative"),
        ((np.inf, 0.5), "expert_weights must be finite and not negative"),
        ((0.5, 2.5), "expert_weights must descend along top_k"),
    ],
)
def test_faulty_weights_of_a_family_are_refused(
    tmp_path: Path, weights: tuple[float, float], sentence: str
) -> None:
    layout = replace(LAYOUT, weights_sum="family")
    with pytest.raises(ValueError, match=sentence):
        write(tmp_path / "s.moe", [sample(layout, expert_weights=faulty_weights(*weights))], layout)


def test_generated_tokens_after_a_prompt_that_was_recorded_in_part_come_back(
    tmp_path: Path,
) -> None:
    mixed = sample(
        position=np.array([4, 5, 9, 10, 11]), generated=np.array([False, False, True, True, True])
    )
    prompts = [sample(generated=np.zeros(5, dtype=bool)), mixed]
    path = write(tmp_path / "s.moe", prompts)
    expect_same_tokens(open_store(path), prompts)
    expect_valid(path)


def test_layout_comes_back(tmp_path: Path) -> None:
    layout = replace(
        RESID_LAYOUT, resid_dtype="bfloat16", weights_sum="family", expert_output_norms=True
    )
    path = write(tmp_path / "s.moe", [sample(layout)], layout)
    assert open_store(path).layout == layout


def test_the_same_prompts_give_the_same_bytes(tmp_path: Path) -> None:
    prompts = [sample(RESID_LAYOUT, seed=seed) for seed in range(3)]
    digests = {
        hashlib.sha256(
            (write(tmp_path / name, prompts, RESID_LAYOUT) / "part-00000.h5").read_bytes()
        ).hexdigest()
        for name in ("s.moe", "t.moe")
    }
    assert len(digests) == 1


def test_arrays_changed_after_adding_do_not_change_the_store(tmp_path: Path) -> None:
    activations = sample(RESID_LAYOUT)
    before = np.array(activations.resid["resid_post", 3])
    with StoreWriter(tmp_path / "s.moe", layout=RESID_LAYOUT, provenance=PROVENANCE) as writer:
        writer.add(activations)
        activations.resid["resid_post", 3].fill(0)
    found = open_store(tmp_path / "s.moe").resid("resid_post", 3).values
    assert np.array_equal(found, before, equal_nan=True)


def test_nothing_variable_gzipped_floats_or_unchecked_chunks_in_a_part(tmp_path: Path) -> None:
    layout = replace(RESID_LAYOUT, router_logits=True, expert_output_norms=True)
    path = write(tmp_path / "s.moe", [sample(layout)], layout)
    seen = {}

    def look(name: str, found: h5py.Group | h5py.Dataset) -> None:
        if isinstance(found, h5py.Dataset):
            seen[name] = (found.fletcher32, found.compression is None or found.dtype.kind != "f")

    with h5py.File(path / "part-00000.h5") as part:
        part.visititems(look)
    assert len(seen) == 10 + 6 + 3 + 1 + 4
    assert {name for name, fine in seen.items() if fine != (True, True)} == set()


def test_manifest_counts_what_the_parts_hold(tmp_path: Path) -> None:
    path = write(
        tmp_path / "s.moe", [sample(seed=s, n_tokens=40) for s in range(3)], part_mb=TINY_MB
    )
    manifest = json.loads((path / "manifest.json").read_text())
    for entry in manifest["parts"]:
        content = (path / entry["name"]).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (
            len(content),
            hashlib.sha256(content).hexdigest(),
        )
    assert [entry["n_tokens"] for entry in manifest["parts"]] == [40, 40, 40]
    assert (manifest["complete"], manifest["n_prompts"], manifest["n_tokens"]) == (True, 3, 120)


def test_card_names_model_conditions_and_sources(tmp_path: Path) -> None:
    fields = dict(sample().prompt) | {"source": "a|b\nc"}
    path = write(tmp_path / "s.moe", [sample(), sample(prompt=fields), sample(prompt=fields)])
    card = (path / "README.md").read_text(encoding="utf-8")
    assert "Routing of toy" in card
    assert "| organic | a\\|b c | 2 | 10 |" in card


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        (LAYOUT, "Routing of toy,"),
        (
            replace(RESID_LAYOUT, expert_output_norms=True),
            "Routing, norms of expert outputs and residuals (`resid_mid`, `resid_post`, float32) "
            "of toy,",
        ),
        (replace(LAYOUT, router_logits=True), "Routing and router logits of toy,"),
    ],
)
def test_card_says_what_is_stored(tmp_path: Path, layout: Layout, sentence: str) -> None:
    path = write(tmp_path / "s.moe", [sample(layout)], layout)
    assert sentence in (path / "README.md").read_text(encoding="utf-8")


def test_example_on_the_card_runs(tmp_path: Path) -> None:
    path = write(tmp_path / "s.moe", [sample()])
    card = (path / "README.md").read_text(encoding="utf-8")
    example = card.partition("```python\n")[2].partition("```")[0]
    root = str(Path(__file__).resolve().parents[1])
    command = [sys.executable, "-c", f"import sys\nsys.path.insert(0, {root!r})\n{example}"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.rstrip().endswith("(5, 1, 2)")


def test_no_prompt_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no prompt was captured"):
        write(tmp_path / "s.moe", [])
    assert list(tmp_path.iterdir()) == []


def test_failure_before_the_first_part_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="segment holds 99"):
        write(tmp_path / "s.moe", [sample(), sample(segment=np.full(5, 99))])
    assert list(tmp_path.iterdir()) == []


def test_failure_after_a_part_leaves_an_unfinished_store(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="segment holds 99"):
        write(
            tmp_path / "s.moe",
            [sample(n_tokens=40), sample(), sample(segment=np.full(5, 99))],
            part_mb=TINY_MB,
        )
    names = sorted(entry.name for entry in (tmp_path / "s.moe").iterdir())
    assert names == ["manifest.json", "part-00000.h5", "part-00000.index.json"]
    with pytest.raises(StoreError, match=r"was not finished, or is being") as caught:
        open_store(tmp_path / "s.moe")
    assert caught.value.exit_code == 3


def test_existing_store_is_not_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "s.moe", [sample()])
    before = (path / "part-00000.h5").read_bytes()
    with pytest.raises(ValueError, match=r"s\.moe is complete and takes no more prompts"):
        write(path, [sample(seed=1)])
    with pytest.raises(InputError, match=r"holds another capture, which differs in revision"):
        write(path, [sample(seed=1)], provenance=dict(PROVENANCE) | {"revision": "r2"})
    assert (path / "part-00000.h5").read_bytes() == before


def test_adding_outside_of_the_context_is_refused(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s.moe", layout=LAYOUT, provenance=PROVENANCE)
    with pytest.raises(ValueError, match=r"not open for writing"):
        writer.add(sample())


def test_same_settings_are_recognised(tmp_path: Path) -> None:
    path = tmp_path / "s.moe"
    assert is_captured(path, layout=LAYOUT, provenance=PROVENANCE) is False
    write(path, [sample()], provenance=dict(PROVENANCE) | {"sites": ("a", "b")})
    same = {"sites": ["a", "b"]} | dict(PROVENANCE)
    assert is_captured(path, layout=LAYOUT, provenance=same) is True


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "s.moe", [sample()])
    other = dict(PROVENANCE) | {"revision": "r2", "seed": 1}
    with pytest.raises(InputError, match=r"differs in n_experts, revision, seed; choose"):
        is_captured(path, layout=replace(LAYOUT, n_experts=9), provenance=other)


def test_something_else_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"holds something else"):
        is_captured(tmp_path, layout=LAYOUT, provenance=PROVENANCE)


def faulty_weights(*weights: float) -> np.ndarray:
    return np.broadcast_to(np.array(weights, dtype=np.float32), (5, 2, 2))


@pytest.mark.parametrize(
    ("replaced", "sentence"),
    [
        ({"token_id": np.arange(0)}, "the prompt has no token"),
        ({"token_id": np.array([0, -1, 2, 3, 4])}, "token_id holds -1 to 4, expected 0 or more"),
        ({"token_id": np.full(5, 2**31)}, "token_id holds int64 values that int32 would change"),
        ({"token_id": np.ones(5)}, "token_id has dtype float64"),
        ({"position": np.arange(4)}, r"position has shape \(4,\), expected \(5,\) \(tokens\)"),
        ({"position": np.array([0, 1, 1, 2, 3])}, "position must rise"),
        ({"segment": np.full(5, 9)}, "segment holds 9, expected 0 to 8"),
        ({"generated": np.ones(5, dtype=int)}, "generated has dtype int64"),
        ({"logprob": np.full(5, 2.5, np.float32)}, "logprob holds 2.5"),
        ({"text_end": np.array([1, 3, 2, 4, 5])}, "text_end must not fall"),
        ({"text_end": np.array([1, 2, 3, 4, 11])}, "within the 10 UTF-8 bytes"),
        ({"text": "\ud800"}, "text is not valid Unicode"),
        ({"expert_indices": np.zeros((5, 2, 3), int)}, r"expert_indices has shape \(5, 2, 3\)"),
        ({"expert_indices": np.full((5, 2, 2), 8)}, "expert_indices holds expert 8, but the layer"),
        ({"expert_indices": np.zeros((5, 2, 2), int)}, "names one expert twice"),
        ({"expert_weights": faulty_weights(0.4, 0.6)}, "expert_weights must descend"),
        ({"expert_weights": faulty_weights(0.6, 0.3)}, "expert_weights sum to 1 only within 0.1"),
        ({"expert_weights": faulty_weights(np.nan, 0.3)}, "expert_weights must be finite"),
        (
            {"expert_weights": faulty_weights(1.1, -0.1)},
            "expert_weights must be finite and not neg",
        ),
        ({"router_logits": np.zeros((5, 2, 8), np.float32)}, "router_logits is given, but"),
        ({"resid": {("resid_post", 3): np.zeros((5, 4), np.float32)}}, "resid has the sites"),
    ],
)
def test_faulty_activations_are_refused(
    tmp_path: Path, replaced: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        write(tmp_path / "s.moe", [forged(sample(), **replaced)])
    assert not (tmp_path / "s.moe").exists()


@pytest.mark.parametrize(
    ("norms", "sentence"),
    [
        (None, "expert_output_norms is absent, but the layout has expert_output_norms=True"),
        (np.ones((5, 2, 3), np.float32), r"expert_output_norms has shape \(5, 2, 3\), expected"),
        (np.full((5, 2, 2), -1e-6, np.float32), "expert_output_norms must be finite and not neg"),
        (np.full((5, 2, 2), np.inf, np.float32), "expert_output_norms must be finite and not neg"),
        (np.full((5, 2, 2), np.nan, np.float32), "expert_output_norms must be finite and not neg"),
        (np.full((5, 2, 2), 0.1), "expert_output_norms holds float64 values that float32 would"),
        (np.ones((5, 2, 2), int), "expert_output_norms has dtype int64"),
    ],
)
def test_faulty_norms_are_refused(tmp_path: Path, norms: np.ndarray | None, sentence: str) -> None:
    activations = forged(sample(NORMS_LAYOUT), expert_output_norms=norms)
    with pytest.raises(ValueError, match=sentence):
        write(tmp_path / "s.moe", [activations], NORMS_LAYOUT)


def test_norms_that_the_layout_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expert_output_norms is given, but the layout has"):
        write(tmp_path / "s.moe", [sample(NORMS_LAYOUT)], LAYOUT)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("condition", "other", "condition is 'other', expected one of benchmark, organic, mixed"),
        ("source", "a\0", "source is 'a\\\\x00', which holds a NUL"),
        ("domain", 3, "domain is a int, expected a str"),
        ("colour", "red", "exactly the fields .*; not so: colour"),
    ],
)
def test_faulty_fields_are_refused(tmp_path: Path, field: str, value: Any, sentence: str) -> None:
    fields = dict(sample().prompt) | {field: value}
    with pytest.raises(ValueError, match=sentence):
        write(tmp_path / "s.moe", [forged(sample(), prompt=fields)])


@pytest.mark.parametrize(
    ("replaced", "sentence"),
    [
        ({"resid_token_index": np.array([0, 5])}, "resid_token_index must rise within 0 to 4"),
        ({"resid_token_index": np.array([2, 1])}, "resid_token_index must rise within 0 to 4"),
        ({"resid_token_index": np.array([0])}, r"has shape \(5, 4\), expected \(1, 4\) \(rows"),
    ],
)
def test_faulty_residual_rows_are_refused(
    tmp_path: Path, replaced: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        write(tmp_path / "s.moe", [forged(sample(RESID_LAYOUT), **replaced)], RESID_LAYOUT)


def test_residuals_of_another_dtype_are_refused(tmp_path: Path) -> None:
    activations = sample(replace(RESID_LAYOUT, resid_dtype="bfloat16"))
    with pytest.raises(ValueError, match=r"has dtype uint16, expected float32"):
        write(tmp_path / "s.moe", [activations], RESID_LAYOUT)


def test_weights_that_would_be_rounded_are_refused(tmp_path: Path) -> None:
    layout = replace(LAYOUT, weights_dtype="float16")
    with pytest.raises(ValueError, match=r"float32 values that float16 would change"):
        write(tmp_path / "s.moe", [sample(LAYOUT)], layout)


def test_prompts_with_other_residual_layers_are_refused(tmp_path: Path) -> None:
    fewer = sample(RESID_LAYOUT)
    resid = {key: values for key, values in fewer.resid.items() if key != ("resid_mid", 12)}
    with pytest.raises(ValueError, match=r"not so: resid/resid_mid/layer_12"):
        write(tmp_path / "s.moe", [sample(RESID_LAYOUT), replace(fewer, resid=resid)], RESID_LAYOUT)


def test_vocabulary_must_match_the_layout(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"vocab has 0 entries, but layout.vocab_local is True"):
        StoreWriter(
            tmp_path / "s.moe", layout=replace(LAYOUT, vocab_local=True), provenance=PROVENANCE
        )


def test_provenance_that_is_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"provenance must be JSON values only"):
        StoreWriter(tmp_path / "s.moe", layout=LAYOUT, provenance={"loss": float("nan")})


def test_layers_that_are_not_stored_are_named(tmp_path: Path) -> None:
    store = open_store(write(tmp_path / "s.moe", [sample(RESID_LAYOUT)], RESID_LAYOUT))
    with pytest.raises(ValueError, match=r"holds no routing of layer 4, only of layers 3, 7"):
        store.router(layers=[4])
    with pytest.raises(ValueError, match=r"holds no resid_pre of layer 3; it holds resid_mid of"):
        store.resid("resid_pre", 3)


def test_missing_path_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.moe does not exist") as caught:
        open_store(tmp_path / "none.moe")
    assert caught.value.exit_code == 2


DIGEST = "content_sha256"


def damage_manifest(path: Path, **changes: Any) -> None:
    """Change fields of a manifest, and its digest with them, by the words of docs/format.md."""
    manifest = json.loads((path / "manifest.json").read_text()) | changes
    said = {name: each for name, each in manifest.items() if name not in ("created", DIGEST)}
    text = json.dumps(said, sort_keys=True, ensure_ascii=False)
    manifest[DIGEST] = changes.get(DIGEST, hashlib.sha256(text.encode()).hexdigest())
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": "zip"}, "has the format 'zip', expected 'moe-interp'"),
        (
            {"format_version": "2.0"},
            r"has format version 2\.0, and this version of moe-interp reads",
        ),
        ({"complete": False}, "was not finished"),
        ({"tier": "half"}, r"manifest\.json: tier is 'half', expected one of full, no_text"),
        ({"tier": ["full"]}, "tier is .* expected one of full"),
        ({DIGEST: "0" * 64}, "content_sha256 is not that of its content"),
        ({DIGEST: None}, "content_sha256 is not that of its content"),
        ({"self_check": float("nan")}, "content_sha256 is not that of its content"),
        ({"parts": []}, "lists no part"),
        ({"parts": [{"name": "../part-00000.h5"}]}, "does not list its parts"),
    ],
)
def test_faulty_manifest_is_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    path = write(tmp_path / "s.moe", [sample()])
    damage_manifest(path, **changes)
    with pytest.raises(StoreError, match=sentence):
        open_store(path)


@pytest.mark.parametrize("version", ["1.0", "1.7", "1.12"])
def test_a_later_minor_version_is_read(tmp_path: Path, version: str) -> None:
    path = write(tmp_path / "s.moe", [sample()])
    damage_manifest(path, format_version=version, added_later={"by": version})
    assert open_store(path).n_tokens == 5


@pytest.mark.parametrize(
    "version", ["1.x", "1.", "1", ".0", "1.0.0", "1.0\n", "01.0", 1, 1.0, None]
)
def test_what_is_no_version_is_refused(tmp_path: Path, version: Any) -> None:
    path = write(tmp_path / "s.moe", [sample()])
    damage_manifest(path, format_version=version)
    with pytest.raises(StoreError, match=r"has the format version .*, expected two numbers"):
        open_store(path)


def test_a_manifest_that_was_changed_by_hand_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s.moe", [sample()])
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace('"tier": "full"', '"tier": "no_text"'))
    with pytest.raises(
        StoreError, match=r"manifest\.json: content_sha256 is not that of its conte"
    ):
        open_store(path)


def test_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"is no store: it holds neither manifest\.json nor a part"
    ):
        open_store(tmp_path)


def test_store_without_manifest_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s.moe", [sample()])
    (path / "manifest.json").unlink()
    with pytest.raises(StoreError, match=r"holds no manifest\.json, so it is no finished store"):
        open_store(path)


def test_missing_part_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "s.moe", [sample()])
    (path / "part-00000.h5").unlink()
    with pytest.raises(StoreError, match=r"part-00000\.h5 is missing"):
        open_store(path)


def test_cut_part_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "s.moe", [sample()])
    part = path / "part-00000.h5"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"part-00000\.h5 has \d+ bytes, and the manifest says"):
        open_store(path)


def test_parts_of_different_stores_are_refused(tmp_path: Path) -> None:
    prompts = [sample(n_tokens=40), sample(seed=1, n_tokens=40)]
    path = write(tmp_path / "s.moe", prompts, part_mb=TINY_MB)
    other = write(tmp_path / "t.moe", prompts, part_mb=TINY_MB, provenance={"model": "other"})
    content = (other / "part-00001.h5").read_bytes()
    (path / "part-00001.h5").write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["parts"][1]["bytes"] = len(content)
    damage_manifest(path, parts=manifest["parts"])
    with pytest.raises(StoreError, match=r"part-00001\.h5 has another layout or provenance than"):
        open_store(path)


def test_one_flipped_bit_is_found_on_reading(tmp_path: Path) -> None:
    path = write(tmp_path / "s.moe", [sample()])
    part = path / "part-00000.h5"
    with h5py.File(part) as file:
        place = file["router/expert_weights"].id.get_chunk_info(0).byte_offset
    content = bytearray(part.read_bytes())
    content[place] ^= 1
    part.write_bytes(content)
    store = open_store(path)
    with pytest.raises(StoreError, match=r"part-00000\.h5 cannot be read"):
        store.router()


def test_store_holds_no_file_open(tmp_path: Path) -> None:
    store = open_store(write(tmp_path / "s.moe", [sample()]))
    store.router()
    with h5py.File(store.path / "part-00000.h5", "r+", locking=True) as file:
        assert file["tokens/token_id"].shape == (5,)


def test_cache_does_not_import_torch() -> None:
    root = str(Path(__file__).resolve().parents[1])
    names = "import interp.cache.fingerprinting, interp.cache.writer"
    code = f"import sys; sys.path.insert(0, {root!r}); {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
