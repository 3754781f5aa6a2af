"""Push, pull and diff: against folders, a Hub on this machine, and moto's bucket."""

import errno
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
import yaml

from interp.cache.diff import diff
from interp.cache.errors import InputError, StorageError, StoreError
from interp.cache.reader import open_store
from interp.cache.receive import receive, staged_path
from interp.cache.share_files import SharedFile, listed_files, parsed_manifest, refuse_hostile
from interp.cache.sharing import pull, push
from tests.hub_server import TOKEN, Entry, Hub, hub_server
from tests.store_samples import RESID_LAYOUT, sample, write

pytestmark = pytest.mark.slow

HUB_WARNS = "ignore:Use 'content=:DeprecationWarning"
REPO = "hf://datasets/me/run"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A Hub, with the client as in a shell that is online and logged in to it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub_server() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        files = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        yield hub


@pytest.fixture
def bucket() -> Iterator[tuple[str, dict[str, Any]]]:
    """A bucket of moto's server, and the options for s3fs that reach it."""
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {
        "key": "testing",
        "secret": "testing",
        "client_kwargs": {"endpoint_url": f"http://{host}:{port}"},
    }
    reset = Request(f"http://{host}:{port}/moto-api/reset", method="POST")
    urlopen(reset).close()  # noqa: S310 (moto keeps what earlier servers of the process held)
    S3FileSystem(skip_instance_cache=True, **options).call_s3("create_bucket", Bucket="shelf")
    yield "shelf", options
    server.stop()


def store(path: Path, *, seeds: range = range(4), n_tokens: int = 30, **options: Any) -> Path:
    """One part per prompt."""
    prompts = [sample(RESID_LAYOUT, seed=seed, n_tokens=n_tokens) for seed in seeds]
    return write(path, prompts, RESID_LAYOUT, **{"part_mb": 0.001} | options)


def changed(path: Path, *, last: int) -> Path:
    """The same store with another last prompt."""
    prompts = [sample(RESID_LAYOUT, seed=seed, n_tokens=30) for seed in (0, 1, 2, last)]
    return write(path, prompts, RESID_LAYOUT, part_mb=0.001)


def digests(folder: Path) -> dict[str, str]:
    return {
        each.name: hashlib.sha256(each.read_bytes()).hexdigest()
        for each in folder.iterdir()
        if each.name.startswith("part-")
    }


def manifest(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return document


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
    files = [_file(name, content) for name, content in contents.items()]
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
    earlier = _file("part-00000.h5", b"earlier")
    receive(tmp_path / "b", [earlier], lambda _: iter([b"earlier"]), manifest=b"1", origin="x")
    later = _file("part-00000.h5", b"later")
    with pytest.raises(StoreError, match="not what the manifest says"):
        receive(tmp_path / "b", [later], lambda _: iter([b"wrong"]), manifest=b"2", origin="x")
    assert (tmp_path / "b" / "part-00000.h5").read_bytes() == b"earlier"
    assert (tmp_path / "b" / "manifest.json").read_bytes() == b"1"


def test_endless_file_is_cut_off(tmp_path: Path) -> None:
    def endless(name: str) -> Iterator[bytes]:
        while True:
            yield b"0" * 10_000

    with pytest.raises(StoreError, match="not what the manifest says"):
        receive(tmp_path / "b", [_file("part-00000.h5", b"x")], endless, manifest=b"", origin="x")


def test_full_disk_is_told_before_and_while_it_fills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(name: str) -> Iterator[bytes]:
        yield b"some"
        raise OSError(errno.ENOSPC, "No space left on device")

    file = _file("part-00000.h5", b"something")
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
        InputError, match="holds a store of the model toy, and this one has another"
    ):
        push(other, str(tmp_path / "shelf"))


def test_unfinished_store_is_not_shared(tmp_path: Path) -> None:
    ours = store(tmp_path / "a.moe")
    _edit(ours, complete=False)
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


# --- the Hub


