"""The HTML pieces that every section of the report is made of; all text is escaped here."""

from collections.abc import Sequence
from html import escape

import pandas as pd
import plotly.graph_objects as go

LEGEND_ROW = 44
"""Pixels above a plot, for its legend or buttons; more rows make more room by themselves."""
UNRECORDED = "The results hold no numbers for this panel, and no reason was recorded."


def section(name: str, heading: str, drawn: str, reasons: Sequence[str]) -> str:
    """A section; without anything drawn it holds the reasons in the panel's place."""
    told = reasons or ([] if drawn else [UNRECORDED])
    absent = "".join(
        f'<p class="absent"><strong>Not shown here.</strong> {escape(reason)}</p>'
        for reason in told
    )
    return f'<section id="{name}"><h2>{heading}</h2>{drawn}{absent}</section>'


def figure_block(name: str, figure: go.Figure, *, wide: bool = False) -> str:
    """A figure with title and subtitle as HTML, which wraps on a narrow screen; SVG does not."""
    subtitle, summary = figure.layout.title.subtitle.text, figure.layout.meta["summary"]
    title = figure.layout.title.text
    drawn = go.Figure(figure).update_layout(title=None, margin_t=LEGEND_ROW)
    plot_id = f"{name}-json"
    return (
        f'<figure><p class="subtitle"><strong>{escape(title)}.</strong> {prose(subtitle)}</p>'
        f'<div class="scroll{" wide" if wide else ""}"><div class="plot" role="img" '
        f'data-figure="{plot_id}" style="height:{figure.layout.height:.0f}px" '
        f'aria-label="{escape(f"{title}. {summary}")}"></div></div>'
        f'<figcaption class="finding">{prose(summary)}</figcaption></figure>'
        + json_script(plot_id, drawn.to_json())
    )


def prose(text: str) -> str:
    """Escaped, and no line breaks between a number and its unit."""
    return escape(text).replace(" %", "&nbsp;%").replace("n = ", "n&nbsp;=&nbsp;")


def json_script(name: str, text: str) -> str:
    """JSON inside the page; no `<` survives, so no text can end the script or open a tag."""
    escaped = text.replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{escaped}</script>'


def numbers_table(table: pd.DataFrame, columns: Sequence[str]) -> str:
    """The numbers of a figure as a table that opens on a click, to copy or to be read aloud."""
    shown = table[[column for column in columns if column in table]]
    head = "".join(f'<th class="number">{column}</th>' for column in shown)
    body = "".join(
        "<tr>"
        + "".join(f'<td class="number">{escape(_cell(value))}</td>' for value in row)
        + "</tr>"
        for row in shown.itertuples(index=False)
    )
    return (
        '<details><summary>The numbers</summary><div class="scroll">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>"
    )


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    if pd.isna(value):
        return "none"
    return f"{value:,.0f}" if value.is_integer() else f"{value:.4f}"
