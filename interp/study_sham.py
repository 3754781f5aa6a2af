"""How much a second wording of the same changes routing: the noise level of a wording."""

import numpy as np

from interp.analyses.effects_parts import surface_of_tokens
from interp.analyses.routed_tokens import Prompts
from interp.cache.errors import InputError
from interp.cache.reader import Store
from interp.compared import COMPARED, Compared, compared
from interp.study_experts import prompts_of, routed_tokens

SHAM = "-sham"
"""How the variant of a second wording ends."""


def sham_effect(store: Store, rng: np.random.Generator) -> float:
    """Largest surface-adjusted effect of any expert between a wording and its sham.

    Within each condition, prompts are labelled by whether they are shams, and the effect is that of
    the condition (`surface_adjusted_sums`, items as the clusters). Nothing is asked otherwise in
    a sham, so an effect of the condition that is no larger than this may be one of wording alone.

    Returns:
        Absolute effect as a share of routed slots, the larger of both conditions; NaN where no item
        of the store has a wording and its sham.
    """
    largest = np.array([_of_condition(store, name, rng) for name in COMPARED])
    return float(np.fmax.reduce(largest))


def _of_condition(store: Store, condition: str, rng: np.random.Generator) -> float:
    try:
        among = compared(store, (condition,))
    except InputError:
        return float("nan")
    prompts = _by_sham(among)
    if not set(prompts.item[prompts.benchmark]) & set(prompts.item[~prompts.benchmark]):
        return float("nan")
    tokens = routed_tokens(among)
    of_token = tokens.prompt_index
    sums = surface_of_tokens(tokens, prompts.benchmark[of_token], prompts.item[of_token], rng).sums
    return float(np.max(np.abs(sums.effect)))


def _by_sham(among: Compared) -> Prompts:
    """The prompts of one condition, with shams in the place of benchmark prompts."""
    usual = prompts_of(among)
    return Prompts(
        benchmark=among.table["variant"].str.endswith(SHAM).to_numpy(dtype=bool),
        item=usual.item,
        source=usual.source,
        template=usual.template,
    )
