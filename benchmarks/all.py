"""Every claim on speed and size, measured again, in one file; `make bench`.

    python benchmarks/all.py                       # into build/benchmarks.md
    python benchmarks/all.py --only capture stream

Each claim has a script that compares with a named alternative in the same run; here they run one
after the other, at sizes that fit two cores and 20 minutes in all. `docs/benchmarks.md` says what
larger runs gave.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from interp.cache.versions import installed_versions

HERE = Path(__file__).resolve().parent
PACKAGES = (
    "moe-interp",
    "torch",
    "transformers",
    "transformer-lens",
    "nnsight",
    "scikit-learn",
    "h5py",
    "plotly",
)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is measured, and how."""

    says: str
    """What the script compares with what."""
    arguments: tuple[str, ...] = ()
    one_thread: bool = False
    """Whether numerical libraries get one thread, as the script asks."""


CLAIMS = {
    "import_time": Claim(says="importing this package, against transformers"),
    "capture": Claim(
        says="a pass with taps, against the bare pass, TransformerLens and nnsight",
        arguments=("--batch", "4", "--rounds", "9"),
    ),
    "store_speed": Claim(
        says="writing and reading residuals, against a raw file",
        arguments=("--batches", "8", "--rounds", "5", "--touch-gb", "0"),
    ),
    "open_store": Claim(says="opening a store", arguments=("--prompts", "2000")),
    "remote_read": Claim(says="bytes moved, against bytes wanted", arguments=("--mb", "100")),
    "divergence_speed": Claim(
        says="usage and divergence, against pandas and plain numpy",
        arguments=("--repeats", "3", "--skip-streaming"),
    ),
    "effects": Claim(says="tests of experts, against a pass over the slots", one_thread=True),
    "probe_sweep": Claim(
        says="a sweep of probes, against scikit-learn",
        arguments=("--layers", "1", "--prompts", "1000", "--d", "1440"),
        one_thread=True,
    ),
    "stream": Claim(
        says="layer-streamed capture, against the same layers in memory",
        arguments=(
            "--layers",
            "2",
            "--tokens",
            "4096",
            "--folder",
            "build/streamed-benchmark",
        ),
    ),
    "report": Claim(
        says="the report, against one with all of plotly.js", arguments=("--rounds", "3")
    ),
}


def measured(name: str, claim: Claim) -> tuple[str, float, bool]:
    """What a script printed, how long it took, and whether it ended well."""
    threads = {"OMP_NUM_THREADS": "1"} if claim.one_thread else {}
    begin = time.perf_counter()
    done = subprocess.run(  # noqa: S603 - scripts of this folder
        [sys.executable, str(HERE / f"{name}.py"), *claim.arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **threads},
    )
    said = done.stdout if done.returncode == 0 else done.stdout + done.stderr[-2000:]
    return said, time.perf_counter() - begin, done.returncode == 0


def main() -> None:
    """Run every script, write the file, and fail where one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=CLAIMS, default=list(CLAIMS))
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks.md"))
    options = parser.parse_args()
    versions = ", ".join(f"{name} {each}" for name, each in installed_versions(PACKAGES).items())
    cores = os.cpu_count()
    lines = [
        "# Benchmarks of this machine",
        "",
        f"{platform.processor()}, {cores} cores; {versions}.",
    ]
    failed = []
    for name in options.only:
        print(f"{name}: {CLAIMS[name].says}", file=sys.stderr)
        said, seconds, is_sound = measured(name, CLAIMS[name])
        command = " ".join((f"benchmarks/{name}.py", *CLAIMS[name].arguments))
        lines += ["", f"## {CLAIMS[name].says}", "", f"`{command}`, {seconds:.0f} s", "", said]
        failed += [] if is_sound else [name]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(options.out)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; {options.out} says why")


if __name__ == "__main__":
    main()
