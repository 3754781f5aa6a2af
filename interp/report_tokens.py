"""The section of the report in which a prompt and its other wording stand side by side."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from interp.cache.errors import StoreError
from interp.cache.records import CONDITIONS
from interp.figure_style import LAYER_TITLE
from interp.report_html import absent_block, packed_bytes, packed_json, told
from interp.report_study import ReportedStudy
from interp.sentences import absent_sentences
from interp.token_view import TokenStrips, token_strips

HEADING = "Which expert does each token go to?"
CAUTION = (
    "A few prompts are an illustration and no evidence, and most of what catches the eye is "
    "vocabulary."
)


def token_view(study: ReportedStudy) -> str:
    """Two strips of tokens with their controls, or the reason why there are none."""
    reasons = absent_sentences(study.results.absent, "token_view")
    try:
        strips = token_strips(study.store)
    except StoreError as error:  # a store may hold routing without the texts of its tokens
        return absent_block([*reasons, str(error)])
    if reasons or not strips.facts["prompts"]:
        return absent_block(reasons or ["The store holds no prompt with tokens."])
    return _view(strips, study) + (
        f'<p class="caution"><b>How this can fool you.</b> {CAUTION}</p>'
    )


def _view(strips: TokenStrips, study: ReportedStudy) -> str:
    prompts = strips.facts["prompts"]
    layers = "".join(f"<option>{layer}</option>" for layer in strips.facts["layers"])
    boxes = "".join(
        f'<div class="strip"><label>{label}<select name="{name}">'
        f'{_prompt_options(prompts)}</select></label><p class="hint token-note"></p>'
        f'<div class="tokens" tabindex="0" role="group" aria-label="Tokens of the {label.lower()}">'
        "</div></div>"
        for name, label in (("prompt", "Prompt"), ("beside", "Prompt beside it"))
    )
    return (
        f'<p class="subtitle"><strong>Tokens and their experts.</strong> {told(study.model)} · '
        f"n&nbsp;=&nbsp;{len(prompts)} of {len(study.store.prompts):,} prompts. "
        "Hover over a token, or step with the arrow keys, for its experts and weights; choose a "
        "token to choose its first expert everywhere. Grey letters: template.</p>"
        f'<div class="token-view" data-suffix="{study.suffix}"><div class="controls">'
        f'<label>{LAYER_TITLE}<select name="layer">{layers}</select></label>'
        '<div class="legend" role="group" aria-label="Experts of these tokens"></div></div>'
        f'<div class="strips">{boxes}</div></div>'
        '<noscript><p class="absent">The tokens need JavaScript.</p></noscript>'
        + packed_json(f"tokens{study.suffix}-json", json.dumps(strips.facts))
        + packed_bytes(f"tokens{study.suffix}-routing", strips.routing)
    )


def _prompt_options(prompts: Sequence[Mapping[str, Any]]) -> str:
    options = ""
    for condition in CONDITIONS:
        rows = [row for row, prompt in enumerate(prompts) if prompt["condition"] == condition]
        inner = "".join(
            f'<option value="{row}">{told(prompts[row]["label"])}</option>' for row in rows
        )
        options += f'<optgroup label="{condition}">{inner}</optgroup>' if rows else ""
    return options
