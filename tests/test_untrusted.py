"""Parts from strangers: hostile kinds are refused, nothing else is opened, nothing here dies."""

import ctypes
import os
import re
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from interp.cache import sandbox
from interp.cache.audit import audit_part
from interp.cache.errors import StoreError
from interp.cache.sandbox import Verdict, audited, audited_all, verdicts
from tests.hostile_parts import HOSTILE, LAYOUT, place_secrets, sound_part
from tests.part_mutants import mutants, read_back
from tests.store_samples import sample, write

pytestmark = pytest.mark.slow

NOT_PLAIN = ("pipe", "symbolic link", "folder", "nothing at all")
WATCHED = 0x1 | 0x2 | 0x20 | 0x100
"""inotify: read, written, opened, made."""
LINUX = sys.platform.startswith("linux")
MAIN = "from interp.cache.audit_child import main; main(files)"


def verdicts_on(paths: list[Path]) -> list[Verdict]:
    files = [os.open(path, os.O_RDONLY) for path in paths]
    try:
        return verdicts(files)
    finally:
        for file in files:
            os.close(file)


class Watch:
    """What happens in a folder, as the kernel sees it."""

    def __init__(self, folder: Path) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        self.file = library.inotify_init1(os.O_NONBLOCK)
        assert library.inotify_add_watch(self.file, os.fsencode(folder), WATCHED) > 0

    def events(self) -> int:
        try:
            return len(os.read(self.file, 2**16))
        except BlockingIOError:
            return 0


