"""The exam and chat templates that the `matched` suite puts around an item's words.

Each template takes what stands around the words, never the words themselves, so that a wording
occurs in its message exactly once and unchanged. The templates of the two wrappers are paired by
the length of their lead-in (the text before the words), so that its length tells little.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

LETTERS = "ABCD"

TOPICS = {
    "code": "Python",
    "commonsense": "common sense",
    "reading": "reading comprehension",
    "advice": "everyday life",
}
"""Domains whose name does not read well within a sentence, and what an exam would call them."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a template may say about an item besides the item's own words."""

    domain: str
    """Such as `arithmetic`."""
    options: tuple[str, ...]
    """Four answers, of which one is right, as they stand within a sentence."""
    proposed: str
    """The option that a template puts up for judgement; right for half of the items."""
    signature: str
    """First line of a Python function, `def ...:`."""
    doctest: tuple[str, str]
    """A call of that function and what it prints."""

    @property
    def topic(self) -> str:
        """The domain as an exam names it in a sentence."""
        return TOPICS.get(self.domain, self.domain)

    @property
    def choices(self) -> tuple[str, ...]:
        """The options as an exam prints them: with a capital, code apart."""
        if self.domain == "code":
            return self.options
        return tuple(option[0].upper() + option[1:] for option in self.options)


Frame = Callable[[Surroundings], tuple[str, str]]
"""Gives the text before the item's words and the text after them."""


def _lettered(around: Surroundings, pattern: str) -> str:
    numbered = enumerate(zip(LETTERS, around.choices, strict=True), start=1)
    return "\n".join(pattern.format(n=n, letter=a, choice=c) for n, (a, c) in numbered)


def _exam_choices(around: Surroundings) -> tuple[str, str]:
    return "Question: ", f"\nChoices:\n{_lettered(around, '{letter}. {choice}')}\nAnswer:"


def _exam_letter(around: Surroundings) -> tuple[str, str]:
    lead = "Choose the correct option and respond with its letter only.\n\n"
    return lead, f"\n{_lettered(around, '({letter}) {choice}')}\nThe correct option is"


def _exam_short(around: Surroundings) -> tuple[str, str]:
    return "Q: ", "\nState the final answer only, without an explanation.\nA:"


def _exam_true_false(around: Surroundings) -> tuple[str, str]:
    lead = "Decide whether the proposed answer is true or false.\n\n"
    proposed = around.choices[around.options.index(around.proposed)]
    return lead, f"\nProposed answer: {proposed}\nTrue or false?\nAnswer:"


def _exam_stub(around: Surroundings) -> tuple[str, str]:
    call, printed = around.doctest
    lead = f'{around.signature}\n    """'
    return lead, f'\n\n    >>> {call}\n    {printed}\n    """\n'


def _exam_numbered(around: Surroundings) -> tuple[str, str]:
    lead = f"The following is a multiple choice question about {around.topic}.\n\n"
    return lead, f"\n{_lettered(around, '{n}) {choice}')}\nAnswer (1-4):"


def _chat_quick(around: Surroundings) -> tuple[str, str]:
    return "hey, quick one: ", " thanks!!"


def _chat_torn(around: Surroundings) -> tuple[str, str]:
    lead = "hi, I'm stuck on something and could use a second opinion.\n\n"
    return lead, f"\n\nkeep going back and forth. {'? or '.join(around.options)}?"


def _chat_brief(around: Surroundings) -> tuple[str, str]:
    return "Hi! ", "\n\nno need for a long explanation, I just want to know"


def _chat_friend(around: Surroundings) -> tuple[str, str]:
    lead = "a friend and I keep disagreeing about this one.\n\n"
    return lead, f"\n\nfriend says {around.proposed}, I'm not so sure. is that right?"


def _chat_again(around: Surroundings) -> tuple[str, str]:
    lead = "Hello again, here with another one.\n"
    tail = "\nwould be great if you could explain it a little too, so I know it myself next time"
    return lead, tail


def _chat_guess(around: Surroundings) -> tuple[str, str]:
    first, second, third, fourth = around.options
    lead = "ok random question, there must be an obvious answer to this.\n\n"
    return lead, f"\n\nmy guess is {first} or {second}. or maybe {third}? or {fourth}, no idea"


EXAM: dict[str, Frame] = {
    "exam-choices": _exam_choices,
    "exam-letter": _exam_letter,
    "exam-short": _exam_short,
    "exam-true-false": _exam_true_false,
    "exam-stub": _exam_stub,
    "exam-numbered": _exam_numbered,
}
CHAT: dict[str, Frame] = {
    "chat-quick": _chat_quick,
    "chat-torn": _chat_torn,
    "chat-brief": _chat_brief,
    "chat-friend": _chat_friend,
    "chat-again": _chat_again,
    "chat-guess": _chat_guess,
}
PROPOSING = ("exam-true-false", "chat-friend")
"""Templates that put one option up for judgement."""


def template_at(wrapper: str, number: int, *, n_templates: int = 6) -> str:
    """Name of the template that item `number` of the suite wears in `exam` or `chat`.

    The exam templates follow each other; the chat templates do too, but start one later in each
    round. So in 72 items every exam template meets every chat template exactly twice, and every
    template meets every block of 12 items (a domain) exactly twice.
    """
    frames: Sequence[str] = list({"exam": EXAM, "chat": CHAT}[wrapper])
    shift = number // n_templates if wrapper == "chat" else 0
    return frames[(number + shift) % n_templates]
