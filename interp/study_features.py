"""What the probes of a study read: routing and residual streams by site, layer and readout."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from interp.analyses.features import mean_by_prompt, routing_features
from interp.analyses.probe_choice import FeatureSource
from interp.analyses.probe_residual_usage import WithinTokenUsage
from interp.cache.records import SEGMENTS
from interp.compared import Compared

PROMPT, LAST, MEAN = "prompt", "last_content", "mean_content"
"""Readouts: all tokens compared; the last token of the item's own words; the mean over these."""
WITHIN = "routing_within_token"
"""Site of the usage less what token ids foretell."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one probe reads."""

    site: str
    """`routing`, `routing_within_token`, `router_logits` or a residual site."""
    layer: int
    """Number in the model."""
    readout: str
    """Which tokens of a prompt count, and how."""
    features: FeatureSource
    """One row per prompt."""

    @property
    def key(self) -> tuple[str, str]:
        """Site and readout: what all layers of one curve share."""
        return self.site, self.readout


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Which of some rows a readout uses."""

    row: Int[np.ndarray, "rows"]
    prompt: Int[np.ndarray, "rows"]
    """Prompt that each belongs to, as in `Compared.prompt`."""


def readings(
    pair: Compared,
    *,
    cluster: Shaped[np.ndarray, "prompts"],
    absent: dict[str, str],
    segment: str = "",
) -> Iterator[Reading]:
    """Every reading that the store has, site by site; what cannot be read is named in `absent`.

    Args:
        pair: The prompts.
        cluster: What is held out whole: within-token usage leaves a prompt's own cluster out.
        absent: Gets a sentence for each site and readout that is left out.
        segment: Of `SEGMENTS`, whose mean is read too; none if empty.
    """
    yield from _of_routing(pair, cluster)
    if pair.store.layout.router_logits:
        rows = readouts(pair, np.arange(pair.store.n_tokens), segment, absent)
        for layer in pair.store.layout.layer_indices:
            logits = pair.store.router([layer]).router_logits
            assert logits is not None  # the layout says that they are there
            yield from _read(pair, "router_logits", layer, logits[:, 0], rows, absent)
    yield from resid_readings(pair, absent=absent, segment=segment)


def resid_readings(
    pair: Compared, *, absent: dict[str, str], segment: str = ""
) -> Iterator[Reading]:
    """The readings of residual streams alone, as `readings` gives them."""
    rows: Mapping[str, Rows] | None = None
    if not pair.store.resid_layers:
        absent["probes_resid_post"] = (
            "The store holds no residual streams, so no probe can be trained on them; capture with "
            "the site resid_post."
        )
    for site, layers in pair.store.resid_layers.items():
        for layer in layers:
            held = pair.store.resid(site, layer)
            if rows is None:  # all sites and layers keep the same tokens
                rows = readouts(pair, held.token_index, segment, absent)
            yield from _read(pair, site, layer, held.values, rows, absent)


def _of_routing(pair: Compared, cluster: Shaped[np.ndarray, "prompts"]) -> Iterator[Reading]:
    layers, n_experts = pair.store.layout.layer_indices, pair.store.layout.n_experts
    usage = routing_features(
        pair.expert_indices,
        prompt_index=pair.prompt_index,
        n_prompts=len(pair.prompt),
        n_experts=n_experts,
    )
    for column, layer in enumerate(layers):
        yield Reading(site="routing", layer=layer, readout=PROMPT, features=usage[:, column])
    for column, layer in enumerate(layers):
        within = WithinTokenUsage(
            pair.expert_indices[:, column],
            token_id=pair.store.token_id[pair.token],
            prompt_index=pair.prompt_index,
            cluster=cluster,
            n_experts=n_experts,
        )
        yield Reading(site=WITHIN, layer=layer, readout=PROMPT, features=within)


def _read(
    pair: Compared,
    site: str,
    layer: int,
    values: Float[np.ndarray, "rows d"],
    rows: Mapping[str, Rows],
    absent: dict[str, str],
) -> Iterator[Reading]:
    """Every readout of one site and layer; what is not finite is left out with a sentence."""
    for readout, used in rows.items():
        with np.errstate(invalid="ignore"):  # infinities of both signs have no mean
            features = mean_by_prompt(
                values[used.row], prompt_of_row=used.prompt, n_prompts=len(pair.prompt)
            )
        broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if len(broken):
            absent[f"probes_{site}_{layer}_{readout}"] = (
                f"{site} of layer {layer} is not finite in {len(broken)} of {len(features)} "
                f"prompts (the first is {pair.table['prompt_id'].iloc[broken[0]]}), so no probe "
                f"is trained on its {readout}."
            )
        else:
            yield Reading(site=site, layer=layer, readout=readout, features=features)


def readouts(
    pair: Compared, token_index: Int[np.ndarray, "rows"], segment: str, absent: dict[str, str]
) -> dict[str, Rows]:
    """Rows of each readout that every prompt has; there is a row for each of `token_index`.

    The mean over the content is left out where it is the last token of the content in every prompt.
    """
    content = content_tokens(pair)
    last = np.full(len(pair.prompt), -1)
    last[pair.prompt_index[content]] = pair.token[content]  # the last one written stays
    wanted = {LAST: last, MEAN: pair.token[content]}
    if segment:
        wanted[f"mean_{segment}"] = np.flatnonzero(pair.store.segment == SEGMENTS.index(segment))
    found: dict[str, Rows] = {}
    for readout, tokens in wanted.items():
        used = _rows(pair, token_index, tokens)
        n_without = len(pair.prompt) - len(np.unique(used.prompt))
        if n_without:
            absent[f"probes_{readout}"] = _no_rows(n_without, len(pair.prompt), readout)
        elif readout == MEAN and LAST in found and len(used.row) == len(pair.prompt):
            absent["probes_mean_content"] = (
                "The store keeps one residual stream a prompt, so the mean over the content is its "
                "last token; capture with positions all to probe the mean."
            )
        else:
            found[readout] = used
    return found


def content_tokens(pair: Compared) -> Bool[np.ndarray, "tokens"]:
    """True for the item's own words among the tokens compared; all, where a prompt has none."""
    user = pair.store.segment[pair.token] == SEGMENTS.index("user")
    has_user = np.bincount(pair.prompt_index[user], minlength=len(pair.prompt)) > 0
    return np.asarray(user | ~has_user[pair.prompt_index])


def _rows(
    pair: Compared, token_index: Int[np.ndarray, "rows"], tokens: Int[np.ndarray, "wanted"]
) -> Rows:
    row = np.flatnonzero(np.isin(token_index, tokens))
    of_prompt = pair.store.prompt_index[token_index[row]]
    place = np.searchsorted(pair.prompt, of_prompt)
    place[place == len(pair.prompt)] = 0
    ours = pair.prompt[place] == of_prompt
    return Rows(row=row[ours], prompt=place[ours])


def _no_rows(n_without: int, n_prompts: int, readout: str) -> str:
    what = {LAST: "the last token of its content", MEAN: "a token of its content"}
    return (
        f"{n_without} of {n_prompts} prompts kept no residual stream of "
        f"{what.get(readout, 'a token of that segment')}, so {readout} cannot be probed; capture "
        "with positions all."
    )
