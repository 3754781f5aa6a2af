"""The card of a store: the README.md that tells a stranger what is in it."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from interp.cache.manifest import PartEntry
from interp.cache.records import Layout

CARD_NAME = "README.md"

_TEMPLATE = """# {name}

{summary}

{table}

Load it (no torch needed):

```python
from interp.cache.reader import open_store

store = open_store("{name}")
routing = store.router(layers=[{first_layer}])
print(store.prompts.head(), routing.expert_indices.shape)
```

Where it came from stands in `store.provenance`. The layout is documented in `docs/format.md` of
moe-interp; every part opens with plain HDF5 tools as well.
"""


def store_card(
    name: str,
    *,
    layout: Layout,
    provenance: Mapping[str, Any],
    parts: list[PartEntry],
    prompts: Counter[tuple[str, str]],
    tokens: Counter[tuple[str, str]],
) -> str:
    """The card as Markdown; `prompts` and `tokens` are counted by condition and source."""
    n_parts = f"{len(parts)} part{'' if len(parts) == 1 else 's'}"
    megabytes = sum(part.bytes for part in parts) / 1e6
    summary = (
        f"{stored_sites(layout)} of {cell(provenance.get('model', 'an unnamed model'))}, one row "
        f"per token, stored by moe-interp.\n\n{prompts.total():,} prompts, "
        f"{tokens.total():,} tokens, {sizes(layout)}; {n_parts}, {megabytes:.1f} MB."
    )
    return _TEMPLATE.format(
        name=cell(name),
        summary=summary,
        table=prompt_table(prompts, tokens),
        first_layer=layout.layer_indices[0],
    )


def prompt_table(
    prompts: Mapping[tuple[str, str], int],
    tokens: Mapping[tuple[str, str], int] | None,
    *,
    licences: Mapping[str, str] | None = None,
) -> str:
    """Prompts by condition and source, as Markdown; columns that are None are left out."""
    rows = ["| condition | source |", "|---|---|"]
    rows += [f"| {cell(condition)} | {cell(source)} |" for condition, source in sorted(prompts)]
    columns = [("prompts", "---:", [f"{prompts[key]:,}" for key in sorted(prompts)])]
    if tokens is not None:
        columns.append(("tokens", "---:", [f"{tokens[key]:,}" for key in sorted(prompts)]))
    if licences is not None:
        stated = [cell(licences.get(source, "not stated")) for _, source in sorted(prompts)]
        columns.append(("licence of the source", "---", stated))
    for name, rule, values in columns:
        added = (f" {name} |", f"{rule}|", *(f" {value} |" for value in values))
        rows = [row + more for row, more in zip(rows, added, strict=True)]
    return "\n".join(rows)


def stored_sites(layout: Layout) -> str:
    """What the store holds, as the start of a sentence."""
    sites = ", ".join(f"`{site}`" for site in layout.resid_sites)
    further = {
        "router logits": layout.router_logits,
        "norms of expert outputs": layout.expert_output_norms,
        f"residuals ({sites}, {layout.resid_dtype})": bool(sites),
    }
    *first, last = ["Routing", *(name for name, is_stored in further.items() if is_stored)]
    return f"{', '.join(first)} and {last}" if first else last


def sizes(layout: Layout) -> str:
    """Layers and experts, as a part of a sentence."""
    return (
        f"{layout.n_layers} routed layers, {layout.top_k} of {layout.n_experts} experts chosen "
        "per\ntoken and layer"
    )


def cell(text: object) -> str:
    """Text that cannot end its table cell or line, nor begin a tag; a dash where there is none."""
    plain = re.sub(r"[\x00-\x1f\x7f]", " ", str(text)).replace("&", "&amp;").replace("<", "&lt;")
    return " ".join(plain.split()).replace("|", "\\|") or "-"
