"""A store that is stopped and continued is the store that was never stopped."""

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from interp.cache.errors import InputError, StorageError, StoreError
from interp.cache.reader import open_store
from interp.cache.records import PromptActivations
from interp.cache.verify import verify
from interp.cache.writer import StoreWriter
from tests.store_samples import LAYOUT, PROVENANCE, RESID_LAYOUT, expect_valid, sample, write

ROOT = Path(__file__).resolve().parents[1]
PART_MB = 0.03
"""Some prompts a part."""


def prompts(n: int = 12) -> list[PromptActivations]:
    return [sample(RESID_LAYOUT, seed=seed, n_tokens=40 + seed) for seed in range(n)]


def interrupted(path: Path, n_added: int) -> Path:
    """A store whose writing failed after some prompts."""

    def write_some() -> None:
        with StoreWriter(
            path, layout=RESID_LAYOUT, provenance=PROVENANCE, part_mb=PART_MB
        ) as writer:
            for each in prompts()[:n_added]:
                writer.add(each)
            raise RuntimeError("stopped here")

    with pytest.raises(RuntimeError, match="stopped here"):
        write_some()
    return path


def continued(path: Path) -> int:
    """Write the rest, and return how many prompts were there already."""
    with StoreWriter(path, layout=RESID_LAYOUT, provenance=PROVENANCE, part_mb=PART_MB) as writer:
        n_before = writer.n_prompts
        for each in prompts()[n_before:]:
            writer.add(each)
    return n_before


def contents(path: Path) -> dict[str, bytes]:
    """All files but the time in the manifest."""
    files = {each.name: each.read_bytes() for each in path.iterdir()}
    manifest = json.loads(files["manifest.json"])
    return files | {"manifest.json": json.dumps(manifest | {"created": ""}).encode()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    path = write(folder / "s.moe", prompts(), RESID_LAYOUT, part_mb=PART_MB)
    assert len(list(path.glob("part-*.h5"))) >= 4
    return contents(path)


@pytest.mark.parametrize("n_added", [0, 1, 5, 11])
def test_a_store_that_was_stopped_ends_as_one_that_was_not(
    tmp_path: Path, whole: dict[str, bytes], n_added: int
) -> None:
    path = interrupted(tmp_path / "s.moe", n_added)
    n_before = continued(path)
    assert 0 <= n_before <= n_added
    assert contents(path) == whole
    expect_valid(path)


def test_what_a_killed_writer_left_lying_is_cleared_away(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    path = interrupted(tmp_path / "s.moe", 8)
    n_parts = len(list(path.glob("part-*.h5")))
    (path / f"part-{n_parts:05d}.h5").write_bytes(b"sealed, but not yet in the manifest")
    (path / ".part-00009.h5.tmp").write_bytes(b"half a part")
    continued(path)
    assert contents(path) == whole


def test_what_a_user_put_beside_a_store_stays(tmp_path: Path) -> None:
    path = interrupted(tmp_path / "s.moe", 8)
    notes = ("part-notes.txt", "part-1.h5", ".draft.tmp", ".part-notes.tmp")
    for name in notes:
        (path / name).write_text("mine")
    continued(path)
    assert [(path / name).read_text() for name in notes] == ["mine"] * 4


def test_a_writer_that_fails_leaves_a_folder_with_other_files(tmp_path: Path) -> None:
    """Such a folder is no empty one, and nothing is written into it."""
    (tmp_path / ".draft.tmp").write_text("mine")
    with (
        pytest.raises(InputError, match="holds something else"),
        StoreWriter(tmp_path, layout=RESID_LAYOUT, provenance=PROVENANCE),
    ):
        pass
    assert [each.name for each in tmp_path.iterdir()] == [".draft.tmp"]


@pytest.mark.parametrize("n_added", [8, 12])
def test_a_damaged_store_is_not_called_something_else(tmp_path: Path, n_added: int) -> None:
    path = interrupted(tmp_path / "s.moe", n_added)
    part = path / "part-00000.h5"
    part.write_bytes(part.read_bytes()[:-10])
    with pytest.raises(StoreError, match=r"copy the store again, or delete .* and run the same"):
        continued(path)


def test_a_complete_store_is_left_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "s.moe", prompts(), RESID_LAYOUT, part_mb=PART_MB)
    before = {each.name: each.stat().st_mtime_ns for each in path.iterdir()}
    with StoreWriter(path, layout=RESID_LAYOUT, provenance=PROVENANCE) as writer:
        assert writer.is_complete
        assert writer.n_prompts == 12
    assert {each.name: each.stat().st_mtime_ns for each in path.iterdir()} == before


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"provenance": {"model": "other", "revision": "r1"}}, "model, versions"),
        ({"layout": replace(RESID_LAYOUT, top_k=1)}, "top_k"),
        ({"part_mb": 1.0}, "part_mb"),
        ({"tier": "no_text"}, "tier"),
    ],
)
def test_another_capture_does_not_continue_it(
    tmp_path: Path, changed: dict[str, object], named: str
) -> None:
    path = interrupted(tmp_path / "s.moe", 8)
    before = contents(path)
    given = {"layout": RESID_LAYOUT, "provenance": PROVENANCE, "part_mb": PART_MB} | changed
    with (
        pytest.raises(InputError, match=f"holds another capture, which differs in {named};"),
        StoreWriter(path, **given),  # type: ignore[arg-type]
    ):
        pass
    assert contents(path) == before


