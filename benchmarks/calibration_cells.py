"""What benchmarks/calibration.py simulates: one cell a line of its table, each with its seed."""

from dataclasses import dataclass, replace

from interp.organisms.simulated_design import Simulation


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One kind of study, and the tests that are made of each."""

    seed: int
    """First part of the seed of each of its studies."""
    design: Simulation
    """What is simulated."""
    tests: tuple[tuple[str, str], ...]
    """(adjustment, cluster): the first is the one that is recommended, the others are warnings."""
    at_margin: bool = False
    """Planted effects have the size of the equivalence margin, not that of the power function."""
    is_alone: bool = False
    """The power function is asked about one expert by itself, and that one has its own t test."""

    @property
    def margin(self) -> float:
        """Of DESIGN.md."""
        return 0.5 / self.design.n_experts


BASE = Simulation()
SOURCES = replace(BASE, source_sd=0.2)
WORDS = replace(BASE, overlap=0.5)
BY_SOURCE = ("token", "source")
BY_ITEM = ("token", "item")
BY_TOKEN = ("token", "token")
SURFACE = ("surface", "source")
SHORT = replace(BASE, n_sources=10, items_per_source=5, tokens_per_prompt=50)
NEIGHBOURS = replace(SHORT, overlap=0.5, previous_sd=0.5)
LONGER = replace(SHORT, length_ratio=1.5, position_sd=0.5)

PAIR = ((1, 3, 5),)
SIX_PAIRS = ((0, 1, 2), (0, 7, 9), (1, 3, 5), (2, 4, 6), (2, 8, 10), (3, 0, 15))
PLAN = replace(SOURCES, overlap=0.5, world_seed=1, planted=PAIR)
NARROW = replace(PLAN, n_sources=10, source_sd=0.05)

CELLS = {
    "prompts, 40 + 40 items": Cell(
        seed=1, design=replace(BASE, n_sources=4, prompt_sd=0.3), tests=(BY_ITEM, BY_TOKEN)
    ),
    "prompts, 40 paired items": Cell(
        seed=2,
        design=replace(BASE, n_sources=4, prompt_sd=0.3, item_sd=0.3, paired=True),
        tests=(BY_ITEM, BY_TOKEN),
    ),
    "vocabulary, 40 + 40 items": Cell(
        seed=3, design=replace(WORDS, n_sources=4), tests=(BY_ITEM, ("raw", "item"), BY_TOKEN)
    ),
    "vocabulary, 5 + 5 sources": Cell(
        seed=4, design=WORDS, tests=(BY_SOURCE, ("raw", "source"), BY_TOKEN)
    ),
    "vocabulary, 10 + 10 sources": Cell(
        seed=5, design=replace(WORDS, n_sources=10), tests=(BY_SOURCE, ("raw", "source"), BY_TOKEN)
    ),
    "sources, 5 + 5": Cell(seed=6, design=SOURCES, tests=(BY_SOURCE, BY_ITEM, BY_TOKEN)),
    "sources, 10 + 10": Cell(
        seed=7, design=replace(SOURCES, n_sources=10), tests=(BY_SOURCE, BY_ITEM, BY_TOKEN)
    ),
    "sources with their own vocabulary, 10 + 10": Cell(
        seed=8,
        design=replace(SOURCES, n_sources=10, overlap=0.6, source_vocabulary_sd=0.3),
        tests=(BY_SOURCE, BY_TOKEN),
    ),
    "sources, 10 + 10, unequal 1.5:1": Cell(
        seed=26, design=replace(SOURCES, n_sources=10, source_sd_ratio=1.5), tests=(BY_SOURCE,)
    ),
    "sources, 10 + 10, unequal 2:1": Cell(
        seed=9, design=replace(SOURCES, n_sources=10, source_sd_ratio=2.0), tests=(BY_SOURCE,)
    ),
    "sources, 10 + 10, unequal 4:1": Cell(
        seed=10, design=replace(SOURCES, n_sources=10, source_sd_ratio=4.0), tests=(BY_SOURCE,)
    ),
    "planted at the stated size, 5 + 5 sources": Cell(seed=11, design=PLAN, tests=(BY_SOURCE,)),
    "planted at the stated size, 10 + 10 sources": Cell(
        seed=12, design=replace(PLAN, n_sources=10), tests=(BY_SOURCE,)
    ),
    "planted at the stated size, 40 + 40 items": Cell(
        seed=13, design=replace(PLAN, n_sources=4, source_sd=0.0), tests=(BY_ITEM,)
    ),
    "planted at the size stated for it alone, 5 + 5 sources": Cell(
        seed=24, design=PLAN, tests=(BY_SOURCE,), is_alone=True
    ),
    "planted at the size stated for it alone, 10 + 10 sources": Cell(
        seed=25, design=replace(PLAN, n_sources=10), tests=(BY_SOURCE,), is_alone=True
    ),
    "12 of 64 experts planted, 5 + 5 sources": Cell(
        seed=14, design=replace(PLAN, planted=SIX_PAIRS), tests=(BY_SOURCE,)
    ),
    "12 of 64 experts planted, 10 + 10 sources": Cell(
        seed=15,
        design=replace(PLAN, n_sources=10, planted=SIX_PAIRS),
        tests=(BY_SOURCE,),
    ),
    "equivalence, no effect": Cell(seed=16, design=replace(NARROW, planted=()), tests=(BY_SOURCE,)),
    "equivalence, 2 experts at the margin": Cell(
        seed=17, design=NARROW, tests=(BY_SOURCE,), at_margin=True
    ),
    "routers read the previous token, vocabulary differs": Cell(
        seed=18, design=NEIGHBOURS, tests=(SURFACE, BY_SOURCE)
    ),
    "routers read the position, lengths differ": Cell(
        seed=19, design=LONGER, tests=(SURFACE, BY_SOURCE)
    ),
    "both, 40 + 40 items": Cell(
        seed=20,
        design=replace(LONGER, n_sources=8, previous_sd=0.5, overlap=0.5),
        tests=(("surface", "item"), BY_ITEM),
    ),
    "both, and sources differ, 5 + 5": Cell(
        seed=21,
        design=replace(LONGER, n_sources=5, previous_sd=0.5, overlap=0.5, source_sd=0.2),
        tests=(SURFACE, BY_SOURCE),
    ),
    "both, and sources differ, 10 + 10": Cell(
        seed=22,
        design=replace(LONGER, previous_sd=0.5, overlap=0.5, source_sd=0.2),
        tests=(SURFACE, BY_SOURCE),
    ),
    "both, 12 of 64 experts planted, 10 + 10 sources": Cell(
        seed=23,
        design=replace(
            LONGER, previous_sd=0.5, overlap=0.5, source_sd=0.2, world_seed=1, planted=SIX_PAIRS
        ),
        tests=(SURFACE,),
    ),
}
