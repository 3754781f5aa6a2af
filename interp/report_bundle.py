"""The scripts of the report and the policy that lets these run, and nothing else."""

import base64
import hashlib
from functools import cache
from importlib.resources import files

SCRIPTS = ("page", "figures", "tokens", "tables", "start")
"""Parts of the page's own script, in this order: `report_<part>.js`."""


@cache
def package_text(name: str) -> str:
    """A file of the package as text."""
    return files("interp").joinpath(name).read_text(encoding="utf-8")


def plotly_script() -> str:
    """plotly.js with the trace types of the report; see interp/plotly_bundle/build.mjs."""
    return package_text("plotly_bundle/plotly.min.js")


def plotly_licences() -> str:
    """Licences of plotly.js and of what is in the bundle."""
    return package_text("plotly_bundle/LICENSES.txt")


def page_script() -> str:
    """The page's own script."""
    parts = "\n".join(package_text(f"report_{part}.js") for part in SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}\n}})();\n'


def content_security_policy(*scripts: str) -> str:
    """No request at all; scripts by their digest; pictures only from the page itself.

    Plotly sets styles of its own, so inline styles stay allowed; with no request they can leak
    nothing.
    """
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
