"""What an experiment measures, how it intervenes, and the rule by which it finds experts."""

from dataclasses import dataclass, field

from interp.cache.errors import InputError

OUTCOMES = ("content", "answer", "option", "letter", "greedy", "own_answer")
"""As in `interp.hooks.outcomes`, which needs torch."""
INTERVENTIONS = ("reroute", "zero", "renormalise")
"""As in `interp.hooks.interventions`."""


@dataclass(frozen=True, kw_only=True)
class PipelineSettings:
    """The rule by which experts are found and compared; fixed before anything is run.

    Raises:
        InputError: If a number is outside of its range.
    """

    alpha: float = 0.05
    """Level of both searches, after Benjamini and Hochberg."""
    margin_in_even_shares: float = 0.5
    """Usage effect of an expert that is too small to count, in units of an even share,
    `1 / n_experts`; as in the rule of the verdict."""
    interaction_margin: float = 0.01
    """Own interaction of an expert that is too small to count, in the unit of the outcome: 1 % of
    the perplexity of a token, or one point of accuracy."""
    n_matched: int = 100
    """Random matched sets beside the found set."""
    n_placebo_matched: int = 0
    """Likewise for each placebo contrast; they are compared by their interactions alone if 0."""
    with_placebos: bool = True
    """Whether placebo contrasts are run."""
    seed: int = 0
    """Of halves, folds and random sets."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha is {self.alpha}, expected between 0 and 1")
        for name in ("margin_in_even_shares", "interaction_margin"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name} is {getattr(self, name)}, expected 0 or more")
        for name in ("n_matched", "n_placebo_matched", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}, expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class ExperimentSettings:
    """What is measured, how experts are taken out, and the rule by which they are found.

    Raises:
        InputError: If there is no such outcome or intervention, or a number is out of range.
    """

    outcome: str = "content"
    """One of `OUTCOMES`; see docs/experiments.md."""
    intervention: str = "reroute"
    """One of `INTERVENTIONS`; see docs/interventions.md."""
    pipeline: PipelineSettings = field(default_factory=PipelineSettings)
    """How experts are found and compared."""
    n_curves: int = 10
    """Matched sets beside the dose-response curve and the sufficiency."""
    n_random: int = 20
    """Random directions beside the direction that is steered along; nothing is steered if 0."""
    with_patches: bool = True
    """Whether routing is patched between the wordings of an item."""
    n_noise: int = 32
    """Items (of each condition, where they are not paired) whose noise floor is measured; none if
    0."""
    batch_tokens: int = 4096
    """Tokens per pass, padding included."""
    max_new_tokens: int = 32
    """Of greedy answers, for the outcomes that need them."""
    second_model: str | None = None
    """Model that a study goes through the same procedure with, for the difference; an organism, a
    hub name or a directory. `run_experiment` is of one model, and does not look at it."""

    def __post_init__(self) -> None:
        for name, known in (("outcome", OUTCOMES), ("intervention", INTERVENTIONS)):
            if getattr(self, name) not in known:
                found = getattr(self, name)
                raise InputError(f"{name} is {found!r}, expected one of {', '.join(known)}")
        for name in ("batch_tokens", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 1 or more")
        for name in ("n_curves", "n_random", "n_noise"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}, expected 0 or more")
