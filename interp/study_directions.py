"""Directions between the conditions, for steering: learnt from a store, kept in a file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.analyses.directions import (
    METHODS,
    Directions,
    SourceCosines,
    probe_directions,
    source_cosines,
)
from interp.cache.durable import write_whole
from interp.cache.errors import InputError
from interp.cache.reader import Store
from interp.compared import COMPARED, Compared, compared
from interp.study_features import resid_readings

FORMAT = "moe-interp directions 1"


@dataclass(frozen=True, kw_only=True)
class StudyDirections:
    """Directions from organic to benchmark prompts at every residual site, layer and readout."""

    of: Mapping[tuple[str, str], Directions]
    """By site and readout."""
    sources: Mapping[tuple[str, str], SourceCosines]
    """By site and readout, whether pairs of sources point the same way; empty when read back."""
    prompt_ids: tuple[str, ...]
    """Prompts that they were learnt on; try an intervention on others."""
    store_sha256: str
    """Names the store that they were learnt from."""
    model: str
    """Model that the store was captured from."""

    def vector(
        self, site: str, layer: int, *, readout: str, method: str = METHODS[0]
    ) -> Float[np.ndarray, "d_model"]:
        """One unit vector, as `interp.hooks.steer_residual` takes it.

        Raises:
            ValueError: If there is none of that site, readout, layer or method.
        """
        if (site, readout) not in self.of or method not in METHODS:
            known = "; ".join(" ".join(key) for key in self.of)
            raise ValueError(
                f"there is no direction {method} of {site} {readout}; there are {known}, each by "
                f"{' and '.join(METHODS)}"
            )
        found = self.of[site, readout]
        if layer not in found.layer_indices:
            raise ValueError(f"there is no direction of layer {layer}, only {found.layer_indices}")
        return np.asarray(found.vector[METHODS.index(method), found.layer_indices.index(layer)])

    def to_frame(self) -> pd.DataFrame:
        """One row per site, readout and layer; the vectors themselves stay out."""
        tables = []
        for (site, readout), found in self.of.items():
            frame = found.to_frame()
            frame.insert(2, "readout", readout)
            for place, method in enumerate(METHODS):
                before = np.r_[np.nan, np.diagonal(found.cosine[place], offset=1)]
                frame[f"cosine_to_layer_before_{method}"] = before
            if (site, readout) in self.sources:
                frame = frame.merge(self.sources[site, readout].to_frame(), on="layer")
            tables.append(frame)
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    def cosines(self) -> pd.DataFrame:
        """One row per site, readout, method and pair of layers."""
        rows = []
        for (site, readout), found in self.of.items():
            for place, method in enumerate(METHODS):
                for one, layer in enumerate(found.layer_indices):
                    for other, name in enumerate(found.layer_indices[:one]):
                        cosine = float(found.cosine[place, one, other])
                        rows.append((site, readout, method, layer, name, cosine))
        names = ("site", "readout", "method", "layer", "other_layer", "cosine")
        return pd.DataFrame(rows, columns=list(names))


def study_directions(
    store: Store, *, among: Compared | None = None, segment: str = ""
) -> StudyDirections:
    """Both directions of the condition wherever the store has residual streams.

    Args:
        store: From `open_store`.
        among: The prompts to learn from, such as those of `some_prompts`; all benchmark and organic
            ones if None. Leave some out to try an intervention on.
        segment: As for `readings`.

    Returns:
        Nothing in `of` where the store has no residual streams.

    Raises:
        ValueError: If only one condition is there.
        InputError: If no token is.
    """
    pair = compared(store, COMPARED) if among is None else among
    source = pair.table["source"].to_numpy(dtype=str)
    of, sources = {}, {}
    for key, layers in _by_site(pair, segment).items():
        alike: dict[str, Any] = {"layer_indices": list(layers), "target": pair.benchmark}
        features = list(layers.values())
        of[key] = probe_directions(features, site=key[0], **alike)
        sources[key] = source_cosines(features, source=source, **alike)
    return StudyDirections(
        of=of,
        sources=sources,
        prompt_ids=tuple(pair.table["prompt_id"].tolist()),
        store_sha256=store.sha256,
        model=str(store.provenance.get("model", "unknown")),
    )


def _by_site(
    pair: Compared, segment: str
) -> dict[tuple[str, str], dict[int, Float[np.ndarray, "prompts d_model"]]]:
    found: dict[tuple[str, str], dict[int, Any]] = {}
    for reading in resid_readings(pair, absent={}, segment=segment):
        found.setdefault(reading.key, {})[reading.layer] = reading.features
    return found


def write_directions(found: StudyDirections, path: Path) -> None:
    """Write directions as one `.npz` file without pickled objects; `numpy.load` opens it.

    Of each site and readout: `SITE/READOUT/vector` [methods layers d_model], and likewise `layer`,
    `spread`, `length`, `cosine` and `cosine_of_methods`; and `about`, JSON text with the format,
    methods, store, model and prompts.
    """
    import io

    arrays: dict[str, Any] = {"about": np.array(json.dumps(_about(found)))}
    for (site, readout), each in found.of.items():
        arrays[f"{site}/{readout}/layer"] = np.array(each.layer_indices)
        for name in ("vector", "spread", "length", "cosine", "cosine_of_methods"):
            arrays[f"{site}/{readout}/{name}"] = getattr(each, name)
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    write_whole(path, packed.getvalue())


def write_directions_beside(results: Path, store: Store, *, segment: str = "") -> dict[str, str]:
    """Write the directions of a store next to its results, as `NAME.directions.npz`.

    Returns:
        The path under `directions`; nothing where there is no residual stream or one condition.
    """
    try:
        found = study_directions(store, segment=segment)
    except (InputError, ValueError):  # one condition alone has no direction
        return {}
    if not found.of:
        return {}
    path = results.with_suffix(".directions.npz")
    write_directions(found, path)
    return {"directions": str(path)}


def read_directions(path: Path) -> StudyDirections:
    """Read what `write_directions` wrote.

    Raises:
        InputError: If the file is not there, or is none of those.
    """
    try:
        with np.load(path, allow_pickle=False) as held:
            about = json.loads(str(held["about"]))
            if about["format"] != FORMAT:
                raise ValueError(f"its format is {about['format']}, expected {FORMAT}")
            keys = [tuple(name.split("/")[:2]) for name in held.files if name.endswith("/vector")]
            of = {(site, readout): _read(held, site, readout, about) for site, readout in keys}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read as directions ({type(error).__name__}: {error}); make it with: "
            "interp analyze STORE --out results.json"
        ) from error
    return StudyDirections(
        of=of,
        sources={},
        prompt_ids=tuple(about["prompt_ids"]),
        store_sha256=about["store_sha256"],
        model=about["model"],
    )


def _about(found: StudyDirections) -> dict[str, Any]:
    facts = ("store_sha256", "model", "prompt_ids")
    return {"format": FORMAT, "methods": METHODS} | {name: getattr(found, name) for name in facts}


def _read(held: Any, site: str, readout: str, about: Mapping[str, Any]) -> Directions:
    names = ("vector", "spread", "length", "cosine", "cosine_of_methods")
    return Directions(
        site=site,
        layer_indices=tuple(held[f"{site}/{readout}/layer"].tolist()),
        fitted=np.ones(len(about["prompt_ids"]), dtype=bool),
        **{name: held[f"{site}/{readout}/{name}"] for name in names},
    )
