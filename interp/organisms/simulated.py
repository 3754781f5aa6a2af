"""Simulated routing with a known answer: prompts in items in sources in conditions.

What a router reads (token, previous token, position), what differs between prompts, items and
sources, and what the condition does can each be switched on alone. Numpy only; no model.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer

from interp.analyses.routed_tokens import Prompts, RoutedTokens
from interp.organisms.simulated_design import Simulation


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """A simulated study and the truth about it."""

    tokens: RoutedTokens
    """What an analysis is given."""
    prompts: Prompts
    """What each prompt is; `source` and `item` are numbers, `template` is empty."""
    effect: Float[np.ndarray, "layers experts"]
    """Usage share that benchmark adds, at each token, whatever the token: exact, mostly 0."""
    vocabulary: Float[np.ndarray, "conditions ids"]
    """Token frequencies of organic (first) and benchmark sources on average."""


def simulated(design: Simulation, *, rng: np.random.Generator) -> Simulated:
    """Draw one study: new sources, items and prompts, and a new world unless one is named.

    An expert's log-weight for a token is the sum of normal terms for token id, previous token,
    position, prompt, item and source; `top_k` experts are drawn without replacement by these
    weights (Gumbel top-k, Kool et al. 2019, arXiv:1903.06059). So usage differs between sources
    even where the condition does nothing.

    The effect (ours): a share `delta * top_k` of the tokens of both conditions, drawn at random,
    must choose `expert` and not `other` under benchmark, `other` and not `expert` under organic.
    The remaining slots are drawn alike. So every prompt's expected usage differs by exactly `delta`
    and every other expert's by exactly 0, whatever the weights.

    Args:
        design: What to simulate.
        rng: Source of chance; the same state gives the same study.

    Returns:
        The study and its truth. Tokens of a prompt are drawn independently of each other.

    Example:
        >>> from interp.organisms.simulated_design import Simulation
        >>> design = Simulation(n_sources=2, delta=0.1, planted=((0, 3, 5),))
        >>> study = simulated(design, rng=np.random.default_rng(0))
        >>> study.effect[0, [3, 4, 5]]
        array([ 0.1,  0. , -0.1])
        >>> len(study.prompts.benchmark)
        40
    """
    world = rng if design.world_seed is None else np.random.default_rng(design.world_seed)
    prompts = _prompts(design)
    vocabulary = _vocabulary(design, world)
    prompt_index, position = _lengths(design, prompts.benchmark, rng)
    token_id = _token_ids(design, prompts, vocabulary, prompt_index, rng)
    previous = np.where(position > 0, np.roll(token_id, 1), -1)
    logprob = np.log(vocabulary.mean(axis=0))[token_id] + rng.normal(scale=0.5, size=len(token_id))
    tokens = RoutedTokens(
        expert_indices=_routed(
            design, prompts, (prompt_index, token_id, previous, position), rng, world
        ),
        token_id=token_id,
        previous_token_id=previous,
        position=position,
        logprob=np.where(position > 0, logprob, np.nan),
        prompt_index=prompt_index,
        n_experts=design.n_experts,
        layer_indices=tuple(range(design.n_layers)),
    )
    return Simulated(tokens=tokens, prompts=prompts, effect=_truth(design), vocabulary=vocabulary)


def _truth(design: Simulation) -> Float[np.ndarray, "layers experts"]:
    effect = np.zeros((design.n_layers, design.n_experts))
    for layer, expert, other in design.planted:
        effect[layer, expert] += design.delta
        effect[layer, other] -= design.delta
    return effect


def _prompts(design: Simulation) -> Prompts:
    """Conditions, then sources, items and prompts in order."""
    per_condition = design.n_sources * design.items_per_source
    item = np.repeat(np.arange(per_condition), design.prompts_per_item)
    n = len(item)
    item = np.tile(item, 2) if design.paired else np.concatenate([item, item + per_condition])
    return Prompts(
        benchmark=np.arange(2 * n) >= n,
        source=item // design.items_per_source,
        item=item,
        template=np.full(2 * n, ""),
    )


def _vocabulary(
    design: Simulation, rng: np.random.Generator
) -> Float[np.ndarray, "conditions ids"]:
    """Zipf's law, tilted up and down by a normal variable just so far that the overlap is met."""
    zipf = -np.log(2.0 + rng.permutation(design.n_token_ids))
    tilt = rng.normal(size=design.n_token_ids)
    low, high = 0.0, 64.0
    for _ in range(60):
        step = (low + high) / 2
        shares = _normalised(np.stack([zipf - step * tilt, zipf + step * tilt]))
        enough = shares.min(axis=0).sum() > design.overlap
        low, high = (step, high) if enough else (low, step)
    return _normalised(np.stack([zipf - low * tilt, zipf + low * tilt]))


