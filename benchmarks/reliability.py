"""What a store survives: killed writers, full disks, damage, readers and writers at once.

Run as `python benchmarks/reliability.py kill`, or `full`, `flips`, `readers`, in a checkout
with the extra `capture`. Each prints one JSON object, with exit code 1 if what docs/reliability.md
claims does not hold. All is done in forked processes, so that what crashes or hangs is counted.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reliability_children import Figures
from reliability_flips import flips
from reliability_full import full
from reliability_kill import kill
from reliability_readers import readers


def main() -> None:
    """Run one of them, print one JSON object, and fail where a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_subparsers(required=True)
    sizes: dict[Callable[..., Figures], dict[str, float]] = {
        kill: {"runs": 200, "commands": 10, "seed": 0},
        full: {"sizes": 20},
        flips: {"damages": 2000, "seed": 0},
        readers: {"readers": 8, "republishes": 20, "seconds_between": 1.5, "writers": 20},
    }
    for run, defaults in sizes.items():
        each = which.add_parser(run.__name__, description=run.__doc__)
        each.set_defaults(run=run)
        for name, value in defaults.items():
            each.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args()
    started = time.monotonic()
    found = options.run(options)
    print(json.dumps(found | {"seconds": round(time.monotonic() - started, 1)}, indent=1))
    sys.exit(0 if found["holds"] else 1)


if __name__ == "__main__":
    main()