@pytest.fixture(scope="module")
def hostile_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of each kind, `<kind>.h5`, made from a sound part; secrets in `elsewhere`."""
    folder = tmp_path_factory.mktemp("hostile")
    place_secrets(folder / "elsewhere")
    sound = sound_part(folder).read_bytes()
    for kind, (make, _) in HOSTILE.items():
        path = folder / f"{kind}.h5"
        path.write_bytes(sound)
        make(path, folder / "elsewhere")
    return folder


@pytest.fixture(scope="module")
def watched(hostile_folder: Path) -> tuple[dict[str, Verdict], int]:
    """The verdict on each kind, and what was opened elsewhere meanwhile."""
    kinds = [kind for kind in HOSTILE if kind not in NOT_PLAIN]
    watch = Watch(hostile_folder / "elsewhere") if LINUX else None
    found = verdicts_on([hostile_folder / f"{kind}.h5" for kind in kinds])
    seen = watch.events() if watch else 0
    if watch:
        (hostile_folder / "elsewhere" / "secret.raw").read_bytes()
        assert watch.events() > 0, "the watch sees nothing, so it proves nothing"
        os.close(watch.file)
    return dict(zip(kinds, found, strict=True)), seen


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind not in NOT_PLAIN])
def test_hostile_kind_is_refused_for_its_fault(
    kind: str, watched: tuple[dict[str, Verdict], int]
) -> None:
    verdict = watched[0][kind]
    assert re.search(HOSTILE[kind][1], verdict.fault), verdict
    assert verdict.signal == 0


def test_hostile_parts_open_nothing_elsewhere(
    watched: tuple[dict[str, Verdict], int], hostile_folder: Path
) -> None:
    assert watched[1] == 0
    assert not (hostile_folder / "elsewhere" / "sprung").exists()


def test_there_are_at_least_25_kinds() -> None:
    assert len(HOSTILE) >= 25


@pytest.mark.parametrize("kind", [*NOT_PLAIN, "external storage", "gzip bomb"])
def test_audited_names_the_part_and_what_to_do(kind: str, hostile_folder: Path) -> None:
    path = hostile_folder / f"{kind}.h5"
    with pytest.raises(StoreError, match=HOSTILE[kind][1]) as caught:
        audited(path)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).endswith("get the store again, from someone you trust")


def test_audit_in_this_process_names_part_and_object(hostile_folder: Path) -> None:
    with pytest.raises(StoreError, match=r"soft link\.h5: alias is a soft link, expected a hard"):
        audit_part(hostile_folder / "soft link.h5")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resid_dtype": "float32", "resid_sites": ("resid_post",)},
        {"resid_dtype": "float16", "weights_dtype": "float16"},
        {"resid_sites": (), "router_logits": False, "expert_output_norms": False},
        {"resid_sites": (), "vocab_local": True, "n_experts": 300},
    ],
)
def test_sound_parts_pass(tmp_path: Path, changes: dict[str, object]) -> None:
    layout = replace(LAYOUT, **changes)
    options = {"vocab": ["word"] * 50} if layout.vocab_local else {}
    store = write(tmp_path / "s.moe", [sample(layout, seed=at) for at in (0, 1)], layout, **options)
    audited_all(sorted(store.glob("*.h5")))


def test_unknown_dataset_of_a_later_version_passes(tmp_path: Path) -> None:
    part = sound_part(tmp_path)
    with h5py.File(part, "r+", libver=("v110", "v110")) as opened:
        opened.create_dataset("later/things", data=np.arange(9, dtype="<u2"), fletcher32=True)
    audited(part)


def test_first_part_that_is_not_sound_is_named(tmp_path: Path, hostile_folder: Path) -> None:
    bad = hostile_folder / "virtual dataset.h5"
    with pytest.raises(StoreError, match=r"virtual dataset\.h5 is not safe to open"):
        audited_all([sound_part(tmp_path), bad, hostile_folder / "soft link.h5"])


def with_audit(monkeypatch: pytest.MonkeyPatch, statement: str) -> None:
    """Let the child run a statement in place of the audit, under the same limits."""
    names = "import os, sys, time; import interp.cache.audit_child as child"
    replaced = f"{names}\ndef audit_file(file):\n {statement}\nchild.audit_file = audit_file\n"
    boot = sandbox._BOOT.replace(MAIN, f"\nexec({replaced!r}); child.main(files)")
    assert boot != sandbox._BOOT
    monkeypatch.setattr(sandbox, "_BOOT", boot)


@pytest.mark.parametrize(
    ("statement", "match"),
    [
        ("os.kill(os.getpid(), 11)", r"crashes the reader \(SIGSEGV\)"),
        ("os.abort()", r"crashes the reader \(SIGABRT\)"),
        ("bytearray(2**31)", "MemoryError"),
        ("os._exit(0)", "ended without an answer"),
        ("os._exit(3)", "ended without an answer"),
        ("os.write(1, b'noise')", r"cannot be read \(OSError\)"),
        ("raise child.StoreError('x' * 5000)", "ended without an answer"),
        ("open('/etc/hostname')", "cannot be read|ended without an answer"),
        ("os.pipe()", "cannot be read|ended without an answer"),
        ("os.open(sys.executable, os.O_RDONLY)", "cannot be read|ended without an answer"),
        ("child._audited.__globals__['CPU_SECONDS'] = 1\n while True: pass", "takes longer"),
    ],
)
def test_however_the_child_ends_the_part_is_refused(
    statement: str,
    match: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with_audit(monkeypatch, statement)
    with pytest.raises(StoreError, match=match):
        audited(sound_part(tmp_path))
    assert capfd.readouterr() == ("", "")


def test_what_the_child_says_aside_is_not_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with_audit(monkeypatch, "os.write(2, b'noise'); print('noise')")
    audited(sound_part(tmp_path))
    assert capfd.readouterr() == ("", "")


def test_a_child_that_sleeps_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_audit(monkeypatch, "time.sleep(600)")
    slow = "child.wall_seconds = lambda _: 1; child.main(files)"
    monkeypatch.setattr(sandbox, "_BOOT", sandbox._BOOT.replace("child.main(files)", slow))
    start = time.monotonic()
    with pytest.raises(StoreError, match="takes longer than a part of this size may"):
        audited(sound_part(tmp_path))
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    "program",
    [
        "pass",
        "print('nonsense')",
        "print('[' * 100000)",
        "print('{\"landlock\": 0}')",
        "import os\nwhile True: os.write(1, b'x' * 4096)",
    ],
)
def test_nonsense_from_the_child_is_no_verdict(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_BOOT", program)
    with pytest.raises(StoreError, match=r"did not start|ended without an answer"):
        audited(sound_part(tmp_path))


def test_message_of_a_hostile_name_cannot_steer_a_terminal(tmp_path: Path) -> None:
    part = sound_part(tmp_path)
    with h5py.File(part, "r+", libver=("v110", "v110")) as opened:
        opened["\x1b[31mred\n"] = h5py.SoftLink("/x")
    with pytest.raises(StoreError, match=r"\?\[31mred\? is a soft link"):
        audited(part)


def test_confined_process_opens_no_file_and_no_connection() -> None:
    program = (
        "import socket\nfrom interp.cache.audit_child import confine\nversion = confine()\n"
        "for attempt in (lambda: open('/etc/hostname'), lambda: open('/dev/zero')):\n"
        "    try: attempt()\n    except PermissionError: print('refused', version)\n"
        "    else: print('opened', version)\n"
        "try: socket.create_connection(('127.0.0.1', 9), 1)\n"
        "except PermissionError: print('no network')\n"
        "except OSError as error: print('network', error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    lines = ran.stdout.splitlines()
    version = int(lines[0].split()[1])
    assert lines[:2] == [f"{'refused' if version else 'opened'} {version}"] * 2
    assert version < 4 or lines[2] == "no network"


def test_a_signed_size_in_the_header_is_read_as_it_stands(tmp_path: Path) -> None:
    """A claim of 2**64 - 2 bytes in the superblock is no end of the file."""
    part = sound_part(tmp_path)
    data = bytearray(part.read_bytes())
    data[28:36] = struct.pack("<Q", 2**64 - 2)
    part.write_bytes(data)
    with pytest.raises(StoreError, match="its superblock says 18446744073709551614"):
        audited(part)


def test_mutants_never_kill_this_process_and_what_passes_can_be_read(tmp_path: Path) -> None:
    sound = sound_part(tmp_path).read_bytes()
    damaged = list(mutants(sound, n=300, seed=0))
    paths = []
    for number, (_, data) in enumerate(damaged):
        paths.append(tmp_path / f"{number}.h5")
        paths[-1].write_bytes(data)
    found = [each for at in range(0, 300, 100) for each in verdicts_on(paths[at : at + 100])]
    assert len(found) == 300
    assert all(each.cpu_seconds <= 3 and each.peak_mib <= 1024 for each in found)
    assert all(each.fault for each in found if each.signal)
    assert sum(not each.fault for each in found) < 150
    passed = [at for at, each in enumerate(found) if not each.fault]
    original, *again = read_back([sound, *(damaged[at][1] for at in passed)])
    assert len(again) == len(passed)
    assert not [each for each in again if each.startswith("crash")]
    for at, each in zip(passed, again, strict=True):
        if "repaired" not in damaged[at][0]:
            assert each == original or each.startswith("refused"), damaged[at][0]
