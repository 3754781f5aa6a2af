"""The exam and chat templates that the `matched` suite puts around an item's words.

Each template takes what stands around the words, never the words themselves, so that a wording
occurs in its message exactly once and unchanged. The templates of the two wrappers are alike in the
length of their lead-in (the text before the words) and tail, so that length tells little.
"""

from collections.abc import Sequence

from interp.prompts.chat_templates import CHAT
from interp.prompts.exam_templates import EXAM
from interp.prompts.surroundings import LETTERS, Frame, Surroundings

__all__ = [
    "CHAT",
    "EXAM",
    "LETTERS",
    "PROPOSING",
    "Frame",
    "Surroundings",
    "reference_reply",
    "template_at",
]

PROPOSING = ("exam-true-false", "chat-friend", "exam-marked", "chat-agree")
"""Templates that put one option up for judgement."""
LETTER_WANTED = ("exam-choices", "exam-letter", "exam-best", "exam-inline")
"""Templates that are answered with a letter."""
ITEMS_OF_A_SET = 72
"""Items that wear the first six templates of a wrapper; all after them wear the other six."""


def template_at(wrapper: str, number: int, *, n_templates: int = 6) -> str:
    """Name of the template that item `number` of the suite wears in `exam` or `chat`.

    The exam templates follow each other; the chat templates do too, but start one later in each
    round. So every template meets every block of 12 items (a domain) of its set exactly twice, and
    in the first 72 items every exam template meets every chat template exactly twice.
    """
    frames: Sequence[str] = list({"exam": EXAM, "chat": CHAT}[wrapper])
    first = 0 if number < ITEMS_OF_A_SET else n_templates
    shift = number // n_templates if wrapper == "chat" else 0
    return frames[first + (number + shift) % n_templates]


def reference_reply(template: str, around: Surroundings, *, right: int) -> str:
    """What a right reply to this template starts with, as the template asks for it.

    A letter, a number, a judgement of what was proposed, the body of a function, or the option
    itself. Chats set no form, so theirs is the option, as it stands within a sentence.
    """
    is_proposed_right = around.proposed == around.options[right]
    if template.startswith("chat"):
        return around.options[right]
    if template in LETTER_WANTED:
        return LETTERS[right]
    replies = {
        "exam-numbered": str(right + 1),
        "exam-true-false": "True" if is_proposed_right else "False",
        "exam-marked": "correct" if is_proposed_right else "incorrect",
        "exam-stub": f"    return {_as_code(around, right)}",
    }
    return replies.get(template, around.choices[right])


def _as_code(around: Surroundings, right: int) -> str:
    return around.options[right] if around.domain == "code" else repr(around.choices[right])
