"""Push and pull: folders, names of files, copies in a smaller tier, the card."""

import errno
import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from interp.cache.errors import InputError, StorageError, StoreError
from interp.cache.reader import open_store
from interp.cache.receive import receive
from interp.cache.share_files import listed_files, parsed_manifest, refuse_hostile
from interp.cache.sharing import pull, push
from interp.cache.tiers import write_no_text
from tests.hub_server import Hub
from tests.sharing_samples import (
    bucket,
    changed,
    digests,
    edit,
    hub,
    manifest,
    shared_file,
    store,
)
from tests.store_samples import LAYOUT, RESID_LAYOUT, sample, write

__all__ = ["bucket", "hub"]

pytestmark = pytest.mark.slow


# --- folders


def test_pulled_store_has_the_bytes_that_were_pushed(tmp_path: Path) -> None:
    ours = store(tmp_path / "a.moe")
    pushed = push(ours, str(tmp_path / "shelf"))
    pulled = pull(str(tmp_path / "shelf"), tmp_path / "b.moe")
    assert digests(pulled) == digests(ours)
    assert (pulled / "manifest.json").read_bytes() == (ours / "manifest.json").read_bytes()
    sizes = sum(each.stat().st_size for each in (tmp_path / "shelf").glob("[!.]*"))
    assert pushed.bytes_moved == sizes
    assert "gives away everything" in pushed.leaks


def test_second_push_to_a_folder_moves_nothing(tmp_path: Path) -> None:
    ours = store(tmp_path / "a.moe")
    push(ours, str(tmp_path / "shelf"))
    again = push(ours, str(tmp_path / "shelf"))
    assert (again.moved, again.bytes_moved) == ((), 0)


def test_changed_part_alone_is_moved(tmp_path: Path) -> None:
    push(changed(tmp_path / "a.moe", last=3), str(tmp_path / "shelf"))
    again = push(changed(tmp_path / "b.moe", last=9), str(tmp_path / "shelf"))
    assert {name for name in again.moved if name.endswith(".h5")} == {"part-00003.h5"}
    assert digests(tmp_path / "shelf") == digests(tmp_path / "b.moe")


def test_shorter_store_leaves_no_part_of_the_longer_one(tmp_path: Path) -> None:
    push(store(tmp_path / "a.moe"), str(tmp_path / "shelf"))
    push(store(tmp_path / "b.moe", seeds=range(2)), str(tmp_path / "shelf"))
    assert digests(tmp_path / "shelf") == digests(tmp_path / "b.moe")


def test_readers_during_a_republish_see_one_store_or_a_sentence(tmp_path: Path) -> None:
    stores = [store(tmp_path / f"{n}.moe", seeds=range(9 * n, 9 * n + 4)) for n in (0, 1)]
    shelf = tmp_path / "shelf"
    push(stores[0], str(shelf))
    wholes = {open_store(each).router().expert_weights.tobytes() for each in stores}
    is_over, seen, faults = threading.Event(), [], []

    def read() -> None:
        while not is_over.is_set():
            try:
                found = open_store(shelf, trusted=True)
                seen.append(found.router().expert_weights.tobytes())
            except StoreError as error:
                faults.append(str(error))
            except Exception as error:
                seen.append(repr(error).encode())

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    for turn in range(6):
        push(stores[(turn + 1) % 2], str(shelf))
    is_over.set()
    for reader in readers:
        reader.join()
    assert seen
    assert set(seen) <= wholes


def test_broken_arrival_goes_on_where_it_ended(tmp_path: Path) -> None:
    contents = {f"part-{n:05d}.h5": bytes([n]) * 1000 for n in range(4)}
    files = [shared_file(name, content) for name, content in contents.items()]
    asked: list[str] = []

    def blocks(name: str) -> Iterator[bytes]:
        asked.append(name)
        yield contents[name][:500]
        if len(asked) == 3:
            raise ConnectionError("the line went dead")
        yield contents[name][500:]

    with pytest.raises(ConnectionError, match="went dead"):
        receive(tmp_path / "b.moe", files, blocks, manifest=b"{}", origin="afar")
    assert not (tmp_path / "b.moe" / "manifest.json").exists()
    received = receive(tmp_path / "b.moe", files, blocks, manifest=b"{}", origin="afar")
    assert asked[3:] == ["part-00002.h5", "part-00003.h5"]
    assert received.bytes_moved == 2000
    assert (tmp_path / "b.moe" / "part-00000.h5").read_bytes() == contents["part-00000.h5"]


