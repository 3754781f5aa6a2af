"""What a trace does not say of itself: its model, its condition, the texts of its tokens."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from interp.cache.errors import InputError
from interp.cache.records import CONDITIONS, PROMPT_FIELDS


@dataclass(frozen=True, kw_only=True)
class TraceFacts:
    """What a trace does not say of itself.

    Raises:
        InputError: If one of them cannot be.
    """

    model: str
    """Name of the model that was traced."""
    n_experts: int
    """Experts in a layer, chosen or not."""
    revision: str | None = None
    """Revision of the model; None where it is not known."""
    layers: tuple[int, ...] | None = None
    """Numbers in the model of its routed layers, rising. As many as the trace has: their names;
    fewer: which of its layers to keep. None: 0, 1, ..., and all of them."""
    condition: str | None = None
    """Condition of records that name none."""
    vocab: tuple[str, ...] = ()
    """Texts of token ids 0, 1, ...; empty where ids are of the model's own vocabulary."""

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise InputError("model is empty, expected the name of the model that was traced")
        if self.condition is not None and self.condition not in CONDITIONS:
            raise InputError(
                f"condition is {self.condition!r}, expected one of {', '.join(CONDITIONS)}"
            )
        if not 1 <= self.n_experts <= 2**16:
            raise InputError(f"n_experts is {self.n_experts}, expected 1 to {2**16}")
        if self.layers is not None and (
            not self.layers or min(self.layers) < 0 or (np.diff(self.layers) <= 0).any()
        ):
            raise InputError(f"layers is {list(self.layers)}, expected rising numbers from 0")


def prompt_fields(
    record: Mapping[str, Any],
    *,
    where: str,
    facts: TraceFacts,
    source: str,
    prompt_token_id: Sequence[int],
) -> dict[str, str]:
    """The fields of a prompt, from the record where it has them.

    `prompt_id` is a hash of the prompt's token ids, the words being unknown; `item_id` is the same
    where the record has none, so samples from one prompt are one item.

    Raises:
        InputError: If a field is no text, or no condition is known.
    """
    hashed = hashlib.sha256(json.dumps([int(each) for each in prompt_token_id]).encode())
    fields = dict.fromkeys(PROMPT_FIELDS, "") | {"source": source}
    fields |= {"prompt_id": hashed.hexdigest()[:16], "condition": facts.condition or ""}
    fields["item_id"] = fields["prompt_id"]
    for name in PROMPT_FIELDS[1:]:
        found = record.get(name)
        if found is not None and not isinstance(found, str):
            raise InputError(f"{where}: {name} is {found!r:.40}, expected a text")
        fields[name] = found or fields[name]
    if fields["condition"] not in CONDITIONS:
        found = repr(fields["condition"]) if fields["condition"] else "absent"
        raise InputError(
            f"{where}: condition is {found}; add it to the record or give --condition "
            f"({', '.join(CONDITIONS)})"
        )
    return fields


def read_vocab(file: Path | None) -> tuple[str, ...]:
    """Token texts from a JSON list, in the order of their ids; nothing where there is no file.

    Raises:
        InputError: If it holds anything else.
    """
    if file is None:
        return ()
    try:
        texts = json.loads(file.read_bytes())
        if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
            "".join(texts).encode()
            return tuple(texts)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read as a vocabulary ({error})") from error
    raise InputError(f"{file} is no vocabulary; give a JSON list of the texts of tokens 0, 1, ...")
