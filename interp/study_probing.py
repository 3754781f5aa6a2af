"""All that probes say in a study: the tables in one call, and why some are missing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from interp.cache.errors import InputError
from interp.cache.reader import Store
from interp.cache.records import CONDITIONS, SEGMENTS
from interp.compared import COMPARED, Compared, compared
from interp.results import PROBE_TABLES
from interp.study_added import RouterWeights, added_table, check_router_weights, router_table
from interp.study_directions import study_directions
from interp.study_grid import grid_tables
from interp.study_probe_controls import untrained_pair
from interp.study_probes import probe_tables, too_few
from interp.study_targets import check_targets, field_table
from interp.study_unseen import HeldOut, held_out, unseen_probes


@dataclass(frozen=True, kw_only=True)
class Probing:
    """What probes are asked about, and with what.

    Raises:
        InputError: If a target or the segment is not known.
    """

    targets: tuple[str, ...] = ("condition",)
    """Fields of the prompts to tell apart; the condition always is."""
    segment: str = ""
    """Of `SEGMENTS`, whose mean is read beside the content; none if empty."""
    untrained: Store | None = None
    """The same prompts in an untrained model of the same shape."""
    router_weights: RouterWeights | None = field(default=None, repr=False)
    """Of the model that was captured, by layer."""

    def __post_init__(self) -> None:
        check_targets(self.targets)
        if self.segment and self.segment not in SEGMENTS:
            raise InputError(f"segment is {self.segment}, expected one of {', '.join(SEGMENTS)}")


def probe_study(
    store: Store,
    rng: np.random.Generator,
    *,
    probing: Probing,
    advance: Callable[[int], Any] = lambda _: None,
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Every table of probes, and for those that are missing or lack a part, the reason.

    Args:
        store: From `open_store`.
        rng: Source of chance.
        probing: What to ask about, and with what.
        advance: Called with the number of probes done.

    Returns:
        By name, those of `PROBE_TABLES` that there are; and sentences by panel.

    Raises:
        InputError: If the untrained store or the router's weights belong to another model.
    """
    check_belonging(store, probing)
    everything, pair = compared(store, CONDITIONS), compared_pair(store)
    tables: dict[str, pd.DataFrame] = {}
    absent: dict[str, str] = {}
    if pair is None:
        only = " and ".join(sorted(set(everything.condition)))
        sentence = f"The store holds only {only} prompts, so there is nothing to compare with."
        absent |= dict.fromkeys(PROBE_TABLES, sentence)
    else:
        other = None if probing.untrained is None else untrained_pair(probing.untrained, pair)
        tables, absent = probe_tables(pair, rng, advance, untrained=other, segment=probing.segment)
        more, reasons = _beyond(pair, rng, probing, absent)
        absent |= reasons
        _add(tables, more)
    for name in check_targets(probing.targets):
        rows, reason = field_table(everything, name, rng, segment=probing.segment)
        _add(tables, {"probes": rows})
        absent |= {f"probes_{name}": reason} if reason else {}
    return {name: table for name, table in tables.items() if len(table)}, absent


def check_belonging(store: Store, probing: Probing) -> None:
    """Refuse an untrained store, or weights of routers, that do not belong to this store.

    Raises:
        InputError: If they are of other prompts or a model of another shape.
    """
    check_router_weights(store, probing.router_weights)
    pair = compared_pair(store)
    if probing.untrained is not None and pair is not None:
        untrained_pair(probing.untrained, pair)


def compared_pair(store: Store) -> Compared | None:
    """Benchmark against organic prompts; None where the store lacks either."""
    try:
        pair = compared(store, COMPARED)
    except InputError:
        return None
    return pair if set(COMPARED) <= set(pair.condition) else None


def _beyond(
    pair: Compared, rng: np.random.Generator, probing: Probing, absent: dict[str, str]
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """What goes beyond the probes by item: unseen, wording and wrapper, added, directions."""
    segment, reasons = probing.segment, dict[str, str]()
    found = study_directions(pair.store, among=pair, segment=segment)
    tables = {"directions": found.to_frame(), "direction_cosines": found.cosines()}
    if not found.of:
        reasons["directions"] = (
            "No residual stream of the store could be read, so there are no directions to steer by."
        )
    try:
        held = held_out(pair, rng)
    except ValueError as error:
        names = ("probes_chosen", "grid", "added", "router_split")
        return tables, reasons | dict.fromkeys(names, too_few(pair, error))
    unseen = unseen_probes(pair, held, rng, segment=segment)
    tables |= {"probes": unseen.probes, "probes_chosen": unseen.chosen}
    reasons |= {"probes_unseen": held.reason} if held.reason else {}
    tables["grid"], rows, why = grid_tables(
        compared(pair.store, CONDITIONS), unseen.layer_of, rng, segment=segment
    )
    _add(tables, {"probes": rows})
    reasons |= {"grid": why} if why else {}
    for name, (table, why) in _two(pair, held, unseen.layer_of, rng, probing).items():
        tables[name] = table
        reasons |= {name: why} if why else {}
    return tables, reasons


def _two(
    pair: Compared,
    held: HeldOut,
    layer_of: dict[tuple[str, str], int],
    rng: np.random.Generator,
    probing: Probing,
) -> dict[str, tuple[pd.DataFrame, str]]:
    segment = probing.segment
    return {
        "added": added_table(pair, held, layer_of, rng, segment=segment),
        "router_split": router_table(pair, held, probing.router_weights, rng, segment=segment),
    }


def _add(tables: dict[str, pd.DataFrame], more: dict[str, pd.DataFrame]) -> None:
    """Put rows under those that are there."""
    for name, rows in more.items():
        if len(rows):
            known = [tables[name]] if name in tables and len(tables[name]) else []
            tables[name] = pd.concat([*known, rows], ignore_index=True)
