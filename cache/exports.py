"""A store as what other tools read: xarray, Parquet, and a table for notebooks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.cache.errors import InputError
from interp.cache.records import SEGMENTS

if TYPE_CHECKING:
    import xarray

    from interp.cache.reader import Store
    from interp.cache.views import TokenBatch

ROUTING_NAME, PROMPTS_NAME = "routing.parquet", "prompts.parquet"
EXPORT_TOKENS = 2**12
"""Tokens that are in memory at once; each has a row for every layer."""


def store_dataset(store: "Store") -> "xarray.Dataset":
    """Tokens with their routing; axes `tokens`, `layers` and `top_k`, and `experts` of logits."""
    import xarray

    routing = store.router()
    arrays: dict[str, Any] = {
        "expert_indices": (("tokens", "layers", "top_k"), routing.expert_indices),
        "expert_weights": (("tokens", "layers", "top_k"), routing.expert_weights),
    }
    if routing.router_logits is not None:
        arrays["router_logits"] = (("tokens", "layers", "experts"), routing.router_logits)
    if routing.expert_output_norms is not None:
        norms = routing.expert_output_norms
        arrays["expert_output_norms"] = (("tokens", "layers", "top_k"), norms)
    for name in ("token_id", "position", "segment", "generated", "logprob"):
        arrays[name] = (("tokens",), getattr(store, name))
    owners = store.prompts.drop(columns="n_tokens").iloc[store.prompt_index]
    coordinates = {name: (("tokens",), owners[name].to_numpy()) for name in owners}
    coordinates["prompt_index"] = (("tokens",), store.prompt_index)
    return xarray.Dataset(
        arrays,
        coords=coordinates | {"layers": list(routing.layer_indices)},
        attrs={"model": str(store.provenance.get("model", "")), "segments": list(SEGMENTS)},
    )


def write_parquet(store: "Store", folder: Path) -> None:
    """Prompts, and one row per token and layer; arguments and errors as in `Store.to_parquet`."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise InputError(
            "pyarrow is not installed, but Parquet needs it; install it with: "
            "pip install 'moe-interp[parquet]'"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    for name in (PROMPTS_NAME, ROUTING_NAME):
        if (folder / name).exists():
            raise InputError(f"{folder / name} exists already; choose another folder")
    with _whole_files(folder, (PROMPTS_NAME, ROUTING_NAME)) as (prompts, routing):
        store.prompts.to_parquet(prompts, index=True)
        writer = None
        try:
            for batch in store.iter_tokens(batch=EXPORT_TOKENS):
                table = pyarrow.table(_columns(batch))
                writer = writer or pyarrow.parquet.ParquetWriter(routing, table.schema)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()


@contextmanager
def _whole_files(folder: Path, names: Sequence[str]) -> Iterator[list[Path]]:
    """Paths to write to; what is there gets its name at the end, and goes if the body fails."""
    drafts = [folder / f".{name}.tmp" for name in names]
    try:
        yield drafts
        for draft, name in zip(drafts, names, strict=True):
            draft.replace(folder / name)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)


def store_html(store: "Store") -> str:
    """What a store holds, as a table of HTML; what comes from the store is escaped."""
    layout = store.layout
    residuals = "; ".join(
        f"{site}: {len(layers)} layers, {layout.resid_dtype}"
        for site, layers in store.resid_layers.items()
    )
    facts = {
        "model": store.provenance.get("model", "unknown"),
        "prompts": f"{len(store.prompts):,}",
        "tokens": f"{store.n_tokens:,}",
        "routed layers": layout.n_layers,
        "experts": f"{layout.top_k} of {layout.n_experts}",
        "residuals": residuals or "none",
    }
    kinds = store.prompts.groupby(["condition", "source"])["n_tokens"].agg(["size", "sum"])
    for row in kinds.reset_index().itertuples(index=False):
        facts[f"{row[0]} / {row[1]}"] = f"{row[2]:,} prompts, {row[3]:,} tokens"
    rows = "".join(
        f"<tr><th scope='row'>{escape(str(name))}</th><td>{escape(str(value))}</td></tr>"
        for name, value in facts.items()
    )
    return f"<table><caption>{escape(store.path.name)}</caption>{rows}</table>"


def _columns(batch: "TokenBatch") -> dict[str, Any]:
    """One row per token and layer; lists of `top_k`, those of router_logits of all experts."""
    import pyarrow

    routing = batch.routing
    n_tokens, n_layers, _ = routing.expert_indices.shape
    of_tokens = {
        "token": np.arange(batch.start, batch.start + n_tokens),
        "prompt": batch.prompt_index,
        "token_id": batch.token_id,
        "position": batch.position,
        "segment": np.array(SEGMENTS)[batch.segment],
        "generated": batch.generated,
        "logprob": batch.logprob,
    }

    def lists(values: np.ndarray) -> Any:
        flat = pyarrow.array(values.ravel())
        return pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[-1])

    columns: dict[str, Any] = {name: np.repeat(each, n_layers) for name, each in of_tokens.items()}
    columns["layer"] = np.tile(np.array(routing.layer_indices, dtype=np.int32), n_tokens)
    for name in ("expert_indices", "expert_weights", "router_logits", "expert_output_norms"):
        values = getattr(routing, name)
        if values is not None:
            columns[name] = lists(values)
    return columns