def test_wrong_bytes_leave_the_earlier_store(tmp_path: Path) -> None:
    earlier = shared_file("part-00000.h5", b"earlier")
    receive(tmp_path / "b", [earlier], lambda _: iter([b"earlier"]), manifest=b"1", origin="x")
    later = shared_file("part-00000.h5", b"later")
    with pytest.raises(StoreError, match="not what the manifest says"):
        receive(tmp_path / "b", [later], lambda _: iter([b"wrong"]), manifest=b"2", origin="x")
    assert (tmp_path / "b" / "part-00000.h5").read_bytes() == b"earlier"
    assert (tmp_path / "b" / "manifest.json").read_bytes() == b"1"


def test_endless_file_is_cut_off(tmp_path: Path) -> None:
    def endless(name: str) -> Iterator[bytes]:
        while True:
            yield b"0" * 10_000

    with pytest.raises(StoreError, match="not what the manifest says"):
        receive(
            tmp_path / "b", [shared_file("part-00000.h5", b"x")], endless, manifest=b"", origin="x"
        )


def test_full_disk_is_told_before_and_while_it_fills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(name: str) -> Iterator[bytes]:
        yield b"some"
        raise OSError(errno.ENOSPC, "No space left on device")

    file = shared_file("part-00000.h5", b"something")
    with pytest.raises(StorageError, match=r"no space left for part-00000\.h5"):
        receive(tmp_path / "b", [file], full, manifest=b"", origin="x")
    usage = type("Usage", (), {"free": 3})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match="room for 3 bytes and 9 are to come"):
        receive(tmp_path / "b", [file], full, manifest=b"", origin="x")


def test_own_capture_is_never_replaced(tmp_path: Path) -> None:
    ours, other = store(tmp_path / "a.moe"), store(tmp_path / "b.moe", seeds=range(5, 7))
    with pytest.raises(InputError, match="did not come from elsewhere"):
        pull(str(ours), other)
    with pytest.raises(InputError, match="did not come from elsewhere"):
        push(ours, str(other))


def test_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"holds something else \(thesis.tex\)"):
        push(store(tmp_path / "a.moe"), str(tmp_path / "c"))
    with pytest.raises(InputError, match=r"holds something else \(thesis.tex\)"):
        pull(str(tmp_path / "a.moe"), tmp_path / "c")


def test_link_in_the_folder_is_not_written_through(tmp_path: Path) -> None:
    ours, precious = store(tmp_path / "a.moe"), tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / ".part-00000.h5.tmp").symlink_to(precious)
    with pytest.raises(InputError, match="holds something else"):
        pull(str(ours), tmp_path / "c")
    assert precious.read_text() == "mine"


def test_linked_source_is_refused(tmp_path: Path) -> None:
    ours = store(tmp_path / "a.moe")
    (ours / "part-00000.h5").rename(tmp_path / "elsewhere")
    (ours / "part-00000.h5").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="symbolic link that can lead anywhere"):
        pull(str(ours), tmp_path / "b.moe")
    assert not (tmp_path / "b.moe").exists()


def test_store_of_another_model_is_refused(tmp_path: Path) -> None:
    push(store(tmp_path / "a.moe"), str(tmp_path / "shelf"))
    other = store(tmp_path / "b.moe", provenance={"model": "another"})
    with pytest.raises(
        InputError,
        match=r"another capture, which would be lost \(provenance.model is toy there and another",
    ):
        push(other, str(tmp_path / "shelf"))
    assert digests(tmp_path / "shelf") == digests(tmp_path / "a.moe")
    pushed = push(other, str(tmp_path / "shelf"), replace=True)
    assert pushed.replaced[0] == "provenance.model is toy there and another here"
    assert digests(tmp_path / "shelf") == digests(other)


