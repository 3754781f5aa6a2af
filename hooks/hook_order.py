"""Hooks of interventions come before all other hooks of a module, in an order of their own.

So taps see what was run, and it does not matter which intervention was opened first.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, cast


def put_first(hooks: Mapping[int, Any], *, mark: str, order: Sequence[str]) -> None:
    """Move the hooks that carry a mark to the front; those of one kind stay as they were.

    Args:
        hooks: Of a module, as torch keeps them.
        mark: Attribute of the hooks to move; its value has a `name`, one of `order`.
        order: Names in the order in which they are to run.
    """
    ordered = cast(OrderedDict[int, Any], hooks)
    marked = [
        (number, getattr(each, mark)) for number, each in hooks.items() if hasattr(each, mark)
    ]
    for number, _ in sorted(marked, key=lambda each: order.index(each[1].name))[::-1]:
        ordered.move_to_end(number, last=False)