def test_a_sealed_part_that_changed_is_not_built_upon(tmp_path: Path) -> None:
    path = interrupted(tmp_path / "s.moe", 8)
    last = sorted(path.glob("part-*.h5"))[-1]
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(content)
    with pytest.raises(InputError, match="is not what its manifest says; delete"):
        continued(path)


@pytest.mark.slow
def test_a_second_writer_is_refused_and_the_first_goes_on(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    path = tmp_path / "s.moe"
    code = textwrap.dedent(
        f"""
        from pathlib import Path
        from interp.cache.writer import StoreWriter
        from tests.store_samples import PROVENANCE, RESID_LAYOUT
        with StoreWriter(Path({str(path)!r}), layout=RESID_LAYOUT, provenance=PROVENANCE):
            pass
        """
    )
    with StoreWriter(path, layout=RESID_LAYOUT, provenance=PROVENANCE, part_mb=PART_MB) as writer:
        for number, each in enumerate(prompts()):
            writer.add(each)
            if number == 6:
                second = subprocess.run(
                    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
                )
    assert second.returncode == 1
    assert f"InputError: another process is writing to {path}" in second.stderr
    assert contents(path) == whole


WRITER = """
import sys
from pathlib import Path
from tests.test_resume import PART_MB, PROVENANCE, RESID_LAYOUT, prompts
from interp.cache.writer import StoreWriter

with StoreWriter(
    Path(sys.argv[1]), layout=RESID_LAYOUT, provenance=PROVENANCE, part_mb=PART_MB
) as writer:
    print("begun", flush=True)
    for each in prompts()[writer.n_prompts :]:
        writer.add(each)
"""


def killed_and_continued(path: Path, rng: np.random.Generator) -> int:
    """Kill the writer up to three times at random moments; return how often it died."""
    n_killed = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.08))
        process.send_signal(signal.SIGKILL)
        n_killed += process.wait() == -signal.SIGKILL
        process.stdout.close()
    continued(path)
    return n_killed


@pytest.mark.slow
def test_a_killed_writer_is_continued_to_the_same_bytes(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    """benchmarks/reliability.py does it 200 times."""
    rng = np.random.default_rng(0)
    n_killed = 0
    for run in range(20):
        path = tmp_path / str(run) / "s.moe"
        path.parent.mkdir()
        n_killed += killed_and_continued(path, rng)
        assert contents(path) == whole
    assert n_killed >= 20


def test_a_full_disk_is_a_sentence_and_loses_nothing(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    """A limit on the size of files stands for the disk; see also the slow test."""
    path = tmp_path / "s.moe"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, hard))
    try:
        with pytest.raises(StorageError, match=r"part-00000\.h5 needs .* no space") as caught:
            write(path, prompts(), RESID_LAYOUT, part_mb=PART_MB)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.exit_code == 5
    assert not path.exists()
    continued(path)
    assert contents(path) == whole


@pytest.mark.parametrize(
    "keep", [0, 7, 19, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 19) if n != 7)]
)
def test_a_disk_that_fills_up_at_any_write_leaves_what_was_sealed(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    """The system refuses the space for one of the files, wherever in the run that is."""
    path, reserved, usual = tmp_path / "s.moe", [0], os.posix_fallocate

    def refusing(descriptor: int, offset: int, length: int) -> None:
        reserved[0] += 1
        if reserved[0] > keep:
            raise OSError(28, "No space left on device")
        usual(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", refusing)
    n_files = len(whole) + len([each for each in whole if each.endswith(".h5")]) + 1
    if keep < n_files:
        with pytest.raises(StorageError, match="there is no space for it"):
            write(path, prompts(), RESID_LAYOUT, part_mb=PART_MB)
    else:
        write(path, prompts(), RESID_LAYOUT, part_mb=PART_MB)
    monkeypatch.undo()
    continued(path)
    assert contents(path) == whole


@pytest.mark.slow
def test_a_store_of_many_parts_is_sound(tmp_path: Path) -> None:
    path = write(tmp_path / "s.moe", prompts(), RESID_LAYOUT, part_mb=PART_MB)
    found = verify(path)
    assert (found.n_prompts, found.n_parts) == (12, len(list(path.glob("part-*.h5"))))
    assert found.n_tokens == open_store(path).n_tokens == sum(range(40, 52))


def test_no_part_is_larger_than_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "s.moe", prompts(), RESID_LAYOUT, part_mb=PART_MB)
    sizes = [each.stat().st_size for each in path.glob("part-*.h5")]
    assert max(sizes) <= PART_MB * 10**6
    assert min(sizes[:-1]) > PART_MB * 10**6 / 3


def test_a_folder_with_parts_but_no_manifest_is_not_taken_for_a_leftover(tmp_path: Path) -> None:
    path = write(tmp_path / "s.moe", [sample()])
    (path / "manifest.json").unlink()
    with (
        pytest.raises(InputError, match=r"holds something else .* no manifest\.json"),
        StoreWriter(path, layout=LAYOUT, provenance=PROVENANCE),
    ):
        pass
    assert (path / "part-00000.h5").exists()
