"""The sections of the report, each from results and store to HTML; what is absent says why."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from interp.cache.errors import StoreError
from interp.cache.reader import Store
from interp.cache.records import CONDITIONS
from interp.figure_style import LAYER_TITLE
from interp.figures import divergence_figure, probe_figure, usage_figure
from interp.report_html import figure_block, json_script, numbers_table, section
from interp.report_measures import MEASURED
from interp.results import DIVERGENCE_COLUMNS, Results
from interp.sentences import LADDER, absent_sentences, unseen_sentence
from interp.token_view import token_payload

PANELS = (
    "divergence",
    "usage",
    "experts",
    "experiment",
    "probes",
    "probe_controls",
    "grid",
    "added",
    "router_split",
    "directions",
    "token_view",
)
"""How the keys of `Results.absent` begin, one panel each."""
PROBE_NUMBERS = (
    "site",
    "layer",
    "readout",
    "target",
    "split",
    "baseline",
    "auroc",
    "auroc_low",
    "auroc_high",
    "gain",
    "gain_low",
    "gain_high",
    "n_prompts",
    "n_clusters",
)


def notices(results: Results) -> str:
    """On which rung the study stands, and what limits it before any number is read."""
    run, verdict = results.run, results.verdict
    said = []
    if run.get("generated_only"):
        said.append(
            "<strong>Generated tokens only:</strong> the tokens of this store are the model's own "
            "output. They come after the treatment, the prompt, and so are descriptive only."
        )
    said += [escape(str(caveat)) for caveat in run.get("caveats", [])]
    others = "".join(f"<p>{sentence}</p>" for sentence in said)
    return f'<div class="notice" id="rung">{_verdict(verdict)}</div>' + (
        f'<div class="notice" id="caveats">{others}</div>' if others else ""
    )


def _verdict(verdict: Mapping[str, Any]) -> str:
    """The rung with its sentence, the ladder it stands on, and every step's answer."""
    if not verdict:
        return (
            "<p><strong>Descriptive, without a verdict:</strong> a difference in usage is not yet "
            "evidence of specialised circuits.</p>" + _ladder("")
        )
    rung = str(verdict["rung"])
    steps = "".join(
        f"<li>{'yes' if step['holds'] else 'no'}: <b>{escape(step['rung'])}</b> asks for "
        f"{escape(step['asks'])}; {escape(step['found'])}.</li>"
        for step in verdict["steps"]
    )
    return (
        f"<p><strong>Verdict: {escape(rung)}.</strong> {escape(str(verdict['sentence']))}</p>"
        f"{_ladder(rung)}<details><summary>Every step of the rule</summary><ul>{steps}</ul>"
        "</details>"
    )


def _ladder(reached: str) -> str:
    rungs = "".join(
        f"<li{' aria-current=true' if rung == reached else ''}><b>{rung}</b> {meaning}</li>"
        for rung, meaning in LADDER.items()
    )
    return f'<ol class="ladder" aria-label="Ladder of claims">{rungs}</ol>'


def divergence_section(results: Results, model: str) -> str:
    """Divergence by layer with its null."""
    reasons = absent_sentences(results.absent, "divergence")
    drawn = ""
    if not results.divergence.empty:
        drawn = figure_block("divergence", divergence_figure(results.divergence, model=model))
        drawn += numbers_table(results.divergence, DIVERGENCE_COLUMNS)
    return section("divergence", "Where does routing differ?", drawn, reasons)


def usage_section(results: Results, model: str) -> str:
    """Heatmap of usage by layer and expert."""
    reasons = absent_sentences(results.absent, "usage")
    usage, drawn = results.usage, ""
    if not usage.empty and usage["condition"].isin(("benchmark", "organic")).any():
        wide = usage["expert"].nunique() > 40
        drawn = figure_block("usage", usage_figure(usage, model=model), wide=wide)
    return section("usage", "Which experts are used more?", drawn, reasons)


def probe_section(results: Results, model: str) -> str:
    """Probes by layer beside the surface baselines; sites that are missing say why."""
    reasons, drawn, probes = absent_sentences(results.absent, "probes"), "", results.probes
    unseen = unseen_sentence(probes) if not probes.empty else ""
    everything = probes
    if not probes.empty:
        probes = probes[(probes["target"] == "condition") & (probes["split"] == "item")]
        probes = first_readout(probes)
    if not probes.empty:
        drawn = figure_block("probes", probe_figure(probes, model=model))
        drawn += f"<p>{escape(unseen)}</p>" if unseen else ""
        positions = results.run.get("settings", {}).get("capture_positions", "not recorded")
        drawn += (
            "<p>routing: usage over all compared tokens of a prompt; resid_post: the last token of "
            f"its content where captured (positions: {escape(str(positions))}).</p>"
        )
        drawn += numbers_table(everything, PROBE_NUMBERS)
        if not reasons and "resid_post" not in set(probes["site"]):
            reasons = ["Probes on resid_post are not in the results; no reason was recorded."]
    return section("probes", "Can the condition be read off?", drawn, reasons)


