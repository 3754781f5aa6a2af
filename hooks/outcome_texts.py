"""What is put into the model to measure an outcome: prompts, alone or with an answer after them."""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from interp.cache.errors import InputError
from interp.cache.reader import Store
from interp.cache.records import SEGMENTS, Message, Prompt
from interp.hooks.batches import by_length
from interp.hooks.generation import generate
from interp.hooks.outcomes import OUTCOMES, ScoredText, refuse_unscored
from interp.hooks.render import PINNED_DATE, RenderedPrompt, render_prompt
from interp.hooks.settings import GenerationSettings
from interp.hooks.tap import RoutingTap

USER, FINAL = SEGMENTS.index("user"), SEGMENTS.index("final")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def outcome_texts(
    prompts: Sequence[Prompt], tokenizer: Any, *, outcome: str, today: date = PINNED_DATE
) -> list[ScoredText]:
    """The texts whose log-probabilities make an outcome; nothing is run.

    - `content`: the prompt; its own words are scored, wrapper and template are not.
    - `answer`: the prompt with its reference answer (`meta["answer_text"]`, else `meta["answer"]`)
      as the assistant's turn; the answer is scored.
    - `option`: the same with each of `meta["options"]`; right where the reference is likeliest.
    - `letter`: with A, B, ... in their place; right where `meta["answer"]` is likeliest.

    Raises:
        InputError: If the outcome is another, or a prompt has no answer or options though they are
            asked for, or no token that could be scored.
    """
    check_outcome(prompts, outcome)
    names = [prompt.prompt_id for prompt in prompts]
    texts: list[ScoredText] = []
    for index, prompt in enumerate(prompts):
        if outcome == "content":
            rendered = render_prompt(prompt, tokenizer, today=today)
            scored = np.flatnonzero(rendered.segment == USER)
            texts.append(up_to_scored(index, rendered.token_id, scored))
            continue
        for place, (answer, is_right) in enumerate(_candidates(prompt, outcome)):
            token_id, scored = _answered(prompt, answer, tokenizer, today)
            texts.append(
                ScoredText(
                    prompt=index,
                    candidate=place,
                    is_right=is_right,
                    token_id=token_id,
                    scored=scored,
                )
            )
    refuse_unscored(texts, names)
    return texts


def texts_of_store(store: Store, rows: Sequence[int]) -> list[ScoredText]:
    """The texts of outcome `content` of some prompts of a store, token for token as recorded.

    Raises:
        InputError: If the ids are the store's own, so that no model has them, or a prompt has no
            token that could be scored.
    """
    if store.layout.vocab_local:
        raise InputError(
            f"{store.path.name} numbers its tokens by itself, so they cannot be put into a model; "
            "capture the prompts with one"
        )
    ends = np.cumsum([0, *store.prompts["n_tokens"]])
    texts = []
    for index, row in enumerate(rows):
        span = slice(int(ends[row]), int(ends[row + 1]))
        asked = ~store.generated[span]
        scored = np.flatnonzero((store.segment[span] == USER) & asked)
        ids = store.token_id[span][asked].astype(np.int32)
        texts.append(up_to_scored(index, ids, scored))
    refuse_unscored(texts, [store.prompts["prompt_id"].iloc[row] for row in rows])
    return texts


def up_to_scored(
    prompt: int, token_id: Integer[np.ndarray, "tokens"], scored: Integer[np.ndarray, "scored"]
) -> ScoredText:
    """The text up to the last token that counts, which no later one can change."""
    scored = scored[scored > 0]
    ids = token_id[: scored.max(initial=0) + 1].astype(np.int32)
    return ScoredText(prompt=prompt, token_id=ids, scored=scored)


def check_outcome(prompts: Sequence[Prompt], outcome: str) -> None:
    """Refuse an outcome that is not known, or that these prompts cannot have.

    Raises:
        InputError: Naming the outcome, or the first prompt that lacks an answer.
    """
    if outcome not in OUTCOMES:
        raise InputError(f"outcome is {outcome!r}, expected one of {', '.join(OUTCOMES)}")
    if outcome in ("content", "own_answer"):
        return
    for prompt in prompts:
        lacks = _lacking(prompt, outcome)
        if lacks:
            raise InputError(
                f"outcome is {outcome!r}, but prompt {prompt.prompt_id} of source "
                f"{prompt.source!r} {lacks}; leave it out, or measure content"
            )


