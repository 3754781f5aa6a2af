"""What to record of each prompt, and how: plain values that go to the store as they are."""

from dataclasses import dataclass
from datetime import date

from interp.cache.errors import InputError
from interp.hooks.positions import check_positions
from interp.hooks.render import PINNED_DATE
from interp.hooks.tap import chosen_sites

DEFAULT_SITES = ("resid_post", "expert_indices", "expert_weights")


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How the model answers each prompt.

    Of the checkpoint's own generation config only the end tokens are used, so that nothing
    penalises or cuts what is not written here.

    Raises:
        InputError: If a number is outside of its range.
    """

    max_new_tokens: int
    """An answer ends after so many tokens, or at an end token."""
    temperature: float = 0.0
    """0 takes the most likely token each time (greedy); above 0, tokens are sampled."""
    top_p: float = 1.0
    """Sampling is among the most likely tokens that together have this probability."""
    seed: int = 0
    """Of the sampling; a batch draws from one stream, so batching is part of the result."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {self.max_new_tokens}, expected 1 or more")
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature is {self.temperature}, expected 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}, expected more than 0 and at most 1")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed is {self.seed}, expected 0 to 2**63 - 1")


@dataclass(frozen=True, kw_only=True)
class CaptureSettings:
    """What to record of each prompt, and how prompts are batched.

    Raises:
        InputError: If a site, position or size is not known.
    """

    sites: tuple[str, ...] = DEFAULT_SITES
    """Sites to record; `expert_indices` and `expert_weights` always are."""
    layers: tuple[int, ...] | None = None
    """Numbers of the layers to record; all routed layers if None."""
    positions: str = "last_content"
    """Tokens whose residuals are kept: `all`, `last_content` or `every:n`; routing of all."""
    batch_tokens: int = 4096
    """Tokens per forward pass, padding included; a longer prompt is a batch of its own."""
    today: str = PINNED_DATE.isoformat()
    """The date that the chat template shows, as YYYY-MM-DD."""
    logprobs: bool = False
    """Keep the log-probability of each token of a prompt: one more product with the unembedding."""
    generation: GenerationSettings | None = None
    """How the model answers; None captures the prompts alone."""

    def __post_init__(self) -> None:
        sites = chosen_sites((*self.sites, "expert_indices", "expert_weights"))
        object.__setattr__(self, "sites", sites)
        layers = None if self.layers is None else tuple(sorted(set(self.layers)))
        object.__setattr__(self, "layers", layers)
        check_positions(self.positions)
        if self.batch_tokens < 1:
            raise InputError(f"batch_tokens is {self.batch_tokens}, expected 1 or more")
        if self.logprobs and self.generation is not None:
            raise InputError(
                "logprobs are of prompts that are not answered, but generation is given; capture "
                "twice, once with each"
            )
        try:
            date.fromisoformat(self.today)
        except ValueError as error:
            raise InputError(
                f"today is {self.today!r}, expected a date such as 2025-08-05"
            ) from error
