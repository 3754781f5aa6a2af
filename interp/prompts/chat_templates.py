"""The chat templates of the `matched` suite, in the order in which the items wear them.

The first six are worn by the first 72 items, the other six by the rest. Lead-ins and tails of the
latter are as long as those of the first six exam templates, and list options as often.
"""

from interp.prompts.surroundings import Frame, Surroundings


def _quick(around: Surroundings) -> tuple[str, str]:
    return "hey, quick one: ", " thanks!!"


def _torn(around: Surroundings) -> tuple[str, str]:
    lead = "hi, I'm stuck on something and could use a second opinion.\n\n"
    return lead, f"\n\nkeep going back and forth. {'? or '.join(around.options)}?"


def _brief(around: Surroundings) -> tuple[str, str]:
    return "Hi! ", "\n\nno need for a long explanation, I just want to know"


def _friend(around: Surroundings) -> tuple[str, str]:
    lead = "a friend and I keep disagreeing about this one.\n\n"
    return lead, f"\n\nfriend says {around.proposed}, I'm not so sure. is that right?"


def _again(around: Surroundings) -> tuple[str, str]:
    lead = "Hello again, here with another one.\n"
    tail = "\nwould be great if you could explain it a little too, so I know it myself next time"
    return lead, tail


def _guess(around: Surroundings) -> tuple[str, str]:
    first, second, third, fourth = around.options
    lead = "ok random question, there must be an obvious answer to this.\n\n"
    return lead, f"\n\nmy guess is {first} or {second}. or maybe {third}? or {fourth}, no idea"


def _between(around: Surroundings) -> tuple[str, str]:
    first, second, third, fourth = around.options
    return "so, ", f"\n\nI'm between {first}, {second}, {third} and {fourth}. help?"


def _told(around: Surroundings) -> tuple[str, str]:
    first, second, third, fourth = around.options
    lead = "sorry to bother you, I could really do with some help.\n\n"
    return lead, f"\n\nso far I've been told {first}, then {second}, then {third} and {fourth}"


def _hurry(around: Surroundings) -> tuple[str, str]:
    return "hello! ", "\n\ntyping this in a hurry so sorry for any typos in there"


def _agree(around: Surroundings) -> tuple[str, str]:
    lead = "can't make up my mind about this, maybe you know.\n\n"
    return lead, f"\n\nI'd have said {around.proposed} but what do I know. do you agree?"


def _list(around: Surroundings) -> tuple[str, str]:
    thoughts = "\n".join(f"- {option}" for option in around.options)
    return "hey so I need some help here. ", f"\n\nthings I came up with so far:\n{thoughts}"


def _family(around: Surroundings) -> tuple[str, str]:
    first, second, third, fourth = around.options
    lead = "Hello there, me again with a question, hope thats fine!\n\n"
    tail = f"\n\nmy family came up with {first}, {second}, also {third} and {fourth}. so??"
    return lead, tail


CHAT: dict[str, Frame] = {
    "chat-quick": _quick,
    "chat-torn": _torn,
    "chat-brief": _brief,
    "chat-friend": _friend,
    "chat-again": _again,
    "chat-guess": _guess,
    "chat-between": _between,
    "chat-told": _told,
    "chat-hurry": _hurry,
    "chat-agree": _agree,
    "chat-list": _list,
    "chat-family": _family,
}
