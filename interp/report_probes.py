"""The section of the report on what stands beside the probes: controls, grid, what is added."""

from html import escape

import pandas as pd

from interp.report_html import numbers_table, section
from interp.results import Results
from interp.sentences import absent_sentences

PANELS = ("probe_controls", "grid", "added", "router_split", "directions")
"""Tables that the section shows, and how the keys of `Results.absent` for them begin."""
TABLES = ("probes_chosen", *PANELS)
HEADINGS = {
    "probes_chosen": "The layer chosen within the fitted prompts",
    "probe_controls": "Control task, description length, untrained model",
    "grid": "Wording or wrapper",
    "added": "What routing adds to the residual stream, and the reverse",
    "router_split": "What the router can read of the residual stream, and what it cannot",
    "directions": "Directions from organic to benchmark prompts",
}


def probe_control_section(results: Results) -> str:
    """Each table of controls with its sentence; those that are absent say why."""
    reasons = [each for name in PANELS for each in absent_sentences(results.absent, name)]
    drawn = ""
    for name in TABLES:
        table = getattr(results, name)
        if not table.empty:
            said = "".join(f"<p>{escape(each)}</p>" for each in SENTENCES.get(name, _none)(table))
            drawn += f"<h3>{HEADINGS[name]}</h3>{said}{numbers_table(table, list(table))}"
    return section("probe-controls", "What would a probe find anyway?", drawn, reasons)


def grid_sentences(grid: pd.DataFrame) -> list[str]:
    """Off-diagonal rates of each probe of the model's activations."""
    said = []
    for (site, layer, readout), rows in grid[grid["baseline"] == ""].groupby(
        ["site", "layer", "readout"], sort=False
    ):
        rates = {str(row.cell): row for row in rows.itertuples()}
        wrapper, wording = (_rate(rates[name]) for name in ("organic-exam", "benchmark-chat"))
        said.append(
            f"{site} ({readout}) at layer {layer:.0f}, fitted on the diagonal, calls {wrapper} of "
            f"the organic wordings in an exam wrapper benchmark, and {wording} of the benchmark "
            "wordings in chat."
        )
    return said


def added_sentences(added: pd.DataFrame) -> list[str]:
    """What one kind of features adds to another, in AUROC."""
    return [
        f"{row.added} adds {row.auroc_gain:+.3f} AUROC ({row.auroc_gain_low:+.3f} to "
        f"{row.auroc_gain_high:+.3f}) to {row.to} ({row.readout}, layer {row.layer:.0f}), and "
        f"saves {row.bits_saved:.3f} bits a prompt ({row.bits_saved_low:+.3f} to "
        f"{row.bits_saved_high:+.3f})."
        for row in added.itertuples()
    ]


def control_sentences(controls: pd.DataFrame) -> list[str]:
    """The least selectivity and compression, and the gain over an untrained model."""
    said = []
    if controls["selectivity"].notna().any():
        said.append(
            f"Selectivity lies between {controls['selectivity'].min():.2f} and "
            f"{controls['selectivity'].max():.2f}, compression between "
            f"{controls['compression'].min():.2f} and {controls['compression'].max():.2f} "
            f"(up to {controls['shuffled_compression'].max():.2f} with shuffled labels)."
        )
    if controls["untrained_auroc"].notna().any():
        n_above = int((controls["gain_over_untrained_low"] > 0).sum())
        said.append(
            f"On an untrained model the same probes reach up to "
            f"{controls['untrained_auroc'].max():.2f}; {n_above} of {len(controls)} are better "
            "on the trained one, by the interval of the difference."
        )
    return said


def _none(_: pd.DataFrame) -> list[str]:
    return []


SENTENCES = {
    "grid": grid_sentences,
    "added": added_sentences,
    "probe_controls": control_sentences,
}


def _rate(row: object) -> str:
    value, low, high = (
        100 * getattr(row, f"called_benchmark{end}") for end in ("", "_low", "_high")
    )
    return f"{value:.0f} % ({low:.0f} to {high:.0f})"
