"""What a simulated study is made of: sizes, what the router reads, what varies, what is planted."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What to simulate. All `_sd` are standard deviations of an expert's log-weight.

    Raises:
        ValueError: If a number cannot be simulated.
    """

    n_sources: int = 5
    """Sources in each condition; in all, where items are paired."""
    items_per_source: int = 10
    """Items in each source."""
    prompts_per_item: int = 1
    """Prompts of each item; in each condition, where items are paired."""
    paired: bool = False
    """Every item (and so every source) has prompts of both conditions."""
    tokens_per_prompt: int = 60
    """Geometric mean of the tokens of an organic prompt."""
    length_ratio: float = 1.0
    """Length of benchmark prompts over that of organic ones."""
    length_sd: float = 0.2
    """Standard deviation of the logarithm of a prompt's length."""
    n_layers: int = 4
    """Routed layers."""
    n_experts: int = 16
    """Experts in a layer."""
    top_k: int = 2
    """Experts chosen for each token."""
    n_token_ids: int = 150
    """Size of the vocabulary, with Zipf's frequencies."""
    overlap: float = 1.0
    """`sum_t min(a_t, b_t)` of the two conditions' token frequencies, above 0, up to 1."""
    source_vocabulary_sd: float = 0.0
    """Of the logarithm of a token's frequency between sources."""
    token_sd: float = 1.0
    """Between token ids."""
    previous_sd: float = 0.0
    """Between ids of the previous token."""
    position_sd: float = 0.0
    """Between experts, of the slope over `tokens_per_prompt` positions."""
    world_seed: int | None = None
    """Vocabulary and routers of this seed, so that studies differ in their prompts and sources
    alone; drawn anew where None."""
    prompt_sd: float = 0.2
    """Between prompts of an item."""
    item_sd: float = 0.0
    """Between items of a source."""
    source_sd: float = 0.0
    """Between sources of a condition."""
    source_sd_ratio: float = 1.0
    """Of benchmark sources over organic ones; other than 1 also moves mean usage a little."""
    delta: float = 0.0
    """Size of the planted effect, in usage share; may be negative."""
    planted: tuple[tuple[int, int, int], ...] = ()
    """(layer, expert, other): `expert` has `delta` more under benchmark, `other` as much less."""

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated."""
        if not 0 < self.overlap <= 1:
            raise ValueError(f"overlap is {self.overlap}; give a share above 0, at most 1")
        if not 0 < self.top_k < self.n_experts:
            raise ValueError(
                f"top_k is {self.top_k} of {self.n_experts} experts; give at least 1, but not all"
            )
        if min(self.n_sources, self.items_per_source, self.prompts_per_item) < 1:
            raise ValueError("a number of sources, items or prompts is below 1; give 1 or more")
        _check_planted(self)


def _check_planted(design: Simulation) -> None:
    cells = [(layer, e) for layer, *pair in design.planted for e in pair]
    for layer, expert in cells:
        if not (0 <= layer < design.n_layers and 0 <= expert < design.n_experts):
            raise ValueError(
                f"planted names layer {layer}, expert {expert}, but there are {design.n_layers} "
                f"layers and {design.n_experts} experts; count from 0"
            )
    if len(set(cells)) < len(cells):
        raise ValueError("planted names an expert twice in a layer; plant each one once")
    layers = [layer for layer, _, _ in design.planted]
    most = max((layers.count(layer) for layer in layers), default=0)
    if abs(design.delta) * design.top_k * most > 1:
        raise ValueError(
            f"delta is {design.delta}, but {most} pairs of experts in a layer with top_k "
            f"{design.top_k} leave room for {1 / (design.top_k * most):.3g}; give less"
        )