def test_store_of_another_layout_is_refused_without_a_model_too(tmp_path: Path) -> None:
    ours = store(tmp_path / "a.moe", provenance={})
    push(ours, str(tmp_path / "shelf"))
    other = write(tmp_path / "b.moe", [sample(LAYOUT)], LAYOUT, provenance={})
    with pytest.raises(InputError, match=r"layout.resid_sites is \['resid_mid', 'resid_post'\]"):
        push(other, str(tmp_path / "shelf"))
    assert digests(tmp_path / "shelf") == digests(ours)


def test_other_settings_are_another_capture(tmp_path: Path) -> None:
    ours, other = (
        store(tmp_path / f"{day}.moe", provenance={"model": "toy", "settings": {"today": day}})
        for day in ("2025-08-05", "2025-08-06")
    )
    push(ours, str(tmp_path / "shelf"))
    with pytest.raises(InputError, match=r"settings.today is 2025-08-05 there and 2025-08-06 here"):
        push(other, str(tmp_path / "shelf"))


def test_capture_that_has_grown_takes_the_place_of_its_earlier_state(tmp_path: Path) -> None:
    facts = {"model": "toy", "prompts_sha256": "1", "files": [{"name": "a"}]}
    more = {"prompts_sha256": "2", "files": [{"name": "a"}, {"name": "b"}]}
    push(store(tmp_path / "a.moe", seeds=range(2), provenance=facts), str(tmp_path / "shelf"))
    grown = store(tmp_path / "b.moe", provenance=facts | more)
    assert push(grown, str(tmp_path / "shelf")).replaced == ()
    assert digests(tmp_path / "shelf") == digests(grown)


def test_manifest_that_cannot_be_read_is_not_replaced(tmp_path: Path) -> None:
    ours, shelf = store(tmp_path / "a.moe"), tmp_path / "shelf"
    push(ours, str(shelf))
    edit(shelf, format_version="2.0")
    with pytest.raises(InputError, match="format_version is 2 there and 1 here"):
        push(ours, str(shelf))
    (shelf / "manifest.json").write_bytes(b"{")
    with pytest.raises(InputError, match=r"would be lost \(its manifest cannot be read\)"):
        push(ours, str(shelf))
    push(ours, str(shelf), replace=True)
    assert open_store(shelf).n_tokens == 120


def test_push_that_broke_in_the_swap_goes_on(tmp_path: Path) -> None:
    ours, shelf = store(tmp_path / "a.moe"), tmp_path / "shelf"
    push(ours, str(shelf))
    edit(shelf, complete=False, parts=[], layout=None)
    push(ours, str(shelf))
    assert digests(shelf) == digests(ours)


def test_unfinished_store_is_not_shared(tmp_path: Path) -> None:
    ours = store(tmp_path / "a.moe")
    edit(ours, complete=False)
    with pytest.raises(StoreError, match="not finished"):
        push(ours, str(tmp_path / "shelf"))
    with pytest.raises(StoreError, match="is not finished; wait"):
        pull(str(ours), tmp_path / "b.moe")


def test_damaged_part_is_not_shared(
    tmp_path: Path, hub: Hub, bucket: tuple[str, dict[str, Any]]
) -> None:
    ours = store(tmp_path / "a.moe")
    part = bytearray((ours / "part-00001.h5").read_bytes())
    index = json.loads((ours / "part-00001.index.json").read_text())
    part[index["datasets"]["resid/resid_mid/layer_03"]["offset"][0]] ^= 1
    (ours / "part-00001.h5").write_bytes(part)
    with pytest.raises(StoreError, match=r"not what (its|the) manifest says"):
        push(ours, str(tmp_path / "shelf"))
    with pytest.raises(StoreError, match="so it is not shared"):
        push(ours, f"s3://{bucket[0]}/run", storage_options=bucket[1])