@pytest.mark.filterwarnings(HUB_WARNS)
def test_hub_store_comes_back_as_it_went(tmp_path: Path, hub: Hub) -> None:
    ours = store(tmp_path / "a.moe")
    pushed = push(ours, REPO)
    assert hub.repositories["me/run"].is_private
    assert len(hub.repositories["me/run"].commits) == 2
    assert digests(pull(f"{REPO}@{pushed.revision}", tmp_path / "b.moe")) == digests(ours)


@pytest.mark.filterwarnings(HUB_WARNS)
def test_second_push_to_the_hub_moves_what_changed(tmp_path: Path, hub: Hub) -> None:
    first = push(changed(tmp_path / "a.moe", last=3), REPO)
    assert len(hub.received) == 4
    again = push(tmp_path / "a.moe", REPO)
    assert (again.moved, again.revision, len(hub.received)) == ((), first.revision, 4)
    push(changed(tmp_path / "b.moe", last=9), REPO)
    part = (tmp_path / "b.moe" / "part-00003.h5").read_bytes()
    assert hub.received[4:] == [hashlib.sha256(part).hexdigest()]
    pull(f"{REPO}@{first.revision}", tmp_path / "old.moe")
    assert digests(tmp_path / "old.moe") == digests(tmp_path / "a.moe")


@pytest.mark.filterwarnings(HUB_WARNS)
def test_push_that_broke_sends_no_part_twice(tmp_path: Path, hub: Hub) -> None:
    ours = store(tmp_path / "a.moe")
    hub.uploads_left = 2
    with pytest.raises(InputError, match="run the same again to go on"):
        push(ours, REPO)
    assert len(hub.repositories["me/run"].commits) == 1
    hub.uploads_left = None
    push(ours, REPO)
    assert len(hub.received) == len(set(hub.received)) == 4
    assert digests(pull(REPO, tmp_path / "b.moe")) == digests(ours)


@pytest.mark.filterwarnings(HUB_WARNS)
def test_branch_of_the_hub_is_made_and_leaves_main(tmp_path: Path, hub: Hub) -> None:
    push(changed(tmp_path / "a.moe", last=3), REPO, is_public=True)
    push(changed(tmp_path / "b.moe", last=9), f"{REPO}@second")
    assert not hub.repositories["me/run"].is_private
    for revision, folder in (("main", "a"), ("second", "b")):
        pulled = pull(f"{REPO}@{revision}", tmp_path / f"{folder}2.moe")
        assert digests(pulled) == digests(tmp_path / f"{folder}.moe")


@pytest.mark.filterwarnings(HUB_WARNS)
def test_example_on_the_card_runs(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    push(store(tmp_path / "a.moe"), REPO)
    card = hub.repositories["me/run"].tree("main")["README.md"].content.decode()
    monkeypatch.chdir(tmp_path)
    exec(card.partition("```python\n")[2].partition("```")[0], {})  # noqa: S102
    assert "(120, 1, 2)" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["../evil.h5", "part-00000.h5\\x", "Part-00000.h5"])
@pytest.mark.filterwarnings(HUB_WARNS)
def test_hostile_listing_of_the_hub_is_refused(tmp_path: Path, hub: Hub, name: str) -> None:
    push(store(tmp_path / "a.moe"), REPO)
    hub.repositories["me/run"].tree("main")[name] = Entry(content=b"", is_lfs=False)
    with pytest.raises(StoreError, match="nothing was fetched"):
        pull(REPO, tmp_path / "b.moe")
    assert not (tmp_path / "b.moe").exists()


@pytest.mark.filterwarnings(HUB_WARNS)
def test_part_that_the_hub_changed_is_not_taken(tmp_path: Path, hub: Hub) -> None:
    push(store(tmp_path / "a.moe"), REPO)
    tree = hub.repositories["me/run"].tree("main")
    content = tree["part-00002.h5"].content
    tree["part-00002.h5"] = Entry(content=content[:-1] + b"?", is_lfs=True)
    with pytest.raises(StoreError, match=r"part-00002\.h5 arrived with"):
        pull(REPO, tmp_path / "b.moe")
    assert not list((tmp_path / "b.moe").glob("part-*"))
    assert staged_path(tmp_path / "b.moe", "part-00000.h5").exists()


