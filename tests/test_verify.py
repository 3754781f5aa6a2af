"""What `verify` finds: each kind of fault with its place, and every flipped bit."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from interp.cache.errors import StoreError
from interp.cache.verify import verify
from tests.store_samples import LAYOUT, PROVENANCE, RESID_LAYOUT, sample, write

FULL = replace(RESID_LAYOUT, resid_dtype="bfloat16", router_logits=True, expert_output_norms=True)
PART_MB = 0.1
NAMES = {1: "deflate", 2: "shuffle", 3: "fletcher32"}
Edit = Callable[[h5py.File], None]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three parts of two prompts: the second part begins with prompt 2."""
    prompts = [sample(FULL, seed=n, n_tokens=200 + n, n_rows=150) for n in range(6)]
    checks = {"self_check": {"passed": True, "note": "x" * 50}}
    path = tmp_path_factory.mktemp("sound") / "s.moe"
    write(path, prompts, FULL, part_mb=PART_MB, **checks)
    assert len(list(path.glob("part-*.h5"))) == 3
    return path


@pytest.fixture
def store(tmp_path: Path, sound: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(sound, tmp_path / "s.moe"))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_manifest(store: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest, and its own digest with it, by the words of docs/format.md."""
    path = store / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    if "content_sha256" in manifest:
        said = {
            name: each
            for name, each in manifest.items()
            if name not in ("created", "content_sha256")
        }
        text = json.dumps(said, sort_keys=True, ensure_ascii=False)
        manifest["content_sha256"] = sha256(text.encode())
    path.write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")


def write_index(store: Path, number: int, document: dict[str, Any]) -> None:
    """An index, with the manifest in agreement."""
    content = json.dumps(document).encode()
    (store / f"part-{number:05d}.index.json").write_bytes(content)

    def change(manifest: dict[str, Any]) -> None:
        fixed = {"index_sha256": sha256(content), "index_bytes": len(content)}
        manifest["parts"][number] |= fixed

    write_manifest(store, change)


def read_index(store: Path, number: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((store / f"part-{number:05d}.index.json").read_bytes())
    return found


def respoken(path: Path) -> dict[str, Any]:
    """The index of a part, asked of h5py chunk by chunk."""
    content, datasets = path.read_bytes(), {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            datasets[name] = item

    with h5py.File(path) as part:
        part.visititems(visit)
        described = {name: one_described(each, content) for name, each in datasets.items()}
    return {
        "format": "moe-interp-index",
        "format_version": "1.0",
        "part": path.name,
        "bytes": len(content),
        "sha256": sha256(content),
        "datasets": described,
    }


def one_described(dataset: h5py.Dataset, content: bytes) -> dict[str, Any]:
    import zlib

    chunks = [dataset.id.get_chunk_info(at) for at in range(dataset.id.get_num_chunks())]
    chunks.sort(key=lambda each: tuple(each.chunk_offset))
    raw = [content[each.byte_offset : each.byte_offset + each.size] for each in chunks]
    settings = dataset.id.get_create_plist()
    dtype, bits = dataset.dtype, dataset.id.get_type()
    name = {"b": "bool", "S": f"S{bits.get_size()}", "O": f"S{bits.get_size()}"}.get(
        dtype.kind, f"<{dtype.str[1:]}"
    )
    is_bfloat16 = dtype.kind == "f" and bits.get_size() == 2 and bits.get_ebias() == 127
    return {
        "shape": list(dataset.shape),
        "dtype": "bfloat16" if is_bfloat16 else name,
        "chunks": list(dataset.chunks),
        "filters": [NAMES[settings.get_filter(at)[0]] for at in range(settings.get_nfilters())],
        "offset": [each.byte_offset for each in chunks],
        "length": [each.size for each in chunks],
        "sha256": [sha256(each) for each in raw],
        "crc32": [zlib.crc32(each) for each in raw],
    }


def spoil(store: Path, number: int, edit: Edit) -> None:
    """Change values of a part, and let index and manifest agree with what is there then."""
    path = store / f"part-{number:05d}.h5"
    with h5py.File(path, "r+") as part:
        edit(part)
    content = path.read_bytes()

    def change(manifest: dict[str, Any]) -> None:
        manifest["parts"][number] |= {"sha256": sha256(content), "bytes": len(content)}

    write_manifest(store, change)
    write_index(store, number, respoken(path))


def setting(path: str, at: Any, value: Any) -> Edit:
    """An edit that sets values at a place."""

    def edit(part: h5py.File) -> None:
        values = part[path][()]
        values[at] = value
        part[path][...] = values

    return edit


def test_a_sound_store_is_sound_and_counted(store: Path) -> None:
    found = verify(store)
    parts = [each.stat().st_size for each in store.glob("part-*.h5")]
    assert (found.n_parts, found.n_prompts, found.n_tokens) == (3, 6, sum(range(200, 206)))
    assert found.n_bytes == sum(parts)


def test_a_part_that_was_only_written_anew_is_sound(store: Path) -> None:
    """So a refusal below is one of the value, and not of how it came there."""
    spoil(store, 1, setting("tokens/token_id", 3, 7))
    assert verify(store).n_prompts == 6
    assert verify(store, trusted=False).n_prompts == 6


SUM = r"token 7: expert_weights sum to 1 only within 0\."
VALUE_FAULTS = {
    "expert out of range": (
        setting("router/expert_indices", (7, 1, 0), 8),
        r"token 7: expert_indices holds expert 8, but the layer has only 8 experts",
    ),
    "repeated expert": (
        lambda part: setting(
            "router/expert_indices", (7, 1), part["router/expert_indices"][7, 1, 0]
        )(part),
        r"token 7: expert_indices names one expert twice",
    ),
    "weights that do not sum": (setting("router/expert_weights", (7, 1), (0.5, 0.4)), SUM),
    "weights that rise": (
        setting("router/expert_weights", (7, 0), (0.4, 0.6)),
        r"token 7: expert_weights must descend",
    ),
    "weights that are NaN": (
        setting("router/expert_weights", (200, 0, 1), np.nan),
        r"token 200: expert_weights must be finite",
    ),
    "position that stays": (
        setting("tokens/position", 5, 4),
        r"tokens/position does not rise at token 5",
    ),
    "position below 0": (
        setting("tokens/position", 0, -1),
        r"tokens/position does not rise at token 0",
    ),
    "position that falls farther than its integers count": (
        setting("tokens/position", slice(8, 10), (2**31 - 1, -(2**31))),
        r"tokens/position does not rise at token 9",
    ),
    "unknown segment": (setting("tokens/segment", 12, 9), r"tokens/segment .* at token 12"),
    "token id below 0": (setting("tokens/token_id", 3, -5), r"tokens/token_id .* at token 3"),
    "probability above 1": (
        setting("tokens/logprob", 33, 0.5),
        r"tokens/logprob is above 0 at token 33",
    ),
    "text_end that falls": (
        setting("tokens/text_end", 9, 1),
        r"tokens/text_end falls or leaves its text at token 9",
    ),
    "text_end beyond the text": (
        setting("tokens/text_end", 201, 10_000),
        r"tokens/text_end falls or leaves its text at token 201",
    ),
    "residual row that is repeated": (
        lambda part: setting("resid/token_index", 4, part["resid/token_index"][3])(part),
        r"resid/token_index does not rise within 0 to 404 at row 3",
    ),
    "residual row of no token": (
        setting("resid/token_index", -1, 405),
        r"resid/token_index does not rise within 0 to 404 at row 299",
    ),
    "logits that are NaN": (
        setting("router/router_logits", (44, 1, 3), np.nan),
        r"token 44: router_logits holds NaN",
    ),
    "norm below 0": (
        setting("experts/expert_output_norms", (44, 1, 1), -1),
        r"token 44: expert_output_norms must be finite and not negative",
    ),
    "text that falls": (
        setting("prompts/text_offset", 1, 10_000),
        r"prompts/text_offset falls behind entry 1",
    ),
    "text that ends early": (
        setting("prompts/text_offset", 2, 5),
        r"prompts/text_offset does not rise from 0 to",
    ),
    "unknown condition": (
        setting("prompts/condition", 1, b"other"),
        r"prompts/condition is 'other' at prompt 1",
    ),
}


@pytest.mark.parametrize("name", VALUE_FAULTS)
def test_a_value_that_no_capture_gives_is_found_with_its_place(store: Path, name: str) -> None:
    edit, sentence = VALUE_FAULTS[name]
    spoil(store, 1, edit)
    with pytest.raises(StoreError, match=rf"^part-00001\.h5: {sentence}") as caught:
        verify(store)
    assert caught.value.exit_code == 3


def test_offsets_of_prompts_that_fall_are_found(store: Path) -> None:
    spoil(store, 1, setting("prompts/offset", 1, 500))
    with pytest.raises(StoreError, match=r"part-00001\.h5 does not hold the 2 prompts and 405"):
        verify(store)


def test_rows_of_one_layer_that_are_missing_are_found(store: Path) -> None:
    def edit(part: h5py.File) -> None:
        del part["resid/resid_mid/layer_12"]
        part["resid/resid_mid"].copy("layer_03", "layer_12")
        values = np.zeros((5, 4), "<f4")
        del part["resid/resid_mid/layer_03"]
        part["resid/resid_mid"].create_dataset(
            "layer_03", data=values, chunks=(5, 4), fletcher32=True
        )

    spoil(store, 0, edit)
    with pytest.raises(StoreError, match=r"part-00000|resid_dtype"):
        verify(store)


def test_local_ids_beyond_the_vocabulary_are_found(tmp_path: Path) -> None:
    layout = replace(LAYOUT, vocab_local=True)
    prompt = sample(layout, token_id=np.array([0, 1, 2, 1, 0]))
    path = write(tmp_path / "s.moe", [prompt], layout, vocab=["a", "b", "c"])
    assert verify(path).n_tokens == 5
    spoil(path, 0, setting("tokens/token_id", 3, 3))
    with pytest.raises(StoreError, match=r"not within the vocabulary of 3 at token 3"):
        verify(path)


INDEX_FAULTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "another sha256 of resid/resid_mid/layer_03 at entry 1": lambda datasets: datasets[
        "resid/resid_mid/layer_03"
    ]["sha256"].__setitem__(1, "0" * 64),
    "another crc32 of resid/resid_mid/layer_03 at entry 0": lambda datasets: datasets[
        "resid/resid_mid/layer_03"
    ]["crc32"].__setitem__(0, 1),
    "another dtype of router/expert_weights": lambda datasets: datasets[
        "router/expert_weights"
    ].__setitem__("dtype", "<i4"),
    "another shape of tokens/logprob": lambda datasets: datasets["tokens/logprob"].__setitem__(
        "shape", [404]
    ),
    "lists other datasets than part-00001.h5: tokens/text_end": lambda datasets: datasets.pop(
        "tokens/text_end"
    ),
    "another filters of tokens/segment": lambda datasets: datasets["tokens/segment"].__setitem__(
        "filters", ["deflate", "fletcher32"]
    ),
}


@pytest.mark.parametrize("sentence", INDEX_FAULTS)
def test_an_index_that_the_part_contradicts_is_found(store: Path, sentence: str) -> None:
    document = read_index(store, 1)
    INDEX_FAULTS[sentence](document["datasets"])
    write_index(store, 1, document)
    with pytest.raises(StoreError, match=rf"part-00001\.index\.json .*{sentence}"):
        verify(store)


def test_chunks_that_changed_places_in_the_index_are_found(store: Path) -> None:
    document = read_index(store, 1)
    weights = document["datasets"]["router/expert_weights"]
    for name in ("offset", "sha256", "crc32"):
        weights[name].reverse()
    write_index(store, 1, document)
    with pytest.raises(StoreError, match="another offset of router/expert_weights at entry 0"):
        verify(store)


def test_an_index_without_crc32_is_sound(store: Path) -> None:
    document = read_index(store, 1)
    for each in document["datasets"].values():
        del each["crc32"]
    write_index(store, 1, document)
    assert verify(store).n_parts == 3


def test_a_missing_index_is_named(store: Path) -> None:
    (store / "part-00002.index.json").unlink()
    with pytest.raises(StoreError, match=r"part-00002\.index\.json is missing"):
        verify(store)


def test_another_digest_is_named(store: Path) -> None:
    path = store / "part-00001.h5"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"part-00001\.h5 has the SHA-256 \w{12}\.\.\., and man"):
        verify(store)


MANIFEST_FAULTS: dict[str, Callable[[dict[str, Any]], object]] = {
    r"n_tokens is 9, and its parts hold 1215": lambda each: each.update(n_tokens=9),
    r"n_prompts is 7, and its parts hold 6": lambda each: each.update(n_prompts=7),
    r"layout\.top_k is 3, and its parts have 2": lambda each: each["layout"].update(top_k=3),
    r"provenance is not that of the parts": lambda each: each["provenance"].update(model="x"),
    r"is of another capture than part-00000": lambda each: each.update(provenance_sha256="0"),
    r"tier is 'fill', expected one of full": lambda each: each.update(tier="fill"),
    r"created is '2026-01-01', expected a time": lambda each: each.update(created="2026-01-01"),
    r"Invalid isoformat string": lambda each: each.update(created="yesterday"),
    r"format 1\.0 has no field 'tieR'": lambda each: each.update(tieR="full"),
    r"format 1\.0 has no field 'index_bytez'": lambda each: each["parts"][1].update(index_bytez=3),
    r"format 1\.0 has no field 'top_j'": lambda each: each["layout"].update(top_j=3),
    r"does not hold the 3 prompts": lambda each: each["parts"][0].update(n_prompts=3),
}


@pytest.mark.parametrize("sentence", MANIFEST_FAULTS)
def test_a_manifest_that_the_parts_contradict_is_found(store: Path, sentence: str) -> None:
    write_manifest(store, MANIFEST_FAULTS[sentence])
    with pytest.raises(StoreError, match=sentence):
        verify(store)


@pytest.mark.parametrize("name", ["tier", "part_bytes", "self_check", "format_version"])
def test_what_only_the_manifest_knows_is_kept_by_its_digest(store: Path, name: str) -> None:
    path = store / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    other = {"tier": "no_text", "part_bytes": 1, "self_check": None, "format_version": "1.1"}
    path.write_text(json.dumps(manifest | {name: other[name]}), encoding="utf-8")
    with pytest.raises(StoreError, match=r"manifest\.json: content_sha256 is not that of its"):
        verify(store)


def test_a_manifest_from_before_its_digest_is_sound(store: Path) -> None:
    write_manifest(store, lambda manifest: manifest.pop("content_sha256"))
    assert verify(store).n_parts == 3


def test_the_digest_of_a_manifest_does_not_depend_on_the_time(tmp_path: Path, store: Path) -> None:
    written = [write(tmp_path / name, [sample()], provenance=PROVENANCE) for name in ("a", "b")]
    write_manifest(written[0], lambda manifest: manifest.update(created="2001-01-01T00:00:00"))
    texts = [json.loads((each / "manifest.json").read_text()) for each in written]
    assert texts[0]["created"] != texts[1]["created"]
    assert texts[0]["content_sha256"] == texts[1]["content_sha256"]


def is_the_time_alone(flipped: bytes, original: bytes) -> bool:
    """Whether a manifest differs in `created` alone, and that is still a time."""
    try:
        values = json.loads(flipped)
    except ValueError:
        return False
    found = json.loads(original)
    return bool(values | {"created": ""} == found | {"created": ""})


def undetected(store: Path, flips: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Of some bits by file and number, those that `verify` does not miss."""
    missed = []
    for name, bit in flips:
        path = store / name
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            verify(store)
        except StoreError:
            pass
        else:
            if name != "manifest.json" or not is_the_time_alone(bytes(flipped), content):
                missed.append((name, bit))
        path.write_bytes(content)
    return missed


@pytest.mark.slow
def test_300_flipped_bits_are_all_found(store: Path) -> None:
    """A third in each kind of file; what is left over is another time in `created`."""
    rng = np.random.default_rng(4)
    names = ["part-{}.h5", "part-{}.index.json", "manifest.json"]
    flips = []
    for number in range(300):
        name = names[number % 3].format(f"{rng.integers(3):05d}")
        flips.append((name, int(rng.integers(8 * (store / name).stat().st_size))))
    assert undetected(store, flips) == []


@pytest.mark.slow
def test_every_bit_of_a_manifest_is_watched(tmp_path: Path) -> None:
    path = write(tmp_path / "s.moe", [sample()], provenance={"model": "é", "p": 1e-05, "e": "\x1b"})
    n_bits = 8 * (path / "manifest.json").stat().st_size
    missed = undetected(path, [("manifest.json", bit) for bit in range(n_bits)])
    text = (path / "manifest.json").read_bytes()
    said = {chr(text[bit // 8]) for _, bit in missed}
    assert said <= {"e", "b"}  # 1E-05 for 1e-05, and \u001B for \u001b: the same values
    assert len(missed) <= 2