def _normalised(logs: Float[np.ndarray, "rows ids"]) -> Float[np.ndarray, "rows ids"]:
    shares = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _lengths(
    design: Simulation, benchmark: Bool[np.ndarray, "prompts"], rng: np.random.Generator
) -> tuple[Integer[np.ndarray, "tokens"], Integer[np.ndarray, "tokens"]]:
    """Prompt and position of each token."""
    mean = design.tokens_per_prompt * np.where(benchmark, design.length_ratio, 1.0)
    spread = rng.normal(scale=design.length_sd, size=len(mean))
    length = np.maximum(2, np.rint(mean * np.exp(spread))).astype(np.int64)
    first = np.cumsum(length) - length
    prompt_index = np.repeat(np.arange(len(length)), length)
    return prompt_index, np.arange(len(prompt_index)) - first[prompt_index]


def _token_ids(
    design: Simulation,
    prompts: Prompts,
    vocabulary: Float[np.ndarray, "conditions ids"],
    prompt_index: Integer[np.ndarray, "tokens"],
    rng: np.random.Generator,
) -> Integer[np.ndarray, "tokens"]:
    """Each source has its condition's frequencies, tilted anew; tokens are drawn from them."""
    both = 2 * prompts.source + prompts.benchmark
    cells, row = np.unique(both, return_inverse=True)
    tilt = rng.normal(size=(int(prompts.source.max()) + 1, design.n_token_ids))
    logs = np.log(vocabulary)[cells % 2] + design.source_vocabulary_sd * tilt[cells // 2]
    reached = np.cumsum(_normalised(logs), axis=1)
    # One search for all rows: row r lives between r and r + 1.
    lines = (reached / reached[:, -1:] + np.arange(len(cells))[:, None]).ravel()
    drawn = rng.random(len(prompt_index)) + row[prompt_index]
    found = np.searchsorted(lines, drawn, side="right") - row[prompt_index] * design.n_token_ids
    return np.asarray(np.minimum(found, design.n_token_ids - 1))


def _routed(
    design: Simulation,
    prompts: Prompts,
    read: tuple[Integer[np.ndarray, "tokens"], ...],
    rng: np.random.Generator,
    world: np.random.Generator,
) -> Integer[np.ndarray, "tokens layers top_k"]:
    """Experts of each token, layer by layer: the first `top_k` of a race of exponential clocks."""
    prompt_index, token_id, previous, position = read
    benchmark = prompts.benchmark[prompt_index]
    chosen = np.empty((len(token_id), design.n_layers, design.top_k), dtype=np.uint16)
    for layer in range(design.n_layers):
        weight = np.exp(_prompt_terms(design, prompts, rng))[prompt_index]
        weight *= _table(world, design.token_sd, design)[token_id]
        weight *= _table(world, design.previous_sd, design)[previous]  # -1 reads the last row
        slope = world.normal(scale=design.position_sd, size=design.n_experts)
        if design.position_sd:
            weight *= np.exp(slope * (position / design.tokens_per_prompt)[:, None])
        clock = rng.standard_exponential(weight.shape) / weight
        _plant(design, layer, clock, benchmark, rng)
        chosen[:, layer] = np.argpartition(clock, design.top_k - 1, axis=1)[:, : design.top_k]
    return chosen


def _table(
    world: np.random.Generator, sd: float, design: Simulation
) -> Float[np.ndarray, "rows experts"]:
    """Weight of each expert for each token id, and in the last row for no token."""
    shape = (design.n_token_ids + 1, design.n_experts)
    return np.asarray(np.exp(sd * world.normal(size=shape)))


def _prompt_terms(
    design: Simulation, prompts: Prompts, rng: np.random.Generator
) -> Float[np.ndarray, "prompts experts"]:
    """Log-weights that all tokens of a prompt share: its source's, its item's and its own."""
    width = design.n_experts
    of_source = rng.normal(size=(int(prompts.source.max()) + 1, width))[prompts.source]
    of_item = rng.normal(size=(int(prompts.item.max()) + 1, width))[prompts.item]
    own = rng.normal(size=(len(prompts.item), width))
    source_sd = design.source_sd * np.where(prompts.benchmark, design.source_sd_ratio, 1.0)
    terms = source_sd[:, None] * of_source + design.item_sd * of_item + design.prompt_sd * own
    return np.asarray(terms)


def _plant(
    design: Simulation,
    layer: int,
    clock: Float[np.ndarray, "tokens experts"],
    benchmark: Bool[np.ndarray, "tokens"],
    rng: np.random.Generator,
) -> None:
    """Let one expert of each planted pair win and the other lose, on tokens drawn at random."""
    pairs = [(expert, other) for at, expert, other in design.planted if at == layer]
    if not pairs or not design.delta:
        return
    share = abs(design.delta) * design.top_k
    pair_of_token = np.floor(rng.random(len(clock)) / share).astype(np.int64)
    wins = benchmark == (design.delta > 0)
    for number, (expert, other) in enumerate(pairs):
        hit = pair_of_token == number
        clock[hit, expert] = np.where(wins[hit], -1.0, np.inf)
        clock[hit, other] = np.where(wins[hit], np.inf, -1.0)