@pytest.mark.filterwarnings(HUB_WARNS)
def test_failures_of_the_hub_are_sentences(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = store(tmp_path / "a.moe")
    with pytest.raises(InputError, match="there is no dataset me/run that this token may see"):
        pull(REPO, tmp_path / "b.moe")
    push(ours, REPO)
    with pytest.raises(InputError, match="has no revision 'v9'"):
        pull(f"{REPO}@v9", tmp_path / "b.moe")
    with pytest.raises(InputError, match="cannot be reached"):
        pull(REPO, tmp_path / "b.moe", endpoint="http://127.0.0.1:9")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match=r"needs a token .* log in with: hf auth login"):
        push(ours, "hf://datasets/me/another")
    with pytest.raises(InputError, match="there is no dataset me/run that this token may see"):
        pull(REPO, tmp_path / "b.moe")


@pytest.mark.filterwarnings(HUB_WARNS)
def test_dataset_that_holds_something_else_is_refused(tmp_path: Path, hub: Hub) -> None:
    ours = store(tmp_path / "a.moe")
    push(ours, REPO)
    with pytest.raises(
        InputError, match="holds a store of the tier full, and this one has no_text"
    ):
        push(ours, REPO, tier="no_text")
    hub.repositories["me/run"].tree("main")["train.parquet"] = Entry(content=b"", is_lfs=False)
    with pytest.raises(InputError, match=r"holds something else \(train.parquet\)"):
        push(ours, REPO)


def test_missing_library_is_named_with_its_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"s3:// needs s3fs; install it with: pip install 'moe-in"):
        pull("s3://shelf/run", tmp_path / "b.moe")
    with pytest.raises(InputError, match="hf:// needs huggingface_hub; install it with: pip"):
        pull(REPO, tmp_path / "b.moe")


# --- buckets


def test_bucket_store_comes_back_and_moves_only_changes(
    tmp_path: Path, bucket: tuple[str, dict[str, Any]]
) -> None:
    url, options = f"s3://{bucket[0]}/some/run", bucket[1]
    ours = changed(tmp_path / "a.moe", last=3)
    push(ours, url, storage_options=options)
    again = push(ours, url, storage_options=options)
    assert (again.moved, again.bytes_moved) == ((), 0)
    assert digests(pull(url, tmp_path / "b.moe", storage_options=options)) == digests(ours)
    other = changed(tmp_path / "c.moe", last=9)
    third = push(other, url, storage_options=options)
    assert [name for name in third.moved if name.endswith(".h5")] == ["part-00003.h5"]
    assert digests(pull(url, tmp_path / "b.moe", storage_options=options)) == digests(other)


