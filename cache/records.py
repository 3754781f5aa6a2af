"""What crosses the borders between the floors: prompts, layouts, activations of one prompt."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped

SEGMENTS = (
    "template",
    "system",
    "developer",
    "user",
    "wrapper",
    "analysis",
    "commentary",
    "final",
    "other",
)
"""What a token belongs to; `/tokens/segment` holds positions in this tuple."""

RESID_SITES = ("resid_pre", "resid_mid", "resid_post")
ROUTER_SITES = ("expert_indices", "expert_weights", "router_logits", "expert_output_norms")
SITES = RESID_SITES + ROUTER_SITES

CONDITIONS = ("benchmark", "organic", "mixed")
PROMPT_FIELDS = ("prompt_id", "condition", "source", "domain", "item_id", "variant", "template")
"""The short fields of a prompt, in the order in which stores and tables show them."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a chat."""

    role: str
    """`system`, `developer`, `user` or `assistant`."""
    content: str
    """What was said, without any template."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One input of a model, and what is known about it.

    Raises:
        ValueError: If neither or both of `messages` and `text` are given, if they hold no text,
            if `condition` is none of `CONDITIONS`, or if `content` is not part of the prompt.
    """

    messages: tuple[Message, ...] = ()
    """The chat; rendered through the tokenizer's chat template."""
    text: str = ""
    """Plain text in place of a chat; tokenised as it stands."""
    condition: str
    """`benchmark`, `organic`, or `mixed` where wording and wrapper disagree."""
    source: str = ""
    """Dataset or suite that the prompt comes from."""
    domain: str = ""
    """What the prompt is about, such as `arithmetic`."""
    item_id: str = ""
    """Shared by all variants of one item; the unit of tests and splits. `prompt_id` if empty."""
    variant: str = ""
    """Which variant of its item this is, such as `organic-chat-sham`."""
    template: str = ""
    """Name of the wrapper's template; empty if there is none."""
    content: str = ""
    """The item's own words within the last user message; the rest of that message is wrapper.
    Empty: all of it is the item's own."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Anything else, as JSON values."""

    def __post_init__(self) -> None:
        if bool(self.messages) == bool(self.text):
            raise ValueError(
                "a prompt has either messages or text, and exactly one of them; give one"
            )
        spoken = self.text or "".join(message.content for message in self.messages)
        if not spoken.strip():
            raise ValueError("the prompt is empty; give messages or text with words in them")
        if self.condition not in CONDITIONS:
            raise ValueError(
                f"condition is {self.condition!r}, expected one of {', '.join(CONDITIONS)}"
            )
        if self.content and self.user_text.count(self.content) != 1:
            raise ValueError(
                f"content {self.content[:40]!r} occurs {self.user_text.count(self.content)} times "
                "in the last user message, expected once"
            )
        if not self.item_id:
            object.__setattr__(self, "item_id", self.prompt_id)

    @property
    def user_text(self) -> str:
        """The last user message, or `text` where the prompt is no chat."""
        spoken = [message.content for message in self.messages if message.role == "user"]
        return spoken[-1] if spoken else self.text

    @property
    def prompt_id(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of messages or text: same words, same id."""
        said = [asdict(message) for message in self.messages] or self.text
        canonical = json.dumps(said, ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes and dtypes shared by all parts of a store; the root attributes of every part."""

    n_layers: int
    """Routed layers that are stored."""
    layer_indices: tuple[int, ...]
    """Their numbers in the model, rising."""
    n_experts: int
    """Experts per layer, chosen or not."""
    top_k: int
    """Experts chosen per token."""
    d_model: int
    """Width of the residual stream; 0 where it is not known."""
    weights_sum: str = "one"
    """`one` where expert_weights sum to 1 (gpt-oss), else `family`."""
    weights_dtype: str = "float32"
    """Dtype of expert_weights and router_logits: `float16` or `float32`."""
    resid_sites: tuple[str, ...] = ()
    """Residual sites that are stored, of `RESID_SITES`."""
    resid_dtype: str = "float32"
    """`float32`, `float16` or `bfloat16`, as the model has it."""
    router_logits: bool = False
    """Whether router_logits are stored."""
    expert_output_norms: bool = False
    """Whether expert_output_norms are stored."""
    vocab_local: bool = False
    """Whether token ids are local to the store, which then carries their texts."""

    def __post_init__(self) -> None:
        if len(self.layer_indices) != self.n_layers:
            raise ValueError(
                f"layer_indices has {len(self.layer_indices)} entries, n_layers is "
                f"{self.n_layers}; give one number per routed layer"
            )
        if not 0 < self.top_k <= self.n_experts:
            raise ValueError(f"top_k is {self.top_k}, expected 1 to n_experts ({self.n_experts})")


@dataclass(frozen=True, kw_only=True)
class PromptActivations:
    """All that was recorded of one prompt; no padding, layers as in `Layout.layer_indices`."""

    prompt: Mapping[str, str]
    """The fields of `PROMPT_FIELDS`."""
    text: str
    """The rendered text that was tokenised."""
    token_id: Integer[np.ndarray, "tokens"]
    position: Integer[np.ndarray, "tokens"]
    """Position in the sequence, from 0."""
    segment: Integer[np.ndarray, "tokens"]
    """Positions in `SEGMENTS`."""
    generated: Bool[np.ndarray, "tokens"]
    logprob: Float[np.ndarray, "tokens"]
    """Log-probability in nats of this token given those before; NaN where unknown."""
    text_end: Integer[np.ndarray, "tokens"] | None = None
    """Where this token ends in `text`, in UTF-8 bytes: its own text runs from the end of the token
    before. None where the store carries a vocabulary of its own."""
    expert_indices: Integer[np.ndarray, "tokens layers top_k"]
    """By descending weight."""
    expert_weights: Float[np.ndarray, "tokens layers top_k"]
    router_logits: Float[np.ndarray, "tokens layers experts"] | None = None
    expert_output_norms: Float[np.ndarray, "tokens layers top_k"] | None = None
    """Euclidean norm of each chosen expert's output, before its weight."""
    resid_token_index: Integer[np.ndarray, "rows"] | None = None
    """Which tokens of this prompt have residuals, rising."""
    resid: Mapping[tuple[str, int], Shaped[np.ndarray, "rows d_model"]] = field(
        default_factory=dict
    )
    """By site and layer number in the model; bfloat16 as its 16 raw bits in uint16."""
