"""The card of a store: the README.md that tells a stranger what is in it."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from interp.cache.manifest import PartEntry
from interp.cache.records import Layout

CARD_NAME = "README.md"

_TEMPLATE = """# {name}

{stored} of {model}, one row per token, stored by moe-interp.

{prompts} prompts, {tokens} tokens, {layers} routed layers, {top_k} of {experts} experts chosen per
token and layer; {parts}, {megabytes:.1f} MB.

| condition | source | prompts | tokens |
|---|---|---:|---:|
{rows}

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
    rows = [
        f"| {_cell(condition)} | {_cell(source)} | {prompts[condition, source]:,} "
        f"| {tokens[condition, source]:,} |"
        for condition, source in sorted(prompts)
    ]
    return _TEMPLATE.format(
        name=_cell(name),
        stored=_stored(layout),
        model=_cell(str(provenance.get("model", "an unnamed model"))),
        prompts=f"{prompts.total():,}",
        tokens=f"{tokens.total():,}",
        layers=layout.n_layers,
        top_k=layout.top_k,
        experts=layout.n_experts,
        parts=f"{len(parts)} part{'' if len(parts) == 1 else 's'}",
        megabytes=sum(part.bytes for part in parts) / 1e6,
        rows="\n".join(rows),
        first_layer=layout.layer_indices[0],
    )


def _stored(layout: Layout) -> str:
    """What the store holds, as the start of a sentence."""
    sites = ", ".join(f"`{site}`" for site in layout.resid_sites)
    further = {
        "router logits": layout.router_logits,
        "norms of expert outputs": layout.expert_output_norms,
        f"residuals ({sites}, {layout.resid_dtype})": bool(sites),
    }
    *first, last = ["Routing", *(name for name, is_stored in further.items() if is_stored)]
    return f"{', '.join(first)} and {last}" if first else last


def _cell(text: str) -> str:
    """Text that cannot end its table cell or line; a dash where there is none."""
    return " ".join(text.split()).replace("|", "\\|") or "-"