def test_push_to_a_bucket_that_broke_goes_on(
    tmp_path: Path, bucket: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from s3fs import S3FileSystem

    url, ours, sent = f"s3://{bucket[0]}/run", store(tmp_path / "a.moe"), []
    put = S3FileSystem.put_file

    def dying(self: Any, path: str, to: str, **options: Any) -> None:
        if len(sent) == 3:
            raise ConnectionError("the line went dead")
        sent.append(to)
        put(self, path, to, **options)

    with monkeypatch.context() as broken:
        broken.setattr(S3FileSystem, "put_file", dying)
        with pytest.raises(InputError, match=r"cannot be reached .* run the same again to go on"):
            push(ours, url, storage_options=bucket[1])
    with pytest.raises(InputError, match="holds no store that is finished"):
        pull(url, tmp_path / "b.moe", storage_options=bucket[1])
    again = push(ours, url, storage_options=bucket[1])
    assert set(again.kept) == {each.rpartition("/")[2] for each in sent}
    assert digests(pull(url, tmp_path / "b.moe", storage_options=bucket[1])) == digests(ours)


def test_hostile_key_of_a_bucket_is_refused(
    tmp_path: Path, bucket: tuple[str, dict[str, Any]]
) -> None:
    from s3fs import S3FileSystem

    url = f"s3://{bucket[0]}/run"
    push(store(tmp_path / "a.moe"), url, storage_options=bucket[1])
    files = S3FileSystem(skip_instance_cache=True, **bucket[1])
    files.call_s3("put_object", Bucket=bucket[0], Key="run/../../evil", Body=b"x")
    with pytest.raises(StoreError, match="leads out of its folder; nothing was fetched"):
        pull(url, tmp_path / "b.moe", storage_options=bucket[1])
    assert not (tmp_path / "b.moe").exists()


def test_missing_bucket_is_a_sentence(tmp_path: Path, bucket: tuple[str, dict[str, Any]]) -> None:
    with pytest.raises(InputError, match=r"s3://nowhere/run does not exist .* check the name"):
        push(store(tmp_path / "a.moe"), "s3://nowhere/run", storage_options=bucket[1])


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
    asked = ("@context", "@type", "name", "description", "url", "license", "datePublished")
    assert all(document[name] for name in asked)
    assert document["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    files = {each["@id"]: each for each in document["distribution"]}
    assert {name: each["sha256"] for name, each in files.items()} == digests(ours)
    for name, each in files.items():
        assert each["@type"] == "cr:FileObject"
        assert each["contentSize"] == f"{(ours / name).stat().st_size} B"
        assert each["contentUrl"] == name
        assert each["encodingFormat"]


# --- diff


def test_store_and_its_copy_are_the_same(tmp_path: Path) -> None:
    ours = store(tmp_path / "a.moe")
    push(ours, str(tmp_path / "shelf"))
    found = diff(ours, pull(str(tmp_path / "shelf"), tmp_path / "b.moe"))
    assert found.is_same
    assert list(found.lines()) == ["The stores hold the same: 4 prompts."]


def test_other_division_into_parts_is_no_difference_of_prompts(tmp_path: Path) -> None:
    found = diff(store(tmp_path / "a.moe"), store(tmp_path / "b.moe", part_mb=512.0))
    assert found.is_same
    assert (found.parts_shared, len(found.parts_only_in_a), len(found.parts_only_in_b)) == (0, 4, 1)


def test_diff_counts_what_was_changed(tmp_path: Path) -> None:
    ours = [sample(RESID_LAYOUT, seed=seed, n_tokens=30) for seed in range(6)]
    theirs = list(reversed(ours[:5]))  # prompts 4, 3, 2, 1, 0; number 5 is missing
    theirs[0] = replace(theirs[0], token_id=(ours[4].token_id + 1))
    weights = np.array(ours[3].expert_weights)
    weights[7, 1] = weights[7, 1, ::-1].mean()
    theirs[1] = replace(theirs[1], expert_weights=weights)
    resid = {key: np.array(values) for key, values in ours[2].resid.items()}
    resid["resid_mid", 12][3, 1] = 0.25
    theirs[2] = replace(theirs[2], resid=resid)
    settings = {"settings": {"sites": ["resid_mid"], "today": "2025-08-05"}, "model": "toy"}
    other = {"settings": {"sites": ["resid_mid"], "today": "2025-08-06"}, "model": "toy2"}
    a = write(tmp_path / "a.moe", ours, RESID_LAYOUT, provenance=settings)
    b = write(tmp_path / "b.moe", theirs, RESID_LAYOUT, provenance=other)
    found = diff(a, b)
    assert not found.is_same
    assert (found.prompts_shared, found.tokens_differ) == (5, 1)
    assert (found.routing_differs, found.residuals_differ) == (1, 1)
    assert (found.prompts_only_in_a, found.prompts_only_in_b) == (("prompt_id 5",), ())
    assert [(each.name, each.a, each.b) for each in found.settings] == [
        ("today", "2025-08-05", "2025-08-06")
    ]
    assert [each.name for each in found.provenance] == ["model"]
    assert "settings today: 2025-08-05 | 2025-08-06" in list(found.lines())


def _file(name: str, content: bytes) -> SharedFile:
    digest = hashlib.sha256(content).hexdigest()
    return SharedFile(name=name, bytes=len(content), sha256=digest)


def _edit(folder: Path, **replaced: Any) -> None:
    (folder / "manifest.json").write_text(json.dumps(manifest(folder) | replaced))
