"""Push and pull: a Hub on this machine, moto's bucket, and addresses that can only be read."""

import hashlib
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from interp.cache.errors import InputError, StoreError
from interp.cache.reader import open_store
from interp.cache.receive import staged_path
from interp.cache.sharing import pull, push
from tests.faulty_server import Fault, faulty_server
from tests.hub_server import Entry, Hub
from tests.sharing_samples import (
    HUB_WARNS,
    REPO,
    bucket,
    changed,
    digests,
    hub,
    manifest,
    store,
)

__all__ = ["bucket", "hub"]

pytestmark = pytest.mark.slow


# --- addresses that can only be read


def served(folder: Path) -> dict[str, bytes]:
    return {f"/run/{each.name}": each.read_bytes() for each in folder.iterdir()}


def test_store_on_a_web_server_is_pulled(tmp_path: Path) -> None:
    ours = store(tmp_path / "a.moe")
    with faulty_server(served(ours)) as server:
        pulled = pull(f"{server.url}/run", tmp_path / "b.moe")
        assert digests(pulled) == digests(ours)
        assert (pulled / "README.md").read_bytes() == (ours / "README.md").read_bytes()
        server.forget()
        pull(f"{server.url}/run/", tmp_path / "b.moe")
        assert not [each for each in server.requests if each.path.endswith(".h5")]
    assert (pulled / ".pulled").exists()


def test_server_without_ranges_and_store_without_indexes_are_pulled(tmp_path: Path) -> None:
    """What cannot be read from afar, and what those errors advise."""
    ours = store(tmp_path / "a.moe")
    document = manifest(ours)
    for part in document["parts"]:
        del part["index_bytes"], part["index_sha256"]
    for name in ("provenance", "content_sha256"):
        del document[name]
    (ours / "manifest.json").write_text(json.dumps(document))
    for each in ours.glob("*.index.json"):
        each.unlink()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """No line for each request."""

    handler = partial(Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/a.moe"
        try:
            with pytest.raises(StoreError, match="pull the store with interp pull and open"):
                open_store(url)
            assert digests(pull(url, tmp_path / "b.moe")) == digests(ours)
        finally:
            server.shutdown()
            thread.join()
    assert open_store(tmp_path / "b.moe").n_tokens == 120


def test_store_at_a_file_url_is_pulled(tmp_path: Path) -> None:
    ours = store(tmp_path / "a.moe")
    assert digests(pull(ours.as_uri(), tmp_path / "b.moe")) == digests(ours)
    with pytest.raises(InputError, match="holds no store that is finished"):
        pull((tmp_path / "none").as_uri(), tmp_path / "c.moe")


def test_other_bytes_of_a_web_server_are_not_taken(tmp_path: Path) -> None:
    with faulty_server(served(store(tmp_path / "a.moe"))) as server:
        server.faults = [Fault(kind="wrong_bytes", on="part-00001.h5")]
        with pytest.raises(StoreError, match=r"part-00001\.h5 arrived with"):
            pull(f"{server.url}/run", tmp_path / "b.moe")
    assert not list((tmp_path / "b.moe").glob("part-*"))


@pytest.mark.parametrize("url", ["https://example.com/run", "hf://datasets/me/run/folder"])
def test_address_that_can_only_be_read_takes_no_push(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match="can only be pulled from, and not be pushed to"):
        push(store(tmp_path / "a.moe"), url)


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
    files = hub.repositories["me/run"].tree("main")
    card = files["README.md"].content.decode()
    described = json.loads(files["croissant.json"].content)
    assert described["url"].startswith("hf://datasets/me/run")
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
def test_history_of_the_hub_keeps_another_capture(tmp_path: Path, hub: Hub) -> None:
    ours = store(tmp_path / "a.moe")
    first = push(ours, REPO)
    pushed = push(store(tmp_path / "b.moe", provenance={"model": "another"}), REPO)
    assert first.replaced == ()
    assert pushed.replaced[0] == "provenance.model is toy there and another here"
    assert digests(pull(f"{REPO}@{first.revision}", tmp_path / "c.moe")) == digests(ours)


@pytest.mark.filterwarnings(HUB_WARNS)
def test_store_in_a_folder_of_the_hub_is_pulled(tmp_path: Path, hub: Hub) -> None:
    ours = store(tmp_path / "a.moe")
    push(ours, REPO)
    tree = hub.repositories["me/run"].tree("main")
    for name in list(tree):
        tree[f"some/run/{name}"] = tree.pop(name)
    assert digests(pull(f"{REPO}@main/some/run", tmp_path / "b.moe")) == digests(ours)
    commit = hub.repositories["me/run"].branches["main"]
    assert digests(pull(f"{REPO}@{commit}/some/run", tmp_path / "b.moe")) == digests(ours)
    assert digests(pull(f"{REPO}/some/run", tmp_path / "b.moe")) == digests(ours)


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


def test_bucket_loses_another_capture_only_when_told(
    tmp_path: Path, bucket: tuple[str, dict[str, Any]]
) -> None:
    url, options = f"s3://{bucket[0]}/run", bucket[1]
    push(store(tmp_path / "a.moe"), url, storage_options=options)
    other = store(tmp_path / "b.moe", provenance={"model": "another"})
    with pytest.raises(InputError, match="holds another capture, which would be lost"):
        push(other, url, storage_options=options)
    push(other, url, storage_options=options, replace=True)
    assert digests(pull(url, tmp_path / "c.moe", storage_options=options)) == digests(other)


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