@pytest.mark.parametrize("url", ["gs://bucket/run", "hf://models/me/run", "s3://shelf", " "])
def test_unknown_place_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match="is no place to share a store at; expected hf://"):
        pull(url, tmp_path / "b.moe")


def test_missing_folder_has_no_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no store that is finished"):
        pull(str(tmp_path / "nothing"), tmp_path / "b.moe")


def test_same_folder_in_another_spelling_is_the_same_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = store(tmp_path / "a.moe")
    monkeypatch.chdir(tmp_path)
    pull("a.moe", "b.moe")
    for spelling in ("./a.moe/", str(ours), f"../{tmp_path.name}/a.moe"):
        assert pull(spelling, "b.moe") == Path("b.moe")
    store(tmp_path / "c.moe")
    with pytest.raises(InputError, match=r"b\.moe holds a store from .*a\.moe; choose another"):
        pull("c.moe", "b.moe")


# --- copies in a smaller tier


def test_copy_is_made_beside_the_store_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "other").mkdir()
    ours, made = store(tmp_path / "disk" / "a.moe"), []

    def told(opened: Any, out: Path, **options: Any) -> Path:
        made.append(out)
        return write_no_text(opened, out, **options)

    monkeypatch.setattr("interp.cache.tiered_copy.write_no_text", told)
    push(ours, str(tmp_path / "shelf"), tier="no_text")
    push(ours, str(tmp_path / "shelf"), tier="no_text", scratch=tmp_path / "other")
    assert [each.parent.parent.name for each in made] == ["disk", "other"]
    assert [each.name for each in (tmp_path / "disk").iterdir()] == ["a.moe"]
    assert not list((tmp_path / "other").iterdir())


@pytest.mark.parametrize("tier", ["no_text", "aggregate"])
def test_copy_without_room_is_refused_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tier: str
) -> None:
    ours = store(tmp_path / "a.moe")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 3}))
    with pytest.raises(StorageError, match=rf"a copy in the tier {tier} needs .* room for 3; free"):
        push(ours, str(tmp_path / "shelf"), tier=tier)
    assert {each.name for each in tmp_path.iterdir()} == {"a.moe"}


