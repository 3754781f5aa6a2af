"""The first screen of the report: verdict, the numbers behind it, the run, what was left out."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from interp.cache.records import CONDITIONS
from interp.report_html import told
from interp.report_study import ReportedStudy
from interp.results import Results
from interp.sentences import LADDER


def first_screen(study: ReportedStudy) -> str:
    """Everything that a reader needs before any figure."""
    results, suffix = study.results, study.suffix
    judged, facts = notices(results, suffix=suffix), run_facts(study)
    missing = left_out(results, suffix=suffix)
    if results.verdict:
        judged, facts = judged + steps_table(results.verdict), facts + missing
    else:
        judged += missing
    return (
        f'<div class="first"><div class="judged">{judged}</div>'
        f'<div class="aside">{facts}</div></div>'
    )


def notices(results: Results, *, suffix: str = "") -> str:
    """On which rung the study stands, and what limits it before any number is read."""
    run, said = results.run, []
    if run.get("generated_only"):
        said.append(
            "<strong>Generated tokens only:</strong> the tokens of this store are the model's own "
            "output. They come after the treatment, the prompt, and so are descriptive only."
        )
    said += [told(caveat) for caveat in run.get("caveats", [])]
    others = "".join(f"<p>{sentence}</p>" for sentence in said)
    caveats = f'<div class="notice" id="caveats{suffix}">{others}</div>' if others else ""
    return f'<div class="notice" id="rung{suffix}">{_verdict(results.verdict)}</div>{caveats}'


def _verdict(verdict: Mapping[str, Any]) -> str:
    """The rung with its sentence, and the ladder it stands on."""
    if not verdict:
        return (
            "<p><strong>Descriptive, without a verdict:</strong> a difference in usage is not yet "
            "evidence of specialised circuits.</p>" + _ladder("")
        )
    rung = str(verdict["rung"])
    return (
        f'<p class="rung">Verdict: <strong>{told(_spaced(rung))}</strong></p>'
        f"<p>{told(verdict['sentence'])}</p>{_ladder(rung)}"
    )


def _ladder(reached: str) -> str:
    rungs = "".join(
        f"<li{' aria-current=true' if rung == reached else ''}><b>{_spaced(rung)}</b> {meaning}"
        "</li>"
        for rung, meaning in LADDER.items()
    )
    return f'<ol class="ladder" aria-label="Ladder of claims">{rungs}</ol>'


def _spaced(rung: str) -> str:
    return rung.replace("_", " ")


def steps_table(verdict: Mapping[str, Any]) -> str:
    """Every question of the rule with its answer and the numbers it was answered by."""
    if not verdict:
        return ""
    rows = "".join(
        f"<tr><th>{told(_spaced(step['rung']))}</th>"
        f'<td class="{_yes(step)}">{_yes(step)}</td>'
        f"<td>{told(step['asks'])}</td><td>{told(step['found'])}</td></tr>"
        for step in verdict["steps"]
    )
    return (
        '<h2>The numbers behind it</h2><div class="scroll" tabindex="0" role="group" '
        'aria-label="Steps of the rule"><table class="steps"><thead><tr><th>Rung</th>'
        "<th>holds</th><th>asks for</th><th>found</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _yes(step: Mapping[str, Any]) -> str:
    return "yes" if step["holds"] else "no"


def run_facts(study: ReportedStudy) -> str:
    """What was run: model, prompts, tokens, settings, versions, seed."""
    run, suffix = study.results.run, study.suffix
    facts = {
        "Model": run.get("model"),
        "Revision": run.get("revision") or "not recorded",
        "Routed": f"{run.get('n_layers')} layers of {run.get('n_experts')} experts, "
        f"{run.get('top_k')} per token; d_model {run.get('d_model') or 'not recorded'}",
        "Tokens compared": _listed(run.get("tokens", {})),
        "Versions": _listed(run.get("versions", {})),
        "Settings": _listed(run.get("settings", {})),
        "Seed": run.get("seed"),
    }
    rows = "".join(f"<tr><th>{name}</th><td>{told(fact)}</td></tr>" for name, fact in facts.items())
    return (
        f'<section id="run{suffix}"><h2>The run</h2><div class="scroll" tabindex="0" role="group" '
        f'aria-label="Prompts by source">{prompt_counts(study.store.prompts)}</div>'
        f'<table class="facts">{rows}</table></section>'
    )


def prompt_counts(prompts: pd.DataFrame) -> str:
    """Prompts by source and condition, and the tokens of each source."""
    shown = [name for name in CONDITIONS if (prompts["condition"] == name).any()]
    counts = pd.crosstab(prompts["source"], prompts["condition"])[shown]
    tokens = prompts.groupby("source")["n_tokens"].sum()
    head = "".join(f'<th class="number">{name}</th>' for name in [*shown, "tokens stored"])
    body = "".join(
        f"<tr><td>{told(str(source) or 'not recorded')}</td>{_number_cells(row)}</tr>"
        for source, row in counts.assign(tokens=tokens).iterrows()
    )
    return f"<table><thead><tr><th>Prompts of</th>{head}</tr></thead><tbody>{body}</tbody></table>"


def left_out(results: Results, *, suffix: str = "") -> str:
    """Everything that could not be computed, each with its reason; said too where nothing is."""
    named: dict[str, list[str]] = {}
    for name, reason in results.absent.items():
        named.setdefault(reason, []).append(name)
    rows = "".join(
        f"<li><b>{told(', '.join(names))}</b>: {told(reason)}</li>"
        for reason, names in named.items()
    )
    segments = results.run.get("settings", {}).get("segments_left_out")
    tokens = f"<li><b>tokens</b> of the segments {told(segments)}.</li>" if segments else ""
    return (
        f'<section id="left-out{suffix}"><h2>Left out</h2><ul>{tokens}{rows}</ul>'
        f"{'' if rows else '<p>Every panel could be computed.</p>'}</section>"
    )


def summary_section(
    findings: Sequence[tuple[str, str, Sequence[str]]], studies: Sequence[str] = ()
) -> str:
    """What each panel says, also without JavaScript: id, heading, and a finding a study.

    Args:
        findings: One row a panel.
        studies: What each study is called, where there are several.
    """
    names = "".join(f"<th>{told(name)}</th>" for name in studies)
    head = f"<thead><tr><th>Question</th>{names}</tr></thead>" if studies else ""
    rows = "".join(
        f'<tr><th><a href="#{name}">{told(heading)}</a></th>'
        + "".join(f"<td>{told(each)}</td>" for each in said)
        + "</tr>"
        for name, heading, said in findings
    )
    return (
        '<section id="summary"><h2>In short</h2>'
        f'<table class="facts short">{head}<tbody>{rows}</tbody></table></section>'
    )


def _number_cells(row: pd.Series) -> str:
    return "".join(f'<td class="number">{count:,}</td>' for count in row)


def _listed(facts: Mapping[str, Any]) -> str:
    return "; ".join(f"{name}: {_fact(fact)}" for name, fact in facts.items()) or "not recorded"


def _fact(fact: object) -> str:
    whole = isinstance(fact, int) and not isinstance(fact, bool)
    return f"{fact:,}" if whole else str(fact)
