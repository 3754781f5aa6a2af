"""The HTML pieces that every section of the report is made of; all text is escaped here."""

import base64
import re
import zlib
from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

LEGEND_ROW, NO_LEGEND = 48, 14
"""Pixels above a plot with a legend, and without; more rows make more room by themselves."""
UNRECORDED = "The results hold no numbers for this panel, and no reason was recorded."
PACKED = "application/x-deflate"
"""Type of the scripts that hold packed content, so that no browser runs them."""
ENDS = ("?", "!", ".")
"""Marks after which a title needs no full stop."""
NO_SCRIPT = (
    '<noscript><p class="absent">This figure needs JavaScript. What it says stands below, with '
    "the first rows of its numbers.</p></noscript>"
)
LARGEST_FIRST = (
    *("surface_adjusted_effect", "effect", "association", "npmi", "saliency", "interaction"),
    *("usage_prompt_mean", "usage"),
)
"""Columns by whose size the rows of a longer table are put first, the first that it has."""
STATIC_ROWS = 12
"""Rows of a table that a reader without JavaScript sees; results.json has all of them."""
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
"""What turns the text around it, what nobody sees, and halves of letters that no file can hold."""


def told(text: object) -> str:
    """Any text as HTML: markup escaped, marks that would reorder the page shown by their number."""
    return escape(UNSEEN.sub(lambda mark: f"⟨U+{ord(mark[0]):04X}⟩", str(text)))


def prose(text: str) -> str:
    """Escaped, and no line breaks between a number and its unit."""
    return told(text).replace(" %", "&nbsp;%").replace("n = ", "n&nbsp;=&nbsp;")


def section(name: str, heading: str, drawn: str) -> str:
    """A section with its heading."""
    return f'<section id="{name}"><h2>{told(heading)}</h2>{drawn}</section>'


def absent_block(reasons: Sequence[str]) -> str:
    """What stands in the place of something that is not shown: why not."""
    return "".join(
        f'<p class="absent"><strong>Not shown here.</strong> {told(reason)}</p>'
        for reason in reasons
    )


def figure_block(name: str, figure: go.Figure, *, wide: bool = False) -> str:
    """A figure with title and subtitle as HTML, which wraps on a narrow screen; SVG does not."""
    subtitle, summary = figure.layout.title.subtitle.text, figure.layout.meta["summary"]
    title = figure.layout.title.text
    top = NO_LEGEND if figure.layout.updatemenus else LEGEND_ROW
    stop = "" if title.endswith(ENDS) else "."
    height = figure.layout.height - figure.layout.margin.t + top
    return (
        f'<figure><p class="subtitle"><strong>{told(title)}{stop}</strong> {prose(subtitle)}</p>'
        f'<div class="views" role="group" aria-label="Views of: {told(title)}"></div>'
        f'<div class="scroll{" wide" if wide else ""}"><div class="plot" role="img" tabindex="0" '
        f'data-figure="{name}" data-top="{top}" style="height:{height:.0f}px" '
        f'aria-label="{told(f"{title}{stop} {summary}")}"></div></div>{NO_SCRIPT}'
        f'<div class="saves" role="group" aria-label="Save: {told(title)}"></div>'
        f'<figcaption class="finding">{prose(summary)}</figcaption></figure>'
        + packed_json(f"figure-{name}", figure.to_json())
    )


def packed_json(name: str, text: str) -> str:
    """JSON inside the page, packed as bytes are."""
    return packed_bytes(name, text.encode("utf-8", "surrogatepass"))


def packed_bytes(name: str, content: bytes) -> str:
    """Bytes inside the page, deflated and in base64: small, and no text in them can be markup."""
    encoded = base64.b64encode(zlib.compress(content, 9)).decode("ascii")
    return f'<script type="{PACKED}" id="{name}">{encoded}</script>'


def unpacked_bytes(page: str, name: str) -> bytes:
    """What `packed_bytes` put into a page under this name.

    Raises:
        ValueError: If it put nothing there.
    """
    found = re.search(rf'<script type="{PACKED}" id="{name}">([^<]*)<', page)
    if found is None:
        raise ValueError(f"the page holds nothing packed under the name {name}")
    return zlib.decompress(base64.b64decode(found[1]))


def static_table(name: str, table: pd.DataFrame) -> str:
    """The first rows of a table, the largest effects first, for a reader without JavaScript."""
    by = next((column for column in LARGEST_FIRST if column in table), None)
    by = by if len(table) > STATIC_ROWS else None
    ordered = table if by is None else _by_size(table, by)
    shown, order = ordered.iloc[:STATIC_ROWS], f", largest {by} first" if by else ""
    head = "".join(f'<th class="number">{told(column)}</th>' for column in shown)
    body = "".join(
        "<tr>" + "".join(f'<td class="number">{told(_cell(value))}</td>' for value in row) + "</tr>"
        for row in shown.itertuples(index=False)
    )
    return (
        f'<noscript><p class="hint">Table {told(name)}, {len(shown)} of {len(table):,} rows'
        f"{order}</p>"
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></noscript>"
    )


def _by_size(table: pd.DataFrame, column: str) -> pd.DataFrame:
    return table.sort_values(column, key=np.abs, ascending=False, kind="stable")


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "none"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"
