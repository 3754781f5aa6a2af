"""How the documentation is built: `make docs` puts it into build/html."""

import logging
import os
import sys
from pathlib import Path
from shutil import copy
from tempfile import mkdtemp

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["PYTHONPATH"] = str(ROOT)
os.environ.setdefault("TQDM_DISABLE", "1")

logging.getLogger("traitlets").setLevel(logging.WARNING)

# Examples run with a bare kernel, whatever the builder's own IPython starts with.
os.environ["IPYTHONDIR"] = mkdtemp()
profile = Path(os.environ["IPYTHONDIR"], "profile_default")
(profile / "startup").mkdir(parents=True)
copy(ROOT / "docs/bash_cells.py", profile / "startup")
(profile / "ipython_kernel_config.py").write_text("get_config().Application.log_level = 'ERROR'\n")

from sphinx.application import Sphinx  # noqa: E402

from interp import __version__  # noqa: E402

project = "moe-interp"
project_copyright = "the moe-interp authors, Apache-2.0"
release = version = __version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "public_names",
]
language = "en"
highlight_language = "none"

html_theme = "furo"
html_title = f"moe-interp {release}"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["pages.css"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

nb_execution_mode = "auto"
nb_execution_show_tb = True
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_output_stderr = "remove"
nb_merge_streams = True

default_role = "code"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

PAGES = {"../interp/organisms/toy/README.md": "toy.md"}
"""Files beside the code that are pages here."""


def to_pages(_app: Sphinx, _name: str, source: list[str]) -> None:
    """Links that lead to a file beside the code lead to its page instead."""
    for path, page in PAGES.items():
        source[0] = source[0].replace(f"]({path})", f"]({page})")


def setup(app: Sphinx) -> None:
    """Links are changed as the pages are read."""
    app.connect("source-read", to_pages)