def first_readout(probes: pd.DataFrame) -> pd.DataFrame:
    """One curve for each site: the readout that comes first, such as the last of the content."""
    if "readout" not in probes:
        return probes
    first = probes.groupby("site")["readout"].transform("first")
    return probes[probes["readout"] == first]


def token_section(results: Results, store: Store) -> str:
    """A few prompts, each token coloured by the first of its experts."""
    heading = "Which expert does each token go to?"
    reasons = absent_sentences(results.absent, "token_view")
    try:
        payload = token_payload(store)
    except StoreError as error:  # a store may hold routing without the texts of its tokens
        return section("tokens", heading, "", [*reasons, str(error)])
    drawn = _token_view(payload) if payload["prompts"] and not reasons else ""
    return section("tokens", heading, drawn, reasons)


def _token_view(payload: Mapping[str, Any]) -> str:
    layers = "".join(f"<option>{layer}</option>" for layer in payload["layers"])
    return (
        '<p class="subtitle">Colour: the expert with the largest weight. Hover over a token, or '
        "step through them with the arrow keys, for all its experts and their weights; click a "
        "token or an expert to see all that went to the same one.</p>"
        '<div class="token-view"><div class="controls">'
        f'<label>Prompt<select name="prompt">{_prompt_options(payload["prompts"])}</select></label>'
        f'<label>{LAYER_TITLE}<select name="layer">{layers}</select></label></div>'
        '<p class="hint token-note"></p>'
        '<div class="tokens" tabindex="0" role="group" '
        'aria-label="Tokens of the prompt, coloured by expert"></div>'
        '<div class="legend" role="group" aria-label="Experts by number of tokens"></div></div>'
        + json_script("token-view-json", json.dumps(payload, ensure_ascii=False))
    )


def _prompt_options(prompts: Sequence[Mapping[str, Any]]) -> str:
    options = ""
    for condition in CONDITIONS:
        rows = [row for row, prompt in enumerate(prompts) if prompt["condition"] == condition]
        inner = "".join(
            f'<option value="{row}">{escape(prompts[row]["label"])}</option>' for row in rows
        )
        options += f'<optgroup label="{condition}">{inner}</optgroup>' if rows else ""
    return options


def run_section(results: Results, store: Store) -> str:
    """What was run: model, prompts, tokens, settings, versions, seed."""
    run = results.run
    facts = {
        "Model": run.get("model"),
        "Revision": run.get("revision") or "not recorded",
        "Routed layers": f"{run.get('n_layers')} layers of {run.get('n_experts')} experts, "
        f"{run.get('top_k')} per token; d_model {run.get('d_model') or 'not recorded'}",
        "Tokens compared": _listed(run.get("tokens", {})),
        "Only generated tokens": "yes" if run.get("generated_only") else "no",
        "Settings": _listed(run.get("settings", {})),
        "Versions": _listed(run.get("versions", {})),
        "Seed": run.get("seed"),
    }
    rows = "".join(
        f"<tr><th>{name}</th><td>{escape(str(fact))}</td></tr>" for name, fact in facts.items()
    )
    drawn = f'<h3>Prompts by source</h3><div class="scroll">{_prompt_counts(store.prompts)}</div>'
    return section("run", "The run", f'<table class="facts">{rows}</table>{drawn}', [])


def _prompt_counts(prompts: pd.DataFrame) -> str:
    shown = [name for name in CONDITIONS if (prompts["condition"] == name).any()]
    counts = pd.crosstab(prompts["source"], prompts["condition"])[shown]
    tokens = prompts.groupby("source")["n_tokens"].sum()
    head = "".join(f'<th class="number">{name}</th>' for name in [*shown, "tokens stored"])
    body = "".join(
        f"<tr><td>{escape(str(source) or 'not recorded')}</td>{_number_cells(row)}</tr>"
        for source, row in counts.assign(tokens=tokens).iterrows()
    )
    return f"<table><thead><tr><th>Source</th>{head}</tr></thead><tbody>{body}</tbody></table>"


def _number_cells(row: pd.Series) -> str:
    return "".join(f'<td class="number">{count:,}</td>' for count in row)


def _listed(facts: Mapping[str, Any]) -> str:
    return "; ".join(f"{name}: {_fact(fact)}" for name, fact in facts.items()) or "not recorded"


def _fact(fact: object) -> str:
    whole = isinstance(fact, int) and not isinstance(fact, bool)
    return f"{fact:,}" if whole else str(fact)


def other_absent(results: Results) -> str:
    """What is absent and belongs to none of the panels above; nothing if there is nothing."""
    reasons = [
        f"{name}: {reason}"
        for name, reason in results.absent.items()
        if not name.startswith((*PANELS, *MEASURED))
    ]
    return section("absent", "Also absent", "", reasons) if reasons else ""
