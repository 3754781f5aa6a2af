"""The tables of docs/models.md, made from the specs.

`python -m interp.hooks.spec_table` shows them. Nothing here needs torch.
"""

import sys
from collections.abc import Iterable

from interp.hooks.spec import SPECS, UNSUPPORTED, ModelSpec

SCORING_WORDS = {
    "softmax_of_chosen": "top-k of the logits, then softmax over the chosen",
    "softmax": "softmax over all, then top-k",
    "sigmoid": "sigmoid of each, then top-k",
    "sparsemixer": "sparsemixer: two experts in turn, each by a softmax over those close to it",
}
GROUP_WORDS = {"": "", "max": "by their best expert", "sum_of_two": "by their two best experts"}
FAMILY_HEADS = (
    "family",
    "block, router",
    "choice and weights",
    "weights sum to 1",
    "correction bias",
    "groups",
    "scaled by",
    "shared experts",
    "dense layers",
    "residual stream",
)


def families_table() -> str:
    """One row per family that can be captured, as a table in Markdown."""
    return _table(FAMILY_HEADS, (_family_row(spec) for spec in SPECS))


def unsupported_table() -> str:
    """One row per routed family that is known and refused, with the reason."""
    return _table(
        ("family", "why it is refused"), ((_code(name), why) for name, why in UNSUPPORTED.items())
    )


def _family_row(spec: ModelSpec) -> tuple[str, ...]:
    bias = f", with {_code(spec.bias)}" if spec.bias else ""
    return (
        _code(spec.family),
        f"{_code(spec.moe)}, {_code(spec.router)}{bias}",
        SCORING_WORDS[spec.scoring],
        _sum_to_one(spec),
        _code(spec.correction_bias),
        GROUP_WORDS[spec.group_score],
        _code(spec.scaling),
        _code(spec.shared_experts),
        ", ".join(map(_code, filter(None, spec.dense_layers.split(", ")))),
        spec.remark,
    )


def _sum_to_one(spec: ModelSpec) -> str:
    said = {"always": "yes", "never": "no"}.get(spec.normalised, f"if {_code(spec.normalised)}")
    return f"{said}, before scaling" if spec.scaling and said != "no" else said


def _code(name: str) -> str:
    return f"`{name}`" if name else ""


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    rule = ("---",) * len(heads)
    cells = (map(_cell, row) for row in (heads, rule, *rows))
    return "\n".join(f"|{'|'.join(row)}|" for row in cells)


def _cell(words: str) -> str:
    return f" {words} " if words else " "


if __name__ == "__main__":
    sys.stdout.write(f"{families_table()}\n\n{unsupported_table()}\n")
