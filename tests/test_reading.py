"""Reading a part of a store: as slicing everything, and without touching the rest."""

import hashlib
import inspect
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet
import pytest

from interp.cache import sources
from interp.cache.errors import InputError, StoreError
from interp.cache.reader import Store, open_store
from interp.cache.records import SEGMENTS, Layout, PromptActivations
from interp.cache.tiers import write_no_text
from interp.cache.verify import verify
from tests.store_samples import RESID_LAYOUT, sample, write

FULL = replace(
    RESID_LAYOUT,
    n_layers=3,
    layer_indices=(3, 7, 12),
    resid_dtype="bfloat16",
    router_logits=True,
    expert_output_norms=True,
)
LENGTHS = (200, 1, 120, 90, 256, 33, 140, 5)


def prompts_of(layout: Layout, *, n_rows: int | None) -> list[PromptActivations]:
    return [
        sample(layout, seed=seed, n_tokens=n_tokens, n_rows=n_rows)
        for seed, n_tokens in enumerate(LENGTHS)
    ]


@pytest.fixture(scope="module", params=[None, 20], ids=["all rows", "some rows"])
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, list[PromptActivations]]:
    """A store of several parts."""
    prompts = prompts_of(FULL, n_rows=request.param)
    path = write(tmp_path_factory.mktemp("store") / "s.moe", prompts, FULL, part_mb=0.07)
    assert len(list(path.glob("part-*.h5"))) >= 3
    return open_store(path), prompts


DIGEST = "content_sha256"
SELECTIONS: list[list[int]] = [
    [0],
    [7],
    [1, 2, 3],
    [0, 2, 4, 6],
    [3, 5, 7],
    [],
    list(range(8)),
]


def joined(prompts: Sequence[PromptActivations], name: str, like: np.ndarray) -> np.ndarray:
    """An array of these prompts by hand, of no rows where there is none."""
    arrays = [np.asarray(getattr(each, name), dtype=like.dtype) for each in prompts]
    return np.concatenate([like[:0], *arrays])


def float32(bits: np.ndarray) -> np.ndarray:
    """bfloat16 to float32, byte by byte."""
    raw = bits.astype("<u2").tobytes()
    wide = b"".join(b"\0\0" + raw[at : at + 2] for at in range(0, len(raw), 2))
    return np.frombuffer(wide, dtype="<f4").reshape(bits.shape)


@pytest.mark.parametrize("chosen", SELECTIONS)
@pytest.mark.parametrize("as_mask", [False, True])
def test_routing_of_some_prompts_is_theirs(
    written: tuple[Store, list[PromptActivations]], chosen: list[int], as_mask: bool
) -> None:
    store, prompts = written
    mask = np.isin(np.arange(8), chosen)
    found = store.router(layers=[12, 3], prompts=mask if as_mask else chosen)
    theirs = [prompts[number] for number in chosen]
    assert found.layer_indices == (12, 3)
    for name in ("expert_indices", "expert_weights", "router_logits", "expert_output_norms"):
        values = getattr(found, name)
        assert np.array_equal(values, joined(theirs, name, values[:, [0, 0, 0]])[:, [2, 0]]), name
    whole = store.router(prompts=chosen)
    assert np.array_equal(whole.expert_weights[:, [2, 0]], found.expert_weights)


@pytest.mark.parametrize("chosen", SELECTIONS)
def test_residuals_of_some_prompts_are_theirs_bit_for_bit(
    written: tuple[Store, list[PromptActivations]], chosen: list[int]
) -> None:
    store, prompts = written
    starts = [0, *np.cumsum(LENGTHS).tolist()]
    rows: list[int] = []
    bits = [np.zeros((0, 4), dtype=np.uint16)]
    for number in chosen:
        index = prompts[number].resid_token_index
        within = range(LENGTHS[number]) if index is None else index.tolist()
        rows += [starts[number] + token for token in within]
        bits.append(prompts[number].resid["resid_mid", 12])
    found = store.resid("resid_mid", 12, prompts=chosen)
    assert found.values.tobytes() == float32(np.concatenate(bits)).tobytes()
    assert found.token_index.tolist() == rows


