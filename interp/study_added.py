"""Does routing add anything to the residual stream, and what of the stream can the router read?"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.analyses.probe_blocks import added_by, router_split
from interp.analyses.probe_gain import gain
from interp.analyses.probes import probe
from interp.cache.errors import InputError
from interp.cache.reader import Store
from interp.compared import Compared
from interp.study_features import PROMPT, Reading, readings, resid_readings
from interp.study_unseen import HeldOut

ROUTER_READS = "resid_mid"
"""The site whose normalised rows the router of the same layer reads."""
RouterWeights = Mapping[int, Float[np.ndarray, "experts d_model"]]
"""By number of the layer, as `interp.hooks.router_weights` gives them."""


def added_table(
    pair: Compared,
    held: HeldOut,
    layer_of: Mapping[tuple[str, str], int],
    rng: np.random.Generator,
    *,
    segment: str = "",
) -> tuple[pd.DataFrame, str]:
    """What usage adds to each residual stream and the reverse, at the layer chosen for the stream.

    Returns:
        The table `added`, two rows for each site and readout, and why there are none, as a sentence
        that is empty if there are.
    """
    usage = _usage(pair, held)
    rows = []
    for reading in resid_readings(pair, absent={}, segment=segment):
        if layer_of.get(reading.key) != reading.layer or reading.layer not in usage:
            continue
        both = {"routing": usage[reading.layer], reading.site: np.asarray(reading.features)}
        for extra, base in ((reading.site, "routing"), ("routing", reading.site)):
            found = added_by(both[extra], to=both[base], rng=rng, **held.alike).to_frame()
            what: dict[str, Any] = {"layer": float(reading.layer), "readout": reading.readout}
            what |= {"added": extra, "to": base, "target": "condition", "split": held.split}
            rows.append(pd.concat([pd.DataFrame([what]), found], axis=1))
    if not rows:
        return pd.DataFrame(), (
            "No residual stream could be probed, so nothing is added to routing or the reverse; "
            "capture with the site resid_post."
        )
    return pd.concat(rows, ignore_index=True), ""


def router_table(
    pair: Compared,
    held: HeldOut,
    weights: RouterWeights | None,
    rng: np.random.Generator,
    *,
    segment: str = "",
) -> tuple[pd.DataFrame, str]:
    """Probes of what a router can read of its layer's residual stream, and of what it cannot.

    Returns:
        The table `router_split`: of each layer and readout of `resid_mid` the parts `whole`,
        `row_space`, `complement` and `random_space`, each with its gain over the last; and why
        there are none, as a sentence that is empty if there are.
    """
    reason = why_no_router_split(pair.store, weights)
    if reason or weights is None:
        return pd.DataFrame(), reason
    rows = []
    for reading in resid_readings(pair, absent={}, segment=segment):
        if reading.site == ROUTER_READS and reading.layer in weights:
            rows.append(_parts(reading, weights[reading.layer], held, rng))
    if not rows:
        return pd.DataFrame(), (
            "No readout of resid_mid could be probed at a layer whose router was given, so it is "
            "not split."
        )
    return pd.concat(rows, ignore_index=True), ""


def why_no_router_split(store: Store, weights: RouterWeights | None) -> str:
    """Why the residual stream is not split by the router, as a sentence; empty if it can be."""
    if weights is None:
        return (
            "No router weights were given, and a store does not hold them, so the residual stream "
            "is not split into what the router can read and what it cannot; give them with "
            "--router MODEL."
        )
    if ROUTER_READS not in store.resid_layers:
        return (
            "The store does not hold resid_mid, which is what routers read, so it is not split by "
            "them; capture with the site resid_mid."
        )
    return ""


def check_router_weights(store: Store, weights: RouterWeights | None) -> None:
    """Refuse weights of another model.

    Raises:
        InputError: If a layer of the store has no weights, or weights of another shape.
    """
    if weights is None:
        return
    layout = store.layout
    expected = layout.n_experts, layout.d_model
    for layer in layout.layer_indices:
        if layer not in weights or weights[layer].shape != expected:
            found = f"shape {weights[layer].shape}" if layer in weights else "no weights"
            raise InputError(
                f"router_weights has {found} for layer {layer}, but {store.path.name} needs "
                f"{expected}; give those of the model that was captured"
            )


def _usage(pair: Compared, held: HeldOut) -> dict[int, Float[np.ndarray, "prompts experts"]]:
    found = {}
    for reading in readings(pair, cluster=held.cluster, absent={}):
        if reading.site != "routing" or reading.readout != PROMPT:
            break  # routing comes first
        found[reading.layer] = np.asarray(reading.features)
    return found


def _parts(
    reading: Reading,
    weight: Float[np.ndarray, "experts d_model"],
    held: HeldOut,
    rng: np.random.Generator,
) -> pd.DataFrame:
    whole = np.asarray(reading.features)
    split = router_split(whole, router_weight=weight, rng=rng)
    parts = {
        "whole": whole,
        "row_space": split.row_space,
        "complement": split.complement,
        "random_space": split.random_space,
    }
    found = {name: probe(each, rng=rng, **held.alike) for name, each in parts.items()}
    rows = []
    for name, score in found.items():
        labels: dict[str, Any] = {"site": reading.site, "layer": reading.layer}
        row = score.to_frame(readout=reading.readout, split=held.split, **labels)
        row.insert(3, "part", name)
        over = gain(score, found["random_space"]).to_frame().add_suffix("_over_random")
        rows.append(pd.concat([row.assign(n_columns=parts[name].shape[1]), over], axis=1))
    return pd.concat(rows, ignore_index=True)
