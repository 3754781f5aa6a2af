"""Building a part: the same prompts give the same bytes, and its table of chunks is the truth."""

import hashlib
import zlib
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from interp.cache.memory_file import HASHED_BYTES, MemoryFile
from interp.cache.part_builder import PartBuilder
from interp.cache.part_index import indexed_datasets
from interp.cache.reader import open_store
from interp.cache.records import Layout, PromptActivations
from interp.cache.stored import checked
from tests.store_samples import LAYOUT, RESID_LAYOUT, sample, write

WIDE = replace(
    RESID_LAYOUT, d_model=128, resid_dtype="bfloat16", router_logits=True, expert_output_norms=True
)
"""Whose chunks of residuals are as large as what is hashed while it is written."""


def wide_prompts() -> list[PromptActivations]:
    return [sample(WIDE, seed=seed, n_tokens=n) for seed, n in enumerate((300, 7, 513, 1))]


def built(file: MemoryFile, prompts: list[PromptActivations], layout: Layout) -> bytes:
    builder = PartBuilder(file, layout=layout, provenance='{"model": "toy"}', vocab=())
    for each in prompts:
        builder.add(checked(each, layout, n_vocab=0))
    return builder.finish().tobytes()


def alone(prompts: list[PromptActivations], layout: Layout, *, capacity: int = 2**20) -> bytes:
    file = MemoryFile(capacity)
    try:
        return built(file, prompts, layout)
    finally:
        file.close()


def test_the_bytes_do_not_depend_on_what_the_buffer_held_before() -> None:
    fresh = alone(wide_prompts(), WIDE)
    file = MemoryFile(2**16)
    built(file, [sample(RESID_LAYOUT, seed=9, n_tokens=3000)], RESID_LAYOUT)
    file.clear()
    assert built(file, wide_prompts(), WIDE) == fresh
    file.clear()
    short = built(file, [sample()], LAYOUT)
    file.close()
    assert short == alone([sample()], LAYOUT)


@pytest.mark.parametrize("capacity", [1, 1000, 2**17, 2**22])
def test_a_buffer_that_must_grow_gives_the_same_bytes(capacity: int) -> None:
    assert alone(wide_prompts(), WIDE, capacity=capacity) == alone(wide_prompts(), WIDE)


def test_what_is_cleared_leaves_only_zeros_behind() -> None:
    file = MemoryFile(64)
    file.write(b"\xff" * 100)
    file.clear()
    file.seek(150)
    file.write(b"x")
    file.close()
    assert file.content().tobytes() == b"\0" * 150 + b"x"


def test_what_is_cut_off_comes_back_as_zeros() -> None:
    file = MemoryFile(8)
    file.write(b"abcdef")
    file.truncate(2)
    file.truncate(5)
    file.seek(1)
    assert file.read(9) == b"b\0\0\0"
    file.close()


def test_a_place_that_is_written_again_has_the_digest_of_what_is_there_now() -> None:
    file = MemoryFile(1)
    for value in (b"a", b"b"):
        file.seek(10)
        file.write(value * HASHED_BYTES)
    found = file.digests(10, HASHED_BYTES)
    file.close()
    assert found.sha256 == hashlib.sha256(b"b" * HASHED_BYTES).hexdigest()


def h5py_chunks(dataset: h5py.Dataset) -> dict[tuple[int, ...], tuple[int, int]]:
    """By its corner, offset and length of each chunk: asked one by one."""
    chunks = (dataset.id.get_chunk_info(at) for at in range(dataset.id.get_num_chunks()))
    return {tuple(each.chunk_offset): (each.byte_offset, each.size) for each in chunks}


@pytest.mark.parametrize("n_tokens", [5, 256, 20_000])
def test_the_table_of_chunks_is_that_of_the_file_read_back(tmp_path: Path, n_tokens: int) -> None:
    layout = replace(WIDE, d_model=128 if n_tokens < 1000 else 8)
    file = MemoryFile(100)
    content = built(file, [sample(layout, n_tokens=n_tokens), *wide_small(layout)], layout)
    table = indexed_datasets(file)
    file.close()
    path = tmp_path / "part.h5"
    path.write_bytes(content)
    n_chunks = 0
    with h5py.File(path) as part:
        names: list[str] = []
        part.visititems(
            lambda name, each: names.append(name) if isinstance(each, h5py.Dataset) else None
        )
        assert sorted(names) == sorted(table)
        for name in names:
            said, dataset = table[name], part[name]
            assert tuple(said["shape"]) == dataset.shape
            assert tuple(said["chunks"]) == dataset.chunks
            corners = sorted(h5py_chunks(dataset))
            places = [h5py_chunks(dataset)[corner] for corner in corners]
            assert list(zip(said["offset"], said["length"], strict=True)) == places, name
            pieces = [content[start : start + length] for start, length in places]
            assert said["sha256"] == [hashlib.sha256(each).hexdigest() for each in pieces], name
            assert said["crc32"] == [zlib.crc32(each) for each in pieces], name
            n_chunks += len(pieces)
    assert n_chunks > (100 if n_tokens > 1000 else 25)


def wide_small(layout: Layout) -> list[PromptActivations]:
    return [sample(layout, seed=seed, n_tokens=11) for seed in (1, 2)]


def test_every_chunk_has_a_checksum_and_no_filter_beside_the_three() -> None:
    file = MemoryFile(1)
    built(file, wide_prompts(), WIDE)
    table = indexed_datasets(file)
    file.close()
    for name, described in table.items():
        assert described["filters"][-1] == "fletcher32", name
        assert set(described["filters"]) <= {"shuffle", "deflate", "fletcher32"}
        is_compressed = "deflate" in described["filters"]
        assert is_compressed == (
            (name.startswith("tokens/") and name != "tokens/logprob") or name == "prompts/text"
        ), name


def test_a_prompt_larger_than_a_part_makes_a_part_of_its_own(tmp_path: Path) -> None:
    prompts = [sample(seed=seed, n_tokens=n) for seed, n in enumerate((4, 4, 3000, 4, 4))]
    path = write(tmp_path / "s.moe", prompts, part_mb=0.03)
    parts = sorted(path.glob("part-*.h5"))
    lengths = []
    for part in parts:
        with h5py.File(part) as file:
            lengths.append(np.diff(file["prompts/offset"][()]).tolist())
    assert lengths == [[4, 4], [3000], [4, 4]]
    assert [part.stat().st_size > 30_000 for part in parts] == [False, True, False]
    expected = np.concatenate([each.token_id for each in prompts])
    assert open_store(path).token_id.tolist() == expected.tolist()
