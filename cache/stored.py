"""The activations of one prompt as a store keeps them: checked, in the file's dtypes."""

from dataclasses import dataclass

import numpy as np

from interp.cache.checks import (
    LOGPROB_TOLERANCE,
    RESID_DTYPES,
    check_experts,
    check_norms,
    check_weights,
    exact,
    expect_shape,
    index_dtype,
)
from interp.cache.records import CONDITIONS, PROMPT_FIELDS, SEGMENTS, Layout, PromptActivations


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One prompt in the dtypes of the file, checked."""

    fields: dict[str, bytes]
    text: bytes
    tokens: dict[str, np.ndarray]
    """Datasets of `/tokens`, by name."""
    router: dict[str, np.ndarray]
    """Datasets of `/router`, by name."""
    experts: dict[str, np.ndarray]
    """Datasets of `/experts`, by name."""
    resid_token_index: np.ndarray | None
    resid: dict[tuple[str, int], np.ndarray]

    @property
    def n_tokens(self) -> int:
        """Tokens of this prompt that are stored."""
        return len(self.tokens["token_id"])

    @property
    def n_bytes(self) -> int:
        """Size before compression."""
        groups = (self.tokens, self.router, self.experts, self.resid)
        return len(self.text) + sum(each.nbytes for group in groups for each in group.values())


def checked(activations: PromptActivations, layout: Layout, *, n_vocab: int) -> Stored:
    """The activations as stored; refuse what the layout or the format does not allow.

    Args:
        activations: What was recorded of one prompt.
        layout: Sizes and dtypes of the store.
        n_vocab: Entries of the store's own vocabulary; 0 where it has none.

    Raises:
        ValueError: Naming the array, what was found and what was expected.
    """
    fields, text = _fields(activations), _utf8("text", activations.text)
    tokens = _tokens(activations, layout, n_text=len(text), n_vocab=n_vocab)
    n_tokens = len(tokens["token_id"])
    index, resid = _resid(activations, layout, n_tokens=n_tokens)
    return Stored(
        fields=fields,
        text=text,
        tokens=tokens,
        router=_router(activations, layout, n_tokens=n_tokens),
        experts=_experts(activations, layout, n_tokens=n_tokens),
        resid_token_index=index,
        resid=resid,
    )


def _fields(activations: PromptActivations) -> dict[str, bytes]:
    given = dict(activations.prompt)
    if set(given) != set(PROMPT_FIELDS):
        odd = ", ".join(sorted(set(given) ^ set(PROMPT_FIELDS)))
        raise ValueError(
            f"prompt must have exactly the fields {', '.join(PROMPT_FIELDS)}; not so: {odd}"
        )
    if given["condition"] not in CONDITIONS:
        raise ValueError(
            f"condition is {given['condition']!r}, expected one of {', '.join(CONDITIONS)}"
        )
    fields = {name: _utf8(name, given[name]) for name in PROMPT_FIELDS}
    for name, value in fields.items():
        if b"\0" in value:
            raise ValueError(f"{name} is {given[name]!r}, which holds a NUL that no store can keep")
    return fields


def _utf8(name: str, value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"{name} is a {type(value).__name__}, expected a str")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} is not valid Unicode ({error.reason}); remove such characters"
        ) from error


def _tokens(
    activations: PromptActivations, layout: Layout, *, n_text: int, n_vocab: int
) -> dict[str, np.ndarray]:
    tokens = {
        "token_id": exact("token_id", activations.token_id, "<i4"),
        "position": exact("position", activations.position, "<i4"),
        "segment": exact("segment", activations.segment, "<u1"),
        "generated": exact("generated", activations.generated, "?"),
        "logprob": exact("logprob", activations.logprob, "<f4"),
    }
    if tokens["token_id"].size == 0:
        raise ValueError("the prompt has no token; a prompt needs at least one")
    if activations.text_end is not None:
        tokens["text_end"] = exact("text_end", activations.text_end, "<i4")
    for name, array in tokens.items():
        expect_shape(name, array, (tokens["token_id"].size,), "tokens")
    _check_tokens(tokens, n_vocab=n_vocab, vocab_local=layout.vocab_local)
    _check_text_end(tokens.get("text_end"), n_text=n_text, vocab_local=layout.vocab_local)
    return tokens


def _check_tokens(tokens: dict[str, np.ndarray], *, n_vocab: int, vocab_local: bool) -> None:
    ids, position, segment = tokens["token_id"], tokens["position"], tokens["segment"]
    if ids.min() < 0 or (vocab_local and ids.max() >= n_vocab):
        limit = f"0 to {n_vocab - 1}, the store's own vocabulary" if vocab_local else "0 or more"
        raise ValueError(f"token_id holds {ids.min()} to {ids.max()}, expected {limit}")
    if position[0] < 0 or (np.diff(position) <= 0).any():
        raise ValueError("position must rise from 0 or more, each token after the one before")
    if segment.max() >= len(SEGMENTS):
        raise ValueError(f"segment holds {segment.max()}, expected 0 to {len(SEGMENTS) - 1}")
    highest = np.nanmax(tokens["logprob"], initial=-np.inf)
    if highest > LOGPROB_TOLERANCE:
        raise ValueError(f"logprob holds {highest:g}; the log of a probability is not above 0")


def _check_text_end(ends: np.ndarray | None, *, n_text: int, vocab_local: bool) -> None:
    if ends is None:
        return
    if vocab_local:
        raise ValueError(
            "text_end is given, but the store has a vocabulary of its own; leave it out"
        )
    if ends[0] < 0 or ends[-1] > n_text or (np.diff(ends) < 0).any():
        raise ValueError(
            f"text_end must not fall, and stay within the {n_text} UTF-8 bytes of the text; "
            f"it runs from {ends[0]} to {ends[-1]}"
        )


def _router(
    activations: PromptActivations, layout: Layout, *, n_tokens: int
) -> dict[str, np.ndarray]:
    weights_dtype = np.dtype(layout.weights_dtype).newbyteorder("<").str
    indices = exact("expert_indices", activations.expert_indices, "<i4")
    weights = exact("expert_weights", activations.expert_weights, weights_dtype)
    shape = (n_tokens, layout.n_layers, layout.top_k)
    expect_shape("expert_indices", indices, shape, "tokens layers top_k")
    expect_shape("expert_weights", weights, shape, "tokens layers top_k")
    check_experts(indices, n_experts=layout.n_experts)
    check_weights(weights, weights_sum=layout.weights_sum)
    router = {
        "expert_indices": indices.astype(index_dtype(layout.n_experts)),
        "expert_weights": weights,
    }
    if _is_stored("router_logits", activations.router_logits, wanted=layout.router_logits):
        logits = exact("router_logits", activations.router_logits, weights_dtype)
        shape = (n_tokens, layout.n_layers, layout.n_experts)
        expect_shape("router_logits", logits, shape, "tokens layers experts")
        if np.isnan(logits).any():
            raise ValueError("router_logits holds NaN; the capture went wrong before the store")
        router["router_logits"] = logits
    return router


def _experts(
    activations: PromptActivations, layout: Layout, *, n_tokens: int
) -> dict[str, np.ndarray]:
    given = activations.expert_output_norms
    if not _is_stored("expert_output_norms", given, wanted=layout.expert_output_norms):
        return {}
    norms = exact("expert_output_norms", given, "<f4")
    shape = (n_tokens, layout.n_layers, layout.top_k)
    expect_shape("expert_output_norms", norms, shape, "tokens layers top_k")
    check_norms(norms)
    return {"expert_output_norms": norms}


def _is_stored(name: str, given: np.ndarray | None, *, wanted: bool) -> bool:
    """Whether an array that a layout may leave out is stored; it is given exactly then."""
    if (given is not None) != wanted:
        raise ValueError(
            f"{name} is {'absent' if given is None else 'given'}, but the layout has "
            f"{name}={wanted}; make them agree"
        )
    return wanted


def _resid(
    activations: PromptActivations, layout: Layout, *, n_tokens: int
) -> tuple[np.ndarray | None, dict[tuple[str, int], np.ndarray]]:
    sites = {site for site, _ in activations.resid}
    if sites != set(layout.resid_sites):
        raise ValueError(
            f"resid has the sites {sorted(sites)}, but the layout has {sorted(layout.resid_sites)}"
        )
    if not sites:
        return None, {}
    index = np.arange(n_tokens, dtype="<i8")
    if activations.resid_token_index is not None:
        index = exact("resid_token_index", activations.resid_token_index, "<i8")
    _check_resid_index(index, n_tokens)
    resid = {}
    for (site, layer), values in activations.resid.items():
        name = f"resid of {site} at layer {layer}"
        dtype = np.dtype(RESID_DTYPES[layout.resid_dtype])
        if values.dtype != dtype:
            raise ValueError(
                f"{name} has dtype {values.dtype}, expected {dtype} ({layout.resid_dtype})"
            )
        expect_shape(name, values, (len(index), layout.d_model), "rows d_model")
        resid[site, int(layer)] = np.ascontiguousarray(values)
    return index, resid


def _check_resid_index(index: np.ndarray, n_tokens: int) -> None:
    rising = index.ndim == 1 and (np.diff(index) > 0).all()
    if not rising or (index.size and (index[0] < 0 or index[-1] >= n_tokens)):
        raise ValueError(f"resid_token_index must rise within 0 to {n_tokens - 1}, each token once")
