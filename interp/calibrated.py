"""How often the verdict was right on simulated studies with a known answer; docs/calibration.md."""

from dataclasses import dataclass

RUNS = 200
"""Studies a cell, seeds 0 to 199 of its own."""
RUNGS = ("insufficient", "no_difference", "surface", "associational")
"""What a verdict can be where no experiment is made."""


@dataclass(frozen=True, kw_only=True)
class CalibratedCell:
    """Verdicts on simulated studies of one kind."""

    simulated: str
    """What differs in them."""
    known: str
    """The highest rung that is right."""
    verdicts: tuple[int, int, int, int]
    """Studies that came to each of `RUNGS`."""

    @property
    def too_high(self) -> int:
        """Studies whose verdict claims more than is true."""
        return sum(self.verdicts[RUNGS.index(self.known) + 1 :])

    @property
    def wrongly_equal(self) -> int:
        """Studies that say `no_difference` where there is one.

        It stands low on the ladder and still claims something: that all lies inside the margin.
        """
        place = RUNGS.index("no_difference")
        return self.verdicts[place] if RUNGS.index(self.known) > place else 0


def _cell(simulated: str, known: str, *verdicts: int) -> CalibratedCell:
    first, second, third, fourth = verdicts
    return CalibratedCell(simulated=simulated, known=known, verdicts=(first, second, third, fourth))


CALIBRATED = (
    _cell("only prompts differ", "no_difference", 1, 199, 0, 0),
    _cell("only sources differ, a little", "no_difference", 2, 198, 0, 0),
    _cell("only sources differ, 10 + 10", "no_difference", 200, 0, 0, 0),
    _cell("only sources differ, 25 + 25", "no_difference", 0, 200, 0, 0),
    _cell("only vocabulary differs", "surface", 0, 26, 174, 0),
    _cell("vocabulary, previous token read", "surface", 0, 24, 176, 0),
    _cell("length differs, position read", "surface", 33, 27, 140, 0),
    _cell("planted at the margin", "associational", 7, 0, 0, 193),
    _cell("planted at twice the margin", "associational", 0, 0, 0, 200),
    _cell("planted at twice the margin, vocabulary differs", "associational", 0, 0, 0, 200),
)
"""Measured by benchmarks/verdict_calibration.py."""