def test_residual_layers_are_named_by_site(
    written: tuple[Store, list[PromptActivations]],
) -> None:
    assert written[0].resid_layers == {"resid_mid": (3, 12), "resid_post": (3, 12)}


REFUSED: dict[str, Any] = {
    r"mask of shape \(7,\), but the store has 8 prompts": [True] * 7,
    r"mask of shape \(2, 4\)": np.ones((2, 4), dtype=bool),
    "positions that rise; sort them first": [3, 1],
    "must be a mask, or positions that rise": [1, 1],
    "positions that rise": np.array([0.5, 1.5]),
    r"prompts holds positions 0 to 8, expected 0 to 7": [0, 8],
    r"prompts holds positions -1 to 2": [-1, 2],
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_prompts_that_cannot_be_chosen_are_refused(
    written: tuple[Store, list[PromptActivations]], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        written[0].router(prompts=REFUSED[sentence])
    with pytest.raises(ValueError, match=sentence):
        written[0].resid("resid_mid", 3, prompts=REFUSED[sentence])


NEITHER: dict[str, Any] = {
    "slice": slice(0, 3),
    "mask with a hole": [True] * 7 + [None],
    "text": "ab",
    "past 64 bits": [10**30],
    "ragged": [[0], [1, 2]],
    "positions and truth": [0, True],
    "no list": object(),
}


@pytest.mark.parametrize("kind", NEITHER)
def test_what_is_neither_a_mask_nor_positions_is_refused_in_a_sentence(
    written: tuple[Store, list[PromptActivations]], kind: str
) -> None:
    store = written[0]
    sentence = "^prompts is .*, which is neither a mask nor positions that rise; give one True or"
    with pytest.raises(ValueError, match=sentence):
        inspect.unwrap(Store.router)(store, prompts=NEITHER[kind])
    with pytest.raises(ValueError, match=sentence):
        inspect.unwrap(Store.resid)(store, "resid_mid", 3, prompts=NEITHER[kind])


def test_positions_past_all_prompts_are_named(
    written: tuple[Store, list[PromptActivations]],
) -> None:
    with pytest.raises(ValueError, match=f"prompts holds positions 0 to {2**63}, expected 0 to 7"):
        written[0].router(prompts=np.array([0, 2**63], dtype=np.uint64))


NO_LAYERS: dict[str, tuple[Any, str]] = {
    "mask": ([False, True, True], r"layers is a mask, expected layer numbers .* such as \[3, 7\]"),
    "mask of NumPy": (np.array([True, False, True]), "layers is a mask"),
    "truth among numbers": ([3, True], "layers is a mask"),
    "text": ("37", r"layers is '37', expected a list of layer numbers, such as \[3, 7\]"),
    "bytes": (b"\x03\x07", "expected a list of layer numbers"),
    "number": (3, "layers is 3, expected a list of layer numbers"),
    "array of one number": (np.array(3), "expected a list of layer numbers"),
    "table": (np.array([[3], [7]]), "expected a list of layer numbers"),
    "fraction": ([3.9], r"one of layers is 3\.9, expected a whole number"),
    "float": ([3.0], r"one of layers is 3\.0, expected a whole number"),
    "names": (["3"], "one of layers is '3', expected a whole number"),
    "not there": ([3, 4], r"holds no routing of layer 4, only of layers 3, 7, 12"),
}


@pytest.mark.parametrize("kind", NO_LAYERS)
def test_layers_that_are_no_layer_numbers_are_refused(
    written: tuple[Store, list[PromptActivations]], kind: str
) -> None:
    """Past the type checks of the tests, as a user calls it."""
    layers, sentence = NO_LAYERS[kind]
    with pytest.raises(ValueError, match=sentence):
        inspect.unwrap(Store.router)(written[0], layers)
    with pytest.raises(ValueError, match=sentence):
        next(inspect.unwrap(Store.iter_tokens)(written[0], layers=layers))


def test_layers_may_be_an_array(written: tuple[Store, list[PromptActivations]]) -> None:
    store, prompts = written
    found = store.router(np.array([12, 3], dtype=np.uint8))
    assert found.layer_indices == (12, 3)
    expected = np.concatenate([each.expert_indices[:, [2, 0]] for each in prompts])
    assert np.array_equal(found.expert_indices, expected)


@pytest.mark.parametrize("layer", [3.0, True, "3", None, np.array([3, 12])])
def test_a_residual_layer_that_is_no_number_is_refused(
    written: tuple[Store, list[PromptActivations]], layer: Any
) -> None:
    with pytest.raises(ValueError, match=r"layer is .*, expected a whole number"):
        inspect.unwrap(Store.resid)(written[0], "resid_mid", layer)


def flip(path: Path, dataset: str, chunk: int, *, at: int = 0) -> None:
    """One bit of the raw bytes of a chunk."""
    with h5py.File(path) as part:
        info = part[dataset].id.get_chunk_info(chunk)
    content = bytearray(path.read_bytes())
    content[info.byte_offset + at % info.size] ^= 2
    stat = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_only_the_chunks_of_the_wanted_layers_are_read(tmp_path: Path) -> None:
    prompts = prompts_of(FULL, n_rows=None)
    path = write(tmp_path / "s.moe", prompts, FULL)
    flip(path / "part-00000.h5", "router/expert_weights", 1)
    store = open_store(path)
    found = store.router(layers=[12, 3]).expert_weights
    assert np.array_equal(found, joined(prompts, "expert_weights", found[:, [0, 0, 0]])[:, [2, 0]])
    with pytest.raises(StoreError, match=r"part-00000\.h5 cannot be read"):
        store.router(layers=[7])


def test_only_the_chunks_of_the_wanted_prompts_are_read(tmp_path: Path) -> None:
    """Chunks of residuals have 256 rows; prompt 4 lies in rows 411 to 666."""
    prompts = prompts_of(FULL, n_rows=None)
    path = write(tmp_path / "s.moe", prompts, FULL)
    flip(path / "part-00000.h5", "resid/resid_post/layer_03", 0)
    store = open_store(path)
    found = store.resid("resid_post", 3, prompts=[4, 6])
    bits = np.concatenate([prompts[at].resid["resid_post", 3] for at in (4, 6)])
    assert found.values.tobytes() == float32(bits).tobytes()
    for prompts_read in ([0], None):
        with pytest.raises(StoreError, match=r"part-00000\.h5 cannot be read"):
            store.resid("resid_post", 3, prompts=prompts_read)


def test_parts_without_a_wanted_prompt_are_not_read(tmp_path: Path) -> None:
    prompts = prompts_of(FULL, n_rows=None)
    path = write(tmp_path / "s.moe", prompts, FULL, part_mb=0.1)
    flip(path / "part-00000.h5", "router/expert_indices", 0)
    store = open_store(path)
    assert store.router(prompts=[7]).expert_indices.tolist() == prompts[7].expert_indices.tolist()
    with pytest.raises(StoreError, match=r"part-00000\.h5 cannot be read"):
        store.router(prompts=[0, 7])


@pytest.mark.parametrize("batch", [1_000_000, 97, 13])
def test_batches_end_to_end_are_the_whole(
    written: tuple[Store, list[PromptActivations]], batch: int
) -> None:
    store, prompts = written
    batches = list(store.iter_tokens(batch=batch, layers=[7]))
    sizes = [len(each.token_id) for each in batches]
    assert max(sizes) <= batch
    assert [each.start for each in batches] == np.cumsum([0, *sizes])[:-1].tolist()
    owners = [number for number, n_tokens in enumerate(LENGTHS) for _ in range(n_tokens)]
    assert np.concatenate([each.prompt_index for each in batches]).tolist() == owners
    for name in ("token_id", "position", "segment", "generated", "logprob"):
        found = np.concatenate([getattr(each, name) for each in batches])
        assert found.tolist() == joined(prompts, name, found).tolist(), name
    for name in ("expert_indices", "expert_weights", "router_logits", "expert_output_norms"):
        found = np.concatenate([getattr(each.routing, name) for each in batches])
        expected = np.concatenate([getattr(each, name)[:, 1:2] for each in prompts])
        assert np.array_equal(found, expected), name


def test_a_batch_of_no_token_is_refused(written: tuple[Store, list[PromptActivations]]) -> None:
    with pytest.raises(ValueError, match="batch is 0, expected 1 or more"):
        next(written[0].iter_tokens(batch=0))


def test_texts_of_every_prompt_and_token_are_found(tmp_path: Path) -> None:
    texts = ["a→b", "", "x" * 9, "日本語"]
    ends = [[1, 4, 5], [0, 0], [4, 9], [3, 4, 9]]
    prompts = [
        sample(seed=n, n_tokens=len(end), text=text, text_end=np.array(end))
        for n, (text, end) in enumerate(zip(texts, ends, strict=True))
    ]
    store = open_store(write(tmp_path / "s.moe", prompts, part_mb=0.001))
    assert len(store.manifest["parts"]) == 4
    assert [store.text(number) for number in range(4)] == texts
    for number, (text, end) in enumerate(zip(texts, ends, strict=True)):
        raw = text.encode()
        expected = [raw[a:b].decode(errors="replace") for a, b in pairwise([0, *end])]
        assert store.token_texts(number) == expected
    for number in (-1, 4):
        with pytest.raises(ValueError, match=f"prompt is {number}, expected 0 to 3"):
            store.text(number)


def test_a_part_by_itself_is_a_store(written: tuple[Store, list[PromptActivations]]) -> None:
    store, prompts = written
    lengths = [entry["n_prompts"] for entry in store.manifest["parts"]]
    theirs = prompts[lengths[0] : lengths[0] + lengths[1]]
    alone = open_store(store.path / "part-00001.h5")
    assert alone.prompts["n_tokens"].tolist() == [len(each.token_id) for each in theirs]
    found = alone.router().expert_indices
    assert np.array_equal(found, joined(theirs, "expert_indices", found))
    assert alone.provenance == store.provenance
    assert alone.text(0) == theirs[0].text
    values = alone.resid("resid_post", 12).values
    bits = np.concatenate([each.resid["resid_post", 12] for each in theirs])
    assert values.tobytes() == float32(bits).tobytes()


def test_html_says_nothing_that_a_name_could_run(tmp_path: Path) -> None:
    hostile = "<script>alert('1')</script>&\"<img src=x onerror=y>"
    fields = dict(sample().prompt) | {"source": hostile}
    path = tmp_path / "<b>&s.moe"
    store = open_store(write(path, [sample(prompt=fields)], provenance={"model": hostile}))
    shown = store._repr_html_()
    for forbidden in ("<script", "<img", "<b>", "&s.moe"):
        assert forbidden not in shown
    assert shown.count("&lt;script&gt;") == 2
    assert "1 prompts, 5 tokens" in shown


def test_xarray_has_the_values_with_their_names(
    written: tuple[Store, list[PromptActivations]],
) -> None:
    store, prompts = written
    found = store.to_xarray()
    assert dict(found.sizes) == {"tokens": 845, "layers": 3, "top_k": 2, "experts": 8}
    owners = [each.prompt["prompt_id"] for each in prompts for _ in each.token_id]
    assert found.coords["prompt_id"].values.tolist() == owners
    assert found.coords["layers"].values.tolist() == [3, 7, 12]
    assert found.attrs == {"model": "toy", "segments": list(SEGMENTS)}
    theirs = found.isel(tokens=found.coords["prompt_id"] == "prompt_id 2").sel(layers=12)
    for name in ("expert_indices", "expert_weights", "router_logits", "expert_output_norms"):
        assert np.array_equal(theirs[name].values, getattr(prompts[2], name)[:, 2]), name
    for name in ("token_id", "position", "segment", "generated", "logprob"):
        assert np.array_equal(theirs[name].values, getattr(prompts[2], name)), name


def test_parquet_read_back_is_what_was_added(
    written: tuple[Store, list[PromptActivations]], tmp_path: Path
) -> None:
    store, prompts = written
    store.to_parquet(tmp_path / "out")
    rows = pyarrow.parquet.read_table(tmp_path / "out/routing.parquet").to_pylist()
    expected = [
        {
            "prompt": number,
            "token_id": int(each.token_id[token]),
            "position": int(each.position[token]),
            "segment": SEGMENTS[int(each.segment[token])],
            "generated": bool(each.generated[token]),
            "logprob": float(each.logprob[token]),
            "layer": layer,
            "expert_indices": each.expert_indices[token, place].tolist(),
            "expert_weights": each.expert_weights[token, place].tolist(),
            "router_logits": each.router_logits[token, place].tolist(),  # type: ignore[index]
            "expert_output_norms": each.expert_output_norms[token, place].tolist(),  # type: ignore[index]
        }
        for number, each in enumerate(prompts)
        for token in range(LENGTHS[number])
        for place, layer in enumerate((3, 7, 12))
    ]
    assert [row.pop("token") for row in rows] == [token for token in range(845) for _ in range(3)]
    assert rows == expected
    table = pyarrow.parquet.read_table(tmp_path / "out/prompts.parquet").to_pandas()
    assert table["prompt_id"].tolist() == [each.prompt["prompt_id"] for each in prompts]
    assert table["n_tokens"].tolist() == list(LENGTHS)
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == [
        "prompts.parquet",
        "routing.parquet",
    ]
    with pytest.raises(InputError, match=r"prompts\.parquet exists already"):
        store.to_parquet(tmp_path / "out")


def test_an_export_that_broke_leaves_nothing_and_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "s.moe", [sample(seed=0), sample(seed=1)])
    content = (path / "part-00000.h5").read_bytes()
    flip(path / "part-00000.h5", "router/expert_weights", 0)
    monkeypatch.setattr("interp.cache.exports.EXPORT_TOKENS", 3)
    with pytest.raises(StoreError, match=r"part-00000\.h5 cannot be read"):
        open_store(path).to_parquet(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    (path / "part-00000.h5").write_bytes(content)
    open_store(path).to_parquet(tmp_path / "out")
    rows = pyarrow.parquet.read_table(tmp_path / "out/routing.parquet").to_pylist()
    assert [(row["token"], row["layer"]) for row in rows] == [
        (token, layer) for token in range(10) for layer in (3, 7)
    ]


def test_prompts_with_the_same_id_are_told_apart_in_xarray(tmp_path: Path) -> None:
    fields = sample().prompt
    prompts = [sample(seed=seed, n_tokens=seed + 2, prompt=fields) for seed in range(3)]
    found = open_store(write(tmp_path / "s.moe", prompts)).to_xarray()
    assert found.coords["prompt_index"].values.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    theirs = found.isel(tokens=found.coords["prompt_index"] == 1)
    assert theirs["token_id"].values.tolist() == prompts[1].token_id.tolist()


def test_a_part_that_was_replaced_under_the_reader_is_an_error(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / name, [sample(RESID_LAYOUT, seed=seed)], RESID_LAYOUT)
        for seed, name in enumerate(("a.moe", "b.moe"))
    ]
    store = open_store(paths[0])
    shutil.copy(paths[1] / "part-00000.h5", tmp_path / "new.h5")
    (tmp_path / "new.h5").replace(paths[0] / "part-00000.h5")
    reads = (store.router, lambda: store.resid("resid_mid", 3), lambda: store.text(0))
    for read in reads:
        with pytest.raises(StoreError, match=r"part-00000\.h5 was replaced while it was read"):
            read()
    (paths[0] / "part-00000.h5").unlink()
    with pytest.raises(StoreError, match=r"part-00000\.h5 cannot be read"):
        store.router()


def test_a_manifest_of_another_capture_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.moe", [sample()])
    other = write(tmp_path / "b.moe", [sample()], provenance={"model": "other"})
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    foreign = json.loads((other / "manifest.json").read_text(encoding="utf-8"))
    foreign["parts"] = manifest["parts"]
    sign(foreign)
    (path / "manifest.json").write_text(json.dumps(foreign), encoding="utf-8")
    with pytest.raises(StoreError, match=r"manifest\.json is of another capture than part-00000"):
        open_store(path)


def test_a_writers_own_growable_parts_pass_the_audit(tmp_path: Path) -> None:
    prompts = [sample(FULL, seed=seed, n_tokens=600) for seed in range(3)]
    store = open_store(write(tmp_path / "s.moe", prompts, FULL, part_mb=0.2))
    assert len(store.manifest["parts"]) == 3
    with h5py.File(store.path / "part-00000.h5") as part:
        resid = part["resid/resid_mid/layer_03"]
        assert (resid.maxshape, resid.id.get_num_chunks()) == ((None, 4), 3)
    audited = open_store(store.path, trusted=False)
    bits = np.concatenate([each.resid["resid_mid", 3] for each in prompts])
    assert audited.resid("resid_mid", 3).values.tobytes() == float32(bits).tobytes()
    logits = audited.router(layers=[7]).router_logits
    assert logits is not None
    assert np.array_equal(logits, joined(prompts, "router_logits", logits[:, [0, 0, 0]])[:, [1]])


def test_a_folder_that_was_pulled_is_audited_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "s.moe", [sample()])
    seen: list[Path] = []
    monkeypatch.setattr(sources, "audited_all", seen.extend)
    open_store(path)
    assert seen == []
    (path / ".pulled").write_text("{}")
    open_store(path)
    open_store(path / "part-00000.h5")
    assert seen == [path / "part-00000.h5"] * 2
    open_store(path, trusted=True)
    assert len(seen) == 2


