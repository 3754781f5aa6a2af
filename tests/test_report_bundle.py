"""The committed bundle of plotly.js is the one that plotly.py writes for, small, and licensed."""

import json
import re
from pathlib import Path

from plotly.offline import get_plotlyjs_version

BUNDLE = Path(__file__).parents[1] / "interp" / "plotly_bundle"


def test_the_bundle_is_of_the_plotly_js_that_plotly_py_brings() -> None:
    """Another version of plotly.py may write what this bundle does not know; build it anew."""
    built = json.loads((BUNDLE / "package.json").read_text())["dependencies"]["plotly.js"]
    script = (BUNDLE / "plotly.min.js").read_text()
    assert script.startswith(f"/* plotly.js v{built};")
    assert built == get_plotlyjs_version()


def test_the_bundle_is_below_1_5_mb_and_cannot_end_its_script() -> None:
    script = (BUNDLE / "plotly.min.js").read_bytes()
    assert len(script) < 1.5e6
    assert not re.search(rb"<(/script|script|!--)|\r", script, re.IGNORECASE)


def test_the_licences_name_plotly_and_every_package_in_the_bundle() -> None:
    licences = (BUNDLE / "LICENSES.txt").read_text()
    assert "MIT License\n\nCopyright (c) 2016-2024 Plotly Technologies Inc." in licences
    for name in ("plotly.js", "@plotly/d3", "@plotly/d3-sankey", "culori"):
        assert re.search(rf"^{name} [0-9.]+ \(", licences, re.MULTILINE), name
