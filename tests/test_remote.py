"""Stores that lie elsewhere are read right, in part, and never wrong, whatever the server does."""

import builtins
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest
from huggingface_hub import constants

from interp.cache import fetching
from interp.cache.chunk_codec import decode_chunk
from interp.cache.errors import InputError, StoreError
from interp.cache.fetching import Patience
from interp.cache.reader import open_store
from interp.cache.records import Layout
from interp.cache.remote import RemoteStore, open_remote
from tests.faulty_server import HUGE, Fault, FaultyServer, faulty_server
from tests.remote_samples import (
    N_LAYERS,
    N_TOKENS,
    TOP_K,
    assembled,
    index_document,
    part_bytes,
    sample_arrays,
    store_files,
)
from tests.store_samples import RESID_LAYOUT, sample, write

pytestmark = pytest.mark.slow

HASTE = Patience(
    attempts=3, first_wait_s=0.01, longest_wait_s=0.05, silence_s=0.4, least_bytes_per_s=1e6
)
INDICES = "router/expert_indices"
ARRAYS = sample_arrays()
PART = part_bytes(ARRAYS)
OTHER = part_bytes(sample_arrays(1))
FILES = store_files([PART, OTHER])
INDEX = json.dumps(index_document(PART, "part-00000.h5"))


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty_server(FILES) as running:
        yield running


def opened(server: FaultyServer, **options: Any) -> RemoteStore:
    return open_remote(f"{server.url}/store.moe", patience=HASTE, **options)


def by_h5py(content: bytes, path: str) -> np.ndarray:
    """What HDF5 itself reads; bits of bfloat16 are taken as they are."""
    with h5py.File(io.BytesIO(content), "r") as part:
        if not path.endswith("bf16"):
            return np.asarray(part[path][()])
        dataset = part[path].id
        bits = np.empty(dataset.shape, dtype="<u2")
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, bits, mtype=dataset.get_type())
        return bits


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == np.ascontiguousarray(expected).tobytes()


@pytest.mark.parametrize("path", sorted(ARRAYS))
def test_every_dtype_is_read_as_hdf5_reads_it(server: FaultyServer, path: str) -> None:
    for part, content in zip(opened(server).parts, (PART, OTHER), strict=True):
        found = part.read(path)
        assert_same(found, by_h5py(content, path))
        assert part.shapes()[path] == found.shape
    assert_same(opened(server).parts[0].read(path), ARRAYS[path])