@pytest.mark.parametrize("n_rows", [1, 256, 257, 700])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_reads_by_the_index_are_those_of_h5py(tmp_path: Path, dtype: str, n_rows: int) -> None:
    layout = replace(RESID_LAYOUT, d_model=3, resid_dtype=dtype)
    path = write(tmp_path / "s.moe", [sample(layout, n_tokens=n_rows)], layout)
    source = open_store(path)._parts[0].source
    name = "resid/resid_post/layer_12"
    with h5py.File(path / "part-00000.h5") as part:
        dataset = part[name]
        raw = np.empty(dataset.shape, dtype=f"<u{dataset.id.get_type().get_size()}")
        dataset.id.read(
            h5py.h5s.ALL, h5py.h5s.ALL, raw.view(f"<i{raw.itemsize}"), dataset.id.get_type()
        )
        names = set(part["resid/resid_post"])
    assert names == {"layer_03", "layer_12"}
    assert source._direct.keys() >= {name}  # type: ignore[attr-defined]
    assert source.read(name).tobytes() == raw.tobytes()
    assert source.read(name, rows=[slice(0, n_rows)]).tobytes() == raw.tobytes()


@pytest.mark.parametrize("chunk", [0, 1, 2])
@pytest.mark.parametrize("at", [0, 100, -1], ids=["first byte", "within", "checksum"])
def test_a_flipped_bit_is_refused_where_the_index_is_read(
    tmp_path: Path, chunk: int, at: int
) -> None:
    path = write(tmp_path / "s.moe", [sample(RESID_LAYOUT, n_tokens=700)], RESID_LAYOUT)
    flip(path / "part-00000.h5", "resid/resid_post/layer_03", chunk, at=at)
    store = open_store(path)
    with pytest.raises(StoreError, match=rf"cannot be read: chunk {chunk} of a dataset"):
        store.resid("resid_post", 3)
    assert store.resid("resid_mid", 3).values.shape == (700, 4)


