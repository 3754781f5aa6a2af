"""How long `import interp` takes, against what a session with a model imports anyway.

    python benchmarks/import_time.py

Each import is in a process of its own, interleaved; medians. `import interp` must not import torch.
"""

import argparse
import statistics
import subprocess
import sys
import time

WAYS = {
    "python alone": "pass",
    "import interp": "import interp",
    "interp.open_store": "from interp import open_store",
    "import pandas": "import pandas",
    "import transformers": "import transformers",
    "import nnsight": "import nnsight",
    "import transformer_lens": "import transformer_lens",
}


def seconds(code: str) -> float:
    """Of a process that runs the code and ends."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)  # noqa: S603
    return time.perf_counter() - begin


def main() -> None:
    """Print a line for each import, less the time of python alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(options.rounds):
        for name, code in WAYS.items():
            found[name].append(seconds(code))
    alone = statistics.median(found["python alone"])
    usual = statistics.median(found["import transformers"]) - alone
    print("| import | seconds | of `import transformers` |")
    print("|---|---|---|")
    for name in list(WAYS)[1:]:
        took = statistics.median(found[name]) - alone
        print(f"| `{name}` | {took:.2f} | {took / usual:.2f} |")


if __name__ == "__main__":
    main()