@pytest.mark.parametrize(
    "path", [INDICES, "router/odd", "resid/resid_mid/bf16", "tokens/generated"]
)
def test_rows_and_columns_are_those_of_numpy(server: FaultyServer, path: str) -> None:
    whole, part = by_h5py(PART, path), opened(server).parts[0]
    rng = np.random.default_rng(5)
    for _ in range(12):
        cuts = np.unique(rng.integers(0, N_TOKENS + 1, 2 * rng.integers(1, 9)))
        rows = [slice(int(a), int(b)) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
        kept = np.concatenate([np.arange(N_TOKENS)[each] for each in rows]).astype(int)
        columns = None
        expected = whole[kept]
        if whole.ndim > 1:
            columns = rng.integers(0, whole.shape[1], rng.integers(0, 6)).tolist()
            expected = expected[:, columns]
        assert_same(part.read(path, rows=rows, columns=columns), expected)


def test_no_rows_and_no_columns_move_nothing(server: FaultyServer) -> None:
    part = opened(server).parts[0]
    server.forget()
    assert part.read(INDICES, rows=[]).shape == (0, N_LAYERS, TOP_K)
    assert part.read(INDICES, rows=[slice(5, 5)]).shape == (0, N_LAYERS, TOP_K)
    assert part.read(INDICES, columns=[]).shape == (N_TOKENS, 0, TOP_K)
    assert server.requests == []


@pytest.mark.parametrize(
    ("path", "asked", "told"),
    [
        (INDICES, {"rows": [slice(0, N_TOKENS + 1)]}, "within 300"),
        (INDICES, {"rows": [slice(-5, 3)]}, "within 300"),
        (INDICES, {"rows": [slice(0, 10, 2)]}, "within 300"),
        (INDICES, {"rows": [slice(0, 5), slice(4, 8)]}, "rising, disjoint"),
        (INDICES, {"columns": [24]}, "positions from 0 to 23"),
        (INDICES, {"columns": [-1]}, "positions from 0 to 23"),
        ("tokens/token_id", {"columns": [0]}, "one axis"),
    ],
)
def test_rows_and_columns_outside_are_refused(
    server: FaultyServer, path: str, asked: Any, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        opened(server).parts[0].read(path, **asked)


def test_a_dataset_that_is_not_there_is_named(server: FaultyServer) -> None:
    with pytest.raises(StoreError, match=r"part-00000\.h5 holds no router/router_logits"):
        opened(server).parts[0].read("router/router_logits")


# What is moved


def test_three_layers_move_little_more_than_their_chunks(server: FaultyServer) -> None:
    part = opened(server).parts[0]
    table = json.loads(INDEX)["datasets"][INDICES]
    layers = [3, 4, 17]
    lengths = np.array(table["length"]).reshape(-1, N_LAYERS)
    wanted = int(lengths[:, layers].sum())
    server.forget()
    found = part.read(INDICES, columns=layers)
    assert_same(found, by_h5py(PART, INDICES)[:, layers])
    assert wanted <= server.body_bytes <= 1.5 * wanted
    assert server.body_bytes < len(PART) / 20


def test_chunks_that_adjoin_are_one_request(server: FaultyServer) -> None:
    part = opened(server).parts[0]
    server.forget()
    part.read("resid/resid_mid/bf16")
    assert len(server.requests) == 1
    assert server.body_bytes <= 1.25 * ARRAYS["resid/resid_mid/bf16"].nbytes + 100


def test_opening_moves_the_manifest_and_the_indexes_only(server: FaultyServer) -> None:
    opened(server)
    small = [name for name in server.files if not name.endswith(".h5")]
    assert server.body_bytes == sum(len(server.files[name]) for name in small)
    assert sorted(request.path for request in server.requests) == sorted(small)


def test_a_few_requests_are_under_way_at_once(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp.cache.chunk_selection.GAP_BYTES", -1)
    part = opened(server).parts[0]
    server.forget()
    server.delay_s = 0.03
    assert_same(part.read(INDICES), by_h5py(PART, INDICES))
    assert 1 < server.most_under_way <= fetching.CONCURRENT
    assert len(server.requests) == 5 * N_LAYERS


def test_a_range_is_no_longer_than_its_limit(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp.cache.chunk_selection.RANGE_BYTES", 3000)
    part = opened(server).parts[0]
    server.forget()
    assert_same(part.read(INDICES), by_h5py(PART, INDICES))
    for request in server.requests:
        start, stop = request.headers["Range"].removeprefix("bytes=").split("-")
        assert int(stop) - int(start) < 3000


# Faults


@pytest.mark.parametrize(
    "kind",
    [
        "short",
        "long",
        "other_range",
        "no_content_range",
        "broken_off",
        "dropped",
        "wrong_bytes",
        "shifted_bytes",
        500,
        502,
        503,
        504,
        429,
        408,
        "silent",
        "dripping",
    ],
)
def test_what_goes_wrong_once_is_asked_again(server: FaultyServer, kind: str | int) -> None:
    part = opened(server).parts[0]
    server.faults = [Fault(kind=kind, times=1)]
    if kind == "long":
        with pytest.raises(StoreError, match="gave more than"):
            part.read(INDICES, columns=[3])
    else:
        assert_same(part.read(INDICES, columns=[3]), by_h5py(PART, INDICES)[:, [3]])


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("whole_for_range", "answered with the whole file in place of a range"),
        ("wrong_bytes", "does not hold what its index says at byte"),
        ("shifted_bytes", "does not hold what its index says at byte"),
        ("other_range", "in 3 tries .*the server gave 'bytes"),
        ("no_content_range", "in 3 tries .*the server gave ''"),
        ("other_size", "bytes and the manifest says .* it was replaced"),
        ("short", "in 3 tries .*bytes came, expected"),
        ("long", "gave more than"),
        ("broken_off", "in 3 tries .*broke off"),
        ("dropped", "in 3 tries .*no answer"),
        ("silent", "in 3 tries .*ReadTimeoutError"),
        ("dripping", "in 3 tries .*too slow"),
        ("gzip", "came encoded as 'gzip'"),
        ("redirect_loop", "redirects more than 5 times"),
        ("redirect_to_file", "redirects to 'file:.*not followed"),
        (500, "in 3 tries .*answers 500"),
        (401, "answered with 401"),
        (403, "answered with 403"),
        (404, "is not there"),
        (416, "shorter than the manifest says"),
        (204, "answered with 204"),
    ],
)
def test_what_stays_wrong_is_an_error_with_the_part(
    server: FaultyServer, kind: str | int, told: str
) -> None:
    part = opened(server).parts[1]
    server.faults = [Fault(kind=kind)]
    server.forget()
    with pytest.raises(StoreError, match=rf"part-00001\.h5.*{told}|{told}"):
        part.read(INDICES)
    assert server.bytes_sent < 2**25 < HUGE


@pytest.mark.parametrize("kind", ["chunked", "etag_changes", "redirect", "redirect_elsewhere"])
def test_what_is_only_unusual_is_read_right(server: FaultyServer, kind: str) -> None:
    part = opened(server).parts[0]
    server.faults = [Fault(kind=kind, times=4)]
    assert_same(part.read(INDICES, columns=[9]), by_h5py(PART, INDICES)[:, [9]])


def test_faults_at_random_give_the_right_values_or_an_error(server: FaultyServer) -> None:
    part, expected = opened(server).parts[0], by_h5py(PART, INDICES)
    rng = np.random.default_rng(11)
    kinds = ["short", "other_range", "broken_off", "dropped", "wrong_bytes", "shifted_bytes", 503]
    right = 0
    for _ in range(25):
        server.faults = [Fault(kind=kind, times=1) for kind in rng.choice(kinds, 3).tolist()]
        server.faults = [
            Fault(kind=int(each.kind) if str(each.kind).isdigit() else each.kind, times=1)
            for each in server.faults
        ]
        layers = rng.integers(0, N_LAYERS, 2).tolist()
        try:
            found = part.read(INDICES, columns=layers)
        except StoreError:
            continue
        assert_same(found, expected[:, layers])
        right += 1
    assert right > 12


def test_a_cache_on_the_way_that_is_stale_is_passed_by(server: FaultyServer) -> None:
    part = opened(server).parts[0]
    server.faults = [Fault(kind="wrong_bytes", past_caches=False)]
    assert_same(part.read(INDICES, columns=[0]), by_h5py(PART, INDICES)[:, [0]])


def test_a_part_that_is_replaced_under_the_reader_is_never_mixed(server: FaultyServer) -> None:
    part = opened(server).parts[0]
    assert_same(part.read(INDICES, columns=[0]), by_h5py(PART, INDICES)[:, [0]])
    changed = dict(ARRAYS, **{INDICES: (ARRAYS[INDICES] + 1) % 32})
    same_size = bytearray(PART)
    table = json.loads(INDEX)["datasets"][INDICES]
    at = table["offset"][1]
    same_size[at : at + 8] = bytes(8)
    for replaced in (part_bytes(changed), OTHER + b"\0", bytes(same_size)):
        server.files["/store.moe/part-00000.h5"] = replaced
        with pytest.raises(StoreError, match="replaced"):
            part.read(INDICES)


def test_a_part_that_is_replaced_between_two_ranges_is_never_mixed(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp.cache.chunk_selection.RANGE_BYTES", 1000)
    monkeypatch.setattr("interp.cache.indexed_part.CONCURRENT", 1)
    store = opened(server)
    fetcher = store.parts[0].fetcher
    spans = type(fetcher).span

    def replacing(self: Any, name: str, start: int, stop: int, **rest: Any) -> bytes:
        given: bytes = spans(self, name, start, stop, **rest)
        server.files["/store.moe/part-00000.h5"] = OTHER[: len(PART)].ljust(len(PART), b"\0")
        return given

    monkeypatch.setattr(type(fetcher), "span", replacing)
    with pytest.raises(StoreError, match="replaced"):
        store.parts[0].read(INDICES)


def test_a_store_that_is_published_anew_while_it_is_opened_is_refused(
    server: FaultyServer,
) -> None:
    old = server.files["/store.moe/part-00001.index.json"]
    server.files.update(store_files([OTHER, PART]))
    server.files["/store.moe/part-00001.index.json"] = old
    with pytest.raises(
        StoreError, match=r"part-00001\.index\.json is not the file that the manife"
    ):
        opened(server)


@pytest.mark.parametrize("kind", [503, "wrong_bytes", "gzip", 404, "redirect_loop"])
@pytest.mark.parametrize("on", ["manifest.json", "part-00001.index.json"])
def test_faults_while_opening_are_errors(server: FaultyServer, kind: str | int, on: str) -> None:
    server.faults = [Fault(kind=kind, on=on)]
    with pytest.raises((StoreError, InputError), match=r"store\.moe"):
        opened(server)


def test_an_endless_manifest_is_not_read_to_its_end(server: FaultyServer) -> None:
    server.files["/store.moe/manifest.json"] = b" " * 2**25
    with pytest.raises(StoreError, match="gave more than 16777216 bytes"):
        opened(server)


# Addresses


def test_headers_go_to_their_server_and_to_no_other(server: FaultyServer) -> None:
    server.faults = [Fault(kind="redirect_elsewhere", times=1)]
    secret = {"headers": {"Authorization": "Bearer secret", "X-Key": "secret"}}
    store = opened(server, storage_options=secret)
    store.parts[0].read("tokens/token_id", rows=[slice(0, 1)])
    *before, last = server.requests
    assert all(request.headers["X-Key"] == "secret" for request in before)
    assert "secret" not in str(last.headers)
    assert last.path == "/store.moe/part-00000.h5"


def test_a_query_goes_with_every_file_and_is_never_shown(server: FaultyServer) -> None:
    store = open_remote(f"{server.url}/store.moe?sig=secret", patience=HASTE)
    assert all(request.path.endswith("?sig=secret") for request in server.requests)
    assert store.url == f"{server.url}/store.moe"
    server.faults = [Fault(kind=500)]
    with pytest.raises(StoreError, match=r"part-00000\.h5 could not be read") as told:
        store.parts[0].read(INDICES)
    assert "secret" not in str(told.value)


def test_answers_are_asked_for_without_encoding(server: FaultyServer) -> None:
    opened(server).parts[0].read(INDICES)
    assert {request.headers["Accept-Encoding"] for request in server.requests} == {"identity"}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://host/store.moe", "is no address of a store"),
        ("filecache::https://host/store.moe", "is no address of a store"),
        ("https://", "is no address of a store"),
        ("https://user:secret@host/store.moe", "https://host/store.moe cannot be used"),
        ("http://127.0.0.1:9/store.moe", "could not be read in 3 tries"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(url: str, told: str) -> None:
    with pytest.raises((InputError, StoreError), match=told) as error:
        open_remote(url, patience=HASTE)
    assert "secret" not in str(error.value)


def test_unknown_options_are_named() -> None:
    with pytest.raises(InputError, match="holds key, secret; https:// takes headers only"):
        open_remote("https://host/x", storage_options={"secret": 1, "key": 2})
    with pytest.raises(InputError, match="holds key; hf:// takes token and endpoint only"):
        open_remote("hf://datasets/a/b", storage_options={"key": 2})


@pytest.mark.parametrize(
    ("url", "package"),
    [
        ("https://host/x", "urllib3"),
        ("hf://datasets/a/b", "huggingface_hub"),
        ("memory://x", "fsspec"),
    ],
)
def test_a_missing_package_comes_with_the_line_that_installs_it(
    url: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(fetching, "import_module", missing)
    with pytest.raises(
        InputError, match=rf"needs the package {package}.*pip install 'moe-interp\[hub\]'"
    ):
        open_remote(url)


def test_a_missing_driver_of_fsspec_comes_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.startswith("s3fs"):
            raise ImportError("no s3fs here")
        return real(name, *rest)

    def absent(protocol: str, **options: Any) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.setattr(fsspec, "filesystem", absent)
    with pytest.raises(InputError, match=r"Install s3fs.*pip install 'moe-interp\[hub\]'"):
        open_remote("s3://bucket/store.moe")


# fsspec and the Hub


def put_in_memory(files: dict[str, bytes]) -> None:
    memory = fsspec.filesystem("memory")
    for name, content in files.items():
        memory.pipe_file(name, content)


def put_in_folder(folder: Path, files: dict[str, bytes]) -> None:
    (folder / "store.moe").mkdir(exist_ok=True, parents=True)
    for name, content in files.items():
        (folder / name[1:]).write_bytes(content)


@pytest.fixture(params=["memory", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """An address of a store behind fsspec, and what puts files there."""
    if request.param == "file":
        yield f"file://{tmp_path}/store.moe", lambda files: put_in_folder(tmp_path, files)
    else:
        yield "memory://store.moe", put_in_memory
        fsspec.filesystem("memory").rm("/store.moe", recursive=True)


def test_file_systems_of_fsspec_are_read_as_hdf5_reads(place: Any) -> None:
    url, put = place
    put(store_files([PART, OTHER]))
    store = open_remote(url, patience=HASTE)
    for path in ARRAYS:
        assert_same(store.parts[1].read(path), by_h5py(OTHER, path))
    found = store.parts[0].read(INDICES, rows=[slice(60, 130)], columns=[23, 2])
    assert_same(found, by_h5py(PART, INDICES)[60:130, [23, 2]])


def test_a_store_that_is_replaced_is_read_anew_when_it_is_opened_anew(place: Any) -> None:
    url, put = place
    put(store_files([PART]))
    old = open_remote(url, patience=HASTE).parts[0]
    assert_same(old.read("tokens/token_id"), by_h5py(PART, "tokens/token_id"))
    put(store_files([OTHER]))
    with pytest.raises(StoreError, match="replaced"):
        old.read(INDICES)
    new = open_remote(url, patience=HASTE).parts[0]
    assert_same(new.read(INDICES), by_h5py(OTHER, INDICES))


def test_a_part_behind_fsspec_that_was_cut_short_is_refused(place: Any) -> None:
    url, put = place
    put(store_files([PART]))
    part = open_remote(url, patience=HASTE).parts[0]
    put({"/store.moe/part-00000.h5": PART[: len(PART) // 3]})
    with pytest.raises(StoreError, match=r"replaced or cut short|in 3 tries"):
        part.read("resid/resid_mid/bf16")


def test_a_folder_without_a_manifest_is_no_store(place: Any) -> None:
    url, put = place
    put({"/store.moe/other": b"x"})
    with pytest.raises(InputError, match=r"is no store: it holds no manifest\.json"):
        open_remote(url, patience=HASTE)


def test_s3fs_reads_ranges_of_a_bucket(server: FaultyServer) -> None:
    options = {"anon": True, "endpoint_url": server.url}
    server.files.update(store_files([PART], folder="/bucket/store.moe"))
    store = open_remote("s3://bucket/store.moe", storage_options=options, patience=HASTE)
    server.forget()
    found = store.parts[0].read(INDICES, columns=[1])
    assert_same(found, by_h5py(PART, INDICES)[:, [1]])
    assert server.body_bytes < len(PART) / 20
    server.files["/bucket/store.moe/part-00000.h5"] = OTHER
    with pytest.raises(StoreError, match="replaced"):
        store.parts[0].read(INDICES, columns=[1])


def test_a_revision_of_the_hub_is_read_from_its_commit(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    commit = "ab" * 20
    facts = {"id": "someone/routing", "sha": commit, "siblings": [], "tags": []}
    api = "/api/datasets/someone/routing/revision/main"
    server.files = dict.fromkeys(
        (api, api.removesuffix("/revision/main")), json.dumps(facts).encode()
    )
    folder = f"/datasets/someone/routing/resolve/{commit}/runs/store.moe"
    server.files.update(store_files([PART], folder=folder))
    server.faults = [Fault(kind="redirect_elsewhere", times=1)]
    store = open_remote(
        "hf://datasets/someone/routing/runs/store.moe",
        storage_options={"endpoint": server.url, "token": "hf_secret"},
        patience=HASTE,
    )
    assert store.url == f"hf://datasets/someone/routing@{commit}/runs/store.moe"
    moved = json.dumps({**facts, "sha": "cd" * 20}).encode()
    server.files[api] = moved
    found = store.parts[0].read(INDICES, columns=[7])
    assert_same(found, by_h5py(PART, INDICES)[:, [7]])
    fetched = [request for request in server.requests if "resolve" in request.path]
    assert all(f"/resolve/{commit}/" in request.path for request in fetched)
    assert fetched[0].headers["authorization"] == "Bearer hf_secret"
    strange = [each for each in fetched if each.headers["Host"] in server.elsewhere]
    assert len(strange) == 1
    assert "hf_secret" not in str(strange[0].headers)


def test_a_repository_that_is_not_there_is_named(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(InputError, match="hf://datasets/no/where cannot be found on the Hub"):
        open_remote("hf://datasets/no/where", storage_options={"endpoint": server.url})


# What the package writes


@pytest.mark.parametrize("resid_dtype", ["bfloat16", "float32"])
def test_a_store_as_it_is_written_is_read_from_afar(tmp_path: Path, resid_dtype: str) -> None:
    layout = replace(RESID_LAYOUT, resid_dtype=resid_dtype, router_logits=True)
    prompts = [sample(layout, seed=seed, n_tokens=40, n_rows=seed % 3) for seed in range(9)]
    folder = write(tmp_path / "written.moe", prompts, layout, part_mb=0.05)
    store = open_remote(f"file://{folder}", patience=HASTE)
    assert len(store.parts) > 1
    for part in store.parts:
        content = (folder / part.name).read_bytes()
        expected = index_document(content, part.name)
        index = folder / part.name.replace(".h5", ".index.json")
        written = json.loads(index.read_text())
        assert written["datasets"].keys() == expected["datasets"].keys()
        assert written | {"datasets": None} == expected | {"datasets": None}
        for path, described in expected["datasets"].items():
            assert written["datasets"][path].items() >= described.items()
            if described["dtype"] != "bfloat16":
                assert_same(part.read(path), by_h5py(content, path))
        if resid_dtype == "bfloat16":
            with h5py.File(io.BytesIO(content)) as file:
                dataset = file["resid/resid_mid/layer_03"]
                found = part.read("resid/resid_mid/layer_03")
                as_h5py_converts = dataset.astype("<f4")[()]
            widened = np.left_shift(found, 16, dtype=np.uint32).view("<f4")
            np.testing.assert_array_equal(widened, as_h5py_converts)


# Hostile manifests and indexes


def test_a_manifest_of_something_else_is_refused(server: FaultyServer) -> None:
    name = "/store.moe/manifest.json"
    good = json.loads(server.files[name])
    entry = good["parts"][0]
    bad: list[tuple[Any, str]] = [
        (b"{", "cannot be read"),
        (b"[" * 10**6, "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[]", "holds no JSON object"),
        (b'{"format": NaN}', "NaN is no JSON value"),
        (b'{"format": "moe-interp", "format": "moe-interp"}', "a key occurs twice"),
        ({**good, "format": "zarr"}, "has the format 'zarr'"),
        ({**good, "format_version": "2.0"}, "format version 2.0"),
        ({**good, "complete": False}, "not finished"),
        ({**good, "provenance": {"model": "other"}}, "another provenance"),
        ({**good, "provenance": None}, "holds no provenance"),
        ({**good, "parts": []}, "lists no part"),
        ({**good, "parts": {"a": 1}}, "does not list its parts"),
        ({**good, "parts": [{**entry, "name": "../part-00000.h5"}]}, "must list part-00000.h5"),
        ({**good, "parts": [{**entry, "index_sha256": None}]}, "names no index"),
        ({**good, "parts": [{**entry, "bytes": -1}]}, "has a size"),
        ({**good, "parts": [{**entry, "bytes": True}]}, "has a size"),
        ({**good, "parts": [{**entry, "n_tokens": 1e300}]}, "has a size|list its parts"),
        ({**good, "parts": [{**entry, "index_sha256": "x"}]}, "has a digest"),
        ({**good, "parts": [{**entry, "index_bytes": 2**40}]}, "more than"),
        ({**good, "parts": [{**entry, "index_bytes": 10}]}, "gave more than 10 bytes"),
    ]
    for content, told in bad:
        server.files[name] = content if isinstance(content, bytes) else json.dumps(content).encode()
        with pytest.raises(StoreError, match=told):
            opened(server)


# What a manifest says beside its parts


EVERYTHING = replace(
    RESID_LAYOUT, resid_dtype="bfloat16", router_logits=True, expert_output_norms=True
)


def written_files(folder: Path, layout: Layout = EVERYTHING) -> dict[str, bytes]:
    """A store as the package writes it, in two parts, by paths on a server."""
    prompts = [sample(layout, seed=seed, n_tokens=30, n_rows=20) for seed in range(4)]
    path = write(folder / "w.moe", prompts, layout, part_mb=0.03)
    files = {f"/store.moe/{each.name}": each.read_bytes() for each in path.iterdir()}
    assert "/store.moe/part-00001.h5" in files
    return files


def sign(manifest: dict[str, Any]) -> bytes:
    """A manifest with the digest that docs/format.md gives it."""
    said = {k: v for k, v in manifest.items() if k not in ("created", "content_sha256")}
    text = json.dumps(said, sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps(said | {"created": "now", "content_sha256": digest}).encode()


def served(folder: Path, files: dict[str, bytes]) -> str:
    """Address of a folder that holds these files."""
    put_in_folder(folder / "served", files)
    return f"file://{folder}/served/store.moe"


@pytest.mark.parametrize("name", ["routing", "everything", "imported"])
def test_frozen_stores_are_read_from_afar_as_from_here(name: str) -> None:
    folder = Path(__file__).resolve().parent / "stores-1.0" / name
    here, afar = open_store(folder), open_store(f"file://{folder}")
    assert here.layout == afar.layout
    assert here.resid_layers == afar.resid_layers
    assert np.array_equal(here.router().expert_indices, afar.router().expert_indices)
    assert np.array_equal(here.router().expert_weights, afar.router().expert_weights)


def test_a_manifest_that_was_changed_on_its_way_is_refused(tmp_path: Path) -> None:
    """Layer numbers stand in the manifest alone: no index could tell."""
    files = written_files(tmp_path)
    text = files["/store.moe/manifest.json"].decode()
    manifest = json.loads(text)
    manifest["layout"]["layer_indices"] = [7, 9]
    files["/store.moe/manifest.json"] = json.dumps(manifest).encode()
    with pytest.raises(
        StoreError, match=r"manifest\.json: content_sha256 is not that of its conte"
    ):
        open_store(served(tmp_path, files))


@pytest.mark.parametrize(
    ("tier", "error", "told"),
    [
        ("aggregate", InputError, r"holds counts of usage and no routing \(tier aggregate\)"),
        ("half", StoreError, "tier is 'half', expected one of full, no_text"),
        (7, StoreError, "tier is '7', expected one of full, no_text"),
    ],
)
def test_a_tier_that_keeps_no_routing_is_refused_from_afar(
    tmp_path: Path, tier: Any, error: type[Exception], told: str
) -> None:
    files = written_files(tmp_path)
    manifest = json.loads(files["/store.moe/manifest.json"])
    files["/store.moe/manifest.json"] = sign(manifest | {"tier": tier})
    with pytest.raises(error, match=told):
        open_store(served(tmp_path, files))


LAYOUTS: dict[str, tuple[dict[str, Any], str]] = {
    "layers as text": ({"layer_indices": "37"}, r"layout\.layer_indices is '37', expected a list"),
    "a layer as text": ({"layer_indices": ["3", 7]}, r"layout\.layer_indices is "),
    "a layer of truth": ({"layer_indices": [True, 7]}, r"layout\.layer_indices is "),
    "layers that fall": ({"layer_indices": [7, 3]}, "expected rising numbers"),
    "three layers": ({"layer_indices": [3, 7, 9]}, "layer_indices has 3 entries, n_layers is 2"),
    "three layers, rightly": (
        {"layer_indices": [3, 7, 9], "n_layers": 3},
        r"index\.json does not fit the layout in manifest\.json: router/expert_indices has shape",
    ),
    "a number as text": ({"n_layers": "2"}, r"layout\.n_layers is '2', expected a whole number"),
    "a number as a float": ({"top_k": 2.0}, r"layout\.top_k is 2\.0, expected a whole number"),
    "no expert": ({"n_experts": -8}, r"layout\.n_experts is -8"),
    "other experts": ({"n_experts": 9}, "router/router_logits has shape"),
    "wide experts": (
        {"n_experts": 300, "router_logits": False},
        "dtype <u1, expected <u2|is there",
    ),
    "other top_k": ({"top_k": 3}, "router/expert_indices has shape"),
    "other width": ({"d_model": 5}, r"resid/resid_mid/layer_03 has shape .* \(.*, 5\)"),
    "sum": ({"weights_sum": "x"}, "weights_sum is 'x', expected one of one, family"),
    "dtype": ({"weights_dtype": "float16"}, "router/expert_weights has dtype <f4, expected <f2"),
    "odd dtype": ({"weights_dtype": "int8"}, "weights_dtype is 'int8', expected one of"),
    "dtype of residuals": ({"resid_dtype": "float16"}, "has dtype bfloat16, expected <f2"),
    "a site less": ({"resid_sites": ["resid_mid"]}, "resid/resid_post/layer_03 is there, and the"),
    "a site more": (
        {"resid_sites": ["resid_mid", "resid_post", "resid_pre"]},
        "resid/resid_pre/layer_03 is missing",
    ),
    "sites as text": ({"resid_sites": "resid_mid"}, "resid_sites is 'resid_mid', expected a list"),
    "no norms": ({"expert_output_norms": False}, "experts/expert_output_norms is there, and the"),
    "no logits": ({"router_logits": False}, "router/router_logits is there, and the layout says"),
    "a flag as a number": ({"router_logits": 1}, r"layout\.router_logits is 1, expected true or"),
    "a vocabulary": ({"vocab_local": True}, "vocab/text is missing|tokens/text_end is there"),
    "no top_k": ({"top_k": ...}, "'top_k' is missing"),
    "no sites": ({"resid_sites": ...}, "'resid_sites' is missing"),
}


@pytest.mark.parametrize("kind", sorted(LAYOUTS))
def test_a_layout_that_the_indexes_contradict_is_refused(tmp_path: Path, kind: str) -> None:
    """Also where whoever changed it made the digest of the manifest anew."""
    changes, told = LAYOUTS[kind]
    files = written_files(tmp_path)
    manifest = json.loads(files["/store.moe/manifest.json"])
    layout = {k: v for k, v in (manifest["layout"] | changes).items() if v is not ...}
    files["/store.moe/manifest.json"] = sign(manifest | {"layout": layout})
    with pytest.raises(StoreError, match=told):
        open_store(served(tmp_path, files))


@pytest.mark.parametrize("layout", ["x", None, [], 3, ...])
def test_a_manifest_without_a_layout_is_refused_in_a_sentence(tmp_path: Path, layout: Any) -> None:
    files = written_files(tmp_path)
    manifest = json.loads(files["/store.moe/manifest.json"]) | {"layout": layout}
    files["/store.moe/manifest.json"] = sign({k: v for k, v in manifest.items() if v is not ...})
    with pytest.raises(StoreError, match=r"manifest\.json holds no layout that can be \("):
        open_store(served(tmp_path, files))


DATASETS: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "no weights": ("router/expert_weights", lambda each: None, "expert_weights is missing"),
    "no position": ("tokens/position", lambda each: None, "tokens/position is missing"),
    "other dtype": (
        "tokens/generated",
        lambda each: each | {"dtype": "<u1"},
        "tokens/generated has dtype <u1, expected bool",
    ),
    "numbers for text": (
        "tokens/logprob",
        lambda each: each | {"dtype": "<i4"},
        "tokens/logprob has dtype <i4, expected <f4",
    ),
    "no residuals of a layer": (
        "resid/resid_mid/layer_12",
        lambda each: None,
        "resid/resid_mid/layer_12 is missing|residuals of other layers",
    ),
}


@pytest.mark.parametrize("kind", sorted(DATASETS))
@pytest.mark.parametrize("number", [0, 1])
def test_datasets_that_the_layout_does_not_have_are_refused(
    tmp_path: Path, kind: str, number: int
) -> None:
    path, change, told = DATASETS[kind]
    files = written_files(tmp_path)
    name = f"/store.moe/part-{number:05d}.index.json"
    document = json.loads(files[name])
    changed = change(document["datasets"].pop(path))
    document["datasets"] |= {} if changed is None else {path: changed}
    files[name] = json.dumps(document).encode()
    manifest = json.loads(files["/store.moe/manifest.json"])
    manifest["parts"][number] |= {
        "index_bytes": len(files[name]),
        "index_sha256": hashlib.sha256(files[name]).hexdigest(),
    }
    files["/store.moe/manifest.json"] = sign(manifest)
    with pytest.raises(StoreError, match=told):
        open_store(served(tmp_path, files))


def test_what_a_later_minor_version_adds_is_passed_over_from_afar(tmp_path: Path) -> None:
    files = written_files(tmp_path)
    manifest = json.loads(files["/store.moe/manifest.json"])
    for number in range(len(manifest["parts"])):
        name = f"/store.moe/part-{number:05d}.index.json"
        document = json.loads(files[name]) | {"format_version": "1.1", "added": 1}
        empty = {"shape": [0], "dtype": "<f4", "chunks": None, "filters": []}
        empty |= {"offset": [], "length": [], "sha256": []}
        added = ("resid/scale", "resid/final_norm/layer_03", "tokens/added")
        document["datasets"] |= dict.fromkeys(added, empty)
        files[name] = json.dumps(document).encode()
        manifest["parts"][number] |= {
            "index_bytes": len(files[name]),
            "index_sha256": hashlib.sha256(files[name]).hexdigest(),
            "added": 1,
        }
    manifest["layout"] |= {"added": 1}
    manifest["layout"]["resid_sites"].append("final_norm")
    files["/store.moe/manifest.json"] = sign(manifest | {"format_version": "1.1", "added": 1})
    store, here = open_store(served(tmp_path, files)), open_store(tmp_path / "w.moe")
    assert store.resid_layers == {"resid_mid": (3, 12), "resid_post": (3, 12)}
    assert np.array_equal(
        store.resid("resid_post", 12).values, here.resid("resid_post", 12).values, equal_nan=True
    )


@pytest.mark.parametrize("version", ["1.x", "1.", 1, 1.0, None])
def test_what_is_no_version_of_an_index_is_refused(server: FaultyServer, version: Any) -> None:
    document = json.loads(INDEX) | {"format_version": version}
    server.files = assembled([PART], [document])
    with pytest.raises(StoreError, match=r"has the format version .*, expected two"):
        opened(server)


@pytest.mark.parametrize("batch", [1, 7])
def test_small_batches_move_each_chunk_once(
    server: FaultyServer, tmp_path: Path, batch: int
) -> None:
    server.files.update(written_files(tmp_path))
    store = open_store(f"{server.url}/store.moe")
    names = ("token_id", "position", "segment", "generated", "logprob")
    paths = [f"tokens/{name}" for name in names]
    paths += [f"router/{name}" for name in ("expert_indices", "expert_weights", "router_logits")]
    wanted = 0
    for number in range(len(store.manifest["parts"])):
        index = json.loads(server.files[f"/store.moe/part-{number:05d}.index.json"])
        held = [*paths, "experts/expert_output_norms"]
        wanted += sum(sum(index["datasets"][path]["length"]) for path in held)
    server.forget()
    batches = list(store.iter_tokens(batch=batch))
    assert sum(len(each.token_id) for each in batches) == 120
    assert max(len(each.token_id) for each in batches) <= batch
    assert server.body_bytes <= 1.25 * wanted
    here = open_store(tmp_path / "w.moe")
    found = np.concatenate([each.routing.expert_weights for each in batches])
    assert np.array_equal(found, here.router().expert_weights)


def test_batches_that_meet_no_end_of_a_chunk_are_whole(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of 7 and of 3 tokens, and batches of 5; each chunk once, in the right order."""
    lengths = {"CHUNK_TOKENS": 7, "CHUNK_BYTES": 44, "LOGITS_PER_CHUNK": 24}
    for name, value in lengths.items():
        monkeypatch.setattr(f"interp.cache.part_builder.{name}", value)
    prompts = [sample(EVERYTHING, seed=seed, n_tokens=23) for seed in range(3)]
    path = write(tmp_path / "s.moe", prompts, EVERYTHING)
    files = {f"/store.moe/{each.name}": each.read_bytes() for each in path.iterdir()}
    index = json.loads(files["/store.moe/part-00000.index.json"])["datasets"]
    assert index["router/expert_indices"]["chunks"] == [7, 1, 2]
    assert index["router/router_logits"]["chunks"] == [3, 1, 8]
    server.files.update(files)
    store = open_store(f"{server.url}/store.moe")
    server.forget()
    batches = list(store.iter_tokens(batch=5))
    asked = [each.headers["Range"] for each in server.requests]
    assert len(asked) == len(set(asked))
    assert [len(each.token_id) for each in batches] == [5] * 13 + [4]
    for name in ("token_id", "position", "generated"):
        found = np.concatenate([getattr(each, name) for each in batches])
        assert found.tolist() == np.concatenate([getattr(p, name) for p in prompts]).tolist()
    for name in ("expert_indices", "router_logits", "expert_output_norms"):
        found = np.concatenate([getattr(each.routing, name) for each in batches])
        assert np.array_equal(found, np.concatenate([getattr(p, name) for p in prompts]))


def _set(path: str, field: str, value: Any) -> Callable[[Any], None]:
    return lambda document: document["datasets"][path].update({field: value})


def _change(path: str, field: str, change: Callable[[Any], Any]) -> Callable[[Any], None]:
    def apply(document: Any) -> None:
        document["datasets"][path][field] = change(document["datasets"][path][field])

    return apply


def _inflating(document: Any) -> None:
    described = document["datasets"]["router/expert_weights"]
    described["shape"] = described["chunks"] = [2**30, 2**30, 2**30]
    for field in ("offset", "length", "sha256"):
        described[field] = described[field][:1]


ATTACKS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "another format": (lambda index: index.update(format="zip"), "no index of a part"),
    "another version": (lambda index: index.update(format_version="9.0"), "format version 9.0"),
    "another part": (lambda index: index.update(part="part-00009.h5"), "of another part"),
    "another digest": (lambda index: index.update(sha256="0" * 64), "of another part"),
    "another size": (lambda index: index.update(bytes=len(PART) - 1), "of another part"),
    "no datasets": (lambda index: index.update(datasets=[]), "lists no datasets"),
    "a path": (lambda index: index["datasets"].update({"../x": {}}), "no name of a dataset"),
    "no description": (lambda index: index["datasets"].update({"x": 3}), "x is not described"),
    "negative offset": (_change(INDICES, "offset", lambda at: [-1, *at[1:]]), "no list of sizes"),
    "float offset": (_change(INDICES, "offset", lambda at: [0.5, *at[1:]]), "no list of sizes"),
    "true offset": (_change(INDICES, "offset", lambda at: [True, *at[1:]]), "no list of sizes"),
    "offset past 64 bits": (_change(INDICES, "offset", lambda at: [2**80, *at[1:]]), "no list"),
    "offset past the part": (_change(INDICES, "offset", lambda at: [2**50, *at[1:]]), "beyond"),
    "same chunk twice": (_change(INDICES, "offset", lambda at: [at[1], *at[1:]]), "overlap"),
    "overlong chunk": (_change(INDICES, "length", lambda n: [n[0] + 9999, *n[1:]]), "overlap"),
    "length of nothing": (_change(INDICES, "length", lambda n: [4, *n[1:]]), "does not fit"),
    "one chunk missing": (_change(INDICES, "sha256", lambda all_: all_[1:]), "does not list 120"),
    "no digest": (_change(INDICES, "sha256", lambda all_: ["x", *all_[1:]]), "no SHA-256"),
    "more rows": (_set(INDICES, "shape", [10**9, 24, 4]), "does not list"),
    "rows past 64 bits": (_set(INDICES, "shape", [2**70, 24, 4]), "no list of sizes"),
    "no axis": (_set(INDICES, "shape", []), "has 0 axes"),
    "chunk of no size": (_set(INDICES, "chunks", [0, 1, 4]), "chunks of no size"),
    "chunk of other axes": (_set(INDICES, "chunks", [64, 1]), "chunks of 2 axes|zip"),
    "no chunk": (_set(INDICES, "chunks", None), "has values and no chunks"),
    "object dtype": (_set(INDICES, "dtype", "|O"), "dtype is '|O'"),
    "big-endian dtype": (_set(INDICES, "dtype", ">u2"), "dtype is '>u2'"),
    "no dtype": (_set(INDICES, "dtype", 3), "has no dtype"),
    "long string": (_set("prompts/prompt_id", "dtype", "S99999999"), "does not fit|bytes"),
    "unknown filter": (_set(INDICES, "filters", ["lzf"]), "has the filters"),
    "filters in another order": (_set(INDICES, "filters", ["deflate", "shuffle"]), "has the filt"),
    "a filter twice": (_set(INDICES, "filters", ["shuffle", "shuffle"]), "has the filters"),
    "a filter left out": (_set(INDICES, "filters", ["shuffle", "fletcher32"]), "does not fit"),
    "huge chunk": (_inflating, "chunks of .* bytes|does not fit"),
}


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_a_hostile_index_is_refused_before_anything_is_read(
    server: FaultyServer, attack: str
) -> None:
    change, told = ATTACKS[attack]
    document = json.loads(INDEX)
    change(document)
    server.files = assembled([PART], [document])
    with pytest.raises(StoreError, match=told):
        opened(server)


def hostile_chunk(raw: bytes, *, shape: list[int], dtype: str = "<u1") -> dict[str, bytes]:
    """A store of one dataset whose one chunk is `raw`, honestly indexed."""
    document = {
        "format": "moe-interp-index",
        "format_version": "1.0",
        "part": "part-00000.h5",
        "bytes": len(raw),
        "sha256": hashlib.sha256(raw).hexdigest(),
        "datasets": {
            "a": {
                "shape": shape,
                "dtype": dtype,
                "chunks": shape,
                "filters": ["shuffle", "deflate"],
                "offset": [0],
                "length": [len(raw)],
                "sha256": [hashlib.sha256(raw).hexdigest()],
            }
        },
    }
    return assembled([raw], [document])


@pytest.mark.parametrize(
    ("raw", "shape", "dtype", "told"),
    [
        (zlib.compress(bytes(10**6)), [1000], "<u1", "exactly 1000 bytes"),
        (zlib.compress(bytes(999)), [1000], "<u1", "exactly 1000 bytes"),
        (zlib.compress(bytes(1000)) + b"more", [1000], "<u1", "exactly 1000 bytes"),
        (zlib.compress(bytes(1000))[:-2], [1000], "<u1", "exactly 1000 bytes"),
        (b"no stream at all", [1000], "<u1", "does not inflate"),
        (zlib.compress(b"\2" * 1000), [1000], "bool", "neither 0 nor 1"),
    ],
)
def test_a_chunk_that_does_not_decode_is_an_error(
    server: FaultyServer, raw: bytes, shape: list[int], dtype: str, told: str
) -> None:
    server.files = hostile_chunk(raw, shape=shape, dtype=dtype)
    part = opened(server).parts[0]
    with pytest.raises(StoreError, match=f"a in .*part-00000.h5 cannot be decoded .*{told}"):
        part.read("a")


def test_a_part_cannot_claim_to_hold_more_than_its_size_allows(server: FaultyServer) -> None:
    raw = zlib.compress(bytes(200 * 2**20))
    server.files = hostile_chunk(raw, shape=[200 * 2**20])
    with pytest.raises(StoreError, match="would decode to 209715200 bytes"):
        opened(server)


def test_a_chunk_without_filters_is_its_bytes() -> None:
    values = np.arange(6, dtype="<i4").reshape(2, 3)
    found = decode_chunk(values.tobytes(), dtype="<i4", filters=[], shape=(2, 3))
    assert_same(found, values)
    with pytest.raises(ValueError, match="a chunk of 24 bytes cannot hold 28"):
        decode_chunk(values.tobytes(), dtype="<i4", filters=[], shape=(7,))