def test_room_that_is_asked_for_is_what_the_copy_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a store that is mostly residuals, which the copy is without."""
    layout = replace(RESID_LAYOUT, d_model=256)
    prompts = [sample(layout, seed=seed, n_tokens=200) for seed in range(6)]
    ours = write(tmp_path / "a.moe", prompts, layout)
    taken = push(ours, str(tmp_path / "shelf"), tier="no_text").bytes_moved
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 3}))
    with pytest.raises(StorageError, match="no_text needs") as refused:
        push(ours, str(tmp_path / "shelf2"), tier="no_text")
    asked = int(re.search(r"needs ([\d,]+) bytes", str(refused.value))[1].replace(",", ""))  # type: ignore[index]
    assert 0.5 * asked < taken < 1.5 * asked < 0.1 * (ours / "part-00000.h5").stat().st_size


def test_folder_that_cannot_take_the_copy_is_named(tmp_path: Path) -> None:
    ours = store(tmp_path / "a.moe")
    with pytest.raises(InputError, match=r"none cannot take the copy .* with --scratch"):
        push(ours, str(tmp_path / "shelf"), tier="no_text", scratch=tmp_path / "none")


# --- names


@pytest.mark.parametrize(
    "name",
    [
        "../part-00000.h5",
        "a/../../part-00000.h5",
        "/etc/passwd",
        "..",
        "a//b",
        "./part-00000.h5",
        "C:part-00000.h5",
        "C:\\part-00000.h5",
        "..\\part-00000.h5",
        "\\\\server\\share",
        "part-00000.h5\0.txt",
        "part-00000.h5\n",
        "part-00000.h5.",
        "part-0000\uff10.h5",
        "p\u0430rt-00000.h5",
        "con",
        "NUL.h5",
        "com1.json",
        "a b",
        "~root/x:y",
        "",
    ],
)
def test_hostile_name_is_refused(name: str) -> None:
    with pytest.raises(StoreError, match="nothing was fetched"):
        refuse_hostile(["manifest.json", name], "afar")


def test_names_that_differ_in_case_are_refused() -> None:
    with pytest.raises(StoreError, match="some disks cannot tell apart"):
        refuse_hostile(["README.md", "part-00000.h5", "Part-00000.h5"], "afar")


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "../part-00000.h5"},
        {"name": "part-00001.h5"},
        {"name": 7},
        {"bytes": -1},
        {"bytes": True},
        {"bytes": 2**50},
        {"bytes": "12"},
        {"sha256": "../../x"},
        {"sha256": None},
        {"index_sha256": "x"},
        {"index_bytes": 2**40, "index_sha256": "0" * 64},
    ],
)
def test_hostile_entry_is_refused(tmp_path: Path, entry: Mapping[str, Any]) -> None:
    ours = store(tmp_path / "a.moe")
    document = manifest(ours)
    document["parts"][0] |= entry
    (ours / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(StoreError, match="nothing was fetched"):
        pull(str(ours), tmp_path / "b.moe")
    assert not (tmp_path / "b.moe").exists()


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"\xff", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"[]", "not that of a store"),
        (b'{"format": "moe-interp", "format_version": "2.0"}', "format version 2.0"),
        (b'{"format": "moe-interp", "format_version": "1.0"}', "is not finished"),
    ],
)
def test_hostile_manifest_is_refused(raw: bytes, sentence: str) -> None:
    with pytest.raises(StoreError, match=sentence):
        parsed_manifest(raw, "afar")


def test_manifest_of_an_unknown_tier_is_refused() -> None:
    known = {"format": "moe-interp", "format_version": "1.0", "complete": True}
    with pytest.raises(StoreError, match="has the tier 'half'"):
        parsed_manifest(json.dumps(known | {"tier": "half"}).encode(), "afar")
    with pytest.raises(StoreError, match="does not list its parts"):
        listed_files(known | {"parts": []}, "afar")


# --- the card


def test_card_and_metadata_say_what_is_shared(tmp_path: Path) -> None:
    facts = {"model": "openai/gpt-oss-20b", "license": "Apache-2.0", "revision": "abc"}
    ours = store(tmp_path / "a.moe", provenance=facts | {"source_licenses": {"source 0": "MIT"}})
    push(ours, str(tmp_path / "shelf"), source_licenses={"source 1": "CC BY 4.0"})
    card = (tmp_path / "shelf" / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert (front["license"], front["size_categories"]) == ("apache-2.0", ["n<1K"])
    assert "tier-full" in front["tags"]
    assert "| organic | source 0 | 1 | 30 | MIT |" in card
    assert "| organic | source 1 | 1 | 30 | CC BY 4.0 |" in card
    assert "| organic | source 2 | 1 | 30 | not stated |" in card
    assert "| model | openai/gpt-oss-20b |" in card
    assert digests(ours)["part-00002.h5"] in card


def test_croissant_has_what_the_format_asks_for(tmp_path: Path) -> None:
    ours = store(tmp_path / "a.moe")
    push(ours, str(tmp_path / "shelf"), license="MIT")
    document = json.loads((tmp_path / "shelf" / "croissant.json").read_text(encoding="utf-8"))
    asked = ("@context", "@type", "name", "description", "license", "datePublished")
    assert all(document[name] for name in asked)
    assert "url" not in document  # each reader has the folder elsewhere
    assert document["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    files = {each["@id"]: each for each in document["distribution"]}
    assert {name: each["sha256"] for name, each in files.items()} == digests(ours)
    for name, each in files.items():
        assert each["@type"] == "cr:FileObject"
        assert each["contentSize"] == f"{(ours / name).stat().st_size} B"
        assert each["contentUrl"] == name
        assert each["encodingFormat"]
