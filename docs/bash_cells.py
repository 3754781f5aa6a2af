"""Cells that begin with %%bash: what they print is one piece, and what fails stops the build."""

import subprocess
import sys

from IPython.core.magic import register_cell_magic


@register_cell_magic
def bash(_line: str, cell: str) -> None:
    """Run the cell; the kernel's own magic would cut the output every hundred bytes."""
    command = ["bash", "-euo", "pipefail", "-c", cell]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if ran.returncode:
        raise RuntimeError(ran.stderr)
    sys.stdout.write(ran.stdout)
