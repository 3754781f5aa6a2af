"""The values of a part: every chunk is read, and every number is what the format allows."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from interp.cache.checks import LOGPROB_TOLERANCE, check_experts, check_norms, check_weights
from interp.cache.errors import StoreError
from interp.cache.opened import OpenedPart
from interp.cache.part import resid_place
from interp.cache.records import CONDITIONS, SEGMENTS, Layout

BLOCK_TOKENS = 2**16
BLOCK_ROWS = 2**12


def check_part(part: OpenedPart, layout: Layout) -> None:
    """Read everything in a part, and refuse what no capture gives.

    Raises:
        StoreError: Naming the part, the dataset and the token.
    """
    try:
        _check_prompts(part)
        _check_tokens(part, layout)
        for start in range(0, part.n_tokens, BLOCK_TOKENS):
            rows = slice(start, min(start + BLOCK_TOKENS, part.n_tokens))
            _check_routing(part, layout, rows)
        for path, shape in part.source.shapes().items():
            _read_all(part, path, shape)
        _check_resid_index(part)
    except (KeyError, ValueError) as error:
        raise StoreError(
            f"{part.source.name}: {error}; the store holds what no capture gives"
        ) from error


def _check_prompts(part: OpenedPart) -> None:
    for number, condition in enumerate(part.fields["condition"]):
        if condition not in CONDITIONS:
            raise ValueError(
                f"prompts/condition is {condition!r} at prompt {number}, expected one of "
                f"{', '.join(CONDITIONS)}"
            )
    _check_offsets(part, "prompts/text_offset", of="prompts/text", n=len(part.offset))


def _check_offsets(part: OpenedPart, path: str, *, of: str, n: int | None = None) -> None:
    """Offsets start at 0, never fall, and end where what they divide does."""
    offset, n_bytes = part.source.read(path), part.source.shapes()[of][0]
    ends = (offset[0], offset[-1]) if len(offset) else ()
    if (n is not None and len(offset) != n) or ends != (0, n_bytes):
        raise ValueError(f"{path} does not rise from 0 to {n_bytes}")
    _expect_none(offset[1:] < offset[:-1], f"{path} falls behind entry")


def _check_tokens(part: OpenedPart, layout: Layout) -> None:
    shapes, read = part.source.shapes(), part.source.read
    names = ["token_id", "position", "segment", "generated", "logprob"]
    names += ["text_end"] if "tokens/text_end" in shapes else []
    for name in names:
        if shapes.get(f"tokens/{name}") != (part.n_tokens,):
            raise ValueError(f"tokens/{name} has not one entry for each token")
    _check_ids(part, layout)
    _check_rising(read("tokens/position"), part.offset)
    beyond = read("tokens/segment") >= len(SEGMENTS)
    _expect_none(beyond, f"tokens/segment is not 0 to {len(SEGMENTS) - 1} at token")
    above = read("tokens/logprob") > LOGPROB_TOLERANCE
    _expect_none(above, "tokens/logprob is above 0 at token")
    if "text_end" in names:
        n_text = np.diff(read("prompts/text_offset"))
        _check_text_end(read("tokens/text_end"), part.offset, n_text)


def _check_ids(part: OpenedPart, layout: Layout) -> None:
    ids = part.source.read("tokens/token_id")
    _expect_none(ids < 0, "tokens/token_id is below 0 at token")
    if layout.vocab_local:
        _check_offsets(part, "vocab/text_offset", of="vocab/text")
        n_vocab = part.source.shapes()["vocab/text_offset"][0] - 1
        beyond = f"tokens/token_id is not within the vocabulary of {n_vocab} at token"
        _expect_none(ids >= n_vocab, beyond)


def _check_rising(position: np.ndarray, offset: np.ndarray) -> None:
    """Positions rise strictly within each prompt, from 0 or more."""
    stays = np.zeros(len(position), dtype=bool)
    stays[1:] = position[1:] <= position[:-1]
    stays[offset[:-1]] = False
    _expect_none(stays | (position < 0), "tokens/position does not rise at token")


def _check_text_end(ends: np.ndarray, offset: np.ndarray, n_text: np.ndarray) -> None:
    falls = np.zeros(len(ends), dtype=bool)
    falls[1:] = ends[1:] < ends[:-1]
    falls[offset[:-1]] = False
    beyond = ends > np.repeat(n_text, np.diff(offset))
    fault = falls | beyond | (ends < 0)
    _expect_none(fault, "tokens/text_end falls or leaves its text at token")


def _expect_none(is_fault: np.ndarray, otherwise: str) -> None:
    """Name the first place where something is wrong."""
    if is_fault.any():
        raise ValueError(f"{otherwise} {np.argmax(is_fault)}")


def _check_routing(part: OpenedPart, layout: Layout, rows: slice) -> None:
    shapes = part.source.shapes()
    for path, check in _routing_checks(layout).items():
        last = layout.n_experts if path == "router/router_logits" else layout.top_k
        shape = (part.n_tokens, layout.n_layers, last)
        if shapes.get(path) != shape:
            raise ValueError(f"{path} has shape {shapes.get(path)}, expected {shape}")
        _check_each(check, part.source.read(path, rows=[rows]), start=rows.start)


def _routing_checks(layout: Layout) -> dict[str, Callable[[np.ndarray], None]]:
    """What to do with each dataset of routing that the layout has."""
    checks: dict[str, Callable[[np.ndarray], None]] = {
        "router/expert_indices": partial(check_experts, n_experts=layout.n_experts),
        "router/expert_weights": partial(check_weights, weights_sum=layout.weights_sum),
    }
    if layout.router_logits:
        checks["router/router_logits"] = _check_logits
    if layout.expert_output_norms:
        checks["experts/expert_output_norms"] = check_norms
    return checks


def _check_logits(logits: np.ndarray) -> None:
    if np.isnan(logits).any():
        raise ValueError("router_logits holds NaN")


def _check_each(check: Callable[[np.ndarray], None], values: np.ndarray, *, start: int) -> None:
    """Check all tokens at once; where that fails, find the first token at fault."""
    try:
        check(values)
    except ValueError as error:
        if len(values) == 1:
            raise ValueError(f"token {start}: {error}") from error
        half = len(values) // 2
        _check_each(check, values[:half], start=start)
        _check_each(check, values[half:], start=start + half)


def _read_all(part: OpenedPart, path: str, shape: Sequence[int]) -> None:
    """Read a dataset block by block, so that every chunk proves its checksum."""
    for rows in _blocks(shape[0] if shape else 0):
        part.source.read(path, rows=[rows])


def _blocks(n_rows: int) -> Iterator[slice]:
    for start in range(0, n_rows, BLOCK_ROWS):
        yield slice(start, min(start + BLOCK_ROWS, n_rows))


def _check_resid_index(part: OpenedPart) -> None:
    shapes = part.source.shapes()
    if "resid/token_index" not in shapes:
        n_rows = part.n_tokens
    else:
        index = part.source.read("resid/token_index")
        n_rows = len(index)
        within = f"resid/token_index does not rise within 0 to {part.n_tokens - 1} at row"
        _expect_none((index < 0) | (index >= part.n_tokens), within)
        _expect_none(index[1:] <= index[:-1], within)
    for path, shape in shapes.items():
        if resid_place(path)[0] and shape[0] != n_rows:
            raise ValueError(f"{path} has {shape[0]} rows, expected {n_rows}")
