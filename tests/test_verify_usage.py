"""A table of usage that was changed, with its digest made right again, is found out."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from interp.cache.errors import StoreError
from interp.cache.reader import open_store
from interp.cache.usage_table import write_usage
from interp.cache.verify import Verified, verify
from tests.store_samples import sample, write


@pytest.fixture
def table(tmp_path: Path) -> Path:
    prompts = [sample(seed=seed, n_tokens=60) for seed in range(3)]
    return write_usage(open_store(write(tmp_path / "a.moe", prompts)), tmp_path / "agg")


def forge(folder: Path, old: str = "", new: str = "", **changed: Any) -> None:
    """Replace something in the table, and let the manifest vouch for it."""
    content = (folder / "usage.csv").read_text(encoding="utf-8")
    assert old in content
    content = content.replace(old, new, 1)
    (folder / "usage.csv").write_text(content, encoding="utf-8")
    document = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    document["usage"] |= {
        "bytes": len(content.encode()),
        "sha256": hashlib.sha256(content.encode()).hexdigest(),
    }
    document |= changed
    document.pop("content_sha256", None)
    (folder / "manifest.json").write_text(json.dumps(document), encoding="utf-8")


def cells(folder: Path) -> list[str]:
    return (folder / "usage.csv").read_text(encoding="utf-8").splitlines()


def test_table_as_it_was_written_is_sound(table: Path) -> None:
    size = (table / "usage.csv").stat().st_size
    assert verify(table) == Verified(n_parts=0, n_prompts=3, n_tokens=None, n_bytes=size)


def test_layer_and_expert_that_the_layout_has_not_are_found(table: Path) -> None:
    row = cells(table)[1]
    *labels, layer, _, count = row.split(",")
    forge(table, row, ",".join([*labels, layer, "8", count]))
    with pytest.raises(StoreError, match=f"expert 8 of layer {layer}, which the layout has not"):
        verify(table)


def test_count_below_the_minimum_is_found(table: Path) -> None:
    row = cells(table)[1]
    forge(table, row, f"{row.rpartition(',')[0]},4")
    with pytest.raises(StoreError, match="holds a count below 5"):
        verify(table)


def test_text_in_place_of_a_count_is_found(table: Path) -> None:
    row = cells(table)[1]
    forge(table, row, f"{row.rpartition(',')[0]},many")
    with pytest.raises(StoreError, match="is no whole number"):
        verify(table)


def test_doubled_cell_is_found(table: Path) -> None:
    row = cells(table)[1]
    forge(table, row, f"{row}\n{row}")
    with pytest.raises(StoreError, match="holds a cell twice"):
        verify(table)


def test_other_columns_are_found(table: Path) -> None:
    forge(table, "prompt,item", "prompt,thing")
    with pytest.raises(StoreError, match="its columns are prompt, thing"):
        verify(table)


def test_fewer_prompts_than_the_table_names_are_found(table: Path) -> None:
    forge(table, n_prompts=2, prompts_by_kind=[["organic", "", 2]])
    with pytest.raises(StoreError, match="names 3 prompts, and the manifest says 2"):
        verify(table)


def test_manifest_with_another_digest_is_found(table: Path) -> None:
    document = json.loads((table / "manifest.json").read_text(encoding="utf-8"))
    (table / "manifest.json").write_text(json.dumps(document | {"content_sha256": "0" * 64}))
    with pytest.raises(StoreError, match="content_sha256 is not that of the manifest"):
        verify(table)
