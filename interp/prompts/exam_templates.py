"""The exam templates of the `matched` suite, in the order in which the items wear them.

The first six are worn by the first 72 items, the other six by the rest. Lead-ins and tails of the
latter are as long as those of the first six chat templates, and list options as often.
"""

from interp.prompts.surroundings import Frame, Surroundings, lettered


def _choices(around: Surroundings) -> tuple[str, str]:
    return "Question: ", f"\nChoices:\n{lettered(around, '{letter}. {choice}')}\nAnswer:"


def _letter(around: Surroundings) -> tuple[str, str]:
    lead = "Choose the correct option and respond with its letter only.\n\n"
    return lead, f"\n{lettered(around, '({letter}) {choice}')}\nThe correct option is"


def _short(around: Surroundings) -> tuple[str, str]:
    return "Q: ", "\nState the final answer only, without an explanation.\nA:"


def _true_false(around: Surroundings) -> tuple[str, str]:
    lead = "Decide whether the proposed answer is true or false.\n\n"
    return lead, f"\nProposed answer: {around.proposed_choice}\nTrue or false?\nAnswer:"


def _stub(around: Surroundings) -> tuple[str, str]:
    call, printed = around.doctest
    lead = f'{around.signature}\n    """'
    return lead, f'\n\n    >>> {call}\n    {printed}\n    """\n'


def _numbered(around: Surroundings) -> tuple[str, str]:
    lead = f"The following is a multiple choice question about {around.topic}.\n\n"
    return lead, f"\n{lettered(around, '{n}) {choice}')}\nAnswer (1-4):"


def _problem(around: Surroundings) -> tuple[str, str]:
    return "Problem: ", "\nSolution:"


def _best(around: Surroundings) -> tuple[str, str]:
    lead = "Read the item below and mark the single best answer.\n\n"
    return lead, f"\n{lettered(around, '[{letter}] {choice}')}\nBest answer:"


def _task(around: Surroundings) -> tuple[str, str]:
    return "Task. ", "\nGive the result in a single line.\nResult:"


def _marked(around: Surroundings) -> tuple[str, str]:
    lead = "Mark the response of the candidate to the item below.\n\n"
    return lead, f"\nResponse: {around.proposed_choice}\nMark (correct or incorrect):"


def _brief(around: Surroundings) -> tuple[str, str]:
    lead = f"Examination in {around.topic}, part two.\n\n"
    return lead, "\nFull marks are awarded for a correct and concise answer.\nFinal answer:"


def _inline(around: Surroundings) -> tuple[str, str]:
    lead = "Select the response that correctly answers the item.\n\n"
    listed = lettered(around, "({letter}) {choice}", between="; ")
    return lead, f"\nPossible responses: {listed}.\nCorrect response:"


EXAM: dict[str, Frame] = {
    "exam-choices": _choices,
    "exam-letter": _letter,
    "exam-short": _short,
    "exam-true-false": _true_false,
    "exam-stub": _stub,
    "exam-numbered": _numbered,
    "exam-problem": _problem,
    "exam-best": _best,
    "exam-task": _task,
    "exam-marked": _marked,
    "exam-brief": _brief,
    "exam-inline": _inline,
}