def test_an_index_that_is_not_the_manifests_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s.moe", [sample(RESID_LAYOUT)], RESID_LAYOUT)
    index = path / "part-00000.index.json"
    content = index.read_bytes()
    index.write_bytes(content + b" ")
    with pytest.raises(StoreError, match=r"index\.json is not what the manifest says"):
        open_store(path).resid("resid_post", 3)
    index.unlink()
    with pytest.raises(StoreError, match=r"index\.json cannot be read \(No such file"):
        open_store(path).resid("resid_post", 3)


def test_a_layer_without_rows_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "s.moe", [sample(RESID_LAYOUT, n_rows=0)], RESID_LAYOUT)
    for trusted in (True, False):
        found = open_store(path, trusted=trusted).resid("resid_post", 3)
        assert found.values.shape == (0, 4)
        assert found.token_index.shape == (0,)


def test_what_a_later_minor_version_adds_to_residuals_is_passed_over(tmp_path: Path) -> None:
    prompts = [sample(RESID_LAYOUT, seed=seed) for seed in range(2)]
    path = write(tmp_path / "s.moe", prompts, RESID_LAYOUT)
    part = path / "part-00000.h5"
    with h5py.File(part, "r+", libver=("v110", "v110")) as file:
        file.attrs.modify("format_version", np.bytes_(b"1.1"))
        added = {"scale": (7,), "final_norm/layer_03": (10, 4), "resid_mid/norm": (10,)}
        for name, shape in added.items():
            values = np.zeros(shape, dtype="<f4")
            file["resid"].create_dataset(name, data=values, chunks=shape, fletcher32=True)
    content = part.read_bytes()
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    manifest["parts"][0] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    for name in ("index_bytes", "index_sha256"):
        manifest["parts"][0].pop(name)
    manifest["layout"]["resid_sites"].append("final_norm")
    manifest["format_version"] = "1.1"
    sign(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    store = open_store(path)
    assert store.layout.resid_sites == ("resid_mid", "resid_post")
    assert store.resid_layers == {"resid_mid": (3, 12), "resid_post": (3, 12)}
    bits = np.concatenate([each.resid["resid_mid", 3] for each in prompts])
    assert store.resid("resid_mid", 3).values.tobytes() == bits.tobytes()
    assert verify(path).n_prompts == 2


def sign(manifest: dict[str, Any]) -> None:
    """Put the digest of docs/format.md into a manifest."""
    said = {name: each for name, each in manifest.items() if name not in ("created", DIGEST)}
    text = json.dumps(said, sort_keys=True, ensure_ascii=False)
    manifest[DIGEST] = hashlib.sha256(text.encode()).hexdigest()


def test_a_part_by_itself_knows_the_tier_of_the_manifest_beside_it(tmp_path: Path) -> None:
    path = write(tmp_path / "s.moe", [sample(seed=seed) for seed in range(5)])
    shared = write_no_text(open_store(path), tmp_path / "n.moe")
    part = shared / "part-00000.h5"
    assert open_store(path / "part-00000.h5").manifest["tier"] == "full"
    assert open_store(part).manifest["tier"] == "no_text"
    (tmp_path / "alone").mkdir()
    shutil.copy(part, tmp_path / "alone")
    assert "tier" not in open_store(tmp_path / "alone" / "part-00000.h5").manifest
    shutil.copy(path / "manifest.json", shared)
    assert "tier" not in open_store(part).manifest


@pytest.mark.parametrize("content", [b"", b"PK", b"id,text\n1,hello\n"])
@pytest.mark.parametrize("trusted", [None, False])
def test_a_file_that_is_no_hdf5_is_no_part(
    tmp_path: Path, content: bytes, trusted: bool | None
) -> None:
    path = tmp_path / "prompts.csv"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"prompts\.csv is no part of a store: it is no HDF5 file"):
        open_store(path, trusted=trusted)