def _lacking(prompt: Prompt, outcome: str) -> str:
    answer = reference_answer(prompt)
    options = [str(each) for each in prompt.meta.get("options", ())]
    if not answer:
        return "has no answer in meta['answer_text'] or meta['answer']"
    if outcome in ("option", "letter") and len(options) < 2:
        return "has no options in meta['options']"
    if outcome == "option" and options.count(answer) != 1:
        return f"has the answer {answer!r}, which is not one of its options"
    letters = LETTERS[: len(options)]
    if outcome == "letter" and str(prompt.meta.get("answer", "")) not in list(letters):
        return f"has no letter of {letters} in meta['answer']"
    return ""


def reference_answer(prompt: Prompt) -> str:
    """`meta["answer_text"]`, else `meta["answer"]`, as text; empty if there is neither."""
    found = prompt.meta.get("answer_text", prompt.meta.get("answer"))
    return "" if found is None else str(found).strip()


def _candidates(prompt: Prompt, outcome: str) -> list[tuple[str, bool]]:
    right = reference_answer(prompt)
    if outcome == "answer":
        return [(right, True)]
    options = [str(each) for each in prompt.meta["options"]]
    if outcome == "letter":
        return [(a, a == prompt.meta["answer"]) for a in LETTERS[: len(options)]]
    return [(each, each == right) for each in options]


def _answered(
    prompt: Prompt, answer: str, tokenizer: Any, today: date
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of the prompt with this answer, and the positions of the answer's own tokens."""
    if prompt.messages:
        whole = replace(
            prompt, messages=(*prompt.messages, Message(role="assistant", content=answer))
        )
        rendered = render_prompt(whole, tokenizer, today=today)
        asked = np.flatnonzero(rendered.segment == USER)
        scored = np.flatnonzero(rendered.segment == FINAL)
        scored = scored[scored > asked.max(initial=0)]
        return rendered.token_id[: scored.max(initial=0) + 1], scored
    gap = "" if prompt.text[-1].isspace() else " "
    text = prompt.text + gap + answer
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ends = np.array([end for _, end in encoded["offset_mapping"]])
    return np.array(encoded["input_ids"], dtype=np.int32), np.flatnonzero(
        ends > len(prompt.text + gap)
    )


def greedy_answers(
    model: Any,
    tokenizer: Any,
    rendered: Sequence[RenderedPrompt],
    *,
    max_new_tokens: int,
    batch_tokens: int = 4096,
) -> list[RenderedPrompt]:
    """Each prompt with the model's answer, taking the likeliest token each time."""
    settings = GenerationSettings(max_new_tokens=max_new_tokens)
    lengths = [len(each.token_id) + max_new_tokens for each in rendered]
    found: dict[int, RenderedPrompt] = {}
    with RoutingTap(model, sites=("expert_indices", "expert_weights")) as tap:
        for members in by_length(lengths, batch_tokens):
            batch = [rendered[each] for each in members]
            answered = generate(
                model, tokenizer, tap, batch, settings=settings, positions="last_content"
            )
            found |= zip(members, (whole for whole, _ in answered), strict=True)
    return [found[each] for each in range(len(rendered))]


def greedy_accuracy(
    prompts: Sequence[Prompt],
    rendered: Sequence[RenderedPrompt],
    answered: Sequence[RenderedPrompt],
) -> Float[np.ndarray, "prompts"]:
    """1 where the reference answer occurs as whole words in the decoded one, case ignored."""
    said = [whole.text[len(asked.text) :] for asked, whole in zip(rendered, answered, strict=True)]
    return np.array(
        [
            float(is_said(reference_answer(prompt), text))
            for prompt, text in zip(prompts, said, strict=True)
        ]
    )


def is_said(answer: str, text: str) -> bool:
    """Whether the answer's characters occur in the text, not within a longer word or number.

    Example:
        >>> is_said("45", "That is 45 km."), is_said("45", "145"), is_said("45", "45.5")
        (True, False, False)
    """
    pattern = rf"(?<![\w.])(?<!\d,){re.escape(answer)}(?!\w)(?!\.\d)"
    return re.search(pattern, text, flags=re.IGNORECASE) is not None


def own_answer_texts(answered: Sequence[RenderedPrompt]) -> list[ScoredText]:
    """The model's own greedy answers, to be scored under interventions.

    An answer whose only token was its last one has none that could be scored, and no text.
    """
    return [
        ScoredText(prompt=index, token_id=each.token_id, scored=np.flatnonzero(each.generated))
        for index, each in enumerate(answered)
        if each.generated.any()
    ]
